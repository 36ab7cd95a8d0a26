"""Merge and document in one step: weights, provenance.json and the model card appear together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nan_merge.core.progress import Progress, no_progress
from nan_merge.core.versions import versions
from nan_merge.engine.devices import device
from nan_merge.engine.merge import merge
from nan_merge.engine.request import MergeRequest
from nan_merge.standalone.model_card import command, document, origin
from nan_merge.standalone.sources import Source


def merge_and_document(
    request: MergeRequest,
    sources: Mapping[str, Source],
    about: Mapping[str, Any],
    output: Path,
    *,
    threads: int = 1,
    device_name: str = "cpu",
    progress: Progress = no_progress,
    files: Mapping[str, str] | None = None,
) -> None:
    """Write a merged model with its provenance and its model card, whole or not at all.

    `sources` are `base` and every expert by name, `about` further entries of provenance.json (`name`, `method`,
    `method_spec` and others), `files` texts by name that the output has besides or in place of the base's; for the rest see
    `merge` and `devices.device`.
    """
    record = {
        "coefficients": request.table.record(),
        "thresholds": request.thresholds,
        "seed": request.seed,
        "device": device_name,
        "notes": list(request.models.notes),
        "versions": versions(),
        **about,
    }
    record["command"] = command(record, {name: source.pinned for name, source in sources.items()}, str(output))

    def finish(folder: Path, digests: Mapping[str, str]) -> None:
        for name, text in (files or {}).items():
            (folder / name).write_text(text, encoding="utf-8")
        document(folder, {**record, "inputs": {name: origin(source, digests[name]) for name, source in sources.items()}})

    merge(request, output, threads=threads, device=device(device_name), progress=progress, finish=finish)
