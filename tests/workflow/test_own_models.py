"""Models of the user go through the workflow by a small config file, and give what the one command gives."""

import csv
import json
import re
import shutil

import pytest
import tiny
import tiny_language as world
import yaml
from models import ROOT, family, moved, same_bytes, save, tensors_of
from project import Project

from experiment.experiment import Experiment
from nan_merge.catalogue.files import read_yaml
from nan_merge.cli.merge import main as merge_models
from nan_merge.core.errors import UserError

METHODS = ["task_arithmetic", "ties+nan_delta", "ties_mean+nan_processed", "dare+nan_processed"]


def merged(name):
    return f"results/merged/mine/{name}/seed0"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The tiny project after a run of an overlay that names a base and its experts, and nothing to score."""
    folder = tmp_path_factory.mktemp("own")
    fresh = Project(tiny.build(folder / "project"))
    shutil.copy(ROOT / "config/variants.yaml", fresh / "config/variants.yaml")
    base, experts = family(folder / "models")
    folders = {"base": str(base), "experts": {name: str(folder) for name, folder in experts.items()}}
    overlay = {
        "suites": [],
        "methods": METHODS,
        "tables": [],
        "figures": [],
        "models": {"mine": {**folders, "merge": {"exclude": ["scale"]}}},
    }
    (fresh / "own.yaml").write_text(yaml.safe_dump(overlay))
    fresh.made("--configfile", "own.yaml")
    return fresh, base, experts


def test_a_small_config_file_merges_own_models(own, tmp_path):
    project, base, experts = own
    for method in METHODS:
        words = [f"--expert={name}={folder}" for name, folder in experts.items()]
        output = tmp_path / "alone" / method
        merge_models(["--base", str(base), *words, "--method", method, "--exclude", "scale", "--output", str(output)])
        assert same_bytes(tensors_of(project / merged(method)), tensors_of(output))
        alone, through = (json.loads((folder / "provenance.json").read_text()) for folder in (output, project / merged(method)))
        for name in ("base", *experts):
            assert alone["inputs"][name]["xxh3_128"] == through["inputs"][name]["xxh3_128"]
        cards = [(folder / "README.md").read_text() for folder in (output, project / merged(method))]
        assert cards[0] == cards[1]
        assert not re.search(r"[ =\"]/\w", cards[1])
    again = project.run("--configfile", "own.yaml")
    assert "Nothing to be done" in again.text


def test_a_new_expert_costs_the_measures_and_every_merge_and_no_table(own, tmp_path):
    project, base, _ = own
    overlay = ("--configfile", "own.yaml")
    new = save(tmp_path / "models/new", moved(tensors_of(base), 9))
    project.edit("own.yaml", lambda o: o["models"]["mine"]["experts"].update(new=str(new)))
    measured = {"measure_weights: mine, seed 0", "measure_threshold: mine, density_0.2-scope_model, seed 0"}
    measured |= {f"measure_processed: mine, {name}, seed 0" for name in ("trim-density_0.2-scope_model", "drop-rate_0.9-seed_0")}
    each = {f"{rule}: mine, {method}, seed 0" for rule in ("estimate_coefficients", "merge_checkpoints") for method in METHODS}
    assert project.jobs(*overlay) == measured | each | {"write_run_config"}


MISTAKES = {
    "a tuned method": (
        {"methods": ["task_arithmetic_tuned"]},
        "'task_arithmetic_tuned' needs scores on validation data to choose 'value'",
    ),
    "no experts": ({"models": {"mine": {"base": "b", "experts": {}}}}, "models.mine.experts"),
    "an expert called base": ({"models": {"mine": {"base": "b", "experts": {"base": "e"}}}}, "the base has that name"),
    "tasks that are no benchmarks": (
        {"models": {"mine": {"base": "b", "experts": {"a": "e"}, "tasks": ["gsm8"]}}},
        "models: mine: tasks: unknown 'gsm8'; did you mean 'gsm8k'",
    ),
    "an unknown device": (
        {"device": "tpu"},
        "device: expected a text \\(device of merges: .*\\), found the text 'tpu'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_before_anything_runs(mistake):
    changes, message = MISTAKES[mistake]
    own = {"suites": [], "methods": METHODS, "models": {"mine": {"base": "b", "experts": {"a": "e"}}}, **changes}
    with pytest.raises(UserError, match=message):
        Experiment({**read_yaml(ROOT / "config/config.yaml"), **own}, ROOT)


MERGES = ["task_arithmetic", "ties+nan_delta"]


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A project after a run of the example of docs/own-models.md, with tiny language models and benchmarks in local folders."""
    folder = tmp_path_factory.mktemp("scored")
    world.publish(folder / "hub")
    project, models = Project(tiny.copy_code(folder / "project")), folder / "hub/models/tiny"

    def local(assets):
        for name in ("mmlu", "gsm8k"):
            members = ["README.md", "*/*.parquet"]
            place = str(folder / "hub/datasets/tiny" / name)
            assets[f"data_{name}"] = {"kind": "path", "path": place, "members": members, "licence": "MIT", "source": "generated"}

    project.edit("config/assets.yaml", local)
    project.edit("config/tasks.yaml", world.fewer)
    (example,) = re.findall(r"```yaml\n(# scored\.yaml\n.+?)```", (ROOT / "docs/own-models.md").read_text(), re.DOTALL)
    for written, name in (("/models/base", "base"), ("/models/math", "solver"), ("owner/code@0123abc", "talker")):
        example = example.replace(written, str(models / name))
    (project / "scored.yaml").write_text(example)
    assert project.shell("PYTHONPATH=workflow:. python -m scripts.update_lock --configfile scored.yaml").code == 0
    project.made("--configfile", "scored.yaml")
    return project, models


def rows(file):
    with open(file, newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.demo
def test_base_experts_and_merges_of_own_language_models_have_a_row_each_and_a_test_between_them(scored):
    project, _ = scored
    table = rows(project / "results/tables/main_mine.csv")
    assert [row["method"] for row in table] == ["pretrained", "expert_math", "expert_code", *MERGES]
    assert all(row["mmlu"] and row["gsm8k"] and row["average_low"] for row in table)
    pairs = {(row["method"], row["against"]) for row in rows(project / "results/tables/comparisons_mine.csv") if row["p"]}
    assert {(f"expert_{name}", method) for name in ("math", "code") for method in MERGES} <= pairs
    assert "Nothing to be done" in project.run("--configfile", "scored.yaml").text


@pytest.mark.demo
def test_the_command_gives_the_scores_of_the_workflow_and_a_test_on_every_task(scored):
    project, models = scored
    merge = project / "results/merged/mine/task_arithmetic/seed0"
    words = f"python -P -m nan_merge.cli evaluate code={models / 'talker'} merge={merge} --tasks mmlu,gsm8k --output out"
    done = project.shell(f"PYTHONPATH=workflow {words}")
    assert done.code == 0, done.text[-3000:]
    for name, method in (("code", "expert_code"), ("merge", "task_arithmetic")):
        one, two = (
            [(score["task"], score["metric"], score["value"]) for score in json.loads(file.read_text())["scores"]]
            for file in (project / f"out/scores/{name}.json", project / f"results/scores/mine/{method}/seed0/benchmarks.json")
        )
        assert one == two
    tests = rows_of_tests(project / "out/comparisons.tsv")
    assert tests.keys() == {"mmlu", "gsm8k", "average"}
    known = next(
        row for row in rows(project / "results/tables/comparisons_mine.csv")
        if (row["method"], row["against"]) == ("expert_code", "task_arithmetic")
    )  # fmt: skip
    assert float(tests["average"]["difference"]) == pytest.approx(-float(known["difference"]))
    mean = (float(tests["mmlu"]["difference"]) + float(tests["gsm8k"]["difference"])) / 2
    assert float(tests["average"]["difference"]) == pytest.approx(mean)
    assert (project / "out/table.md").read_text() in done.text
    again = project.shell(f"PYTHONPATH=workflow {words}")
    assert again.code == 0 and "Loading weights" not in again.text, "every answer is kept"


def rows_of_tests(file):
    with open(file, newline="") as lines:
        return {row["task"]: row for row in csv.DictReader(lines, delimiter="\t")}
