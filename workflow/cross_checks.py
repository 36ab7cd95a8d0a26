"""Check that every name of the config exists where it is looked up, and that what is asked for fits together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from config_files import known_names
from merging.recipe import DEFAULTS, word_of
from merging.results import UserError
from method_entries import words

if TYPE_CHECKING:
    from experiment import Experiment


SHARED = {  # what suites that share it must have in common
    "data": ("input",),
    "checkpoints": ("family", "base", "text_tower", "experts", "multitask", "merge"),
}


def check_methods(plan: Experiment) -> None:
    """Check every method of methods.yaml: evidence, host, controls, tuning."""
    for method, record in plan.methods.items():
        where = f"config/methods.yaml: {method}"
        _check_evidence(plan, method, where)
        known_names(f"{where}: host, controls", filter(None, [record.get("host")]), plan.methods)
        known_names(f"{where}: host, controls", record.get("controls", []), [*plan.methods, *plan.families])
        tune = record.get("tune", {})
        known_names(f"{where}: tune: as", [tune.get("as", method)], plan.methods)
        if "as" in tune and "grid" not in plan.methods[tune["as"]].get("tune", {}):
            raise UserError(f"{where}: tune: as: '{tune['as']}' has no grid of its own; name a method that has one")
        tuned, coefficients = tune.get("hyper_parameter"), record.get("coefficients")
        if tuned and not (isinstance(coefficients, dict) and tuned in next(iter(coefficients.values()))):
            raise UserError(f"{where}: tune: '{tuned}' has no value in `coefficients`; write one: {{word: {{{tuned}: 1.0}}}}")


def _check_evidence(plan: Experiment, method: str, where: str) -> None:
    """Compare the evidence that a method names with what its words look at."""
    record = plan.methods[method]
    given = record.get("evidence")
    known_names(f"{where}: evidence", [given] if given else [], plan.evidence)
    kind = plan.evidence[given]["kind"].removesuffix("_plus") if given else None
    looks = {word.__name__: word.evidence for word in words(record) if hasattr(word, "evidence")}
    if word_of(record.get("coefficients", DEFAULTS["coefficients"]), "coefficients")[1].get("norm_of") == "evidence":
        looks["norm_of: evidence"] = kind or "fisher or gram"
    name, needed = next(iter(looks.items()), (None, None))
    if needed == kind:
        return
    found = f"is a {kind}" if kind else "is missing"
    wanted = f"`{name}` looks at a {needed}; name an entry of config/evidence.yaml of that kind"
    raise UserError(f"{where}: evidence: {found}, but {wanted if needed else 'no word of the method looks at any; remove it'}")


def check_run(plan: Experiment) -> None:
    """Check what config.yaml lists: methods and the choices that they take."""
    for method in plan.config["methods"]:
        tune = plan.methods[method].get("tune", {})
        if plan.models and tune:
            raise UserError(
                f"config/config.yaml: methods: '{method}' needs scores to choose '{tune['hyper_parameter']}'; `models` have none"
            )
        if tune.get("as", method) not in plan.config["methods"]:
            raise UserError(f"config/config.yaml: methods: '{method}' takes the choice of '{tune['as']}'; list that one too")
    for suite in plan.models:
        if suite in plan.suites or "base" in plan.models[suite]["experts"]:
            raise UserError(f"config/config.yaml: models: {suite}: a suite or the base has that name; choose another")


def check_reports(plan: Experiment) -> None:
    """Check the tables and figures of the config, and the methods that they name; a pattern may find none."""
    for kind in ("tables", "figures", "published"):
        plan.config.setdefault(kind, [])
        known_names(f"config/config.yaml: {kind}", plan.config[kind], plan.reports.get(kind, {}))
    for kind in ("tables", "figures"):
        for name, record in plan.reports[kind].items():
            listed = [*record.get("methods", []), *record.get("without", [])]
            exact = [method for method in listed if not set(method) & set("*?[")]
            known_names(f"config/tables.yaml: {kind}: {name}: methods, without", exact, [*plan.methods, *plan.families])


def check_suites(plan: Experiment, root: Path) -> None:
    """Check every suite of the run: family, tasks, groups and assets."""
    for suite, record in plan.suites.items():
        where = f"config/suites/{suite}.yaml"
        families = sorted(p.stem for p in (root / "workflow/merging/evaluate").glob("[a-z]*.py"))
        known_names(f"{where}: family", [record["family"]], families)
        known_names(f"{where}: tasks", record["tasks"], plan.tasks)
        grouped = [task for group in record.get("groups", {}).values() for task in group]
        premise = record.get("premise", {})
        known_names(f"{where}: groups, premise", [*grouped, *filter(None, [premise.get("task")])], record["tasks"])
        fetched = [plan.expert_asset(suite, task) for task in [*record["tasks"], "multitask"]]
        wanted = [record["base"], record["text_tower"], record["input"].get("tokenizer"), *fetched]
        known_names(f"{where}: base, text_tower, tokenizer, experts", filter(None, wanted), plan.assets)
        for kind, keys in SHARED.items():
            _check_shared(plan, suite, kind, keys)
        captions = [record["alignment"]["captions"]] if "alignment" in record else []
        known_names(f"{where}: alignment: captions", captions, plan.tasks)
        for task in [*record["tasks"], *captions]:
            known_names(f"config/tasks.yaml: {task}: assets", plan.tasks[task]["assets"], plan.assets)


def _check_shared(plan: Experiment, suite: str, kind: str, keys: tuple[str, ...]) -> None:
    """Check that the suites that share data or checkpoints mean the same by them."""
    record = plan.suites[suite]
    where = f"config/suites/{suite}.yaml: {kind}: '{record.get(kind)}'"
    if kind == "checkpoints" and kind in record and "experts" not in record:
        raise UserError(f"{where}: only fetched experts can be shared; a suite that fine-tunes has its own: remove the key")
    first = plan.sharing(kind, record.get(kind, suite))[0]
    for key in keys:
        mine, others = record.get(key), plan.suites[first].get(key)
        if mine != others and not (key == "multitask" and None in (mine, others)):
            found = f"but `{key}:` is {mine!r} here and {others!r} there; use another name"
            raise UserError(f"{where} is shared with suite '{first}', {found}")
