"""Identify a file of weights as a whole and tensor by tensor, in one pass over its bytes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from xxhash import xxh3_128

from nan_merge.checkpoints.safetensors_file import read_header
from nan_merge.core.errors import UserError, about


def digests(file: Path) -> tuple[str, dict[str, str]]:
    """Return the SHA-256 of a safetensors file, and by name the XXH3-128 of type, shape and stored bytes of each tensor.

    Raises UserError for a damaged header and for a file that shrinks meanwhile.
    """
    places, whole, tensors = read_header(file), hashlib.sha256(), {}
    block = memoryview(bytearray(1 << 20))
    with open(file, "rb", buffering=0) as stream, about(file):

        def read(count: int, *into: Any) -> None:
            while count:
                got = stream.readinto(block[: min(count, len(block))])
                if not got:
                    raise UserError(f"{file}: was changed while it was read; make it again")
                for digest in into:
                    digest.update(block[:got])
                count -= got

        read(min((start for _, _, start, _ in places.values()), default=os.fstat(stream.fileno()).st_size), whole)
        for name, (dtype, shape, start, stop) in places.items():  # by offset, without gaps
            tensor = xxh3_128(f"{dtype}\0{shape}\0".encode())
            read(stop - start, whole, tensor)
            tensors[name] = tensor.hexdigest()
    return whole.hexdigest(), tensors
