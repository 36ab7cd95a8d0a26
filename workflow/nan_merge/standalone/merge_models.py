"""Merge models without a suite: find, unify, measure, estimate, merge and document them in one process.

torch is imported only for a device or a file that needs it: for a small model start-up dominates.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nan_merge.checkpoints.safetensors_file import DTYPES
from nan_merge.core.blocks import compute_type
from nan_merge.core.disk import check_space
from nan_merge.core.errors import UserError
from nan_merge.core.progress import Passes
from nan_merge.engine.devices import device
from nan_merge.engine.measure import EXPERTS_PER_PASS, norms, thresholds
from nan_merge.engine.request import MergeRequest
from nan_merge.layouts.adapters import is_adapter
from nan_merge.layouts.unify import Models, check_distinct, unify_layout
from nan_merge.methods.coefficients import WITHOUT_NORMS, CoefficientTable
from nan_merge.methods.recipe import DEFAULTS, Recipe, bind, operator_of
from nan_merge.standalone.documented_merge import merge_and_document
from nan_merge.standalone.mergekit_export import check_names, export
from nan_merge.standalone.model_card import PROVENANCE
from nan_merge.standalone.sources import Source, find

TYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"}
PRINTED_ROWS = 8  # of a coefficient table


@dataclass(frozen=True)
class OwnModels:
    """Models of one's own and how to merge them, as on the command line."""

    base: str  # folder or hub id
    experts: Mapping[str, str]  # folders or hub ids by name
    method: str
    method_spec: Mapping[str, Any]  # operators by stage
    output: Path  # folder of the merged model
    about: Mapping[str, Any] = field(default_factory=dict)  # of the config; `label` and `reference` are documented
    exclude: Sequence[str] = ()  # regular expressions of tensors left at the base
    vocabulary: str = "truncate"  # see `unify_layout`, as for `missing`
    missing: str = "error"
    dtype: str | None = None  # type of all floats of the output, a key of TYPES; None keeps those of the base
    device: str = "cpu"  # see `devices.device`
    threads: int = 1
    seed: int = 0
    overwrite: bool = False  # whether an older merge at `output` is replaced
    export: Path | None = None  # file for a mergekit config with the coefficients
    settings: Sequence[str] = ()  # assignments of `--set`, which `method_spec` has already


def run(own: OwnModels) -> None:
    """Merge, print coefficients and notes, and leave a documented model in `own.output`.

    Raises UserError for all that the user can correct, before long work begins where that is possible.
    """
    started = time.monotonic()
    recipe = bind(own.method_spec, own.method)
    device(own.device)  # an unknown one is an error before anything is read
    check_output(own.output, own.overwrite)
    sources = {"base": find(own.base), **{name: find(model) for name, model in sorted(own.experts.items())}}
    check_inputs(own.output, sources)
    experts = {name: source.folder for name, source in sources.items() if name != "base"}
    models = unify_layout(sources["base"].folder, experts, own.exclude, vocabulary=own.vocabulary, missing=own.missing)
    check_distinct(models)
    written = output_bytes(models, own.dtype)
    check_space(own.output, written, "the merged model", "free some, choose another --output or a smaller --dtype")
    _introduce(sources, models)
    measured = operator_of(own.method_spec.get("coefficients", DEFAULTS["coefficients"]), "coefficients")[0] not in WITHOUT_NORMS
    with Passes(passes_bytes(models, recipe, measured) + copied_bytes(models) + written) as progress:
        table = _table(models, recipe, measured, own.threads, progress)
        progress.print(f"coefficients of {own.method}:\n{show(table)}")
        if own.export:
            own.export.write_text(_mergekit(own, sources, models, table), encoding="utf-8")
        cuts = _thresholds(models, recipe, own.threads, progress)
        dtype = DTYPES[TYPES[own.dtype]] if own.dtype else None
        request = MergeRequest(models, recipe, table, cuts, seed=own.seed, dtype=dtype)
        progress.begin("merge")
        merge_and_document(
            request, sources, _about(own), own.output, threads=own.threads, device_name=own.device, progress=progress
        )
    print(f"{own.output}: written in {time.monotonic() - started:.1f} s")


def check_output(output: Path, overwrite: bool) -> None:
    """Raise a UserError if the output exists, unless it is an older merge that may be overwritten."""
    if not output.exists() and not output.is_symlink():
        return
    if not overwrite:
        raise UserError(f"{output}: exists already; choose another --output, or add --overwrite to replace it")
    if not output.is_dir() or output.is_symlink() or (any(output.iterdir()) and not (output / PROVENANCE).is_file()):
        raise UserError(
            f"{output}: is no merged model (it has no {PROVENANCE}); only merged models are overwritten. Remove it by hand"
        )


def check_inputs(output: Path, sources: Mapping[str, Source]) -> None:
    """Raise a UserError if the output would replace an input, or if two inputs are one model."""
    seen: dict[Path, str] = {}
    for name, source in sources.items():
        folder = source.folder.resolve()
        if output.resolve() in (folder, *folder.parents):
            raise UserError(f"{output}: would replace the input '{name}' ({source.given}); choose another --output")
        if folder in seen:
            raise UserError(f"'{name}' and '{seen[folder]}' are the same model, {source.given}; leave one out")
        seen[folder] = name


def output_bytes(models: Models, dtype: str | None) -> int:
    """Return the size of the tensors of the output."""
    size = DTYPES[TYPES[dtype]].itemsize if dtype else None
    entries = models.base.entries.values()
    return sum(e.size * (size if size is not None and e.is_float else DTYPES[e.dtype].itemsize) for e in entries)


def read_bytes(models: Models) -> list[int]:
    """Return the bytes that one pass over the merged tensors reads of the base and of each expert."""
    return [sum(DTYPES[c.entries[name].dtype].itemsize * c.entries[name].size for name in models.merged) for c in models.all]


def passes_bytes(models: Models, recipe: Recipe, measured: bool) -> int:
    """Return an upper bound of the bytes read by all passes: norms if they are measured, thresholds, the merge."""
    base, *experts = read_bytes(models)
    total = (measured + 1) * (base + sum(experts))
    if recipe.requirements.get("thresholds", {"density": 1.0})["density"] >= 1:
        return total
    counts = max(compute_type(models.base.entries[name].dtype).itemsize for name in models.merged) // 2  # 16 bits a pass
    return total + counts * (sum(experts) + math.ceil(len(experts) / EXPERTS_PER_PASS) * base)


def copied_bytes(models: Models) -> int:
    """Return the bytes of the base that are copied unchanged."""
    merged = set(models.merged)
    return sum(DTYPES[e.dtype].itemsize * e.size for name, e in models.base.entries.items() if name not in merged)


def _table(models: Models, recipe: Recipe, measured: bool, threads: int, progress: Passes) -> CoefficientTable:
    """Return the coefficients; norms are measured only for a rule that needs them."""
    if measured:
        progress.begin("norms")
        return recipe.estimate(norms(models, threads=threads, progress=progress))
    zeros = [0.0] * len(models.experts)
    unmeasured = {name: {"weights": zeros, "task_vector": zeros} for name in models.merged}
    table = recipe.estimate({"experts": list(models.experts), "tensors": unmeasured})
    return dataclasses.replace(table, norms={})


def _thresholds(models: Models, recipe: Recipe, threads: int, progress: Passes) -> Mapping[str, Mapping[str, float]]:
    if "thresholds" not in recipe.requirements:
        return {}
    progress.begin("thresholds")
    return thresholds(models, **recipe.requirements["thresholds"], threads=threads, progress=progress)


def _introduce(sources: Mapping[str, Source], models: Models) -> None:
    """Print the models and the notes on their layouts."""
    if len(models.experts) == 1:
        print("warning: one expert only; the merge is a step from the base towards it", file=sys.stderr)
    for name, source in sources.items():
        print(f"{name}: {source.pinned}")
    for note in models.notes:
        print(f"note: {note}")


def show(table: CoefficientTable) -> str:
    """Return a coefficient table as plain text: every row, or the first ones and their spread."""
    rows = {name: list(values) for name, values in table.rows.items()}
    lines = list(rows.items())[:PRINTED_ROWS]
    if len(rows) > 1:
        columns = list(zip(*rows.values(), strict=True))
        lines += [(f"smallest of {len(rows)}", [min(column) for column in columns])]
        lines += [(f"mean of {len(rows)}", [sum(column) / len(rows) for column in columns])]
        lines += [(f"largest of {len(rows)}", [max(column) for column in columns])]
    elif table.norms:
        lines += [("norm", list(next(iter(table.norms.values()))))]
    cells = [["", *table.experts], *([name, *(f"{value:.6g}" for value in values)] for name, values in lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    text = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]) for line in cells
    ]
    if len(rows) > PRINTED_ROWS:
        text.insert(PRINTED_ROWS + 1, f"... {len(rows) - PRINTED_ROWS} more {table.scope}s, all in {PROVENANCE}")
    return "\n".join(text)


def _mergekit(own: OwnModels, sources: Mapping[str, Source], models: Models, table: CoefficientTable) -> str:
    places = {name: source.pinned for name, source in sources.items()}
    check_names(list(places.values()))
    for name, source in sources.items():
        if is_adapter(source.folder):
            places[name] = f"{places['base']}+{places[name]}"  # mergekit's name of an adapter on the base
    return export(own.method_spec, table, models, places, own.dtype)


def _about(own: OwnModels) -> dict[str, Any]:
    """Return the entries of provenance.json that describe the method and the command line."""
    return {
        "name": own.output.resolve().name,
        "method": own.method,
        **{key: own.about[key] for key in ("label", "reference") if key in own.about},
        "method_spec": dict(own.method_spec),
        "set": list(own.settings),
        "exclude": list(own.exclude),
        "vocabulary": own.vocabulary,
        "missing": own.missing,
        "dtype": own.dtype,
    }
