"""Figures of norms and coefficients, one function a kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from nan_merge.reporting import norm_data
from nan_merge.reporting.figure_style import GREY, OKABE_ITO, empty_figure
from nan_merge.reporting.formats import exceeds
from nan_merge.reporting.study import Study

SERIES = (("weights", "from ‖W‖", "s", OKABE_ITO[4], 8), ("task_vector", "from ‖τ‖", "o", OKABE_ITO[0], 12))


def coefficients(study: Study, record: dict[str, Any]) -> tuple[Figure, str]:
    """NAN's shares against their norms and, where training-set sizes are known, against these."""
    measured = norm_data.experts(study)
    if not measured:
        return empty_figure("No norms were measured in this suite.")
    names, by_seed = list(measured), [study.sizes_of(seed) for seed in sorted(study.measures)]
    sizes = np.array([[of_seed.get(name, 0) for of_seed in by_seed] for name in names])
    sized, rotated = np.flatnonzero(sizes.all(axis=1)), bool((sizes != sizes[:, :1]).any())
    figure = Figure(figsize=(9.2, 3.9) if len(sized) else (5.9, 3.9))
    left, *beside = panels = figure.subplots(1, 2 if len(sized) else 1, sharey=True, squeeze=False)[0]
    spreads = {}
    for of, label, marker, colour, width in SERIES:
        alpha = np.array([measured[name][f"alpha_{of}"] for name in names])
        norm = np.array([measured[name][of].mean() for name in names])
        style = {"marker": marker, "color": colour, "markersize": width, "label": f"α {label}"}
        numbers = range(len(names)) if of == "task_vector" else []
        _points(left, norm / (norm.mean() or 1.0), alpha.mean(axis=1), numbers, style)
        for right in beside:
            if rotated:  # a point for each seed
                _points(right, sizes[sized].ravel(), alpha[sized].ravel(), [], {**style, "markersize": width / 2})
            else:
                _points(right, sizes[sized, 0], alpha[sized].mean(axis=1), sized if numbers else [], style)
        spreads[of] = norm_data.relative_spread(alpha.mean(axis=1))
    for axes in panels:
        axes.axhline(1 / len(names), color=GREY, linestyle=":", linewidth=1, label="uniform, 1/T")
    complete = len(sized) > 0 and len(by_seed[0]) == len(study.tasks)
    for right in beside:
        order = np.unique(sizes[sized])
        if complete:
            share = order / sum(by_seed[0].values())
            right.plot(order, share, "--", color=GREY, linewidth=1, label="share of data")
        right.set_xscale("log")
        _plain_log(right, order.tolist())
        right.set_xlabel("training examples (log scale)")
    left.set_xlabel("norm of the expert / mean over experts")
    left.set_ylabel("share α of the coefficients")
    drawn = [line for axes in panels for line in axes.get_lines() if not line.get_label().startswith("_")]
    handles = {line.get_label(): line for line in reversed(drawn)}
    listed = [Line2D([], [], linestyle="none", label=f"{i + 1}  {study.label(name)}") for i, name in enumerate(names)]
    handled = [*reversed(handles.values()), *listed]
    panels[-1].legend(handles=handled, loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.6)
    return figure, (
        "NAN's shares α (inverse norms, whole model, summing to 1). With norms of whole weights the largest share "
        f"{exceeds(spreads['weights'])}; with norms of task vectors it {exceeds(spreads['task_vector'])}."
        + (" Dashed: shares in proportion to the training-set size, which NAN's derivation aims at." if complete else "")
        + (" Mean over seeds." if len(by_seed) > 1 and not rotated else "")
        + (" Left: means over seeds; right: every seed, with which the sizes of the training sets change." if rotated else "")
    )


def _points(axes: Axes, x: NDArray, y: NDArray, numbers: Iterable[int], style: Mapping[str, Any]) -> None:
    """Plot one point an expert; `numbers` are those of the experts that are written on the points."""
    axes.plot(x, y, linestyle="none", markeredgecolor="white", markeredgewidth=0.8, **style)
    words: dict[str, Any] = {"ha": "center", "va": "center_baseline", "fontsize": 7.5, "color": "white", "fontweight": "bold"}
    for place, number in enumerate(numbers):
        axes.text(x[place], y[place], str(number + 1), **words)


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
