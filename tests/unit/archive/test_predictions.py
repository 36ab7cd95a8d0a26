"""Tables of predictions: every prediction is in them, and a changed one is named with method, task and index."""

import csv
import json

import numpy as np
import pytest
from fabricated_run import FabricatedRun

from nan_merge.archive import predictions
from nan_merge.core.errors import UserError
from nan_merge.data.metrics import score, standard_error

OVERLAY = {
    "suites": ["text"],
    "methods": ["pretrained", "individual", "weight_averaging", "ties", "ties+nan_delta"],
    "tables": [],
    "figures": [],
}
TIES = "results/scores/text/ties/seed0/all.npz"
TABLE = "predictions/test/text/seed0/all.tsv"


@pytest.fixture
def files(tmp_path):
    """The score files of a run, and its predictions by path."""
    run = FabricatedRun(tmp_path / "results", OVERLAY)
    return {file.with_suffix(".npz").relative_to(tmp_path).as_posix(): file.with_suffix(".npz") for file in run.scores}


def change(file, name, index, value):
    arrays = {**np.load(file)}
    arrays[name][index] = value
    np.savez(file, **arrays)


def test_a_table_has_a_row_for_each_example_and_a_column_for_each_method(files):
    ((name, table),) = predictions.tables(files).items()
    rows = list(csv.DictReader(table.decode().splitlines(), delimiter="\t"))
    arrays = np.load(files[TIES])
    assert name == TABLE and list(rows[0])[:3] == ["task", "index", "label"] and set(list(rows[0])[3:]) == set(OVERLAY["methods"])
    for task in {row["task"] for row in rows}:
        assert [int(row["ties"]) for row in rows if row["task"] == task] == arrays[f"{task}.prediction"].tolist()
        assert [int(row["label"]) for row in rows if row["task"] == task] == arrays[f"{task}.label"].tolist()


def test_nothing_is_told_where_nothing_changed(files):
    assert list(predictions.changed(TABLE, predictions.tables(files)[TABLE], files)) == []


@pytest.mark.parametrize("part", ["prediction", "label"])
@pytest.mark.parametrize("index", [0, 17, 39])
def test_a_changed_digit_is_named_with_method_task_and_index(part, index, files):
    table = predictions.tables(files)[TABLE]
    old = int(np.load(files[TIES])[f"movie.{part}"][index])
    change(files[TIES], f"movie.{part}", index, 9)
    said = f"ties of text, seed 0, test split, task movie, index {index}: {part} 9, expected {old}"
    assert list(predictions.changed(TABLE, table, files)) == [said]


def test_predictions_with_an_axis_too_many_are_cut(files):
    table, arrays = predictions.tables(files)[TABLE], {**np.load(files[TIES])}
    np.savez(files[TIES], **{**arrays, "movie.prediction": arrays["movie.prediction"][None]})
    assert max(map(len, predictions.changed(TABLE, table, files))) < 250


def test_a_changed_digit_of_the_table_is_named_too(files):
    lines = predictions.tables(files)[TABLE].decode().splitlines(keepends=True)
    lines[5] = lines[5].replace("\n", "1\n")
    (said,) = predictions.changed(TABLE, "".join(lines).encode(), files)
    assert lines[0].split()[-1] in said and "index 4: prediction" in said


def test_swapped_files_are_named_with_both_methods(files):
    table, other = predictions.tables(files)[TABLE], TIES.replace("ties", "pretrained")
    one, two = files[TIES].read_bytes(), files[other].read_bytes()
    files[TIES].write_bytes(two), files[other].write_bytes(one)
    said = list(predictions.changed(TABLE, table, files))
    assert {line.split()[0] for line in said} == {"ties", "pretrained"} and len(said) % 2 == 0


def test_methods_that_come_and_go_and_lost_examples_are_told(files):
    table = predictions.tables(files)[TABLE]
    fewer = {name: file for name, file in files.items() if name != TIES}
    assert "its columns are not the methods" in next(predictions.changed(TABLE, table, fewer))
    arrays = {name: values[:-1] for name, values in np.load(files[TIES]).items()}
    np.savez(files[TIES], **arrays)
    assert "39 values of prediction, expected 40" in next(predictions.changed(TABLE, table, files))


def test_a_pruned_trial_has_empty_cells_and_a_lost_task_of_another_is_told(tmp_path):
    arrays = {f"{task}.{part}": np.arange(5) for task in ("x", "y") for part in ("prediction", "label")}
    files = {f"results/validation/s/m-t{trial}/seed0/all.npz": tmp_path / f"{trial}.npz" for trial in (1, 2)}
    pruned, complete = files.values()
    np.savez(pruned, **{name: values for name, values in arrays.items() if name.startswith("x")})
    np.savez(complete, **arrays)
    ((name, table),) = predictions.tables(files).items()
    rows = list(csv.DictReader(table.decode().splitlines(), delimiter="\t"))
    assert [row["m-t1"] for row in rows] == [*map(str, range(5)), *[""] * 5]
    assert list(predictions.changed(name, table, files)) == []
    pruned.write_bytes(complete.read_bytes())
    said = [*predictions.changed(name, table, files)]
    assert "m-t1 of s, seed 0, validation split, task y, index 0: prediction 0, expected " in said
    np.savez(complete, **{name: values for name, values in arrays.items() if name.startswith("x")})
    said = [line for line in predictions.changed(name, table, files) if line.startswith("m-t2")]
    assert "0 values of prediction, expected 5" in said[0]
    tested = {name.replace("validation", "scores"): file for name, file in files.items()}
    with pytest.raises(UserError, match="y: m-t2 was tested on other examples than m-t1"):
        predictions.tables(tested)


def test_methods_with_other_examples_are_refused(files):
    change(files[TIES], "movie.label", 3, 9)
    with pytest.raises(UserError, match=r"all\.tsv: movie: .* was tested on other examples than"):
        predictions.tables(files)


def test_a_damaged_file_is_told(files):
    files[TIES].write_bytes(files[TIES].read_bytes()[:-40])
    with pytest.raises(UserError, match=r"all\.npz: cannot be read as predictions"):
        predictions.tables(files)


@pytest.mark.parametrize("metric", ["accuracy", "f1_accuracy", "matthews", "validation_accuracy"])
@pytest.mark.parametrize("key", ["value", "stderr", "n"])
def test_a_score_that_is_not_that_of_the_predictions_is_named(metric, key, tmp_path):
    random = np.random.default_rng(0)
    prediction, label = random.integers(0, 2, (2, 30))
    np.savez(tmp_path / "all.npz", **{"movie.prediction": prediction, "movie.label": label})
    name = metric.removeprefix("validation_")
    row = {
        "task": "movie",
        "metric": metric,
        "value": score(name, prediction, label),
        "stderr": standard_error(name, prediction, label),
        "n": 30,
    }
    (tmp_path / "all.json").write_text(json.dumps({"scores": [row]}))
    assert list(predictions.wrong_scores("all.json", tmp_path / "all.json")) == []
    (tmp_path / "all.json").write_text(json.dumps({"scores": [{**row, key: row[key] + 1}]}))
    (said,) = predictions.wrong_scores("all.json", tmp_path / "all.json")
    assert said == f"all.json: movie: {key} of {name} is {row[key] + 1}, the predictions give {row[key]}"
