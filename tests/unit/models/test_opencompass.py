"""What OpenCompass reads and writes, in its own formats; OpenCompass itself is not run.

The readers here read as its data sets of that name do; the summaries are in the form of its DefaultSummarizer.
"""

import ast
import csv
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import builtin_benchmarks as world
import pandas as pd
import pytest
import tiny_language

from nan_merge.core.errors import UserError
from nan_merge.models.opencompass import COUNTERPARTS, config_text, read_summary, write_data
from scripts import cross_check

TASKS = {found.name: task for task, found in COUNTERPARTS.items()}


@pytest.mark.parametrize("name", ["mmlu", "ceval", "bbh"])
def test_the_parts_of_the_hub_are_written_as_opencompass_reads_them(name, tmp_path):
    data = world.publish(tmp_path / "data", name)
    found = COUNTERPARTS[TASKS[name]]
    right = [world.right(number) for number in range(len(world.parts(name)))]
    assert write_data(found, data, tmp_path) == sum(map(len, right))
    for part, known in zip(world.parts(name), right, strict=True):
        rows = [world.ROWS[name](number, each) for number, each in enumerate(known)]
        assert READERS[name](tmp_path / found.folder, part) == rows
    if name == "mmlu":
        assert len(mmlu(tmp_path / found.folder, part, "dev")) == world.SHOTS


def mmlu(folder, part, split="test"):
    with open(folder / split / f"{part}_{split}.csv", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert all(len(row) == 6 for row in rows)
    return [{"question": r[0], "subject": "any", "choices": r[1:5], "answer": "ABCD".index(r[5])} for r in rows]


def ceval(folder, part):
    found = {}
    for split in ("dev", "val", "test"):
        with open(folder / split / f"{part}_{split}.csv", encoding="utf-8") as file:
            reader = csv.reader(file)
            header = next(reader)
            found[split] = [dict(zip(header, row, strict=True)) for row in reader]
    assert len(found["dev"]) == world.SHOTS and not found["test"]
    return [{**row, "id": int(row["id"]), "explanation": ""} for row in found["val"]]


def bbh(folder, part):
    return json.loads((folder / f"{part}.json").read_text())["examples"]


READERS = {"mmlu": mmlu, "ceval": ceval, "bbh": bbh}


def test_problems_are_lines_of_json_and_the_other_configuration_is_left_out(tmp_path):
    asked = [tiny_language.problem(number) for number in (2, 3)]
    splits = {"train": [tiny_language.problem(1)], "test": asked}
    tiny_language.dataset(tmp_path / "data", {"main": splits, "socratic": splits})
    assert write_data(COUNTERPARTS["gsm8k"], tmp_path / "data", tmp_path) == 2
    lines = (tmp_path / "data/gsm8k/test.jsonl").read_text().splitlines()
    assert [json.loads(line.strip()) for line in lines] == asked


def test_data_without_a_column_or_a_split_are_told(tmp_path):
    data = world.publish(tmp_path / "data", "mmlu", ["anatomy"])
    file = data / "anatomy/test-00000-of-00001.parquet"
    pd.read_parquet(file).rename(columns={"choices": "options"}).to_parquet(file)
    with pytest.raises(UserError, match=rf"{file}: has no column 'choices', which OpenCompass reads"):
        write_data(COUNTERPARTS["mmlu"], data, tmp_path)
    file.unlink()
    with pytest.raises(UserError, match=rf"{data}: has no examples in <part>/test-\*\.parquet"):
        write_data(COUNTERPARTS["mmlu"], data, tmp_path)


@pytest.mark.parametrize("task", COUNTERPARTS)
def test_a_config_has_the_form_of_the_examples(task):
    found = COUNTERPARTS[task]
    base, model, *rest = ast.parse(config_text(found, Path("/models/it's one"), "float16", 8, 2)).body
    assert ast.unparse(base) == "from mmengine.config import read_base"
    assert ast.unparse(model) == "from opencompass.models import HuggingFaceBaseModel"
    read, *assigned = rest
    assert isinstance(read, ast.With) and ast.unparse(read.items[0]) == "read_base()"
    modules = [f"datasets.{found.module}", *([f"summarizers.groups.{found.name}"] if found.name != "gsm8k" else [])]
    assert [line.module for line in read.body] == [f"opencompass.configs.{module}" for module in modules]
    values = {line.targets[0].id: line.value for line in assigned}
    assert ast.unparse(values["datasets"]) == f"{found.name}_datasets" == read.body[0].names[0].name
    (call,) = values["models"].elts
    given = {word.arg: word.value for word in call.keywords}
    assert ast.unparse(given.pop("type")) == "HuggingFaceBaseModel" and ast.unparse(given.pop("run_cfg")) == "dict(num_gpus=2)"
    assert {key: ast.literal_eval(value) for key, value in given.items()} == {
        "abbr": "model", "path": "/models/it's one", "model_kwargs": {"device_map": "auto", "torch_dtype": "torch.float16"},
        "max_out_len": 1024, "batch_size": 8,
    }  # fmt: skip
    summarised = {word.arg: ast.unparse(word.value) for word in values["summarizer"].keywords}
    groups = "[]" if found.name == "gsm8k" else f"{found.name}_summary_groups"
    assert summarised == {"dataset_abbrs": f"['{found.name}']", "summary_groups": groups}


SUMMARY = """dataset,version,metric,mode,model
--------- LVEval All ---------,-,-,-,-
race,-,naive_average,ppl,76.23
race-high,0c332f,accuracy,ppl,74.53
mmlu,-,naive_average,ppl,55.76
mmlu-weighted,-,weighted_average,ppl,55.04
gsm8k,1d7fe4,accuracy,gen,29.87
bbh,-,-,-,-
"""


def test_a_summary_gives_the_score_of_a_benchmark_as_a_fraction():
    assert read_summary(SUMMARY, "mmlu") == pytest.approx(0.5576) and read_summary(SUMMARY, "gsm8k") == pytest.approx(0.2987)
    for name in ("bbh", "ceval"):
        with pytest.raises(UserError, match=f"OpenCompass has no score of {name} in its summary"):
            read_summary(SUMMARY, name)


@pytest.mark.skipif(bool(find_spec("opencompass")), reason="OpenCompass is installed")
def test_without_opencompass_the_command_says_what_makes_it(tmp_path, monkeypatch):
    words = ["--checkpoints", "m", "--data", "d", "--suite", "s", "--method", "m", "--seed", "0", "--scores", "x.json", "--spec"]
    monkeypatch.setattr(sys, "argv", ["cross_check", *words, '{"benchmarks": {"mmlu": "mmlu"}, "gpus": 1}'])
    with pytest.raises(UserError, match=r"OpenCompass is not installed here.*--sdm conda.*envs/opencompass.yaml"):
        cross_check.main()
