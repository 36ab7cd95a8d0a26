"""Language models on benchmarks: from a hub on the loopback to the tables, by the rules that users run, then without a network.

lm_eval and its tasks are unmodified. What is asserted of answers was computed beside the workflow.
"""

from __future__ import annotations

import csv
import gzip
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_language as world
import torch
from hub import Hub
from project import Project

from nan_merge.core.files import read_json

pytestmark = pytest.mark.demo
METHODS = ["pretrained", "individual", "multitask", "weight_averaging", "task_arithmetic", "task_arithmetic_tuned",
           "task_arithmetic+nan_delta", "task_arithmetic+nan_delta+permuted", "fisher", "emr"]  # fmt: skip
MERGES = ["weight_averaging", "task_arithmetic", "task_arithmetic+nan_delta", "task_arithmetic+nan_delta+permuted_1"]
SCORED = ["pretrained", "expert_wizardlm", "expert_wizardmath", *MERGES]
SUITE = "llama2_13b_wizard"


def alone() -> tuple[str, ...]:
    """Return what runs a command without any network, where this machine allows it."""
    works = (
        shutil.which("unshare") and not subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode
    )
    return ("unshare", "-rn") if works else ()


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, Path]]:
    """Publish, lock and fetch over the loopback; run all else without a network."""
    folder = tmp_path_factory.mktemp("language")
    world.publish(folder / "hub")
    project = world.build(folder / "project", METHODS)
    with Hub() as hub:
        for repository in sorted(folder.glob("hub/*/tiny/*")):
            hub.put(f"tiny/{repository.name}", repository, repository.parents[1].name)
        fetched = [f"results/assets/{name}" for name in world.ASSETS]
        names = " ".join(world.ASSETS)
        done = project.shell(f"PYTHONPATH=workflow:. python -m scripts.update_lock {names}", **world.environment(hub.url))
        assert done.code == 0, done.text
        done = project.run(*fetched, **world.environment(hub.url))
        assert done.code == 0, done.text[-4000:]
    done = project.run(before=alone())
    assert done.code == 0, done.text[-6000:]
    yield project, folder / "hub/models/tiny"


def of(project: Project, method: str, metric: str = "accuracy") -> dict[str, float]:
    """Return the scores of a method by task."""
    found = read_json(project / f"results/scores/{SUITE}/{method}/seed0/all.json")
    return {score["task"]: score["value"] for score in found["scores"] if score["metric"] == metric}


def samples(project: Project, method: str) -> list[dict[str, Any]]:
    with gzip.open(project / f"results/scores/{SUITE}/{method}/seed0/all.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


def test_every_expert_has_a_row_on_all_benchmarks_and_what_needs_data_of_tasks_is_skipped(scored):
    project, _ = scored
    assert sorted(p.name for p in (project / f"results/scores/{SUITE}").iterdir()) == sorted(SCORED)
    with open(project / f"results/tables/main_{SUITE}.csv", newline="") as lines:
        rows = {row["method"]: row for row in csv.DictReader(lines)}
    assert "individual" not in rows and rows["expert_wizardlm"]["label"] == "Expert: wizardlm"
    assert not any("normalised" in column or "weighted" in column for column in rows["pretrained"])
    skipped = read_json_of_run(project)
    shuffles = {name for name in skipped if "permuted" in name}
    assert len(shuffles) == 4, "two experts have one shuffle"
    assert skipped.keys() - shuffles == {"multitask", "ensemble", "task_arithmetic_tuned", "fisher", "emr"}
    assert "benchmarks are for tests only" in skipped["task_arithmetic_tuned"]
    assert "the experts belong to no task" in skipped["fisher"] and "one task at a time" in skipped["emr"]


def read_json_of_run(project: Project) -> dict[str, str]:
    import yaml

    return yaml.safe_load((project / "results/run_config.yaml").read_text())["skipped_methods"][SUITE]


def test_answers_are_those_of_the_models_outside_the_workflow(scored):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    project, models = scored
    for method, name in (("pretrained", "base"), ("expert_wizardlm", "talker"), ("expert_wizardmath", "solver")):
        tokenizer = AutoTokenizer.from_pretrained(models / name)
        model = AutoModelForCausalLM.from_pretrained(models / name, dtype=torch.float32).eval()
        letters = [tokenizer(f" {letter}", add_special_tokens=False)["input_ids"] for letter in world.LETTERS]
        right, answers = [], []
        for subject in world.SUBJECTS:
            shots = "\n\n".join(text(world.question(n, subject), True) for n in range(20, 25))
            head = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}."
            for number in range(12):
                asked = world.question(number, subject)
                prompt = tokenizer(f"{head}\n\n{shots}\n\n{text(asked, False)}", add_special_tokens=False)["input_ids"]
                logs = [likelihood(model, prompt, letter) for letter in letters]
                answers.append(int(np.argmax(logs)))
                right.append(answers[-1] == asked["answer"])
        assert len({*answers}) > 1, "answers that depend on the question"
        found = [sample for sample in samples(project, method) if sample["benchmark"] == "mmlu"]
        assert [int(sample["answer"]) for sample in found] == answers
        assert of(project, method)["mmlu"] == pytest.approx(np.mean(right))


def text(row: dict[str, Any], answered: bool) -> str:
    choices = "".join(f"{letter}. {choice}\n" for letter, choice in zip(world.LETTERS, row["choices"], strict=True))
    return f"{row['question']}\n{choices}Answer:" + (f" {world.LETTERS[row['answer']]}" if answered else "")


@torch.no_grad()
def likelihood(model: Any, prompt: list[int], answer: list[int]) -> float:
    logs = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    return float(sum(logs[len(prompt) - 1 + i, token] for i, token in enumerate(answer)))


def test_predictions_have_the_parts_as_clusters_and_agree_with_the_scores(scored):
    project, _ = scored
    for method in SCORED:
        with np.load(project / f"results/scores/{SUITE}/{method}/seed0/all.npz") as arrays:
            assert {*arrays} == {"mmlu.label", "mmlu.prediction", "mmlu.cluster", "gsm8k.label", "gsm8k.prediction"}
            assert arrays["mmlu.cluster"].tolist() == [0] * 12 + [1] * 12
            for task, value in of(project, method).items():
                assert (arrays[f"{task}.prediction"] == arrays[f"{task}.label"]).mean() == pytest.approx(value)


def test_an_output_without_an_answer_is_counted_and_told_in_the_table(scored):
    project, _ = scored
    lacking = np.mean([not sample["found"] for sample in samples(project, "pretrained") if sample["benchmark"] == "gsm8k"])
    assert of(project, "pretrained", "unanswered")["gsm8k"] == pytest.approx(lacking) and lacking > 0
    assert "No answer was found in" in (project / f"results/tables/main_{SUITE}.md").read_text()


def test_norms_and_coefficients_count_experts(scored):
    project, _ = scored
    coefficients = read_json(project / f"results/coefficients/{SUITE}/task_arithmetic+nan_delta/seed0.json")
    assert coefficients["experts"] == ["wizardlm", "wizardmath"]
    with open(project / f"results/tables/experts_{SUITE}.csv", newline="") as lines:
        assert [row["expert"] for row in csv.DictReader(lines)] == ["wizardlm", "wizardmath"]


def test_printed_rows_of_the_experts_stand_beside_measured_ones(scored):
    project, _ = scored
    printed = (project / "results/published/nan_table2.md").read_text()
    lines = [line for line in printed.splitlines() if "wizard" in line.lower()]
    assert "WizardMath-13B" in lines[2] and "Expert: wizardmath" in lines[3] and "measured" in lines[3]


def test_prepared_weights_are_links_and_a_second_run_asks_no_model(scored):
    project, _ = scored
    for name, file in (("pretrained", "model.safetensors"), ("experts/wizardmath", "pytorch_model.bin")):
        assert (project / f"results/checkpoints/{SUITE}/{name}/{file}").stat().st_nlink > 1
    shutil.rmtree(project / f"results/scores/{SUITE}/pretrained")
    before = samples_of_cache(project)
    done = project.run(f"results/scores/{SUITE}/pretrained/seed0/all.json", before=alone())
    assert done.code == 0 and "Running loglikelihood" not in done.text, done.text[-3000:]
    assert samples_of_cache(project) == before


def samples_of_cache(project: Project) -> set[str]:
    return {path.name for path in (project / "results/harness").glob("*/*.json.gz")}
