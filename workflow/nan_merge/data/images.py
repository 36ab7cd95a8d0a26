"""Read the image tasks of packages and cut them into splits: uint8 RGB (N, side, side, 3) with int64 labels.

A reader takes the folders of its assets and returns split -> (images, labels). A source with a published protocol has its
own test split; missing splits are taken from `train`, a fixed number per class.
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
from nan_merge.data.corruptions import corrupt_pictures
from nan_merge.data.dataset import SPLIT_ORDER, Splits, class_names, common_record
from nan_merge.data.rendered import climate, scripts, shuffled, signs, stacked, textures

LARGEST = 2_500_000  # pixels; larger pictures are skipped


def prepare(task: Mapping[str, Any], sources: Mapping[str, Path], form: Mapping[str, Any]) -> tuple[dict, Splits]:
    """Return the record of one task and its splits train, validation, test, alignment.

    `sources` are the folders of the task's assets by id, `form["side"]` is the width of the images in pixels,
    `form["corrupt"]` how those of test are corrupted, `task["splits"]` the wanted number of images per class. Duplicates are
    dropped; no test picture occurs in train. Raises UserError for classes with equal names (their heads would be equal) and for
    an empty split.
    """
    reader, label = task["reader"].removeprefix("images."), task["label"]
    if reader == "captions":
        return captions(task, Path(sources[task["assets"][0]]), form["side"])
    if reader not in READERS:
        known = ", ".join(f"images.{name}" for name in [*READERS, "captions"])
        raise UserError(f"config/tasks.yaml: unknown reader {task['reader']!r}; known: {known}")
    classes, names = task["classes"], class_names(task)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"task {label}: `classes:` names {twice[0]!r} twice; equal names would be equal heads")
    folders = [Path(sources[asset]) for asset in task["assets"]]
    parts = drop_duplicates(READERS[reader](folders, classes=classes, side=form["side"], **task.get("arguments", {})))
    splits = {split: (to_rgb_square(x, form["side"]), y) for split, (x, y) in draw_per_class(parts, task["splits"]).items()}
    if "corrupt" in form:
        splits["test"] = corrupt_pictures(splits["test"][0], **form["corrupt"]), splits["test"][1]
    if empty := [split for split, (x, _) in splits.items() if not len(x)]:
        raise UserError(f"task {label}: no image is left for {empty[0]}; correct `splits:` in config/tasks.yaml")
    held = sum(len(splits[split][1]) for split in splits if split != "train" and split not in parts)
    return common_record(task, names, len(parts["train"][1]) - held), splits


def captions(task: Mapping[str, Any], folder: Path, side: int) -> tuple[dict, Splits]:
    """Return pictures with captions made of file and folder names; every picture is its own class.

    Pictures in the folders of `arguments: without:`, and pictures with equal pixels at this size, are excluded: the
    clip-art task stays unseen. `splits: train` is the number of pictures.
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
    splits: Splits = {"train": (np.stack(images), np.arange(len(images)))}
    return common_record(task, names, len(images)), splits


def drop_duplicates(parts: Splits) -> Splits:
    """Keep the first of equal pictures in the order of SPLIT_ORDER."""
    seen: set[bytes] = set()
    kept: Splits = {}
    for split in [name for name in SPLIT_ORDER if name in parts]:
        images, labels = parts[split]
        fresh = np.zeros(len(labels), bool)
        for i, image in enumerate(images):
            content = image.tobytes()
            fresh[i] = content not in seen
            seen.add(content)
        kept[split] = (images[fresh], labels[fresh])
    return kept


def draw_per_class(parts: Splits, wanted: Mapping[str, int]) -> Splits:
    """Take `wanted[split]` images per class from the part of that name, else from `train`, in a seeded order.

    Splits of one part are disjoint. A class too small for all splits is shared in proportion; train gets the rest.
    """
    chosen: dict[str, list[int]] = {split: [] for split in wanted}
    origin = {split: split if split in parts else "train" for split in wanted}
    for part in sorted(set(origin.values())):
        takers = [split for split in SPLIT_ORDER if origin.get(split) == part]
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
    """Resize uint8 images (N, h, w) or (N, h, w, 3) to RGB (N, side, side, 3)."""
    if images.shape[1:3] != (side, side):
        resized = [Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR) for image in images]
        images = np.stack([np.asarray(image) for image in resized]) if resized else images[:, :side, :side]
    return images if images.ndim == 4 else np.repeat(images[..., None], 3, axis=3)


def idx(sources: list[Path], classes: list[str] | Mapping[str, str], side: int) -> Splits:
    """Read the training and test files of Fashion-MNIST (gzipped IDX: big-endian header, then uint8).

    Of classes in a mapping, whose keys are labels of the files, only the images of these are kept.
    """
    parts = {}
    for split, stem in (("train", "train"), ("test", "t10k")):
        images, labels = (_idx(next(sources[0].glob(f"{stem}-{kind}-idx?-ubyte.gz"))) for kind in ("images", "labels"))
        if isinstance(classes, Mapping):
            kept, labels = np.nonzero(labels[:, None] == np.array([int(key) for key in classes]))
            images = images[kept]
        parts[split] = (images, labels.astype(np.int64))
    return parts


def _idx(file: Path) -> np.ndarray:
    data = gzip.decompress(file.read_bytes())
    shape = np.frombuffer(data, ">u4", data[3], 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def rows(sources: list[Path], classes: list[str], side: int, top: int = 255) -> Splits:
    """Read square grey images from a gzipped CSV: one image per row, pixels 0..`top`, then the label."""
    table = np.loadtxt(next(sources[0].glob("*.csv.gz")), delimiter=",", ndmin=2)
    width = round((table.shape[1] - 1) ** 0.5)
    pixels = np.rint(table[:, :-1] * (255 / top)).astype(np.uint8).reshape(-1, width, width)
    return {"train": (pixels, table[:, -1].astype(np.int64))}


def clipart(sources: list[Path], classes: Mapping[str, str], side: int, most: int = 130) -> Splits:
    """Read at most `most` pictures on white from each folder in the keys of `classes`."""
    pictures = [
        (picture, k)
        for k, folder in enumerate(classes)
        for file in shuffled(sorted((sources[0] / folder).rglob("*.png")), "clipart", folder)[:most]
        if (picture := _picture(file, side)) is not None
    ]
    if missing := set(range(len(classes))) - {k for _, k in pictures}:
        raise UserError(f"task clipart: {sources[0] / list(classes)[min(missing)]} has no picture; correct `classes:`")
    return {"train": stacked(pictures)}


def _picture(file: Path, side: int) -> np.ndarray | None:
    """Return one picture centred on a white square, or None for a damaged or too large file."""
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
    filter = Image.Resampling.BOX if width > 2 * side else Image.Resampling.BILINEAR
    return np.asarray(square.convert("RGB").resize((side, side), filter))


READERS: dict[str, Callable[..., Splits]] = {
    reader.__name__: reader for reader in (rows, idx, clipart, scripts, climate, signs, textures)
}
