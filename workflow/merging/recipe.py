"""Bind a method's sentence (names and hyper-parameters) to functions; nothing here knows any method by name."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from merging import ace, coefficients, combine, covariance, geometry, postprocess, preprocess, sparsify, spectral
from merging import spectral_rescale as rescale
from merging.results import UserError

Word = Callable[..., Any]
PREPROCESS = preprocess.PREPROCESS | sparsify.PREPROCESS | rescale.PREPROCESS
COMBINE = combine.COMBINE | sparsify.COMBINE | geometry.COMBINE | spectral.COMBINE | covariance.COMBINE | ace.COMBINE
SLOTS: dict[str, dict[str, Word]] = {
    "preprocess": PREPROCESS,
    "coefficients": coefficients.COEFFICIENTS,
    "control": coefficients.CONTROL,
    "combine": COMBINE,
    "postprocess": postprocess.POSTPROCESS | rescale.POSTPROCESS,
}
DEFAULTS = {
    "preprocess": "identity",
    "coefficients": "uniform",
    "control": "kept",
    "combine": "weighted_sum",
    "postprocess": "unchanged",
}


@functools.cache  # asked for by every method of every suite before the graph is built
def hyper_parameters(word: Word) -> Mapping[str, tuple[Any, Any]]:
    """Return the annotation and the default (`inspect.Parameter.empty` if there is none) of each hyper-parameter of a word."""
    hints = get_type_hints(word, include_extras=True)
    return {p.name: (hints[p.name], p.default) for p in inspect.signature(word).parameters.values() if p.kind is p.KEYWORD_ONLY}


OF_THE_TABLE = hyper_parameters(coefficients.estimate)  # of every coefficient word: which norms, over what


@dataclass(frozen=True)
class Recipe:
    """The bound functions of one method; `trim` holds the arguments of `measure.thresholds`, for a method that trims."""

    preprocess: functools.partial[Any]
    estimate: functools.partial[Any]
    combine: functools.partial[Any]
    postprocess: functools.partial[Any]
    trim: dict[str, Any] | None

    @property
    def whole(self) -> bool:
        """Whether a word must see whole tensors; otherwise the merge goes piece by piece."""
        return any(getattr(word.func, "whole", False) for word in (self.preprocess, self.combine, self.postprocess))

    @property
    def is_linear(self) -> bool:
        """Whether the merge is theta_0 + sum_t c_t tau_t."""
        words = (self.preprocess.func, self.combine.func, self.postprocess.func)
        return words == (preprocess.identity, combine.weighted_sum, postprocess.unchanged)

    def fused(self) -> tuple[Word, Word]:
        """Return `preprocess` and `combine` as kernels where there are any: same bytes, on arrays that may be overwritten."""
        from merging.fused import STAND_INS  # loads numba

        first, second = (
            functools.partial(STAND_INS.get(word.func, word.func), **word.keywords) for word in (self.preprocess, self.combine)
        )
        return first, second


def bind(sentence: Mapping[str, Any], method: str = "method") -> Recipe:
    """Bind `{slot: {word: {hyper-parameter: value}}}`; unknown slots, words and hyper-parameters are UserErrors."""
    for slot in sentence:
        if slot not in SLOTS:
            raise UserError(f"method '{method}': no slot {slot!r}{_nearest(slot, SLOTS)}")
    parts = {slot: word_of(sentence.get(slot, DEFAULTS[slot]), slot, method) for slot in SLOTS}
    table = {k: parts["coefficients"][1].pop(k) for k in OF_THE_TABLE.keys() & parts["coefficients"][1].keys()}
    bound = {slot: functools.partial(SLOTS[slot][name], **given) for slot, (name, given) in parts.items()}
    name, given = parts["preprocess"]
    takes = hyper_parameters(SLOTS["preprocess"][name])
    trim = {k: given.get(k, takes[k][1]) for k in ("density", "scope")} if name == "trim" else None
    estimate = functools.partial(coefficients.estimate, word=bound["coefficients"], control=bound["control"], **table)
    return Recipe(bound["preprocess"], estimate, bound["combine"], bound["postprocess"], trim)


def word_of(entry: Any, slot: str, method: str = "method") -> tuple[str, dict[str, Any]]:
    """Read `word` or `{word: {hyper-parameter: value}}` of one slot and check it against the word's signature."""
    if not isinstance(entry, str) and (not isinstance(entry, Mapping) or len(entry) != 1):
        raise UserError(f"method '{method}': {slot} takes one word, or one word with its hyper-parameters; found {entry!r}")
    name, given = (entry, {}) if isinstance(entry, str) else next(iter(entry.items()))
    given = given or {}
    if name not in SLOTS[slot]:
        raise UserError(f"method '{method}': {slot} has no word {name!r}{_nearest(name, SLOTS[slot])}")
    takes = hyper_parameters(SLOTS[slot][name]).keys() | (OF_THE_TABLE.keys() if slot == "coefficients" else set())
    for key in given:
        if key not in takes:
            raise UserError(f"method '{method}': {slot} '{name}' takes {sorted(takes)}, not {key!r}{_nearest(key, takes)}")
    return name, dict(given)


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {sorted(known)}"
