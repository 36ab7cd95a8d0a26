"""The figure of searches of hyper-parameters: best validation score so far against trials."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nan_merge.reporting.figure_style import curve_styles, empty_figure
from nan_merge.reporting.searches import in_order
from nan_merge.reporting.study import Study


def search_figure(study: Study, record: dict[str, Any]) -> tuple[Figure, str]:
    """Draw the best average on validation so far against the number of trials, a step a method, the mean over seeds."""
    entries = in_order(study)
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
