"""Run one task of lm_eval on a model and keep of every example what tables, tests and people need."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from nan_merge.core.errors import UserError
from nan_merge.models.harness.answers import Sample
from nan_merge.models.harness.tasks import Benchmark, faults

RIGHT_OR_WRONG = ("acc", "acc_norm", "exact_match")  # metrics that are 0 or 1 an example
NOTHING = ("", "[invalid]")  # what the filters of lm_eval return where they find no answer
KEPT = ("group", "step")  # columns `_group`, `_step` that own tasks add to documents; those of a group are no independent sample


def run_task(model: Any, task: Any, benchmark: Benchmark, settings: Mapping[str, Any], batch_size: int) -> list[Sample]:
    """Return one record an example of a harness task, in the order of the data; greedy, with fixed draws of examples.

    Raises UserError for data without the columns that the task reads, for an unknown metric or filter, and if the model fails.
    """
    import lm_eval

    setattr(model, "batch_size_per_gpu" if hasattr(model, "batch_size_per_gpu") else "batch_size", batch_size)
    if task.get_config("num_fewshot") is None:
        task.set_config("num_fewshot", 0)
    with faults(benchmark, model), _seeded(task):  # as simple_evaluate does, which also lists all packages, 2 s a task
        found = lm_eval.evaluate(
            model, {"tasks": {task.task_name: task}}, bootstrap_iters=0, log_samples=True,
            apply_chat_template=bool(settings.get("chat_template")), limit=settings.get("limit"),
        )  # fmt: skip
    samples = [sample for each in found["samples"].values() for sample in each]
    filters = sorted({sample["filter"] for sample in samples})
    wanted = benchmark.harness.get("filter", "none" if "metric" in benchmark.harness else samples[0]["filter"])
    kept = [sample for sample in samples if sample["filter"] == wanted]
    if not kept:
        raise UserError(f"{benchmark.where}: filter: unknown '{wanted}'; task {task.task_name} has {', '.join(filters)}")
    metric = benchmark.harness.get("metric") or next((name for name in kept[0]["metrics"] if name in RIGHT_OR_WRONG), None)
    if metric is None or metric not in kept[0]:
        expected = metric or " or ".join(RIGHT_OR_WRONG)
        raise UserError(
            f"{benchmark.where}: metric: task {task.task_name} has no '{expected}'; it has {', '.join(kept[0]['metrics'])}"
        )
    return [_record(model, task, sample, metric) for sample in sorted(kept, key=lambda sample: sample["doc_id"])]


def _record(model: Any, task: Any, sample: Mapping[str, Any], metric: str) -> Sample:
    """Return what is kept of a sample: question and answers by their hashes and texts, and whether the answer is right.

    An output was cut off if its text has as many tokens as may be generated.
    """
    given = sample["filtered_resps"]
    more: dict[str, Any] = {key: str(sample["doc"][f"_{key}"]) for key in KEPT if f"_{key}" in sample["doc"]}
    if task.OUTPUT_TYPE == "multiple_choice":
        scores = [float(each[0] if isinstance(each, tuple | list) else each) for each in given]
        answer = str(int(np.argmax(scores)))
        text: Any = scores
    else:
        answer = str(given[0] if isinstance(given, list) else given)
        text = str(sample["resps"][0][0])
        limit = sample["arguments"][0][1].get("max_gen_toks") or model.max_gen_toks
        more["cut"] = int(len(model.tokenizer.encode(text, add_special_tokens=False)) >= limit)
    return {
        "task": task.task_name,
        "doc_id": int(sample["doc_id"]),
        **{key: sample[key] for key in ("doc_hash", "prompt_hash", "target_hash")},
        "target": str(sample["target"]),
        "answer": answer,
        "found": answer not in NOTHING,
        "right": int(sample[metric]),
        "output": text,
        **more,
    }


@contextmanager
def _seeded(task: Any) -> Iterator[None]:
    """Seed all random numbers as lm_eval does by default, and put back the states of Python's and NumPy's."""
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

    states = random.getstate(), np.random.get_state()
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    torch.manual_seed(DEFAULT_OTHER_SEED)
    task.set_fewshot_seed(DEFAULT_OTHER_SEED)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
