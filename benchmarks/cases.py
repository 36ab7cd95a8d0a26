"""Make and remove the models of a benchmark; describe the machine."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.shapes import MODELS, PARTS, TINY, Llama, Model, cut, make, model_bytes, parameters
from nan_merge.core.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
SPARE = 6_000_000_000  # bytes of disk that are left free


@dataclass(frozen=True)
class Case:
    """A base and `count` experts of one shape in a folder of their own, and the place for a merge of them."""

    size: str
    model: Model
    count: int
    folder: Path
    holes: bool = False

    @property
    def base(self) -> Path:
        """The folder of the base."""
        return self.folder / "base"

    @property
    def experts(self) -> list[Path]:
        """The folders of the experts."""
        return [self.folder / f"expert_{number}" for number in range(self.count)]

    @property
    def output(self) -> Path:
        """The folder that every program writes and that is removed after its run."""
        return self.folder / "merged"

    @property
    def files(self) -> list[Path]:
        """All files of weights that are read."""
        return [file for folder in (self.base, *self.experts) for file in sorted(folder.glob("*.safetensors"))]

    @property
    def traffic(self) -> int:
        """The least bytes that a merge reads and writes."""
        return (self.count + 2) * model_bytes(self.model)

    def record(self) -> dict[str, Any]:
        """Return the description of the case for tables."""
        return {
            "size": self.size,
            "family": "LLaMA" if isinstance(self.model, Llama) else "CLIP image encoder",
            "type": {"BF16": "bfloat16", "F32": "float32"}[self.model.dtype],
            "layers": self.model.layers,
            "parts": PARTS.get(self.size, 1),
            "layers_of_size": MODELS[self.size].layers if self.size in MODELS else self.model.layers,
            "parameters": parameters(self.model),
            "bytes": model_bytes(self.model),
            "bytes_of_size": model_bytes(MODELS[self.size]) if self.size in MODELS else model_bytes(self.model),
            "experts": self.count,
            "holes": self.holes,
        }


@contextmanager
def models(
    size: str, experts: int, folder: Path, *, layers: int | None = None, keep: bool = False, holes: bool = False
) -> Iterator[Case]:
    """Make a base and experts under `folder`, and remove them at the end unless they are to be kept.

    Models have `layers` of their layers, all if None. One that the disk does not hold, with all experts and the merge, is
    cut to as many as it holds; with `holes` only the merge takes space. Raises UserError if not even one layer fits.
    """
    place = folder / f"{size}-{experts}".replace("/", "_")
    if place.exists():
        raise UserError(f"{place}: is there already, from a run that was ended or kept; remove it")
    folder.mkdir(parents=True, exist_ok=True)
    copies = 1 if holes else experts + 2
    whole = MODELS[size]
    wanted = whole if layers is None else dataclasses.replace(whole, layers=min(layers, whole.layers))
    model = cut(wanted, (shutil.disk_usage(folder).free - SPARE) // copies)
    if model is None:
        raise UserError(
            f"{folder}: no space for {copies} models of one layer beside {SPARE / 1e9:.0f} GB; choose another --folder"
        )
    with made(Case(size, model, experts, place, holes), keep=keep) as case:
        yield case


@contextmanager
def made(case: Case, *, keep: bool = False) -> Iterator[Case]:
    """Make the models of a case, and remove them at the end unless they are to be kept."""
    try:
        make(case.base, case.model, holes=case.holes)
        for number, expert in enumerate(case.experts):
            make(expert, case.model, number, holes=case.holes)
        yield case
    finally:
        if not keep:
            shutil.rmtree(case.folder, ignore_errors=True)


def tiny(case: Case) -> Case:
    """Return a tiny case of the same family and number of experts, for a run before the clock starts."""
    return Case("tiny", TINY[type(case.model)], case.count, case.folder / "tiny")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that all benchmarks share."""
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench/models", help="where models are made and removed")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results", help="folder of the JSON and the table")
    parser.add_argument("--keep", action="store_true", help="leave the models there")


def positive(text: str, least: int = 1) -> int:
    """Read a whole number from 1, or from `least`."""
    if not text.isdigit() or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least}, found {text}")
    return int(text)


def facts(folder: Path, peers: Mapping[str, Path] | None = None) -> dict[str, Any]:
    """Return date, machine and versions; `peers` are the Python of the environment of each peer, by package."""
    processor = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    kernel = re.match(r"[\d.]*\d", platform.release())
    versions = {package: importlib.metadata.version(package) for package in ("numpy", "numba", "ml_dtypes", "xxhash")}
    return {
        "date": date.today().isoformat(),
        "processor": processor[1] if processor else platform.machine(),
        "processors": len(os.sched_getaffinity(0)),
        "memory_bytes": memory,
        "file_system": file_system(folder),
        "system": f"{platform.system()} {kernel[0] if kernel else ''}".strip(),
        "load": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), **versions},
        "peers": {package: version(python, package) for package, python in (peers or {}).items()},
    }


def file_system(folder: Path) -> str:
    """Return the type of the file system of an existing or future folder."""
    place = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    holding = [(where, kind) for where, kind in mounts if Path(where) in (place, *place.parents)]
    return max(holding, key=lambda mount: len(mount[0]))[1]


def version(python: Path, package: str) -> dict[str, str]:
    """Return the versions of a package and of its dependencies, in the environment of another Python."""
    program = (
        "import importlib.metadata, platform, sys; print(platform.python_version());"
        " [print(importlib.metadata.version(name)) for name in sys.argv[1:]]"
    )
    names = [package, "torch", "transformers"]
    done = subprocess.run([python, "-c", program, *names], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{python}: no Python with {package}; `make bench` makes one")
    return dict(zip(["python", *names], done.stdout.split(), strict=True))
