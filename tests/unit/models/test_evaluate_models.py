"""`nan-merge evaluate` on tiny models: tasks of lm_eval on local data, differences on every task, mistakes in one message."""

import csv
import json
import shutil
import sys

import pytest
import tiny_language as world
from models import ROOT

from nan_merge.core.errors import UserError
from nan_merge.standalone import sources
from scripts import evaluate_models


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    world.publish(folder)
    (folder / "adapter").mkdir()
    (folder / "adapter/adapter_config.json").write_text('{"peft_type": "LORA"}')
    (folder / "adapter/adapter_model.safetensors").touch()
    return folder


@pytest.fixture
def evaluate(published, tmp_path, monkeypatch):
    """Return a function that runs the command in an empty folder; @ stands for the published models and data."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        replaced = [word.replace("@data", str(published / "datasets/tiny")).replace("@", f"{published}/") for word in words]
        monkeypatch.setattr(sys, "argv", ["evaluate", *replaced])
        evaluate_models.main()
        with open(tmp_path / "evaluation/table.csv", newline="") as lines:
            return {row["model"]: row for row in csv.DictReader(lines)}

    return run


BASE, SOLVER, ANATOMY = (
    "base=@models/tiny/base",
    "@models/tiny/solver",
    ("--tasks", "mmlu_anatomy", "--data", "mmlu_anatomy=@data/mmlu"),
)


def examples(folder, name):
    scores = json.loads((folder / f"evaluation/scores/{name}.json").read_text())["scores"]
    return {score["n"] for score in scores}


def test_a_task_of_the_harness_is_scored_on_local_data_and_a_trial_is_not_taken_for_the_whole(evaluate, tmp_path):
    trial = evaluate(BASE, SOLVER, *ANATOMY, "--limit", "4")
    assert examples(tmp_path, "base") == examples(tmp_path, "solver") == {4}
    assert "mmlu_anatomy_difference" in trial["solver"] and not trial["base"]["mmlu_anatomy_difference"]
    whole = evaluate(BASE, SOLVER, *ANATOMY)
    assert examples(tmp_path, "base") == {12}
    gap = float(whole["solver"]["mmlu_anatomy"]) - float(whole["base"]["mmlu_anatomy"])
    assert float(whole["solver"]["mmlu_anatomy_difference"]) == pytest.approx(gap)
    other = evaluate(BASE, SOLVER, *ANATOMY, "--against", "solver")
    assert float(other["base"]["mmlu_anatomy_difference"]) == pytest.approx(-gap)
    assert len(list(tmp_path.glob("evaluation/answers/*/*.json.gz"))) == 4, "two models, a trial and the whole; no third time"


def test_a_copy_of_the_data_with_notes_of_the_hub_is_the_same_data(evaluate, published, tmp_path):
    shutil.copytree(published / "datasets/tiny/mmlu", tmp_path / "copy")
    words = (BASE, *ANATOMY[:3], "mmlu_anatomy=copy", "--limit", "2")
    evaluate(*words)
    (tmp_path / "copy/.cache/huggingface").mkdir(parents=True)
    (tmp_path / "copy/.cache/huggingface/README.md.metadata").write_text("2026-01-01")
    evaluate(*words)
    assert len(list(tmp_path.glob("evaluation/answers/*/*.json.gz"))) == 1
    (tmp_path / "copy/README.md").open("a").write("changed")
    evaluate(*words)
    assert len(list(tmp_path.glob("evaluation/answers/*/*.json.gz"))) == 2


DATA = ("--data", "gsm8k=@data/gsm8k")
MISTAKES = {
    "a task that does not exist": ((BASE, "--tasks", "gsm8"), "--tasks gsm8: lm_eval has no task .* did you mean 'gsm8k'"),
    "a task without data": ((BASE, "--tasks", "arc_easy"), "arc_easy=FOLDER.* allenai/ai2_arc --local-dir FOLDER"),
    "data that are not there": ((BASE, "--tasks", "gsm8k", "--data", "gsm8k=no"), "--data gsm8k=no: there is no such folder"),
    "data of another task": ((BASE, "--tasks", "gsm8k", "--data", "mmlu=@data/mmlu"), "--data: unknown 'mmlu'"),
    "data of another form": (
        (BASE, "--tasks", "arc_easy", "--data", "arc_easy=@data/mmlu"),
        "--tasks arc_easy: .*mmlu, configuration ARC-Easy: the data are not of the form .* Give `--data arc_easy=FOLDER`",
    ),
    "data of another form for a task of the config": (
        (BASE, "--tasks", "gsm8k", "--data", "gsm8k=@data/mmlu"),
        "--data gsm8k=.*mmlu, configuration main: the data are not of the form .* Give `--data gsm8k=FOLDER`",
    ),
    "a model that is not there": (("nowhere", "--tasks", "gsm8k", *DATA), "nowhere: no such folder here"),
    "two models of one name": ((BASE, BASE, "--tasks", "gsm8k", *DATA), "MODEL base=.* the name 'base' is taken"),
    "an adapter": (("@adapter", "--tasks", "gsm8k", *DATA), "is a LoRA adapter; .* nan-merge merge --base BASE --expert"),
    "no chat template": ((BASE, "--chat-template", "--tasks", "gsm8k", *DATA), "no chat template, which `--chat-template` asks"),
    "a prompt of retrieval": (
        (BASE, "--num-fewshot", "0", "--tasks", "scifact", "--data", "scifact=@data"),
        r"--num-fewshot: the tasks are retrieval \(scifact\), whose texts have no prompt; leave it out",
    ),
    "an unknown name": ((BASE, "--against", "bas", "--tasks", "gsm8k", *DATA), "--against: unknown 'bas'; did you mean 'base'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_message_in_terms_of_options(mistake, evaluate):
    words, message = MISTAKES[mistake]
    with pytest.raises(UserError, match=message):
        evaluate(*words)


def test_what_is_known_before_is_refused_before_a_model_is_scored_or_fetched(evaluate, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="is a LoRA adapter"):
        evaluate(BASE, "@adapter", "--tasks", "gsm8k", *DATA)
    assert not (tmp_path / "evaluation").exists()
    monkeypatch.setattr(sources, "download", lambda repository: pytest.fail(f"{repository} was fetched"))
    for words, message in [(("gsm8",), "lm_eval has no task"), (("gsm8k", *DATA, "--against", "x"), "--against: unknown 'x'")]:
        with pytest.raises(UserError, match=message):
            evaluate("owner/model", "--tasks", *words)


def test_data_that_are_not_locked_can_be_locked_or_given(evaluate, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "config", tmp_path / "checkout/config")
    (tmp_path / "checkout/workflow").mkdir()
    (tmp_path / "checkout/workflow/schemas").symlink_to(ROOT / "workflow/schemas")
    (tmp_path / "checkout/config/assets.lock.json").write_text("{}")
    monkeypatch.setattr(evaluate_models, "ROOT", tmp_path / "checkout")
    with pytest.raises(UserError, match=r"run: nan-merge lock data_mmlu; or give .* `--data mmlu=FOLDER`"):
        evaluate(BASE, "--tasks", "mmlu")
