"""Run encoders of any family, on any device and number of threads; what their loaders share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from xxhash import xxh3_128

from nan_merge.checkpoints.safetensors_file import Tensor as StoredTensor
from nan_merge.core.cuda import check_cuda
from nan_merge.core.errors import UserError
from nan_merge.core.text import read_mapping

Encoder = Callable[[np.ndarray], torch.Tensor]


@dataclass(frozen=True)
class Forward:
    """Settings of forward passes: device, precision (autocast below float32), and on a CPU the number of threads."""

    device: str = "cpu"
    precision: str = "float32"
    threads: int = 1

    def __post_init__(self) -> None:
        """Raise UserError for an unknown or missing device."""
        if self.cuda:
            check_cuda(self.device)

    @property
    def cuda(self) -> bool:
        """Whether encoders run on a GPU."""
        return self.device != "cpu"

    def record(self) -> dict[str, Any]:
        """Return the settings for the provenance of a score."""
        gpu = {"gpu": torch.cuda.get_device_name(self.device)} if self.cuda else {}
        return {"device": self.device, "dtype": self.precision, "threads": self.threads, **gpu}

    def elsewhere(self) -> dict[str, Any]:
        """Return `record()` on a GPU and nothing on a CPU, for records of computed files."""
        return self.record() if self.cuda else {}

    def place(self, encoder: Encoder) -> torch.autocast:
        """Move an encoder to the device and return its autocast context; a batch runs on one CPU thread.

        Float32 on a GPU is IEEE float32: TF32, the default of cuDNN's convolutions, is switched off.
        """
        torch.set_num_threads(1)
        if self.cuda:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        if isinstance(encoder, torch.nn.Module):
            encoder.to(self.device)
        return torch.autocast(self.device.partition(":")[0], getattr(torch, self.precision), enabled=self.precision != "float32")


def embed(encoder: Encoder, inputs: np.ndarray, batches: Sequence[np.ndarray], forward: Forward | None = None) -> np.ndarray:
    """Return the embeddings of all inputs in their order, (N, d) float32; `batches` may be in any order.

    A thread computes whole batches, so the bytes do not depend on the number of threads and processors.
    """
    forward = forward or Forward()
    count = 1 if forward.cuda else min(forward.threads, len(batches))
    parts = [batches[first::count] for first in range(count)]
    computed = torch.cat([torch.cat(part) for part in _embedded(encoder, inputs, parts, forward)]).float().cpu().numpy()
    embeddings = np.empty_like(computed)
    embeddings[np.concatenate([batch for part in parts for batch in part])] = computed
    return embeddings


def _embedded(
    encoder: Encoder, inputs: np.ndarray, parts: Sequence[Sequence[np.ndarray]], forward: Forward
) -> list[list[torch.Tensor]]:
    """Return the embeddings of every batch of every part; each part runs in its own thread."""
    stop = threading.Event()

    def run(part: Sequence[np.ndarray]) -> list[torch.Tensor]:
        with torch.inference_mode(), forward.place(encoder), closing(ahead(inputs, part, forward.cuda)) as ready:
            return [encoder(batch) for batch in ready if not stop.is_set()]

    if len(parts) == 1:
        return [run(parts[0])]
    with ThreadPoolExecutor(len(parts)) as pool:
        running = [pool.submit(run, part) for part in parts]
        try:
            wait(running, return_when=FIRST_EXCEPTION)
        finally:  # after an error or Ctrl-C the other threads end at their next batch
            stop.set()
        return [each.result() for each in running]


def ahead(inputs: np.ndarray, batches: Sequence[np.ndarray], pinned: bool = False) -> Generator[np.ndarray]:
    """Yield the inputs of each batch; a thread reads the next batch, possibly from disk, while one is computed.

    Close it after an error: collected later, it would wait for its thread in whatever code runs then.
    `pinned` puts the inputs into page-locked memory, for direct copies to a GPU.
    """

    def read(batch: np.ndarray) -> np.ndarray:
        values = np.asarray(inputs[batch])
        return torch.from_numpy(values).pin_memory().numpy() if pinned else values

    with ThreadPoolExecutor(1) as reader:
        waiting = reader.submit(read, batches[0])
        for batch in batches[1:]:
            ready, waiting = waiting.result(), reader.submit(read, batch)
            yield ready
        yield waiting.result()


def batches(inputs: np.ndarray, size: int) -> list[np.ndarray]:
    """Return index batches in the order of the inputs."""
    return np.split(np.arange(len(inputs)), range(size, len(inputs), size))


def read_config(folder: Path, family: str, expected: Mapping[str, str], defaults: bool = False) -> dict[str, Any]:
    """Return config.json of a canonical checkpoint and set torch to one thread: the same bytes for any number of cores.

    Raises UserError for a key with another value than `expected`; with `defaults` a key may be missing.
    """
    torch.set_num_threads(1)
    config = read_mapping(folder / "config.json")
    for key, value in expected.items():
        if config.get(key, value if defaults else None) != value:
            raise UserError(
                f"{folder}/config.json: {key} is {config.get(key)!r}, family {family} expects {value!r}; choose another"
                " `family:` or base in the suite"
            )
    return config


def as_floats(entries: Mapping[str, StoredTensor]) -> dict[str, np.ndarray]:
    """Return stored tensors by name as float32 arrays of their shapes."""
    return {name: each.block(0, each.size).reshape(each.shape).astype(np.float32, copy=False) for name, each in entries.items()}


def load_tensors(model: torch.nn.Module, folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put tensors by name into a model and set it to evaluation mode; raise UserError if they do not fit the model."""
    try:
        model.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise UserError(f"{folder}: the tensors do not fit the model that its config describes: {error}") from None
    model.eval()


def digest_files(files: Iterable[Path]) -> str:
    """Return the XXH3-128 of the names, sizes and contents of files, sorted by path."""
    digest, block = xxh3_128(), bytearray(1 << 20)
    for file in sorted(files):
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with open(file, "rb", buffering=0) as stream:
            while count := stream.readinto(block):
                digest.update(memoryview(block)[:count])
    return digest.hexdigest()


def build_head(embeddings: np.ndarray) -> np.ndarray:
    """Return the head of class prompt embeddings (C, d): centred over the task's classes, unit rows.

    Centring removes the component common to all prompts of a task.
    """
    head = torch.from_numpy(embeddings)
    return F.normalize(head - head.mean(dim=0), dim=1).numpy()
