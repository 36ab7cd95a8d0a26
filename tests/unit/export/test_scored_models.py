"""Metrics that are no proportion, tasks that share a data set and benchmarks of lm_eval, in the formats of others."""

import jsonschema
import pytest
import yaml
from fabricated_run import ROOT
from huggingface_hub import ModelCard, parse_eval_result_entries

from nan_merge.core.files import read_json, write_table
from nan_merge.export import every_eval_ever, hub, leaderboard
from nan_merge.export.scored_models import scored_model
from nan_merge.reporting.study import SCORE_COLUMNS, studies

SCHEMA = jsonschema.Draft7Validator(read_json(ROOT / "tests/fakes/every_eval_ever/eval.schema.json"))
CARD = "---\ntags:\n- merge\n---\n\n# ties\n\nA merge.\n\n## Models\n\nSome.\n"
GLUE, MMLU = {"repo": "nyu-mll/glue", "split": "validation"}, {"repo": "cais/mmlu", "commit": "c" * 40}
TASKS = {
    "cola": {"metric": "matthews", "harness": [], "data": {**GLUE, "config": "cola"}, "value": -0.125, "stderr": 0.0625},
    "stsb": {"metric": "pearson_spearman", "harness": [], "data": {**GLUE, "config": "stsb"}, "value": 0.75, "stderr": 0.03125},
    "mmlu": {"metric": "accuracy", "harness": ["mmlu"], "data": MMLU, "value": 0.5, "stderr": 0.25},
}
METHOD = {"id": "ties", "label": "TIES", "group": "host", "static": True}
JOBS = [{"checkpoints": ["m"], "xxh3_128": {"m": "d" * 32}, "versions": {"lm_eval": "0.4.13"}, "time": 1700000000}]


@pytest.fixture
def made(tmp_path):
    """Return a function that makes a study and a scored model of it from tasks."""

    def make(*tasks, family="causal_lm"):
        usual = {"suite": "s", "method": "ties", "n": 64, "seed": 0}
        rows = [{**usual, "task": task, **{key: TASKS[task][key] for key in ("metric", "value", "stderr")}} for task in tasks]
        write_table(tmp_path / "scores.tsv", rows, SCORE_COLUMNS)
        records = [{"id": task, "label": task.upper(), "source": f"{task} | its paper", **TASKS[task]} for task in tasks]
        suite = {"id": "s", "label": "S", "family": family, "base": "", "tasks": records, "seeds": [0]}
        (study,) = studies([suite], [], tmp_path / "scores.tsv")
        return study, scored_model(study, METHOD, 0, JOBS)

    return make


def test_tasks_of_one_data_set_share_a_file_and_a_benchmark_has_the_task_of_lm_eval(made, tmp_path):
    hub.write(made(*TASKS)[1], CARD, tmp_path / "out")
    files = {
        file.name: parse_eval_result_entries(yaml.safe_load(file.read_text()))
        for file in (tmp_path / "out/.eval_results").iterdir()
    }
    found = {name: [(entry.dataset_id, entry.task_id, entry.value) for entry in entries] for name, entries in files.items()}
    glue = [("nyu-mll/glue", "cola", -0.125), ("nyu-mll/glue", "stsb", 0.75)]
    assert found == {"nyu-mll--glue.yaml": glue, "cais--mmlu.yaml": [("cais/mmlu", "mmlu", 0.5)]}
    assert files["nyu-mll--glue.yaml"][0].notes.startswith("Matthews correlation as a fraction; standard error 0.0625, 95 %")


def test_a_card_names_the_metrics_of_the_hub_and_shows_names_that_look_like_markup(made):
    card = ModelCard(hub.with_scores(CARD, made(*TASKS)[1]))
    found = {result.dataset_config or "mmlu": result for result in card.data.eval_results}
    assert {name: result.metric_type for name, result in found.items()} == {
        "cola": "matthews_correlation", "stsb": "pearson_spearman", "mmlu": "accuracy",
    }  # fmt: skip
    assert {name: result.metric_value for name, result in found.items()} == {n: task["value"] for n, task in TASKS.items()}
    assert card.data.model_name == "ties" and "| COLA | Matthews correlation | −12.5 |" in card.text
    assert "classification head" not in card.text, "a language model answers by itself"


def test_a_source_in_words_is_one_cell_of_the_table_whatever_it_holds(made, monkeypatch):
    monkeypatch.setitem(TASKS, "own", {"metric": "accuracy", "harness": [], "data": {}, "value": 0.5, "stderr": 0.0625})
    card = ModelCard(hub.with_scores(CARD, made("own", family="text_encoder")[1]))
    assert "| OWN | accuracy | 50.0 | 38.1 to 61.9 | 64 | own \\| its paper |" in card.text
    assert "classification head of its own" in card.text


def test_a_record_has_the_range_of_the_metric_and_names_how_its_error_was_found(made):
    record = every_eval_ever.as_record(made("cola", "stsb", "mmlu")[1], "me/m", "us")
    SCHEMA.validate(record)
    configs = {
        r["evaluation_name"]: (r["metric_config"]["min_score"], r["metric_config"]["max_score"])
        for r in record["evaluation_results"]
    }
    assert configs == {"s.cola": (-1, 1), "s.stsb": (-1, 1), "s.mmlu": (0, 1)}
    errors = {r["evaluation_name"]: r["score_details"]["uncertainty"]["standard_error"] for r in record["evaluation_results"]}
    assert errors["s.cola"] == {"value": 0.0625, "method": "bootstrap"}
    assert errors["s.mmlu"] == {"value": 0.25, "method": "analytic"}
    assert record["eval_library"]["name"] == "nan-merge" and record["source_metadata"]["source_organization_name"] == "us"


def test_a_record_of_benchmarks_names_lm_eval_and_its_version(made):
    library = every_eval_ever.as_record(made("mmlu")[1], "me/m", "us")["eval_library"]
    assert (library["name"], library["version"]) == ("lm_eval", "0.4.13")


def test_an_interval_takes_parts_of_a_benchmark_as_the_sample(made):
    """The clustered standard error of 0.25 is that of 4 independent examples, not of 64."""
    (task,) = made("mmlu")[1].tasks
    assert task.score.n == 64 and task.score.independent == 4 and task.estimate.low < 0.2


def test_a_row_of_a_leaderboard_names_all_metrics(made):
    row = leaderboard.row(made(*TASKS)[0], METHOD, JOBS)
    assert row["metrics"] == "matthews pearson_spearman accuracy" and row["n"] == 3 * 64
    assert row["average"] == pytest.approx((-0.125 + 0.75 + 0.5) / 3)
