"""Embed class prompts with a text tower, for heads and for the alignment of an image encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nan_merge.core.errors import UserError
from nan_merge.data.texts import tokenise
from nan_merge.models.classification import Encoder, build_head, embed

LENGTH = 64  # tokens; longer than any prompt
BATCH = 64  # prompts


def embed_prompts(prompts: Sequence[str], tower: Encoder, folder: Path) -> np.ndarray:
    """Return unit-norm embeddings (C, d) of the prompts, tokenised with the tokenizer in the tower's folder."""
    tokens = tokenise(list(prompts), folder / "tokenizer.json", LENGTH)
    return embed(tower, tokens, by_length(tokens, BATCH))


def by_length(tokens: np.ndarray, size: int) -> list[np.ndarray]:
    """Return index batches of token rows (N, n) sorted by length, which saves computing padding (id 0)."""
    order = np.argsort((np.asarray(tokens) != 0).sum(1), kind="stable")
    return [order[start : start + size] for start in range(0, len(order), size)]


def fill_template(classes: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Return one prompt per class (Radford et al. 2021); raise UserError unless there is exactly one template."""
    if len(templates) != 1:
        raise UserError(f"`prompt:` has {len(templates)} templates; this text tower uses one; correct config/tasks.yaml")
    return [templates[0].format(name) for name in classes]


def centred_head(classes: Sequence[str], templates: Sequence[str], tower: Encoder, folder: Path) -> np.ndarray:
    """Return the head (C, d) of a task from a sentence encoder: one prompt per class, centred, unit rows."""
    return build_head(embed_prompts(fill_template(classes, templates), tower, folder))
