"""The experiment that the config describes: read, checked and expanded for the rules.

The Snakefile imports it, so it imports no torch.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiment import checks, claims, comparisons, entries, fitness
from experiment.comparisons import INDIVIDUAL
from experiment.nested import NestedMerges
from experiment.owners import check_owners
from experiment.parts import CONFIG, ConfigParts
from experiment.subsets import check_subsets
from nan_merge.assets.fetch import unavailable
from nan_merge.catalogue.files import check_renamed_files, check_schema, known_names, read_yaml
from nan_merge.catalogue.methods import FILE as METHODS
from nan_merge.catalogue.methods import REFERENCES, WHOLE, Catalogue, reads_examples, takes, takes_norms_of_calibration
from nan_merge.core.errors import UserError
from nan_merge.core.files import canonical, read_json
from nan_merge.core.scoring import COMPUTE
from nan_merge.methods.recipe import requirements
from nan_merge.methods.search_space import Point, Search, owns, put, search_of


class Experiment:
    """The checked config: suites, tasks, methods and assets by id, and every expansion that rules need."""

    def __init__(self, config: Mapping[str, Any], root: Path, parts: ConfigParts | None = None) -> None:
        """Read the files that `config` names below `root`; the first fault is a UserError.

        `parts` are the files and values that `config` was merged from, to name the one with a fault.
        """
        folder, schemas = root / "config", root / "workflow" / "schemas"
        check_renamed_files(folder)
        self.config = dict(config)
        parts = parts or ConfigParts({CONFIG: config})
        self.where = parts.where  # (*keys) -> file and keys, for messages
        check_schema(self.config, schemas / "config.schema.yaml", parts.file)

        def read(name: str, schema: str) -> dict[str, Any]:
            value = read_yaml(folder / name)
            check_schema(value, schemas / f"{schema}.schema.yaml", f"config/{name}")
            return value

        self.assets = entries.assets(folder, schemas)
        self.lock = read_json(folder / "assets.lock.json")
        self.tasks = read("tasks.yaml", "tasks")
        self.catalogue = Catalogue(root)
        self.calibration = read("calibration.yaml", "calibration")
        self.reports = read("tables.yaml", "tables")
        self.claims = read("claims.yaml", "claims")
        known = sorted(path.stem for path in (folder / "suites").glob("*.yaml"))
        known_names(self.where("suites"), self.config["suites"], known)
        self.suites = {s: entries.suite(s, folder, schemas) for s in self.config["suites"]}
        self.models: dict[str, dict[str, Any]] = self.config.get(
            "models", {}
        )  # of the user: merged, and scored if they name tasks
        self.suites |= {name: entries.scored_models(name, record) for name, record in self.models.items() if "tasks" in record}
        check_owners(self)
        self.expert_rows = self._expert_rows()
        self.references = (*REFERENCES, *self.expert_rows)
        self.nested = NestedMerges(self)
        run = {name: self._members(name) for name in self.nested.among(self.config["methods"])}
        self.methods = self.catalogue.all() | self.nested.rows
        self.methods |= {member: record for found in run.values() for member, record in found.items()}
        self.sweeps: dict[str, list[str]] = {}
        for member, record in ((m, r) for found in run.values() for m, r in found.items() if "sweep" in r):
            self.sweeps.setdefault(record["sweep"]["id"], []).append(member)
        self.config["methods"] = list(dict.fromkeys(member for members in run.values() for member in members))
        self._add_expert_rows()
        checks.check_methods(self)
        checks.check_run(self)
        checks.check_models(self)
        checks.check_reports(self)
        claims.check_claims(self)
        for table in self.config["published"]:
            record, where = self.reports["published"][table], f"config/tables.yaml: published: {table}: unlike"
            record["unlike"] = {
                suite: {
                    method: self.catalogue.filled(text, method, f"{where}: {suite}: {method}") for method, text in texts.items()
                }
                for suite, texts in record.get("unlike", {}).items()
            }
        checks.check_suites(self, root)
        check_subsets(self)
        checks.check_harness_keys(self)
        checks.check_cross_check(self)
        for task in {task for suite in self.suites for task in (*self.suites[suite]["tasks"], *self._captions(suite))}:
            self.tasks[task] = entries.with_class_names(task, self.tasks[task], folder, schemas)
        self.skipped = {suite: self._skip(suite) for suite in self.suites}
        self._skipped_methods = {suite: fitness.unfit_methods(self, suite) for suite in (*self.suites, *self.models)}
        for name in self.models:
            if not self.merges(name):
                reasons = "; ".join(f"{method}: {reason}" for method, reason in self.skipped_methods(name).items())
                raise UserError(f"{self.where('models', name)}: no method of the run can merge them ({reasons})")
        self.searches = {m: search_of(self.methods[m], m) for m in self.config["methods"] if owns(self.methods[m])}
        self.candidates = {
            name: candidate for method, search in self.searches.items() for name, candidate in _candidates(method, search)
        }
        checks.check_validation_sizes(self)

    def _members(self, name: str) -> dict[str, dict[str, Any]]:
        """Return the methods that an entry of `methods` stands for: a nested merge, those of the catalogue, or an expert.

        The recorded config of a run names the rows of experts, too.
        """
        if name in self.expert_rows:
            return {name: expert_row(self.expert_rows[name])}
        where, (host, *variants) = self.where("methods"), name.split("+")
        if variants and host in self.nested.rows:
            raise UserError(f"{where}: '{name}': {host} is a nested merge, and takes no variants; put them on its `method`")
        return {name: self.nested.rows[name]} if name in self.nested.rows else self.catalogue.members(name, where)

    @property
    def keep_merged(self) -> bool:
        """Whether the merges of suites stay once they were scored."""
        return bool(self.config.get("keep_merged", True))

    def file(self, suite: str) -> str:
        """Return where the config has a suite, for messages."""
        return self.where("models", suite) if suite in self.models else f"config/suites/{suite}.yaml"

    def own_models(self, suite: str) -> dict[str, str]:
        """Return the folder or hub id of the base and of every expert of an entry of `models`."""
        return {"base": self.models[suite]["base"], **self.models[suite]["experts"]}

    def owner(self, suite: str) -> str:
        """Return the suite (or entry of `models`) whose base, experts and merges a suite scores: itself, unless it `merges`."""
        return str(self.suites.get(suite, {}).get("merges", suite))

    def data(self, suite: str) -> str:
        """Return the name under which the prepared data of a suite lie, shared with suites of the same `input`."""
        record, owner = self.suites[suite], self.owner(suite)
        return str(record.get("data", suite if owner == suite or "corrupt" in record else self.data(owner)))

    def form(self, suite: str) -> dict[str, Any]:
        """Return the form in which the data sets of a suite are prepared: `input`, and how the test split is corrupted."""
        record = self.suites[suite]
        return {**record["input"], **({"corrupt": record["corrupt"]} if "corrupt" in record else {})}

    def checkpoints(self, suite: str) -> str:
        """Return the name under which base and experts of a suite lie, shared with suites of the same."""
        owner = self.owner(suite)
        return str(self.suites.get(suite, {}).get("checkpoints", owner))

    def tower(self, suite: str) -> str:
        """Return the asset of the text tower; empty where experts keep their own heads."""
        return str(self.suites[suite].get("text_tower", ""))

    def heads(self, suite: str) -> str:
        """Return the name under which the heads of a suite lie: that of its text tower, or of its checkpoints."""
        return self.tower(suite) or self.checkpoints(suite)

    def metric(self, suite: str, task: str) -> str:
        """Return the metric of a task in the tables of a suite."""
        return entries.metric(self.suites[suite], self.tasks, task)

    def is_regression(self, task: str) -> bool:
        """Return whether the labels of a task are numbers."""
        return bool(self.tasks[task].get("labels") == "number")

    def sharing(self, kind: str, name: str) -> list[str]:
        """Return the suites whose `data`, `checkpoints` or `tower` has that name; any one represents the group."""
        place = {"data": self.data, "checkpoints": self.checkpoints, "tower": self.tower}[kind]
        return [suite for suite in self.suites if place(suite) == name]

    def base_asset(self, suite: str) -> str | None:
        """Return the asset of the base of a suite, None for models of the user and experts trained from random weights."""
        return None if suite in self.models else self.suites[suite].get("base")

    def expert_asset(self, suite: str, task: str) -> str | None:
        """Return the asset of a fetched expert, named as its task (or `multitask`), None if it is made here or of the user."""
        if suite in self.models:
            return None
        record = self.suites[suite]
        if task == "multitask":
            return record.get("multitask")
        experts = record.get("experts")
        if isinstance(experts, Mapping):
            return experts.get(task)
        return experts.replace("{}", task) if experts else None

    def experts(self, suite: str) -> list[str]:
        """Return the names of the experts of a suite (those of its tasks, if each belongs to one), or of an entry of `models`."""
        owner = self.owner(suite)
        return list(self.named_experts(owner)) or self.task_ids(owner)

    def named_experts(self, suite: str) -> Mapping[str, Any]:
        """Return the experts that have names of their own; empty where each belongs to one task of the suite."""
        named = self.models[suite]["experts"] if suite in self.models else self.suites[suite].get("experts")
        return named if isinstance(named, Mapping) else self.trained_on(suite)

    def merged_experts(self, suite: str, method: str) -> list[str]:
        """Return what a method merges: all experts of a suite, or those of a nested merge, by name."""
        nested = self.nested.of(self.owner(suite)).get(method)
        return list(nested["experts"]) if nested else self.experts(suite)

    def has_experts_of_tasks(self, suite: str) -> bool:
        """Return whether each expert of a suite belongs to one of its tasks."""
        return not self.named_experts(suite)

    def trained_on(self, suite: str) -> dict[str, list[str]]:
        """Return the tasks that each expert is fine-tuned on, where one has a name of its own or a task no expert."""
        record, owner = self.suites.get(suite, {}), self.owner(suite)
        named = record.get("finetune", {}).get("tasks", {})
        if owner == suite or named or isinstance(record.get("experts"), Mapping):
            return dict(named)
        own, known = record["tasks"], self.suites[owner]["tasks"]
        return {} if {*own} <= {*known} else {task: [task] if task in own else [] for task in known}

    def training(self, suite: str, task: str, seed: int) -> dict[str, Any]:
        """Return the settings that the expert of a task is fine-tuned with: `finetune:` with its own examples and steps.

        `sizes` go round the tasks with the seed (a Latin square), and so does the expert that is `undertrained`.
        """
        settings, tasks = dict(self.suites[suite]["finetune"]), self.suites[suite]["tasks"]
        sizes, epochs, share = (settings.pop(key, None) for key in ("sizes", "epochs", "undertrained"))
        if sizes:
            settings["examples"] = sizes[(tasks.index(task) + seed) % len(sizes)]
        if epochs:
            settings["steps"] = max(1, round(epochs * settings["examples"] / settings["batch_size"]))
        if share and tasks[seed % len(tasks)] == task:
            settings["steps"] = max(1, round(share * settings["steps"]))
        return settings | self._initialisation(suite, tasks.index(task))

    def joint_training(self, suite: str) -> dict[str, Any]:
        """Return the settings that the model of all tasks is trained with."""
        return self.suites[suite]["finetune"] | self._initialisation(suite, len(self.suites[suite]["tasks"]))

    def _initialisation(self, suite: str, number: int) -> dict[str, int]:
        """Return the number of the random weights that a model begins at, where a suite has no base that is trained."""
        return {"initialisation": number} if self.has_networks(suite) else {}

    def has_networks(self, suite: str) -> bool:
        """Return whether each expert of a suite is trained from random weights of its own."""
        return "network" in self.suites.get(self.owner(suite), {})

    def is_joint(self, suite: str) -> bool:
        """Return whether the classes of all tasks of a suite are told apart."""
        return bool(self.suites[suite].get("joint", False))

    def rotated_sizes(self, suite: str, seed: int) -> dict[str, int]:
        """Return the training examples of every expert with a seed, where the suite has `sizes`; else {}."""
        owner = self.owner(suite)
        if "sizes" not in self.suites.get(owner, {}).get("finetune", {}):
            return {}
        tasks = [task for task in self.task_ids(suite) if task in self.suites[owner]["tasks"]]
        return {task: self.training(owner, task, seed)["examples"] for task in tasks}

    def splits(self, suite: str, task: str) -> dict[str, int]:
        """Return the largest sizes of the splits of a task in a suite."""
        return {**self.tasks[task]["splits"], **self.suites[suite].get("splits", {})}

    def own_expert(self, suite: str, task: str) -> str | None:
        """Return the expert of a task: its own, or the one that was trained on it, None if none was."""
        if self.has_experts_of_tasks(suite):
            return task
        return next((expert for expert, tasks in self.trained_on(suite).items() if task in tasks), None)

    def _expert_rows(self) -> dict[str, str]:
        """Return the rows that stand for `individual` where experts belong to no task: {method: expert}."""
        return {f"expert_{name}": name for suite in self.suites for name in self.named_experts(suite)}

    def _add_expert_rows(self) -> None:
        """Put one row an expert behind `individual`."""
        self.methods |= {row: expert_row(name) for row, name in self.expert_rows.items()}
        found: list[str] = []
        for method in self.config["methods"]:
            found += [method, *(self.expert_rows if method == INDIVIDUAL else [])]
        self.config["methods"] = list(dict.fromkeys(found))

    def absent(self, suite: str) -> list[str]:
        """Return the rows that a suite lacks: experts and nested merges of others, `individual` if no task has an expert."""
        nested = [row for row in self.nested.rows if row not in self.nested.of(self.owner(suite))]
        if suite not in self.suites:
            return nested
        own = {*self.named_experts(suite)}.intersection(self.experts(suite))
        others = [row for row, name in self.expert_rows.items() if name not in own]
        trained = any(self.own_expert(suite, task) for task in self.suites[suite]["tasks"])
        return [*others, *nested, *([] if trained else [INDIVIDUAL])]

    def class_prompts(self, task: str) -> dict[str, list[str]]:
        """Return the `classes` of a task, as its prompts name them, and the `templates` of the prompts.

        The classes of a mapping are in the order of its keys, as canonical JSON has them and readers number them. Captions
        have none here: every picture is a class of its own, named by its prepared data. `labels` have no prompts.
        """
        record = self.tasks[task]
        classes, prompt = record.get("classes", record.get("labels", [])), record.get("prompt", [])
        names = [classes[key] for key in sorted(classes)] if isinstance(classes, Mapping) else classes
        return {"classes": [str(name) for name in names], "templates": [prompt] if isinstance(prompt, str) else list(prompt)}

    def logit_scale(self, suite: str) -> float:
        """Return the factor on cosine similarities that a suite's experts were trained with; 1 for heads of their own."""
        record = self.suites[suite]
        return float(record["finetune"]["logit_scale"] if "finetune" in record else record.get("logit_scale", 1.0))

    def used_assets(self) -> list[str]:
        """Return the assets of the run: bases, text towers, tokenizers, captions, data and fetched experts."""
        names: set[str | None] = set()
        for suite, record in self.suites.items():
            names |= {self.base_asset(suite), record.get("text_tower"), record.get("input", {}).get("tokenizer")}
            names |= {record.get("vlm", {}).get(key) for key in ("clip", "processor")}
            tasks = self.task_ids(suite)
            names |= {name for task in [*tasks, *self.captions(suite)] for name in self.tasks[task]["assets"]}
            multitask = ["multitask"] if "multitask" in self.run(suite) else []
            names |= {self.expert_asset(suite, name) for name in [*self.experts(suite), *multitask]}
        return sorted(name for name in names if name)

    def unlocked(self, assets: Iterable[str]) -> list[str]:
        """Return the assets that are missing from, or unverified in, the lock."""
        return entries.unlocked(assets, self.lock)

    def _skip(self, suite: str) -> dict[str, str]:
        """Return the tasks of a suite (and its captions) that are unavailable on this machine, with the reason."""
        tasks = [*self.suites[suite]["tasks"], *self._captions(suite)]
        wanted = {asset for task in tasks for asset in self.tasks[task]["assets"]}
        missing = {asset for asset in wanted if not Path("results/assets", asset, "asset.json").exists()}
        reasons = unavailable({asset: self.assets[asset] for asset in sorted(missing)})
        return {task: reasons[asset] for task in tasks for asset in self.tasks[task]["assets"] if asset in reasons}

    def _captions(self, suite: str) -> list[str]:
        alignment = self.suites[suite].get("alignment")
        return [alignment["captions"]] if alignment else []

    def captions(self, suite: str) -> list[str]:
        """Return the data set of captioned images of a suite that is aligned, if it is available."""
        return [task for task in self._captions(suite) if task not in self.skipped[suite]]

    def task_ids(self, suite: str) -> list[str]:
        """Return the available tasks of a suite, in the order of the config."""
        return [task for task in self.suites[suite]["tasks"] if task not in self.skipped[suite]]

    def is_benchmarked(self, suite: str) -> bool:
        """Return whether the tasks of a suite are benchmarks that a harness reads and scores, without heads or prepared data."""
        return any("harness" in self.tasks[task] for task in self.suites[suite]["tasks"])

    def prepared_tasks(self, suite: str) -> list[str]:
        """Return the available tasks of a suite that have a prepared data set and a head."""
        return [] if self.is_benchmarked(suite) else self.task_ids(suite)

    def groups(self, suite: str) -> dict[str, list[str]]:
        """Return the tasks that are scored together, by job; a task in no group is its own."""
        tasks = self.task_ids(suite)
        groups = {g: [t for t in members if t in tasks] for g, members in self.suites[suite].get("groups", {}).items()}
        grouped = {task for members in groups.values() for task in members}
        return {g: m for g, m in groups.items() if m} | {task: [task] for task in tasks if task not in grouped}

    def skipped_methods(self, suite: str) -> dict[str, str]:
        """Return the methods of the run that do not apply to a suite (or an entry of `models`), with the reason."""
        return self._skipped_methods[suite]

    def notes(self) -> list[str]:
        """Return what is said before the first job: of nested merges, and of methods that models without tables leave out."""
        left_out = [(name, *each) for name in self.models for each in self.skipped_methods(name).items()]
        return [*self.nested.notes(), *(f"models: {name}: {method} is left out: {reason}" for name, method, reason in left_out)]

    def run(self, suite: str) -> list[str]:
        """Return the methods that are run on a suite, in the order of the tables."""
        without = {*self.skipped_methods(suite), *self.absent(suite)}
        return [method for method in self.config["methods"] if method not in without]

    def examples(self, suite: str) -> dict[str, int | None]:
        """Return the number of training examples of every expert that the config states, None where it does not.

        Of experts that are fine-tuned here, the prepared data sets have it: {}.
        """
        if suite in self.models:
            stated = self.models[suite].get("examples", {})
            return {name: stated.get(name) for name in self.models[suite]["experts"]}
        if not self.has_experts_of_tasks(suite):
            stated = self.suites[suite].get("examples", {})
            return {name: stated.get(name) for name in self.experts(suite)}
        tasks = self.task_ids(suite) if "experts" in self.suites[suite] else []
        return {task: self.tasks[task].get("arguments", {}).get("counts", {}).get("train") for task in tasks}

    def cross_checked(self, suite: str) -> list[str]:
        """Return the methods of a suite that OpenCompass scores, too; `individual` stands for every expert."""
        wanted = {*self.config.get("cross_check", [])}
        wanted |= {*self.expert_rows} if INDIVIDUAL in wanted else set()
        return [method for method in self.run(suite) if method in wanted]

    def merges(self, suite: str) -> list[str]:
        """Return the methods that need a merge of a suite."""
        return [method for method in self.run(suite) if method not in self.references]

    def candidates_in(self, suite: str) -> list[str]:
        """Return the candidates of all tuned methods of a suite; one that scores the merges of another has none."""
        made = self.run(suite) if self.owner(suite) == suite else []
        return [name for name, candidate in self.candidates.items() if candidate.method in made]

    def record(self) -> dict[str, Any]:
        """Return everything that the config decided for the run, with `extends` resolved, as results/run_config.yaml has it."""
        tasks = [task for suite in self.suites.values() for task in suite["tasks"]]
        return {
            "config": self.config,
            "suites": self.suites,
            "tasks": {task: self.tasks[task] for task in tasks},
            "methods": {method: self.methods[method] for method in self.config["methods"]},
            "assets": {name: {**self.assets[name], "lock": self.lock.get(name)} for name in self.used_assets()},
            "skipped": self.skipped,
            "skipped_methods": {suite: self.skipped_methods(suite) for suite in [*self.suites, *self.models]},
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of the tables: one a method of the run, one for all draws of an entry, with its `draws`."""
        found: dict[str, dict[str, Any]] = {}
        for method in self.config["methods"]:
            record = self.methods[method]
            sweep = record.get("sweep", {})
            if "draw" in sweep:
                row = {**record, "id": sweep["id"], "label": sweep["label"], "draws": []}
                found.setdefault(sweep["id"], row)["draws"].append(method)
            else:
                found[method] = {**record, "id": method}
        return list(found.values())

    def method(self, method: str) -> dict[str, Any]:
        """Return the entry of a method; of a candidate that of its method with the candidate's point, without `tune`.

        The point of a trial is not known yet: it has the values of its method.
        """
        if method not in self.candidates:
            return self.methods[method]
        candidate = self.candidates[method]
        record = {key: value for key, value in self.methods[candidate.method].items() if key != "tune"}
        return put(record, candidate.point or {})

    def method_spec(self, method: str, *stages: str) -> dict[str, Any]:
        """Return the given stages of a method, or of a candidate with its point."""
        record = self.method(method)
        return {stage: record[stage] for stage in stages if stage in record}

    def requirements(self, method: str) -> dict[str, dict[str, Any]]:
        """Return the measurements that a method (or a candidate) needs: {kind: hyper-parameters of the operator}."""
        return requirements(self.method(method), method)

    def takes_norms_of_calibration(self, method: str) -> bool:
        """Return whether the coefficients of a method (or a candidate) come from the norms of calibration statistics."""
        return takes_norms_of_calibration(self.method(method))

    def reads_examples(self, method: str) -> bool:
        """Return whether the coefficients of a method (or a candidate) come from the sizes of the training sets."""
        return reads_examples(self.method(method))

    def computing(self, *methods: str) -> list[str]:
        """Return the options for how jobs of these methods compute whole tensors, none where no method takes any.

        So `compute:` and `blas_threads:` rerun no job that they do not concern.
        """
        if not self._take_whole(methods):
            return []
        asked = {"--compute": self.config.get("compute", COMPUTE[0]), "--blas-threads": self.blas_threads(*methods)}
        return [text for option, value in asked.items() if value not in (COMPUTE[0], 1) for text in (option, str(value))]

    def blas_threads(self, *methods: str) -> int:
        """Return the threads of the matrix library in jobs of these methods: 1 on a GPU and where none takes whole tensors."""
        concerned = self.config.get("device", "cpu") == "cpu" and self._take_whole(methods)
        return int(self.config.get("blas_threads", 1)) if concerned else 1

    def _take_whole(self, methods: Iterable[str]) -> bool:
        return WHOLE in (takes(self.method(method)) for method in methods)

    def thresholds(self, method: str) -> str | None:
        """Return the id of the thresholds that a method needs, None if it needs none; methods that trim alike share it.

        Where validation chooses how a method trims, they are its own, or those of the method that chooses.
        """
        settings = self.requirements(method).get("thresholds")
        if settings is None:
            return None
        return self.chooses(method, "preprocess") or "-".join(_parts_of_id(settings))

    def chooses(self, method: str, stage: str) -> str | None:
        """Return the trial or the method whose choice of hyper-parameters of a stage a method uses; None if these are fixed."""
        trial = self.candidates.get(method)
        chosen = method if trial and trial.point is None else self.tuner(method)
        search = self.searches.get(trial.method if trial else chosen or "")
        return chosen if search and any(each.path.startswith(f"{stage}.") for each in search.space) else None

    def processed(self, method: str) -> str | None:
        """Return the id of the norms of processed vectors that a method needs, None if it needs none.

        Methods that preprocess alike share it.
        """
        settings = self.requirements(method).get("processed", {})
        chosen = [each for stage in settings.values() for each in stage.items()]
        return "-".join(part for operator, given in chosen for part in (operator, *_parts_of_id(given))) or None

    def needing(self, measurement: Callable[[str], str | None]) -> dict[str, str]:
        """Return the ids that `thresholds` or `processed` gives for the run, each with one of the methods that need it."""
        rows = (*self.config["methods"], *self.nested.rows, *self.candidates)
        methods = [method for method in rows if method not in self.references]
        return {name: method for method in methods if (name := measurement(method))}

    def tuner(self, method: str) -> str | None:
        """Return the method whose choice on validation `method` uses (itself, if it chooses), or None."""
        tune = self.methods[method].get("tune") if method in self.methods else None
        return tune.get("as", method) if tune else None

    def candidates_of(self, method: str) -> list[str]:
        """Return the candidate ids of a tuned method, in the order of its grid or of its trials."""
        return [name for name, candidate in self.candidates.items() if candidate.method == method]

    def earlier_trials(self, trial: str) -> list[str]:
        """Return the trials whose scores the point of a trial depends on."""
        method, _, number = self.candidates[trial]
        return [_trial(method, each) for each in self.searches[method].earlier(number)]

    def pruned_by(self, candidate: str) -> list[str]:
        """Return the trials by whose scores a trial may be stopped: those of earlier rounds, of a search with `prune`."""
        method, _, number = self.candidates[candidate]
        search = self.searches[method]
        return [_trial(method, each) for each in search.rounds_before(number)] if search.prune else []

    def pairs(self) -> list[dict[str, Any]]:
        """Return the comparisons: suite, method, against, kind; several draws of a control are one comparison, with `draws`."""
        return comparisons.pairs(self)

    @functools.cached_property
    def registered_claims(self) -> dict[str, Any]:
        """Return config/claims.yaml with the suites and methods of the run in place of patterns."""
        return claims.registered(self)

    def premise_runs(self, suite: str) -> dict[str, dict[str, Any]]:
        """Return the runs of the premise experiment by id: task, protocol, examples and steps."""
        premise, settings = self.suites[suite].get("premise"), self.suites[suite].get("finetune")
        if not premise or not settings or premise["task"] in self.skipped[suite]:
            return {}
        runs = {}
        for size in premise["sizes"]:
            per_epoch = size / settings["batch_size"]
            for protocol, steps in (("steps", premise["steps"]), ("epochs", max(1, round(premise["epochs"] * per_epoch)))):
                runs[f"{protocol}-{size}"] = {"task": premise["task"], "protocol": protocol, "examples": size, "steps": steps}
        return runs


def _parts_of_id(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as parts of a file name: each value itself, or a digest of a pattern or of one that varies."""

    def spelt(value: Any) -> str:
        kind = "pattern" if isinstance(value, str) else "varying"
        plain = re.fullmatch(r"[\w.+-]*", str(value))
        return str(value) if plain else f"{kind}_{hashlib.sha256(canonical(value).encode()).hexdigest()[:8]}"

    return [f"{key}_{spelt(value)}" for key, value in sorted(settings.items())]


class Candidate(NamedTuple):
    """A point that a method is scored at on validation: of a grid; None for trial `number`, which a job chooses."""

    method: str
    point: Point | None
    number: int = 0


def _candidates(method: str, search: Search) -> Iterator[tuple[str, Candidate]]:
    """Yield the candidates of a method by id: `<method>-<value>-<value>...` of a grid, `<method>-t<number>` of trials."""
    points = {"-".join([method, *map(_spelt, point.values())]): point for point in search.grid()}
    if len(points) < len(list(search.grid())):
        raise UserError(f"{METHODS}: {method}: tune: two values have one id, which has six digits; leave one out")
    yield from ((name, Candidate(method, point)) for name, point in points.items())
    for number in range(1, search.budget + 1):
        yield _trial(method, number), Candidate(method, None, number)


def _trial(method: str, number: int) -> str:
    return f"{method}-t{number}"


def _spelt(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value).lower()


def expert_row(name: str) -> dict[str, Any]:
    """Return the entry of an expert that belongs to no task, as a reference row of the tables."""
    summary = f"the expert {name} as it is, on every task"
    return {"label": f"Expert: {name}", "group": "reference", "summary": summary, "data": "none", "static": True}
