"""Merge models without a suite: find, align, measure, estimate, merge and document them in one process.

torch is loaded only for a device or a file that needs it: for a small model the start-up is the merge.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
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
from nan_merge.core.versions import versions
from nan_merge.engine.devices import device
from nan_merge.engine.measure import EXPERTS_PER_PASS, norms, thresholds
from nan_merge.engine.merge import merge
from nan_merge.layouts.adapters import is_adapter
from nan_merge.layouts.unify import Models, check_distinct, unify_layout
from nan_merge.methods.coefficients import WITHOUT_NORMS, CoefficientTable
from nan_merge.methods.recipe import DEFAULTS, Recipe, bind, operator_of
from nan_merge.standalone.mergekit_export import adapter_of, check_names, export
from nan_merge.standalone.model_card import PROVENANCE, document, origin
from nan_merge.standalone.sources import Source, find

TYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"}
SHOWN = 8  # rows of a coefficient table that are printed


@dataclass(frozen=True)
class MergeRequest:
    """One merge as the user asked for it: `base` and `experts` (by name) are folders or hub ids."""

    base: str
    experts: Mapping[str, str]
    method: str
    method_spec: Mapping[str, Any]
    output: Path
    about: Mapping[str, Any] = field(default_factory=dict)  # label and reference of the method
    exclude: Sequence[str] = ()
    vocabulary: str = "truncate"
    missing: str = "error"
    dtype: str | None = None
    device: str = "cpu"
    threads: int = 1
    seed: int = 0
    overwrite: bool = False
    export: Path | None = None
    options: Sequence[str] = ()  # the words of the command line that, besides the models, decide what comes out


def run(job: MergeRequest) -> None:
    """Make the merge, print coefficients and notes on the way, and leave a documented model in `job.output`.

    Raises UserError for whatever the user can mend, before anything long begins where that is possible.
    """
    started = time.monotonic()
    recipe, place = bind(job.method_spec, job.method), device(job.device)
    check_output(job.output, job.overwrite)
    sources = {"base": find(job.base), **{name: find(given) for name, given in sorted(job.experts.items())}}
    check_inputs(job.output, sources)
    experts = {name: source.folder for name, source in sources.items() if name != "base"}
    models = unify_layout(sources["base"].folder, experts, job.exclude, vocabulary=job.vocabulary, missing=job.missing)
    check_distinct(models)
    written = output_bytes(models, job.dtype)
    check_space(job.output, written, "the merged model", "free some, choose another --output or a smaller --dtype")
    _introduce(sources, models)
    measured = operator_of(job.method_spec.get("coefficients", DEFAULTS["coefficients"]), "coefficients")[0] not in WITHOUT_NORMS
    with Passes(passes_bytes(models, recipe, measured) + copied_bytes(models) + written) as progress:
        table = _table(models, recipe, measured, job.threads, progress)
        progress.print(f"coefficients of {job.method}:\n{show(table)}")
        if job.export:
            job.export.write_text(_mergekit(job, sources, models, table), encoding="utf-8")
        cuts = _thresholds(models, recipe, job.threads, progress)

        def finish(folder: Path, inputs: Mapping[str, str]) -> None:
            document(folder, _record(job, sources, models, table, cuts, inputs))

        progress.begin("merge")
        how: dict[str, Any] = {"seed": job.seed, "threads": job.threads, "device": place, "progress": progress}
        dtype = DTYPES[TYPES[job.dtype]] if job.dtype else None
        merge(models, recipe, table, cuts, job.output, dtype=dtype, finish=finish, **how)
    print(f"{job.output}: written in {time.monotonic() - started:.1f} s")


def check_output(output: Path, overwrite: bool) -> None:
    """Raise a UserError if something stands where the output should, unless it is an older merge to be overwritten."""
    if not output.exists() and not output.is_symlink():
        return
    if not overwrite:
        raise UserError(f"{output}: is there already; choose another --output, or add --overwrite to replace it")
    if not output.is_dir() or output.is_symlink() or (any(output.iterdir()) and not (output / PROVENANCE).is_file()):
        raise UserError(f"{output}: is no merged model (it has no {PROVENANCE}); only one is overwritten. Remove it by hand")


def check_inputs(output: Path, sources: Mapping[str, Source]) -> None:
    """Raise a UserError if the output would replace an input, or if a model is given twice."""
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
    """Return how many bytes one pass over the merged tensors reads of the base and of each expert."""
    return [sum(DTYPES[c.entries[name].dtype].itemsize * c.entries[name].size for name in models.merged) for c in models.all]


def passes_bytes(models: Models, recipe: Recipe, measured: bool) -> int:
    """Return how many bytes all passes together read, at most: norms if they are measured, thresholds, the merge."""
    base, *experts = read_bytes(models)
    total = (measured + 1) * (base + sum(experts))
    if recipe.requirements.get("thresholds", {"density": 1.0})["density"] >= 1:
        return total
    counts = max(compute_type(models.base.entries[name].dtype).itemsize for name in models.merged) // 2  # 16 bits a pass
    return total + counts * (sum(experts) + math.ceil(len(experts) / EXPERTS_PER_PASS) * base)


def copied_bytes(models: Models) -> int:
    """Return how many bytes of the base are copied as they are."""
    merged = set(models.merged)
    return sum(DTYPES[e.dtype].itemsize * e.size for name, e in models.base.entries.items() if name not in merged)


def _table(models: Models, recipe: Recipe, measured: bool, threads: int, progress: Passes) -> CoefficientTable:
    """Return the coefficients; norms are measured only for a word that looks at them."""
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
    """Print what is merged, and what was done to bring it together."""
    if len(models.experts) == 1:
        print("warning: one expert only; the merge is a step from the base towards it", file=sys.stderr)
    for name, source in sources.items():
        print(f"{name}: {source.pinned}")
    for note in models.notes:
        print(f"note: {note}")


def show(table: CoefficientTable) -> str:
    """Write a coefficient table as plain text: every row, or the first ones and their spread."""
    rows = {name: list(values) for name, values in table.rows.items()}
    lines = list(rows.items())[:SHOWN]
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
    if len(rows) > SHOWN:
        text.insert(SHOWN + 1, f"... {len(rows) - SHOWN} more {table.scope}s, all in {PROVENANCE}")
    return "\n".join(text)


def _mergekit(job: MergeRequest, sources: Mapping[str, Source], models: Models, table: CoefficientTable) -> str:
    places = {name: source.pinned for name, source in sources.items()}
    check_names(list(places.values()))
    for name, source in sources.items():
        if is_adapter(source.folder):
            places[name] = adapter_of(places["base"], places[name])
    return export(job.method_spec, table, models, places, job.dtype)


def _command(job: MergeRequest, sources: Mapping[str, Source]) -> str:
    """Return the command line that makes the merge again, from the same commits, an option a line."""
    words = ["--base", sources["base"].pinned]
    words += [
        operator for name, source in sources.items() if name != "base" for operator in ("--expert", f"{name}={source.pinned}")
    ]
    words += [*job.options, "--output", str(job.output)]
    pairs = [shlex.join(pair) for pair in zip(words[::2], words[1::2], strict=True)]
    return " \\\n    ".join(["python -m scripts.merge_models", *pairs])


def _record(
    job: MergeRequest,
    sources: Mapping[str, Source],
    models: Models,
    table: CoefficientTable,
    cuts: Mapping[str, Mapping[str, float]],
    inputs: Mapping[str, str],
) -> dict[str, Any]:
    """Return everything that `card.document` writes down."""
    return {
        "name": job.output.resolve().name,
        "command": _command(job, sources),
        "method": job.method,
        **{key: job.about[key] for key in ("label", "reference") if key in job.about},
        "method_spec": dict(job.method_spec),
        "coefficients": table.record(),
        "thresholds": cuts,
        "exclude": list(job.exclude),
        "vocabulary": job.vocabulary,
        "missing": job.missing,
        "seed": job.seed,
        "dtype": job.dtype,
        "device": job.device,
        "inputs": {name: origin(source, inputs[name]) for name, source in sources.items()},
        "notes": list(models.notes),
        "versions": versions(),
    }
