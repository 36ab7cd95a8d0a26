"""Odd files, places, streams and limits: a merge is whole, or there is one message and nothing is lost."""

import os
import shutil
import subprocess
import sys
import threading

import pytest
import yaml
from models import ROOT, family
from project import LIMIT

import nan_merge
from nan_merge.cli import convert, import_mergekit
from nan_merge.core.atomic import CONTENT, place_of
from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError
from nan_merge.core.files import sha256
from nan_merge.core.parallel import parallel_map
from nan_merge.standalone.outputs import why_not_ours

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "workflow")}


@pytest.fixture
def models(tmp_path):
    family(tmp_path, experts=2)
    return tmp_path


def merge(folder, **options):
    given = {"base": folder / "base", "experts": {name: folder / name for name in "ab"}, "method": "task_arithmetic"}
    return nan_merge.merge(**{**given, "output": folder / "out", "quiet": True, **options})


def words(folder, *more):
    experts = [f"--expert={folder / name}" for name in "ab"]
    run = ["merge", "--base", folder / "base", *experts, "--method", "task_arithmetic", "--output", folder / "out", *more]
    return [sys.executable, "-m", "nan_merge.cli", *map(str, run)]


def state(folder):
    """Return what lies below a folder: the SHA-256 of files, the places that links lead to."""
    found = {path.relative_to(folder): path for path in folder.rglob("*")}
    return {
        name: os.readlink(path) if path.is_symlink() else sha256(path) if path.is_file() else path.is_dir()
        for name, path in found.items()
    }


# ---- what is no file --------------------------------------------------------------------------------------------------


def pipe(path):
    """Make a pipe with a writer, so that a reader gets an empty object and does not wait for ever."""
    os.mkfifo(path)
    threading.Thread(target=lambda: path.write_text("{}"), daemon=True).start()


KINDS = {
    "a pipe": (pipe, "is a pipe or a device"),
    "a device": (lambda path: path.symlink_to("/dev/null"), "is a pipe or a device"),
    "a folder": (lambda path: path.mkdir(), "is a folder"),
    "a broken link": (lambda path: path.symlink_to("../blobs/gone"), "is a link that leads nowhere"),
    "a link to itself": (lambda path: path.symlink_to(path), "is a link that leads nowhere"),
}
NAMES = ("config.json", "model.safetensors", "model.safetensors.index.json", "adapter_config.json")


@pytest.mark.parametrize("who", ["base", "a"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_named_where_a_file_is_expected(kind, name, who, models):
    """A broken link to config.json, as of a half download, was a model without a config."""
    make, message = KINDS[kind]
    path = models / who / name
    path.unlink(missing_ok=True)
    make(path)
    with pytest.raises(UserError) as error:
        merge(models)
    assert str(error.value) == f"{path}: {message}; expected a file; put the file there, or fetch the model again"
    assert not (models / "out").exists()


# ---- odd outputs ------------------------------------------------------------------------------------------------------


def merged_aside(folder):
    """A merge that a process killed between two renames has left aside."""
    merge(folder)
    place_of(folder / "out").mkdir()
    (place_of(folder / "out") / "lock").write_bytes(CONTENT)
    (folder / "out").rename(place_of(folder / "out") / "old")


def only_a_link(folder):
    merge(folder, output=folder / "first")
    (folder / "out").mkdir()
    (folder / "out/provenance.json").symlink_to("../first/provenance.json")


def in_the_way(make):
    def act(folder):
        place_of(folder / "out").mkdir()
        make(place_of(folder / "out") / "lock")

    return act


OUTPUTS = {  # what lies there, options, message
    "a link to itself": (lambda folder: (folder / "out").symlink_to("out"), {}, "its links lead in a circle"),
    "below a link to itself": (
        lambda folder: (folder / "loop").symlink_to("loop"),
        {"output": "loop/out"},
        "its links lead in a circle",
    ),
    "a link to the base": (lambda folder: (folder / "out").symlink_to("base"), {}, "would replace or lie in the input 'base'"),
    "the base": (None, {"output": "base"}, "would replace or lie in the input 'base'"),
    "a folder above": (None, {"output": "."}, "would replace or lie in the input 'base'"),
    "inside the base": (None, {"output": "base/sub/out"}, "would replace or lie in the input 'base'"),
    "a device": (None, {"output": "/dev/null"}, "it is a file"),
    "a name with NUL": (None, {"output": "o\0ut"}, "holds the character NUL"),
    "a name that is too long": (None, {"output": "x" * 250}, "shorten the name"),
    "below a file": (None, {"output": "base/config.json/out"}, "expected a folder, found a file"),
    "nowhere to write": (None, {"output": "/proc/out"}, "correct the path, or choose another folder"),
    "a link to a provenance": (only_a_link, {}, "files of it were changed: provenance.json"),
    "a lock that is a link": (
        in_the_way(lambda lock: lock.symlink_to("../base/config.json")),
        {},
        "was not made by this program",
    ),
    "a lock that is a folder": (in_the_way(lambda lock: lock.mkdir()), {}, "was not made by this program"),
    "a lock that is a pipe": (in_the_way(os.mkfifo), {}, "was not made by this program"),
    "an export to the output": (None, {"export_mergekit": "out"}, "is or lies in the output"),
    "an export to a pipe": (
        lambda folder: os.mkfifo(folder / "pipe"),
        {"export_mergekit": "pipe"},
        "no config that was exported",
    ),
    "an export through a link": (
        lambda folder: (folder / "m.yml").symlink_to("base/model.safetensors"),
        {"export_mergekit": "m.yml"},
        "no config that was exported",
    ),
}


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_odd_output_is_refused_and_nothing_changes(output, models):
    make, options, message = OUTPUTS[output]
    (make or (lambda folder: None))(models)
    before = state(models)
    with pytest.raises(UserError) as error:
        merge(models, overwrite=True, **{key: models / value for key, value in options.items()})
    assert message in str(error.value)
    assert state(models) == before


def test_a_merge_that_was_left_aside_is_read_as_an_input(models):
    merged_aside(models)
    merge(models, experts={"out": models / "out", "b": models / "b"}, output=models / "next")
    assert why_not_ours(models / "out") == why_not_ours(models / "next") == ""
    assert not place_of(models / "out").exists()


def test_a_merge_that_was_left_aside_is_not_replaced_unasked(models):
    merged_aside(models)
    with pytest.raises(UserError, match="out: exists already"):
        merge(models)
    assert why_not_ours(models / "out") == ""


def test_many_merges_at_once_replace_an_output_one_after_the_other(models):
    """Real processes that all overwrite: each succeeds or is refused, and the output is whole after every round."""
    merge(models)
    for _ in range(3):
        runs = [
            subprocess.Popen(words(models, "--overwrite", "--quiet"), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        said = [run.communicate(timeout=LIMIT)[1] for run in runs]
        assert {run.returncode for run in runs} <= {0, 1} and 0 in [run.returncode for run in runs]
        assert all("another process is writing it" in text for run, text in zip(runs, said, strict=True) if run.returncode)
        assert why_not_ours(models / "out") == ""
    assert sorted(path.name for path in models.iterdir()) == ["a", "b", "base", "out"]


# ---- streams and limits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_lose_no_merge(closed, models):
    """A file of the model that got the number of a closed stream would hold what is printed."""
    done = subprocess.run(
        ["sh", "-c", f'exec {closed} && exec "$@"', "sh", *words(models)], env=ENVIRONMENT, capture_output=True, check=False
    )
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    assert why_not_ours(models / "out") == ""


@pytest.mark.parametrize("blocks", [1, 4, 7, 12])
def test_a_real_limit_of_the_size_of_files_leaves_the_old_merge(blocks, models):
    """1 to 7: the weights are too long; 12: the documents may be."""
    merge(models)
    before = state(models)
    shell = ["sh", "-c", f'ulimit -f {blocks} && exec "$@"', "sh", *words(models, "--overwrite", "--quiet")]
    done = subprocess.run(shell, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if blocks < 12:
        assert done.returncode == 1 and done.stderr.startswith("error: File too large (")
        assert "new.out/model.safetensors): the file system or `ulimit -f` allows no file" in done.stderr
        assert state(models) == before
    else:
        assert done.returncode == 0 and "Traceback" not in done.stderr


def test_a_full_disk_behind_stdout_says_that_the_merge_is_written(models):
    with open("/dev/full", "w") as full:
        done = subprocess.run(words(models), env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert last == f"error: No space left on device (standard output; {models / 'out'} is written): free some space and run again"
    assert why_not_ours(models / "out") == ""


def test_no_more_threads_start_than_there_is_work(monkeypatch):
    start, started = threading.Thread.start, []
    monkeypatch.setattr(threading.Thread, "start", lambda thread: (started.append(thread), start(thread)))
    assert parallel_map(range(3), lambda: lambda item: -item, 1_000_000) == [0, -1, -2]
    assert len(started) <= 3


# ---- values that are none ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 1e309])
def test_a_number_of_a_method_is_finite(value, models):
    """It was blamed on the card of the base."""
    with pytest.raises(UserError, match=rf"coefficients.constant.value: expected a number .*, found {value}"):
        merge(models, set={"coefficients.constant.value": value})


def config(folder, **more):
    models = [{"model": str(folder / "a"), "parameters": {"weight": 0.5}}]
    return {"merge_method": "task_arithmetic", "base_model": str(folder / "base"), "models": models, "dtype": "float32", **more}


@pytest.mark.parametrize("name", ["../../far/x", "/far/x", "sub/x", "x\0y"])
def test_the_name_of_a_foreign_document_leads_nowhere(name, models, capsys):
    (models / "m.yml").write_text(yaml.safe_dump_all([config(models, name=name), config(models)]))
    before = state(models)
    with pytest.raises(SystemExit):
        command_line(lambda: import_mergekit.main([str(models / "m.yml"), "--output", str(models / "deep/er/out")]))
    assert "expected a text that can be a part of a folder's name" in capsys.readouterr().err
    assert state(models) == before


# ---- conversions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["open_clip", "transformers"])
def test_a_conversion_of_nothing_is_one_message(to, tmp_path):
    with pytest.raises(UserError, match="gone: no such folder or file; correct the path"):
        convert.main([str(tmp_path / "gone"), "--to", to, "--output", str(tmp_path / "out")])


def test_a_conversion_passes_by_what_is_no_file(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    pipe(model / "x.pt")
    (model / "y.pt").mkdir()
    with pytest.raises(UserError, match="0 weight files"):
        convert.main([str(model), "--to", "transformers", "--output", str(tmp_path / "out")])


def test_a_conversion_takes_a_fine_tuned_file(world, tmp_path):
    file = next(file for file in sorted((world / "hub/one").rglob("*")) if file.suffix in (".pt", ".bin", ".safetensors"))
    given = ["--to", "transformers", "--base", str(world / "hub/base"), "--output"]
    shutil.copy(file, tmp_path / f"tuned{file.suffix}")
    convert.main([str(tmp_path / f"tuned{file.suffix}"), *given, str(tmp_path / "file")])
    convert.main([str(world / "hub/one"), *given, str(tmp_path / "folder")])
    assert sha256(tmp_path / "file/model.safetensors") == sha256(tmp_path / "folder/model.safetensors")
