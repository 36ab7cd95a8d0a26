"""The groups of Table 2 that have parts, unmodified, on data in the hub's layout: MMLU, C-Eval and BBH with three examples."""

import gzip
import json
import shutil
import sys
import tempfile

import builtin_benchmarks as world
import numpy as np
import pandas as pd
import pytest
import yaml
from models import ROOT

from nan_merge.core.errors import UserError
from scripts import evaluate_benchmark

SHIPPED = yaml.safe_load((ROOT / "config/tasks.yaml").read_text())
COUNTS = {"mmlu": 57, "ceval": 52, "bbh": 27}  # as in the papers of the benchmarks


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return world.model(tmp_path_factory.mktemp("model") / "table")


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    """The folder for temporary files, of all runs of this process."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture
def evaluate(model, tmp_path, temporary, monkeypatch):
    """Return a function that runs the script on a benchmark as config/tasks.yaml has it, and returns its scores by metric."""
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def run(benchmark, data, model=model, **changes):
        spec = {"benchmarks": [{"id": benchmark, **SHIPPED[benchmark]["harness"], **changes}], "settings": {}}
        files = ["--checkpoints", model, "--data", data, "--cache", tmp_path / "cache", "--scores", tmp_path / "all.json"]
        labels = ["--suite", "s", "--method", "m", "--seed", 0, "--batch-size", 2, "--spec", json.dumps(spec)]
        monkeypatch.setattr(sys, "argv", ["evaluate_benchmark", *map(str, [*files, *labels])])
        evaluate_benchmark.main()
        return {score["metric"]: score for score in json.loads((tmp_path / "all.json").read_text())["scores"]}

    return run


def clustered(groups):
    """Return the mean over all and its standard error, from sums of residuals an own loop each group."""
    everything = [value for group in groups for value in group]
    mean = sum(everything) / len(everything)
    squares = sum(sum(value - mean for value in group) ** 2 for group in groups)
    return mean, (len(groups) / (len(groups) - 1) * squares) ** 0.5 / len(everything)


@pytest.mark.parametrize("benchmark", COUNTS)
def test_every_part_is_scored_by_the_unmodified_tasks(benchmark, evaluate, tmp_path, temporary):
    names = world.parts(benchmark)
    assert len(names) == COUNTS[benchmark] == len(set(names))
    scores = evaluate(benchmark, world.publish(tmp_path / "data", benchmark))
    assert not list(temporary.iterdir()), "what datasets makes of the data is gone"
    right = [world.right(number) for number in range(len(names))]
    micro, error = clustered(right)
    macro = np.mean([np.mean(part) for part in right])
    assert abs(micro - macro) > 0.01, "the two averages differ on these data"
    assert scores["accuracy"]["value"] == pytest.approx(micro) and scores["accuracy"]["stderr"] == pytest.approx(error)
    assert scores["macro_accuracy"]["value"] == pytest.approx(macro) and scores["unanswered"]["value"] == 0
    assert {score["n"] for score in scores.values()} == {sum(map(len, right))}

    lines = [json.loads(line) for line in gzip.decompress((tmp_path / "all.jsonl.gz").read_bytes()).splitlines()]
    by_part = {}
    for line in lines:
        by_part.setdefault(line["task"], []).append(bool(line["right"]))
    prefix = {"mmlu": "mmlu_", "ceval": "ceval-valid_", "bbh": "bbh_cot_fewshot_"}[benchmark]
    assert by_part == {f"{prefix}{name}": part for name, part in zip(names, right, strict=True)}
    assert {line["answer"] for line in lines} == {"True" if benchmark == "bbh" else "1"}
    with np.load(tmp_path / "all.npz") as arrays:
        sizes = [len(part) for part in right]
        assert arrays[f"{benchmark}.cluster"].tolist() == np.repeat(range(len(names)), sizes).tolist()
        assert (arrays[f"{benchmark}.prediction"] == arrays[f"{benchmark}.label"]).tolist() == [
            each for part in right for each in part
        ]


PART = {"mmlu": "anatomy", "ceval": "logic", "bbh": "navigate"}
TASK = {"mmlu": "mmlu_anatomy", "ceval": "ceval-valid_logic", "bbh": "bbh_cot_fewshot_navigate"}


def columns(change):
    """Return what applies a change to the columns of every file of a part."""

    def apply(folder):
        for file in folder.glob("*.parquet"):
            change(pd.read_parquet(file)).to_parquet(file)

    return apply


def renamed(**names):
    return columns(lambda rows: rows.rename(columns=names))


def without(split):
    return lambda folder: next(folder.glob(f"{split}-*")).unlink()


def damaged(folder):
    next(folder.glob("test-*")).write_bytes(b"PAR1")


FAULTS = {
    "MMLU: the question": ("mmlu", renamed(question="text"), "'question' is undefined); found the columns text, subject"),
    "MMLU: the right answer": ("mmlu", renamed(answer="key"), "example 0 is 'answer', none of the choices A, B, C, D"),
    "MMLU: hidden answers": ("mmlu", columns(lambda rows: rows.assign(answer=-1)), "example 0 is -1, none of the choices"),
    "MMLU: its file": ("mmlu", without("test"), "found the files dev-00000-of-00001.parquet;"),
    "MMLU: its examples": ("mmlu", without("dev"), "found the files test-00000-of-00001.parquet;"),
    "MMLU: too few examples": ("mmlu", columns(lambda rows: rows[:4]), "exceeds the 4 that are available"),
    "MMLU: no examples": ("mmlu", columns(lambda rows: rows[:0]), "ArrowInvalid"),
    "MMLU: a damaged file": ("mmlu", damaged, "ArrowInvalid: Parquet file size is 4 bytes"),
    "C-Eval: a choice": ("ceval", renamed(D="d"), "'D' is undefined); found the columns id, question, A, B, C, d,"),
    "C-Eval: the right answer": ("ceval", renamed(answer="key"), "); found the columns id, question, A, B, C, D, key"),
    "C-Eval: hidden answers": ("ceval", columns(lambda rows: rows.assign(answer="")), "''"),
    "C-Eval: its file": ("ceval", without("val"), "found the files dev-00000-of-00001.parquet;"),
    "C-Eval: the part": ("ceval", shutil.rmtree, ", configuration logic: the data are not of the form"),
    "BBH: the question": ("bbh", renamed(input="question"), "'input' is undefined); found the columns question, target"),
    "BBH: the right answer": ("bbh", renamed(target="label"), "'target' is undefined"),
    "BBH: its file": ("bbh", without("test"), "navigate: the data are not"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_part_with_other_data_is_told_with_the_benchmark_and_its_folder(fault, evaluate, tmp_path):
    benchmark, change, told = FAULTS[fault]
    data = world.publish(tmp_path / "data", benchmark, [PART[benchmark]])
    change(data / PART[benchmark])
    with pytest.raises(UserError) as error:
        evaluate(benchmark, data, tmp_path / "no_model", tasks=[TASK[benchmark]])  # data are looked at before a model is loaded
    text = str(error.value)
    assert text.startswith(f"config/tasks.yaml: {benchmark}: harness: {data}") and told in text, text
    assert PART[benchmark] in text and TASK[benchmark] in text
    assert text.endswith("Lock that revision of the asset, or correct `folder:` and `tasks:`")


def test_a_part_that_the_card_of_the_data_does_not_name_is_told(evaluate, tmp_path):
    data = world.publish(tmp_path / "data", "ceval", ["law"])
    with pytest.raises(UserError, match=rf"{data}, configuration logic: the data .*ceval-valid_logic reads \(.*law"):
        evaluate("ceval", data, tasks=["ceval-valid_law", "ceval-valid_logic"])
