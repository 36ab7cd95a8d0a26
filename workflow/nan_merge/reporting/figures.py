"""Draw the figures of config/tables.yaml. Same study, same bytes: no dates, fixed salt, no random placement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nan_merge.core.atomic import atomic_write
from nan_merge.core.errors import UserError
from nan_merge.core.escape import visible
from nan_merge.reporting import norm_figures, subset_figures
from nan_merge.reporting.figure_style import GREY, GROUPS, STYLE, colour_of, curve_styles, empty_figure
from nan_merge.reporting.formats import percent
from nan_merge.reporting.search_figures import search_figure
from nan_merge.reporting.statistics import INDIVIDUAL, Estimate, candidates, summarise
from nan_merge.reporting.study import Study

AXES = {"λ": "λ (mean coefficient of a task vector)", "p": "p (exponent of the norm: 0 uniform, 1 NAN)"}


def draw_figure(study: Study, record: dict[str, Any], output: Path | str) -> None:
    """Write one figure of `config/tables.yaml` as `output`.svg, .pdf and .png; the SVG carries its title and caption."""
    if record["kind"] not in KINDS:
        raise UserError(f"config/tables.yaml: figure {record['id']!r} has kind {record['kind']!r}; known: {', '.join(KINDS)}")
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
        figure, caption = KINDS[record["kind"]](_with_visible_labels(study.only(record)), record)
        title, caption = visible(study.title(record)), visible(caption)
        described = {"Date": None, "Title": title, "Description": caption, "Creator": None}
        undated = {"CreationDate": None, "Creator": None, "Producer": None, "Title": title}
        for suffix, metadata in {".svg": described, ".pdf": undated, ".png": {"Software": None, "Title": title}}.items():
            with atomic_write(Path(f"{output}{suffix}")) as part:
                figure.savefig(part, format=suffix[1:], dpi=160, metadata=metadata)


def _with_visible_labels(study: Study) -> Study:
    """Return a study whose labels hold no character that matplotlib or SVG cannot draw."""

    def drawn(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**entry, "label": visible(entry["label"])} if entry.get("label") else entry for entry in entries]

    suite = {**study.suite, "tasks": drawn(study.suite["tasks"])}
    return replace(study, suite=suite, methods=drawn(study.methods), others=drawn(study.others))


def accuracy(study: Study, record: dict[str, Any]) -> tuple[Figure, str]:
    """Heat map of methods by tasks, with the averages and their intervals as dots beside it."""
    rows = summarise(study)
    if not rows or not study.tasks:
        return empty_figure("No method was scored in this suite.")
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
    edges = [np.arange(count + 1) - 0.5 for count in shown.shape]
    shades = {"cmap": "Blues", "vmin": floor, "vmax": floor + (top - floor + 0.01) / 0.6}
    heat.pcolormesh(edges[1], edges[0], np.ma.masked_invalid(shown), edgecolors="white", linewidth=0.6, **shades)
    heat.set_ylim(len(rows) - 0.5, -0.5)
    for i, row in enumerate(rows):
        for j, task in enumerate(study.tasks):
            text = percent(row.tasks[task["id"]].value) or "–"
            heat.text(j, i, text, ha="center", va="center", fontsize=8)
    labels = [task.get("label", task["id"]) for task in study.tasks]
    heat.set_xticks(range(len(study.tasks)), labels, rotation=35, ha="left", rotation_mode="anchor")
    heat.set_yticks(range(len(rows)), [row.method.get("label", row.method["id"]) for row in rows])
    heat.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    heat.spines[:].set_visible(False)
    heat.grid(False)
    _averages(study, rows, dots)
    for label, row in zip(heat.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row.method.get("host") else "normal")
    shade = f"{study.measure} relative to the individual model of the task" if best else study.measure
    return figure, (
        f"{study.measure.capitalize()} in %; shade: {shade}. Right: average over tasks with its 95 % interval over test examples"
        + (" (small dots: single seeds)" if len(study.seeds) > 1 else "")
        + (", or, dotted, from the smallest to the largest draw" if any(row.average.draws for row in rows) else "")
        + (". Bold, with diamonds: methods with a host" if any(row.method.get("host") for row in rows) else "")
        + ". The intervals of two methods on the same examples are not independent: see the paired comparisons. "
        "A dash is a missing score."
    )


def _averages(study: Study, rows: list, axes: Axes) -> None:
    for i, row in enumerate(rows):
        colour = colour_of(row.method)
        if row.average.value is None:
            reason = "skipped" if "skipped" in row.method else "no average: a score is missing"
            axes.text(0.02, i, reason, transform=axes.get_yaxis_transform(), va="center", fontsize=7.5, color=GREY)
            continue
        line = ":" if row.average.draws else "-"
        axes.plot([100 * row.average.low, 100 * row.average.high], [i, i], line, color=colour, linewidth=1.4)
        seeds, marker = [100 * value for value in row.average.by_seed], "D" if row.method.get("host") else "o"
        style: dict[str, Any] = {"color": colour, "markersize": 5, "markerfacecolor": colour}
        if len(seeds) > 1:
            axes.plot(seeds, [i] * len(seeds), ".", color="black", markersize=3, zorder=4)
            style |= {"markersize": 7, "markerfacecolor": "white"}
        axes.plot(100 * row.average.value, i, marker, **style)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"average {study.measure} in %")
    diamonds = {row.method.get("group") for row in rows if row.method.get("host")}
    groups = {row.method.get("group") for row in rows}
    handles = []
    for group in [*(name for name in GROUPS if name in groups), *([None] if groups - GROUPS.keys() else [])]:
        name, marker = {"nan": "NAN"}.get(group or "", group or "other"), "D" if group in diamonds else "o"
        colour = colour_of({"group": group})
        handles.append(Line2D([], [], color=colour, marker=marker, linewidth=1.4, markersize=5, label=name))
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, handlelength=1.4, columnspacing=1)


def selection(study: Study, record: dict[str, Any]) -> tuple[Figure, str]:
    """Validation accuracy of the candidates of each tuned method against λ; the chosen value is ringed."""
    curves = candidates(study)
    if not curves:
        return empty_figure("No hyper-parameter was selected in this suite.")
    figure = Figure(figsize=(6.6, 3.6))
    axes = figure.subplots()
    styles = curve_styles(method for method in study.methods if method["id"] in curves)
    for method, points in curves.items():
        colour, marker = styles[method]
        values = sorted(value for value, estimate in points.items() if estimate.value is not None)
        heights = np.array([[100 * getattr(points[value], name) for value in values] for name in ("value", "low", "high")])
        axes.fill_between(values, heights[1], heights[2], color=colour, alpha=0.12, linewidth=0)
        axes.plot(values, heights[0], f"{marker}-", color=colour, markersize=4, linewidth=1.4, label=study.label(method))
        picked = [value for value in study.chosen(method) if value in values]
        ring: dict[str, Any] = {"markersize": 11, "markerfacecolor": "none", "markeredgecolor": colour, "markeredgewidth": 1.6}
        label = f"chosen: {study.symbol(method)} = {', '.join(f'{v:g}' for v in picked)}"
        axes.plot(picked, [heights[0][values.index(value)] for value in picked], "o", label=label, **ring)
    symbols = list(dict.fromkeys(map(study.symbol, curves)))
    averaging = 1 / len(study.experts) if symbols == ["λ"] else None
    fixed = {(study.symbol(method), study.fixed(method)): None for method in curves}
    lines = [(value, "--", f"fixed {symbol}") for symbol, value in fixed if value is not None]
    for value, style, name in ([(averaging, ":", "1/T (averaging)")] if averaging else []) + lines:
        axes.axvline(value, color=GREY, linestyle=style, linewidth=1, label=f"{name} = {value:.3g}")
    for row in summarise(study, "validation"):
        if row.average.value is not None:
            axes.axhline(100 * row.average.value, color=GREY, linewidth=0.8, linestyle="-.", label=row.method.get("label"))
    axes.set_xlabel(" or ".join(AXES.get(symbol, symbol) for symbol in symbols))
    axes.set_ylabel(f"average validation {study.measure} in %")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure, (
        f"Average over tasks of the {study.measure} on the validation split, which shares no example with the test split; "
        "band: 95 % interval over validation examples. Ringed: the value with the best of these averages, which is used on the "
        "test split" + ("; each seed has its own." if len(study.seeds) > 1 else ".")
    )


KINDS: dict[str, Callable[[Study, dict[str, Any]], tuple[Figure, str]]] = {
    "accuracy": accuracy,
    "selection": selection,
    "search": search_figure,
    "coefficients": norm_figures.coefficients,
    "premise": norm_figures.premise,
    "subsets": subset_figures.subsets,
}
