"""What the config asks for: read, checked, cross-referenced and expanded. The only code that knows the config's layout.

Imported by the Snakefile, so it imports no torch and no numpy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from merging.assets import unavailable
from merging.results import UserError, canonical, read_json

SLOTS = ("preprocess", "coefficients", "control", "combine")
REFERENCES = ("pretrained", "individual")  # rows without a merge
METHODS_SCHEMA = "workflow/schemas/methods.schema.yaml"
AVERAGING = "weight_averaging"  # the merge that every other one is expected to beat


def read_yaml(path: Path) -> Any:
    """Read one YAML file; what cannot be read is a UserError that names the line."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant, or list them all."""
    known = list(known)
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean '{close[0]}'?" if close else f"known are: {', '.join(sorted(known))}"


def check_schema(value: Any, schema_file: Path, where: str) -> None:
    """Validate against a JSON schema; the first fault is a UserError with file, key, expected and found."""
    validator = jsonschema.Draft202012Validator(read_yaml(schema_file))
    errors = sorted(validator.iter_errors(value), key=lambda e: [str(part) for part in e.absolute_path])
    if errors:
        raise UserError(f"{where}: {_explain(_deepest(errors[0]))}")


def _deepest(error: jsonschema.ValidationError) -> jsonschema.ValidationError:
    """Of an `anyOf`, take the branch that the value nearly fits: objects are explained as objects."""
    while error.context:
        kind = "object" if isinstance(error.instance, dict) else "string"
        branches = [e for e in error.context if not (e.validator == "type" and e.validator_value != kind)]
        branches = [e for e in branches if e.validator != "enum"] or branches or list(error.context)
        error = max(branches, key=lambda e: len(e.absolute_path))
    return error


def _explain(error: jsonschema.ValidationError) -> str:
    key = ".".join(str(part) for part in error.absolute_path) or "the file"
    schema = error.schema
    if error.validator == "additionalProperties" and "properties" in schema:
        unknown = sorted(set(error.instance) - set(schema["properties"]))[0]
        return f"{key}: unknown key '{unknown}'; {nearest(unknown, schema['properties'])}"
    if error.validator == "enum":
        return f"{key}: unknown value {error.instance!r}; {nearest(str(error.instance), map(str, error.validator_value))}"
    if error.validator == "not":
        return f"{key}: the keys {error.validator_value.get('required')} exclude each other; keep one"
    expected = f" (expected: {schema['description']})" if "description" in schema else ""
    return f"{key}: {error.message}{expected}"


class Experiment:
    """The checked config: suites, tasks, methods and assets by id, and every expansion that rules need."""

    def __init__(self, config: Mapping[str, Any], root: Path) -> None:
        """Read the files that `config` names below `root`; the first fault is a UserError."""
        folder, schemas = root / "config", root / "workflow" / "schemas"
        self.config = dict(config)
        check_schema(self.config, schemas / "config.schema.yaml", "config/config.yaml")

        def read(name: str, schema: str) -> dict[str, Any]:
            value = read_yaml(folder / name)
            check_schema(value, schemas / f"{schema}.schema.yaml", f"config/{name}")
            return value

        self.assets = read("assets.yaml", "assets")
        self.lock = read_json(folder / "assets.lock.json")
        self.tasks = read("tasks.yaml", "tasks")
        self.methods = methods(root)
        self.reports = read("tables.yaml", "tables")
        known = sorted(path.stem for path in (folder / "suites").glob("*.yaml"))
        known_names("config/config.yaml: suites", self.config["suites"], known)
        self.suites = {s: read(f"suites/{s}.yaml", "suite") for s in self.config["suites"]}
        self.models: dict[str, dict[str, Any]] = self.config.get("models", {})  # of the user: merged, not scored
        self._cross_check(root)
        self.skipped = {suite: self._skip(suite) for suite in self.suites}
        self.candidates = {
            f"{method}-{value:g}": (method, value)
            for method in self.config["methods"]
            for value in self.methods[self._tuner(method)].get("tune", {}).get("grid", [])
            if self._tuner(method) == method
        }

    def _cross_check(self, root: Path) -> None:
        known_names("config/config.yaml: methods", self.config["methods"], self.methods)
        for kind in ("tables", "figures"):
            known_names(f"config/config.yaml: {kind}", self.config[kind], self.reports[kind])
        for method, record in self.methods.items():
            where = f"config/methods.yaml: {method}"
            against = filter(None, [record.get("host"), *record.get("controls", [])])
            known_names(f"{where}: host, controls", against, self.methods)
            tuner = self._tuner(method)
            known_names(f"{where}: tune: as", [tuner], self.methods)
            if "tune" in record and "grid" not in self.methods[tuner].get("tune", {}):
                raise UserError(f"{where}: tune: as: '{tuner}' has no grid of its own; name a method that has one")
            tuned, coefficients = record.get("tune", {}).get("hyper_parameter"), record.get("coefficients")
            if tuned and not (isinstance(coefficients, dict) and tuned in next(iter(coefficients.values()))):
                raise UserError(f"{where}: tune: '{tuned}' has no value in `coefficients`; write one: {{word: {{{tuned}: 1.0}}}}")
            if self.models and tuned and method in self.config["methods"]:
                raise UserError(f"config/config.yaml: methods: '{method}' needs scores to choose '{tuned}'; `models` have none")
            if method in self.config["methods"] and tuner not in self.config["methods"]:
                raise UserError(f"config/config.yaml: methods: '{method}' takes the choice of '{tuner}'; list that one too")
        for suite in self.models:
            if suite in self.suites or "base" in self.models[suite]["experts"]:
                raise UserError(f"config/config.yaml: models: {suite}: a suite or the base has that name; choose another")
        for suite, record in self.suites.items():
            where = f"config/suites/{suite}.yaml"
            families = sorted(p.stem for p in (root / "workflow/merging/evaluate").glob("[a-z]*.py"))
            known_names(f"{where}: family", [record["family"]], families)
            known_names(f"{where}: tasks", record["tasks"], self.tasks)
            grouped = [task for group in record.get("groups", {}).values() for task in group]
            premise = record.get("premise", {})
            known_names(f"{where}: groups, premise", [*grouped, *filter(None, [premise.get("task")])], record["tasks"])
            wanted = [record["base"], record["text_tower"], *filter(None, [record["input"].get("tokenizer")])]
            known_names(f"{where}: assets", wanted, self.assets)
            captions = self._captions(suite)
            known_names(f"{where}: alignment: captions", captions, self.tasks)
            for task in [*record["tasks"], *captions]:
                known_names(f"config/tasks.yaml: {task}: assets", self.tasks[task]["assets"], self.assets)

    def own_models(self, suite: str) -> dict[str, str]:
        """Return the folder or hub id of the base and of every expert of an entry of `models`."""
        return {"base": self.models[suite]["base"], **self.models[suite]["experts"]}

    def _skip(self, suite: str) -> dict[str, str]:
        """Return the tasks of a suite (and its captions) that cannot be had on this machine, with the reason."""
        tasks = [*self.suites[suite]["tasks"], *self._captions(suite)]
        wanted = {asset for task in tasks for asset in self.tasks[task]["assets"]}
        missing = {asset for asset in wanted if not Path("results/assets", asset, "asset.json").exists()}
        reasons = unavailable({asset: self.assets[asset] for asset in sorted(missing)})
        return {task: reasons[asset] for task in tasks for asset in self.tasks[task]["assets"] if asset in reasons}

    def _captions(self, suite: str) -> list[str]:
        alignment = self.suites[suite].get("alignment")
        return [alignment["captions"]] if alignment else []

    def captions(self, suite: str) -> list[str]:
        """Return the data set of captioned images of a suite that is aligned, if it can be had."""
        return [task for task in self._captions(suite) if task not in self.skipped[suite]]

    def _tuner(self, method: str) -> str:
        return self.methods[method].get("tune", {}).get("as", method)

    def task_ids(self, suite: str) -> list[str]:
        """Return the tasks of a suite that can be had, in the order of the config."""
        return [task for task in self.suites[suite]["tasks"] if task not in self.skipped[suite]]

    def groups(self, suite: str) -> dict[str, list[str]]:
        """Return the tasks that are scored together, by job; a task in no group is its own."""
        tasks = self.task_ids(suite)
        groups = {g: [t for t in members if t in tasks] for g, members in self.suites[suite].get("groups", {}).items()}
        grouped = {task for members in groups.values() for task in members}
        return {g: m for g, m in groups.items() if m} | {task: [task] for task in tasks if task not in grouped}

    def merges(self) -> list[str]:
        """Return the methods of the config that need a merge."""
        return [method for method in self.config["methods"] if method not in REFERENCES]

    def sentence(self, method: str, *slots: str) -> str:
        """Return the given slots of a method (or of a candidate) as canonical JSON: the value that reruns follow."""
        name, value = self.candidates.get(method, (method, None))
        record = dict(self.methods[name])
        if value is not None:
            ((word, given),) = record["coefficients"].items()
            hyper_parameter = record.pop("tune")["hyper_parameter"]  # the rest of the grid is no matter of this candidate
            record["coefficients"] = {word: {**given, hyper_parameter: value}}
        return canonical({slot: record[slot] for slot in slots if slot in record})

    def trim(self, method: str) -> tuple[float, str] | None:
        """Return the density and the scope that a method trims with, or None when it does not trim."""
        preprocess = self.methods[self.candidates.get(method, (method,))[0]].get("preprocess", {})
        if preprocess == "trim":
            preprocess = {"trim": {}}
        return (
            (preprocess["trim"].get("density", 0.2), preprocess["trim"].get("scope", "model")) if "trim" in preprocess else None
        )

    def tuner(self, method: str) -> str | None:
        """Return the method whose validation choice `method` takes (itself, if it has a grid), or None."""
        return self._tuner(method) if method not in self.candidates and "tune" in self.methods[method] else None

    def candidates_of(self, method: str) -> list[str]:
        """Return the candidate ids of a tuned method, in the order of its grid."""
        return [candidate for candidate, (owner, _) in self.candidates.items() if owner == method]

    def pairs(self) -> list[dict[str, str]]:
        """Return what is compared, by kind: NAN with its host and its controls, λ by selection, the expected order."""
        run, pairs = self.config["methods"], []
        for method in run:
            record = self.methods[method]
            pairs += [(method, record.get("host"), "host")]
            pairs += [(method, control, "control") for control in record.get("controls", [])]
            if "grid" in record.get("tune", {}):
                pairs += [(method, record.get("extends"), "selection")]
            if record.get("group") == "host" and method != AVERAGING:
                pairs += [(method, AVERAGING, "order"), ("individual", method, "order")]
        pairs += [(AVERAGING, "pretrained", "order")]
        return [
            {"suite": suite, "method": method, "against": against, "kind": kind}
            for suite in self.suites
            for method, against, kind in pairs
            if against is not None and method in run and against in run
        ]

    def premise_runs(self, suite: str) -> dict[str, dict[str, Any]]:
        """Return the runs of the premise experiment by id: task, protocol, examples and steps."""
        premise, settings = self.suites[suite].get("premise"), self.suites[suite]["finetune"]
        if not premise or premise["task"] in self.skipped[suite]:
            return {}
        runs = {}
        for size in premise["sizes"]:
            per_epoch = size / settings["batch_size"]
            for protocol, steps in (("steps", premise["steps"]), ("epochs", max(1, round(premise["epochs"] * per_epoch)))):
                runs[f"{protocol}-{size}"] = {"task": premise["task"], "protocol": protocol, "examples": size, "steps": steps}
        return runs


def methods(root: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of config/methods.yaml below `root`, checked and with `extends` resolved."""
    records = read_yaml(root / "config/methods.yaml")
    check_schema(records, root / METHODS_SCHEMA, "config/methods.yaml")
    return _extended(records)


def check_sentence(sentence: Mapping[str, Any], root: Path, where: str) -> None:
    """Check the slots of one method against the schema; the first fault is a UserError that begins with `where`."""
    check_schema({"method": {"label": "", "summary": "", **sentence}}, root / METHODS_SCHEMA, where)


def _extended(methods: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Resolve `extends`: keys of the named method, where a method is silent; `tune` is never taken over."""
    resolved: dict[str, dict[str, Any]] = {}

    def resolve(name: str, trail: tuple[str, ...]) -> dict[str, Any]:
        if name in trail:
            raise UserError(f"config/methods.yaml: {' -> '.join([*trail, name])}: `extends` goes round in a circle")
        if name not in resolved:
            record = dict(methods[name])
            parent = record.get("extends")
            if parent is not None:
                known_names(f"config/methods.yaml: {name}: extends", [parent], methods)
                inherited = {k: v for k, v in resolve(parent, (*trail, name)).items() if k != "tune"}
                record = {**inherited, **record}
            resolved[name] = record
        return resolved[name]

    return {name: resolve(name, ()) for name in methods}


def known_names(where: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise a UserError for the first name that is not known, with the nearest one."""
    for name in names:
        if name not in known:
            raise UserError(f"{where}: unknown '{name}'; {nearest(name, known)}")
