"""The searches of hyper-parameters: best validation score so far against trials, and how optimistic the best one is."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nan_merge.reporting.figure_style import curve_styles, empty_figure
from nan_merge.reporting.formats import Table, percent
from nan_merge.reporting.study import Study, spelt_point

HEADER = ["Method", "Search", "Trials", "First", "Best", "Cross-validated", "Optimism", "Chosen"]
COST = ["Pruned", "Scored"]  # behind the trials
PRUNED = (
    "Pruned: trials that were stopped after a task, since their average over the tasks so far was below the median of the "
    "complete trials of earlier rounds; they are no part of the choice and of its cross-validation. –: a search that stops none. "
    "Scored: % of the validation examples of all trials."
)


def search_table(study: Study, record: dict[str, Any]) -> Table:
    """One row a method and seed that chose on validation: trials, scores of the first and the best, what was chosen.

    Where trials could be pruned, the row says how many were, and which share of the validation examples was scored.
    """
    entries = _in_order(study)
    pruning = any("cost" in entry for entry in entries)
    header = [*HEADER[:3], *COST, *HEADER[3:]] if pruning else HEADER
    table = Table(study.title(record), header, text=(0, 1, len(header) - 1))
    for entry in entries:
        optimism = f"{100 * entry['optimism']:.1f}".replace("-", "−")
        numbers = [percent(entry["trace"][0]["average"]), percent(entry["best"]), percent(entry["cross_validated"]), optimism]
        kept = {key: entry[key] for key in ("method", "seed", "search", "trials", "best", "cross_validated", "optimism")}
        found, cost, point = entry.get("cost", {}), [], spelt_point(entry["point"])
        if pruning:
            cost = [str(found["pruned"]), percent(found["examples_scored"] / found["examples"])] if found else ["–", "100.0"]
        table.add(
            [study.label(entry["method"]), entry["search"], str(entry["trials"]), *cost, *numbers, point],
            {**kept, **found, "first": entry["trace"][0]["average"], "chosen": entry["chosen"], "point": point},
            entry["method"],
        )
    table.notes = [*_notes(study), *[PRUNED] * pruning]
    return table


def _notes(study: Study) -> list[str]:
    return [
        f"Average over tasks of the {study.measure} in % on the validation splits; no test example is used. Trials: merges that "
        "were made and scored. First: the first trial, which tpe and cma_es make of the method as it is.",
        "Cross-validated: over five folds of the validation examples, the best trial on four is scored on the fifth. Optimism: "
        "best less cross-validated, in percentage points: the part of the best score that comes of choosing among the trials. "
        "That tpe and cma_es proposed them by scores on the same examples is not in it. The test split has no part in either.",
    ]


def search_figure(study: Study, record: dict[str, Any]) -> tuple[Figure, str]:
    """Draw the best average on validation so far against the number of trials, a step a method, the mean over seeds."""
    entries = _in_order(study)
    if not entries:
        return empty_figure("No hyper-parameter was searched in this suite.")
    shown = dict.fromkeys(entry["method"] for entry in entries)
    figure = Figure(figsize=(6.6, 3.4 + 0.2 * len(shown)))
    axes = figure.subplots()
    styles = curve_styles(method for method in study.methods if method["id"] in shown)
    for method in shown:
        runs = [entry["trace"] for entry in entries if entry["method"] == method]
        colour, marker = styles[method]
        best = [100 * fmean(trial["best"] for trial in trials) for trials in zip(*runs, strict=True)]
        better = [trial for trial, value in enumerate(best) if value > max(best[:trial], default=0.0)]
        look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.4, "drawstyle": "steps-post"}
        look["markevery"] = better
        axes.plot(range(1, len(best) + 1), best, label=study.label(method), **look)
        if stopped := [number for number, trials in enumerate(zip(*runs, strict=True)) if any("pruned" in t for t in trials)]:
            axes.plot([number + 1 for number in stopped], [best[number] for number in stopped], "x", color=colour, markersize=6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trials")
    axes.set_ylabel(f"best average validation {study.measure} in %")
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, -0.18))
    pruned = any("pruned" in trial for entry in entries for trial in entry["trace"])
    crosses = f" ×: trials that were pruned{', of any seed' * (len(study.seeds) > 1)}." if pruned else ""
    return figure, (
        f"Best average over tasks of the {study.measure} on the validation splits among the first trials. Points of a grid and "
        "of sobol do not depend on earlier scores, those of tpe and cma_es do. The best of many is optimistic, by what the table "
        "of searches says" + ("; mean over seeds." if len(study.seeds) > 1 else ".") + crosses
    )


def _in_order(study: Study) -> list[dict[str, Any]]:
    """Return the searches of the shown methods, in the order of the rows, then of the seeds."""
    place = {method["id"]: row for row, method in enumerate(study.methods)}
    return sorted((e for e in study.searches if e["method"] in place), key=lambda e: (place[e["method"]], e["seed"]))
