"""A data set of the hub with pictures of real size: pieces of a photograph as JPEG, in a parquet shard."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SIDES = (500, 375)  # width and height, as in DTD, Cars and SUN397
QUALITY = 90
NOISE = 7.0  # of a sensor, in steps of 1/255: with it a picture takes about 80 kB; those of DTD take 105


def make(folder: Path, count: int, classes: Sequence[str]) -> Path:
    """Write one shard of the split `test`, with the metadata that the `datasets` library reads."""
    rows = [{"image": {"bytes": data, "path": f"{number}.jpg"}, "label": number % len(classes)}
            for number, data in enumerate(pictures(count))]  # fmt: skip
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(classes)}}
    schema = pa.schema([("image", kind), ("label", pa.int64())], {"huggingface": json.dumps({"info": {"features": features}})})
    file = folder / "data/test-00000-of-00001.parquet"
    file.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), file, row_group_size=100)
    return file


def pictures(count: int) -> Iterator[bytes]:
    """Yield JPEG files: a drawn piece of the photograph that matplotlib ships, mirrored or not, with noise."""
    photograph = Image.open(Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg").convert("RGB")
    draws = np.random.default_rng(0)
    for _ in range(count):
        width = int(draws.integers(250, photograph.width))
        height = width * SIDES[1] // SIDES[0]
        left, top = (int(draws.integers(0, whole - part)) for whole, part in zip(photograph.size, (width, height), strict=True))
        piece = photograph.crop((left, top, left + width, top + height)).resize(SIDES, Image.Resampling.BICUBIC)
        pixels = np.asarray(piece)[:, :: draws.choice([-1, 1])] + draws.normal(0, NOISE, (SIDES[1], SIDES[0], 1))
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
        yield file.getvalue()
