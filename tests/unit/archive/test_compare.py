"""Two archives side by side: paired where seeds and examples are the same, and told where they are not."""

import io
import json
import zipfile

import numpy as np
import pytest
import yaml
from fabricated_run import EXAMPLES, FabricatedRun

from nan_merge.archive import compare, container
from nan_merge.archive.container import opened
from nan_merge.core.errors import UserError
from scripts.compare_archives import compared, text

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


def packed(**arrays):
    """Return a file of predictions of the task x."""
    out = io.BytesIO()
    np.savez(out, **{f"x.{part}": np.array(values) for part, values in arrays.items()})
    return out.getvalue()


def scored(**changes):
    row = {"suite": "s", "method": "m", "task": "x", "metric": "accuracy", "seed": 0, "value": 1.0}
    return json.dumps({"scores": [{**row, **changes}]}).encode()


SCORES, ANSWERS, DIGEST = (
    "results/scores/s/m/seed0/all.json",
    "results/scores/s/m/seed0/all.npz",
    "results/digests/s/m/seed0.json",
)
SMALL = {
    compare.CONFIG: b"methods: {}\n",
    SCORES: scored(),
    ANSWERS: packed(prediction=[1, 0], label=[1, 0]),
    DIGEST: b'{"sha256": {}, "tensors": {"a": "0"}}',
}


@pytest.fixture
def small(tmp_path):
    container.write(tmp_path / "a.zip", {}, SMALL)
    return tmp_path / "a.zip"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((compare.CONFIG, content) for content in (b"\xff", b"[1]", b"")),
        *((SCORES, content) for content in (b"{}", b"[1]", scored(value="x"), scored(value=None), scored(seed="zero"))),
        *(
            (ANSWERS, packed(**arrays))
            for arrays in (
                {"label": [1, 0]},
                {"prediction": [1], "label": [1, 0]},
                {"prediction": [[1, 0]], "label": [[1, 0]]},
                {"prediction": ["x"], "label": [0.5]},
            )
        ),
    ],
)
def test_a_file_of_another_content_is_told(name, content, small, tmp_path):
    container.write(tmp_path / "b.zip", {}, {**SMALL, name: content})
    with pytest.raises(UserError, match=rf"b\.zip: {name}: is not what this version writes there \("):
        compared(small, tmp_path / "b.zip")


def test_seeds_with_other_numbers_of_examples_are_not_paired(tmp_path):
    more = {SCORES: scored(seed=1), ANSWERS: packed(prediction=[1], label=[1])}
    container.write(tmp_path / "a.zip", {}, {**SMALL, **{name.replace("seed0", "seed1"): each for name, each in more.items()}})
    (row,) = compared(tmp_path / "a.zip", tmp_path / "a.zip")["averages"]
    assert row["a"] == row["b"] == 1 and row["p"] is None


@pytest.mark.parametrize("tensors", [[1, 2], None, "ab"])
def test_digests_of_another_kind_are_told_by_their_lines(tensors, small, tmp_path):
    container.write(tmp_path / "b.zip", {}, {**SMALL, DIGEST: json.dumps({"sha256": {}, "tensors": tensors}).encode()})
    (found,) = compared(small, tmp_path / "b.zip")["files"]
    assert found["file"] == DIGEST and found["difference"].startswith("line 1 is ")


TABLE = "results/tables/main_s.csv"


def table(**values):
    """Return a main table with a row of each method, which has the tasks x and y and no number for z."""
    lines = ["suite,method,x,x_percent,y,y_percent,z,z_percent,average,average_percent"]
    return "\n".join([*lines, *(f"s,{name},{x},1,{y},1,,,0,0" for name, (x, y) in values.items())]).encode()


def test_tables_alone_are_compared_by_their_averages_and_by_digests(tmp_path):
    whole = {**SMALL, TABLE: table(m=(0.5, 0.75), only=(1, 1))}
    other = {**whole, TABLE: table(m=(0.5, 0.25), other=(1, 1)), ANSWERS: packed(prediction=[0, 0], label=[1, 0])}
    container.write(tmp_path / "a.zip", {}, whole)
    container.write(tmp_path / "b.zip", {}, {TABLE: other[TABLE], container.WHOLE: container.manifest({}, other)})
    for files, numbers in ((("a.zip", "b.zip"), (0.625, 0.375)), (("b.zip", "a.zip"), (0.375, 0.625))):
        found = compared(*(tmp_path / name for name in files))
        (row,) = found["averages"]
        assert (row["suite"], row["method"], row["tasks"], row["a"], row["b"], row["p"]) == ("s", "m", 2, *numbers, None)
        assert found["settings"] is found["scores"] is None
        assert found["files"] == [{"file": ANSWERS, "difference": "other bytes"}]
        shown = "\n".join(text(found))
        assert "single scores: not compared" in shown and "of those in both: 1" in shown
    assert compared(tmp_path / "b.zip", tmp_path / "b.zip")["files"] == []


@pytest.mark.parametrize("content", [b"suite\ns\n", b"\xff", table(m=("x", 1))])
def test_a_table_of_another_content_is_told(content, tmp_path):
    container.write(tmp_path / "b.zip", {}, {TABLE: content, container.WHOLE: container.manifest({}, {})})
    with pytest.raises(UserError, match=rf"b\.zip: {TABLE}: is not what this version writes there \("):
        compared(tmp_path / "b.zip", tmp_path / "b.zip")


@pytest.mark.parametrize("content", [b"{}", b"[]", b'{"files": {"results/digests/a": 1}}', b"\xff"])
def test_a_whole_manifest_of_another_content_is_told(content, tmp_path):
    container.write(tmp_path / "b.zip", {}, {TABLE: table(), container.WHOLE: content})
    with pytest.raises(UserError, match=rf"b\.zip: {container.WHOLE}: "):
        compared(tmp_path / "b.zip", tmp_path / "b.zip")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(({name: b"{}"}, f"{name}: is not the file of its manifest") for name in SMALL),
        ({DIGEST: None}, f"has not the files of its manifest: missing: {DIGEST}; run nan-merge verify"),
        ({"more.txt": b""}, r"has not the files of its manifest: not listed in it: more\.txt; run nan-merge verify"),
    ],
)
def test_a_file_that_changed_beside_the_manifest_is_no_difference(change, message, small, tmp_path):
    with zipfile.ZipFile(small) as bundle, zipfile.ZipFile(tmp_path / "b.zip", "w") as other:
        for name, content in ({name: bundle.read(name) for name in bundle.namelist()} | change).items():
            if content is not None:
                other.writestr(name, content)
    assert compared(small, small)["files"] == []
    with pytest.raises(UserError, match=rf"b\.zip: {message}"):
        compared(small, tmp_path / "b.zip")
