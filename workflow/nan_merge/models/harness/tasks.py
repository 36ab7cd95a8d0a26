"""Load the tasks of lm_eval that a benchmark names, on local data, and say what is wrong with the data."""

from __future__ import annotations

import functools
import logging
import os
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nan_merge.core.errors import UserError
from nan_merge.models.own_tasks import own_folder

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
SAID_OFTEN = {  # logger of lm_eval -> text of a warning about what own tasks intend, once a task or a batch
    "lm_eval.api.task": "Custom kwargs",
    "lm_eval.models.huggingface": "`max_length` in generation kwargs",
}


@dataclass(frozen=True)
class Benchmark:
    """An entry `harness:` of config/tasks.yaml: its id and keys, and the folder of its data.

    `option` is what named task or data on the command line, if it did; `more` are further folders of data, for own tasks that
    read several. Without `metric`, the first of RIGHT_OR_WRONG (`harness.run`) that a task has counts, by its first filter.
    """

    id: str
    data: Path
    harness: Mapping[str, Any]
    option: str = ""
    more: tuple[Path, ...] = ()

    @property
    def where(self) -> str:
        """The place that names it, for messages."""
        return self.option or f"config/tasks.yaml: {self.id}: harness"

    @property
    def way_out(self) -> str:
        """What to do about data of another form."""
        if self.option:
            return f"Give `--data {self.id}=FOLDER` a copy of the data set with those"
        return "Lock that revision of the asset, or correct `folder:` and `tasks:`"


def benchmarks_of(entries: Sequence[Mapping[str, Any]], data: Sequence[Path]) -> list[Benchmark]:
    """Return the benchmarks of entries `harness:`, each with `id` and, of several, its number of `folders`, and of their data.

    Raises UserError for another number of folders.
    """
    if len(data) != (expected := sum(entry.get("folders", 1) for entry in entries)):
        raise UserError(f"--data: {len(entries)} benchmarks have {expected} folders, found {len(data)}")
    folders, found = iter(data), []
    for entry in entries:
        first, *more = [next(folders) for _ in range(entry.get("folders", 1))]
        harness = {key: value for key, value in entry.items() if key not in ("id", "folders")}
        found.append(Benchmark(entry["id"], first, harness, more=(*more,)))
    return found


def library() -> Any:
    """Import lm_eval without a network and without its default folder of caches; UserError if it is not installed."""
    os.environ.update(OFFLINE)
    try:
        import lm_eval
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed, which benchmarks need: `make language` (the extra `language`),"
            " or run with `--sdm conda`"
        ) from None
    return lm_eval


def load_tasks(benchmark: Benchmark, scratch: Path) -> dict[str, Any]:
    """Return the harness tasks of a benchmark by name, with its local data; groups are expanded.

    `scratch` takes what datasets makes of the data. Raises UserError for tasks or data that are missing or do not fit each other.
    """
    shipped = shipped_tasks()
    for logger, text in SAID_OFTEN.items():
        logging.getLogger(logger).addFilter(functools.partial(_is_other, text))
    import datasets
    from lm_eval.tasks import TaskManager

    datasets.disable_progress_bars()
    datasets.config.HF_DATASETS_CACHE = scratch  # not that of another run: read from the environment only once
    name = benchmark.harness["folder"]
    folder = own_folder(name) or shipped / name
    if not folder.is_dir():
        raise UserError(f"{benchmark.where}: folder: there is no folder {folder}; expected one with the YAML files of tasks")
    places = {"folders": [str(place.resolve()) for place in (benchmark.data, *benchmark.more)]} if own_folder(name) else None
    manager = TaskManager(include_path=str(folder), include_defaults=False, metadata=places)
    wanted = benchmark.harness["tasks"]
    if unknown := [name for name in wanted if name not in manager.all_tasks]:
        known = ", ".join(manager.all_tasks[:8])
        raise UserError(f"{benchmark.where}: tasks: unknown '{unknown[0]}'; {folder} has {known}, ...")
    overrides = {"dataset_path": str(benchmark.data.resolve())}
    if "num_fewshot" in benchmark.harness:
        overrides["num_fewshot"] = benchmark.harness["num_fewshot"]
    with faults(benchmark):
        found = manager.load(_built(manager, wanted, overrides))["tasks"]
        for task in found.values():
            _try(task)
    return dict(sorted(found.items()))


def _is_other(text: str, record: logging.LogRecord) -> bool:
    return text not in record.getMessage()


def _built(manager: Any, names: list[str], overrides: Mapping[str, Any]) -> list[Any]:
    """Return tasks and groups, with keys that replace those of all their tasks; a tag is its tasks.

    By lm_eval's factory: `load` takes a mapping with such keys as a task of its own, or renames all tasks of a group to one name.
    """
    index = manager.task_index
    built = [manager._factory.build(index[name], overrides=dict(overrides), registry=index) for name in names]
    return [part for each in built for part in (each if isinstance(each, list) else [each])]


def _try(task: Any) -> None:
    """Look at every right answer and make the first prompt, before a model is loaded.

    Raises what lm_eval does, and ValueError for one that is none of the choices, where lm_eval counts any answer as wrong.
    """
    chosen = task.OUTPUT_TYPE == "multiple_choice" and not task.multiple_input and task.config.process_results is None
    for number, doc in enumerate(task.eval_docs if chosen else ()):
        choices, right = task.doc_to_choice(doc), task.doc_to_target(doc)
        for each in right if isinstance(right, list) else [right]:
            if each not in (choices if isinstance(each, str) else range(len(choices))):
                raise ValueError(f"the right answer to example {number} is {each!r}, none of the choices {', '.join(choices)}")
    task.fewshot_context(task.eval_docs[0], task.config.num_fewshot or 0)


def training_pairs(benchmark: Benchmark, scratch: Path) -> list[tuple[str, str]]:
    """Return the prompts and right answers of the training splits of a benchmark, without examples in the prompt.

    An answer is what is scored: a choice or a text, after the delimiter of the task, with the text that ends it. Raises UserError
    for a task without a training split.
    """
    found = []
    for name, task in load_tasks(benchmark, scratch).items():
        if not task.has_training_docs():
            raise UserError(f"{benchmark.where}: {name} has no training split; leave it out of `finetune: tasks:` of the suite")
        with faults(benchmark):
            found += [(task.doc_to_text(doc), _right_answer(task, doc)) for doc in task.training_docs()]
    return found


def _right_answer(task: Any, doc: Mapping[str, Any]) -> str:
    answer, end = task.doc_to_target(doc), ""
    if task.OUTPUT_TYPE == "multiple_choice":
        answer = task.doc_to_choice(doc)[answer]
    else:
        end = next(iter((task.config.generation_kwargs or {}).get("until", [])), "")
    return f"{task.config.target_delimiter}{answer}{end}"


def shipped_tasks() -> Path:
    """Return the folder of the tasks that come with lm_eval."""
    return Path(library().__file__).parent / "tasks"


def shipped_task(name: str) -> tuple[Path, str] | None:
    """Return the folder below `shipped_tasks` of a task or group of lm_eval, and the data set that its file names, if it does.

    None for an unknown name.
    """
    line = re.compile(rf"""^["']?(?:task|group)["']?: *["']?{re.escape(name)}["']? *$""", re.MULTILINE)
    root = shipped_tasks()
    for file in sorted(root.rglob("*.yaml")):
        if line.search(text := file.read_text("utf-8")):
            stated = re.search(r"^dataset_path: *(\S+/\S+)", text, re.MULTILINE)
            return file.parent.relative_to(root), stated[1] if stated else ""
    return None


@contextmanager
def faults(benchmark: Benchmark, model: Any = None) -> Iterator[None]:
    """Turn what lm_eval and datasets raise into a UserError that names the model if its code raised it, else the data."""
    from datasets.exceptions import DatasetsError
    from jinja2.exceptions import TemplateError

    try:
        yield
    except (DatasetsError, TemplateError, LookupError, ValueError, FileNotFoundError, TypeError, AssertionError) as error:
        first = error.__cause__ or error
        cause = f"{type(first).__name__}: {' '.join(str(first).split())[:300]}"
        frames = [frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)]
        if model is not None and any(seen.get("self") is model for seen in frames):
            raise UserError(
                f"{model.origin}: the model failed on the prompts of {benchmark.id} ({cause});"
                " check its tokenizer, chat template and length of context, or leave this task out of the suite"
            ) from None
        raise UserError(_other_data(benchmark, cause, frames)) from None


def _other_data(benchmark: Benchmark, cause: str, frames: list[dict[str, Any]]) -> str:
    """Say that data are of another form than a task reads: the one that one of the `frames` has, or any of the benchmark."""
    from lm_eval.api.task import Task

    task = next((seen[key] for seen in frames for key in ("task", "self") if isinstance(seen.get(key), Task)), None)
    part = None if task is None else task.config.dataset_name
    place = benchmark.data if part is None else benchmark.data / part
    where = place if place.is_dir() else f"{benchmark.data}, configuration {part}"
    names = ", ".join(benchmark.harness["tasks"]) if task is None else str(task.config.task)
    columns, files = getattr(task, "features", []), sorted(path.name for path in place.glob("*.parquet"))
    found = f"; found the columns {', '.join(columns)}" if columns else f"; found the files {', '.join(files)}" if files else ""
    return (
        f"{benchmark.where}: {where}: the data are not of the form that lm_eval's {names} reads ({cause}){found}; expected the"
        f" files and columns of the revision that it was written for. {benchmark.way_out}"
    )
