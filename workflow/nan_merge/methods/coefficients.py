"""Coefficient rules, controls of them, and the table of coefficients: T norms (T,) in, T coefficients (T,) out.

    c_t = scale * normalise(||v_t||^-p)    v: the weights, the task vector, also as `preprocess` leaves it (processed), or the
                                           calibration, over the model, a layer or a tensor

Uniform coefficients have p = 0, NAN p = 1, the theory behind NAN p = 2, MetaGPT p = -2. A rule returns shares that sum to one;
`estimate` scales them, in a variant to the scale of the host. NAN's paper (arXiv 2505.16148) leaves v open: it writes of
weights, and in its section 3.3 of "parameter updates" and "zero-mean updates", which are task vectors.
"""

from __future__ import annotations

import functools
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import numpy as np
from annotated_types import Ge, Gt, Lt

from nan_merge.core.blocks import LAYER_RE
from nan_merge.core.errors import UserError
from nan_merge.core.patterns import Regex
from nan_merge.methods.varying import Varies, block_counts, check_cases, value_at, varies

MODEL: Final = "model"
Rule = Callable[..., np.ndarray]
SCALE = ("mean", "total")  # two ways to state the scale of coefficients, which exclude each other

Exponent = Annotated[float, "p in |v|^-p; 0 is uniform, 1 is NAN, 2 its theory, -2 MetaGPT"]
ZeroNorm = Annotated[Literal["error", "drop"], "what to do with an expert of norm zero"]
NormOf = Annotated[Literal["weights", "task_vector", "processed", "calibration"], "whose Frobenius norm"]
Over = Annotated[Literal["none", "calibration"], "by whose norm over the model every expert's coefficient is divided"]
Scope = Annotated[Literal["model", "layer", "tensor"], "over what the norm is taken"]


def reads(what: str) -> Callable[[Rule], Rule]:
    """Declare what a rule reads of T experts: `names` or `examples` (sizes of the training sets); without it, `norms`."""

    def mark(rule: Rule) -> Rule:
        rule.reads = what  # type: ignore[attr-defined]
        return rule

    return mark


def what_it_reads(rule: Rule) -> str:
    """Return what a rule, bound or not, reads: `norms`, `names` or `examples`."""
    return str(getattr(functools.partial(rule).func, "reads", "norms"))


def finished(mean: Callable[..., Any]) -> Callable[[Rule], Rule]:
    """Declare a rule that returns finished coefficients, which are not scaled; `mean` is their mean, which may vary."""

    def mark(rule: Rule) -> Rule:
        rule.mean = mean  # type: ignore[attr-defined]
        return rule

    return mark


def is_finished(rule: Rule) -> bool:
    """Return whether a rule, bound or not, returns finished coefficients."""
    return hasattr(functools.partial(rule).func, "mean")


def factors(rule: Rule) -> Rule:
    """Declare a rule that returns factors, with 1 for an expert that is left as it is, and not shares that sum to one."""
    rule.factors = True  # type: ignore[attr-defined]
    return rule


def gives_factors(rule: Rule) -> bool:
    """Return whether a rule, bound or not, returns factors."""
    return hasattr(functools.partial(rule).func, "factors")


def norm_law(norms: np.ndarray, exponent: float, zero_norm: ZeroNorm = "error") -> np.ndarray:
    """Return ||v_t||^-exponent for T experts, all the same if every norm is zero: (T,) -> (T,).

    For a positive exponent a single zero norm is a UserError; with `zero_norm: drop` that expert gets zero.
    """
    norms = np.asarray(norms, np.float64)
    if exponent == 0 or not norms.any():
        return np.ones(len(norms))
    if exponent > 0 and (norms == 0).any() and zero_norm == "error":
        raise UserError(
            f"expert number {int(np.argmin(norms)) + 1} of {len(norms)} has norm zero (it equals the base there, or"
            " `preprocess` leaves nothing of it), which has no inverse; leave it out of the suite or set `zero_norm: drop`"
        )
    inverse = np.zeros_like(norms)
    np.power(norms, -exponent, out=inverse, where=norms > 0)
    return inverse


@reads("names")
@finished(mean=lambda value, **_: value if varies(value) else float(value))
def constant(names: Sequence[str], *, value: Annotated[float, "the coefficient lambda", Varies()]) -> np.ndarray:
    """Give every expert the coefficient `value` (lambda of task arithmetic, arXiv 2212.04089)."""
    return np.full(len(names), float(value))


def _mean_of_given(values: Mapping[str, Any], normalise: bool = False) -> Any:
    if normalise:
        raise UserError("coefficients: given: values that are normalised have no one scale for others to take over")
    of_experts = {name: value for name, value in values.items() if name != "base"}
    return of_experts if varies(values) else statistics.fmean(of_experts.values())


@reads("names")
@finished(mean=_mean_of_given)
def given(
    names: Sequence[str],
    *,
    values: Annotated[Mapping[str, Annotated[float, Varies()]], "a coefficient by name of expert; with `base` the model's own"],
    normalise: Annotated[bool, "whether they are divided by their sum"] = False,
) -> np.ndarray:
    """Give every expert its coefficient by name; one list for all layers or tensors is resolved at each tensor (`Varies`).

    With a value for `base`, the values are the weights of whole models, as in sum_i w_i theta_i with the base as one of
    them: they have to sum to one, or are normalised. Experts alone whose values sum to zero stay as they are.

    Raises UserError if the names are not those of the experts, or if weights of whole models do not sum to one.
    """
    if {*values} - {"base"} != {*names}:
        raise UserError(
            f"coefficients: given: values: expected a coefficient for each of {', '.join(names)}; found {', '.join(values)}"
        )
    total = math.fsum(values.values())
    if "base" in values and (abs(total) < 1e-8 if normalise else abs(total - 1) > 1e-6):
        raise UserError(
            f"coefficients: given: values: the weights of whole models sum to {total:g}, which scales the base; expected a sum"
            " of 1, or another than 0 with `normalise: true`"
        )
    return np.array([float(values[name]) for name in names]) / (total if normalise and abs(total) >= 1e-8 else 1)


@reads("names")
def uniform(names: Sequence[str]) -> np.ndarray:
    """Give every expert 1 / T (weight averaging, arXiv 2203.05482)."""
    return np.full(len(names), 1 / len(names))


def nan(
    norms: np.ndarray,
    *,
    exponent: Exponent = 1.0,
    normaliser: Annotated[Literal["sum", "softmax", "softmin"], "how norms become shares"] = "sum",
    zero_norm: ZeroNorm = "error",
) -> np.ndarray:
    """Weigh every expert by its inverse norm (NAN, arXiv 2505.16148, Eq. 10 as reconstructed).

    `sum` divides the inverse norms by their sum. `softmax`, the paper's word, takes their softmax, and `softmin` the softmax
    of minus the norms; only for these two the unit of the norms matters.

    ASSUME: the paper names a global scaling factor without its value; it is the scale of the host.
    """
    inverse = norm_law(norms, exponent, zero_norm)
    if normaliser != "sum":
        some = inverse > 0
        powers = inverse if normaliser == "softmax" else -np.divide(1.0, inverse, out=np.full_like(inverse, np.inf), where=some)
        inverse = np.where(some, np.exp(powers - powers.max()), 0.0)
    return inverse / inverse.sum()


@factors
def equal_length(
    norms: np.ndarray,
    *,
    to: Annotated[
        Literal["mean", "shortest"] | Annotated[float, Gt(0)],
        "the common length: their mean, the shortest, which stretches none, or a number",
    ] = "mean",
    zero_norm: ZeroNorm = "error",
) -> np.ndarray:
    """Bring all vectors to one length: the mean norm, the least (DisTaC, arXiv 2508.01148), a number (DOGE, arXiv 2501.01230)."""
    inverse = norm_law(norms, 1.0, zero_norm)
    lengths = 1 / inverse[inverse > 0]
    return inverse * ({"mean": lengths.mean(), "shortest": lengths.min()}[to] if isinstance(to, str) else to)


def metagpt(norms: np.ndarray) -> np.ndarray:
    """Weigh every expert by its squared norm, summing to one (MetaGPT, arXiv 2406.11385)."""
    squares = norm_law(norms, -2.0)
    return squares / squares.sum()


@factors
@reads("names")
def multiples(
    names: Sequence[str],
    *,
    values: Annotated[Mapping[str, float] | None, "a factor by name of expert; 1 for all if not stated"] = None,
) -> np.ndarray:
    """Multiply the coefficient that all experts would share by a factor for each expert.

    Raises UserError if the names are not those of the experts.
    """
    if values is not None and {*values} != {*names}:
        raise UserError(
            f"coefficients: multiples: values: expected a factor for each of {', '.join(names)}; found {', '.join(values)}"
        )
    return np.array([1.0 if values is None else float(values[name]) for name in names])


@reads("examples")
def data_size(examples: np.ndarray) -> np.ndarray:
    """Weigh every expert by the number of its training examples, which NAN estimates without them (arXiv 2505.16148, §3)."""
    return np.asarray(examples, np.float64) / np.sum(examples)


RULES = (constant, given, uniform, nan, equal_length, metagpt, multiples, data_size)
COEFFICIENTS: dict[str, Rule] = {f.__name__: f for f in RULES}


def scale_of(rule: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scale of coefficients, which others in their place take over: their `mean`, or their sum as `total`.

    A mean that varies over the tensors is taken over as it is, so that every tensor keeps its own.
    """
    if mean := getattr(COEFFICIENTS[rule], "mean", None):
        return {"mean": mean(**values)}
    return {"mean": values["mean"]} if "mean" in values else {"total": values.get("total", 1.0)}


def kept(row: np.ndarray, mean: float | None = None) -> np.ndarray:
    """Leave the coefficients of one row as they are."""
    return row


def uniform_matched(row: np.ndarray, mean: float | None = None) -> np.ndarray:
    """Replace the coefficients of one row by their mean: the control for the global scale.

    `mean` is their mean by construction: the control of a rule with a known scale has exactly that scale, on every
    processor. Where it depends on the norms (None) it is the mean of the row, exact up to one rounding.
    """
    return np.full(len(row), statistics.mean(row.tolist()) if mean is None else mean)


def permuted(
    row: np.ndarray, mean: float | None = None, *, seed: Annotated[int, Ge(0), Lt(1000), "number of the shuffle"] = 0
) -> np.ndarray:
    """Shuffle the coefficients of one row over the experts, every row alike: the control for the assignment to experts.

    `seed` counts the permutations of one random stream, without the identity and without repetitions. So the first
    T! - 1 seeds give every shuffle of T experts once; further seeds repeat them.
    """
    rng, seen = np.random.default_rng(0), {tuple(range(len(row)))}
    order = tuple(range(len(row)))
    shuffles = math.factorial(len(row)) - 1
    while shuffles and len(seen) < seed % shuffles + 2:
        order = tuple(rng.permutation(len(row)).tolist())
        seen.add(order)
    return row[list(order)]


CONTROL: dict[str, Rule] = {f.__name__: f for f in (kept, uniform_matched, permuted)}


@dataclass(frozen=True)
class CoefficientTable:
    """Coefficients of T experts by row; a row is the whole model, a layer or a tensor."""

    experts: tuple[str, ...]
    scope: str
    rows: Mapping[str, Sequence[float]]
    norms: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def at(self, tensor: str) -> list[float]:
        """Return the T coefficients of one tensor."""
        return list(self.rows[row_of(tensor, self.scope)])

    def record(self) -> dict[str, Any]:
        """Return the table as a JSON record."""
        return {"experts": self.experts, "scope": self.scope, "rows": dict(self.rows), "norms": dict(self.norms)}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> CoefficientTable:
        """Read the table from its JSON record."""
        return cls(tuple(record["experts"]), record["scope"], record["rows"], record["norms"])


def row_of(tensor: str, scope: str) -> str:
    """Return the row of the table that holds a tensor's coefficients: `model`, its layer's name, or its own name."""
    if scope == "tensor":
        return tensor
    if scope == "layer":
        block = LAYER_RE.match(tensor)
        return block[1] + block[2] if block else "outside the layers"
    return MODEL


def estimate(
    measures: Mapping[str, Any],
    operator: Rule,
    control: Rule,
    *,
    norm_of: NormOf = "task_vector",
    scope: Scope = MODEL,
    only: Annotated[Regex, "regex of the tensors whose norms count; empty: all"] = "",
    mean: Annotated[
        Annotated[float, Varies(by_expert=True)] | None,
        "mean coefficient, as lambda of task arithmetic, or coefficients by expert whose mean it is; excludes total",
    ] = None,
    total: Annotated[float | None, "sum of the coefficients, 1 if neither is stated; excludes mean"] = None,
    over: Over = "none",
) -> CoefficientTable:
    """Return the coefficients of a bound rule and a control for measured norms.

    `measures` is the result of `measure.norms` or `processed.processed`, with `calibration` where that was collected, and with
    `examples`, a number for each expert, for a rule that reads them. Where a value or `mean` varies, every tensor is a row of
    the table, and has the norms of its model, layer or tensor (`scope`).
    Squares are summed over the tensors of a row in float64 (with fsum, so in any order); a row without any tensor that `only`
    matches has zero norms, hence uniform coefficients. `mean` and `total` scale the shares of a rule; for a rule that returns
    factors, they are the mean and the sum for equal factors. `over` divides the coefficients, after the control, by the norms
    of these statistics over the model, at the mean of these inverse norms: the norms of Fisher information belong to normalised
    Fisher merging, whatever the coefficients are.

    Raises UserError if `only` matches no tensor, `norm_of` or `over` was not measured, or the numbers of examples are not known.
    """
    bound, experts = functools.partial(operator), tuple(measures["experts"])
    of_all = _read_by(operator, measures)
    varying = varies(bound.keywords) or varies(mean)
    scope = scope if of_all is None or not varying else "tensor"
    blocks = measures.get("blocks") or block_counts(measures["tensors"])
    for key, value in {"mean": mean, **bound.keywords}.items():
        check_cases(value, measures["tensors"], blocks, f"coefficients: {key}")
    norms = _norms(measures, "norm_of", norm_of, scope, only)
    sources = (
        {tensor: row_of(tensor, scope) for tensor in sorted(measures["tensors"])} if varying else {row: row for row in norms}
    )
    rows = {}
    for row, source in sources.items():
        scale = _of_experts(value_at(mean, row, blocks), experts)
        found = bound.func(*bound.args, norms[source] if of_all is None else of_all, **value_at(bound.keywords, row, blocks))
        rows[row] = control(_scaled(operator, found, scale, total), _mean(operator, len(experts), scale, total))
    if over != "none":
        shares = nan(_norms(measures, "over", over)[MODEL])
        rows = {row: values * (shares * len(experts)) for row, values in rows.items()}
    lists = [{row: values.tolist() for row, values in table.items()} for table in (rows, norms)]
    return CoefficientTable(experts, "tensor" if varying else scope, *lists)


def _of_experts(mean: Any, experts: Sequence[str]) -> float | None:
    """Return a mean coefficient as one number, of a mapping by expert the mean of its values."""
    if not isinstance(mean, Mapping):
        return None if mean is None else float(mean)
    if {*mean} != {*experts}:
        raise UserError(f"coefficients: mean: expected a number for each of {', '.join(experts)}; found {', '.join(mean)}")
    return statistics.fmean(mean.values())


def _read_by(rule: Rule, measures: Mapping[str, Any]) -> Any:
    """Return what a rule reads of all experts in place of norms: names, or numbers of examples; None if it reads norms."""
    experts, what = tuple(measures["experts"]), what_it_reads(rule)
    if what == "examples" and measures.get(what) is None:
        raise UserError(f"coefficients: the number of training examples is not known for {', '.join(experts)}; state `examples`")
    return {"names": experts, "examples": measures.get("examples")}.get(what)


def _norms(measures: Mapping[str, Any], key: str, of: str, scope: str = MODEL, only: str = "") -> dict[str, np.ndarray]:
    """Return the norms (T,) of every row of a table; `key` is the hyper-parameter that names what they are taken of."""
    if only and not any(re.search(only, tensor) for tensor in measures["tensors"]):
        raise UserError(f"coefficients: only: {only!r} is found in none of the {len(measures['tensors'])} merged tensors' names")
    squares: dict[str, list[list[float]]] = {}
    for tensor, sums in measures["tensors"].items():
        if of not in sums:
            way_out = "; name `calibration:` too" if of == "calibration" else "; give the file of measures that has it"
            found = sorted(sums.keys() - {"numel"})
            raise UserError(f"coefficients: {key}: {of}: was not measured, only {found}{way_out}")
        counts = bool(re.search(only, tensor))
        squares.setdefault(row_of(tensor, scope), []).append([counts * square for square in sums[of]])
    return {row: np.sqrt([math.fsum(column) for column in zip(*parts, strict=True)]) for row, parts in sorted(squares.items())}


def _scaled(rule: Rule, weights: np.ndarray, mean: float | None, total: float | None) -> np.ndarray:
    """Scale what a rule returns, (T,), to a mean coefficient or to a sum (default 1)."""
    if is_finished(rule):
        return weights
    if gives_factors(rule):
        return weights * (mean if mean is not None else (1.0 if total is None else total) / len(weights))
    return weights * (mean * len(weights) if mean is not None else 1.0 if total is None else total)


def _mean(rule: Rule, experts: int, mean: float | None, total: float | None) -> float | None:
    """Return the mean coefficient that a rule gives by construction, None where it depends on the norms."""
    bound = functools.partial(rule)
    if finished := getattr(bound.func, "mean", None):
        return None if varies(bound.keywords) or bound.keywords.get("normalise") else float(finished(**bound.keywords))
    if gives_factors(rule):
        return None
    return mean if mean is not None else 1 / experts * (1.0 if total is None else total)
