"""Figures of norms and coefficients, one function a kind."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nan_merge.reporting import norm_data
from nan_merge.reporting.figure_style import GREY, OKABE_ITO, empty_figure
from nan_merge.reporting.formats import exceeds
from nan_merge.reporting.study import Study


def coefficients(study: Study, record: dict[str, Any]) -> tuple[Figure, str]:
    """NAN's shares against their norms and against the amount of data."""
    measured = norm_data.experts(study)
    if not measured:
        return empty_figure("No norms were measured in this suite.")
    names, sizes = list(measured), study.sizes
    figure = Figure(figsize=(9.2, 3.9))
    left, right = figure.subplots(1, 2, sharey=True)
    series = (("weights", "from ‖W‖", "s", OKABE_ITO[4], 8), ("task_vector", "from ‖τ‖", "o", OKABE_ITO[0], 12))
    spreads: dict[str, float] = {}
    numbers = {"ha": "center", "va": "center_baseline", "fontsize": 7.5, "color": "white", "fontweight": "bold"}
    for of, label, marker, colour, width in series:
        alpha = np.array([measured[name][f"alpha_{of}"].mean() for name in names])
        norm = np.array([measured[name][of].mean() for name in names])
        style = {"color": colour, "markersize": width, "markeredgecolor": "white", "markeredgewidth": 0.8, "linestyle": "none"}
        known = [i for i, name in enumerate(names) if name in sizes]
        places = [
            (left, norm / (norm.mean() or 1.0), range(len(names))),
            (right, np.array([sizes.get(name, 0) for name in names]), known),
        ]
        for axes, x, kept in places:
            axes.plot(x[list(kept)], alpha[list(kept)], marker, label=f"α {label}", **style)
            for i in kept if of == "task_vector" else ():
                axes.text(x[i], alpha[i], str(i + 1), **numbers)
        spreads[of] = norm_data.relative_spread(alpha)
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
    drawn = [line for axes in (left, right) for line in axes.get_lines() if not line.get_label().startswith("_")]
    handles = {line.get_label(): line for line in drawn}
    numbered = [Line2D([], [], linestyle="none", label=f"{i + 1}  {study.label(name)}") for i, name in enumerate(names)]
    right.legend(handles=[*handles.values(), *numbered], loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.6)
    return figure, (
        "NAN's shares α (inverse norms, whole model, summing to 1). With norms of whole weights the largest share "
        f"{exceeds(spreads['weights'])}; with norms of task vectors it {exceeds(spreads['task_vector'])}."
        + (
            " Dashed: shares in proportion to the training-set size, which NAN's derivation aims at."
            if len(sizes) == len(study.tasks)
            else ""
        )
        + (" Mean over seeds." if len(study.measures) > 1 else "")
    )


def premise(study: Study, record: dict[str, Any]) -> tuple[Figure, str]:
    """Inverse norms against the number of examples, for equal steps and for equal epochs."""
    if not study.premise:
        return empty_figure("The premise was not measured in this suite.")
    figure = Figure(figsize=(9.2, 3.6))
    panels = figure.subplots(1, 2, sharey=True)
    tasks = list(dict.fromkeys(row["task"] for row in study.premise))
    styles: dict[str, tuple[str, Any]] = {"steps": (OKABE_ITO[0], "-"), "epochs": (OKABE_ITO[1], "--")}
    for axes, of, name in zip(panels, norm_data.NORMS, ("1/‖W‖ (weights)", "1/‖τ‖ (task vector)"), strict=True):
        drawn = norm_data.lines(study, of)
        for line in drawn:
            colour, style = styles.get(line.protocol, (GREY, ":"))
            marker = "osD^vP*X"[tasks.index(line.task) % 8]
            drawing = {"marker": marker, "markersize": 5.5, "markerfacecolor": "white", "linestyle": style, "linewidth": 1.4}
            axes.plot(line.examples, line.inverse, color=colour, **drawing)
        axes.set_xscale("log")
        _plain_log(axes, sorted({int(value) for line in drawn for value in line.examples}))
        change = 100 * max(norm_data.relative_spread(line.inverse) for line in drawn)
        axes.set_title(f"{name}: largest change along a line {change:.3g} %")
        axes.set_xlabel("training examples (log scale)")
    panels[0].set_ylabel("inverse norm / mean of its line")
    handles = [
        Line2D([], [], color=colour, linestyle=style, label=f"equal {protocol}")
        for protocol, (colour, style) in styles.items()
        if any(row["protocol"] == protocol for row in study.premise)
    ]
    handles += [
        Line2D([], [], color=GREY, linestyle="none", marker="osD^vP*X"[i % 8], markersize=5, label=study.label(task))
        for i, task in enumerate(tasks)
    ]
    panels[1].legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure, (
        "Each line is one task, fine-tuned from the same base on nested subsets of growing size, either for equally "
        "many steps or for equally many epochs. NAN's premise is that 1/norm grows with the number of examples."
    )


def _plain_log(axes: Axes, ticks: list[int]) -> None:
    """Label a log axis at the data, leaving out labels that would touch."""
    kept: list[int] = []
    for tick in ticks:
        if not kept or np.log(tick / kept[-1]) > 0.11 * np.log(max(ticks) / min(ticks) + 1e-9):
            kept.append(tick)
    axes.set_xticks(kept, [f"{tick:,}" for tick in kept])
    axes.minorticks_off()
