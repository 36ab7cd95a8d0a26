"""The figure of merges of random subsets of the experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nan_merge.reporting.figure_style import GREY, curve_styles, empty_figure
from nan_merge.reporting.study import Study
from nan_merge.reporting.subset_data import Limited, points
from nan_merge.reporting.subset_tables import notes

WIDTH = 0.5  # over which the intervals of a number of experts are spread, so that they do not hide each other


def subsets(study: Study, record: dict[str, Any]) -> tuple[Figure, str]:
    """Normalised accuracy of merges against the number of experts, a line a method; differences of variants to their hosts."""
    found = [point for point in points(study) if point.method.get("group") != "reference"]
    if not found:
        return empty_figure("No subsets of the experts were merged in this suite.")
    curves = {method["id"]: [p for p in found if p.method is method] for method in study.methods}
    left = {name: {p.size: p.normalised for p in of} for name, of in curves.items() if of}
    right = {name: {p.size: p.difference for p in of if p.difference} for name, of in curves.items()}
    right = {name: line for name, line in right.items() if line}
    panels = [left, right] if right else [left]
    figure = Figure(figsize=(2.8 + 3.6 * len(panels), 4.0))
    drawn = list(np.atleast_1d(figure.subplots(1, len(panels))))
    styles = curve_styles(study.methods)
    for axes, lines in zip(drawn, panels, strict=True):
        _lines(study, axes, lines, styles)
        axes.set_xlabel("number of experts T")
        axes.set_xticks(sorted({p.size for p in found}))
    drawn[0].set_ylabel("accuracy normalised by individual models, %")
    for axes in drawn[1:]:
        axes.axhline(0, color=GREY, linewidth=1)
        axes.set_ylabel("difference to the host, points of accuracy")
    drawn[-1].legend(*drawn[0].get_legend_handles_labels(), loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure, " ".join(notes(study, found))


def _lines(study: Study, axes: Axes, lines: Mapping[str, Mapping[int, Limited]], styles: Mapping[str, tuple[str, str]]) -> None:
    for name, shift in zip(lines, _shifts(len(lines)), strict=True):
        colour, marker = styles[name]
        sizes = sorted(lines[name])
        heights = 100 * np.array([lines[name][size] for size in sizes])  # value, low, high
        reach = np.abs(heights[:, 1:] - heights[:, :1]).T
        style: dict[str, Any] = {"color": colour, "markersize": 4, "linewidth": 1.2, "elinewidth": 0.8}
        axes.errorbar(np.array(sizes) + shift, heights[:, 0], reach, fmt=f"{marker}-", label=study.label(name), **style)


def _shifts(count: int) -> Sequence[float]:
    return [float(shift) for shift in np.linspace(-WIDTH / 2, WIDTH / 2, count)] if count > 1 else [0.0]
