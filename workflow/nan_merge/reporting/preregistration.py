"""What was registered before a run: claims with their hypotheses, and what the design could detect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nan_merge.reporting.finding import EXPONENT, METRICS, Finding
from nan_merge.reporting.formats import BREAK, Table, count, markdown, number_of
from nan_merge.reporting.statistics import LEVEL, POWER, detectable
from nan_merge.reporting.study import Study


def label_of(study: Study) -> str:
    """Return the label of a suite, or its id."""
    return str(study.suite.get("label") or study.suite["id"])


def preregistration(studies: Sequence[Study], registered: Mapping[str, Any], found: Sequence[Finding]) -> Iterator[str]:
    """Yield the section: how claims are judged, their hypotheses, and the power of the design."""
    smallest, assumed = registered["smallest_effect"], registered["assumed"]
    yield (
        f"`config/claims.yaml` states {number_of(len(registered['claims']), 'claim')} with contrasts, metrics and smallest "
        "effects of interest; verdicts are computed from them and from the numbers of the run. Every hypothesis is that an "
        "effect is above zero. The test is that of all comparisons, paired over the same examples, and over seeds where there "
        "are several; p is adjusted with Holm's method over the hypotheses of a suite."
    )
    yield from [
        "",
        f"- *Reproduced*: p (Holm) below {1 - LEVEL:.2f} and a 95 % interval above zero. *Opposite*: the same below zero.",
        "- *Not reproduced*: two one-sided tests at 5 % (TOST, not adjusted) exclude every effect, of either sign, as large as "
        "the smallest one of interest. This comes first: an effect that differs from zero can be too small to be of interest.",
        "- *Undecided*: none of these. *Not testable here*: a method or a measurement that the run does not have.",
        "",
        *markdown(_hypotheses(registered, smallest)),
        "",
        "What the design could detect, before any score was known:",
        "",
        *markdown(_power(studies, assumed, found)),
        "",
    ]


def _hypotheses(registered: Mapping[str, Any], smallest: Mapping[str, float]) -> Table:
    table = Table("", ["Claim", "Above zero", "Metric", "Smallest effect", "Control"], text=(0, 1, 2, 4))
    for claim in registered["claims"]:
        if measure := claim.get("measure"):
            tested, metrics, kind = (
                [f"b of 1/norm ({measure['norm'].replace('_', ' ')}) ∝ {measure['of']}^b"],
                [EXPONENT],
                EXPONENT,
            )
        else:
            tested = [*dict.fromkeys(f"{each['method']} − {each['against']}" for each in claim["contrasts"])]
            metrics, kind = claim.get("metrics", ["average"]), "points"
        least = f"{claim.get('smallest_effect', smallest[kind]):g}{'' if measure else ' points'}"
        named = BREAK.join(METRICS[each] for each in metrics)
        table.add([claim["id"], BREAK.join(tested) or "no suite of the run", named, least, claim["control"]], {})
    return table


def _power(studies: Sequence[Study], assumed: Mapping[str, float], found: Sequence[Finding]) -> Table:
    table = Table("", ["Suite", "Seeds", "Tasks", "Test examples", "Hypotheses", "Detectable, points"])
    for study in studies:
        family = max((each.family for each in found if each.suite == study.suite["id"] and each.effect), default=1)
        sizes = test_sizes(study)
        error = planned_error(list(sizes.values()), len(study.seeds), assumed)
        table.add([label_of(study), *map(str, (len(study.seeds), len(sizes))), count(sum(sizes.values())), str(family),
                   "" if not error or not sizes else f"{100 * (detectable(error, family) or 0):.2f}"], {})  # fmt: skip
    table.notes = [
        f"Detectable: the true difference of averages found with a chance of {100 * POWER:.0f} % at the first step of Holm's "
        f"adjustment, if {100 * assumed['discordant']:g} % of the examples are answered correctly by only one of two methods and "
        f"differences vary over seeds with a standard deviation of {assumed['deviation']:g} points. Both are assumptions; of one "
        "seed the choice of examples alone counts."
    ]
    return table


def planned_error(sizes: Sequence[int], seeds: int, assumed: Mapping[str, float]) -> float:
    """Return the standard error of a difference of averages, as a fraction, from numbers of test examples and assumptions.

    sqrt(q / T^2 sum 1 / n_t + s^2 / R): a share q of the n_t examples of each of T tasks is discordant, differences vary over
    R > 1 seeds with the standard deviation s. Conservative: the answers of several seeds to an example count as one.
    """
    examples = assumed["discordant"] * sum(1 / size for size in sizes) / max(1, len(sizes)) ** 2
    return float(np.sqrt(examples + ((assumed["deviation"] / 100) ** 2 / seeds if seeds > 1 else 0)))


def test_sizes(study: Study) -> dict[str, int]:
    """Return the test examples by task: of the prepared data, or of the scores where these are not known."""
    known = {task: record.get("splits", {}).get("test") for task, record in study.datasets.items()}
    scored = {score.task: score.n for score in study.reported()}
    return {task["id"]: size for task in study.tasks if (size := known.get(task["id"]) or scored.get(task["id"]))}
