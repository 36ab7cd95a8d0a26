"""Sums of squares of experts' calibration beside those of their weights; light, so that coefficients start without torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nan_merge.core.files import read_json

RECORD = "calibration.json"


def with_calibration(measures: dict[str, Any], folders: Mapping[str, Path]) -> dict[str, Any]:
    """Add the sums of squares of each expert's calibration to those of every tensor, if there is any calibration."""
    if folders:
        collected = [read_json(folders[expert] / RECORD)["tensors"] for expert in measures["experts"]]
        for name, sums in measures["tensors"].items():
            sums["calibration"] = [squares.get(name, 0.0) for squares in collected]
    return measures
