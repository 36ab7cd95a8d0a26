"""Embed class prompts with a text tower: the same for heads and for the alignment of an image encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from merging.classification import embed
from merging.data.texts import tokenise
from merging.evaluate import text_encoder

LENGTH = 64  # tokens; longer than any prompt
BATCH = 64


def embed_prompts(prompts: Sequence[str], tower: text_encoder.Encoder, folder: Path) -> np.ndarray:
    """Return unit-norm embeddings (C, d) of the prompts, tokenised with the tokenizer in the tower's folder."""
    tokens = tokenise(list(prompts), folder / "tokenizer.json", LENGTH)
    return embed(tower, tokens, text_encoder.batches(tokens, BATCH))
