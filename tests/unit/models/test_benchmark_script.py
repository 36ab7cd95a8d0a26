"""The script that scores benchmarks, on tiny models: mistakes are one message, and a run that was killed goes on."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import tiny
import tiny_language as world

from nan_merge.models.own_tasks import SHIPPED
from nan_merge.models.tasks.qwen25_math.score import answer

GSM8K = {
    "id": "gsm8k",
    "folder": "gsm8k",
    "tasks": ["gsm8k"],
    "num_fewshot": 1,
    "metric": "exact_match",
    "filter": "strict-match",
}
MMLU = {
    "id": "mmlu",
    "folder": "mmlu/default",
    "tasks": ["mmlu_abstract_algebra", "mmlu_anatomy"],
    "num_fewshot": 5,
    "metric": "acc",
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    world.publish(folder)
    return folder


def start(published, out, entry, data=None, model=None, **settings):
    """Start the script on a model, by default the tiny base."""
    spec = json.dumps({"benchmarks": [entry], "settings": settings})
    data = data or published / f"datasets/tiny/{entry['id']}"
    command = [
        sys.executable,
        "-m",
        "scripts.evaluate_benchmark",
        "--checkpoints",
        model or published / "models/tiny/base",
        "--data",
        data,
    ]
    command += ["--suite", "s", "--method", "pretrained", "--seed", "0", "--cache", out / "cache", "--scores", out / "all.json"]
    command += ["--spec", spec]
    paths = os.pathsep.join([str(tiny.ROOT / "workflow"), str(tiny.ROOT)])
    return subprocess.Popen([*map(str, command)], env={**os.environ, "PYTHONPATH": paths}, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip


def message(process):
    """Return the one error of a command that failed."""
    text = process.communicate(timeout=600)[0]
    assert process.returncode == 1 and "Traceback" not in text, text
    return next(line[line.index("error: ") :] for line in text.splitlines() if "error: " in line)


def test_a_benchmark_whose_columns_changed_is_told_with_its_data(published, tmp_path):
    odd = tmp_path / "odd"
    for split in ("train", "test"):
        (odd / "main").mkdir(parents=True, exist_ok=True)
        rows = pd.read_parquet(published / f"datasets/tiny/gsm8k/main/{split}-00000-of-00001.parquet")
        rows.rename(columns={"question": "problem"}).to_parquet(odd / f"main/{split}-00000-of-00001.parquet")
    (odd / "README.md").write_text(
        (published / "datasets/tiny/gsm8k/README.md").read_text().partition("- config_name: socratic")[0] + "---\n"
    )
    told = message(start(published, tmp_path, GSM8K, odd))
    assert (
        told.startswith("error: config/tasks.yaml: gsm8k: harness: ") and "'question' is undefined" in told and str(odd) in told
    )


def with_config(folder, name, **changes):
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("file", "changes", "settings", "told"),
    [
        (
            "tokenizer_config.json",
            {"chat_template": "{{ raise_exception('system only') }}"},
            {"chat_template": True},
            "system only",
        ),
        ("config.json", {"max_position_embeddings": 64}, {}, "sequence length"),
    ],
)
def test_a_fault_of_the_model_is_not_blamed_on_the_data(file, changes, settings, told, published, tmp_path):
    model = shutil.copytree(published / "models/tiny/base", tmp_path / "model")
    with_config(model, file, **changes)
    text = message(start(published, tmp_path, GSM8K, model=model, **settings))
    assert text.startswith(f"error: {model}: the model failed on the prompts of gsm8k (") and told in text, text


@pytest.mark.parametrize(
    ("change", "settings", "told"),
    [
        ({}, {"chat_template": True}, "its tokenizer has no chat template"),
        ({"tasks": ["gsm8"]}, {}, "tasks: unknown 'gsm8'"),
        ({"filter": "strict"}, {}, "filter: unknown 'strict'; task gsm8k has flexible-extract, strict-match"),
    ],
)
def test_a_mistake_in_the_config_is_told(change, settings, told, published, tmp_path):
    assert told in message(start(published, tmp_path, {**GSM8K, **change}, **settings))


def test_prompts_of_the_toolkit_are_asked_and_an_edited_task_is_asked_again(published, tmp_path):
    model = shutil.copytree(published / "models/tiny/base", tmp_path / "model")
    with_config(model, "config.json", max_position_embeddings=4096)
    mine = shutil.copytree(SHIPPED / "qwen25_math", tmp_path / "mine", ignore=shutil.ignore_patterns("__pycache__"))
    shared = mine / "_gsm8k.yaml"
    for file in mine.glob("gsm8k_*.yaml"):
        file.write_text(file.read_text().replace("2048", "24"))
    folder = os.path.relpath(mine)
    tasks = ["gsm8k_qwen25_math_cot", "gsm8k_toolkit_cot", "gsm8k_wizard_zs"]
    entry = {"id": "gsm8k", "folder": folder, "tasks": tasks, "metric": "exact_match", "filter": "toolkit"}
    assert folder.startswith(".")
    for _ in range(2):
        done = start(published, tmp_path, entry, model=model)
        text = done.communicate(timeout=600)[0]
        assert done.returncode == 0, text
        kept = [json.loads(gzip.decompress(file.read_bytes())) for file in tmp_path.glob("cache/*/*.json.gz")]
    assert {each["identity"]["task"] for each in kept} == set(tasks) and len(kept) == 3
    lines = [json.loads(line) for line in gzip.decompress((tmp_path / "all.jsonl.gz").read_bytes()).splitlines()]
    assert len(lines) == 3 * world.SOLVED and len({line["prompt_hash"] for line in lines}) == len(lines)
    assert all(line["answer"] == (answer(line["output"]) or "[invalid]") for line in lines)
    assert all(line["found"] == (line["answer"] != "[invalid]") for line in lines)
    shared.write_text(shared.read_text() + "# changed\n")
    done = start(published, tmp_path, entry, model=model)
    assert done.communicate(timeout=600) and done.returncode == 0
    assert len(list(tmp_path.glob("cache/*/*.json.gz"))) == 6


def test_a_run_that_was_killed_goes_on_with_the_same_bytes(published, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    done = start(published, whole, MMLU)
    assert done.communicate(timeout=600) and done.returncode == 0
    process = start(published, killed, MMLU)
    while process.poll() is None and not list(killed.glob("cache/*/*.json.gz")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {file: file.stat().st_mtime_ns for file in killed.glob("cache/*/*.json.gz")}
    assert kept and not (killed / "all.json").exists()
    done = start(published, killed, MMLU)
    assert done.communicate(timeout=600) and done.returncode == 0
    assert {file: file.stat().st_mtime_ns for file in kept} == kept, "not asked again"
    for name in ("all.json", "all.npz", "all.jsonl.gz"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
