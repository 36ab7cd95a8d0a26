"""Suites that score the merges of another suite: on texts with typos, and on a task that no expert saw."""

import csv
import json

import numpy as np
import pytest
import tiny
from huggingface_hub import ModelCard
from project import Project

from nan_merge.data.dataset import Dataset

TYPOS, UNSEEN = "tiny_typos", "tiny_unseen"
PLAIN = [method for method in tiny.METHODS if method != "dare"]
MAKING = ("finetune_checkpoint", "prepare_checkpoint", "measure_weights", "estimate_coefficients", "merge_checkpoints",
          "merge_candidate", "evaluate_candidate", "select_coefficients", "describe_search", "finetune_premise")  # fmt: skip


def with_suites(project: Project) -> Project:
    """Name both suites beside their owner, and one method that merges for a single task."""
    tiny.write_yaml(project / f"config/suites/{TYPOS}.yaml", {
        "merges": "tiny", "label": "Tiny BERT, typos", "corrupt": {"kind": "typos", "strength": 0.9},
    })  # fmt: skip
    tiny.write_yaml(
        project / f"config/suites/{UNSEEN}.yaml", {"merges": "tiny", "label": "Tiny BERT, unseen", "tasks": ["produce"]}
    )
    project.edit(
        "config/tasks.yaml", lambda tasks: tasks.update(produce={**tasks["fruit"], "label": "Produce", "prompt": "one {}"})
    )
    project.edit("config/config.yaml", lambda config: config.update(suites=[TYPOS, "tiny", UNSEEN], methods=[*PLAIN, "emr"]))
    return project


@pytest.fixture(scope="module")
def made(finished, tmp_path_factory) -> tuple[set[str], Project]:
    """The finished project with both suites, after what a second run did."""
    project = with_suites(finished.copy(tmp_path_factory.mktemp("other") / "project"))
    jobs = project.jobs()
    project.made()
    return jobs, project


def scores(project, suite):
    with open(project / "results/scores.tsv", newline="") as lines:
        return {(row["method"], row["task"]): float(row["value"]) for row in csv.DictReader(lines, delimiter="\t")
                if row["suite"] == suite and row["metric"] == "accuracy"}  # fmt: skip


def provenance(project, suite, method, group="all"):
    return json.loads((project / f"results/scores/{suite}/{method}/seed0/{group}.json").read_text())["provenance"]


def table(project, name):
    return (project / f"results/tables/{name}.md").read_text(encoding="utf-8")


def test_nothing_is_trained_measured_or_merged_again(made):
    jobs, project = made
    of_others = {job for job in jobs if TYPOS in job or UNSEEN in job}
    assert {job for job in of_others if job.startswith(MAKING)} == set()
    rules = {job.partition(":")[0] for job in of_others}
    assert {"prepare_dataset", "evaluate_checkpoint", "render_table", "draw_figure", "decode_examples", "check_data"} == rules
    results = project / "results"
    assert not [name for kind in ("merged", "digests", "coefficients", "measures", "candidates", "validation", "checkpoints")
                for name in (TYPOS, UNSEEN) if (results / kind / name).exists()]  # fmt: skip
    assert project.jobs() == set(), "a second run has nothing to do"


def test_the_models_that_are_scored_are_those_of_the_owner(made):
    _, project = made
    for method in ("pretrained", "ties", "task_arithmetic_tuned", "task_arithmetic+nan_delta"):
        own, typos = (provenance(project, suite, method) for suite in ("tiny", TYPOS))
        unseen = provenance(project, UNSEEN, method, "produce")
        (folder,) = own["checkpoints"]
        assert typos["checkpoints"] == unseen["checkpoints"] == [folder]
        assert typos["xxh3_128"][folder] == unseen["xxh3_128"][folder] == own["xxh3_128"][folder]
        assert typos["xxh3_128"][f"results/datasets/{TYPOS}/fruit"] != own["xxh3_128"]["results/datasets/tiny/fruit"]
    assert provenance(project, TYPOS, "emr")["checkpoints"] == [f"results/merged/tiny/emr/seed0/{task}" for task in tiny.TASKS]
    assert provenance(project, TYPOS, "individual") == {**provenance(project, TYPOS, "individual"),
        "checkpoints": [f"results/checkpoints/tiny/seed0/{task}" for task in tiny.TASKS]}  # fmt: skip


def test_only_test_inputs_are_corrupted(made):
    _, project = made
    for task in tiny.TASKS:
        clean, typos = (Dataset(project / f"results/datasets/{suite}/{task}") for suite in ("tiny", TYPOS))
        for split in ("train", "validation"):
            assert np.array_equal(clean.inputs(split), typos.inputs(split))
        assert np.array_equal(clean.labels("test"), typos.labels("test"))
        assert (clean.inputs("test") != typos.inputs("test")).any(axis=1).mean() > 0.9


def test_typos_lower_what_was_learned(made):
    _, project = made
    clean, typos = (scores(project, suite) for suite in ("tiny", TYPOS))
    assert clean.keys() == typos.keys() and len(clean) > 30
    lost = {method: np.mean([clean[method, task] - typos[method, task] for task in tiny.TASKS]) for method, _ in clean}
    assert lost["individual"] > 0.15 and lost["ties"] > 0.03


def test_tables_say_whose_models_they_score_and_on_what(made):
    _, project = made
    said = table(project, f"main_{TYPOS}")
    assert "Base, experts and merges are those of Tiny BERT" in said
    assert "Test inputs are corrupted: typos in 90 % of the words of four letters or more" in said and "Normalised" in said
    assert "those of Tiny BERT" not in table(project, "main_tiny")
    page = (project / "results/report.html").read_text(encoding="utf-8")
    assert page.count("Base, experts and merges are those of Tiny BERT: nothing was trained here") >= 3
    shown = {path.name for path in (project / "results/tables").glob(f"*_{TYPOS}.md")}
    assert shown == {f"{name}_{TYPOS}.md" for name in tiny.shown("tables")} - {
        f"{n}_{TYPOS}.md" for n in ("experts", "coefficients", "premise", "search", "sweep")
    }


def test_a_task_that_no_expert_saw_has_the_experts_as_rows_and_no_individual_model(made):
    _, project = made
    said = table(project, f"main_{UNSEEN}")
    assert "No expert was trained on these tasks" in said and "Individual" not in said.split("\n\n")[1]
    assert all(f"Expert: {task}" in said for task in tiny.TASKS) and "Weighted" not in said and "Normalised" not in said
    assert "Expert:" not in table(project, "main_tiny"), "the owner has its own rows"
    assert "EMR" in said and "a task here has no expert" in said
    found = scores(project, UNSEEN)
    assert found["expert_fruit", "produce"] > found["pretrained", "produce"] + 0.1, "it knows the same texts under another name"
    with open(project / "results/comparisons.tsv", newline="") as lines:
        rows = [row for row in csv.DictReader(lines, delimiter="\t") if row["suite"] == UNSEEN]
    assert rows and not [row for row in rows if row["task"] == "weighted_average"]
    forgotten = {row["method"]: float(row["difference"]) for row in rows if row["kind"] == "forgetting"}
    assert forgotten["ties"] == pytest.approx(found["ties", "produce"] - found["pretrained", "produce"])
    assert {"weight_averaging", "task_arithmetic_tuned"} < forgotten.keys() and not {
        *tiny.DRAWS,
        "expert_fruit",
    } & forgotten.keys()


def test_a_run_with_rows_of_experts_is_archived_and_verified(made, tmp_path):
    _, project = made
    for command in (f"archive {tmp_path / 'run.zip'}", f"verify {tmp_path / 'run.zip'}"):
        done = project.shell(f"python -m nan_merge.cli {command}", PYTHONPATH=str(project / "workflow"))
        assert done.code == 0, done.text


def test_scores_on_corrupted_inputs_enter_a_card_as_what_they_are(made, tmp_path):
    _, project = made
    command = f"python -m nan_merge.cli export --to hub --suite {TYPOS} --method ties --output {tmp_path / 'card'}"
    done = project.shell(command, PYTHONPATH=str(project / "workflow"))
    assert done.code == 0, done.text
    card = ModelCard.load(tmp_path / "card/README.md")
    assert {result.dataset_config: result.metric_value for result in card.data.eval_results} == {
        task: value for (method, task), value in scores(project, TYPOS).items() if method == "ties"}  # fmt: skip
    assert all("(typos in the inputs, strength 0.9)" in result.dataset_name for result in card.data.eval_results)


def test_the_table_of_the_data_states_what_was_checked(made):
    _, project = made
    with open(project / "results/tables/data_tiny.csv", newline="") as lines:
        rows = {row["task"]: row for row in csv.DictReader(lines)}
    assert rows.keys() == {*tiny.TASKS} and {row["duplicates"] for row in rows.values()} == {"0"}
    for task, row in rows.items():
        assert float(row["pretrained"]) == scores(project, "tiny")["pretrained", task]
        assert float(row["linear"]) > float(row["majority"]) + 0.2 and 0 <= float(row["near_share"]) < 1
        assert row["majority"] <= row["largest_share"] and row["test"] == "80"
    with open(project / f"results/tables/data_{TYPOS}.csv", newline="") as lines:
        typos = {row["task"]: row for row in csv.DictReader(lines)}
    assert all(float(typos[task]["linear"]) < float(rows[task]["linear"]) for task in tiny.TASKS)


def test_merges_that_are_not_kept_wait_for_every_suite_that_scores_them(project):
    with_suites(project)
    project.edit("config/config.yaml", lambda config: config.update(
        keep_merged=False, methods=["pretrained", "weight_averaging", "ties", "emr"], tables=["main"], figures=[]))  # fmt: skip
    project.remove(*(f"results/{name}" for name in ("merged", "digests", "scores", "benchmarks")))
    project.made()
    assert not list((project / "results").glob("merged/*/*/*/*.safetensors")) and project.jobs() == set()
    jobs = [path.parts[-2:] for path in (project / "results/benchmarks").glob("merge_*/**/*.tsv")]
    assert len(jobs) == 5, "two merges, and one for each task"
    for suite in ("tiny", TYPOS):
        assert scores(project, suite).keys() >= {("ties", task) for task in tiny.TASKS}


def test_a_suite_without_its_owner_is_refused(fresh):
    with_suites(fresh).edit("config/config.yaml", lambda config: config.update(suites=[TYPOS]))
    done = fresh.run("--dry-run")
    assert done.code == 1 and "Traceback" not in done.text
    assert f"config/suites/{TYPOS}.yaml: merges: the merges of 'tiny' are scored, and that suite is not in the run" in done.text


def test_the_shipped_overlay_plans_no_merge_but_those_of_its_owner(tmp_path):
    project = Project(tiny.copy_code(tmp_path / "project"))
    alone, robust = project.jobs(), project.jobs("--configfile", "config/study/robustness.yaml")
    assert {job for job in robust if job.startswith(MAKING)} == {job for job in alone if job.startswith(MAKING)}
    suites = {job.split(": ")[1].split(",")[0] for job in robust if job.startswith("evaluate_checkpoint")}
    assert suites == {"text", "text_typos_mild", "text_typos_strong", "text_unseen"}
    assert {"check_data: text, amazon", "prepare_dataset: text_typos_mild, movie", "render_table: data, text_unseen"} <= robust
