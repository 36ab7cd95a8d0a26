"""Check the cross-references of the config, and that its parts fit together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nan_merge.catalogue.files import known_names
from nan_merge.catalogue.methods import operators, takes_norms_of_calibration
from nan_merge.core.errors import UserError
from nan_merge.methods.recipe import operator_in
from nan_merge.methods.search_space import names
from nan_merge.models.opencompass import COUNTERPARTS
from nan_merge.selection.choice import FOLDS

Experiment = Any  # experiment.Experiment, which imports this module

ALL_ASSETS = "config/assets.yaml has all"
HEADS = ("text_tower", "head", "input", "logit_scale", "metrics", "alignment", "premise")  # of prepared data
HARNESS_KEYS = ("backend", "parallelize")  # of `scoring`, for benchmarks only
SENTENCES = "sentence_encoder"  # the family whose tasks are retrieval
READ = ("reader", "splits")  # keys of tasks with prepared data
SHARED = {  # keys on which suites that share it must agree
    "data": ("input", "splits", "corrupt"),
    "checkpoints": ("family", "base", "network", "text_tower", "head", "experts", "multitask", "merge"),
}


def check_methods(experiment: Experiment) -> None:
    """Check every method of methods.yaml: calibration, controls, tuning."""
    for method, record in experiment.methods.items():
        where = f"config/methods.yaml: {method}"
        _check_calibration(experiment, method, where)
        if "variant" in record or "nested" in record:  # made of checked entries
            continue
        tune = record.get("tune", {})
        known_names(f"{where}: controls", record.get("controls", []), experiment.catalogue.hosts)
        known_names(f"{where}: tune: as", [tune.get("as", method)], experiment.methods)
        if "as" in tune and "grid" not in experiment.methods[tune["as"]].get("tune", {}):
            raise UserError(f"{where}: tune: as: '{tune['as']}' has no grid of its own; name a method that has one")
        if "as" in tune and (others := [key for key in tune if key not in ("as", "hyper_parameter")]):
            raise UserError(f"{where}: tune: {others[0]}: not with `as`, by which '{tune['as']}' chooses; remove it")
        tuned, coefficients = tune.get("hyper_parameter"), record.get("coefficients")
        if tuned and not (isinstance(coefficients, dict) and tuned in next(iter(coefficients.values()))):
            raise UserError(f"{where}: tune: '{tuned}' has no value in `coefficients`; write one: {{operator: {{{tuned}: 1.0}}}}")


def _check_calibration(experiment: Experiment, method: str, where: str) -> None:
    """Compare the calibration that a method names with the requirements of its operators."""
    record = experiment.methods[method]
    calibration = record.get("calibration")
    known_names(f"{where}: calibration", [calibration] if calibration else [], experiment.calibration)
    kind = experiment.calibration[calibration]["kind"].removesuffix("_plus") if calibration else None
    needs = {operator.__name__: getattr(operator, "requires", None) for operator in operators(record)}
    needs = {name: need for name, need in needs.items() if need not in (None, "thresholds")}
    if takes_norms_of_calibration(record):
        key = "over" if operator_in(record, "coefficients")[1].get("over") == "calibration" else "norm_of"
        needs[f"{key}: calibration"] = kind or "fisher or gram"
    name, need = next(iter(needs.items()), (None, None))
    if need == kind:
        return
    found = f"is of kind {kind}" if kind else "is missing"
    reason = "no operator of the method needs calibration statistics; remove it"
    if need:
        reason = f"`{name}` needs kind {need}; name an entry of config/calibration.yaml of that kind"
    raise UserError(f"{where}: calibration: {found}, but {reason}")


def check_run(experiment: Experiment) -> None:
    """Check the methods that config.yaml lists, and the methods whose tuned value they use."""
    where = experiment.where("methods")
    for method in experiment.config["methods"]:
        tune = experiment.methods[method].get("tune", {})
        if experiment.models and tune:
            found = f"'{method}' needs scores on validation data to choose {' and '.join(map(repr, names(tune)))}"
            raise UserError(f"{where}: {found}; `models` have none")
        if tune and not experiment.methods[method].get("static", True):
            raise UserError(
                f"{where}: '{method}' merges for one task at a time, and candidates are one merge for all; leave it out"
            )
        if tune.get("as", method) not in experiment.config["methods"]:
            raise UserError(f"{where}: '{method}' uses the tuned value of '{tune['as']}'; list that one too")


def check_validation_sizes(experiment: Experiment) -> None:
    """Check that the cross-validation of searches, which a table or figure shows, has an example of every task for each fold."""
    shown = [(kind, name) for kind in ("tables", "figures") for name in experiment.config[kind]]
    if not any("searches" in experiment.reports[kind][name]["inputs"] for kind, name in shown):
        return
    for owner in {experiment.owner(suite): None for suite in experiment.suites}:
        searched = next((method for method in experiment.merges(owner) if method in experiment.searches), None)
        sizes = {task: experiment.splits(owner, task)["validation"] for task in experiment.task_ids(owner)} if searched else {}
        if small := next((task for task, size in sizes.items() if size < FOLDS), None):
            own = "validation" in experiment.suites[owner].get("splits", {})
            where = experiment.file(owner) if own else f"config/tasks.yaml: {small}"
            raise UserError(
                f"{where}: splits: validation: found {sizes[small]}; expected {FOLDS} or more, since the search of '{searched}'"
                f" is cross-validated over {FOLDS} folds of the examples of '{small}'; enlarge the split"
            )


def check_harness_keys(experiment: Experiment) -> None:
    """Check that keys of `scoring` which only benchmarks read stand in a run of language models on GPUs."""
    scoring = experiment.config.get("scoring", {})
    for key in (key for key in HARNESS_KEYS if scoring.get(key, "hf") != "hf"):
        where, device = experiment.where("scoring", key), scoring.get("device", "cpu")
        if device != "cuda":
            raise UserError(f"{where}: {scoring[key]} needs GPUs, `device: cuda`; found `device: {device}`")
        others = [suite for suite in experiment.suites if not experiment.is_benchmarked(suite) or _retrieved(experiment, suite)]
        if others:
            raise UserError(f"{where}: only for language models on benchmarks, and '{others[0]}' is no such suite; remove one")


def _retrieved(experiment: Experiment, suite: str) -> list[str]:
    """Return the tasks of a suite that are retrieval, which sentence-transformers runs."""
    return [task for task in experiment.suites[suite]["tasks"] if "retrieval" in experiment.tasks[task].get("harness", {})]


def check_cross_check(experiment: Experiment) -> None:
    """Check that OpenCompass has the benchmarks of a run that asks for its scores, and that the run has the methods."""
    where, asked = experiment.where("cross_check"), experiment.config.get("cross_check", [])
    known_names(where, asked, experiment.config["methods"])
    for suite in experiment.suites if asked else ():
        entries = {task: experiment.tasks[task].get("harness", {}).get("tasks", []) for task in experiment.suites[suite]["tasks"]}
        if others := [task for task, names in entries.items() if len(names) != 1 or names[0] not in COUNTERPARTS]:
            has = ", ".join(COUNTERPARTS)
            raise UserError(f"{where}: OpenCompass has {has} of lm_eval, and '{others[0]}' of '{suite}' is none; remove the key")


def check_models(experiment: Experiment) -> None:
    """Check the names of the user's models and of their tasks, and that models given by a path are there."""
    benchmarks = [task for task, entry in experiment.tasks.items() if "harness" in entry]
    for suite, record in experiment.models.items():
        known_names(experiment.where("models", suite, "tasks"), record.get("tasks", []), benchmarks)
        if suite in experiment.config["suites"] or "base" in record["experts"]:
            raise UserError(f"{experiment.where('models', suite)}: a suite or the base has that name; choose another")
        for keys in (("base",), *(("experts", name) for name in record["experts"])):
            place = str(experiment.own_models(suite)[keys[-1]])
            is_path = place.startswith(("/", ".", "~")) or place.partition("@")[0].count("/") != 1
            if is_path and not Path(place).expanduser().is_dir():
                inside = "" if place.startswith(("/", "~")) else f" in {Path.cwd()}"
                expected = "expected the folder of a model, or a hub id as owner/name[@revision]"
                raise UserError(f"{experiment.where('models', suite, *keys)}: there is no folder '{place}'{inside}; {expected}")


def check_reports(experiment: Experiment) -> None:
    """Check the tables and figures of the config, and the methods that they name; a pattern may find none."""
    for kind in ("tables", "figures", "published"):
        experiment.config.setdefault(kind, [])
        known_names(experiment.where(kind), experiment.config[kind], experiment.reports.get(kind, {}))
    for kind in ("tables", "figures"):
        for name, record in experiment.reports[kind].items():
            listed = [*record.get("methods", []), *record.get("without", [])]
            exact = [method for method in listed if not set(method) & set("*?[")]
            for method in (each for each in exact if each not in experiment.nested.rows):
                experiment.catalogue.members(method, f"config/tables.yaml: {kind}: {name}: methods, without")


def check_suites(experiment: Experiment, root: Path) -> None:
    """Check every suite of the run: family, tasks, groups and assets."""
    for suite, record in experiment.suites.items():
        where = experiment.file(suite)
        families = sorted(p.stem for p in (root / "workflow/nan_merge/models/families").glob("[a-z]*.py"))
        known_names(f"{where}: family", [record["family"]], families)
        known_names(f"{where}: tasks", record["tasks"], experiment.tasks)
        grouped = [task for group in record.get("groups", {}).values() for task in group]
        premise = record.get("premise", {})
        known_names(f"{where}: groups, premise", [*grouped, *filter(None, [premise.get("task")])], record["tasks"])
        _check_scoring(experiment, suite, where)
        _check_vlm(experiment, record, where)
        free = isinstance(record.get("experts"), Mapping)
        names = [*(record["experts"] if free else record["tasks"]), "multitask"]
        fetched = [experiment.expert_asset(suite, name) for name in dict.fromkeys(names) if "merges" not in record]
        wanted = [experiment.base_asset(suite), record.get("text_tower"), record.get("input", {}).get("tokenizer"), *fetched]
        known_names(f"{where}: base, text_tower, tokenizer, experts", filter(None, wanted), experiment.assets, ALL_ASSETS)
        for kind, keys in SHARED.items():
            _check_shared(experiment, suite, kind, keys)
        captions = [record["alignment"]["captions"]] if "alignment" in record else []
        known_names(f"{where}: alignment: captions", captions, experiment.tasks)
        for task in [*record["tasks"], *captions]:
            known_names(f"config/tasks.yaml: {task}: assets", experiment.tasks[task]["assets"], experiment.assets, ALL_ASSETS)
        _check_heads(experiment, suite, where)


def _check_vlm(experiment: Experiment, record: Mapping[str, Any], where: str) -> None:
    """Check the assets and the expert of which models that take pictures are put together."""
    vlm, experts = record.get("vlm", {}), record.get("experts")
    if vlm and not isinstance(experts, Mapping):
        raise UserError(
            f"{where}: vlm: what is converted is scored on all tasks; expected `experts:` by name, of which none has one"
        )
    assets = [vlm[key] for key in ("clip", "processor") if key in vlm]
    known_names(f"{where}: vlm: clip, processor", assets, experiment.assets, ALL_ASSETS)
    known_names(f"{where}: vlm: donor", [vlm["donor"]] if "donor" in vlm else [], experts or [])


def _check_heads(experiment: Experiment, suite: str, where: str) -> None:
    """Check that the tasks of a suite have what its heads are made of, and labels that fit their metrics."""
    record = experiment.suites[suite]
    known_names(f"{where}: metrics", record.get("metrics", {}), record["tasks"])
    if record.get("joint") and (record.get("metrics") or [*record.get("groups", {}).values()] != [record["tasks"]]):
        raise UserError(
            f"{where}: joint: classes of all tasks are told apart in one job, by accuracy: expected one group of all"
            " tasks, in their order, in `groups`, and no `metrics`"
        )
    for task in () if experiment.is_benchmarked(suite) else record["tasks"]:
        labels = experiment.tasks[task].get("labels")
        classes = labels or ("head" in record and experiment.tasks[task].get("class_names"))
        if ("head" in record) != bool(classes):
            found, needs = ("head: expert", "`labels`") if "head" in record else ("text_tower", "a `prompt`")
            raise UserError(
                f"{where}: tasks: with `{found}` a task needs {needs} or `class_names` (config/tasks.yaml); '{task}' has none"
            )
        metric, numbers = experiment.metric(suite, task), experiment.is_regression(task)
        if labels is None and metric != "accuracy":
            raise UserError(f"{where}: metrics: {task}: tasks without `labels` are scored by accuracy, not {metric}; remove it")
        if numbers != (metric == "pearson_spearman"):
            kind, fits = ("numbers", "pearson_spearman") if numbers else ("classes", "accuracy, matthews or f1_accuracy")
            raise UserError(f"{where}: metrics: {task}: its labels are {kind}, so its metric is {fits}, not {metric}")
        if metric in ("matthews", "f1_accuracy") and len(labels) != 2:
            raise UserError(f"{where}: metrics: {task}: {metric} needs two labels, and '{task}' has {len(labels)}; remove it")


def _check_scoring(experiment: Experiment, suite: str, where: str) -> None:
    """Check that a suite has what its tasks are scored with: heads and prepared data, or a harness, and not both."""
    record = experiment.suites[suite]
    tasks = {task: experiment.tasks[task] for task in record["tasks"]}
    for task, entry in tasks.items():
        if wrong := [key for key in READ if (key in entry) == ("harness" in entry)]:
            reason = f"the key '{wrong[0]}' is missing"
            if "harness" in entry:
                reason = f"{wrong[0]}: a harness reads the data of this task; remove the key, or `harness:`"
            raise UserError(f"config/tasks.yaml: {task}: {reason}")
    plain, harnessed = ([task for task in tasks if ("harness" in tasks[task]) is kind] for kind in (False, True))
    if plain and harnessed:
        found = f"'{harnessed[0]}' is a benchmark of a harness, '{plain[0]}' is none"
        raise UserError(f"{where}: tasks: {found}; a suite has tasks of one kind: make two suites")
    if harnessed and (more := [key for key in HEADS if key in record]):
        raise UserError(f"{where}: {more[0]}: its tasks are benchmarks of a harness, which need none; remove the key")
    _check_retrieval(experiment, suite, where)
    if record.get("dequantise") and not (harnessed and "finetune" in record):
        raise UserError(
            f"{where}: dequantise: only for a language model that experts are fine-tuned from here (`finetune: tasks:`), since"
            " the task vectors of other experts would hold the rounding of the base; remove the key"
        )
    if ("base" in record) == ("network" in record) or ("network" in record and "finetune" not in record):
        raise UserError(f"{where}: expected `base`, or else `network` with `finetune` (experts from random weights)")
    if "finetune" in record:
        _check_finetune(record, where, bool(harnessed))
    if harnessed:
        return
    kinds = [key for key in ("text_tower", "head") if key in record]
    if len(kinds) != 1:
        found = " and ".join(f"`{key}`" for key in kinds) or "none of them"
        raise UserError(
            f"{where}: expected `text_tower` (heads of class prompts) or else `head: expert` (their own), found {found}"
        )
    needed = ["input", *(["experts"] if "head" in record else ["logit_scale"] if "experts" in record else [])]
    if lacking := [key for key in needed if key not in record]:
        raise UserError(f"{where}: {lacking[0]}: the key is missing; tasks that are scored by heads of `{kinds[0]}` need it")


def _check_retrieval(experiment: Experiment, suite: str, where: str) -> None:
    """Check that fetched sentence encoders, and they alone, have tasks of retrieval, and no key that those do not read."""
    record, found = experiment.suites[suite], _retrieved(experiment, suite)
    for task in record["tasks"] if suite not in experiment.models else ():
        if (task in found) != (record["family"] == SENTENCES):
            raise UserError(
                f"{where}: family, tasks: family {SENTENCES} runs tasks with `harness: retrieval`, and no other family runs those"
                f"; found family {record['family']} with '{task}'. Correct one of both"
            )
    if record["family"] == SENTENCES and "finetune" in record:
        raise UserError(f"{where}: finetune: experts of {SENTENCES} are not trained here; name fetched ones in `experts:`")
    if len(found) == len(record["tasks"]) and (unread := [key for key in ("harness", "splits") if key in record]):
        raise UserError(f"{where}: {unread[0]}: its tasks are retrieval, which does not read it; remove the key")


def _check_finetune(record: Mapping[str, Any], where: str, harnessed: bool) -> None:
    """Check that experts of language models name the tasks that they are trained on, each task once, and others a scale."""
    needed, needless = ("tasks", "logit_scale") if harnessed else ("logit_scale", "tasks")
    settings = record["finetune"]
    if needed not in settings or needless in settings:
        kind = "benchmarks of a harness" if harnessed else "prepared data sets"
        raise UserError(f"{where}: finetune: its tasks are {kind}: expected the key '{needed}', and no '{needless}'")
    trained = [task for tasks in settings.get("tasks", {}).values() for task in tasks]
    if "merges" not in record:
        known_names(f"{where}: finetune: tasks", trained, record["tasks"])
    if twice := [task for task in trained if trained.count(task) > 1]:
        raise UserError(f"{where}: finetune: tasks: '{twice[0]}' is named by two experts; leave it to one of them")


def _check_shared(experiment: Experiment, suite: str, kind: str, keys: tuple[str, ...]) -> None:
    """Check that suites that share data or checkpoints agree on their keys."""
    record = experiment.suites[suite]
    where = f"config/suites/{suite}.yaml: {kind}: '{record.get(kind)}'"
    if kind == "checkpoints" and kind in record and "experts" not in record:
        raise UserError(f"{where}: only fetched experts can be shared; a suite that fine-tunes has its own: remove the key")
    first = experiment.sharing(kind, getattr(experiment, kind)(suite))[0]
    for key in keys:
        mine, others = record.get(key), experiment.suites[first].get(key)
        if mine != others and not (key == "multitask" and None in (mine, others)):
            found = f"but `{key}:` is {mine!r} here and {others!r} there; use another name"
            raise UserError(f"{where} is shared with suite '{first}', {found}")
