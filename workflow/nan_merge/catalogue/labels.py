"""Fill labels and summaries with the values of a method, so that no number stands in prose."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

from nan_merge.core.errors import UserError
from nan_merge.methods.recipe import STAGES, hyper_parameters, operator_in
from nan_merge.methods.search_space import names
from nan_merge.methods.varying import numbers, varies

TEXTS = ("label", "summary")
CHOSEN = "chosen on validation"


def described(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a method with its label and summary filled: `{value}` stands for the hyper-parameter of that name.

    `{value}` is also the mean coefficient of a rule that took it over from its host. A hyper-parameter that is tuned reads
    "chosen on validation", or "λ on validation" for λ = {value}. Raises UserError for a name
    that is none of the method's hyper-parameters.
    """
    values: dict[str, Any] = {}
    for stage in STAGES:
        name, given = operator_in(record, stage, where)
        values |= {key: default for key, (_, default) in hyper_parameters(STAGES[stage][name]).items()} | given
    values |= dict.fromkeys(names(record["tune"]) if "tune" in record else (), CHOSEN)
    total = values.get("total")
    values.setdefault("value", f"{total:g}/T" if isinstance(total, int | float) else total or values.get("mean"))
    filled = dict(record)
    try:
        filled |= {text: FORMATTER.vformat(record[text], (), values).replace(f"= {CHOSEN}", "on validation") for text in TEXTS}
        if "sweep" in record:
            filled["sweep"] = {**record["sweep"], "label": FORMATTER.vformat(record["sweep"]["label"], (), values)}
        return filled
    except KeyError as error:
        raise UserError(
            f"{where}: label, summary: {error} is no hyper-parameter of the method; known: {sorted(values)}"
        ) from None
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        raise UserError(f"{where}: label, summary: {error}; expected text with names in braces, as {{value}}") from None


class _Formatter(string.Formatter):
    """Format as `str.format` does, with a space before %, short floats, and texts and absent values as they are.

    Of a number that varies over the tensors or by expert it gives the smallest and the largest.
    """

    def format_field(self, value: Any, format_spec: str) -> str:
        """Return one value as text."""
        if value is None:
            return "as given"
        if varies(value) or isinstance(value, Mapping):
            low, high = (self.format_field(end, format_spec) for end in (min(numbers(value)), max(numbers(value))))
            return low if low == high else f"{low} to {high}"
        if not isinstance(value, int | float):
            return str(value)
        text = format(value, format_spec or ("g" if isinstance(value, float) else ""))
        return text.replace("%", " %")


FORMATTER = _Formatter()
