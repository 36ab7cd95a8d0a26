"""Spaces of hyper-parameters that validation chooses from (`tune:` of a method), and their points.

A point maps paths `stage.operator.hyper_parameter`, as `nan-merge merge --set` has them, to values.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nan_merge.core.errors import UserError
from nan_merge.core.names import nearest
from nan_merge.methods.coefficients import SCALE
from nan_merge.methods.recipe import STAGES, all_hyper_parameters, operator_in, requirements

Point = Mapping[str, Any]
SEARCHES = ("grid", "sobol", "tpe", "cma_es")
ROUND = 8  # trials of a round, where `batch` is not stated
LEAST_POPULATION = 4  # of CMA-ES


@dataclass(frozen=True)
class Dimension:
    """One hyper-parameter of a space: `choices`, or numbers from `low` to `high`; with `each` one number for each expert."""

    path: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False
    start: Any = None
    each: bool = False


@dataclass(frozen=True)
class Search:
    """How the points of a space are chosen: all of a grid, or `budget` trials in rounds of `batch`.

    With `prune` the scoring of a trial that is worse than most of earlier rounds is stopped.
    """

    kind: str
    space: tuple[Dimension, ...]
    budget: int = 0
    seed: int = 0
    batch: int = ROUND
    prune: bool = False

    def grid(self) -> Iterator[dict[str, Any]]:
        """Yield every point of a grid in the order of its lists, the last hyper-parameter fastest; none of another search."""
        lists = [dimension.choices for dimension in self.space] if self.kind == "grid" else [()]
        for values in itertools.product(*lists):
            yield {dimension.path: value for dimension, value in zip(self.space, values, strict=True)}

    def rounds_before(self, number: int) -> range:
        """Return the numbers, from 1, of the trials of rounds before that of trial `number`."""
        return range(1, (number - 1) // self.batch * self.batch + 1)

    def earlier(self, number: int) -> range:
        """Return the numbers of the trials whose scores the point of trial `number` depends on: those of earlier rounds."""
        return range(1, 1) if self.kind in ("grid", "sobol") else self.rounds_before(number)

    def record(self) -> dict[str, Any]:
        """Return the search as a JSON record, without what no point depends on: its budget and pruning, rounds of Sobol."""
        unused = {"budget", "prune", *["batch"] * (self.kind == "sobol")}
        return {key: value for key, value in asdict(self).items() if key not in unused}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Search:
        """Read a search from its JSON record."""
        return cls(**{**record, "space": tuple(Dimension(**entry) for entry in record["space"])})


def names(tune: Mapping[str, Any]) -> list[str]:
    """Return the hyper-parameters that a method chooses, as their operators call them."""
    return [key.rpartition(".")[2] for key in tune.get("space", {})] or [tune["hyper_parameter"]]


def owns(record: Mapping[str, Any]) -> bool:
    """Return whether a method chooses hyper-parameters itself, and does not take over those of another."""
    return "tune" in record and "as" not in record["tune"]


def put(method_spec: Mapping[str, Any], point: Point) -> dict[str, Any]:
    """Return a method spec with the values of a point; a mean coefficient takes the place of a sum, and the other way round."""
    found = dict(method_spec)
    for path, value in point.items():
        stage, operator, key = path.split(".")
        given = operator_in(found, stage)[1]
        kept = {each: old for each, old in given.items() if key not in SCALE or each not in SCALE or each == key}
        found[stage] = {operator: {**kept, key: value}}
    return found


def search_of(record: Mapping[str, Any], where: str) -> Search:
    """Return the search of a method with a `tune` of its own; UserError, beginning with `where`, where it does not fit."""
    tune, place = record["tune"], f"{where}: tune"
    if "multiples" in tune:
        raise UserError(f"{place}: multiples: for a variant without coefficients; write `hyper_parameter` and `grid`")
    if "grid" in tune:
        path = f"coefficients.{operator_in(record, 'coefficients')[0]}.{tune['hyper_parameter']}"
        _exclusive(tune, {"hyper_parameter", "grid"}, place)
        return Search("grid", (Dimension(path, tuple(tune["grid"])),))
    kind, grid = tune["search"], tune["search"] == "grid"
    in_rounds = kind != "sobol" or tune.get("prune")
    takes = [] if grid else ["budget", "seed", "prune", *["batch"] * bool(in_rounds)]
    _exclusive(tune, {"search", "space", *takes}, place)
    if not grid and "budget" not in tune:
        raise UserError(f"{place}: the key 'budget' is missing (the number of trials of {kind})")
    space = tuple(_dimension(record, key, entry, kind, f"{place}: space: {key}") for key, entry in tune["space"].items())
    paths = [dimension.path for dimension in space]
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise UserError(f"{place}: space: {twice[0]} stands twice, with and without its stage; keep one")
    if len(both := [path for path in paths if path.rpartition(".")[2] in SCALE]) > 1:
        raise UserError(f"{place}: space: {' and '.join(both)} exclude each other; keep one")
    _check_requirements(record, space, place)
    batch = tune.get("batch", ROUND)
    if kind == "cma_es":
        if any(dimension.choices for dimension in space) or (len(space) == 1 and not space[0].each):
            raise UserError(f"{place}: cma_es searches two or more ranges; take tpe for lists and for one hyper-parameter")
        if batch < LEAST_POPULATION:
            raise UserError(f"{place}: batch: {batch} is the population of cma_es; expected {LEAST_POPULATION} or more")
    budget, prune = tune.get("budget", 0), tune.get("prune", False)
    if prune and budget <= batch:
        raise UserError(
            f"{place}: prune: no trial of the first {batch} is pruned; expected a `budget` above that, found {budget}"
        )
    return Search(kind, space, int(budget), int(tune.get("seed", 0)), int(batch), prune)


def _exclusive(tune: Mapping[str, Any], takes: set[str], where: str) -> None:
    if others := [key for key in tune if key not in takes]:
        what = f"`search: {tune['search']}`" if "search" in tune else "`grid`"
        what += " without `prune: true`" if tune.get("search") == "sobol" and others[0] == "batch" else ""
        raise UserError(f"{where}: {others[0]}: not with {what}, which takes {', '.join(sorted(takes))}; remove it")


def _dimension(record: Mapping[str, Any], key: str, entry: Any, kind: str, where: str) -> Dimension:
    """Return one hyper-parameter of a space, found in the operators of the method."""
    path = _path(record, key, where)
    stage, operator, name = path.split(".")
    annotation, default = all_hyper_parameters(STAGES[stage][operator])[name]
    own = operator_in(record, stage)[1].get(name, default)
    integer = int in (annotation, getattr(annotation, "__origin__", None))
    if isinstance(entry, list):
        return Dimension(path, tuple(entry), start=own if own in entry else None)
    if kind == "grid":
        raise UserError(f"{where}: a grid takes lists of values; found a range: write a list, or take sobol, tpe or cma_es")
    low, high, log = entry["low"], entry["high"], entry.get("log", False)
    if not low < high:
        raise UserError(f"{where}: the range from {low:g} to {high:g} is empty; expected `low` below `high`")
    if log and low <= 0:
        raise UserError(f"{where}: low: found {low:g}; expected a number above 0 with `log: true`")
    if integer and (int(low), int(high)) != (low, high):
        raise UserError(f"{where}: the hyper-parameter is a whole number; found the range from {low:g} to {high:g}")
    each, numeric = "each" in entry, isinstance(own, int | float) and not isinstance(own, bool)
    start = entry.get("start", own if numeric and low <= own <= high else None)
    if kind == "sobol" and "start" in entry:
        raise UserError(f"{where}: start: sobol has none; remove it, or take tpe or cma_es")
    if integer and start is not None and int(start) != start:
        raise UserError(f"{where}: start: the hyper-parameter is a whole number; found {start:g}")
    if start is not None and not low <= start <= high:
        raise UserError(f"{where}: start: {start:g} lies outside the range from {low:g} to {high:g}")
    return Dimension(path, (), low, high, log, integer, start, each)


def _path(record: Mapping[str, Any], key: str, where: str) -> str:
    """Return the path of a hyper-parameter of a method, written `key` or `stage.key`."""
    found: dict[str, list[str]] = {}
    for stage in STAGES:
        operator = operator_in(record, stage)[0]
        for name in all_hyper_parameters(STAGES[stage][operator]):
            for spelt in (name, f"{stage}.{name}"):
                found.setdefault(spelt, []).append(f"{stage}.{operator}.{name}")
    if key not in found:
        raise UserError(f"{where}: no operator of the method has it; {nearest(str(key), found)}")
    if len(found[key]) > 1:
        stages = " or ".join(f"{path.partition('.')[0]}.{key}" for path in found[key])
        raise UserError(f"{where}: several operators of the method have it; write {stages}")
    return found[key][0]


def _check_requirements(record: Mapping[str, Any], space: tuple[Dimension, ...], where: str) -> None:
    """Check that no trial needs a measurement that the method does not have."""
    before = requirements(record)
    for dimension in space:
        if "processed" in before and dimension.path.startswith("preprocess."):
            raise UserError(
                f"{where}: space: {dimension.path}: norms of processed vectors are measured once, before the search; keep"
                " the hyper-parameter fixed, or take another `norm_of`"
            )
        for value in dimension.choices:
            spec = put(record, {dimension.path: value})
            calibrated = value == "calibration" and dimension.path.startswith("coefficients.")
            if calibrated or requirements(spec).keys() != before.keys():
                raise UserError(f"{where}: space: {dimension.path}: {value} needs another measurement; leave it out")
