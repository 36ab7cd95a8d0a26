"""Count examples of data sets, bytes of assets and checkpoints, and bytes of the outputs of jobs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiment import subsets
from nan_merge.catalogue.files import check_schema, read_yaml
from nan_merge.core.files import read_json
from planning.jobs import PlannedJob

if TYPE_CHECKING:
    from experiment.experiment import Experiment

SAMPLE = 1500  # bytes of a question with output and answer, compressed, in the cache and beside the scores
LABEL = 8  # bytes of a label; a prediction is stored beside one
TOKEN = 2  # bytes of a token


class Sizes:
    """The sizes of one experiment: of local files, else by config and lock, else by config/costs.yaml."""

    def __init__(self, experiment: Experiment, root: Path) -> None:
        """Read and check config/costs.yaml below `root`."""
        self.experiment, file = experiment, "config/costs.yaml"
        self.table: dict[str, Any] = read_yaml(root / file)
        check_schema(self.table, root / "workflow/schemas/costs.schema.yaml", file)
        self._records: dict[Path, Mapping[str, Any]] = {}

    def model(self, suite: str) -> dict[str, Any]:
        """Return the entry of `models` of a suite; one `of` another size in proportion to that of the suite's checkpoints.

        ASSUME: a forward pass costs in proportion to the weights, which grow with the third power of the width.
        """
        entry = self._entry(suite)
        factor = (self.checkpoint(suite) or entry["of"]) / entry["of"] if "of" in entry else 1.0
        return entry | {"width": entry["width"] * factor ** (1 / 3), **{key: entry[key] * factor for key in ("cpu", "gpu")}}

    def _entry(self, suite: str) -> dict[str, Any]:
        """Return the entry of `models` of a suite: by the asset of its base, by its family, or `any`."""
        record = self.experiment.suites.get(suite, {})
        models = self.table["models"]
        return dict(next(models[name] for name in (record.get("base"), record.get("family"), "any") if name in models))

    def pictures(self, suite: str) -> dict[str, float]:
        """Return what a prompt with a picture costs by the pipeline of a suite, {} where it costs one pass."""
        pipeline = self.experiment.suites.get(suite, {}).get("vlm", {}).get("pipeline", "")
        return dict(self.table["pictures"].get(pipeline, {}))

    def experts(self, suite: str, method: str = "") -> int:
        """Return how many experts are merged: of a suite, or of a nested merge."""
        return len(self.experiment.merged_experts(suite, method))

    def asset(self, asset: str) -> int | None:
        """Return the bytes that are fetched: by the lock, else about: by `bytes`, or those of kind `path`."""
        pinned, spec = self.experiment.lock.get(asset, {}), self.experiment.assets[asset]
        if "files" in pinned:
            return sum(file["size"] for file in pinned["files"].values())
        if "size" in pinned and spec["kind"] != "hub":
            return int(pinned["size"])
        return (held(Path(spec["path"]).expanduser()) if "path" in spec else 0) or spec.get("bytes")

    def checkpoint(self, suite: str) -> int | None:
        """Return the bytes of one checkpoint: size of the local base, else the table's, else that of its asset."""
        if suite in self.experiment.models:
            places = (Path(self.experiment.models[suite]["base"]), Path(f"results/models/{suite}/base"))
            return next(filter(None, map(_weights, places)), None)
        there = held(Path(f"results/checkpoints/{self.experiment.checkpoints(suite)}/pretrained"))
        return there or self._entry(suite).get("bytes") or self.asset(self.experiment.suites[suite]["base"])

    def gigabytes(self, suite: str, models: int = 1) -> float:
        """Return the gigabytes of so many checkpoints."""
        return models * (self.checkpoint(suite) or 0) / 1e9

    def examples(self, suite: str, task: str, split: str) -> int:
        """Return the examples of a split: of the prepared data, else the most that the task's record allows."""
        record = Path(f"results/datasets/{self.experiment.data(suite)}/{task}/dataset.json")
        if record not in self._records:
            self._records[record] = read_json(record)["splits"] if record.exists() else self._expected(suite, task)
        return int(self._records[record].get(split, 0))

    def _expected(self, suite: str, task: str) -> dict[str, int]:
        record = self.experiment.tasks[task]
        if "harness" in record:
            return {"test": record["harness"]["examples"]}
        most = self.experiment.splits(suite, task)
        origin, counts = (record.get("arguments", {}).get(key, {}) for key in ("origin", "counts"))
        sizes = {split: min(size, counts.get(origin.get(split, split), size)) for split, size in most.items()}
        if "alignment" in sizes:
            sizes["alignment"] *= len(record.get("classes", [""]))
        return sizes

    def dataset(self, suite: str, task: str) -> int:
        """Return the examples of all splits of a task."""
        return sum(self.examples(suite, task, split) for split in self.experiment.splits(suite, task))

    def output(self, job: PlannedJob) -> int | None:
        """Return the bytes that a job writes below results/ and that stay, or None if unknown."""
        found = OUTPUTS[job.rule](self, job) if job.rule in OUTPUTS else 0
        return None if found is None else found + int(self.table["small"])


def held(place: Path | str) -> int:
    """Return the bytes of a file, or of all files in a folder; 0 if it is not there."""
    if os.path.isfile(place):
        return os.path.getsize(place)
    return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(place) for name in names)


def _weights(folder: Path) -> int:
    """Return the bytes of the weights of a model in a folder of its own making."""
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    return sum(file.stat().st_size for file in files)


def _asset(sizes: Sizes, job: PlannedJob) -> int | None:
    asset = job.wildcards["asset"]
    spec, fetched = sizes.experiment.assets[asset], sizes.asset(asset)
    kept = 1.0 if spec["kind"] == "hub" or not spec.get("unpack", True) else sizes.table["unpacked"]
    return None if fetched is None else int(kept * fetched)


def _dataset(sizes: Sizes, job: PlannedJob) -> int:
    suite = job.suite(sizes.experiment)
    form = sizes.experiment.suites[suite]["input"]
    row = 3 * form["side"] ** 2 if "side" in form else TOKEN * form.get("length", 0)
    return sizes.dataset(suite, job.wildcards["task"]) * (row + LABEL)


def _checkpoint(sizes: Sizes, job: PlannedJob) -> int | None:
    return sizes.checkpoint(job.suite(sizes.experiment))


def _prepared(sizes: Sizes, job: PlannedJob) -> int | None:
    return 0 if sizes.model(job.suite(sizes.experiment)).get("linked") else _checkpoint(sizes, job)


def _calibration(sizes: Sizes, job: PlannedJob) -> int:
    kind = sizes.experiment.calibration[job.wildcards["calibration"]]["kind"]
    one = sizes.table["calibration"][kind]["bytes"] * (_checkpoint(sizes, job) or 0)
    return int(one * collected_experts(sizes, job))


def collected_experts(sizes: Sizes, job: PlannedJob) -> int:
    """Return the number of experts whose calibration statistics a job collects."""
    return sizes.experts(job.wildcards["suite"]) if job.rule == "collect_jointly" else 1


def _scores(sizes: Sizes, job: PlannedJob) -> int:
    return 2 * LABEL * scored(sizes, job)


def _subset(sizes: Sizes, job: PlannedJob) -> int:
    chosen, methods = of_subset(sizes, job)
    return LABEL * (len(methods) + 1) * scored(sizes, job, chosen)


def of_subset(sizes: Sizes, job: PlannedJob) -> tuple[list[str], list[str]]:
    """Return the experts of the subset of a job, which are named as their tasks, and the methods that merge them."""
    suite = job.wildcards["suite"]
    chosen = subsets.subsets(sizes.experiment, suite)[job.wildcards["subset"]]
    return chosen, subsets.merging(sizes.experiment, suite, len(chosen))


def scored(sizes: Sizes, job: PlannedJob, tasks: Sequence[str] | None = None) -> int:
    """Return how many examples an evaluation scores, of these tasks or of its group."""
    suite, split = job.wildcards["suite"], "validation" if job.rule == "evaluate_candidate" else "test"
    chosen = sizes.experiment.groups(suite)[job.wildcards["group"]] if tasks is None else tasks
    return sum(sizes.examples(suite, task, split) for task in chosen)


CHECKPOINTS = (
    "prepare_checkpoint", "prepare_expert", "align_checkpoint", "finetune_checkpoint", "finetune_language",
    "finetune_premise", "finetune_joint",
    "merge_checkpoints", "merge_candidate", "merge_for_task", "convert_checkpoint",
)  # fmt: skip
OUTPUTS: dict[str, Callable[[Sizes, PlannedJob], int | None]] = {
    **dict.fromkeys(CHECKPOINTS, _checkpoint),
    **dict.fromkeys(("prepare_checkpoint", "prepare_expert"), _prepared),
    "fetch_asset": _asset,
    "fetch_model": lambda sizes, job: None,
    "prepare_dataset": _dataset,
    **dict.fromkeys(("collect_calibration", "collect_jointly"), _calibration),
    **dict.fromkeys(("evaluate_checkpoint", "evaluate_candidate"), _scores),
    "score_subset": _subset,
    "evaluate_benchmark": lambda sizes, job: scored(sizes, job) * (2 * LABEL + 2 * SAMPLE),
}
