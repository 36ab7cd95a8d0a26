"""Merge models without a suite: find, unify, measure, estimate, merge and document them in one process.

torch is imported only for a device that needs it: for a small model start-up dominates.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from nan_merge.catalogue.files import known_names
from nan_merge.catalogue.methods import reads_examples, unfit
from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.checkpoints.safetensors_file import DTYPES
from nan_merge.core.atomic import atomic_write, exclusive
from nan_merge.core.blocks import compute_type
from nan_merge.core.disk import check_space
from nan_merge.core.errors import UserError, about, advice_for_arguments, advice_for_options, as_user_errors, tell
from nan_merge.core.parallel import available_processors
from nan_merge.core.progress import Passes
from nan_merge.core.scoring import BLAS_THREADS, COMPUTE
from nan_merge.engine.devices import device
from nan_merge.engine.measure import EXPERTS_PER_PASS, norms
from nan_merge.engine.processed import processed
from nan_merge.engine.request import Contexts, MergeRequest, Thresholds
from nan_merge.engine.spaces import thresholds
from nan_merge.layouts.adapters import is_adapter
from nan_merge.layouts.unify import Models, check_distinct, unify_layout
from nan_merge.methods.coefficients import CoefficientTable, what_it_reads
from nan_merge.methods.recipe import Recipe, bind
from nan_merge.methods.varying import block_counts
from nan_merge.standalone.documented_merge import compose, merge_and_document
from nan_merge.standalone.merged_adapter import MergedAdapter
from nan_merge.standalone.mergekit_export import check_method, check_names, export
from nan_merge.standalone.method import choose, flow
from nan_merge.standalone.model_card import PROVENANCE
from nan_merge.standalone.outputs import Inputs, Output, check_export, check_inputs
from nan_merge.standalone.sources import Source, find, local, named

TYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"}
PRINTED_ROWS = 8  # of a coefficient table


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to merge: a method and what may be chosen besides.

    Raises UserError, when it is made, for an unknown method or device and for any value that does not fit.
    """

    method: str  # an entry of the catalogue
    set: Mapping[str, Any] = field(default_factory=dict)  # {"stage.operator.hyper_parameter": value}, {stage: operator}
    exclude: Sequence[str] = ()  # regular expressions of tensors left at the base
    vocabulary: str = "truncate"  # see `unify_layout`, as for `missing`
    missing: str = "error"
    dtype: str | None = None  # type of all floats of the output, a key of TYPES; None keeps those of the base
    device: str = "cpu"  # see `devices.device`
    compute: str = COMPUTE[0]  # type in which operators on whole tensors compute
    blas_threads: int = 1  # of the matrix library at large tensors, see `MergeRequest`
    threads: int = field(default_factory=available_processors)
    seed: int = 0  # of random draws
    examples: Mapping[str, int] | None = None  # that each expert was trained on, by name, for the variant `data_size`
    quiet: bool = False  # show neither notes nor progress, which go to stderr

    @advice_for_options()
    def __post_init__(self) -> None:
        """Check what can be checked without the models."""
        if not isinstance(self.set, Mapping):
            raise UserError(f"--set: expected values by path, as {{'preprocess.trim.density': 0.1}}; found {self.set!r}")
        if isinstance(self.exclude, str):
            raise UserError(f"--exclude {self.exclude}: expected a list of regular expressions, such as ['{self.exclude}']")
        if reads_examples(self.chosen[0]) and not self.examples:
            raise UserError(
                f"--method {self.method}: needs the number of training examples of each expert: --examples NAME=N ..."
            )
        _ = self.recipe
        device(self.device)
        known_names("--compute", [self.compute], COMPUTE)
        if self.compute != COMPUTE[0] and not self.recipe.whole:
            how = "piece by piece, in float32 for models stored in 16 bits and in float64 for others"
            raise UserError(f"--compute {self.compute}: has no effect on {self.method}, which takes tensors {how}; leave it out")
        if self.dtype is not None:
            known_names("--dtype", [self.dtype], TYPES)
        for option, number, most in (("--threads", self.threads, math.inf), ("--blas-threads", self.blas_threads, BLAS_THREADS)):
            if not isinstance(number, Integral) or isinstance(number, bool) or not 1 <= number <= most:
                raise UserError(f"{option} {number}: expected a whole number from 1{f' to {most}' if most < math.inf else ''}")
        if self.blas_threads != 1 and not (self.recipe.whole and self.device == "cpu"):
            why = f"{self.method}, which takes tensors piece by piece" if not self.recipe.whole else f"--device {self.device}"
            raise UserError(f"--blas-threads {self.blas_threads}: has no effect on {why}; leave it out")
        for pattern in self.exclude:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(f"--exclude {pattern}: no regular expression: {error}") from None

    def check_experts(self, names: Sequence[str]) -> None:
        """Raise a UserError for a method that does not merge so many experts, and for `examples` of others."""
        if reason := unfit({**self.chosen[0], **self.method_spec}, len(names)):
            raise UserError(f"--method {self.method}: {reason}; choose another method, or other experts")
        if self.examples is not None and self.examples.keys() != {*names}:
            raise UserError(f"--examples: expected a number for each of {', '.join(names)}; found {dict(self.examples)}")

    @cached_property
    def chosen(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The record of the method in the catalogue, and its operators by stage with the changes of `set`."""
        return choose(self.method, self.set)

    @property
    def method_spec(self) -> dict[str, Any]:
        """The operators by stage."""
        return self.chosen[1]

    @cached_property
    def recipe(self) -> Recipe:
        """The bound operators."""
        return bind(self.method_spec, self.method)

    @property
    def measured(self) -> bool:
        """Whether the coefficients depend on norms."""
        return what_it_reads(self.recipe.estimate.keywords["operator"]) == "norms"

    def unified(self, base: Path | Checkpoint, experts: Mapping[str, Any]) -> Models:
        """Return the models, folders or open checkpoints, in the layout of the base; what headers tell is checked."""
        models = unify_layout(base, experts, self.exclude, vocabulary=self.vocabulary, missing=self.missing)
        Contexts(models, seed=self.seed).check(self.recipe)
        self.assumed(models)
        return models

    def thresholds(self, models: Models, progress: Passes) -> Callable[[], Thresholds]:
        """Return what gives the thresholds of a method that trims, {} for another; they are measured at its first call."""

        @functools.cache
        def measured() -> Thresholds:
            if "thresholds" not in self.recipe.requirements:
                return {}
            progress.begin("thresholds")
            return thresholds(models, **self.recipe.requirements["thresholds"], threads=self.threads, progress=progress)

        return measured

    def table(self, models: Models, cuts: Callable[[], Thresholds], progress: Passes) -> CoefficientTable:
        """Return the coefficients; norms are measured only for a rule that needs them."""
        if not self.measured:
            return self.assumed(models)
        spec = self.recipe.requirements.get("processed")
        contexts = Contexts(models, cuts() if spec else {}, self.seed)
        progress.begin("norms")
        how: dict[str, Any] = {"threads": self.threads, "progress": progress}
        return self.recipe.estimate(processed(contexts, **spec, **how) if spec else norms(models, self.recipe.norms_of, **how))

    def assumed(self, models: Models) -> CoefficientTable:
        """Return the coefficients without reading a tensor: true for a rule that reads no norms, else for norms 1, 2, 3, ...

        Raises the UserErrors that do not depend on the norms.
        """
        of = ["processed"] if "processed" in self.recipe.requirements else ["weights", "task_vector"]
        squares = {key: [float(number**2) for number, _ in enumerate(models.experts, 1)] for key in of}
        sizes = {"examples": [self.examples[name] for name in models.experts]} if self.examples else {}
        known = {"experts": list(models.experts), "blocks": block_counts(models.base.names), **sizes}
        table = self.recipe.estimate({**known, "tensors": dict.fromkeys(models.merged, squares)})
        return dataclasses.replace(table, norms={})

    def request(self, models: Models, table: CoefficientTable, cuts: Callable[[], Thresholds]) -> MergeRequest:
        """Return the whole merge."""
        dtype = DTYPES[TYPES[self.dtype]] if self.dtype else None
        compute = np.dtype(self.compute)
        request = MergeRequest(
            models, self.recipe, table, cuts(), seed=self.seed, dtype=dtype, compute=compute, blas_threads=int(self.blas_threads)
        )
        if self.recipe.whole and request.computed != compute:
            how = "what is stored in float64, and coordinates in a space, are computed in float64"
            raise UserError(f"--compute {self.compute}: has no effect on these models: {how}; leave it out")
        return request


@dataclass(frozen=True, kw_only=True)
class OwnModels(Settings):
    """Models of one's own, how to merge them and where to; the fields are the options of `nan-merge merge`."""

    base: str  # folder or hub id
    experts: Mapping[str, str]  # folders or hub ids by name
    output: Path  # folder of the merged model
    overwrite: bool = False  # whether an older merge at `output` is replaced
    export_mergekit: Path | None = None  # file for a mergekit config with the coefficients
    chat_template: str | None = None  # of the output, in place of the base's
    output_adapter: int | bool | None = None  # rank of a LoRA adapter in place of a whole model; True: the sum of the ranks

    @advice_for_options()
    def __post_init__(self) -> None:
        """Check what can be checked before models are looked for."""
        super().__post_init__()
        self.check_experts([*self.experts])
        if self.output_adapter is not None and (not isinstance(self.output_adapter, int) or self.output_adapter < 1):
            ways = "a rank, a whole number from 1; True for the sum of the experts' ranks, None for a whole model"
            raise UserError(f"--output-adapter {self.output_adapter}: expected {ways}")
        if self.output_adapter and self.dtype:
            raise UserError("--dtype: is the type of a whole model; the factors of --output-adapter are float32; leave one out")
        if self.export_mergekit:
            check_method(self.method_spec)


@dataclass(frozen=True)
class Merged:
    """A merge that was written."""

    output: Path  # its folder
    method: str
    coefficients: dict[str, dict[str, float]]  # expert -> row (`model`, or a layer or tensor) -> coefficient
    notes: tuple[str, ...]  # what was done to bring the models into one layout
    seconds: float
    adapter: dict[str, Any] | None = None  # modules, ranks and relative error of a merge into an adapter


@advice_for_arguments()
def merge(
    *, base: str | Path, experts: Mapping[str, str | Path] | Iterable[str | Path], method: str, output: str | Path, **options: Any
) -> Merged:
    """Merge models into the folder `output`, as `nan-merge merge` does, and return what was written.

    `base` and `experts` are folders or hub ids; experts have names, or get those of their folders. `options` are the other
    fields of `OwnModels`, which are the options of the command.
    Raises UserError for all that the caller can correct; it names arguments where the command names options.
    """
    known_names("merge", options, [each.name for each in dataclasses.fields(OwnModels)])
    return run(OwnModels(base=str(base), experts=named(experts), method=method, output=Path(output), **options))


@advice_for_options()
def run(own: OwnModels, show: bool = False) -> Merged:
    """Merge, and leave a documented model in `own.output`; with `show` print the coefficients as soon as they are known.

    Raises UserError for all that the user can correct, before long work begins where that is possible.
    """
    started, output = time.monotonic(), Output(own.output)
    given = {"base": own.base, **dict(sorted(own.experts.items()))}
    with as_user_errors(), contextlib.ExitStack() as held:
        held.enter_context(exclusive(output.target, removable=output.is_unchanged))
        here = {name: Source(model, local(model)) for name, model in given.items() if local(model).is_dir()}
        check_inputs(own.output, here, Inputs({}))
        output.check(own.overwrite)
        if own.export_mergekit:
            check_export(own.export_mergekit, own.output, own.overwrite)
            held.enter_context(exclusive(own.export_mergekit))
        sources = {name: find(model) for name, model in given.items()}
        inputs = Inputs.of({name: source.folder for name, source in sources.items()})
        check_inputs(own.output, sources, inputs)
        models, table, adapter = _merge(own, sources, inputs, show)
    return Merged(own.output, own.method, by_expert(table), models.notes, time.monotonic() - started, adapter)


def _merge(
    own: OwnModels, sources: Mapping[str, Source], inputs: Inputs, show: bool
) -> tuple[Models, CoefficientTable, dict[str, Any] | None]:
    """Merge models that were found; `inputs` are compared at the end of every pass."""
    models = own.unified(sources["base"].folder, {name: s.folder for name, s in sources.items() if name != "base"})
    adapter = _adapter(own, sources["base"], models) if own.output_adapter else None
    models = dataclasses.replace(models, notes=(*models.notes, *(adapter.notes if adapter else ())))
    written = 0 if adapter else output_bytes(models, own.dtype)
    check_space(own.output, written, "the merged model", "free some, choose another --output or a smaller --dtype")
    if own.export_mergekit:
        _mergekit(own, sources, models, own.assumed(models))
    compose(own.request(models, own.assumed(models), dict), sources, _about(own), own.output, own.device)
    check_distinct(models)
    if not own.quiet:
        _introduce(sources, models)
    total = passes_bytes(models, own.recipe, own.measured) + copied_bytes(models) + written
    with Passes(total, own.quiet) as progress:
        cuts = own.thresholds(models, progress)
        table = own.table(models, cuts, progress)
        inputs.check()
        if show:
            progress.print(f"coefficients of {own.method}:\n{printed(table)}")
        if own.export_mergekit:
            text = _mergekit(own, sources, models, table)
            with about(own.export_mergekit), atomic_write(own.export_mergekit) as part:
                part.write_text(text, encoding="utf-8")
        request = own.request(models, table, cuts)
        inputs.check()
        progress.begin("merge")
        told = merge_and_document(
            request, sources, _about(own), own.output, inputs=inputs,
            threads=own.threads, device_name=own.device, progress=progress,
            files={"chat_template.jinja": own.chat_template} if own.chat_template else {},
            make=adapter.write if adapter else None,
        )  # fmt: skip
    return models, table, told.get("adapter")


def _adapter(own: OwnModels, base: Source, models: Models) -> MergedAdapter:
    """Return the adapter that the merge goes to."""
    rank = None if own.output_adapter is True else own.output_adapter
    place = {"base_model_name_or_path": base.repo or base.given, "revision": base.commit}
    return MergedAdapter(models, own.recipe, rank, place)


def by_expert(table: CoefficientTable) -> dict[str, dict[str, float]]:
    """Return the coefficients of every expert by row."""
    return {expert: {row: values[t] for row, values in table.rows.items()} for t, expert in enumerate(table.experts)}


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
    if recipe.requirements.get("thresholds", {"density": 1.0})["density"] == 1:
        return total
    counts = max(compute_type(models.base.entries[name].dtype).itemsize for name in models.merged) // 2  # passes, of 16 bits
    return total + counts * (sum(experts) + math.ceil(len(experts) / EXPERTS_PER_PASS) * base)


def copied_bytes(models: Models) -> int:
    """Return the bytes of the base that are copied unchanged."""
    merged = set(models.merged)
    return sum(DTYPES[e.dtype].itemsize * e.size for name, e in models.base.entries.items() if name not in merged)


def _introduce(sources: Mapping[str, Source], models: Models) -> None:
    """Print the models and the notes on their layouts to stderr."""
    lines = [f"{name}: {source.pinned}" for name, source in sources.items()] + [f"note: {note}" for note in models.notes]
    if len(models.experts) == 1:
        lines.insert(0, "warning: one expert only; the merge is a step from the base towards it")
    tell("\n".join(lines))


def printed(table: CoefficientTable) -> str:
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
        **{key: own.chosen[0][key] for key in ("label", "reference") if key in own.chosen[0]},
        "method_spec": own.method_spec,
        "set": [f"{path}={flow(value)}" for path, value in own.set.items()],
        **({"examples": dict(own.examples)} if own.examples else {}),
        "exclude": list(own.exclude),
        "vocabulary": own.vocabulary,
        "missing": own.missing,
        "dtype": own.dtype,
        **({"chat_template": own.chat_template} if own.chat_template else {}),
        **({"output_adapter": own.output_adapter} if own.output_adapter else {}),
    }
