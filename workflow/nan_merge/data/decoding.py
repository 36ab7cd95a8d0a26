"""Decode images into memory-mapped arrays in parallel processes, unit by unit; an interrupted run resumes."""

from __future__ import annotations

import functools
import hashlib
import io
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from nan_merge.core.errors import UserError
from nan_merge.core.files import canonical, read_json, sha256, write_json
from nan_merge.core.progress import bar
from nan_merge.data.shards import AGAIN, Parquet, Tar, open_shard

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")  # others may run a program: EPS, Ghostscript
UNIT = 512  # largest number of rows of one unit
KILLED = (
    "a decoding process was killed, most likely for memory; run again with fewer --processes (threads of the rule"
    " prepare_dataset): decoded images are kept"
)


@dataclass(frozen=True)
class Unit:
    """Rows of one shard that are decoded together, each into a position of a split's array."""

    number: int
    shard: Path
    columns: tuple[str, str]  # image, label
    rows: tuple[tuple[int, str, int], ...]  # row in the shard, split, position in its array


def decode(data: bytes) -> Image.Image:
    """Return an image upright and in RGB, as read by the `datasets` library and FusionBench.

    Only the FORMATS of data sets are read, up to twice Pillow's MAX_IMAGE_PIXELS.
    DIFFERS: transformers 5 composes transparent images on white; `convert("RGB")`, used here and by the peers, drops alpha.
    """
    picture: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    picture.load()
    if picture.getexif().get(ExifTags.Base.Orientation) is not None:
        picture = ImageOps.exif_transpose(picture)
    return picture.convert("RGB")


def square(picture: Image.Image, side: int, crop: str = "floor", resize: int | None = None) -> np.ndarray:
    """Resize the shorter side to `resize` (bicubic, antialiased; default `side`) and cut out the middle: (side, side, 3) uint8.

    An odd remainder is halved by `floor` (default) as in transformers, or by `round` (to even) as in torchvision, used by
    open_clip; the two crops differ by one pixel for about a fifth of all images.
    """
    width, height = picture.size
    edge = resize or side
    size = (edge, int(edge * height / width)) if width <= height else (int(edge * width / height), edge)
    left, top = (_half(length - side, crop) for length in size)
    resized = picture.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + side, top + side)))


def _half(length: int, crop: str) -> int:
    if crop not in ("floor", "round"):
        raise UserError(f"`input: crop:` is {crop!r}, expected floor or round")
    return length // 2 if crop == "floor" else round(length / 2)


class Work:
    """The work folder of a decoding run: plan.json, one array per split, one empty file per finished unit."""

    def __init__(
        self, folder: Path, plan: Mapping[str, Any], sizes: Mapping[str, int], side: int, crop: str, resize: int | None = None
    ) -> None:
        """Resume an interrupted run of the same plan and code, or start again."""
        self.folder, self.side, self.crop, self.resize = folder, side, crop, resize
        identity = hashlib.sha256(canonical({**plan, "code": sha256(Path(__file__))}).encode()).hexdigest()
        if not (folder / "plan.json").is_file() or read_json(folder / "plan.json") != identity:
            shutil.rmtree(folder, ignore_errors=True)
            (folder / "done").mkdir(parents=True)
            for split, size in sizes.items():
                self._allocate(split, size)
            write_json(folder / "plan.json", identity)

    def _allocate(self, split: str, size: int) -> None:
        """Create the file of an array and allocate its space: a full disk would kill a process that writes to a map."""
        array = np.lib.format.open_memmap(self.array(split), "w+", np.uint8, (size, self.side, self.side, 3))
        del array
        with open(self.array(split), "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)

    def array(self, split: str) -> Path:
        """Return the file of a split's pixels, (N, side, side, 3) uint8."""
        return self.folder / f"{split}.inputs.npy"

    def mark(self, unit: Unit) -> Path:
        """Return the path of the marker of a finished unit."""
        return self.folder / "done" / str(unit.number)

    def fill(self, unit: Unit) -> int:
        """Decode one unit into the arrays and return its number of images; raise UserError for an unreadable image."""
        places = {row: (split, position) for row, split, position in unit.rows}
        arrays = {split: np.load(self.array(split), mmap_mode="r+") for split in {split for _, split, _ in unit.rows}}
        for row, data in _opened(unit.shard, *unit.columns, unit.shard.stat().st_mtime_ns).pictures(sorted(places)):
            split, position = places[row]
            arrays[split][position] = self._pixels(unit.shard, row, data)
        for array in arrays.values():
            array.flush()
        self.mark(unit).touch()
        return len(unit.rows)

    def _pixels(self, shard: Path, row: int, data: bytes) -> np.ndarray:
        try:
            return square(decode(data), self.side, self.crop, self.resize)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # decoders raise various errors on damaged data
            reason = str(error) or type(error).__name__
            raise UserError(f"{shard}, row {row}: no readable image ({reason}); images are never skipped; {AGAIN}") from None

    def run(self, units: Sequence[Unit], processes: int) -> None:
        """Decode all unfinished units; bytes and the first error do not depend on the number of processes."""
        waiting = [unit for unit in units if not self.mark(unit).exists()]
        total, left = (sum(len(unit.rows) for unit in some) for some in (units, waiting))
        with bar("decode", total, "image") as shown:
            shown.update(total - left)
            for count in map(self.fill, waiting) if min(processes, len(waiting)) < 2 else self._parallel(waiting, processes):
                shown.update(count)

    def _parallel(self, units: Sequence[Unit], processes: int) -> Iterator[int]:
        context = multiprocessing.get_context("spawn")  # Arrow's threads do not survive a fork
        with ProcessPoolExecutor(min(processes, len(units)), context, _begin) as pool:
            futures = [pool.submit(self.fill, unit) for unit in units]
            try:
                for future in as_completed(futures):
                    if future.exception():
                        break
                    yield future.result()
            finally:  # an error or Ctrl-C: running units are finished, the others are not started
                pool.shutdown(wait=True, cancel_futures=True)
        for future in futures:
            if not future.cancelled() and (error := future.exception()):
                raise UserError(KILLED) if isinstance(error, BrokenProcessPool) else error


def _begin() -> None:
    """Initialise a worker: ignore Ctrl-C, which the parent handles, and exit when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def exit_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()


@functools.lru_cache(maxsize=4)
def _opened(path: Path, image: str, label: str, _changed: int) -> Parquet | Tar:
    return open_shard(path, image, label)


def cut_units(shards: Sequence[Parquet | Tar], wanted: Sequence[Mapping[int, tuple[str, int]]]) -> list[Unit]:
    """Cut the wanted rows of each shard (row -> split, position) into units of at most UNIT rows of one block."""
    cut: list[Unit] = []
    for shard, places in zip(shards, wanted, strict=True):
        for block in shard.blocks():
            rows = [(row, *places[row]) for row in block if row in places]
            for first in range(0, len(rows), UNIT):
                part = tuple(rows[first : first + UNIT])
                cut.append(Unit(len(cut), shard.path, (shard.image, shard.label), part))
    return cut
