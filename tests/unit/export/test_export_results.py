"""What is exported of a run is read by the readers it is for, and gives the numbers of the run back."""

import csv
import getpass
import json
import re
import resource
import shutil
import signal
import socket
import sys

import jsonschema
import pytest
import yaml
from fabricated_run import EXAMPLES, ROOT, FabricatedRun
from huggingface_hub import ModelCard, parse_eval_result_entries
from models import random_model, save

from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json, read_table, write_json
from nan_merge.reporting.statistics import wilson
from nan_merge.standalone.model_card import digest, document
from scripts import export_results

SUITE, METHODS = "vit_b32_8", ["pretrained", "individual", "weight_averaging", "ties", "ties+nan_delta"]
COMMIT, OTHER = "b" * 40, "text"
SCHEMA = jsonschema.Draft7Validator(read_json(ROOT / "tests/fakes/every_eval_ever/eval.schema.json"))


def document_merge(folder, method):
    """Write the model card and the digest of a merge, as the rule of merges does."""
    model = {"path": f"{folder}/secret", "xxh3_128": "0" * 32, "files": {}}
    inputs = {name: {"title": f"o/{name}", "hub": f"o/{name}", "commit": COMMIT, **model} for name in ("base", "a", "b")}
    table = {"experts": ["a", "b"], "scope": "model", "rows": {"model": [0.3, 0.3]}, "norms": {"model": [1.0, 1.0]}}
    spec = {"coefficients": {"constant": {"value": 0.3}}}
    merged = folder / f"merged/{SUITE}/{method}/seed0"
    save(merged, random_model(0))
    document(merged, {"name": method, "method": method, "method_spec": spec, "coefficients": table, "inputs": inputs})
    write_json(folder / f"digests/{SUITE}/{method}/seed0.json", digest(merged))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of images of the hub with two seeds, and of texts that are not of the hub."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("run")
        patch.chdir(folder)
        run = FabricatedRun(folder / "results", {"suites": [SUITE, OTHER], "methods": METHODS, "seeds": [0, 1]})
        run.finish()
    config = read_json(folder / "results/run_config.yaml")
    config["assets"]["data_cars"]["lock"] = {"commit": COMMIT}
    write_json(folder / "results/run_config.yaml", config)
    document_merge(folder / "results", "ties")
    return folder


@pytest.fixture
def export(finished, tmp_path, monkeypatch):
    """Run the command on the finished run, or on another folder, and return what it wrote."""

    def run(to, *words, folder=finished, name="out"):
        output = tmp_path / name
        words = ["--to", to, "--directory", folder, "--output", output, *words]
        monkeypatch.setattr(sys, "argv", ["export", *map(str, words)])
        export_results.main()
        return output

    return run


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the run that a test may change."""
    return shutil.copytree(finished, tmp_path / "copy")


def scores(finished, method="ties", suite=SUITE, seed="0"):
    """Return the rows of scores.tsv of one model by task."""
    rows = read_table(finished / "results/scores.tsv")
    return {row["task"]: row for row in rows if (row["suite"], row["method"], row["seed"]) == (suite, method, seed)}


TIES = ("--suite", SUITE, "--method", "ties", "--seed", 0)


# ---- the hub ----------------------------------------------------------------------------------------------------------


def test_the_hub_s_reader_of_model_cards_gives_the_scores_back(finished, export):
    card = ModelCard.load(export("hub", *TIES) / "README.md")
    assert card.data.model_name == "ties" and card.data.base_model == ["o/base", "o/a", "o/b"]
    found = {result.dataset_type: result for result in card.data.eval_results}
    rows = scores(finished)
    named = ModelCard.load(export("hub", *TIES, "--model", "me/merged", name="named") / "README.md")
    assert named.data.model_name == "me/merged" and named.data.eval_results == card.data.eval_results
    assert found.keys() == {"tanganke/sun397", "tanganke/stanford_cars", "tanganke/resisc45"} and len(rows) == 3
    cars = found["tanganke/stanford_cars"]
    assert cars.metric_value == float(rows["cars"]["value"]) and cars.metric_type == "accuracy"
    assert (cars.dataset_revision, cars.dataset_split, cars.task_type) == (COMMIT, "test", "zero-shot-image-classification")
    low, high = wilson(cars.metric_value, EXAMPLES)
    assert f"95 % interval {low:.4f} to {high:.4f}, {EXAMPLES} test examples" in cars.metric_name
    assert f"standard error {float(rows['cars']['stderr']):.4f}" in cars.metric_name


def test_the_hub_s_reader_of_results_gives_the_scores_back_with_a_file_a_data_set(finished, export):
    folder = export("hub", *TIES) / ".eval_results"
    files = {file.name: parse_eval_result_entries(yaml.safe_load(file.read_text())) for file in folder.iterdir()}
    assert files.keys() == {f"tanganke--{name}.yaml" for name in ("sun397", "stanford_cars", "resisc45")}
    (cars,) = files["tanganke--stanford_cars.yaml"]
    assert (cars.dataset_id, cars.task_id, cars.dataset_revision) == ("tanganke/stanford_cars", "default", COMMIT)
    assert cars.value == float(scores(finished)["cars"]["value"])
    assert "as a fraction; standard error 0." in cars.notes and "seed 0" in cars.notes and cars.date is None


def test_the_card_shows_the_scores_where_it_said_that_it_has_none(finished, export):
    text = (export("hub", *TIES) / "README.md").read_text()
    before = (finished / f"results/merged/{SUITE}/ties/seed0/README.md").read_text()
    assert "This page does not say how well" in before and "This page does not say how well" not in text
    percents = [f"{100 * float(row['value']):.1f}" for row in scores(finished).values()]
    section = text.split("## Evaluation")[1].split("## Models")[0]
    assert sorted(re.findall(r"\| accuracy \| ([\d.]+) \|", section)) == sorted(percents)
    assert "classification head of its own, which is no part of this folder" in section
    assert text.split("## Models")[1] == before.split("## Models")[1]


def test_tasks_without_a_data_set_of_the_hub_stay_apart_and_are_named(finished, export, copy, capsys):
    (copy / f"results/merged/{SUITE}/ties/seed0").rename(copy / "card")
    (copy / f"results/digests/{OTHER}/ties").mkdir(parents=True)
    (copy / f"results/digests/{SUITE}/ties/seed0.json").rename(copy / f"results/digests/{OTHER}/ties/seed0.json")
    written = export("hub", "--suite", OTHER, "--method", "ties", "--seed", 0, folder=copy)
    found = {result.dataset_config: result.metric_value for result in ModelCard.load(written / "README.md").data.eval_results}
    assert found == {task: float(row["value"]) for task, row in scores(finished, suite=OTHER).items()}
    assert not (written / ".eval_results").exists()
    note = "without an entry in .eval_results, since their data are not one data set of the hub: 20 Newsgroups, Reuters R8"
    assert note in capsys.readouterr().err


def test_a_merge_that_was_removed_has_its_card_in_its_digest(export, copy, capsys):
    kept = export("hub", *TIES, name="kept")
    shutil.rmtree(copy / f"results/merged/{SUITE}/ties/seed0")
    removed = export("hub", *TIES, folder=copy, name="removed")
    assert (removed / "README.md").read_bytes() == (kept / "README.md").read_bytes()
    again = f"the merge itself was removed; to make it again: snakemake --cores all -- results/merged/{SUITE}/ties/seed0"
    assert again in capsys.readouterr().err


# ---- Every Eval Ever --------------------------------------------------------------------------------------------------


def records(folder):
    return {file.relative_to(folder).as_posix(): read_json(file) for file in folder.rglob("*.json")}


def test_a_record_a_model_and_seed_fits_the_schema_and_has_the_scores_with_their_errors(finished, export, capsys):
    found = records(export("every-eval-ever", "--suite", SUITE))
    for record in found.values():
        SCHEMA.validate(record)
    assert len({record["evaluation_id"] for record in found.values()}) == len(found) == 8
    models = {record["model_info"]["id"]: record for record in found.values()}
    merged = [f"local/{SUITE}-{method}-seed{seed}" for method in METHODS[2:] for seed in (0, 1)]
    assert models.keys() == {"openai/clip-vit-base-patch32", *merged}
    assert "left out, since it is not one model for all tasks: individual" in capsys.readouterr().err
    for result in models[f"local/{SUITE}-ties-seed1"]["evaluation_results"]:
        row = scores(finished, seed="1")[result["evaluation_name"].removeprefix(f"{SUITE}.")]
        details = result["score_details"]
        assert details["score"] == float(row["value"])
        assert details["uncertainty"]["standard_error"]["value"] == float(row["stderr"])
        limits = details["uncertainty"]["confidence_interval"]
        assert (limits["lower"], limits["upper"]) == wilson(details["score"], EXAMPLES)
        assert result["source_data"]["hf_repo"].startswith("tanganke/")


def test_a_record_lies_where_the_collection_has_it_and_its_time_is_that_of_the_run(finished, export):
    ((path, record),) = records(export("every-eval-ever", *TIES, "--model", "me/merged")).items()
    uuid4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    assert re.fullmatch(rf"data/{SUITE}/me/merged/{uuid4}\.json", path)
    written = (finished / f"results/scores/{SUITE}/ties/seed0/all.json").stat().st_mtime
    assert record["retrieved_timestamp"] == record["evaluation_timestamp"] == str(int(written))
    assert record["model_info"]["developer"] == "me" and record["model_info"]["id"] == "me/merged"


def test_a_record_without_a_name_of_the_model_is_no_record():
    """The schema that the other tests check against refuses something."""
    with pytest.raises(jsonschema.ValidationError, match="is a required property"):
        SCHEMA.validate({"schema_version": "0.3.0"})


# ---- the leaderboard --------------------------------------------------------------------------------------------------


def test_a_row_a_method_with_its_average_interval_and_origin(finished, export):
    with open(export("leaderboard", name="out.csv"), newline="") as lines:
        rows = {(row["suite"], row["method"]): row for row in csv.DictReader(lines)}
    assert list(rows) == [(suite, method) for suite in (SUITE, OTHER) for method in METHODS]
    row = rows[SUITE, "ties"]
    tasks = row["tasks"].split()
    assert tasks == ["sun397", "cars", "resisc45"] and row["seeds"] == "0 1" and row["n"] == str(3 * EXAMPLES)
    both = [scores(finished, seed=seed) for seed in "01"]
    means = {task: sum(float(each[task]["value"]) for each in both) / 2 for task in tasks}
    assert {task: float(row[f"score_{task}"]) for task in tasks} == pytest.approx(means, abs=1e-12)
    assert float(row["average"]) == pytest.approx(sum(means.values()) / 3, abs=1e-12)
    assert float(row["average_low"]) < float(row["average"]) < float(row["average_high"])
    assert (row["collection"], rows[OTHER, "ties"]["collection"], rows[OTHER, "ties"]["score_cars"]) == ("C", "", "")
    assert row["digests"] == " ".join(f"ties of {SUITE}, seed {seed}" for seed in "01")


# ---- of all -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("hub", *TIES), ("every-eval-ever",), ("leaderboard",)])
def test_two_exports_are_the_same_bytes_and_hold_nothing_of_the_machine(finished, export, words):
    def files(name):
        output = export(*words, name=name)
        found = output.rglob("*") if output.is_dir() else [output]
        return {file.relative_to(output): file.read_bytes() for file in found if file.is_file()}

    first = files("first")
    assert first and first == files("second")
    for content in first.values():
        for private in (str(finished), socket.gethostname(), f"/{getpass.getuser()}/", "/tmp", "secret"):
            assert private not in content.decode()


MISTAKES = {
    "a suite of another run": (["hub", "--suite", "vit_b32"], "--suite vit_b32: .* has no such suite; did you mean 'vit_b32_8'"),
    "a method that was not scored": (
        ["hub", "--suite", SUITE, "--method", "tie"],
        rf"--method tie: was not scored on {SUITE} in this run; did you mean 'ties'",
    ),
    "no method": (["hub", "--suite", SUITE], "--to hub: writes the scores of one merge; name it with --method"),
    "several suites": (["hub", "--method", "ties"], "--to hub: .*; name it with --suite"),
    "several seeds": (["hub", *TIES[:4]], "--seed: the run has the seeds 0, 1; name one of them"),
    "a seed that was not run": (["hub", *TIES[:4], "--seed", 7], "--seed: the run has the seeds 0, 1"),
    "the base": (["hub", "--suite", SUITE, "--method", "pretrained"], "--method pretrained: is no merge that is one model"),
    "many models": (["hub", "--suite", SUITE, "--method", "individual"], "--method individual: is no merge that is one model"),
    "one name for many models": (
        ["every-eval-ever", "--suite", SUITE, "--model", "me/m"],
        r"every-eval-ever: 8 models were chosen; choose with --suite, --method and --seed",
    ),
    "an option of another format": (
        ["leaderboard", "--model", "me/m", "--seed", 0],
        "--seed, --model: has no meaning with --to leaderboard; leave it out",
    ),
    "a merge without card and digest": (
        ["hub", *TIES[:4], "--seed", 1],
        rf"merged/{SUITE}/ties/seed1: the merge was removed, and .*seed1\.json.* is not there; make it again: snakemake",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_names_the_option_and_writes_nothing(export, tmp_path, mistake):
    words, message = MISTAKES[mistake]
    with pytest.raises(UserError, match=message):
        export(*words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["merged", "../..", "me/../x", "/me/x", "me/x/y", "me/a b", "me/"])
def test_a_name_that_the_hub_does_not_allow_is_refused(export, tmp_path, capsys, name):
    with pytest.raises(SystemExit):
        export("every-eval-ever", *TIES, "--model", name)
    assert "argument --model: expected OWNER/NAME, as the hub allows it" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_taken_is_not_written_to(export, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="out: exists already; choose another --output"):
        export("leaderboard")


def test_a_folder_without_a_run_and_a_run_that_is_not_finished_are_refused(export, copy, tmp_path):
    results = copy / "results"
    table = (results / "scores.tsv").read_text()
    (results / "scores.tsv").write_text("".join(line for line in table.splitlines(True) if f"{SUITE}\tties\tcars" not in line))
    with pytest.raises(UserError, match=rf"scores\.tsv: has no score of ties on {SUITE}/cars, seed 0.*not finished"):
        export("leaderboard", folder=copy)
    (results / "scores.tsv").unlink()
    with pytest.raises(UserError, match=r"scores\.tsv: there is no such table: the run is not finished; run `snakemake"):
        export("leaderboard", folder=copy)
    with pytest.raises(UserError, match=r"results: holds no run_config\.yaml; expected the results of a run.*--directory"):
        export("leaderboard", folder=tmp_path)


def test_a_config_of_another_form_is_refused(export, copy):
    (copy / "results/run_config.yaml").write_text("suites: {}\n")
    with pytest.raises(UserError, match=r"run_config\.yaml: expected the keys assets, config, .*, but not all are there"):
        export("leaderboard", folder=copy)


@pytest.mark.parametrize("words", [("hub", *TIES), ("every-eval-ever",), ("leaderboard",)])
def test_nothing_is_left_of_an_export_that_the_disk_had_no_room_for(export, tmp_path, words):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # bytes of a file
    try:
        with pytest.raises(OSError, match="File too large"):
            export(*words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suite", ["llama2_13b_wizard", "llava_13b", "smollm", "vision", "vit_b16_14_b"])
def test_runs_of_every_kind_are_exported(suite, export, tmp_path, monkeypatch):
    """Benchmarks of experts with names, questions on pictures, several tasks an expert, images, another collection."""
    monkeypatch.chdir(tmp_path)
    run = FabricatedRun(tmp_path / "run/results", {"suites": [suite], "methods": METHODS})
    run.finish()
    for record in records(export("every-eval-ever", folder=tmp_path / "run")).values():
        SCHEMA.validate(record)
    with open(export("leaderboard", folder=tmp_path / "run", name="out.csv"), newline="") as lines:
        rows = [row["method"] for row in csv.DictReader(lines)]
    assert rows == run.experiment.run(suite) and "ties" in rows


def test_a_method_that_a_suite_skipped_is_refused_with_the_reason(export, copy):
    file = copy / "results/run_config.yaml"
    config = json.loads(file.read_text())
    config["skipped_methods"][SUITE] = {"ties": "it has too few experts"}
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"--method ties: was not scored on {SUITE}: it has too few experts"):
        export("hub", *TIES, folder=copy)


def test_scores_without_the_files_that_they_were_gathered_from_are_refused(export, copy):
    (copy / f"results/scores/{SUITE}/ties/seed0/all.json").unlink()
    with pytest.raises(UserError, match=r"seed0: holds no scores, though .*; copy the whole folder of results"):
        export("leaderboard", folder=copy)
