"""Keep the answers to a task in a file of their own, under a key of all that they depend on.

So a run that was ended goes on after its last task, and equal models are run once.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from xxhash import xxh3_128_hexdigest

from nan_merge.core.atomic import atomic_write
from nan_merge.core.errors import UserError
from nan_merge.core.files import canonical
from nan_merge.core.text import parse_json
from nan_merge.models.harness.answers import Sample


def kept(cache: Path, identity: Mapping[str, Any], make: Callable[[], tuple[list[Sample], int]]) -> tuple[list[Sample], int]:
    """Return samples and batch size from the file of an identity below `cache`; make and write it, whole, if it is not there."""
    key = xxh3_128_hexdigest(canonical(identity).encode())
    file = cache / key[:2] / f"{key}.json.gz"
    if not file.is_file():
        samples, batch_size = make()
        record = {"identity": identity, "batch_size": batch_size, "samples": samples}
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as part:
            part.write_bytes(gzip.compress(canonical(record).encode(), mtime=0))
    try:
        record = parse_json(gzip.decompress(file.read_bytes()), file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{file}: damaged answers ({error}); delete the file and run again") from None
    return record["samples"], int(record["batch_size"])
