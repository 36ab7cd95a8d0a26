"""A finished run of any config, without a model: answers are drawn, everything after them is computed by the real functions."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

from experiment import experiment
from experiment.experiment import Experiment
from nan_merge.catalogue.files import read_yaml
from nan_merge.data.thumbnails import thumbnails
from nan_merge.methods.recipe import bind
from nan_merge.methods.search_space import names as tuned
from nan_merge.methods.search_space import put
from nan_merge.reporting import paired_difference
from nan_merge.reporting.paired_tests import compare_methods, read_answers
from nan_merge.reporting.report import write_report
from nan_merge.reporting.study import gather_scores, studies
from nan_merge.reporting.tables import render_table

ROOT = Path(__file__).parents[2]
KEYS = ["id", "label", "host", "controls", "reference", "group", "summary", "data", "static", "sweep", "draws"]
EXAMPLES, CLASSES = 40, 4  # of a task


@contextmanager
def quick(flips: int = 999, resamples: int = 200) -> Iterator[None]:
    """Draw less for each test and interval, and take every asset for one that can be fetched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "unavailable", lambda specs: {})
        patch.setattr(paired_difference, "FLIPS", flips)
        patch.setattr(paired_difference, "RESAMPLES", resamples)
        yield


class FabricatedRun:
    """The files of a run of config.yaml with an overlay; `flips` is the share of answers in which methods differ."""

    def __init__(
        self, folder: Path, overlay: dict, tasks: int = 3, flips: float = 0.1, spread: float = 1.0,
        size: int = EXAMPLES, gains: dict[str, float] | None = None,
    ) -> None:  # fmt: skip
        """Fabricate: each suite is cut to its first `tasks`; `spread` is the range of the norms of task vectors.

        `size` is the number of examples of a task; by `gains`, a method is right on that share more of them than its host.
        """
        self.size, self.gains = size, gains or {}
        self.experiment = Experiment({**read_yaml(ROOT / "config/config.yaml"), **overlay}, ROOT)
        self.folder, self.flips, self.spread = folder, flips, spread
        self.random = np.random.default_rng(0)
        self.tasks = {suite: self.experiment.task_ids(suite)[:tasks] for suite in self.experiment.suites}
        for suite, names in self.tasks.items():
            self.experiment.suites[suite]["tasks"] = names
        self.scores: list[Path] = []
        self.coefficients: list[Path] = []
        self.measures = [self._measures(suite, seed) for suite in self.tasks if self._merges(suite) for seed in self.seeds]
        for suite, names in self.tasks.items():
            truth = {task: self.random.integers(0, CLASSES, size) for task in names}
            for seed in self.seeds:
                self._suite(suite, seed, truth)

    @property
    def seeds(self) -> list[int]:
        """The fine-tuning seeds."""
        return self.experiment.config["seeds"]

    def _merges(self, suite: str) -> bool:
        """Whether a suite makes the merges that it scores."""
        return self.experiment.owner(suite) == suite

    def _measures(self, suite: str, seed: int) -> Path:
        experts, names = self.tasks[suite], [f"layers.{i}.weight" for i in range(2)]
        lengths = 1 + self.spread * np.linspace(0, 1, len(experts))
        kinds = {"weights": 100 + 1e-4 * lengths, "task_vector": lengths, "processed": lengths / 2, "calibration": lengths}
        squares = {kind: (values**2 / len(names)).tolist() for kind, values in kinds.items()}
        sizes = [100 * (1 + index) for index in range(len(experts))]
        record = {"experts": experts, "examples": sizes, "tensors": {name: {"numel": 4, **squares} for name in names}}
        return self._json(f"measures/{suite}/seed{seed}.json", record)

    def _suite(self, suite: str, seed: int, truth: dict[str, np.ndarray]) -> None:
        found: dict[str, dict] = {}
        for method in self.experiment.run(suite):
            record = self.experiment.methods[method]
            tuner, point = self.experiment.tuner(method), None
            if tuner == method and self._merges(suite):
                point = self._choose(suite, seed, method)
            start = found.get(record.get("host") or record.get("extends", ""), truth)
            share = self.flips if start is not truth else {"individual": 0.1, "pretrained": 0.5}.get(method, 0.3)
            found[method] = {task: self._changed(answers, share) for task, answers in start.items()}
            if gain := self.gains.get(method):
                found[method] = {task: self._moved(answers, truth[task], gain) for task, answers in found[method].items()}
            self._score(f"scores/{suite}/{method}/seed{seed}/all", suite, method, seed, "accuracy", found[method], truth)
            if method in self.experiment.merges(suite) and "learn" not in record and self._merges(suite):
                self._coefficients(suite, seed, method, point)

    def _changed(self, answers: np.ndarray, share: float) -> np.ndarray:
        wrong = self.random.random(len(answers)) < share
        return np.where(wrong, (answers + 1) % CLASSES, answers)

    def _moved(self, answers: np.ndarray, truth: np.ndarray, gain: float) -> np.ndarray:
        movable = np.flatnonzero((answers == truth) == (gain < 0))
        chosen = self.random.choice(movable, round(abs(gain) * len(answers)), replace=False)
        moved = answers.copy()
        moved[chosen] = (truth[chosen] + (gain < 0)) % CLASSES
        return moved

    def _choose(self, suite: str, seed: int, method: str) -> dict:
        """Score every candidate on validation; the first is chosen."""
        candidates = self.experiment.candidates_of(method)
        for candidate in candidates:
            drawn = {task: self.random.integers(0, CLASSES, self.size) for task in self.tasks[suite]}
            place = f"validation/{suite}/{candidate}/seed{seed}/all"
            self._score(place, suite, candidate, seed, "validation_accuracy", drawn, drawn)
        space = self.experiment.searches[method].space
        drawn = {each.path: dict.fromkeys(self.experiment.experts(suite), each.low) if each.each else each.low for each in space}
        return self.experiment.candidates[candidates[0]].point or drawn

    def _score(self, place, suite, method, seed, metric, answers, truth) -> None:
        usual = {"suite": suite, "method": method, "metric": metric, "n": self.size, "seed": seed}
        values = {t: float((answers[t] == truth[t]).mean()) for t in answers}
        rows = [{**usual, "task": t, "value": p, "stderr": (p * (1 - p) / self.size) ** 0.5} for t, p in values.items()]
        origin = {"checkpoints": [method], "xxh3_128": {method: f"{method} of {suite}, seed {seed}"}}
        origin["versions"] = {"numpy": "2.4.6", "torch": f"2.14.{seed}"}
        self.scores.append(self._json(f"{place}.json", {"scores": rows, "provenance": origin}))
        parts = {f"{t}.{name}": values[t] for t in answers for name, values in (("prediction", answers), ("label", truth))}
        np.savez(self.scores[-1].with_suffix(".npz"), **parts)

    def _coefficients(self, suite: str, seed: int, method: str, point: dict | None) -> None:
        spec = self.experiment.method_spec(method, "coefficients", "control")
        if point is not None:
            spec = put(spec, {path: value for path, value in point.items() if path.startswith("coefficients.")})
        alone = point and "hyper_parameter" in self.experiment.methods[method]["tune"]
        chosen = {"chosen": next(iter(point.values())) if alone else point} if point else {}
        measures = json.loads((self.folder / f"measures/{suite}/seed{seed}.json").read_text())
        record = {"suite": suite, "method": method, "seed": seed, **chosen}
        place = f"coefficients/{suite}/{method}/seed{seed}.json"
        self.coefficients.append(self._json(place, {**record, **bind(spec, method).estimate(measures).record()}))

    def _json(self, place: str, record: dict) -> Path:
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record))
        return path

    @cached_property
    def examples(self) -> list[Path]:
        """The test examples, a file a suite: texts, or noise as images."""
        noise = np.random.default_rng(1).integers(0, 256, (self.size, 48, 48, 3), np.uint8)
        return [
            self._json(
                f"examples/{suite}.json",
                {"suite": suite, "images": {t: thumbnails(noise) for t in tasks}}
                if "side" in self.experiment.suites[suite].get("input", {})
                else {"suite": suite, "texts": {t: [f"{t} </script><b>{i}" for i in range(self.size)] for t in tasks}},
            )
            for suite, tasks in self.tasks.items()
        ]

    @cached_property
    def suites(self) -> list[dict]:
        """The records of the suites, as the rules pass them on."""
        found = []
        for suite, tasks in self.tasks.items():
            record, experiment = self.experiment.suites[suite], self.experiment
            found.append({
                "id": suite, "label": record["label"], "notes": record.get("notes", []), "seeds": self.seeds, "skipped": [],
                "finetune": {key: record["finetune"][key] for key in ("steps", "batch_size") if "finetune" in record},
                "tasks": [{"id": t, "label": experiment.tasks[t]["label"], "train": 100 + i} for i, t in enumerate(tasks)],
                "skipped_methods": experiment.skipped_methods(suite),
                **{key: record[key] for key in ("collection", "published", "experts") if key in record},
                **({} if self._merges(suite) else {"owner": self._owner(suite)}),
                **({"trained_on": trained} if (trained := experiment.trained_on(suite)) else {}),
                "methods": [row["id"] for row in experiment.rows() if row["id"] not in experiment.absent(suite)],
            })  # fmt: skip
        return found

    def _owner(self, suite: str) -> dict:
        owner, record = self.experiment.owner(suite), self.experiment.suites[suite]
        corrupt = {"corrupt": record["corrupt"]} if "corrupt" in record else {}
        return {"id": owner, "label": self.experiment.suites[owner]["label"], **corrupt}

    @cached_property
    def methods(self) -> list[dict]:
        """The records of the methods, as the rules pass them on."""
        rows = []
        for row in self.experiment.rows():
            tune = {key: row.get("tune", {})[key] for key in ("hyper_parameter", "as") if key in row.get("tune", {})}
            if "space" in row.get("tune", {}):
                tune["hyper_parameters"] = tuned(row["tune"])
            fixed = next(iter(row["coefficients"].values())).get(tune.get("hyper_parameter")) if tune else None
            rows.append({key: row[key] for key in KEYS if key in row} | ({"tune": {**tune, "fixed": fixed}} if tune else {}))
        return rows

    @cached_property
    def studies(self) -> list:
        """All suites: scores are gathered and compared, and everything is read back."""
        gather_scores(self.scores, self.folder / "scores.tsv")
        sizes = {suite["id"]: {task["id"]: task["train"] for task in suite["tasks"]} for suite in self.suites}
        compare_methods(self.scores, self.experiment.pairs(), self.folder / "comparisons.tsv", sizes)
        tables = (self.folder / "scores.tsv", self.folder / "comparisons.tsv")
        found = studies(self.suites, self.methods, *tables, self.coefficients, self.measures)
        for study in found:
            study.answers = read_answers(self.tests)[0]
        return found

    @property
    def tests(self) -> list[Path]:
        """The test scores of the methods; predictions lie beside them."""
        return [file for file in self.scores if file.is_relative_to(self.folder / "scores")]

    def finish(self) -> None:
        """Write what a finished run has besides, as the rules do: scores.tsv and run_config.yaml."""
        gather_scores(self.scores, self.folder / "scores.tsv")
        self._json("run_config.yaml", self.experiment.record())  # JSON is YAML

    def report(self) -> Path:
        """Render the tables of the config and the report, and return the report."""
        found, tables = self.studies, []
        for study in found:
            for name in self.experiment.config["tables"]:
                tables.append(self.folder / "tables" / f"{name}_{study.suite['id']}.md")
                tables[-1].parent.mkdir(exist_ok=True)
                render_table(study, {"id": name, **self.experiment.reports["tables"][name]}, tables[-1].with_suffix(""))
        data = [self.folder / name for name in ("scores.tsv", "comparisons.tsv")]
        claims = self.experiment.registered_claims
        given = {"predictions": self.tests, "examples": self.examples, "data": data, "claims": claims}
        write_report(found, self.methods, tables, [], {}, self.folder / "report.html", **given)
        return self.folder / "report.html"
