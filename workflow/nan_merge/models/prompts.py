"""Embed class prompts with a text tower, for heads and for the alignment of an image encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nan_merge.core.errors import UserError
from nan_merge.data.texts import tokenise
from nan_merge.models.classification import Encoder, embed

LENGTH = 64  # tokens; longer than any prompt
BATCH = 64  # prompts


def embed_prompts(prompts: Sequence[str], tower: Encoder, folder: Path) -> np.ndarray:
    """Return unit-norm embeddings (C, d) of the prompts, tokenised with the tokenizer in the tower's folder."""
    tokens = tokenise(list(prompts), folder / "tokenizer.json", LENGTH)
    return embed(tower, tokens, by_length(tokens, BATCH))


def by_length(tokens: np.ndarray, size: int, padding: int = 0) -> list[np.ndarray]:
    """Return index batches of token rows (N, n) sorted by length, which saves computing padding."""
    order = np.argsort((np.asarray(tokens) != padding).sum(1), kind="stable")
    return [order[start : start + size] for start in range(0, len(order), size)]


def fill_templates(classes: Sequence[str], templates: Sequence[str], most: int | None = None) -> list[str]:
    """Return every class in every template, class by class (Radford et al. 2021); with `most` at most as many templates.

    Raises UserError for too many templates, for none, and for a template without `{}`.
    """
    if wrong := [template for template in templates if "{}" not in template]:
        raise UserError(f"the template {wrong[0]!r} has no {{}} for the class; correct `prompt:` of the task")
    if not classes or not templates:
        raise UserError(f"{len(classes)} classes and {len(templates)} templates; expected at least one of both; correct the task")
    if most and len(templates) > most:
        raise UserError(f"`prompt:` has {len(templates)} templates; this text tower uses {most}; correct config/tasks.yaml")
    return [template.replace("{}", name) for name in classes for template in templates]
