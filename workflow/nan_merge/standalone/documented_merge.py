"""Merge and document in one step: weights, provenance.json and the model card appear together.

The documents are composed before the merge, with all that they need from the inputs, so that what can fail fails early. A
document that cannot be written at the end is missing, with a message; the merge is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nan_merge.core.errors import UserError, explained, tell
from nan_merge.core.files import canonical
from nan_merge.core.parallel import available_processors
from nan_merge.core.progress import Progress, no_progress
from nan_merge.core.versions import versions
from nan_merge.engine.devices import device
from nan_merge.engine.merge import merge
from nan_merge.engine.request import MergeRequest
from nan_merge.standalone.model_card import PROVENANCE, card, command, document, loading, origin
from nan_merge.standalone.outputs import Inputs, seal
from nan_merge.standalone.sources import Source


def merge_and_document(
    request: MergeRequest,
    sources: Mapping[str, Source],
    about: Mapping[str, Any],
    output: Path,
    *,
    inputs: Inputs | None = None,
    threads: int = 1,
    device_name: str = "cpu",
    progress: Progress = no_progress,
    files: Mapping[str, str] | None = None,
    make: Callable[..., object] | None = None,
) -> dict[str, Any]:
    """Write a merged model with its provenance and its model card, whole or not at all; return what `make` told of it.

    `sources` are `base` and every expert by name, `inputs` their files as they were when they were opened (now, if None),
    `about` further entries of provenance.json (`name`, `method`, `method_spec` and others), `files` texts by name that the
    output has besides or in place of the base's; `make` writes the model in place of `merge`, is called as it is, and may give
    `finish` further entries of provenance.json; for the rest see `merge` and `devices.device`. Raises UserError for an input
    that was changed meanwhile.
    """
    inputs = inputs or Inputs.of({name: source.folder for name, source in sources.items()})
    if (cores := available_processors()) < request.blas_threads:
        tell(f"note: --blas-threads {request.blas_threads} takes several times as long with fewer processors, here {cores}")
    record = compose(request, sources, about, output, device_name)

    told: dict[str, Any] = {}

    def finish(
        folder: Path, digests: Mapping[str, str], written: Mapping[str, str], made: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        inputs.check()
        told.update(made)
        for name, text in (files or {}).items():
            (folder / name).write_text(text, encoding="utf-8")
        try:
            entered = {name: {**known, "xxh3_128": digests[name]} for name, known in record["inputs"].items()}
            document(folder, {**record, **made, "inputs": entered})
            seal(folder, written)
        except Exception as error:
            failed.append(explained(error) or repr(error))
            (folder / PROVENANCE).unlink(missing_ok=True)  # half a document proves nothing

    failed: list[str] = []
    (make or merge)(request, output.resolve(), threads=threads, device=device(device_name), progress=progress, finish=finish)
    if failed:
        raise UserError(
            f"{output}: the merged model is whole and stays, its documents could not be written ({failed[0]}). It can be used as"
            " it is; to have the card and provenance.json, remove the folder by hand and merge again"
        )
    return told


def compose(
    request: MergeRequest, sources: Mapping[str, Source], about: Mapping[str, Any], output: Path, device_name: str = "cpu"
) -> dict[str, Any]:
    """Return what the documents are made of, see `merge_and_document`; UserError for an input that does not fit them."""
    record: dict[str, Any] = {
        "coefficients": request.table.record(),
        "thresholds": request.thresholds,
        "seed": request.seed,
        "device": device_name,
        **({"compute": request.computed.name} if request.recipe.whole else {}),
        **({"blas_threads": request.blas_threads} if request.blas_threads > 1 else {}),
        "notes": list(request.models.notes),
        "versions": versions(),
        **about,
    }
    record["command"] = command(record, {name: source.pinned for name, source in sources.items()}, str(output))
    record["inputs"] = {name: _readable(source.folder, partial(origin, source, "")) for name, source in sources.items()}
    _readable(sources["base"].folder, lambda: _rehearse({**record, "loading": loading(sources["base"].folder)}))
    return record


def _rehearse(record: Mapping[str, Any]) -> None:
    """Compose the documents of a merge and drop them."""
    (card(record) + canonical(record)).encode("utf-8", "backslashreplace")  # as they are written


def _readable(folder: Path, read: Callable[[], Any]) -> Any:
    """Return what is read for the documents; what cannot be read or written in them is a UserError."""
    try:
        return read()
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise UserError(
            f"{folder}: its README.md, its configs or its name do not fit a model card ({error}); correct it"
        ) from None
