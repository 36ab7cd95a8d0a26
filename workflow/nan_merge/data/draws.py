"""Draw the rows of each split of a task from the splits of its source."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

SEED = 0  # of the draws: a data set is the same for every seed of the fine-tuning
SPLIT_ORDER = ("test", "validation", "alignment", "train")  # priority when examples are scarce


def draw_rows(origin: Mapping[str, str], wanted: Mapping[str, int], rows: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return, for each split of the sizes `wanted`, rows of its `origin`, a split of the source with so many `rows`.

    A split that uses its source's split alone and wants at least its size gets all rows in order. Otherwise rows are drawn
    with seed 0: train from the front of a permutation, the others from its end, so splits are disjoint and train does not
    change when validation grows. Scarce rows go to test first and to train last. A drawn test is sorted.
    """
    taken: dict[str, np.ndarray] = {}
    for source in dict.fromkeys(origin.values()):
        sharing = [split for split in SPLIT_ORDER if origin.get(split) == source and split in wanted]
        if len(sharing) == 1 and wanted[sharing[0]] >= rows[source]:
            taken[sharing[0]] = np.arange(rows[source])
            continue
        left = np.random.default_rng(SEED).permutation(rows[source])
        for split in sharing:
            count = min(wanted[split], len(left))
            part, left = (left[:count], left) if split == "train" else (left[len(left) - count :], left[: len(left) - count])
            taken[split] = np.sort(part) if split == "test" else part
    return {split: taken[split] for split in wanted}


def available_rows(origin: Mapping[str, str], taken: Mapping[str, np.ndarray], counts: Mapping[str, int]) -> int:
    """Return the number of rows available for training: rows of train's source in no other split."""
    if "train" not in origin:
        return 0
    return counts[origin["train"]] - sum(len(taken[s]) for s in taken if s != "train" and origin[s] == origin["train"])
