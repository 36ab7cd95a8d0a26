"""Every method by its id: an entry of config/methods.yaml, a host, or `host+variant` with variants of config/variants.yaml.

A variant replaces the coefficients of a host, is a control of the coefficients that are there, chooses their scale on validation,
or names the space of the merge. Coefficients take the scale of the host, also where that is tuned. `ties+nan_delta+permuted` is a
control of `ties+nan_delta`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nan_merge.catalogue.files import check_schema, known_names, read_yaml
from nan_merge.catalogue.labels import described
from nan_merge.catalogue.sweeps import lacks_shuffle, members
from nan_merge.catalogue.tune import SCHEMA as TUNE
from nan_merge.catalogue.tune import at_multiples, checked_search, lacks_scale
from nan_merge.core.errors import UserError
from nan_merge.methods.coefficients import COEFFICIENTS, SCALE, gives_factors, is_finished, scale_of, what_it_reads
from nan_merge.methods.recipe import DEFAULTS, Operator, beyond, inconsistent, operator_in
from nan_merge.methods.recipe import STAGES as OPERATORS
from nan_merge.methods.schema import stages
from nan_merge.methods.search_space import names, owns

STAGES = tuple(OPERATORS)
REFERENCES = ("pretrained", "individual", "multitask", "ensemble")  # rows without a merge
FILE, VARIANTS = "config/methods.yaml", "config/variants.yaml"
SCHEMAS = {FILE: "workflow/schemas/methods.schema.yaml", VARIANTS: "workflow/schemas/variants.schema.yaml"}
NOT_INHERITED = ("tune", "draws", "scan", "controls")
TAKEN_OVER = ("hyper_parameter", "space")  # of `tune`, by a method that uses what another has chosen
ALL = "`nan-merge methods` lists all"
COLLECTED_TOGETHER = ("gram_plus", "matching")  # kinds of calibration statistics that are those of all experts at once
EQUAL, LEVEL = ("constant", "uniform"), "uniform_matched"  # rules and control that give every expert the same coefficient
WHOLE = "whole tensors"
RENAMED = [  # ids of earlier versions, and what they are called now
    (r"(weight_averaging|task_arithmetic|ties)_(nan(_delta(_layer|_tensor)?)?)", r"\1+\2"),
    (r"task_arithmetic_nan_tuned", "task_arithmetic_tuned+nan_delta"),
    (r"task_arithmetic_nan_delta_p", "task_arithmetic+nan_delta_tuned"),
    (r"task_arithmetic_nan_(length|shrink)", r"task_arithmetic+nan_\1"),
    (r"uniform_matched", "task_arithmetic+nan_delta+uniform"),
    (r"permuted", "task_arithmetic+nan_delta+permuted"),
    (r"(.+)_permuted", r"\1+nan_delta+permuted"),
    (r"nan_scan_ta", "task_arithmetic+nan_scan"),
    (r"nan_scan_scale", "task_arithmetic+nan_scan_total"),
    (r"nan_scan_ties", "ties_elections+nan_scan_scope"),
    (r"(.+)_nan", r"\1+nan_delta"),
]


class Catalogue:
    """The hosts and variants of a checkout, and every method that they make."""

    def __init__(self, root: Path) -> None:
        """Read config/methods.yaml and config/variants.yaml below `root`; the first fault is a UserError."""
        self.root = root
        self.hosts = _entries(root, FILE)
        self.variants = {
            name: {"group": "nan", **entry} if {"coefficients", "control"} & entry.keys() else entry
            for name, entry in _entries(root, VARIANTS).items()
        }
        self._members: dict[str, dict[str, dict[str, Any]]] = {}

    def members(self, name: str, where: str = FILE) -> dict[str, dict[str, Any]]:
        """Return the methods that an id stands for: one, or every member of a sweep, with labels filled.

        Raises UserError, beginning with `where`, for an id that is not known, and for a variant that its host cannot take.
        """
        return {member: described(record, f"{where}: {member}") for member, record in self.templates(name, where).items()}

    def templates(self, name: str, where: str = FILE) -> dict[str, dict[str, Any]]:
        """Return the same methods with labels and summaries that are not filled yet."""
        known_names(where, [] if isinstance(name, str) else [name], self.hosts, ALL)
        if name not in self._members:
            sweep = re.sub(r"(_[0-9]+|-.*)$", "", name)  # of a member that is named alone
            if not self._is_known(name) and self._is_known(sweep):
                if name in (some := self.templates(sweep, where)):
                    return {name: some[name]}
                if len(some) > 1:
                    raise UserError(f"{where}: unknown '{name}'; {sweep} has {', '.join(some)}")
            place = f"{FILE}: {name}" if name in self.hosts else f"{where}: '{name}'"
            found = list(members(name, entry := self.entry(name, where), place))
            if reason := next(filter(None, (inconsistent(record) for _, record in found)), ""):
                raise UserError(f"{place}: {reason}")
            if owns(entry):
                checked_search(entry, place, self.root / SCHEMAS[FILE], definitions())
            self._members[name] = dict(found)
            if len(self._members[name]) < len(found):
                raise UserError(f"{place}: scan: two values have one id, which has six digits; leave one out")
        return self._members[name]

    def entry(self, name: str, where: str = FILE) -> dict[str, Any]:
        """Return a host, or a host with its variants, before sweeps are expanded and labels are filled."""
        host, *variants = name.split("+")
        self._check_renamed(name, where)
        if host in self.variants and host not in self.hosts:
            example = f"ties+nan_delta+{host}" if "control" in self.variants[host] else f"ties+{host}"
            raise UserError(f"{where}: '{name}': {host} is a variant; put it on a host, as in {example}")
        if "" in (host, *variants):
            raise UserError(f"{where}: '{name}': expected a host, or host+variant")
        known_names(where, [host], self.hosts, ALL)
        known_names(f"{where}: {name}", variants, self.variants, ALL)
        record, so_far = self.hosts[host], host
        for variant in variants:
            if reason := "it merges nothing" if host in REFERENCES else self._refusal(record, variant):
                raise UserError(f"{where}: '{name}': {so_far} does not take the variant '{variant}': {reason}")
            record = self._with(record, so_far, variant)
            so_far = f"{so_far}+{variant}"
        return record

    def described_variants(self) -> dict[str, dict[str, Any]]:
        """Return the variants by id with labels and summaries filled."""
        return {
            name: record if "tune" in record else described(record, f"{VARIANTS}: {name}")
            for name, record in self.variants.items()
        }

    def all(self) -> dict[str, dict[str, Any]]:
        """Return the methods of config/methods.yaml by id, the members of a sweep at its place."""
        found: dict[str, dict[str, Any]] = {}
        for name in self.hosts:
            for member, record in self.members(name).items():
                if member in found or (member != name and member in self.hosts):
                    raise UserError(f"{FILE}: {name}: there are two methods '{member}'; rename one")
                found[member] = record
        return found

    def filled(self, text: str, name: str, where: str) -> str:
        """Return a text about a method with `{value}` and the like filled, as in its label."""
        return str(described({**self.entry(name, where), "label": text, "summary": ""}, where)["label"])

    def untuned(self, name: str) -> str:
        """Return the id of the same method with hyper-parameters of its own in place of tuned ones."""
        parts: list[str | None] = []
        for part, entries in zip(name.split("+"), [self.hosts, *[self.variants] * name.count("+")], strict=True):
            chosen: str | None = part
            while chosen and "tune" in entries[chosen]:
                chosen = entries[chosen].get("extends")  # a variant without one is left out
            parts.append(chosen)
        return "+".join(filter(None, parts))

    def _is_known(self, name: str) -> bool:
        host, *variants = name.split("+")
        return host in self.hosts and self.variants.keys() >= {*variants}

    def _check_renamed(self, name: str, where: str) -> None:
        host, plus, variants = name.partition("+")
        for old, new in [] if host in {*self.hosts, *self.variants} else RENAMED:
            now = re.sub(f"^{old}$", new, host)
            if now != host and now.split("+")[0] in self.hosts:
                raise UserError(f"{where}: '{name}' is now called '{now}{plus}{variants}'")

    def _refusal(self, record: Mapping[str, Any], variant: str) -> str:
        """Return why a method cannot take a variant; empty if it can."""
        entry = self.variants[variant]
        rule = operator_in(record, "coefficients")[0]
        if "learn" in record:
            return "its coefficients are learned from data"
        if operator_in(record, "control")[0] != DEFAULTS["control"]:
            return "a control takes no further variant"
        if "draws" in record:
            return f"it has several draws; put the variant on the method that it extends ({record.get('extends')})"
        if "space" in entry:
            return self._refusal_of_space({**record, "space": entry["space"]}, record)
        if "control" in entry:
            return "its coefficients are all equal" if rule in EQUAL else ""
        if "coefficients" not in entry:
            if {*entry["tune"]} != {"multiples"}:
                wanted = "a variant without coefficients has `multiples` of the method's scale alone"
                raise UserError(f"{VARIANTS}: {variant}: tune: {wanted}; found {', '.join(entry['tune'])}")
            return lacks_scale(record)
        if "variant" in record:
            return f"'{record['variant']}' has replaced its coefficients already"
        new, values = operator_in(entry, "coefficients")
        needed = getattr(OPERATORS["preprocess"][operator_in(record, "preprocess")[0]], "requires", "thresholds")
        if values.get("norm_of") == "processed" and needed != "thresholds":
            return f"its preprocess needs {needed} statistics, which norms are measured without"
        if entry.get("scale") == "host" and is_finished(COEFFICIENTS[new]):
            return f"`{new}` gives finished coefficients, which have no scale; remove `scale: host` from {VARIANTS}"
        if entry.get("scale") == "host" and (own := [key for key in SCALE if values.get(key) is not None]):
            return f"{VARIANTS} states `{own[0]}`, and `scale: host` too; keep one"
        if "tune" not in record:
            return ""
        chosen = f"it chooses {' and '.join(f'`{each}`' for each in names(record['tune']))} on validation"
        if entry.get("scale") != "host":
            return f"{chosen}, and the variant has a scale of its own"
        if "tune" in entry or record["tune"].get("hyper_parameter") not in ("value", *SCALE):
            return f"{chosen}; put the variant on the method that it extends ({record.get('extends')})"
        return ""

    def _refusal_of_space(self, new: Mapping[str, Any], record: Mapping[str, Any]) -> str:
        """Return why a method cannot be merged in a space; empty if it can."""
        if "space" in record:
            return f"it is merged in the space '{operator_in(record, 'space')[0]}' already"
        if "variant" in record:
            return "a space goes before the coefficients, as in ties+core+nan_delta"
        if "tune" in record:
            return f"its scale is chosen on validation; put the variant on the method that it extends ({record.get('extends')})"
        return beyond({stage: new[stage] for stage in STAGES if stage in new})

    def _with(self, record: Mapping[str, Any], name: str, variant: str) -> dict[str, Any]:
        """Return a method with a variant on it."""
        entry = self.variants[variant]
        new = {key: value for key, value in record.items() if key not in NOT_INHERITED}
        new |= {key: entry[key] for key in ("group", "control", "tune", "draws") if key in entry}
        papers = [each["reference"] for each in (record, entry) if "reference" in each]
        new |= {"reference": ", ".join(dict.fromkeys(papers))} if papers else {}
        new["label"] = f"{record['label']} + {entry['label']}"
        new["summary"] = f"{record['summary']}; {entry['summary']}"
        new["extends"] = f"{name}+{entry['extends']}" if "extends" in entry else name
        if "space" in entry:
            new |= {"space": entry["space"], "group": record["group"]}
        if scan := {**record.get("scan", {}), **entry.get("scan", {})}:
            new["scan"] = {stage: scan[stage] for stage in STAGES if stage in scan}
        if tune := record.get("tune"):
            new["tune"] = {**{key: tune[key] for key in TAKEN_OVER if key in tune}, "as": tune.get("as", name)}
        data = [each["data"] for each in (record, entry) if each.get("data", "none") != "none"]
        new["data"] = ", ".join(dict.fromkeys(data)) or "none"
        if "control" in entry or "space" in entry:
            return {key: value for key, value in new.items() if key != "host"}
        if "coefficients" not in entry:
            return {**new, **at_multiples(record, entry["tune"]["multiples"], variant)}
        return {**new, **self._with_coefficients(record, new, name, variant)}

    def _with_coefficients(self, record: Mapping[str, Any], new: Mapping[str, Any], name: str, variant: str) -> dict[str, Any]:
        """Return what a variant with coefficients changes: these, what they are compared with, whose scale is tuned."""
        entry = self.variants[variant]
        rule, values = operator_in(entry, "coefficients")
        replaced = operator_in(record, "coefficients")
        scale = scale_of(*replaced) if entry.get("scale") == "host" else {}
        own = [each for each, other in self.variants.items() if "control" in other and not _repeats(record, entry, other)]
        controls = [f"{name}+{variant}+{each}" for each in own]
        others = [each for each, other in self.variants.items() if other.get("group") == "control" and "control" not in other]
        controls += [f"{name}+{each}" for each in others if variant not in others]
        tuned = [each for each, other in self.variants.items() if "multiples" in other.get("tune", {})]
        controls += [f"{name}+{each}" for each in tuned if "space" in entry.get("tune", {})]
        host = record["extends"] if "scan" in record else name
        over = {key: value for key, value in replaced[1].items() if key == "over"}  # of the method, not of its coefficients
        return {
            **({"tune": {**new["tune"], "hyper_parameter": next(iter(scale))}} if "tune" in record else {}),
            "variant": variant,
            "host": host,
            "controls": [*controls, *record.get("controls", [])],
            "coefficients": {rule: {**over, **values, **scale}},
        }


def _repeats(host: Mapping[str, Any], variant: Mapping[str, Any], control: Mapping[str, Any]) -> bool:
    """Return whether a control of a variant is the host itself: equal coefficients, at the scale of a host that has such."""
    new, old = (operator_in(record, "coefficients") for record in (variant, host))
    if old[0] not in EQUAL or gives_factors(COEFFICIENTS[new[0]]) or operator_in(control, "control")[0] != LEVEL:
        return False
    return variant.get("scale") == "host" or scale_of(*new) == scale_of(*old)


def check_method_spec(method_spec: Mapping[str, Any], root: Path, where: str) -> None:
    """Check the stages of one method against the schema; the first fault is a UserError that begins with `where`."""
    check_schema({"method": {"label": "", "summary": "", **method_spec}}, root / SCHEMAS[FILE], where, definitions())


def operators(record: Mapping[str, Any]) -> list[Operator]:
    """Return the operators of a method, one a stage."""
    return [OPERATORS[stage][operator_in(record, stage)[0]] for stage in STAGES]


def unfit(record: Mapping[str, Any], experts: int) -> str:
    """Return why a method does not merge so many experts; empty if it does."""
    for operator in operators(record):
        if (wanted := getattr(operator, "experts", experts)) != experts:
            return f"{operator.__name__} merges {wanted} experts, here are {experts}"
    return lacks_shuffle(record, experts)


def misnamed(record: Mapping[str, Any], experts: Iterable[str]) -> str:
    """Return why hyper-parameters that are stated by name of expert do not fit these experts; empty if they do."""
    for stage in STAGES:
        for key, value in operator_in(record, stage)[1].items():
            if isinstance(value, Mapping) and {*value} - {"base"} != {*experts}:
                return f"its `{key}` has numbers for {', '.join(value)}, and the experts are {', '.join(experts)}"
    return ""


def takes_norms_of_calibration(record: Mapping[str, Any]) -> bool:
    """Return whether the coefficients of a method come from the norms of calibration statistics."""
    values = operator_in(record, "coefficients")[1]
    return "calibration" in (values.get("norm_of"), values.get("over"))


def takes(record: Mapping[str, Any]) -> str:
    """Return what a method takes: WHOLE, which `compute` concerns, or pieces; as `Recipe.whole` has it."""
    return WHOLE if any(getattr(operator, "whole", False) for operator in operators(record)) else "pieces"


def reads_examples(record: Mapping[str, Any]) -> bool:
    """Return whether the coefficients of a method come from the sizes of the training sets."""
    rule = operator_in(record, "coefficients")[0]
    return what_it_reads(COEFFICIENTS[rule]) == "examples"


@functools.cache
def definitions() -> Mapping[str, Any]:
    """Return the JSON schema of every stage, and of a scan: the stages with a list for every hyper-parameter."""
    found = stages()
    scans = {stage: {**schema["anyOf"][1]} for stage, schema in found.items()}
    for scan in scans.values():
        scan["properties"] = {operator: _lists(entry) for operator, entry in scan["properties"].items()}
    scan = {"type": "object", "minProperties": 1, "additionalProperties": False, "properties": scans}
    return {**found, "scan": scan, "tune": TUNE}


def _lists(entry: Mapping[str, Any]) -> dict[str, Any]:
    values = {key: {"type": "array", "minItems": 1, "uniqueItems": True, "items": of} for key, of in entry["properties"].items()}
    return {"type": "object", "minProperties": 1, "additionalProperties": False, "properties": values}


def _entries(root: Path, file: str) -> dict[str, dict[str, Any]]:
    """Return the checked entries of a file by id; keys that one lacks are those of the entry that it `extends`."""
    records = read_yaml(root / file)
    check_schema(records, root / SCHEMAS[file], file, definitions())
    resolved: dict[str, dict[str, Any]] = {}

    def resolve(name: str, trail: tuple[str, ...]) -> dict[str, Any]:
        if name in trail:
            raise UserError(f"{file}: {' -> '.join([*trail, name])}: `extends` is circular")
        if name not in resolved:
            record = dict(records[name])
            parent = record.get("extends")
            if parent is not None:
                known_names(f"{file}: {name}: extends", [parent], records)
                inherited = {k: v for k, v in resolve(parent, (*trail, name)).items() if k not in NOT_INHERITED}
                record = {**inherited, **record}
            resolved[name] = record
        return resolved[name]

    return {name: resolve(name, ()) for name in records}
