"""A finished run by its folder of results: the records and files of its suites and methods, for exports.

results/run_config.yaml holds the config as it was when the run ended, so that a later change of config/ changes no export.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiment.entries import metric
from experiment.experiment import INDIVIDUAL
from nan_merge.catalogue.methods import STAGES
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json, read_table
from nan_merge.core.names import nearest
from nan_merge.core.text import read_yaml

METHOD_KEYS = ("label", "group", "static", "reference", *STAGES)
KEYS = ("assets", "config", "methods", "skipped", "skipped_methods", "suites", "tasks")  # of run_config.yaml
AGAIN = "run `snakemake --cores all` in the folder of the run, then export again"


class FinishedRun:
    """The results of a run; raises UserError for a folder that holds none, or a part of them."""

    def __init__(self, results: Path) -> None:
        """Read run_config.yaml and scores.tsv, and check that every method of the run has a score of every task."""
        self.results, self.scores = results, results / "scores.tsv"
        if not (results / "run_config.yaml").is_file():
            raise UserError(
                f"{results}: holds no run_config.yaml; expected the results of a run. Name the folder of the run, with"
                " `results` in it, by `--directory`, or make them: snakemake --cores all"
            )
        self.config = read_yaml(results / "run_config.yaml")
        if not isinstance(self.config, dict) or not self.config.keys() >= {*KEYS}:
            raise UserError(
                f"{results}/run_config.yaml: expected the keys {', '.join(KEYS)}, as a run writes them, but not all are there;"
                f" {AGAIN}"
            )
        named = self.config["config"]["suites"]
        self.suites = list(dict.fromkeys([*named, *self.config["suites"]]))  # own models that name tasks come last
        if not self.suites:
            raise UserError(f"{results}/run_config.yaml: the run scored no suite, so there is nothing to export")
        if not self.scores.is_file():
            raise UserError(f"{self.scores}: there is no such table: the run is not finished; {AGAIN}")
        rows = read_table(self.scores)
        self._scored = {(row["suite"], row["method"], row["task"], row["seed"], row["metric"]) for row in rows}
        self._methods_with_scores = {(row["suite"], row["method"]) for row in rows}
        for suite in self.suites:
            self._check(suite)

    def _check(self, suite: str) -> None:
        """Raise UserError for the first score of a suite that the run should have and has not."""
        for method in self.methods_of(suite):
            for task in self._task_ids(suite):
                for seed in self.config["config"]["seeds"]:
                    if (suite, method, task, str(seed), self._metric(suite, task)) not in self._scored:
                        raise UserError(
                            f"{self.scores}: has no score of {method} on {suite}/{task}, seed {seed}, which run_config.yaml"
                            f" names: the run is not finished, or its config was changed since; {AGAIN}"
                        )

    def suite(self, name: str) -> str:
        """Return a suite of the run; UserError for any other name."""
        if name not in self.suites:
            raise UserError(f"--suite {name}: {self.results} has no such suite; {nearest(name, self.suites)}")
        return name

    def method(self, name: str, suite: str) -> str:
        """Return a method with scores of a suite; UserError for any other name, with the reason if the suite skipped it."""
        if name in (skipped := self.config["skipped_methods"].get(suite, {})):
            raise UserError(f"--method {name}: was not scored on {suite}: {skipped[name]}; choose another method")
        if name not in (known := self.methods_of(suite)):
            raise UserError(f"--method {name}: was not scored on {suite} in this run; {nearest(name, known)}")
        return name

    def methods_of(self, suite: str) -> list[str]:
        """Return the methods that a suite should have scores of, in the order of the config.

        A suite whose experts belong to no task has no score of `individual`, and none of the experts of other suites.
        """
        without = self.config["skipped_methods"].get(suite, {})
        return [
            method
            for method in self.config["config"]["methods"]
            if method not in without and (not self._is_of_one_suite(method) or (suite, method) in self._methods_with_scores)
        ]

    def _is_of_one_suite(self, method: str) -> bool:
        return method == INDIVIDUAL or method.startswith("expert_") or "nested" in self.config["methods"][method]

    def _task_ids(self, suite: str) -> list[str]:
        return [task for task in self.config["suites"][suite]["tasks"] if task not in self.config["skipped"].get(suite, {})]

    def _metric(self, suite: str, task: str) -> str:
        return metric(self.config["suites"][suite], self.config["tasks"], task)

    def suite_record(self, suite: str) -> dict[str, Any]:
        """Return the record of a suite, as tables read it, with the origin of the data of every task."""
        record = self.config["suites"][suite]
        return {
            "id": suite,
            "label": record["label"],
            "family": record["family"],
            "base": self._repository(record.get("base")),
            "seeds": self.config["config"]["seeds"],
            "tasks": [self._task_record(suite, task) for task in self._task_ids(suite)],
            "skipped_methods": self.config["skipped_methods"].get(suite, {}),
            **{key: record[key] for key in ("collection", "experts", "joint") if key in record},
        }

    def _task_record(self, suite: str, task: str) -> dict[str, Any]:
        record, corrupt = self.config["tasks"][task], self.config["suites"][suite].get("corrupt")
        how = f" ({corrupt['kind'].replace('_', ' ')} in the inputs, strength {corrupt['strength']:g})" if corrupt else ""
        return {
            "id": task,
            "label": f"{record['label']}{how}",
            "metric": self._metric(suite, task),
            "source": record["source"],
            "harness": record.get("harness", {}).get("tasks", []),
            "data": {} if corrupt else self._data(record),
        }

    def _data(self, task: Mapping[str, Any]) -> dict[str, str]:
        """Return `repo`, `commit`, `config` and `split` of a task's data set on the hub; {} if it is none, or several."""
        assets = task.get("assets", [])
        spec = self.config["assets"].get(assets[0], {}) if len(assets) == 1 else {}
        if spec.get("kind") != "hub" or spec.get("type") != "dataset":
            return {}
        arguments, commit = task.get("arguments", {}), (spec.get("lock") or {}).get("commit")
        found = {"config": arguments.get("config"), "split": arguments.get("origin", {}).get("test"), "commit": commit}
        return {"repo": spec["repo"], **{key: str(value) for key, value in found.items() if value}}

    def _repository(self, asset: str | None) -> str:
        """Return the hub id of a model that is an asset; empty if it comes from elsewhere."""
        spec = self.config["assets"].get(asset or "", {})
        return str(spec["repo"]) if spec.get("kind") == "hub" else ""

    def method_record(self, method: str) -> dict[str, Any]:
        """Return the record of a method, with its stages."""
        record = self.config["methods"][method]
        return {"id": method, **{key: record[key] for key in METHOD_KEYS if key in record}}

    def provenance(self, suite: str, method: str, seed: int) -> list[dict[str, Any]]:
        """Return where the scores of a model come from, one record a job, each with the `time` when its file was written."""
        folder = self.results / "scores" / suite / method / f"seed{seed}"
        files = sorted(folder.glob("*.json"))
        if not files:
            raise UserError(f"{folder}: holds no scores, though {self.scores} has some of them; copy the whole folder of results")
        return [{**read_json(file)["provenance"], "time": self._written(file)} for file in files]

    def _written(self, file: Path) -> int:
        """Return when a file was written, in seconds of the epoch: by Snakemake's record of its job, else by the file itself."""
        name = f"results/{file.relative_to(self.results).as_posix()}"
        record = self.results.parent / ".snakemake/metadata" / base64.urlsafe_b64encode(name.encode()).decode()
        try:
            ended = read_json(record).get("endtime")
        except (UserError, OSError):  # a path too long for one name of a file is recorded elsewhere
            ended = None
        return int(ended or file.stat().st_mtime)

    def card(self, suite: str, method: str, seed: int) -> tuple[str, Path, bool]:
        """Return the model card of a merge, the folder of the merge, and whether that is still there.

        With `keep_merged: false` the folder was removed, and its digest has the card. UserError where neither is left.
        """
        place = f"{self.config['suites'][suite].get('merges', suite)}/{method}/seed{seed}"
        folder, digest = self.results / "merged" / place, self.results / f"digests/{place}.json"
        if digest.is_file():
            return read_json(digest)["card"], folder, folder.is_dir()
        if (folder / "README.md").is_file():
            return (folder / "README.md").read_text(encoding="utf-8"), folder, True
        raise UserError(
            f"{folder}: the merge was removed, and {digest}, which keeps its model card, is not there; make it again:"
            f" snakemake --cores all -- results/merged/{place}"
        )

    def wanted(self, suite: str | None, method: str | None) -> Iterator[tuple[str, str]]:
        """Yield the pairs of suite and method of the run, or those with the given names."""
        suites = [self.suite(suite)] if suite else self.suites
        for name in suites:
            for each in [self.method(method, name)] if method else self.methods_of(name):
                yield name, each
