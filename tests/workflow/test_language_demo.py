"""`make demo-language` in small: a tiny GGUF base, experts trained on tasks of BIG-bench, and lm_eval, by the shipped config."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_gguf
from project import Project, installed
from safetensors.numpy import load_file

from experiment.experiment import Experiment
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json
from nan_merge.models.families import causal_lm
from nan_merge.models.harness.tasks import Benchmark, training_pairs
from nan_merge.models.language_training import finetune

pytestmark = pytest.mark.demo
METHODS = ["pretrained", "individual", "weight_averaging", "task_arithmetic_tuned", "emr"]
FROZEN = ["embed_tokens", "layers\\.0\\."]
SETTINGS = {"steps": 60, "batch_size": 8, "learning_rate": 1e-2, "frozen": FROZEN}
SUITE = tiny.read_yaml(tiny.ROOT / "config/suites/smollm.yaml")
TRAINED = SUITE["finetune"]["tasks"]
SEEN = [task for tasks in TRAINED.values() for task in tasks]
UNSEEN = [task for task in SUITE["tasks"] if task not in SEEN]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The shipped suite with a tiny model and small data, after `make demo-language`."""
    folder = tmp_path_factory.mktemp("smollm")
    made = installed(Project(tiny.copy_code(folder / "checkout")))
    tiny_gguf.write(folder / "model/tiny.gguf")
    assets = tiny.read_yaml(tiny.ROOT / "config/assets.yaml")
    tiny_gguf.tasks(folder / "bigbench", [name.removesuffix("/task.json") for name in assets["bigbench"]["members"]])
    kept = ("members", "licence", "source")
    local = {
        asset: {"kind": "path", "path": str(folder / place), **{key: assets[asset][key] for key in kept}}
        for asset, place in {"smollm2_135m": "model", "bigbench": "bigbench"}.items()
    }
    made.edit("config/assets.yaml", lambda entries: entries.update(local))
    made.edit(
        "config/suites/smollm.yaml", lambda suite: (suite["finetune"].update(SETTINGS), suite.update(merge={"exclude": FROZEN}))
    )
    made.edit("config/language.yaml", lambda overlay: overlay.update(methods=METHODS, keep_merged=True))
    done = made.shell("PYTHONPATH=workflow:. python -m scripts.update_lock smollm2_135m bigbench")
    assert done.code == 0, done.text
    done = made.shell("make demo-language")
    assert done.code == 0, done.text[-6000:]
    return made


def scores(project: Project, method: str) -> dict[str, float]:
    """Return the accuracy of a method by task."""
    found = read_json(project / f"results/scores/smollm/{method}/seed0/all.json")["scores"]
    return {score["task"]: score["value"] for score in found if score["metric"] == "accuracy"}


def test_experts_learn_their_tasks_and_merges_lie_between(project):
    base, own, average = (scores(project, method) for method in ("pretrained", "individual", "weight_averaging"))
    for task in SEEN:
        assert base[task] <= 0.2 and own[task] >= 0.7, task
    means = [np.mean([found[task] for task in SEEN]) for found in (base, average, own)]
    assert means[0] < means[1] <= means[2], means


def test_individual_is_the_expert_that_was_trained_on_a_task_or_else_the_base(project):
    own, base = scores(project, "individual"), scores(project, "pretrained")
    rows = {name: scores(project, f"expert_{name}") for name in TRAINED}
    assert own == {
        task: next((rows[name][task] for name, tasks in TRAINED.items() if task in tasks), base[task]) for task in SUITE["tasks"]
    }
    assert UNSEEN and all(own[task] == base[task] for task in UNSEEN)
    note = (project / "results/tables/main_smollm.md").read_text()
    assert "every task by the expert that was trained on it (requests: Intent; syntax: Negation, Question; " in note
    assert "there the pretrained model stands for the individual one." in note


def test_an_expert_is_what_training_on_the_prompts_of_its_benchmarks_gives(project, tmp_path):
    name = next(name for name, tasks in TRAINED.items() if len(tasks) > 1)
    tasks = tiny.read_yaml(project / "config/tasks.yaml")
    benchmarks = [Benchmark(task, project / "results/assets/bigbench", tasks[task]["harness"]) for task in TRAINED[name]]
    base = project / "results/checkpoints/smollm/pretrained"
    model, tokenizer = causal_lm.load(base)
    settings = {key: value for key, value in SUITE["finetune"].items() if key != "tasks"} | SETTINGS
    finetune(model, tokenizer, [training_pairs(benchmark, tmp_path) for benchmark in benchmarks], settings, seed=0)
    found, before = (load_file(f / "model.safetensors") for f in (project / f"results/checkpoints/smollm/seed0/{name}", base))
    trained = model.state_dict()
    assert found.keys() == before.keys()
    for tensor in found:
        assert np.array_equal(found[tensor], trained[tensor].numpy()), tensor
        assert np.array_equal(found[tensor], before[tensor]) == any(part in tensor for part in ("embed_tokens", "layers.0.")), (
            tensor
        )


def test_test_examples_are_none_of_the_training(project, tmp_path):
    tasks = tiny.read_yaml(project / "config/tasks.yaml")
    with gzip.open(project / "results/scores/smollm/individual/seed0/all.jsonl.gz", "rt") as lines:
        asked = [json.loads(line) for line in lines]
    for task in SUITE["tasks"]:
        pairs = training_pairs(Benchmark(task, project / "results/assets/bigbench", tasks[task]["harness"]), tmp_path)
        assert len(pairs) == 320 - 150 - 100
        assert sum(line["benchmark"] == task for line in asked) == 150


def test_what_needs_data_or_one_task_at_a_time_is_skipped_with_the_reason(project):
    page = (project / "results/report.html").read_text(encoding="utf-8")
    for reason in ("it merges for one task at a time, and the experts belong to no task", "benchmarks are for tests only"):
        assert reason in page


def test_a_second_run_has_nothing_to_do(project):
    assert "Nothing to be done" in project.shell("make demo-language").text


def test_longer_training_makes_experts_and_merges_again_but_not_the_base(project, tmp_path):
    copy = project.copy(tmp_path / "copy")
    copy.edit("config/suites/smollm.yaml", lambda suite: suite["finetune"].update(steps=61))
    jobs = copy.jobs("--configfile", "config/language.yaml")
    rules = {job.partition(":")[0] for job in jobs}
    assert {"finetune_language", "merge_checkpoints", "evaluate_benchmark"} <= rules
    assert not {"fetch_asset", "prepare_checkpoint"} & rules
    assert "evaluate_benchmark: smollm, pretrained, all, seed 0" not in jobs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda suite: suite["finetune"].pop("tasks"),
            "finetune: its tasks are benchmarks of a harness: expected the key 'tasks'",
        ),
        (lambda suite: suite["finetune"].update(logit_scale=1.0), "finetune: .*expected the key 'tasks', and no 'logit_scale'"),
        (lambda suite: suite["finetune"]["tasks"].update(words=["plurals"]), "finetune: tasks: unknown 'plurals'"),
        (lambda suite: suite["finetune"]["tasks"].update(words=["negation"]), "'negation' is named by two experts"),
    ],
)
def test_a_mistake_in_the_tasks_of_experts_is_named(tmp_path, change, message):
    made = Project(tiny.copy_code(tmp_path / "checkout"))
    made.edit("config/suites/smollm.yaml", change)
    config = {**tiny.read_yaml(made / "config/config.yaml"), **tiny.read_yaml(made / "config/language.yaml")}
    with pytest.raises(UserError, match=f"config/suites/smollm.yaml: .*{message}"):
        Experiment(config, made.folder)


def test_other_experts_are_not_merged_with_an_unpacked_base(tmp_path: Path):
    made = Project(tiny.copy_code(tmp_path / "checkout"))
    made.edit("config/suites/llama3_mergebench.yaml", lambda suite: suite.update(dequantise=True))
    done = made.run("-n", "--config", "suites=[llama3_mergebench]")
    assert done.code and "config/suites/llama3_mergebench.yaml: dequantise: only for a language model" in done.text
