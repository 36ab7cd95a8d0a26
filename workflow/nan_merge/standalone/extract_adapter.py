"""Extract a LoRA adapter from a full fine-tune: factors of its matrices, and whole what is no matrix or a table."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nan_merge.checkpoints.checkpoint import module_of, write_tensors
from nan_merge.core.atomic import atomic_write, exclusive
from nan_merge.core.blocks import LAYER_RE
from nan_merge.core.errors import UserError, advice_for_arguments, advice_for_options, as_user_errors
from nan_merge.core.files import write_json
from nan_merge.core.parallel import available_processors
from nan_merge.core.versions import versions
from nan_merge.engine.extraction import extract, moved
from nan_merge.engine.low_rank import LowRankMerge
from nan_merge.layouts.adapter_configs import CONFIG, lora_config
from nan_merge.layouts.adapters import PREFIX, WEIGHTS, is_adapter
from nan_merge.layouts.names import HEAD, config, transposed
from nan_merge.layouts.renames import in_memory
from nan_merge.layouts.ties import SHARED, head_of, tied_embedding
from nan_merge.layouts.unify import Models, check_distinct, unify_layout
from nan_merge.standalone.model_card import PROVENANCE
from nan_merge.standalone.outputs import Inputs, check_inputs
from nan_merge.standalone.sources import Source, find

TABLE = re.compile(r"emb|bias|pos|token_type|segment|^w[tp]e$|table")  # in the last part of a module's name: a table, no matrix


@dataclass(frozen=True)
class Extracted:
    """An adapter that was written."""

    output: Path
    adapter: dict[str, Any]  # modules, ranks, number of whole tensors and relative error
    notes: tuple[str, ...]  # what was done to bring the model into the layout of the base


@advice_for_arguments()
def extract_adapter(
    base: str | Path, model: str | Path, output: str | Path, *, rank: int | None = None, energy: float | None = None, **how: Any
) -> Extracted:
    """Write the difference of a fine-tuned model from its base as an adapter folder of PEFT, as `nan-merge extract-adapter` does.

    `rank` is that of every matrix, `energy` the share of every matrix' squared norm that is kept; one of both is stated. `how` is
    `threads`. Raises UserError for all that the caller can correct.
    """
    return run(str(base), str(model), Path(output), rank=rank, energy=energy, **how)


@advice_for_options()
def run(
    base: str, model: str, output: Path, *, rank: int | None = None, energy: float | None = None, threads: int | None = None
) -> Extracted:
    """Extract, and leave the adapter in the folder `output`; see `extract_adapter`."""
    if (rank is None) == (energy is None):
        raise UserError("--rank, --energy: expected one of both, the rank of every matrix or the share of its squared norm")
    if energy is not None and not 0 < energy <= 1:
        raise UserError(f"--energy {energy}: expected a share of the squared norm, above 0 and at most 1")
    if rank is not None and (not isinstance(rank, int) or isinstance(rank, bool) or rank < 1):
        raise UserError(f"--rank {rank}: expected a whole number from 1")
    with as_user_errors(), exclusive(output.resolve()):
        if os.path.lexists(output):
            raise UserError(f"{output}: exists already; choose another --output")
        sources = {"base": find(base), "model": find(model)}
        inputs = Inputs.of({name: source.folder for name, source in sources.items()})
        check_inputs(output, sources, inputs)
        if is_adapter(sources["model"].folder):
            raise UserError(f"{model}: is an adapter already; expected a whole model that was fine-tuned from {base}")
        models = unify_layout(sources["base"].folder, {"model": sources["model"].folder})
        check_distinct(models)
        found, whole = _extracted(models, rank, energy, threads or available_processors())
        inputs.check()
        ranks = [len(factors.a) for factors in found.factors.values()]
        about = {"modules": len(ranks), "ranks": [min(ranks), max(ranks)], "whole": len(whole), "error": found.error()}
        record = {
            "inputs": {name: source.pinned for name, source in sources.items()}, "rank": rank, "energy": energy, "adapter": about,
            "errors": found.errors(), "stored_whole": whole, "notes": list(models.notes), "versions": versions(),
        }  # fmt: skip
        _write(output, models, found, whole, sources["base"], record)
    return Extracted(output, about, models.notes)


def _extracted(models: Models, rank: int | None, energy: float | None, threads: int) -> tuple[LowRankMerge, list[str]]:
    """Return the factors of the matrices that the model moves, and the names of what it moves besides.

    Raises UserError for an embedding that encoder and decoder share, of which PEFT replaces one use alone, and for modules of
    sentence-transformers in sub-folders.
    """
    folder, names = models.experts["model"].folder, moved(models, threads=threads)
    matrices = [name for name in names if _is_matrix(name, models)]
    if shared := [name for name in names if name.endswith(SHARED)]:
        raise UserError(
            f"{folder}: moves '{shared[0]}', which encoder and decoder share; PEFT would replace one use of it alone. Keep the"
            " model whole"
        )
    if parts := [name for file, inside in models.base.shards.items() if module_of(file) for name in inside if name in names]:
        raise UserError(
            f"{folder}: moves '{parts[0]}', of a module of sentence-transformers behind the network, which an adapter of the"
            " network cannot hold; keep the model whole"
        )
    if not matrices:
        raise UserError(f"{folder}: differs from its base in no matrix of a linear layer, so nothing is factored; keep it whole")
    sizes = {name: min(models.base.shape(name)) for name in matrices}
    largest = max(matrices, key=sizes.__getitem__)
    if rank is not None and rank > sizes[largest]:
        raise UserError(
            f"--rank {rank}: above the size of every matrix, the largest being '{largest}' {list(models.base.shape(largest))};"
            f" expected from 1 to {sizes[largest]}"
        )
    factors = extract(models, matrices, rank=rank, energy=1.0 if energy is None else energy, threads=threads)
    return LowRankMerge(factors), [name for name in names if name not in factors]


def _is_matrix(name: str, models: Models) -> bool:
    """Return whether a tensor is, by its name and shape, the weight of a linear layer: in a block, or a head."""
    module = name.removesuffix(".weight")
    inside = bool(LAYER_RE.match(name)) and not TABLE.search(module.rpartition(".")[2])
    return name != module and len(models.base.shape(name)) == 2 and (inside or bool(HEAD.search(name)))


def _names(models: Models) -> dict[str, str]:
    """Return the names of the expert's tensors in memory, by those of the base."""
    rename = in_memory(config(models.base))
    stored = {name: getattr(entry, "name", name) for name, entry in models.experts["model"].entries.items()}
    return {name: rename(own) for name, own in stored.items()}


def _with_head(whole: Sequence[str], names: Mapping[str, str], models: Models) -> dict[str, str]:
    """Return whole tensors by their names in memory; a head that is tied to one of them is a tensor of its own."""
    found = {names[name]: name for name in whole}
    for name in whole:
        shape = models.base.shape(name)
        if len(shape) == 2 and tied_embedding(models.base, shape) == name and (head := head_of(name, config(models.base))):
            found[head] = name
    return found


def _write(
    output: Path, models: Models, found: LowRankMerge, whole: Sequence[str], source: Source, record: Mapping[str, Any]
) -> None:
    """Write the folder whole or not at all: adapter_config.json, weights and provenance.json."""
    names = _names(models)
    ranks = {names[name].removesuffix(".weight"): len(factors.a) for name, factors in found.factors.items()}
    tensors: dict[str, np.ndarray] = {}
    for name, factors in found.factors.items():
        for side, values in (("A", factors.a), ("B", factors.b)):
            tensors[f"{PREFIX}{names[name].removesuffix('.weight')}.lora_{side}.weight"] = values.astype(np.float32)
    kept = _with_head(whole, names, models)
    saved = {key.rpartition(".")[0] for key in kept if key.endswith(".weight")}
    kept |= {key: name for name, key in names.items() if key.rpartition(".")[0] in saved}  # PEFT asks for whole modules
    for key, name in kept.items():
        module, _, leaf = key.rpartition(".")
        tensors[f"{PREFIX}{module}.{'base_layer.' if module in ranks else ''}{leaf}"] = models.experts["model"].read(name)
    settings = lora_config(
        ranks, base_model_name_or_path=source.repo or source.given, revision=source.commit, modules_to_save=sorted(saved) or None,
        bias="all" if any(key.endswith("bias") for key in kept) else "none",
        fan_in_fan_out=bool(transposed(config(models.base), models.base.entries) & found.factors.keys()),
    )  # fmt: skip
    with atomic_write(output) as part:
        part.mkdir()
        write_json(part / CONFIG, settings)
        write_tensors(part / WEIGHTS[0], tensors)
        write_json(part / PROVENANCE, record)
