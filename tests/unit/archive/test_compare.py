"""Two archives side by side: paired where seeds and examples are the same, and told where they are not."""

import io
import json

import numpy as np
import pytest
import yaml
from fabricated_run import EXAMPLES, FabricatedRun

from nan_merge.archive import compare, container
from nan_merge.archive.container import opened

OVERLAY = {"suites": ["text"], "seeds": [0, 1], "methods": ["pretrained", "individual", "ties"], "tables": [], "figures": []}
TIES = "results/scores/text/ties/seed1/all"


@pytest.fixture
def members(tmp_path):
    """The scores and predictions of a run with two seeds, and a config."""
    run = FabricatedRun(tmp_path / "results", OVERLAY)
    files = [file.with_suffix(suffix) for file in run.scores for suffix in (".json", ".npz")]
    config = yaml.safe_dump({"config": OVERLAY, "methods": {"ties": {"value": 0.3}}}).encode()
    return {compare.CONFIG: config, **{file.relative_to(tmp_path).as_posix(): file.read_bytes() for file in files}}


def averages(tmp_path, one, two):
    """Return the averages of two runs by method."""
    for name, members in (("a.zip", one), ("b.zip", two)):
        container.write(tmp_path / name, {}, members)
    with opened(tmp_path / "a.zip") as a, opened(tmp_path / "b.zip") as b:
        return {row.method: row for row in compare.averages(a, b)}


def corrected(members, task, index):
    """Return the members with one wrong answer of TIES, seed 1, made right, and its score."""
    arrays = dict(np.load(io.BytesIO(members[f"{TIES}.npz"])))
    arrays[f"{task}.prediction"][index] = arrays[f"{task}.label"][index]
    scores = json.loads(members[f"{TIES}.json"])
    (row,) = (row for row in scores["scores"] if row["task"] == task)
    row["value"] += 1 / EXAMPLES
    out = io.BytesIO()
    np.savez(out, **arrays)
    return {**members, f"{TIES}.npz": out.getvalue(), f"{TIES}.json": json.dumps(scores).encode()}


def test_a_corrected_answer_is_one_changed_prediction_of_all_seeds(members, tmp_path):
    arrays = np.load(io.BytesIO(members[f"{TIES}.npz"]))
    index = int(np.flatnonzero(arrays["movie.prediction"] != arrays["movie.label"])[0])
    found = averages(tmp_path, members, corrected(members, "movie", index))
    tasks, seeds = 3, 2
    row = found["ties"]
    assert (row.tasks, row.changed, row.n) == (tasks, 1, tasks * seeds * EXAMPLES)
    assert row.b - row.a == pytest.approx(1 / (EXAMPLES * tasks * seeds)) and row.low <= row.b - row.a <= row.high
    assert (found["individual"].changed, found["individual"].p) == (0, 1)


@pytest.mark.parametrize("gone", ["seed1", "/ties/seed1"])
def test_other_seeds_are_averaged_and_not_paired(gone, members, tmp_path):
    fewer = {name: content for name, content in members.items() if gone not in name}
    row = averages(tmp_path, members, fewer)["ties"]
    kept = json.loads(members[f"{TIES.replace('seed1', 'seed0')}.json"])["scores"]
    assert row.b == pytest.approx(np.mean([each["value"] for each in kept])) and row.a != row.b
    assert (row.low, row.p, row.changed) == (None, None, None)


def test_other_examples_are_not_paired(members, tmp_path):
    arrays = dict(np.load(io.BytesIO(members[f"{TIES}.npz"])))
    arrays["movie.label"][0] += 1
    out = io.BytesIO()
    np.savez(out, **arrays)
    found = averages(tmp_path, members, {**members, f"{TIES}.npz": out.getvalue()})
    assert found["ties"].p is None and found["individual"].p == 1


def test_settings_that_differ_are_named_with_both_values(members, tmp_path):
    other = {**members, compare.CONFIG: members[compare.CONFIG].replace(b"value: 0.3", b"level: 0.4")}
    for name, each in (("a.zip", members), ("b.zip", other)):
        container.write(tmp_path / name, {}, each)
    with opened(tmp_path / "a.zip") as a, opened(tmp_path / "b.zip") as b:
        assert compare.settings(a, b) == [("methods.ties.level", None, 0.4), ("methods.ties.value", 0.3, None)]
        assert compare.settings(a, a) == []
