"""Causal language models: folders that transformers loads, with tokenizer; lm_eval loads and runs them (`models.harness`).

Their layout is canonical already as far as a merge needs it (`layouts.unify` renames, folds and cuts as it reads), so weights are
linked, not copied: a model of 13 billion parameters has 26 GB.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nan_merge.checkpoints.checkpoint import INDEX, PICKLE_INDEX, Checkpoint
from nan_merge.checkpoints.companions import copy_companions
from nan_merge.core.atomic import atomic_write
from nan_merge.core.errors import UserError
from nan_merge.core.text import read_mapping
from nan_merge.layouts.canonical import MAX_RELATIVE_DISTANCE
from nan_merge.layouts.names import join_first
from nan_merge.layouts.quantisation import refuse_gguf, refuse_quantised

HARNESS = True  # runs these models for scores: a family with it has no heads and no `batches`
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")  # one of these makes a tokenizer


def prepare(source: Path, output: Path, base: Path | None = None, max_relative_distance: float = MAX_RELATIVE_DISTANCE) -> None:
    """Link the weights of an asset folder and copy config, tokenizer and the other companions, whole or not at all.

    Weights are not read: what measures and merges them checks names, shapes, and NaN, and `max_relative_distance` is not used.
    Raises UserError for a GGUF file or packed weights, a missing tokenizer, and one with other numbers than the base's.
    """
    opened(source)
    if not has_tokenizer(source):
        raise UserError(
            f"{source}: no tokenizer; expected {', '.join(TOKENIZERS)}, or one of them. Name its files in `members:`"
            " of the asset in config/assets.yaml, and lock it again"
        )
    if base is not None:
        check_tokenizer(source, base)
    link(source, output)


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder has a file that makes a tokenizer."""
    return any((folder / name).is_file() for name in TOKENIZERS)


def link(source: Path, output: Path, base: Path | None = None) -> None:
    """Link weights and copy companions, those that only `base` has too, whole or not at all.

    Raises UserError for a GGUF file or packed weights.
    """
    model = opened(source)
    with atomic_write(output) as part:
        part.mkdir(parents=True)
        for folder in [source] if base is None else [base, source]:
            copy_companions(folder, part, model.shards)
        link_weights(model, part)


def link_weights(model: Checkpoint, part: Path) -> None:
    """Link the weight files of a model into a folder, with their index."""
    for name in [*model.shards, *(index for index in (INDEX, PICKLE_INDEX) if (model.folder / index).is_file())]:
        (part / name).parent.mkdir(exist_ok=True)
        _link(model.folder / name, part / name)


def opened(source: Path) -> Checkpoint:
    """Open a model; raise UserError for a GGUF file, packed weights and a damaged config.json."""
    refuse_gguf(source, "the model")
    model = refuse_quantised(Checkpoint(source), "the model", [])
    read_mapping(source / "config.json")
    return model


def dequantise(source: Path, output: Path) -> None:
    """Write the model of the one GGUF file of a folder, with its tokenizer, as a folder of plain float32 weights.

    transformers unpacks the weights; it writes none that it calls quantised, so they move into a model made of the config.
    Raises UserError for a folder with no GGUF file or several, and for a file that transformers cannot read.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    files = sorted(file.name for file in source.glob("*.gguf"))
    if len(files) != 1:
        raise UserError(
            f"{source}: expected one GGUF file for `dequantise: true` of the suite, found {join_first(files) or 'none'}"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=files[0])
        packed = AutoModelForCausalLM.from_pretrained(source, gguf_file=files[0], dtype="float32")
    except (OSError, ValueError, KeyError, ImportError, NotImplementedError) as error:
        first = str(error).strip().splitlines()[:1]
        raise UserError(f"{source / files[0]}: transformers cannot unpack it: {''.join(first)}") from None
    if hasattr(config := packed.config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(packed.state_dict())
    with atomic_write(output) as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)


def load(folder: Path) -> tuple[Any, Any]:
    """Return a model and its tokenizer, for training."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype="float32"), tokenizer


def check_tokenizer(expert: Path, base: Path) -> None:
    """Raise a UserError if a token has another number in the tokenizer of an expert than in that of its base.

    Tokens that only one of them has are no fault: rows that the base lacks are cut or filled (`merge: vocabulary:`).
    """
    mine, others = tokens(expert), tokens(base)
    names = {number: token for token, number in others.items()}
    wrong = [
        f"{token!r} is {number}, not {others[token]}" if token in others else f"{number} is {token!r}, not {names[number]!r}"
        for token, number in sorted(mine.items(), key=lambda each: each[1])
        if others.get(token, number) != number or names.get(number, token) != token
    ]
    if wrong:
        raise UserError(
            f"{expert}: its tokenizer differs from that of the base {base} in {len(wrong)} tokens: {join_first(wrong)}; expected"
            " the same numbers, since rows of embeddings are merged by them. Correct `base:` or `experts:` of the suite"
        )


def tokens(folder: Path) -> Mapping[str, int]:
    """Return the number of every token of the tokenizer in a folder."""
    from transformers import AutoTokenizer

    try:
        return dict(AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False).get_vocab())
    except (OSError, ValueError, ImportError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"{folder}: transformers cannot read its tokenizer: {first}; fetch the model again") from None


def _link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where source and target are on different file systems."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
