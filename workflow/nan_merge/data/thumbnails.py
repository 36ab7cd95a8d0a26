"""Test images as a page shows them: small, a bounded number of a task, as texts that hold the whole picture."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

MOST = 300  # images of a task
SIDE = 64  # pixels, of the longer side; smaller images keep theirs
QUALITY = 80  # of WebP: about a kilobyte a picture


def thumbnails(pixels: np.ndarray) -> list[str | None]:
    """Return pixels (N, height, width, 3) uint8 as N data URLs; of more than MOST evenly spaced ones, None for the others."""
    found: list[str | None] = [None] * len(pixels)
    for index in np.unique(np.linspace(0, max(0, len(pixels) - 1), min(len(pixels), MOST)).astype(int)):
        found[index] = _address(pixels[index])
    return found


def _address(pixels: np.ndarray) -> str:
    picture, content = Image.fromarray(pixels), io.BytesIO()
    picture.thumbnail((SIDE, SIDE))
    picture.save(content, "WEBP", quality=QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"
