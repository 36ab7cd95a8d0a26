"""Read config/methods.yaml: `extends` is resolved, and an entry with `draws` or a `scan` becomes a family of methods.

A member of a family is a method like any other. Its key `family` holds the id and the label of the entry and either
`draw`, its number, or `values`, the hyper-parameters that the scan gave it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from config_files import check_schema, known_names, read_yaml
from merging.recipe import DEFAULTS, Word, hyper_parameters, word_of
from merging.recipe import SLOTS as WORDS
from merging.results import UserError
from merging.schema import slots

SLOTS = tuple(WORDS)
REFERENCES = ("pretrained", "individual", "multitask")  # rows without a merge
FILE = "config/methods.yaml"
SCHEMA = "workflow/schemas/methods.schema.yaml"
NOT_INHERITED = ("tune", "draws", "scan")  # what makes several merges of one entry


def methods(root: Path) -> dict[str, dict[str, Any]]:
    """Return the methods of config/methods.yaml below `root` by id, checked, the members of a family at its place."""
    records = read_yaml(root / FILE)
    check_schema(records, root / SCHEMA, FILE, _definitions())
    found: dict[str, dict[str, Any]] = {}
    for name, record in extended(records).items():
        for member, expanded in _members(name, record):
            if member in found or (member != name and member in records):
                raise UserError(f"{FILE}: {name}: there are two methods '{member}'; rename one")
            found[member] = expanded
    return found


def families(records: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the members of every family by its id."""
    found: dict[str, list[str]] = {}
    for name, record in records.items():
        if "family" in record:
            found.setdefault(record["family"]["id"], []).append(name)
    return found


def words(record: Mapping[str, Any]) -> list[Word]:
    """Return the words of a method, one a slot."""
    return [WORDS[slot][word_of(record.get(slot, DEFAULTS[slot]), slot)[0]] for slot in SLOTS]


def check_sentence(sentence: Mapping[str, Any], root: Path, where: str) -> None:
    """Check the slots of one method against the schema; the first fault is a UserError that begins with `where`."""
    check_schema({"method": {"label": "", "summary": "", **sentence}}, root / SCHEMA, where, _definitions())


def _definitions() -> dict[str, Any]:
    """Return the JSON schema of every slot, and of a scan: the slots with a list for every hyper-parameter."""
    found = slots()
    scans = {slot: {**schema["anyOf"][1]} for slot, schema in found.items()}
    for scan in scans.values():
        scan["properties"] = {word: _lists(entry) for word, entry in scan["properties"].items()}
    return {**found, "scan": {"type": "object", "minProperties": 1, "additionalProperties": False, "properties": scans}}


def _lists(entry: Mapping[str, Any]) -> dict[str, Any]:
    values = {key: {"type": "array", "minItems": 1, "uniqueItems": True, "items": of} for key, of in entry["properties"].items()}
    return {"type": "object", "minProperties": 1, "additionalProperties": False, "properties": values}


def extended(records: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Resolve `extends`: keys of the named entry, where an entry is silent; `tune`, `draws`, `scan` are never taken over."""
    resolved: dict[str, dict[str, Any]] = {}

    def resolve(name: str, trail: tuple[str, ...]) -> dict[str, Any]:
        if name in trail:
            raise UserError(f"{FILE}: {' -> '.join([*trail, name])}: `extends` goes round in a circle")
        if name not in resolved:
            record = dict(records[name])
            parent = record.get("extends")
            if parent is not None:
                known_names(f"{FILE}: {name}: extends", [parent], records)
                inherited = {k: v for k, v in resolve(parent, (*trail, name)).items() if k not in NOT_INHERITED}
                record = {**inherited, **record}
            resolved[name] = record
        return resolved[name]

    return {name: resolve(name, ()) for name in records}


def _members(name: str, record: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    several = [key for key in NOT_INHERITED if key in record]
    if len(several) > 1:
        raise UserError(f"{FILE}: {name}: the keys {several} exclude each other; keep one")
    plain = {key: value for key, value in record.items() if key not in ("draws", "scan")}
    if "draws" in record:
        yield from _draws(name, plain, record["draws"])
    elif "scan" in record:
        yield from _scan(name, plain, record["scan"])
    else:
        yield name, plain


def _draws(name: str, record: Mapping[str, Any], count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `<name>_1`, `<name>_2`, ...: the control of the entry, with seed 1, 2, ..."""
    word, given = word_of(record.get("control", DEFAULTS["control"]), "control", name)
    if "seed" not in hyper_parameters(WORDS["control"][word]):
        raise UserError(f"{FILE}: {name}: draws: `control: {word}` draws nothing; name a control with a seed, as `permuted`")
    for draw in range(1, count + 1):
        family = {"id": name, "label": record["label"], "draw": draw}
        control = {word: {**given, "seed": draw}}
        yield f"{name}_{draw}", {**record, "label": f"{record['label']}, draw {draw}", "control": control, "family": family}


def _scan(name: str, record: Mapping[str, Any], scan: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `<name>-<value>-<value>...` for every combination of the listed hyper-parameters."""
    axes = [axis for slot in scan for axis in _axes(name, record, slot, scan[slot])]
    for values in product(*(axis.values for axis in axes)):
        sentence = {slot: record[slot] for slot in SLOTS if slot in record}
        for axis, value in zip(axes, values, strict=True):
            given = word_of(sentence.get(axis.slot, axis.word), axis.slot, name)[1]
            sentence[axis.slot] = {axis.word: {**given, axis.key: value}}
        spelt = {axis.key: value for axis, value in zip(axes, values, strict=True)}
        label = ", ".join(f"{key} {_spell(value)}".replace("_", " ") for key, value in spelt.items())
        family = {"id": name, "label": record["label"], "values": spelt}
        member = {**record, **sentence, "label": f"{record['label']}: {label}", "family": family}
        yield "-".join([name, *map(_spell, values)]), member


class _Axis(NamedTuple):
    """One hyper-parameter of a scan."""

    slot: str
    word: str
    key: str
    values: list[Any]


def _axes(name: str, record: Mapping[str, Any], slot: str, scan: Mapping[str, Any]) -> list[_Axis]:
    ((word, lists),) = scan.items()
    mine, given = word_of(record.get(slot, DEFAULTS[slot]), slot, name)
    if word != mine:
        raise UserError(f"{FILE}: {name}: scan: {slot}: '{word}' is not the word of this method; expected '{mine}'")
    exclusive = getattr(WORDS[slot][word], "exclusive", [])
    if exclusive and {*exclusive} <= {*given, *lists}:
        raise UserError(f"{FILE}: {name}: scan: {slot}: the keys {exclusive} exclude each other; keep one")
    return [_Axis(slot, word, key, values) for key, values in lists.items()]


def _spell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
