"""Read the image tasks and cut them into splits: uint8 RGB arrays (N, side, side, 3) with int64 labels.

A reader takes the folders of its assets and returns split -> (images, labels). A source with a protocol of its own
brings its test split; what is missing is taken out of `train`, a fixed number a class.
"""

from __future__ import annotations

import gzip
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nan_merge.core.errors import UserError
from nan_merge.data.rendered import Parts, climate, scripts, shuffled, signs, textures

ORDER = ("test", "validation", "alignment", "train")  # who takes first what is scarce
LARGEST = 2_500_000  # pixels of a picture that is still read


def prepare(task: Mapping[str, Any], sources: Mapping[str, Path], form: Mapping[str, Any]) -> tuple[dict, Parts]:
    """Return the record of one task and its splits train, validation, test, alignment.

    `sources` are the folders of the task's assets by id; `form["side"]` is the width of the images in pixels;
    `task["splits"]` is the wished number of images a class. A picture occurs once in a task: what equals a test
    picture is not trained on.
    Raises UserError for classes that share a name (they would share a head) and for an empty split.
    """
    word, label = task["reader"].removeprefix("images."), task["label"]
    if word == "captions":
        return captions(task, Path(sources[task["assets"][0]]), form["side"])
    if word not in READERS:
        known = ", ".join(f"images.{name}" for name in [*READERS, "captions"])
        raise UserError(f"config/tasks.yaml: unknown reader {task['reader']!r}; known: {known}")
    classes = task["classes"]
    names = [str(name) for name in (classes.values() if isinstance(classes, Mapping) else classes)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"task {label}: `classes:` names {twice[0]!r} twice; equal names would be equal heads")
    folders = [Path(sources[asset]) for asset in task["assets"]]
    parts = drop_duplicates(READERS[word](folders, classes=classes, side=form["side"], **task.get("arguments", {})))
    splits = {split: (to_rgb_square(x, form["side"]), y) for split, (x, y) in draw_per_class(parts, task["splits"]).items()}
    if empty := [split for split, (x, _) in splits.items() if not len(x)]:
        raise UserError(f"task {label}: no image is left for {empty[0]}; correct `splits:` in config/tasks.yaml")
    held = sum(len(splits[split][1]) for split in splits if split != "train" and split not in parts)
    return _record(task, names, splits, len(parts["train"][1]) - held), splits


def _record(task: Mapping[str, Any], names: list[str], splits: Parts, available: int) -> dict[str, Any]:
    return {
        "task": task.get("id", ""),
        "label": task["label"],
        "classes": names,
        "splits": {split: len(y) for split, (_, y) in splits.items()},
        "available": available,
        "source": task.get("source", ""),
        "licence": task.get("licence", ""),
    }


def captions(task: Mapping[str, Any], folder: Path, side: int) -> tuple[dict, Parts]:
    """Return pictures with a caption each, made of file and folder name: every picture is a class of its own.

    No picture comes from a folder in `arguments: without:` or looks like one there (equal pixels at this size), so
    nothing of the clip-art task is seen. `splits: train` is the number of pictures.
    """
    without = {file for name in task["arguments"]["without"] for file in (folder / name).rglob("*.png")}
    seen = {picture.tobytes() for file in sorted(without) if (picture := _picture(file, side)) is not None}
    images: list[np.ndarray] = []
    names: list[str] = []
    for file in shuffled(sorted(set(folder.rglob("*.png")) - without), "captions"):
        if len(images) == task["splits"]["train"]:
            break
        if (picture := _picture(file, side)) is None or picture.tobytes() in seen:
            continue
        seen.add(picture.tobytes())
        title = re.sub(r"[\s_\-.\d]+", " ", file.stem).strip()
        topics = ", ".join(file.parent.relative_to(folder).parts).replace("_", " ")
        images.append(picture)
        names.append(f"{title}, {topics}")
    if not images:
        raise UserError(f"task {task['label']}: no picture is left in {folder}; correct `arguments: without:`")
    splits: Parts = {"train": (np.stack(images), np.arange(len(images)))}
    return _record(task, names, splits, len(images)), splits


def drop_duplicates(parts: Parts) -> Parts:
    """Keep the first of equal pictures, test before validation before train."""
    seen: set[bytes] = set()
    kept: Parts = {}
    for split in [name for name in ORDER if name in parts]:
        images, labels = parts[split]
        fresh = np.zeros(len(labels), bool)
        for i, image in enumerate(images):
            content = image.tobytes()
            fresh[i] = content not in seen
            seen.add(content)
        kept[split] = (images[fresh], labels[fresh])
    return kept


def draw_per_class(parts: Parts, wanted: Mapping[str, int]) -> Parts:
    """Take `wanted[split]` images a class, from the part of that name or else from `train`, in a seeded order.

    Splits of one part are disjoint. Where a class is too small for all, each gets its share and train the rest.
    """
    chosen: dict[str, list[int]] = {split: [] for split in wanted}
    origin = {split: split if split in parts else "train" for split in wanted}
    for part in sorted(set(origin.values())):
        takers = [split for split in ORDER if origin.get(split) == part]
        labels = parts[part][1]
        for k in np.unique(labels):
            rows = shuffled(list(np.flatnonzero(labels == k)), "carve", part, int(k))
            share = min(1.0, len(rows) / sum(wanted[split] for split in takers))
            for split in takers:
                count = wanted[split] if split == takers[-1] else int(wanted[split] * share)
                chosen[split] += rows[:count]
                rows = rows[count:]
    order = {split: shuffled(rows, "order", split) for split, rows in chosen.items()}
    return {split: tuple(array[order[split]] for array in parts[origin[split]]) for split in wanted}  # type: ignore[misc]


def to_rgb_square(images: np.ndarray, side: int) -> np.ndarray:
    """Bring uint8 images (N, h, w) or (N, h, w, 3) to RGB of shape (N, side, side, 3)."""
    if images.shape[1:3] != (side, side):
        resized = [Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR) for image in images]
        images = np.stack([np.asarray(image) for image in resized]) if resized else images[:, :side, :side]
    return images if images.ndim == 4 else np.repeat(images[..., None], 3, axis=3)


def idx(sources: list[Path], classes: list[str], side: int) -> Parts:
    """Read Fashion-MNIST's own training and test files (gzipped IDX: big-endian header, then uint8)."""
    parts = {}
    for split, stem in (("train", "train"), ("test", "t10k")):
        images, labels = (_idx(next(sources[0].glob(f"{stem}-{kind}-idx?-ubyte.gz"))) for kind in ("images", "labels"))
        parts[split] = (images, labels.astype(np.int64))
    return parts


def _idx(file: Path) -> np.ndarray:
    data = gzip.decompress(file.read_bytes())
    shape = np.frombuffer(data, ">u4", data[3], 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def rows(sources: list[Path], classes: list[str], side: int, top: int = 255) -> Parts:
    """Read square grey images from a gzipped CSV: one image a row, pixels from 0 to `top`, the label last."""
    table = np.loadtxt(next(sources[0].glob("*.csv.gz")), delimiter=",", ndmin=2)
    width = round((table.shape[1] - 1) ** 0.5)
    pixels = np.rint(table[:, :-1] * (255 / top)).astype(np.uint8).reshape(-1, width, width)
    return {"train": (pixels, table[:, -1].astype(np.int64))}


def clipart(sources: list[Path], classes: Mapping[str, str], side: int, most: int = 130) -> Parts:
    """Read the pictures of the folders that `classes` is keyed by, at most `most` a folder, on white."""
    found = [
        (picture, k)
        for k, folder in enumerate(classes)
        for file in shuffled(sorted((sources[0] / folder).rglob("*.png")), "clipart", folder)[:most]
        if (picture := _picture(file, side)) is not None
    ]
    if missing := set(range(len(classes))) - {k for _, k in found}:
        raise UserError(f"task clipart: {sources[0] / list(classes)[min(missing)]} has no picture; correct `classes:`")
    return {"train": (np.stack([picture for picture, _ in found]), np.array([k for _, k in found], np.int64))}


def _picture(file: Path, side: int) -> np.ndarray | None:
    """Return one picture in the middle of a white square, or None for a broken or a huge file."""
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning), Image.open(file) as opened:
            if opened.width * opened.height > LARGEST:
                return None
            image = opened.convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    width = max(image.size)
    square = Image.new("RGBA", (width, width), "white")
    square.alpha_composite(image, ((width - image.width) // 2, (width - image.height) // 2))
    way = Image.Resampling.BOX if width > 2 * side else Image.Resampling.BILINEAR
    return np.asarray(square.convert("RGB").resize((side, side), way))


READERS: dict[str, Callable[..., Parts]] = {
    "rows": rows,
    "idx": idx,
    "clipart": clipart,
    "scripts": scripts,
    "climate": climate,
    "signs": signs,
    "textures": textures,
}
