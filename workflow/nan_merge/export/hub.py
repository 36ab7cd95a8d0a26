"""Scores of a merge for the model hub: `model-index` in the front matter of its model card, and `.eval_results/*.yaml`.

Both are read by huggingface_hub. Scores are fractions, as everywhere here. Neither has a place for a standard error or an
interval, so the name of a metric and the notes of an entry state it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast

from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml

from nan_merge.core.atomic import atomic_write
from nan_merge.core.escape import code, markdown, yaml_text
from nan_merge.export.scored_models import ScoredModel, ScoredTask
from nan_merge.reporting.formats import percent
from nan_merge.reporting.study import METRIC_NAMES
from nan_merge.standalone.model_card import CARD, WITHOUT_SCORES, markdown_table

PIPELINES = {  # of the hub, by model family
    "text_encoder": "text-classification",
    "sequence_classification": "text-classification",
    "image_encoder": "image-classification",
    "clip": "zero-shot-image-classification",
    "open_clip": "zero-shot-image-classification",
    "causal_lm": "text-generation",
    "vlm": "image-text-to-text",
}
METRICS = {"matthews": "matthews_correlation"}  # names of the hub's metrics that are not ours
ELSEWHERE = "unknown"  # the data set of a result, where it is none of the hub
BEFORE = "\n## Models\n"  # the place of the scores in a card
WHOLE = ("causal_lm", "vlm")  # families whose models answer without a head
ABOUT = "Scores on test splits, by NAN-Merge; intervals of 95 % cover the choice of test examples, not another fine-tuning."
HEADS = "The model is an encoder: each task was scored with a classification head of its own, which is no part of this folder."


def write(model: ScoredModel, card: str, output: Path, name: str | None = None) -> list[str]:
    """Write README.md and `.eval_results` into a new folder; return the labels of the tasks without a data set of the hub.

    `name` is that of the model in its `model-index`, by default the id of its method.
    """
    files = {f".eval_results/{file}.yaml": yaml_text(entries) for file, entries in eval_results(model).items()}
    files[CARD] = with_scores(card, model, name)
    with atomic_write(output) as part:
        for file, text in files.items():
            (part / file).parent.mkdir(parents=True, exist_ok=True)
            (part / file).write_text(text, encoding="utf-8")
    return [task.record["label"] for task in model.tasks if not task.record["data"]]


def with_scores(card: str, model: ScoredModel, name: str | None = None) -> str:
    """Return a model card with `model-index` in its front matter and a table of the scores."""
    found = ModelCard(card)
    data = cast(ModelCardData, found.data)
    data.model_name, data.eval_results = name or model.method["id"], [_result(model, task) for task in model.tasks]
    text = found.text.replace(WITHOUT_SCORES, "Its scores stand in the section Evaluation.", 1)
    found.text = text.replace(BEFORE, f"\n## Evaluation\n\n{_evaluation(model)}\n{BEFORE}", 1)
    return str(found)


def eval_results(model: ScoredModel) -> dict[str, list[dict[str, object]]]:
    """Return the entries of `.eval_results` by file, one a data set of the hub; other tasks have none.

    ASSUME: the id of a task is the configuration of the data set, lm_eval's name of a benchmark, or `default`; the data set's
    owner decides in its eval.yaml, which no run reads.
    """
    entries: dict[str, list[EvalResultEntry]] = {}
    for task in model.tasks:
        if data := task.record["data"]:
            name = data.get("config") or next(iter(task.record["harness"]), "default")
            entry = EvalResultEntry(data["repo"], name, task.score.value, data.get("commit"), notes=_notes(model, task))
            entries.setdefault(data["repo"].replace("/", "--"), []).append(entry)
    return {file: eval_result_entries_to_yaml(found) for file, found in entries.items()}


def _result(model: ScoredModel, task: ScoredTask) -> EvalResult:
    data = task.record["data"]
    return EvalResult(
        task_type=PIPELINES[model.suite["family"]],
        task_name=task.record["label"],
        dataset_type=data.get("repo", ELSEWHERE),
        dataset_name=task.record["label"] if data else f"{task.record['label']} ({task.record['source']})",
        dataset_config=data.get("config") if data else task.record["id"],  # keeps results without a data set of the hub apart
        dataset_split=data.get("split"),
        dataset_revision=data.get("commit"),
        metric_type=METRICS.get(task.score.metric, task.score.metric),
        metric_value=task.score.value,
        metric_name=f"{_metric(task)} ({_spread(task)})",
    )


def _metric(task: ScoredTask) -> str:
    return METRIC_NAMES.get(task.score.metric, task.score.metric)


def _spread(task: ScoredTask) -> str:
    error = "" if math.isnan(task.score.error) else f"standard error {task.score.error:.4f}, "
    return f"{error}95 % interval {task.estimate.low:.4f} to {task.estimate.high:.4f}, {task.score.n} test examples"


def _notes(model: ScoredModel, task: ScoredTask) -> str:
    checkpoint = ", ".join(model.digests)
    return f"{_metric(task)} as a fraction; {_spread(task)}; seed {model.seed}; scored by NAN-Merge; XXH3-128 {checkpoint}"


def _evaluation(model: ScoredModel) -> str:
    """Return the section of a card that has the scores."""
    heads = ["task", "metric", "score in %", "95 % interval", "examples", "data"]
    notes = [HEADS] if model.suite["family"] not in WHOLE else []
    seed = f"Seed {model.seed}; XXH3-128 of the scored folder: {', '.join(map(code, model.digests))}."
    return "\n\n".join([ABOUT, *notes, markdown_table(heads, map(_row, model.tasks), numeric=[2, 4]), seed])


def _row(task: ScoredTask) -> list[str]:
    repo, low, high = task.record["data"].get("repo"), percent(task.estimate.low), percent(task.estimate.high)
    data = f"[{markdown(repo)}](https://huggingface.co/datasets/{repo})" if repo else markdown(task.record["source"])
    score, interval = percent(task.score.value), f"{low} to {high}"
    return [markdown(task.record["label"]), _metric(task), score, interval, f"{task.score.n:,}", data]
