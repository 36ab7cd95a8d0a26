"""Colours and settings that all figures share."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#666666"
STYLE: dict[Any, Any] = {
    "backend": "agg",
    "svg.hashsalt": "merging",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.constrained_layout.use": True,
    "axes.unicode_minus": True,
}


def empty_figure(message: str) -> tuple[Figure, str]:
    """Return a figure with a message in place of data."""
    figure = Figure(figsize=(6, 1.2))
    figure.text(0.5, 0.5, message, ha="center", va="center", color=GREY)
    return figure, message
