"""One hypothesis of a claim: its effect, its verdict, and what would change it; every word about a number is made from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from scipy.stats import norm

from nan_merge.reporting.statistics import LEVEL, POWER, detectable

REPRODUCED, NOT_REPRODUCED, OPPOSITE = "reproduced", "not reproduced", "opposite"
UNDECIDED, UNTESTABLE = "undecided", "not testable here"
VERDICTS = (REPRODUCED, NOT_REPRODUCED, OPPOSITE, UNDECIDED, UNTESTABLE)  # in the order in which they are counted
EXPONENT = "exponent"
MOST = 100  # times the sample of the run; what would need more is not counted out
METRICS = {"average": "average", "weighted_average": "weighted average", EXPONENT: "exponent b"}


class Effect(NamedTuple):
    """A difference in points or an exponent, with 95 % limits and a two-sided p, neither adjusted.

    `within` is what two one-sided tests at 5 % exclude from, either way (TOST, Schuirmann 1987). `n` are examples of one seed, or
    models for an exponent, `improvement` the share of tasks and seeds on which the method is above the other.
    """

    difference: float
    low: float
    high: float
    within: float
    p: float
    n: int
    seeds: int
    improvement: float | None = None

    @property
    def error(self) -> float:
        """The standard error, from the width of the interval by the normal approximation."""
        return (self.high - self.low) / (2 * float(norm.ppf((1 + LEVEL) / 2)))


@dataclass
class Finding:
    """One hypothesis of a claim on one suite: that its effect is above zero.

    `effect` is None where it could not be tested, with the reason `missing`; `p` is adjusted over the `family` hypotheses of the
    suite.
    """

    claim: Mapping[str, Any]
    suite: str
    method: str
    against: str
    name: str
    metric: str
    smallest: float
    effect: Effect | None = None
    missing: str = ""
    p: float = 1.0
    family: int = 1

    @property
    def key(self) -> tuple[str, ...]:
        """What makes two hypotheses the same one."""
        return (self.suite, self.method, self.against, self.metric)

    @property
    def verdict(self) -> str:
        """The verdict: too small to be of interest comes before significance, since the smallest effect was fixed beforehand."""
        if self.effect is None:
            return UNTESTABLE
        if self.effect.within < self.smallest:
            return NOT_REPRODUCED
        if self.p < 1 - LEVEL and (self.effect.low > 0 or self.effect.high < 0):
            return REPRODUCED if self.effect.low > 0 else OPPOSITE
        return UNDECIDED

    @property
    def unit(self) -> str:
        """The unit of the effect in words; an exponent has none."""
        return "" if self.metric == EXPONENT else " points"

    @property
    def detectable(self) -> float | None:
        """The minimal detectable effect, by the observed standard error; see `statistics.detectable`."""
        return detectable(self.effect.error, self.family) if self.effect else None

    @property
    def change(self) -> str:
        """What would change the verdict, from the numbers."""
        if self.effect is None:
            return f"{self.missing}."
        effect, unit = self.effect, self.unit
        if self.verdict == UNDECIDED:
            equal = f"A 90 % interval within ±{self.smallest:g}{unit} (it reaches {effect.within:.2f})"
            excluded = f"; an effect of +{self.smallest:g}{unit} is excluded already" if effect.high < self.smallest else ""
            return f"{equal}, or p (Holm) below {1 - LEVEL:.2f}{excluded}; {self._needed(effect)}."
        if self.verdict == NOT_REPRODUCED and effect.within == 0:
            return "Two models: here the methods give one."
        if self.verdict == NOT_REPRODUCED:
            limit = f"of {effect.within:.2f}{unit} or less" if effect.within >= 0.005 else f"below 0.01{unit}"
            return f"A smallest effect of interest {limit}."
        margin, half = min(abs(effect.low), abs(effect.high)), (effect.high - effect.low) / 2
        times = abs(effect.difference) / half
        return f"An effect nearer to zero by {margin:.2f}{unit}, or an interval {times:.1f} times as wide."

    def _needed(self, effect: Effect) -> str:
        """Say how large a sample would detect the smallest effect of interest, if the standard error shrinks with its root."""
        needed = detectable(1.0, self.family) or 1.0
        factor = (effect.error * needed / self.smallest) ** 2
        if factor > MOST:
            return f"more than {MOST} times the sample would be needed to detect {self.smallest:g}{self.unit}"
        chance = f"{self.smallest:g}{self.unit} with a chance of {100 * POWER:.0f} %"
        if factor <= 1:
            return f"the sample is large enough to detect {chance}"
        if self.metric == EXPONENT:
            return f"{math.ceil(factor * effect.n):,} models in place of {effect.n:,} would detect {chance}"
        sample = f"{math.ceil(factor * effect.n):,} test examples in place of {effect.n:,}"
        more = f"{math.ceil(factor * effect.seeds)} seeds in place of {effect.seeds} and " if effect.seeds > 1 else ""
        return f"{more}{sample} would detect {chance}"
