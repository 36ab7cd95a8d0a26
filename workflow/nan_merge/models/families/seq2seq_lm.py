"""Language models of an encoder and a decoder, such as T5: folders that transformers loads; lm_eval runs them (`models.harness`).

Weights are linked, as those of causal language models are. An expert may be a LoRA adapter, which is folded into its base.
"""

from __future__ import annotations

import functools
from pathlib import Path

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.checkpoints.companions import copy_companions
from nan_merge.core.errors import UserError
from nan_merge.core.text import read_mapping
from nan_merge.layouts import canonical
from nan_merge.layouts.adapters import fold_adapter, is_adapter
from nan_merge.layouts.canonical import MAX_RELATIVE_DISTANCE
from nan_merge.models.families import causal_lm

__all__ = ["prepare"]

HARNESS = True  # runs these models


def prepare(source: Path, output: Path, base: Path | None = None, max_relative_distance: float = MAX_RELATIVE_DISTANCE) -> None:
    """Link the weights of an asset folder and copy its companions, or fold an adapter into its `base`, whole or not at all.

    An expert without a tokenizer gets that of the base. Raises UserError for a model without a decoder behind an encoder, as
    `causal_lm.prepare` does, and for an adapter of another base or farther from it than `max_relative_distance`.
    """
    if base is not None and is_adapter(source):
        return _fold(source, output, base, max_relative_distance)
    if not read_mapping(source / "config.json").get("is_encoder_decoder"):
        raise UserError(
            f"{source}/config.json: is_encoder_decoder is not true; family seq2seq_lm expects an encoder with a decoder, such as"
            " T5; choose another `family:` (causal_lm), or correct `base:` or `experts:` of the suite"
        )
    if base is not None and not causal_lm.has_tokenizer(source):
        return causal_lm.link(source, output, base)
    causal_lm.prepare(source, output, base)


def _fold(adapter: Path, output: Path, base: Path, max_relative_distance: float) -> None:
    """Write an adapter and its base as one model, with the companions of the base."""
    origin, config = Checkpoint(base), read_mapping(base / "config.json")
    folded, note = fold_adapter(adapter, origin)
    print(f"{adapter}: {note}")
    before, after = (canonical.SourceModel(each.folder, each.entries, config) for each in (origin, folded))
    add = functools.partial(copy_companions, base)
    canonical.write(canonical.match_base(after, before), output, before, max_relative_distance, add=add)
