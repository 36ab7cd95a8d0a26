"""Hyper-parameters that vary over the tensors of a model, or by expert: gradients over the layers and cases, as in mergekit.

    0.5                                     one value
    [0, 0.3, 1]                             a gradient: interpolated linearly from the first block to the last
    [{filter: mlp, value: 0.5}, {value: 0}] cases: the first counts whose `filter` is a part of the tensor's name; `layers:
                                            [0, 16]` limits a case to blocks 0 to 15, over which its gradient then runs
    {math: 0.5, code: [0, 1]}               by expert, where the hyper-parameter belongs to one

A tensor outside the blocks has the first value of a gradient; it belongs to the first layers if it is an embedding, else to
the last ones. A stack of one block has the last value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nan_merge.core.blocks import LAYER_RE
from nan_merge.core.errors import UserError
from nan_merge.core.names import nearest

EMBEDDING = re.compile("emb|wte|wpe")  # in the name of a tensor before the first block


@dataclass(frozen=True)
class Varies:
    """The mark, in the annotation of a hyper-parameter, that its number may vary."""

    by_expert: bool = False

    def schema(self, plain: Mapping[str, Any]) -> dict[str, Any]:
        """Return the JSON schema of the varying number, from that of the plain one."""
        number = {key: value for key, value in plain.items() if key != "description"}
        gradient = {
            "type": "array",
            "minItems": 2,
            "items": number,
            "description": "values of a gradient over the layers; one value alone stands without brackets",
        }
        block = {"type": "integer", "minimum": 0}
        properties = {
            "filter": {"type": "string", "minLength": 1, "description": "part of a tensor's name"},
            "layers": {
                "type": "array",
                "minItems": 2,
                "maxItems": 2,
                "items": block,
                "description": "first block and the one behind the last",
            },
            "value": {"anyOf": [number, gradient], "description": "a number, or a gradient over the layers"},
        }
        case = {"type": "object", "additionalProperties": False, "required": ["value"], "properties": properties}
        cases = {"type": "array", "items": case}
        several = {"if": {"contains": {"type": "object"}}, "then": cases, "else": gradient}
        each = {"if": {"type": "array"}, "then": several, "else": number}
        experts = {"type": "object", "minProperties": 1, "additionalProperties": each}
        about = {"description": plain["description"]} if "description" in plain else {}
        forms = {"if": {"type": "array"}, "then": several, "else": experts if self.by_expert else dict(plain)}
        return {**about, "if": {"type": ["array", "object"]}, "then": forms, "else": dict(plain)}


def block_counts(names: Iterable[str]) -> dict[str, int]:
    """Return the number of blocks of every stack of blocks, by the prefix of its tensors' names."""
    counts: dict[str, int] = {}
    for match in filter(None, map(LAYER_RE.match, names)):
        counts[match[1]] = max(counts.get(match[1], 0), int(match[2]) + 1)
    return counts


def varies(value: Any) -> bool:
    """Return whether a value of a hyper-parameter varies over tensors: a list, or a mapping that holds one."""
    return _is_list(value) or (isinstance(value, Mapping) and any(map(varies, value.values())))


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def value_at(value: Any, tensor: str, blocks: Mapping[str, int]) -> Any:
    """Return the number that a varying value has at a tensor; of a mapping the mapping of numbers.

    `blocks` are the `block_counts` of the model. Raises UserError if no case fits.
    """
    if isinstance(value, Mapping):
        return {name: value_at(each, tensor, blocks) for name, each in value.items()}
    if not _is_list(value):
        return value
    match = LAYER_RE.match(tensor)
    block, count = (int(match[2]), blocks[match[1]]) if match else (None, max(blocks.values(), default=0))
    cases: Iterable[Mapping[str, Any]] = value if isinstance(value[0], Mapping) else [{"value": value}]
    for case in cases:
        first, end = case.get("layers", (0, count))
        if block is None:
            inside = "layers" not in case or (first == 0 if EMBEDDING.search(tensor) else end == count)
        else:
            inside = first <= block < end
        if inside and case.get("filter", "") in tensor:
            place = 0.0 if block is None else (block - first) / (end - first - 1) if end - first > 1 else 1.0
            return _interpolated(case["value"], place)
    raise UserError(f"no case of {list(value)} fits tensor '{tensor}'; end the list with a case without `filter`: {{value: 0}}")


def numbers(value: Any) -> Iterator[float]:
    """Yield the numbers of a varying value: of a gradient, of all cases, or of all experts."""
    if isinstance(value, Mapping):
        for each in value.values():
            yield from numbers(each)
    elif _is_list(value):
        for each in value:
            yield from numbers(each["value"] if isinstance(each, Mapping) else each)
    else:
        yield value


def check_cases(value: Any, names: Iterable[str], blocks: Mapping[str, int], where: str) -> None:
    """Raise a UserError, beginning with `where`, for a case that fits no tensor of `names`.

    That is one whose `filter` is a part of no name, or whose `layers` end before they begin or behind the last of the model, with
    `blocks` as in `value_at`.
    """
    if isinstance(value, Mapping):
        for each in value.values():
            check_cases(each, names, blocks, where)
    cases = [case for case in value if isinstance(case, Mapping)] if _is_list(value) else []
    count = max(blocks.values(), default=0)
    for first, end in (case["layers"] for case in cases if "layers" in case):
        if not first < end <= count:
            expected = f"the first layer and the one behind the last, of {count} layers from 0"
            raise UserError(f"{where}: layers: expected {expected}; found [{first}, {end}]")
    for part in (case["filter"] for case in cases if "filter" in case):
        if not any(part in name for name in names):
            words = {word for name in names for word in name.split(".") if not word.isdigit()}
            raise UserError(f"{where}: filter: '{part}' is a part of no tensor's name; {nearest(part, words)}")


def _interpolated(gradient: Any, place: float) -> float:
    """Return the value of a gradient at a place from 0 to 1; a number is the same everywhere."""
    if not _is_list(gradient):
        return float(gradient)
    scaled = place * (len(gradient) - 1)
    low = int(scaled)
    share = scaled - low
    return (1 - share) * gradient[low] + share * gradient[min(low + 1, len(gradient) - 1)]
