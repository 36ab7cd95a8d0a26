"""Read scores and measurements and collect them by suite, one `Study` each; nothing is computed here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json, read_table, write_table

SYMBOLS = {"value": "λ", "mean": "λ", "total": "Σc", "exponent": "p"}  # of a tuned hyper-parameter
ACCURACY, VALIDATION = "accuracy", "validation_"  # the metric of a task that names none; prefix of metrics of that split
CORRELATIONS = ("matthews", "pearson", "spearman", "pearson_spearman")
REGRESSION = ("spearman", "pearson_spearman")  # the metrics of labels that are numbers
METRIC_NAMES = {
    "matthews": "Matthews correlation",
    "f1_accuracy": "mean of F1 and accuracy",
    "ndcg_at_10": "nDCG at 10",
    "spearman": "Spearman's rank correlation",
    "pearson_spearman": "mean of Pearson's and Spearman's correlation",
}
SCORE_COLUMNS = ["suite", "method", "task", "metric", "value", "stderr", "n", "seed"]


class Score(NamedTuple):
    """One metric as a fraction, over `n` examples of one task, for one fine-tuning seed; `error` is its standard error."""

    suite: str
    method: str
    task: str
    metric: str
    value: float
    n: int
    seed: int
    error: float = math.nan

    @property
    def independent(self) -> float:
        """The number of independent examples with the same standard error: fewer than `n` where examples come in groups.

        p (1 - p) / error², Kish's effective sample size; `n` where p is 0 or 1, where the error is that of n examples, and for
        metrics that are no proportion.
        """
        variance = self.value * (1 - self.value)
        proportion = self.metric.removeprefix(VALIDATION) == ACCURACY
        if not proportion or not self.error > 0 or not variance or math.isclose(self.error**2, variance / self.n, rel_tol=1e-9):
            return self.n
        return variance / self.error**2


@dataclass
class Study:
    """All measurements of one suite; a field without measurements is empty.

    A method is a row: `draws` lists the methods that one row shows, `skipped` is the reason why the suite has no score.
    """

    suite: dict[str, Any]
    methods: list[dict[str, Any]]
    scores: list[Score] = field(default_factory=list)
    comparisons: list[dict[str, str]] = field(default_factory=list)
    coefficients: list[dict[str, Any]] = field(default_factory=list)
    measures: dict[int, dict[str, Any]] = field(default_factory=dict)
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)
    premise: list[dict[str, str]] = field(default_factory=list)
    data_checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    searches: list[dict[str, Any]] = field(default_factory=list)
    answers: Mapping[tuple, Any] = field(default_factory=dict)  # predictions, for a table that needs them
    others: list[dict[str, Any]] = field(default_factory=list)  # methods left out of a table or figure

    def only(self, record: Mapping[str, Any]) -> Study:
        """Return the study with the methods selected by the record of a table or figure: `methods` less `without`."""
        wanted, unwanted = record.get("methods", ["*"]), record.get("without", [])
        shown = [method for method in self.methods if _matches(method, wanted) and not _matches(method, unwanted)]
        return replace(self, methods=shown, others=[*self.others, *(m for m in self.methods if m not in shown)])

    def members(self, identifier: str) -> list[str]:
        """Return the draws of a row, or its one method."""
        return next((m["draws"] for m in [*self.methods, *self.others] if m["id"] == identifier and "draws" in m), [identifier])

    def symbol(self, identifier: str) -> str:
        """Return the symbol of the hyper-parameter that a method tunes, or of several, with commas."""
        tuned: dict[str, Any] = next((m.get("tune", {}) for m in [*self.methods, *self.others] if m["id"] == identifier), {})
        chosen = tuned.get("hyper_parameters") or [tuned.get("hyper_parameter", "value")]
        return ", ".join(SYMBOLS.get(name, name) for name in chosen)

    def chosen(self, identifier: str) -> list[float]:
        """Return the values that validation chose for a method with one hyper-parameter, each once, smallest first."""
        return sorted({float(each) for each in self._choices(identifier) if not isinstance(each, Mapping)})

    def picked(self, identifier: str) -> str:
        """Return what validation chose for a method, as text: values, or points of a search by seed; empty if that is unknown."""
        values = [f"{value:g}" for value in self.chosen(identifier)]
        points = [spelt_point(each) for each in self._choices(identifier) if isinstance(each, Mapping)]
        return ", ".join(values) or "; ".join(dict.fromkeys(points))

    def _choices(self, identifier: str) -> list[Any]:
        tables = [table for table in self.coefficients if table["method"] in self.members(identifier)]
        return [table["chosen"] for table in tables if table.get("chosen") is not None]

    def fixed(self, identifier: str) -> float | None:
        """Return the value of that hyper-parameter in the method that is not tuned, None if there is none."""
        return next((m.get("tune", {}).get("fixed") for m in [*self.methods, *self.others] if m["id"] == identifier), None)

    def choices(self) -> list[str]:
        """Say of every shown method with a tuned hyper-parameter what it was chosen on, one sentence each."""
        return [
            f"{self.label(method['id'])}: {self.symbol(method['id'])}"
            + (f" = {picked}" if (picked := self.picked(method["id"])) else "")
            + ", chosen"
            + (f" for {self.label(owner)}" if (owner := method["tune"].get("as", method["id"])) != method["id"] else "")
            + f" by the average {self.measure} over tasks on the validation splits."
            for method in self.methods
            if "tune" in method and "skipped" not in method
        ]

    @property
    def tasks(self) -> list[dict[str, Any]]:
        """The reported tasks, in the order of the suite."""
        skipped = {entry["task"] for entry in self.suite.get("skipped", [])}
        return [task for task in self.suite["tasks"] if task["id"] not in skipped]

    @property
    def experts(self) -> list[str]:
        """The names of the experts that are merged: those of the tasks, unless the suite names others."""
        return list(self._named_experts) or [task["id"] for task in self.tasks]

    @property
    def _named_experts(self) -> Mapping[str, Any]:
        named = self.suite.get("experts")
        return named if isinstance(named, Mapping) else self.trained_on

    @property
    def trained_on(self) -> dict[str, list[str]]:
        """The tasks that each expert with a name of its own was fine-tuned on here."""
        return dict(self.suite.get("trained_on", {}))

    @property
    def owner(self) -> str:
        """The suite that made the base, experts and merges that are scored: this one, unless it has an owner."""
        return str(self.suite.get("owner", self.suite)["id"])

    @property
    def unseen(self) -> list[str]:
        """The labels of the tasks that no expert was fine-tuned on, where experts have names of their own."""
        seen = {task for tasks in self.trained_on.values() for task in tasks}
        return [self.label(task["id"]) for task in self.tasks if self.trained_on and task["id"] not in seen]

    @property
    def has_individual(self) -> bool:
        """Whether some task has an expert of its own, which the row `individual` shows."""
        return self.has_experts_of_tasks or (bool(self.trained_on) and len(self.unseen) < len(self.tasks))

    @property
    def uppers(self) -> list[str]:
        """The upper references: `individual`, or the rows of the experts where these belong to no task."""
        return ["individual"] if self.has_individual else [f"expert_{name}" for name in self.experts]

    @property
    def has_experts_of_tasks(self) -> bool:
        """Whether each expert belongs to a task, so that accuracies relate to an individual model and training sets to tasks."""
        return not self._named_experts

    @property
    def seeds(self) -> list[int]:
        """The fine-tuning seeds of the suite."""
        return [int(seed) for seed in self.suite.get("seeds", [0])]

    @property
    def samples_seeds(self) -> bool:
        """Whether the suite has several seeds, a sample that intervals and tests extend to others of."""
        return len(self.seeds) > 1

    @property
    def covered(self) -> str:
        """What intervals and tests of the suite cover."""
        if not self.samples_seeds:
            return "the choice of examples, not another fine-tuning"
        if "experts" in self.suite:
            return "the choice of examples and of random draws, not another fine-tuning"
        return "the choice of examples and another fine-tuning"

    @property
    def seed(self) -> str:
        """What a seed of the suite is: fetched experts are the same for all of them."""
        return "seed of random draws" if "experts" in self.suite else "fine-tuning seed"

    @property
    def sizes(self) -> dict[str, int]:
        """Training-set sizes by task; a task of unknown size is absent, and one whose size changes with the seed."""
        return {task: size for task, size in self._sizes.items() if isinstance(size, int)}

    def sizes_of(self, seed: int) -> dict[str, int]:
        """Return the training-set sizes of a fine-tuning seed by task; a task of unknown size is absent."""
        return {task: size_of(size, seed) for task, size in self._sizes.items()}

    @property
    def _sizes(self) -> dict[str, Size]:
        return _sizes(self.tasks, self.datasets)

    def metric(self, task: str, split: str = "test") -> str:
        """Return the metric by which a task is reported, as scores of a split name it."""
        found = next((each.get("metric", ACCURACY) for each in self.suite["tasks"] if each["id"] == task), ACCURACY)
        return found if split == "test" else f"{VALIDATION}{found}"

    @property
    def measure(self) -> str:
        """What the tables show: accuracy, or scores where a task has another metric."""
        return ACCURACY if all(self.metric(task["id"]) == ACCURACY for task in self.tasks) else "score"

    @property
    def grouped(self) -> bool:
        """Whether examples of a task come in groups, so that its standard error is not that of independent examples."""
        return any(score.independent != score.n for score in self.scores)

    @property
    def generated(self) -> bool:
        """Whether answers to a task are generated texts."""
        return any("generated" in task for task in self.tasks)

    def reported(self, split: str = "test") -> list[Score]:
        """Return the scores of a split by the metrics of the tasks; a task may have other metrics beside."""
        return [score for score in self.scores if score.metric == self.metric(score.task, split)]

    def title(self, record: dict[str, Any]) -> str:
        """Return the title of a table or figure on this suite."""
        return f"{record['title']}: {self.suite.get('label', self.suite['id'])}"

    def block(self, method: dict[str, Any]) -> str:
        """Return the id of the first method in the block of rows of this method; a rule precedes each block.

        A block is a run of methods without a host that are no controls, followed by NAN rows and controls.
        """
        controls = {control for other in self.methods for control in other.get("controls") or []}
        start, derived = "", True
        for other in self.methods:
            stands = not other.get("host") and other["id"] not in controls
            start = other["id"] if stands and derived else start
            derived = not stands
            if other["id"] == method["id"]:
                break
        return start

    def label(self, identifier: str) -> str:
        """Return the label of a method or task, or its id where it has none."""
        for entry in [*self.methods, *self.others, *self.suite["tasks"]]:
            if entry["id"] == identifier:
                return entry.get("label") or identifier
        return identifier


def _matches(method: Mapping[str, Any], patterns: Iterable[str]) -> bool:
    names = [method["id"], method.get("sweep", {}).get("id", method["id"])]
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _present(method: dict[str, Any], skipped: Mapping[str, str]) -> dict[str, Any]:
    """Return a row with the draws that the suite has and their number in the label, or with the reason for skipping it."""
    members = method.get("draws", [method["id"]])
    draws = [member for member in members if member not in skipped]
    row = method if draws else {**method, "skipped": skipped[members[0]]}
    if "draws" not in method:
        return row
    size = f", {len(draws)} draws" if len(draws) > 1 else ""
    return {**row, "draws": draws, "label": f"{method.get('label', method['id'])}{size}"}


def gather_scores(files: Sequence[Path | str], output: Path | str) -> None:
    """Write the scores of many JSON files as one tidy table, sorted by suite, method, metric, task and seed.

    Methods keep the order of the files. Raises UserError, with the file, for a duplicate score and for a value outside [0, 1],
    or [-1, 1] of a correlation.
    """
    seen: dict[tuple[str, ...], Path | str] = {}
    order: dict[str, int] = {}
    rows = []
    for file in files:
        for score in read_json(file)["scores"]:
            key = tuple(str(score[column]) for column in ("suite", "method", "task", "metric", "seed"))
            value = score["value"]
            least = -1 if score["metric"].removeprefix(VALIDATION) in CORRELATIONS else 0
            if not isinstance(value, int | float) or not math.isfinite(value) or not least <= value <= 1:
                raise UserError(
                    f"{file}: {'/'.join(key)} has the value {value!r}; expected a fraction from {least} to 1; "
                    "delete the file and evaluate again"
                )
            if key in seen:
                raise UserError(f"{file}: the score {'/'.join(key)} is already in {seen[key]}; name each file once")
            seen[key] = file
            order.setdefault(score["method"], len(order))
            rows.append(score)
    rows.sort(key=lambda row: (row["suite"], order[row["method"]], row["metric"], row["task"], int(row["seed"])))
    write_table(output, rows, SCORE_COLUMNS)


def studies(
    suites: Iterable[dict[str, Any]],
    methods: list[dict[str, Any]],
    scores: Path | str,
    comparisons: Path | str | None = None,
    coefficients: Sequence[Path | str] = (),
    measures: Sequence[Path | str] = (),
    datasets: Sequence[Path | str] = (),
    premise: Sequence[Path | str] = (),
    data_checks: Sequence[Path | str] = (),
    searches: Sequence[Path | str] = (),
) -> list[Study]:
    """Read all files and split them by suite, with one `Study` for each; `methods` are in the order of the tables.

    Coefficient files and rows of tables name their suite. Norms are `{suite}/seed{seed}.json`, data sets
    `{data}/{task}/dataset.json`, where `data` is the key `data` of the suite or its id, and their checks `{data}/{task}.json`.
    Coefficients, norms and searches of a suite with an `owner` are those of that suite.
    """
    rows = [_score(row, scores) for row in read_table(scores)]
    pairs = read_table(comparisons) if comparisons else []
    tables = [read_json(file) for file in coefficients]
    traces = [read_json(file) for file in searches]
    probes = [row for file in premise for row in read_table(file)]
    result = []
    for suite in suites:
        name = suite["id"]
        wanted, owner = suite.get("methods") or [method["id"] for method in methods], suite.get("owner", suite)["id"]
        result.append(
            Study(
                suite=suite,
                methods=[_present(method, suite.get("skipped_methods", {})) for method in methods if method["id"] in wanted],
                scores=[row for row in rows if row.suite == name],
                comparisons=[row for row in pairs if row["suite"] == name],
                coefficients=[table for table in tables if table["suite"] == owner],
                measures={_seed(file): read_json(file) for file in measures if Path(file).parent.name == owner},
                datasets=_records(suite, map(Path, datasets)),
                premise=[row for row in probes if row["suite"] == name],
                searches=[record for record in traces if record["suite"] == owner],
                data_checks={Path(f).stem: read_json(f) for f in data_checks if Path(f).parent.name == suite.get("data", name)},
            )
        )
    return result


def spelt_point(point: Mapping[str, Any]) -> str:
    """Return a point of a search as text: hyper-parameters without their stages, and the numbers of all experts."""

    def spelt(value: Any) -> str:
        if isinstance(value, Mapping):
            return f"({', '.join(f'{name} {spelt(each)}' for name, each in value.items())})"
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{path.rpartition('.')[2]} {spelt(value)}" for path, value in point.items())


def _score(row: dict[str, str], source: Path | str) -> Score:
    try:
        return Score(
            row["suite"], row["method"], row["task"], row["metric"], float(row["value"]), int(row["n"]), int(row["seed"]),
            float(row.get("stderr") or "nan"),
        )  # fmt: skip
    except (KeyError, ValueError) as error:
        raise UserError(f"{source}: row {row} does not read as a score ({error}); gather the scores again") from None


def _seed(file: Path | str) -> int:
    stem = Path(file).stem
    if not stem.removeprefix("seed").isdigit():
        raise UserError(f"{file}: expected a file named seed<number>.json, found {stem!r}")
    return int(stem.removeprefix("seed"))


Size = int | Mapping[str, int]  # training examples of an expert: a number, or one by fine-tuning seed


def size_of(size: Size, seed: int) -> int:
    """Return the number of training examples of an expert with a fine-tuning seed."""
    return size if isinstance(size, int) else size[str(seed)]


def training_sizes(suites: Iterable[Mapping[str, Any]], datasets: Iterable[Path | str]) -> dict[str, dict[str, Size]]:
    """Return training-set sizes by suite and task, from `train` of a task or the files `{data}/{task}/dataset.json`."""
    files = [Path(file) for file in datasets]
    return {suite["id"]: _sizes(suite["tasks"], _records(suite, files)) for suite in suites}


def _sizes(tasks: Iterable[Mapping[str, Any]], records: Mapping[str, Mapping[str, Any]]) -> dict[str, Size]:
    sizes = {task["id"]: task.get("train") or records.get(task["id"], {}).get("splits", {}).get("train") for task in tasks}
    return {task: size for task, size in sizes.items() if size}


def _records(suite: Mapping[str, Any], datasets: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Return the dataset.json of each task of a suite; the folder has the suite's id or its `data`."""
    folder = suite.get("data", suite["id"])
    return {file.parent.name: read_json(file) for file in datasets if file.parent.parent.name == folder}
