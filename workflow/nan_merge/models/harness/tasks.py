"""Load the tasks of lm_eval that a benchmark names, on local data, and say what is wrong with the data."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nan_merge.core.errors import UserError
from nan_merge.models.own_tasks import own_folder

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Benchmark:
    """An entry `harness:` of config/tasks.yaml: its id and keys, and the folder of its data.

    `option` is what named task or data on the command line, if it did. Without `metric`, the first of RIGHT_OR_WRONG
    (`harness.run`) that a task has counts, by its first filter.
    """

    id: str
    data: Path
    harness: Mapping[str, Any]
    option: str = ""

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


def load_tasks(benchmark: Benchmark) -> dict[str, Any]:
    """Return the harness tasks of a benchmark by name, with its local data; groups are expanded.

    Raises UserError for tasks or data that do not exist or do not fit each other.
    """
    shipped = shipped_tasks()
    import datasets
    from lm_eval.tasks import TaskManager

    datasets.disable_progress_bars()
    name = benchmark.harness["folder"]
    folder = own_folder(name) or shipped / name
    if not folder.is_dir():
        raise UserError(f"{benchmark.where}: folder: there is no folder {folder}; expected one with the YAML files of tasks")
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    wanted = benchmark.harness["tasks"]
    if unknown := [name for name in wanted if name not in manager.all_tasks]:
        known = ", ".join(manager.all_tasks[:8])
        raise UserError(f"{benchmark.where}: tasks: unknown '{unknown[0]}'; {folder} has {known}, ...")
    overrides = {"dataset_path": str(benchmark.data.resolve())}
    if "num_fewshot" in benchmark.harness:
        overrides["num_fewshot"] = benchmark.harness["num_fewshot"]
    children = [{("group" if name in manager.all_groups else "task"): name, **overrides} for name in wanted]
    with faults(benchmark):
        found = manager.load([{"group": benchmark.id, "task": children}])["tasks"]
    return dict(sorted(found.items()))


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
    except (DatasetsError, TemplateError, KeyError, ValueError, FileNotFoundError, TypeError, AssertionError) as error:
        text = " ".join(str(error).split())[:300]
        if model is not None and any(frame.f_locals.get("self") is model for frame, _ in traceback.walk_tb(error.__traceback__)):
            raise UserError(
                f"{model.origin}: the model failed on the prompts of {benchmark.id} ({type(error).__name__}: {text});"
                " check its tokenizer, chat template and length of context, or leave this task out of the suite"
            ) from None
        raise UserError(
            f"{benchmark.where}: {benchmark.data}: the data are not of the form that lm_eval's tasks"
            f" {', '.join(benchmark.harness['tasks'])} read ({type(error).__name__}: {text}); expected the files and columns of"
            f" the revision that these tasks were written for. {benchmark.way_out}"
        ) from None
