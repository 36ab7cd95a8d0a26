"""A benchmark as OpenCompass wants it: data, config and summary. It is a check on lm_eval, in an environment of its own.

Written from the documentation and code of OpenCompass 0.5 (docs/en/user_guides, examples/eval_base_demo.py, opencompass/datasets,
DefaultSummarizer), and never run here. Prompts are those of its own tables of base models, without a chat template.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from nan_merge.core.errors import UserError

MODEL = "model"  # abbreviation of the model in config and summary
Rows = list[dict[str, Any]]


class Counterpart(NamedTuple):
    """A benchmark in OpenCompass: the module of its config, the folder and splits of its data; the last split is scored."""

    module: str
    folder: str
    splits: tuple[str, ...]

    @property
    def name(self) -> str:
        """What it is called in variables of the config and in the summary."""
        return self.module.partition(".")[0]


COUNTERPARTS = {  # by the task of lm_eval
    "mmlu": Counterpart("mmlu.mmlu_ppl_ac766d", "data/mmlu", ("dev", "test")),
    "ceval-valid": Counterpart("ceval.ceval_ppl_578f8d", "data/ceval/formal_ceval", ("dev", "val")),
    "gsm8k": Counterpart("gsm8k.gsm8k_gen_17d0dc", "data/gsm8k", ("train", "test")),
    "bbh_cot_fewshot": Counterpart("bbh.bbh_gen_98fba6", "data/BBH/data", ("test",)),
}


def write_data(found: Counterpart, source: Path, folder: Path) -> int:
    """Write a data set of the hub as OpenCompass reads it below `folder`, and return how many examples are scored.

    Raises UserError for a file without a column, and for a split that is missing.
    """
    import pyarrow.parquet as pq

    counts = dict.fromkeys(found.splits, 0)
    for file in sorted(source.glob("*/*.parquet")):
        part, split = file.parent.name, file.name.partition("-")[0]
        if split in counts and part != "socratic":  # the other configuration of GSM8K
            rows = pq.read_table(file).to_pylist()
            try:
                texts = _texts(found.name, part, split, rows)
            except KeyError as error:
                raise UserError(f"{file}: has no column {error}, which OpenCompass reads; lock a revision that has it") from None
            for name, text in texts.items():
                (folder / found.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / found.folder / name).write_text(text, encoding="utf-8")
            counts[split] += len(rows)
    if missing := [split for split, count in counts.items() if not count]:
        raise UserError(f"{source}: has no examples in <part>/{missing[0]}-*.parquet, which OpenCompass reads; fetch it again")
    return counts[found.splits[-1]]


def _texts(name: str, part: str, split: str, rows: Rows) -> dict[str, str]:
    """Return the files, by name, that hold the examples of a split."""
    if name == "mmlu":
        return {f"{split}/{part}_{split}.csv": _csv([r["question"], *r["choices"], "ABCD"[r["answer"]]] for r in rows)}
    if name == "ceval":
        columns = ["id", "question", "A", "B", "C", "D", "answer"]
        files = {f"{split}/{part}_{split}.csv": _csv([columns, *([row[column] for column in columns] for row in rows)])}
        return {**files, f"test/{part}_test.csv": _csv([columns])}  # it is opened, and its answers are hidden
    if name == "gsm8k":
        return {f"{split}.jsonl": "".join(f"{json.dumps({key: r[key] for key in ('question', 'answer')})}\n" for r in rows)}
    return {f"{part}.json": json.dumps({"examples": [{key: r[key] for key in ("input", "target")} for r in rows]})}


def _csv(rows: Iterable[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def config_text(found: Counterpart, model: Path, precision: str, batch_size: int, gpus: int) -> str:
    """Return the config that scores a base model on a benchmark; of one with parts, the summary has the unweighted mean."""
    name = found.name
    parts = name != "gsm8k"
    base = f"\n    from opencompass.configs.summarizers.groups.{name} import {name}_summary_groups" if parts else ""
    kwargs = {"device_map": "auto", "torch_dtype": f"torch.{precision}"}
    return f"""from mmengine.config import read_base
from opencompass.models import HuggingFaceBaseModel

with read_base():
    from opencompass.configs.datasets.{found.module} import {name}_datasets{base}

datasets = {name}_datasets
models = [dict(
    type=HuggingFaceBaseModel, abbr={MODEL!r}, path={str(model)!r}, model_kwargs={kwargs!r},
    max_out_len=1024, batch_size={batch_size}, run_cfg=dict(num_gpus={gpus}),
)]
summarizer = dict(dataset_abbrs=[{name!r}], summary_groups={f"{name}_summary_groups" if parts else "[]"})
"""


def read_summary(text: str, name: str) -> float:
    """Return the score of a benchmark from the CSV file of a summary, as a fraction; UserError if it has none."""
    found = [row[MODEL] for row in csv.DictReader(io.StringIO(text)) if row["dataset"] == name]
    if not found or found[0] == "-":
        raise UserError(f"OpenCompass has no score of {name} in its summary; the log above says which part failed")
    return float(found[0]) / 100
