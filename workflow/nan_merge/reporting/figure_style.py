"""Colours and settings that all figures share."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#666666"
GROUPS = {  # of methods, in the order of legends; another group is grey
    "reference": "#000000",
    "host": "#0072B2",
    "nan": "#D55E00",
    "control": "#009E73",
    "ablation": "#CC79A7",
    "scan": "#E69F00",
}
MARKERS, TINTS = "osD^vP*X", (0.0, 0.3, 0.55)
STYLE: dict[Any, Any] = {
    "backend": "agg",
    "svg.hashsalt": "merging",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,  # TrueType, which publishers take
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
    "text.parse_math": False,  # a label with $ is no formula
}


def colour_of(method: Mapping[str, Any]) -> str:
    """Return the colour of a method's group: the same in every figure of every run."""
    return GROUPS.get(method.get("group") or "", GREY)


def curve_styles(methods: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """Return colour and marker of the curve of each method by id: its group's colour in a tint, both told by the id alone.

    Only two methods of one figure whose ids give the same style depend on each other: the later one takes the next style.
    """
    choices, found = list(product(TINTS, MARKERS)), dict[str, tuple[str, str]]()
    for method in methods:
        first = zlib.crc32(method["id"].encode())
        looks = (choices[(first + step) % len(choices)] for step in range(len(choices)))
        styles = [(_tinted(colour_of(method), tint), marker) for tint, marker in looks]
        found[method["id"]] = next((style for style in styles if style not in found.values()), styles[0])
    return found


def _tinted(colour: str, tint: float) -> str:
    red, green, blue = (part + (1 - part) * tint for part in to_rgb(colour))
    return to_hex((red, green, blue))


def empty_figure(message: str) -> tuple[Figure, str]:
    """Return a figure with a message in place of data."""
    figure = Figure(figsize=(6, 1.2))
    figure.text(0.5, 0.5, message, ha="center", va="center", color=GREY)
    return figure, message
