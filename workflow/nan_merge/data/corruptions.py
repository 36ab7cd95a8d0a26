"""Corrupt pictures by noise, blur, low contrast or JPEG artefacts (Hendrycks and Dietterich, arXiv 1903.12261)."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from nan_merge.data.dataset import generator_for

SMALL = 64  # pixels of a side up to which the constants are those of CIFAR-10-C


def corrupt_pictures(pictures: np.ndarray, kind: str, strength: float, file: Path | None = None) -> np.ndarray:
    """Return corrupted pictures, (N, side, side, 3) uint8, as a memory map of a new file if one is named.

    `strength`, the severity from 1 to 5, has the constants of CIFAR-10-C for small pictures and those of ImageNet-C for others.
    The noise of a picture depends on nothing but the picture.
    """
    corrupt, *constants = KINDS[kind]
    constant = constants[pictures.shape[1] > SMALL][int(strength) - 1]
    shape = pictures.shape
    found = np.lib.format.open_memmap(file, "w+", np.uint8, shape) if file else np.empty(shape, np.uint8)
    for index, picture in enumerate(pictures):
        found[index] = corrupt(picture, constant)
    return found


def _noise(picture: np.ndarray, deviation: float) -> np.ndarray:
    drawn = generator_for(picture.tobytes()).normal(size=picture.shape, scale=deviation)
    return _bytes(picture / 255 + drawn)


def _blur(picture: np.ndarray, pixels: float) -> np.ndarray:
    """Blur; DIFFERS: Pillow's Gaussian is a sequence of box filters, within a fraction of a grey level of the exact one."""
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(pixels)))


def _contrast(picture: np.ndarray, kept: float) -> np.ndarray:
    shares = picture / 255
    means = shares.mean(axis=(0, 1), keepdims=True)
    return _bytes((shares - means) * kept + means)


def _jpeg(picture: np.ndarray, quality: float) -> np.ndarray:
    stored = io.BytesIO()
    Image.fromarray(picture).save(stored, "JPEG", quality=int(quality))
    return np.asarray(Image.open(stored).convert("RGB"))


def _bytes(shares: np.ndarray) -> np.ndarray:
    return (np.clip(shares, 0, 1) * 255).astype(np.uint8)


Constants = tuple[float, ...]  # by severity
KINDS: dict[str, tuple[Callable[[np.ndarray, float], np.ndarray], Constants, Constants]] = {  # of CIFAR-10-C, of ImageNet-C
    "gaussian_noise": (_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "gaussian_blur": (_blur, (0.4, 0.6, 0.7, 0.8, 1.0), (1, 2, 3, 4, 6)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "jpeg": (_jpeg, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}
