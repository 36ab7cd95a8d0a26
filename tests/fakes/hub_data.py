"""Data sets as the hub stores them, of drawn and real pictures: parquet by the `datasets` library, tar shards, cards."""

from __future__ import annotations

import functools
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import yaml
from PIL import Image, ImageDraw

NAMES = ["annual crop", "forest", "sea_lake"]
SHAPES = ("ellipse", "rectangle", "line")
TASK = {
    "id": "tiny", "label": "Tiny", "reader": "hub_images.table", "assets": ["data_tiny"],
    "classes": ["Annual Crop", "forest", "sea lake"], "splits": {"train": 12, "validation": 5, "test": 1000},
    "licence": "CC0-1.0", "source": "drawn here",
    "arguments": {"image": "image", "label": "label", "origin": {"test": "test", "train": "train", "validation": "train"},
                  "counts": {"test": 23, "train": 30}},
}  # fmt: skip
FORM = {"side": 32}


@functools.cache
def photograph() -> Image.Image:
    """A real photograph, 512 x 600."""
    return Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg").convert("RGB")


def picture(i: int) -> Image.Image:
    """A shape with its number on a part of the photograph; sizes and modes vary."""
    draw = np.random.default_rng(i)
    width, height = (int(n) for n in draw.integers(20, 90, 2))
    left, top = int(draw.integers(0, 400)), int(draw.integers(0, 500))
    image = photograph().crop((left, top, left + width, top + height))
    pen = ImageDraw.Draw(image)
    getattr(pen, SHAPES[i % 3])((3, 3, width - 4, height - 4), fill=(255, 20 * (i % 3), 0))
    pen.text((4, 4), str(i), fill=(255, 255, 255))
    return image.convert(("RGB", "L", "RGB", "P")[i % 4])


def encoded(image: Image.Image, kind: str = "PNG", **more) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


def examples(rows: Sequence[int]) -> dict:
    """The columns of a table: picture and label of every number in `rows`."""
    return {
        "image": [{"bytes": encoded(picture(i)), "path": f"{i}.png"} for i in rows],
        "label": [i % 3 for i in rows],
    }


def parquet(file: Path, columns: dict, names: Sequence[str] | None = NAMES, group: int = 4, label: str = "label") -> None:
    """Write one shard as the `datasets` library does: images as {bytes, path}, features in the schema's metadata."""
    import datasets

    plain = datasets.Value("bool" if columns[label] and isinstance(columns[label][0], bool) else "int64")
    kind = datasets.ClassLabel(names=list(names)) if names else plain
    features = datasets.Features({"image": datasets.Image(), label: kind})
    file.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(file), batch_size=group)


def tar(file: Path, rows: Sequence[int], image: str = "jpg", label: str = "cls") -> None:
    """Write one WebDataset shard."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as bundle:
        for i in rows:
            for column, content in ((image, encoded(picture(i).convert("RGB"), "JPEG")), (label, str(i % 3).encode())):
                info = tarfile.TarInfo(f"s{i:04d}.{column}")
                info.size = len(content)
                bundle.addfile(info, io.BytesIO(content))


def card(folder: Path, configs: object = None, names: Sequence[str] | None = NAMES, **more) -> None:
    """Write README.md with a header as on the hub."""
    header: dict = {"license": "cc0-1.0", **more}
    if configs is not None:
        header["configs"] = configs
    if names:
        label = {"class_label": {"names": {str(i): name for i, name in enumerate(names)}}}
        header["dataset_info"] = {"features": [{"name": "image", "dtype": "image"}, {"name": "label", "dtype": label}]}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(header)}---\n# Tiny\n", encoding="utf-8")


DEFAULT = [{"config_name": "default", "data_files": [{"split": s, "path": f"data/{s}-*"} for s in ("train", "test", "noise")]}]


def build(folder: Path) -> Path:
    """A whole data set: 30 rows to train in two shards, 23 to test in two; the card names a split that was not fetched."""
    folder.mkdir(parents=True)
    for split, cuts in (("train", (0, 17, 30)), ("test", (100, 111, 123))):
        for k in range(2):
            parquet(folder / "data" / f"{split}-{k:05d}-of-00002.parquet", examples(range(cuts[k], cuts[k + 1])))
    card(folder, DEFAULT)
    record(folder)
    return folder


def record(folder: Path) -> None:
    """Write asset.json as the fetch does."""
    files = {str(f.relative_to(folder)): {"size": f.stat().st_size} for f in sorted(folder.rglob("*")) if f.is_file()}
    files.pop("asset.json", None)
    (folder / "asset.json").write_text(json.dumps({"asset": folder.name, "files": files}))
