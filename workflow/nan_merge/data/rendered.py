"""Image tasks rendered or cropped from fonts, drawings, satellite maps and patterns.

Every reader returns split -> (uint8 images (N, h, w) or (N, h, w, 3), int64 labels). Random choices are seeded by strings
(task, class, item), so the images of a class do not depend on the other classes.
"""

from __future__ import annotations

import io
import struct
import unicodedata
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from nan_merge.core.errors import UserError
from nan_merge.data.dataset import Splits

CANVAS = 96  # pixels, width of letters and signs before they are scaled down
CROP = (24, 48)  # pixels, smallest and largest texture crop


def generator(*keys: Any) -> np.random.Generator:
    """Return a random generator seeded by the keys, the same on every machine."""
    return np.random.default_rng([zlib.crc32(str(key).encode()) for key in keys])


def shuffled(items: list[Any], *keys: Any) -> list[Any]:
    """Return the items in random order, seeded by the keys."""
    return [items[i] for i in generator(*keys).permutation(len(items))]


def stacked(rows: list[tuple[np.ndarray, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return images with their labels as two arrays."""
    return np.stack([image for image, _ in rows]), np.array([k for _, k in rows], np.int64)


def collect(draw: Callable[[str, int, int], np.ndarray | None], counts: Mapping[str, int], classes: int) -> Splits:
    """Call `draw(split, label, i)` for `counts[split]` images of each of `classes` labels; None is skipped."""
    parts = {}
    for split, count in counts.items():
        rows = [(image, k) for k in range(classes) for i in range(count) if (image := draw(split, k, i)) is not None]
        parts[split] = stacked(rows)
    return parts


def scripts(sources: list[Path], classes: Mapping[str, str], side: int, drawings: Mapping[str, int], letters: int = 36) -> Splits:
    """Render letters of writing systems with the Noto fonts, slightly shifted and rotated.

    `classes` is keyed by the first word of the letters' Unicode names. A (letter, font) pair belongs to one split;
    `drawings[split]` images per class are rendered.
    """
    fonts = _letters(sources[0], classes)
    pairs: dict[str, list[list[tuple[int, Path]]]] = {split: [] for split in drawings}
    for script in classes:
        points = shuffled(sorted(fonts[script]), "scripts", script)[:letters]
        every = shuffled([(point, font) for point in points for font in fonts[script][point]], "scripts", script, "pairs")
        if len(every) < 2 * len(drawings):
            raise UserError(f"task scripts: {sources[0]} holds {len(every)} letters of {script}; correct `classes:`")
        ends = np.rint(np.cumsum([drawings[s] for s in drawings]) / sum(drawings.values()) * len(every)).astype(int)
        for split, start, end in zip(drawings, [0, *ends[:-1]], ends, strict=True):
            pairs[split].append(every[start : max(end, start + 1)])

    def draw(split: str, k: int, i: int) -> np.ndarray:
        point, font = pairs[split][k][i % len(pairs[split][k])]
        return _letter(chr(point), font, side, generator("scripts", font.name, point, i))

    return collect(draw, drawings, len(classes))


def _letters(folder: Path, classes: Mapping[str, str], files: str = "Noto*.ttf") -> dict[str, dict[int, list[Path]]]:
    """Return script -> code point -> fonts with this letter."""
    from fontTools.ttLib import TTFont

    fonts: dict[str, dict[int, list[Path]]] = {script: {} for script in classes}
    for font in sorted(folder.glob(files)):
        if any(word in font.name for word in ("UI-", "Mono", "Display", "Symbols")):
            continue
        with TTFont(font, lazy=True) as table:
            for point in sorted(table.getBestCmap() or {}):
                script = unicodedata.name(chr(point), " ").split(" ")[0]
                if point > 0x40 and script in fonts and unicodedata.category(chr(point))[0] == "L":
                    fonts[script].setdefault(point, []).append(font)
    return fonts


def _letter(letter: str, font: Path, side: int, rng: np.random.Generator) -> np.ndarray:
    canvas = Image.new("L", (CANVAS, CANVAS), 255)
    pen = ImageDraw.Draw(canvas)
    face = ImageFont.truetype(str(font), int(rng.integers(44, 61)), layout_engine=ImageFont.Layout.BASIC)
    left, top, right, bottom = pen.textbbox((0, 0), letter, font=face)
    dx, dy = rng.integers(-6, 7, 2)
    ink = int(rng.integers(0, 61))
    pen.text(((CANVAS - left - right) / 2 + dx, (CANVAS - top - bottom) / 2 + dy), letter, font=face, fill=ink)
    return np.asarray(canvas.rotate(rng.uniform(-10, 10), fillcolor=255).resize((side, side), Image.Resampling.BOX))


@cache
def _globe(picture: Path) -> np.ndarray:
    """Read a map of the globe, beyond Pillow's default size limit, as a (height, width[, 3]) array."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(picture) as image:
            return np.asarray(image.convert("RGB") if picture.suffix == ".jpg" else image)
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def climate(
    sources: list[Path], classes: Mapping[str, str], side: int, tile: int = 16, purity: float = 0.9, most: int = 300
) -> Splits:
    """Cut satellite tiles of which at least the share `purity` belongs to one Koeppen-Geiger zone.

    `classes` is keyed by the number of the zone. Splits are blocks of longitude, 12 tiles wide: of every eight blocks two
    are test and one is validation, so test and training tiles touch only at the edges of blocks. At most `most` tiles per
    class and split.
    """
    world, zones = _globe(sources[0] / "bmng.jpg"), _globe(sources[1] / "kmz_int_reshape.png")
    scale, wanted = zones.shape[0] / world.shape[0], [int(zone) for zone in classes]
    found: dict[tuple[str, int], list[tuple[int, int]]] = {}
    blocks = ("train", "validation", "train", "test", "train", "train", "train", "test")
    for row in range(0, world.shape[0] - tile + 1, tile):
        for column in range(0, world.shape[1] - tile + 1, tile):
            window = zones[int(row * scale) : int((row + tile) * scale), int(column * scale) : int((column + tile) * scale)]
            counts = np.bincount(window.ravel())
            if (zone := int(counts.argmax())) in wanted and counts[zone] >= purity * window.size:
                found.setdefault((blocks[column // (12 * tile) % 8], zone), []).append((row, column))
    parts = {}
    for split in ("train", "validation", "test"):
        parts[split] = stacked([
            (world[row : row + tile, column : column + tile], k)
            for k, zone in enumerate(wanted)
            for row, column in shuffled(found.get((split, zone), []), "climate", split, zone)[:most]
        ])  # fmt: skip
    return parts


def signs(sources: list[Path], classes: Mapping[str, str], side: int, views: Mapping[str, int], designs: int = 5) -> Splits:
    """Render traffic signs as photographed: rotated, shifted, dimmed and blurred, on a crop of landscape.

    `classes` is keyed by the files' stems without `--g<k>`; each of the first `designs` drawings of a class is rendered
    `views[split]` times. As in GTSRB, the same designs occur in all splits.
    """
    files = {kind: sorted(sources[0].glob(f"{kind}--g[0-9]*.svg"))[:designs] for kind in classes}
    if missing := [kind for kind, drawings in files.items() if not drawings]:
        raise UserError(f"task signs: {sources[0]} has no drawing of {missing[0]}--g<number>.svg; correct `classes:`")
    kinds, world = list(classes), _globe(sources[1] / "bmng.jpg")

    def draw(split: str, k: int, i: int) -> np.ndarray | None:
        if i // views[split] >= len(files[kinds[k]]):
            return None
        file = files[kinds[k]][i // views[split]]
        return _view(_sign(file), world, side, generator("signs", file.name, split, i))

    return collect(draw, {split: designs * count for split, count in views.items()}, len(kinds))


@cache
def _sign(file: Path) -> Image.Image:
    import resvg_py

    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_path=str(file), width=CANVAS)))).convert("RGBA")


def _view(sign: Image.Image, world: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    size = rng.uniform(0.55, 0.95) * 64 / max(sign.size)
    shape = (max(1, int(sign.width * size)), max(1, int(sign.height * size)))
    board = sign.resize(shape, Image.Resampling.LANCZOS).rotate(
        rng.uniform(-12, 12), expand=True, resample=Image.Resampling.BICUBIC
    )
    row, column = rng.integers(0, world.shape[0] - 32), rng.integers(0, world.shape[1] - 32)
    scene = Image.fromarray(world[row : row + 32, column : column + 32]).resize((64, 64))
    scene = ImageEnhance.Brightness(scene).enhance(rng.uniform(0.7, 2))
    corner = [int((64 - length) / 2 + rng.uniform(-6, 6)) for length in board.size]
    scene.paste(board, (corner[0], corner[1]), board)
    scene = ImageEnhance.Brightness(scene).enhance(rng.uniform(0.4, 1.3))
    scene = ImageEnhance.Contrast(scene).enhance(rng.uniform(0.6, 1.2))
    scene = scene.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.3))).resize((side, side), Image.Resampling.BILINEAR)
    return (np.asarray(scene) + rng.normal(0, 6, (side, side, 3))).clip(0, 255).astype(np.uint8)


def textures(sources: list[Path], classes: Mapping[str, str], side: int, crops: Mapping[str, int]) -> Splits:
    """Crop patches of GIMP patterns, rotated and with changed brightness, as in the Brodatz protocol.

    `classes` is keyed by the pattern's path without `.pat`. Test patches come from the right half of a pattern, training
    and validation patches from the left half.
    """
    patterns = [_pattern(sources[0] / f"{name}.pat") for name in classes]
    names = list(classes)

    def draw(split: str, k: int, i: int) -> np.ndarray:
        middle = patterns[k].shape[1] // 2
        half = patterns[k][:, middle:] if split == "test" else patterns[k][:, :middle]
        return _patch(half, side, generator("textures", names[k], split, i))

    return collect(draw, crops, len(names))


def _pattern(file: Path) -> np.ndarray:
    """Read a GIMP pattern: header size, version, width, height, channels (big-endian uint32), name, pixels."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise UserError(f"task textures: no pattern {file}; correct `classes:`") from None
    head, _, width, height, channels = struct.unpack(">5I", data[:20])
    pixels = np.frombuffer(data, np.uint8, width * height * channels, head).reshape(height, width, channels)
    return pixels[..., :3] if channels >= 3 else np.repeat(pixels[..., :1], 3, 2)


def _patch(half: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    if min(half.shape[:2]) < 64:
        half = np.tile(half, (2, 4, 1))
    size = int(rng.integers(CROP[0], min(CROP[1], *half.shape[:2]) + 1))
    row, column = rng.integers(0, half.shape[0] - size + 1), rng.integers(0, half.shape[1] - size + 1)
    patch = np.rot90(half[row : row + size, column : column + size], int(rng.integers(4)))
    image = Image.fromarray(np.ascontiguousarray(patch)).resize((side, side), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.float64)
    dull = 0.7 * pixels.mean(2, keepdims=True) + 0.3 * pixels
    return (dull * rng.uniform(0.6, 1.3) + rng.uniform(-20, 20)).clip(0, 255).astype(np.uint8)
