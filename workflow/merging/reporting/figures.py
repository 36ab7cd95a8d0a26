"""The figures, one function a kind. Same study, same bytes: no dates, fixed salt, no random placement."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from merging.provenance import publish
from merging.reporting import norms
from merging.reporting.formats import percent
from merging.reporting.records import Study
from merging.reporting.statistics import INDIVIDUAL, Estimate, average_of, summarise
from merging.results import UserError

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#666666"
STYLE = {
    "svg.hashsalt": "merging", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 9,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e3e3e3", "grid.linewidth": 0.6,
    "axes.axisbelow": True, "legend.frameon": False, "legend.fontsize": 8.5, "figure.constrained_layout.use": True,
    "axes.unicode_minus": True,
}


def draw_figure(study: Study, record: dict[str, Any], output: Path | str) -> None:
    """Write one figure of `config/tables.yaml` as `output`.svg and .png; the SVG carries its title and caption."""
    if record["kind"] not in KINDS:
        raise UserError(f"config/tables.yaml: figure {record['id']!r} has kind {record['kind']!r}; known: {', '.join(KINDS)}")
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "agg", **STYLE}):
        figure, caption = KINDS[record["kind"]](study, record)
        title = f"{record['title']}: {study.suite.get('label', study.suite['id'])}"
        described = {"Date": None, "Title": title, "Description": caption, "Creator": None}
        for suffix, metadata in ((".svg", described), (".png", {"Software": None, "Title": title})):
            with publish(Path(f"{output}{suffix}")) as part:
                figure.savefig(part, format=suffix[1:], dpi=160, metadata=metadata)


def colours(study: Study) -> dict[str, str]:
    """Return a colour for each group of methods, the same in every figure of a list of methods."""
    groups = dict.fromkeys(method.get("group") or "" for method in study.methods)
    return {group: OKABE_ITO[index % len(OKABE_ITO)] for index, group in enumerate(groups)}


def _nothing(what: str) -> tuple[Figure, str]:
    figure = Figure(figsize=(6, 1.2))
    figure.text(0.5, 0.5, what, ha="center", va="center", color=GREY)
    return figure, what


def accuracy(study: Study, record: dict[str, Any]) -> tuple[Figure, str]:
    """Heat map of methods by tasks, with the averages and their intervals as dots beside it."""
    rows = summarise(study)
    if not rows or not study.tasks:
        return _nothing("No method was scored in this suite.")
    best = next((row.tasks for row in rows if row.method["id"] == INDIVIDUAL), {})
    figure = Figure(figsize=(5.0 + 0.72 * len(study.tasks), 1.5 + 0.27 * len(rows)))
    heat, dots = figure.subplots(1, 2, sharey=True, width_ratios=(0.72 * len(study.tasks), 3.0))
    shown = np.full((len(rows), len(study.tasks)), np.nan)
    for i, row in enumerate(rows):
        for j, task in enumerate(study.tasks):
            cell, top = row.tasks[task["id"]], best.get(task["id"], Estimate(None)).value
            if cell.value is not None:
                shown[i, j] = cell.value / top if top else cell.value
    floor, top = (float(np.nanmin(shown)), float(np.nanmax(shown))) if np.isfinite(shown).any() else (0.0, 1.0)
    heat.imshow(np.ma.masked_invalid(shown), aspect="auto", cmap="Blues", vmin=floor, vmax=floor + (top - floor + 0.01) / 0.6)
    for i, row in enumerate(rows):
        for j, task in enumerate(study.tasks):
            text = percent(row.tasks[task["id"]].value) or "–"
            heat.text(j, i, text, ha="center", va="center", fontsize=8)
    heat.set_xticks(range(len(study.tasks)), [task.get("label", task["id"]) for task in study.tasks], rotation=35,
                    ha="left", rotation_mode="anchor")
    heat.set_yticks(range(len(rows)), [row.method.get("label", row.method["id"]) for row in rows])
    heat.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    heat.spines[:].set_visible(False)
    heat.grid(False)
    _averages(study, rows, dots)
    for label, row in zip(heat.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row.method.get("host") else "normal")
    measure = "accuracy relative to the individual model of the task" if best else "accuracy"
    return figure, (f"Accuracy in %; shade: {measure}. Right: average over tasks with its 95 % interval over test examples"
                    + (" (small dots: single fine-tuning seeds)" if len(study.seeds) > 1 else "")
                    + ". NAN rows are bold, with diamonds. The intervals of two methods on the same examples are not "
                      "independent: see the paired comparisons. A dash is a missing score.")


def _averages(study: Study, rows: list, axes: Axes) -> None:
    palette = colours(study)
    for i, row in enumerate(rows):
        colour = palette[row.method.get("group") or ""]
        if row.average.value is None:
            axes.text(0.02, i, "no average: a score is missing", transform=axes.get_yaxis_transform(), va="center",
                      fontsize=7.5, color=GREY)
            continue
        axes.plot([100 * row.average.low, 100 * row.average.high], [i, i], color=colour, linewidth=1.4)
        if len(row.average.by_seed) > 1:
            axes.plot([100 * value for value in row.average.by_seed], [i] * len(row.average.by_seed), ".", color="black",
                      markersize=3, zorder=4)
        axes.plot(100 * row.average.value, i, "D" if row.method.get("host") else "o", color=colour, markersize=5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("average accuracy in %")
    diamonds = {row.method.get("group") or "" for row in rows if row.method.get("host")}
    handles = [Line2D([], [], color=colour, marker="D" if group in diamonds else "o", linewidth=1.4, markersize=5, label=group or "methods")
               for group, colour in palette.items()]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, handlelength=1.4, columnspacing=1)


def selection(study: Study, record: dict[str, Any]) -> tuple[Figure, str]:
    """Validation accuracy of the candidates of each tuned method against λ; the chosen value is ringed."""
    curves = candidates(study)
    if not curves:
        return _nothing("No hyper-parameter was selected in this suite.")
    figure = Figure(figsize=(6.6, 3.6))
    axes = figure.subplots()
    for index, (method, points) in enumerate(curves.items()):
        colour = OKABE_ITO[index % len(OKABE_ITO)]
        values = sorted(value for value, estimate in points.items() if estimate.value is not None)
        heights = np.array([[100 * getattr(points[value], name) for value in values] for name in ("value", "low", "high")])
        axes.fill_between(values, heights[1], heights[2], color=colour, alpha=0.12, linewidth=0)
        axes.plot(values, heights[0], "o-", color=colour, markersize=4, linewidth=1.4, label=study.label(method))
        picked = [value for value in chosen(study, method) if value in values]
        axes.plot(picked, [heights[0][values.index(value)] for value in picked], "o", markersize=11, markerfacecolor="none",
                  markeredgecolor=colour, markeredgewidth=1.6, label=f"chosen: λ = {', '.join(f'{v:g}' for v in picked)}")
    averaging = 1 / len(study.tasks)
    for value, style, name in ((averaging, ":", "1/T (averaging)"), (record.get("fixed"), "--", "fixed λ")):
        if value is not None:
            axes.axvline(value, color=GREY, linestyle=style, linewidth=1, label=f"{name} = {value:.3g}")
    for row in summarise(study, "validation_accuracy"):
        if row.average.value is not None:
            axes.axhline(100 * row.average.value, color=GREY, linewidth=0.8, linestyle="-.", label=row.method.get("label"))
    axes.set_xlabel("λ (mean coefficient of a task vector)")
    axes.set_ylabel("average validation accuracy in %")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure, ("Average over tasks of the accuracy on the validation split, which shares no example with the test split; "
                    "band: 95 % interval over validation examples. Ringed: the value that was selected there and only then tested.")


def candidates(study: Study) -> dict[str, dict[float, Estimate]]:
    """Return the validation averages of `<method>-<value>` by method and value."""
    found: dict[str, dict[float, Estimate]] = {}
    known = {method["id"] for method in study.methods}
    for name in dict.fromkeys(row.method for row in study.scores if row.metric == "validation_accuracy"):
        method, _, value = name.rpartition("-")
        if method in known:
            found.setdefault(method, {})[float(value)] = average_of(study, name, "validation_accuracy")
    return {method["id"]: found[method["id"]] for method in study.methods if method["id"] in found}


def chosen(study: Study, method: str) -> list[float]:
    """Return the values that validation chose for a method, each once, smallest first."""
    return sorted({float(table["chosen"]) for table in study.coefficients
                   if table["method"] == method and table.get("chosen") is not None})


def coefficients(study: Study, record: dict[str, Any]) -> tuple[Figure, str]:
    """NAN's shares against the norm they come from and against the amount of data."""
    measured = norms.experts(study)
    if not measured:
        return _nothing("No norms were measured in this suite.")
    names, sizes = list(measured), study.sizes
    figure = Figure(figsize=(9.2, 3.9))
    left, right = figure.subplots(1, 2, sharey=True)
    series = (("weights", "from ‖W‖", "s", OKABE_ITO[4], 8), ("task_vector", "from ‖τ‖", "o", OKABE_ITO[0], 12))
    spreads: dict[str, float] = {}
    numbers = {"ha": "center", "va": "center_baseline", "fontsize": 7.5, "color": "white", "fontweight": "bold"}
    for of, label, marker, colour, width in series:
        alpha = np.array([measured[name][f"alpha_{of}"].mean() for name in names])
        norm = np.array([measured[name][of].mean() for name in names])
        look = {"color": colour, "markersize": width, "markeredgecolor": "white", "markeredgewidth": 0.8, "linestyle": "none"}
        known = [i for i, name in enumerate(names) if name in sizes]
        places = [(left, norm / norm.mean(), range(len(names))),
                  (right, np.array([sizes.get(name, 0) for name in names]), known)]
        for axes, x, kept in places:
            axes.plot(x[list(kept)], alpha[list(kept)], marker, label=f"α {label}", **look)
            for i in kept if of == "task_vector" else ():
                axes.text(x[i], alpha[i], str(i + 1), **numbers)
        spreads[of] = norms.relative_spread(alpha)
    for axes in (left, right):
        axes.axhline(1 / len(names), color=GREY, linestyle=":", linewidth=1, label="uniform, 1/T")
    if len(sizes) == len(study.tasks):
        order = sorted(sizes.values())
        right.plot(order, [size / sum(order) for size in order], "--", color=GREY, linewidth=1, label="share of data")
        right.set_xscale("log")
        _plain_log(right, order)
    right.set_xlabel("training examples (log scale)")
    left.set_xlabel("norm of the expert / mean over experts")
    left.set_ylabel("share α of the coefficients")
    handles = {handle.get_label(): handle for axes in (left, right) for handle in axes.get_lines()
               if not handle.get_label().startswith("_")}
    numbered = [Line2D([], [], linestyle="none", label=f"{i + 1}  {study.label(name)}") for i, name in enumerate(names)]
    right.legend(handles=[*handles.values(), *numbered], loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.6)
    return figure, ("NAN's shares α (inverse norms, whole model, summing to 1). The largest share exceeds the smallest by "
                    f"{100 * spreads['weights']:.2g} % with norms of whole weights and by {100 * spreads['task_vector']:.2g} % "
                    "with norms of task vectors. Dashed: shares in proportion to the training-set size, which NAN's derivation "
                    "aims at." + (" Mean over fine-tuning seeds." if len(study.measures) > 1 else ""))


def premise(study: Study, record: dict[str, Any]) -> tuple[Figure, str]:
    """Inverse norms against the number of examples, for equal steps and for equal epochs."""
    if not study.premise:
        return _nothing("The premise was not measured in this suite.")
    figure = Figure(figsize=(9.2, 3.6))
    panels = figure.subplots(1, 2, sharey=True)
    tasks = list(dict.fromkeys(row["task"] for row in study.premise))
    looks = {"steps": (OKABE_ITO[0], "-"), "epochs": (OKABE_ITO[1], "--")}
    for axes, of, name in zip(panels, norms.NORMS, ("1/‖W‖ (weights)", "1/‖τ‖ (task vector)"), strict=True):
        drawn = norms.lines(study, of)
        for line in drawn:
            colour, style = looks.get(line.protocol, (GREY, ":"))
            marker = "osD^vP*X"[tasks.index(line.task) % 8]
            axes.plot(line.examples, line.inverse, marker=marker, color=colour, linestyle=style, markersize=5.5,
                      markerfacecolor="white", linewidth=1.4)
        axes.set_xscale("log")
        _plain_log(axes, sorted({int(value) for line in drawn for value in line.examples}))
        axes.set_title(f"{name}: largest change along a line {100 * max(norms.relative_spread(line.inverse) for line in drawn):.3g} %")
        axes.set_xlabel("training examples (log scale)")
    panels[0].set_ylabel("inverse norm / mean of its line")
    handles = [Line2D([], [], color=colour, linestyle=style, label=f"equal {protocol}")
               for protocol, (colour, style) in looks.items() if any(row["protocol"] == protocol for row in study.premise)]
    handles += [Line2D([], [], color=GREY, linestyle="none", marker="osD^vP*X"[i % 8], markersize=5, label=study.label(task))
                for i, task in enumerate(tasks)]
    panels[1].legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure, ("Each line is one task, fine-tuned from the same base on nested subsets of growing size, either for equally "
                    "many steps or for equally many epochs. NAN's premise is that 1/norm grows with the number of examples.")


def _plain_log(axes: Axes, ticks: list[int]) -> None:
    """Label a log axis at the data, leaving out labels that would touch."""
    kept: list[int] = []
    for tick in ticks:
        if not kept or np.log(tick / kept[-1]) > 0.11 * np.log(max(ticks) / min(ticks) + 1e-9):
            kept.append(tick)
    axes.set_xticks(kept, [f"{tick:,}" for tick in kept])
    axes.minorticks_off()


KINDS: dict[str, Callable[[Study, dict[str, Any]], tuple[Figure, str]]] = {
    "accuracy": accuracy, "selection": selection, "coefficients": coefficients, "premise": premise,
}
