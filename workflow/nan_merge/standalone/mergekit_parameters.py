"""Read the parameters of a mergekit file: numbers, gradients and filters, of a model, of a slice or of all."""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nan_merge.core.errors import UserError

LINEAR, TASK_ARITHMETIC, TIES, DARE_LINEAR, DARE_TIES = "linear", "task_arithmetic", "ties", "dare_linear", "dare_ties"
PARAMETERS = ("weight", "density", "normalize", "lambda", "rescale", "int8_mask")
OF_MODELS = ("weight", "density")  # the others belong to all models at once
WITHOUT_EFFECT = {  # parameters that mergekit too reads for other methods only, and the type of its masks
    LINEAR: ("density", "lambda", "rescale", "int8_mask"),
    TASK_ARITHMETIC: ("density", "rescale", "int8_mask"),
    TIES: ("int8_mask",),
    DARE_LINEAR: ("int8_mask",),
    DARE_TIES: ("int8_mask",),
}
Varying = Any  # a number, a gradient or cases: `nan_merge.methods.varying`


@dataclass(frozen=True)
class Slice:
    """A range of layers of the output (None: all), with the parameters of its models and of all of them."""

    where: str
    layers: tuple[int, int] | None
    models: Mapping[str, Mapping[str, Any]]
    shared: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """The parameters of one file: those of a model take precedence over those of its slice, and these over those of all."""

    where: str
    base: str | None
    shared: Mapping[str, Any]
    slices: Sequence[Slice]

    @property
    def models(self) -> list[str]:
        """The models, in the order of the file."""
        return list(self.slices[0].models)

    def ignored(self, method: str) -> Iterator[str]:
        """Yield a note for every parameter that has no effect, there as here."""
        of_all = [self.shared, *(part.shared for part in self.slices)]
        of_models = [each for part in self.slices for each in part.models.values()]
        for key in PARAMETERS:
            if key in WITHOUT_EFFECT[method] and any(key in each for each in (*of_all, *of_models)):
                yield f"{key}: has no effect for '{method}' and is ignored"
            elif key not in OF_MODELS and any(key in each for each in of_models):
                yield f"{key}: has no effect at a model, in mergekit too, and is ignored there; write it once, for all"

    def flag(self, key: str, default: bool) -> bool:
        """Return a boolean parameter of the whole merge."""
        values = set()
        for part in self.slices:
            for place, value in [*self._found(key, "", part), ("", default)]:
                values |= {self._boolean(each, place) for each in _values(value)}
                if not _has_filters(value):
                    break
        if len(values) > 1:
            raise UserError(
                f"{self.where}: parameters.{key}: true for some tensors and false for others; supported is one for all"
            )
        return values.pop()

    def number(self, key: str, model: str = "", default: float | None = None) -> Varying:
        """Return a numeric parameter of one model, or of the whole merge: a number, a gradient or cases."""
        cases: list[dict[str, Any]] = []
        for part in self.slices:
            found = [case for place, value in self._found(key, model, part) for case in self._cases(value, place)]
            found += [] if default is None else [{"value": default}]
            if not found and model == self.base:
                raise UserError(
                    f"{part.where}: the base {model} is averaged with them, in mergekit too, and has no `{key}`; list it with"
                    " one, or remove `base_model`, which adapters of one model do not need"
                )
            if not found:
                raise UserError(f"{part.where}: {model}: has no `{key}`, and `parameters` has none for all; write one")
            end = next((number for number, case in enumerate(found, 1) if "filter" not in case), len(found))
            layers = {"layers": list(part.layers)} if part.layers and len(self.slices) > 1 else {}
            cases += [{**layers, **case} for case in found[:end]]
        first = cases[0]["value"]
        one = len(cases) == 1 or not isinstance(first, list)  # a gradient runs over the layers of its slice
        if one and all("filter" not in case and case["value"] == first for case in cases):
            return first
        return cases

    def _found(self, key: str, model: str = "", part: Slice | None = None) -> Iterator[tuple[str, Any]]:
        """Yield where a parameter stands, and its value, in the order of precedence."""
        for each in [part] if part else self.slices:
            places = ((f"{each.where}: {model}", each.models.get(model, {})), (each.where, each.shared))
            yield from ((f"{place}: parameters.{key}", settings[key]) for place, settings in places if key in settings)
        if key in self.shared:
            yield f"{self.where}: parameters.{key}", self.shared[key]

    def _cases(self, value: Any, where: str) -> list[dict[str, Any]]:
        """Read a parameter: a number, a gradient, one case or a list of cases."""
        if not _has_cases(value):
            return [{"value": _reading(value, where)}]
        return [self._case(entry, where) for entry in (value if isinstance(value, list) else [value])]

    def _case(self, entry: Any, where: str) -> dict[str, Any]:
        only = mapping(entry, where).get("filter")
        known(where, entry, ("filter", "value"))
        if "value" not in entry or not isinstance(only, str | None):
            raise UserError(f"{where}: expected `filter: <part of a tensor's name>` and `value: <number>`, found {dict(entry)}")
        return {**({} if only in (None, "*") else {"filter": only}), "value": _reading(entry["value"], where)}

    def _boolean(self, value: Any, where: str) -> bool:
        if value not in (True, False):  # mergekit reads 0 and 1 too
            raise UserError(f"{where}: expected true or false, found {value!r}")
        return bool(value)


def _has_cases(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(each, Mapping) for each in value))


def _has_filters(value: Any) -> bool:
    """Return whether a parameter has cases that need not apply to a tensor, so that the next place may count."""
    cases = value if isinstance(value, list) else [value]
    return _has_cases(value) and all(isinstance(each, Mapping) and each.get("filter") not in (None, "*") for each in cases)


def mapping(value: Any, where: str) -> Mapping[str, Any]:
    """Return what should be a mapping, {} for nothing."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: expected `name: value` in each line, found {value!r}")
    return value


def known(where: str, keys: Iterable[str], expected: Sequence[str]) -> None:
    """Raise a UserError for a key that is none of those expected."""
    for key in keys:
        if key not in expected:
            close = difflib.get_close_matches(str(key), expected, 1)
            hint = f"did you mean `{close[0]}`?" if close else f"supported are {', '.join(expected)}"
            raise UserError(f"{where}: `{key}` is not supported; {hint}")


def _values(value: Any) -> list[Any]:
    """Return the values of all cases of a parameter."""
    return [each.get("value") if isinstance(each, Mapping) else each for each in (value if isinstance(value, list) else [value])]


def _reading(value: Any, where: str) -> float | list[float]:
    """Read a number, or a gradient."""
    if not isinstance(value, list):
        with contextlib.suppress(TypeError, ValueError):
            if math.isfinite(number := float(value)):
                return number
        raise UserError(f"{where}: expected a number, found {value!r}")
    if not value:
        raise UserError(f"{where}: the list is empty; expected the numbers of a gradient over the layers")
    if nested := [each for each in value if isinstance(each, list)]:
        raise UserError(f"{where}: expected a number, found {nested[0]!r} within a gradient")
    numbers = [float(_reading(each, where)) for each in value]  # type: ignore[arg-type]
    return numbers if len({*numbers}) > 1 else numbers[0]


def each_number(value: Varying, change: Callable[[float], float]) -> Varying:
    """Return a varying number with every number in it changed."""
    if isinstance(value, list):
        return [each_number(each, change) for each in value]
    return {**value, "value": each_number(value["value"], change)} if isinstance(value, Mapping) else change(value)
