"""Sentence encoders in the layout of sentence-transformers: a network, a pooling, perhaps dense layers, scored by retrieval.

The network and the dense layers of sub-folders are merged. Pooling, normalisation, prompts, length and similarity are those of
the base for all models of a suite; a base without modules.json gets what the library gives it, the mean of the tokens.
"""

from __future__ import annotations

from pathlib import Path

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.checkpoints.companions import copy_companions
from nan_merge.core.atomic import atomic_write
from nan_merge.core.errors import UserError
from nan_merge.layouts.canonical import MAX_RELATIVE_DISTANCE
from nan_merge.layouts.modules import check, difference
from nan_merge.models.families import causal_lm

__all__ = ["prepare"]

HARNESS = True  # `models.retrieval` runs these models


def prepare(source: Path, output: Path, base: Path | None = None, max_relative_distance: float = MAX_RELATIVE_DISTANCE) -> None:
    """Link the weights of an asset folder, and copy the companions of the base, whole or not at all.

    Weights are not read, as those of causal language models (`causal_lm.prepare`). Raises UserError for a base whose modules the
    library does not have, an expert whose modules differ from those of the base, a dense layer without weights, and as
    `causal_lm.prepare` does.
    """
    model = causal_lm.opened(source)
    if base is None:
        check(source, model)
        return causal_lm.prepare(source, output)
    if found := difference(source, base):
        raise UserError(
            f"{source}: {found}. Expected the same, since base, experts and merges are scored with those of the base. Correct"
            " `experts:` of the suite, or take as `base:` a model with these modules"
        )
    if causal_lm.has_tokenizer(source):
        causal_lm.check_tokenizer(source, base)
    check(base, model)
    with atomic_write(output) as part:
        part.mkdir(parents=True)
        copy_companions(base, part, [*model.shards, *Checkpoint(base).shards])
        causal_lm.link_weights(model, part)
