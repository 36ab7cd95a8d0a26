"""`nan-merge export` on a real run: the config, the scores, the cards and the records of jobs that the rules leave."""

import csv
import json
import sys

import jsonschema
from huggingface_hub import ModelCard
from models import ROOT

SCHEMA = jsonschema.Draft7Validator(json.loads((ROOT / "tests/fakes/every_eval_ever/eval.schema.json").read_text()))


def export(project, to, output, *words):
    command = [sys.executable, "-m", "nan_merge.cli", "export", "--to", to, "--output", output, *words]
    done = project.shell(" ".join(map(str, command)), PYTHONPATH=str(project / "workflow"))
    assert done.code == 0, done.text
    return done.text


def values(project, method):
    """Return the test scores of a method by task."""
    with open(project / "results/scores.tsv", newline="") as lines:
        rows = [row for row in csv.DictReader(lines, delimiter="\t") if row["method"] == method]
    return {row["task"]: float(row["value"]) for row in rows if row["metric"] == "accuracy"}


def test_the_scores_of_a_merge_enter_its_card(finished, tmp_path):
    told = export(finished, "hub", tmp_path / "card", "--method ties+nan_delta")
    card = ModelCard.load(tmp_path / "card/README.md")
    scores = {result.dataset_config: result.metric_value for result in card.data.eval_results}
    assert scores == values(finished, "ties+nan_delta") and card.data.model_name == "ties+nan_delta"
    assert "Its scores stand in the section Evaluation." in card.text and "the merge itself was removed" not in told


def test_records_and_rows_are_those_of_the_run_and_their_time_is_that_of_the_job(finished, tmp_path):
    export(finished, "every-eval-ever", tmp_path / "records")
    records = [json.loads(file.read_text()) for file in (tmp_path / "records").rglob("*.json")]
    found = {record["model_info"]["additional_details"]["method"]: record for record in records}
    for method, record in found.items():
        SCHEMA.validate(record)
        scores = {r["evaluation_name"].removeprefix("tiny."): r["score_details"]["score"] for r in record["evaluation_results"]}
        assert scores == values(finished, method)
    jobs = [json.loads(file.read_text()) for file in (finished / ".snakemake/metadata").iterdir()]
    ended = {str(int(job["endtime"])) for job in jobs if job["rule"] == "evaluate_checkpoint"}
    assert {record["evaluation_timestamp"] for record in records} <= ended
    export(finished, "leaderboard", tmp_path / "rows.csv")
    with open(tmp_path / "rows.csv", newline="") as lines:
        rows = {row["method"]: row for row in csv.DictReader(lines)}
    assert rows.keys() == {*found, "individual"} and set(rows["ties"]["tasks"].split()) == {"fruit", "weather", "tools"}
