"""Draw the rows of each split of a task from the splits that a data set comes with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

SEED = 0
ORDER = ("test", "validation", "alignment", "train")  # who takes first what is scarce


def draw_rows(origin: Mapping[str, str], wanted: Mapping[str, int], rows: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return the rows of the source's split that go into each split.

    A split that is wanted whole and shares its source's split with no other has all rows in their order. Else rows are
    drawn with seed 0: train from the front of a permutation, the others from its end, so that no row is in two splits and
    train stays when validation grows. What is scarce goes to test first, to train last. A drawn test is sorted.
    """
    taken: dict[str, np.ndarray] = {}
    for source in dict.fromkeys(origin.values()):
        sharing = [split for split in ORDER if origin.get(split) == source and split in wanted]
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
    """Return how many rows could be trained on: those of train's source that no other split has."""
    if "train" not in origin:
        return 0
    return counts[origin["train"]] - sum(len(taken[s]) for s in taken if s != "train" and origin[s] == origin["train"])
