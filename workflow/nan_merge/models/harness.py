"""Run benchmarks of lm_eval on a language model, with pictures or without, one harness task at a time; its only importer.

The answers to a task are kept in a file of their own, under a key of all that they depend on, so that a run that was ended goes
on after its last task, and equal models are run once.
"""

from __future__ import annotations

import functools
import gzip
import math
import os
import random
import re
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest, xxh3_128_hexdigest

from nan_merge.core.atomic import atomic_write
from nan_merge.core.errors import UserError
from nan_merge.core.files import canonical
from nan_merge.core.text import parse_json, read_mapping
from nan_merge.layouts.adapters import is_adapter
from nan_merge.models.own_tasks import own_folder

RIGHT_OR_WRONG = ("acc", "acc_norm", "exact_match")  # metrics that are 0 or 1 an example
NOTHING = ("", "[invalid]")  # what the filters of lm_eval return where they find no answer
PROCESSORS = ("processor_config.json", "preprocessor_config.json")  # of a model that takes pictures
KEPT = ("group", "step")  # columns `_group`, `_step` that own tasks add to documents; those of a group are no independent sample
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
Sample = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Benchmark:
    """An entry `harness:` of config/tasks.yaml: its id and keys, and the folder of its data.

    `option` is what named task or data on the command line, if it did; `more` are further folders of data, for own tasks that
    read several. Without `metric`, the first of RIGHT_OR_WRONG that a task has counts, by its first filter.
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


class Answers(NamedTuple):
    """The answers to a benchmark, (N,) int64 each: hashes of right and given answers, and the group of every example.

    Groups are harness tasks, or those of the documents of one task. `cut` counts outputs that reached the limit of tokens, None
    where none are generated.
    """

    label: NDArray
    prediction: NDArray
    cluster: NDArray
    unanswered: int
    cut: int | None = None
    part: NDArray | None = None  # the harness task of every example; without it, the group

    @property
    def right(self) -> NDArray:
        """Whether each answer is right, (N,) bool."""
        return self.prediction == self.label

    def scores(self) -> list[dict[str, Any]]:
        """Return metric, value and standard error: accuracy over examples and tasks, shares without an answer and cut off."""
        right = self.right.astype(float)
        part = self.cluster if self.part is None else self.part
        sizes = np.bincount(part)
        means = np.bincount(part, right) / sizes
        shares = {"unanswered": self.unanswered, **({} if self.cut is None else {"cut_off": self.cut})}
        within = float(np.sqrt(np.sum(means * (1 - means) / sizes)) / len(sizes))
        return [
            {"metric": "accuracy", "value": float(right.mean()), "stderr": clustered_error(right, self.cluster)},
            {"metric": "macro_accuracy", "value": float(means.mean()), "stderr": within},
            *(
                {"metric": name, "value": share, "stderr": math.sqrt(share * (1 - share) / len(right))}
                for name, share in ((name, count / len(right)) for name, count in shares.items())
            ),
        ]


def clustered_error(values: NDArray, cluster: NDArray) -> float:
    """Return the standard error of a mean of values (N,) that come in clusters (N,), numbered from 0.

    Residuals are summed within each of the G clusters, with the factor G / (G - 1) (Cameron and Miller 2015, eq. 11 for a mean);
    with one cluster, or one for each example, it is the binomial error of independent examples.
    """
    mean, count = values.mean(), int(cluster.max()) + 1
    if count in (1, len(values)):
        return float(np.sqrt(mean * (1 - mean) / len(values)))
    sums = np.bincount(cluster, values - mean)
    return float(np.sqrt(count / (count - 1) * np.sum(sums**2)) / len(values))


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
    places = {"folders": [str(place.resolve()) for place in (benchmark.data, *benchmark.more)]} if own_folder(name) else None
    manager = TaskManager(include_path=str(folder), include_defaults=False, metadata=places)
    wanted = benchmark.harness["tasks"]
    if unknown := [name for name in wanted if name not in manager.all_tasks]:
        known = ", ".join(manager.all_tasks[:8])
        raise UserError(f"{benchmark.where}: tasks: unknown '{unknown[0]}'; {folder} has {known}, ...")
    overrides = {"dataset_path": str(benchmark.data.resolve())}
    if "num_fewshot" in benchmark.harness:
        overrides["num_fewshot"] = benchmark.harness["num_fewshot"]
    children = [{("group" if name in manager.all_groups else "task"): name, **overrides} for name in wanted]
    with _faults(benchmark):
        found = manager.load([{"group": benchmark.id, "task": children}])["tasks"]
    return dict(sorted(found.items()))


def shipped_tasks() -> Path:
    """Return the folder of the tasks that come with lm_eval."""
    return Path(_library().__file__).parent / "tasks"


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


def load_model(folder: Path, device: str, dtype: str, settings: Mapping[str, Any], pictures: bool = False) -> Any:
    """Load a language model with its tokenizer, or with its processor if `pictures`; `settings` are `harness:` of the suite.

    Raises UserError for an adapter, a model that takes no pictures if they are asked for, for GPUs that are missing, and if the
    chat template that is asked for is missing or the tensors do not fit config.json.
    """
    if is_adapter(folder):
        raise UserError(
            f"{folder}: is a LoRA adapter; expected a whole model. Fold it into its base first: nan-merge merge --base BASE"
            f" --expert {folder} --method weight_averaging --output FOLDER"
        )
    _library()
    if pictures:
        _check_takes_pictures(folder)
    make = (_vllm if settings.get("backend") == "vllm" else functools.partial(_transformers, device))(settings, pictures)
    if (wanted := settings.get("parallelize", 0)) > (found := torch.cuda.device_count()):
        raise UserError(
            f"scoring: parallelize: {wanted} GPUs are to hold the layers of {folder}, and this job sees {found}; ask for as many"
            " (resource `gpu` of rule evaluate_benchmark), or take another number"
        )

    torch.set_num_threads(1)
    try:
        model = make(pretrained=str(folder), dtype=dtype, add_bos_token=settings.get("bos"), trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, AssertionError) as error:
        first = str(error).strip().splitlines()[:1]
        raise UserError(f"{folder}: transformers cannot load this language model: {''.join(first)}; prepare it again") from None
    model.origin = folder
    if settings.get("chat_template") and not (model.processor if pictures else model.tokenizer).chat_template:
        part, place = ("processor", "processor_config.json") if pictures else ("tokenizer", "tokenizer_config.json")
        raise UserError(
            f"{folder}: its {part} has no chat template, which `harness: chat_template: true` of the suite asks for; expected"
            f" it in {place} or chat_template.jinja. Add it to the base, or write `chat_template: false`"
        )
    if pictures and (token := getattr(model, "image_token", "")) != getattr(model.processor, "image_token", token):
        raise UserError(
            f"{folder}: the token of pictures, number {model.image_token_id} of config.json, is {token!r} in the tokenizer, and"
            f" the processor writes {model.processor.image_token!r}; expected the same. Take all three of one model"
        )
    return model


def _check_takes_pictures(folder: Path) -> None:
    """Raise a UserError for a model without the config of a vision tower, or without a processor."""
    if "vision_config" not in read_mapping(folder / "config.json"):
        raise UserError(
            f"{folder}: config.json has no `vision_config`, so transformers finds no model there that takes pictures. A LLaVA in"
            " its original names is converted by `nan-merge convert`; a language model takes tasks without pictures only"
        )
    if not any((folder / name).is_file() for name in PROCESSORS):
        raise UserError(
            f"{folder}: no processor, which prepares the pictures; expected {' or '.join(PROCESSORS)}. Copy them, and"
            " chat_template.jinja, from the model that it was made from"
        )


def _transformers(device: str, settings: Mapping[str, Any], pictures: bool) -> Callable[..., Any]:
    if pictures:
        from lm_eval.models.hf_vlms import HFMultimodalLM

        made = functools.partial(HFMultimodalLM, convert_img_format=True)
    else:
        from lm_eval.models.huggingface import HFLM

        made = functools.partial(HFLM, backend="causal")
    return functools.partial(made, device=device, parallelize="parallelize" in settings)


def _vllm(settings: Mapping[str, Any], pictures: bool) -> Callable[..., Any]:
    """Return the maker of a model that vLLM runs, its heads spread over GPUs."""
    if not find_spec("vllm"):
        raise UserError(
            "scoring: backend: vLLM is not installed here, which `backend: vllm` needs; run with `--sdm conda`, which makes the"
            " environment envs/vllm.yaml, or write `backend: hf`"
        )
    if pictures:
        from lm_eval.models.vllm_vlms import VLLM_VLM as VLLM
    else:
        from lm_eval.models.vllm_causallms import VLLM

    return functools.partial(VLLM, tensor_parallel_size=settings.get("parallelize", 1), seed=0)


def run_task(model: Any, task: Any, benchmark: Benchmark, settings: Mapping[str, Any], batch_size: int) -> list[Sample]:
    """Return one record an example of a harness task, in the order of the data; greedy, with fixed draws of examples.

    Raises UserError for data without the columns that the task reads, for an unknown metric or filter, and if the model fails.
    """
    import lm_eval

    setattr(model, "batch_size_per_gpu" if hasattr(model, "batch_size_per_gpu") else "batch_size", batch_size)
    manager = lm_eval.tasks.TaskManager(include_defaults=False)
    with _faults(benchmark, model), _quiet_random():
        found = lm_eval.simple_evaluate(
            model, tasks=[task], task_manager=manager, bootstrap_iters=0, log_samples=True,
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


def answers(samples: Mapping[str, Sequence[Sample]]) -> Answers:
    """Return the answers to all harness tasks of a benchmark: of a right one the label, of a wrong one another hash."""
    rows = [(part, sample) for part, name in enumerate(samples) for sample in samples[name]]
    groups = [part if len(samples) > 1 else sample.get("group", part) for part, sample in rows]
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    label = [_hash("right", sample["doc_hash"], sample["target"]) for _, sample in rows]
    prediction = [
        right if sample["right"] else _hash("wrong", sample["answer"]) for right, (_, sample) in zip(label, rows, strict=True)
    ]
    lacking = sum(not sample["found"] for _, sample in rows)
    columns = (label, prediction, [numbers[group] for group in groups], [part for part, _ in rows])
    right, given, cluster, parts = (np.array(column, np.int64) for column in columns)
    cut = sum(sample["cut"] for _, sample in rows) if all("cut" in sample for _, sample in rows) else None
    return Answers(right, given, cluster, lacking, cut, parts)


def _hash(*parts: str) -> int:
    return xxh3_64_intdigest("\0".join(parts).encode()) >> 1


def halved_until_it_fits(attempt: Callable[[int], T], batch_size: int, say: Callable[[str], object]) -> tuple[T, int]:
    """Call `attempt` with a batch size that is halved as long as memory runs out; return its result and the batch size.

    Raises UserError if one example at a time does not fit.
    """
    while True:
        try:
            return attempt(batch_size), batch_size
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if batch_size == 1:
            raise UserError(
                "out of memory with one example at a time: the model does not fit this device; take `scoring: precision:"
                " bfloat16`, a device with more memory, or `scoring: device: cpu`"
            )
        batch_size //= 2
        say(f"out of memory: going on with batches of {batch_size}")


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def kept(cache: Path, identity: Mapping[str, Any], make: Callable[[], tuple[list[Sample], int]]) -> tuple[list[Sample], int]:
    """Return samples and batch size from the file of an identity below `cache`; make and write it, whole, if it is not there."""
    key = xxh3_128_hexdigest(canonical(identity).encode())
    file = cache / key[:2] / f"{key}.json.gz"
    if not file.is_file():
        samples, batch_size = make()
        record = {"identity": identity, "batch_size": batch_size, "samples": samples}
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as part:
            part.write_bytes(gzip.compress(canonical(record).encode(), mtime=0))
    try:
        record = parse_json(gzip.decompress(file.read_bytes()), file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{file}: damaged answers ({error}); delete the file and run again") from None
    return record["samples"], int(record["batch_size"])


def _library() -> Any:
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


@contextmanager
def _faults(benchmark: Benchmark, model: Any = None) -> Iterator[None]:
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


@contextmanager
def _quiet_random() -> Iterator[None]:
    """Keep the states of the random numbers of Python and NumPy, which lm_eval sets."""
    states = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
