"""Vision-language models: the parts beside their language model, and the files that take a picture to them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json
from nan_merge.layouts.names import count_phrase
from nan_merge.layouts.renames import PARTS, common

BESIDE = re.compile(rf"model\.({PARTS})(?=\.|$)")  # of common names
LANGUAGE = "model.language_model."
NO_TOWER = ("multi_modal_projector", "mlp1", "image_newline")  # parts between a tower and a language model
IMAGE_TOKEN = ("image_token_index", "image_token_id")  # keys of config.json
SIZES = "image_grid_pinpoints"  # key of config.json and of processors
PICTURE = re.compile(r"ima?ge?", re.IGNORECASE)  # in tokens: <image>, <|image_pad|>, <image_soft_token>, <IMG_CONTEXT>
TEMPLATES = ("chat_template.jinja", "chat_template.json", "chat_templates")


def beside(names: Iterable[str]) -> dict[str, str]:
    """Return {tensor: part} of those beside the language model, such as `vision_tower`; {} for a model without one of both."""
    spelled = {name: common(name) for name in names}
    parts = {name: match[1] for name, other in spelled.items() if (match := BESIDE.match(other))}
    return parts if any(other.startswith(LANGUAGE) for other in spelled.values()) else {}


def tower(names: Iterable[str]) -> list[str]:
    """Return the tensors of the towers beside a language model."""
    return [name for name, part in beside(names).items() if part not in NO_TOWER]


def absent_parts(names: Collection[str], base: Collection[str], merged: Collection[str]) -> dict[str, list[str]]:
    """Return the parts of the base, with their `merged` tensors, of which a model has nothing, under no name either."""
    parts: dict[str, list[str]] = {}
    for name, part in beside(base).items():
        parts.setdefault(part, []).append(name)
    if any(BESIDE.match(common(name)) for name in names if name not in base):
        return {}
    absent = {part: {*tensors} & {*merged} for part, tensors in parts.items() if not any(name in names for name in tensors)}
    return {part: sorted(tensors) for part, tensors in absent.items() if tensors}


def described(parts: Mapping[str, Collection[str]]) -> str:
    """Return the names of parts with the numbers of their tensors."""
    return ", ".join(f"{part} ({count_phrase(len(tensors), 'tensor')})" for part, tensors in parts.items())


def processor_notes(folder: Path, record: Mapping[str, Any], remedy: str) -> list[str]:
    """Say what the folder of a vision-language model of transformers lacks to be asked about a picture, if anything."""
    key = next((each for each in IMAGE_TOKEN if isinstance(record.get(each), int)), None)
    if key is None or "vision_config" not in record:
        return []
    tokenizer, processor = (_read(folder / f"{kind}_config.json") for kind in ("tokenizer", "processor"))
    lacks, cut = [], sizes_of_pictures(folder)
    if not any((folder / name).is_file() for name in ("processor_config.json", "preprocessor_config.json")):
        lacks.append("it has no processor (preprocessor_config.json), so pictures cannot be prepared")
    if not any((folder / name).exists() for name in TEMPLATES) and not any("chat_template" in x for x in (tokenizer, processor)):
        lacks.append("it has no chat template (chat_template.jinja), which says where a picture stands in a prompt")
    token = _tokens(folder, tokenizer).get(record[key], "")
    if not PICTURE.search(token):
        found = f"token {record[key]} of its tokenizer is '{token}'" if token else f"its tokenizer has no token {record[key]}"
        lacks.append(f"{found}, which stands for a picture by `{key}` of config.json")
    if cut and cut != (record.get(SIZES) or cut):
        lacks.append(f"its processor cuts pictures to the sizes {cut}, and `{SIZES}` of config.json is {record[SIZES]}")
    return [f"{folder} cannot be asked about a picture: {'; '.join(lacks)}. {remedy}"] if lacks else []


def sizes_of_pictures(folder: Path) -> Any:
    """Return the sizes to which the processor of a LLaVA-Next in a folder stretches pictures, None for another processor."""
    processor = _read(folder / "processor_config.json")
    part = processor.get("image_processor", processor)
    return _read(folder / "preprocessor_config.json").get(SIZES) or (part.get(SIZES) if isinstance(part, Mapping) else None)


def _tokens(folder: Path, tokenizer: Mapping[str, Any]) -> dict[int, str]:
    """Return the added tokens that the files of a tokenizer name, by id."""
    added = [(token.get("id"), token.get("content")) for token in _read(folder / "tokenizer.json").get("added_tokens") or []]
    named = tokenizer.get("added_tokens_decoder") or {}
    added += [(int(key), token.get("content")) for key, token in named.items() if key.isdecimal()]
    return {number: str(text) for number, text in (*added, *((n, t) for t, n in _read(folder / "added_tokens.json").items()))}


def _read(file: Path) -> Mapping[str, Any]:
    """Return the content of a JSON file that stays as it is; {} for one that is absent or cannot be read."""
    with suppress(UserError, OSError):
        if file.is_file() and isinstance(record := read_json(file), Mapping):
            return record
    return {}
