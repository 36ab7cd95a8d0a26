"""A merge deletes nothing but an older merge as it was written, and its inputs stay as they were."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from models import ROOT, family, save, tensors_of
from project import LIMIT

import nan_merge
from nan_merge.checkpoints.writer import WINDOW, Writer, digest
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json, sha256
from nan_merge.standalone import documented_merge, merge_models
from nan_merge.standalone.outputs import why_not_ours

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "workflow")}


def state(folder):
    """Return the SHA-256 of every file below a folder."""
    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def merge(folder, method="task_arithmetic", **options):
    given = {"base": folder / "base", "experts": {name: folder / name for name in "ab"}, "output": folder / "out", "quiet": True}
    return nan_merge.merge(**{**given, "method": method, **options})


def words(folder, *more, method="task_arithmetic"):
    experts = [f"--expert={folder / name}" for name in "ab"]
    base = ["merge", "--base", folder / "base", *experts, "--method", method, "--output", folder / "out", "--quiet", *more]
    return [sys.executable, "-m", "nan_merge.cli", *map(str, base)]


@pytest.fixture
def models(tmp_path):
    family(tmp_path, experts=2)
    return tmp_path


# ---- what may be replaced ---------------------------------------------------------------------------------------------


def test_a_merge_lists_its_files_with_their_digests(models):
    merge(models)
    listed = read_json(models / "out/provenance.json")["files"]
    assert set(listed) == set(state(models / "out"))
    for name, about in listed.items():
        if name != "provenance.json":
            assert about == {"size": (models / "out" / name).stat().st_size, "xxh3_128": digest(models / "out" / name)}
    assert why_not_ours(models / "out") == ""


def test_the_digest_of_what_is_written_is_that_of_the_file(tmp_path):
    values = np.arange(3 * WINDOW // 4, dtype=np.float32)
    writer = Writer(tmp_path, {"model.safetensors": ["w"]}, {"w": ("F32", values.shape)})
    for start in (len(values) // 2, 0):
        writer.write("w", start, values[start : start + len(values) // 2])
    writer.close()
    assert writer.digests() == {"model.safetensors": digest(tmp_path / "model.safetensors")}


NOT_OURS = {
    "a note that the user added": (
        lambda out: (out / "notes.txt").write_text("mine"),
        "files that are not of the merge: notes.txt",
    ),
    "a folder that the user added": (
        lambda out: ((out / "thesis").mkdir(), (out / "thesis/main.tex").write_text("mine")),
        "files that are not of the merge: thesis/main.tex",
    ),
    "a link": (lambda out: (out / "link").symlink_to("/nowhere"), "files that are not of the merge: link"),
    "weights trained further": (
        lambda out: save_over(out / "model.safetensors"),
        "files of it were changed: model.safetensors",
    ),
    "a card that was edited": (lambda out: (out / "README.md").write_text("mine"), "files of it were changed: README.md"),
    "a provenance that was edited": (
        lambda out: (out / "provenance.json").write_text(json.dumps({**read_json(out / "provenance.json"), "seed": 7})),
        "files of it were changed: provenance.json",
    ),
    "a provenance of something else": (lambda out: (out / "provenance.json").write_text("{}"), "does not list its files"),
    "a provenance that is no JSON": (lambda out: (out / "provenance.json").write_text("a painting"), "not valid JSON"),
    "no provenance": (lambda out: (out / "provenance.json").unlink(), "it has no provenance.json"),
}


def save_over(file):
    """Change one number of a weight file; size and names stay."""
    with open(file, "r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x3f")


@pytest.mark.parametrize("change", NOT_OURS)
def test_what_is_not_the_merge_as_it_was_written_is_refused(change, models):
    merge(models)
    act, reason = NOT_OURS[change]
    act(models / "out")
    before = state(models)
    with pytest.raises(UserError) as error:
        merge(models, overwrite=True, method="ties")
    assert reason in str(error.value) and "remove the folder by hand" in str(error.value)
    assert state(models) == before


OFFER = re.compile(r"(add|set) (--)?overwrite")
TELL_BY_SIZE = [change for change in NOT_OURS if change not in ("weights trained further", "a provenance that was edited")]


@pytest.mark.parametrize("change", TELL_BY_SIZE)
def test_to_overwrite_is_no_way_out_where_that_is_refused(change, models):
    merge(models)
    NOT_OURS[change][0](models / "out")
    with pytest.raises(UserError) as error:
        merge(models)
    assert NOT_OURS[change][1] in str(error.value) and not OFFER.search(str(error.value))


def test_to_overwrite_is_no_way_out_for_a_file_an_input_and_a_config_of_another_program(models):
    merge(models)
    (models / "file").write_text("mine")
    for changes in (
        {"output": models / "file"},
        {"output": models / "base"},
        {"experts": {"a": models / "a", "old": models / "out"}},
        {"output": models / "new", "export_mergekit": models / "file"},
    ):
        for overwrite in (False, True):
            with pytest.raises(UserError) as error:
                merge(models, **changes, overwrite=overwrite)
            assert not OFFER.search(str(error.value)), error.value
    assert (models / "file").read_text() == "mine"


def test_a_folder_with_a_thesis_and_a_file_of_that_name_is_refused(models):
    (models / "out").mkdir()
    (models / "out/provenance.json").write_text('{"painting": "bought in 1912"}')
    (models / "out/thesis.tex").write_text("mine")
    before = state(models)
    with pytest.raises(UserError, match="does not list its files"):
        merge(models, overwrite=True)
    assert state(models) == before


def test_an_unchanged_merge_and_an_empty_folder_are_replaced(models):
    merge(models)
    first = state(models / "out")
    merge(models, overwrite=True, method="ties")
    assert state(models / "out") != first
    shutil.rmtree(models / "out")
    (models / "out").mkdir()
    merge(models, overwrite=True)
    assert state(models / "out") == first
    assert not [path for path in models.iterdir() if path.name.startswith(".")]


def test_a_file_that_is_added_while_merging_is_kept(models, monkeypatch, capsys):
    merge(models)
    document = documented_merge.document
    monkeypatch.setattr(
        documented_merge, "document", lambda *given: ((models / "out/late.txt").write_text("mine"), document(*given))
    )
    merge(models, overwrite=True, method="ties")
    assert (models / "out.old/late.txt").read_text() == "mine" and not (models / "out/late.txt").exists()
    assert "what was replaced had changed meanwhile; it is kept" in capsys.readouterr().err


@pytest.mark.parametrize("output", [".", "..", "../out", "link"])
def test_a_relative_output_is_resolved_first(output, models, monkeypatch):
    merge(models)
    first = state(models / "out")
    merge(models, overwrite=True, method="ties")
    (models / "out/sub").mkdir()  # an empty folder is nothing to lose
    (models / "link").symlink_to(models / "out")
    monkeypatch.chdir(models if output == "link" else models / "out/sub" if output == ".." else models / "out")
    found = merge(models, output=Path(output), overwrite=True)
    assert found.output == Path(output)
    names = {name for name in first if name not in ("provenance.json", "README.md")}  # which hold the command and the name
    assert {name: state(models / "out")[name] for name in names} == {name: first[name] for name in names}
    assert (models / "link").is_symlink() and {path.name for path in models.iterdir()} == {"base", "a", "b", "out", "link"}


@pytest.mark.parametrize("mount", ["mount -t tmpfs none out", "mount --bind out out"])
def test_a_mount_point_as_output_is_refused_before_the_merge(mount, models, isolated):
    (models / "out").mkdir()
    shell = [*isolated("--mount"), "sh", "-c", f'{mount} && exec "$@"', "sh", *words(models, "--overwrite")]
    done = subprocess.run(shell, cwd=models, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "is a mount point, which cannot be replaced whole; choose a folder inside it" in done.stderr
    assert "coefficients of" not in done.stdout, "before the passes over the models"


# ---- several merges at once -------------------------------------------------------------------------------------------


def test_of_two_merges_into_one_output_one_is_refused(models):
    """Real processes: both start; the one that comes second says so, and the output is a whole merge."""
    runs = [subprocess.Popen(words(models), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [run.communicate(timeout=LIMIT)[1] for run in runs]
    codes = [run.returncode for run in runs]
    assert codes.count(0) == 1 and codes.count(1) == 2
    for code, text in zip(codes, said, strict=True):
        assert code == 0 or "another process is writing it" in text or "exists already" in text
    assert why_not_ours(models / "out") == ""
    assert not [path for path in models.iterdir() if path.name.startswith(".")]


def test_a_second_merge_is_refused_at_its_start(models, monkeypatch):
    said = []

    def refused():
        with pytest.raises(UserError) as error:
            merge(models)
        said.append(error)

    def second(*given):
        thread = threading.Thread(target=refused)
        thread.start()
        thread.join()
        return find(*given)

    find = merge_models.find
    monkeypatch.setattr(merge_models, "find", second)
    merge(models)
    assert len(said) == 3 and all("another process is writing it" in str(each.value) for each in said)
    assert why_not_ours(models / "out") == ""


# ---- the export -------------------------------------------------------------------------------------------------------


def test_an_export_goes_to_a_new_file_or_replaces_an_older_export(models):
    merge(models, export_mergekit=models / "m.yml")
    text = (models / "m.yml").read_text()
    with pytest.raises(UserError, match=r"export_mergekit .*m.yml: exists already; choose another file, or set overwrite=True"):
        merge(models, output=models / "out2", export_mergekit=models / "m.yml")
    assert not (models / "out2").exists()
    merge(models, export_mergekit=models / "m.yml", overwrite=True, method="weight_averaging")
    assert (models / "m.yml").read_text() != text


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["base/model.safetensors", "base/config.json", "a/new/../model.safetensors", "b"])
def test_an_export_never_replaces_anything_else(name, overwrite, models):
    before = state(models)
    (models / "a/new").mkdir()
    with pytest.raises((UserError, IsADirectoryError)):
        merge(models, export_mergekit=models / name, overwrite=overwrite)
    assert state(models) == before


def test_an_export_into_the_output_is_refused(models):
    merge(models)
    with pytest.raises(UserError, match="lies in the output, which is replaced whole"):
        merge(models, export_mergekit=models / "out/m.yml", overwrite=True)


# ---- inputs that change -----------------------------------------------------------------------------------------------


def rewritten(file):
    """Replace a file by one of the same size with other numbers, as a training run does."""
    data = file.read_bytes()
    file.with_name("tmp").write_bytes(data[:-4] + bytes(4))
    file.with_name("tmp").replace(file)


CHANGES = {
    "replaced": (rewritten, "it is another file now"),
    "written again": (lambda file: (save_over(file), os.utime(file, (1, 1))), "its time of modification is another"),
    "longer": (lambda file: file.open("ab").write(b"x"), "its size was"),
    "gone": (lambda file: file.unlink(), "No such file"),
    "linked elsewhere": (
        lambda file: (file.rename(file.with_name("w")), file.symlink_to("w")),
        "it is a link to",
    ),
}


@pytest.mark.parametrize("when", ["norms", "thresholds", "processed", "merge"])
@pytest.mark.parametrize("change", CHANGES)
def test_an_input_that_changes_between_passes_ends_the_merge(change, when, models, monkeypatch):
    act, message = CHANGES[change]
    place, name = (documented_merge, "merge") if when == "merge" else (merge_models, when)
    original = getattr(place, name)

    def then(*given, **more):
        finish = more.get("finish")
        if finish is not None:
            more["finish"] = lambda *each: (act(models / "b/model.safetensors"), finish(*each))
            return original(*given, **more)
        result = original(*given, **more)
        act(models / "b/model.safetensors")
        return result

    monkeypatch.setattr(place, name, then)
    with pytest.raises(UserError, match=rf"b/model.safetensors: was changed during the merge \(.*{message}.*\), so nothing was"):
        merge(models, method="ties+nan_processed" if when == "processed" else "ties+nan_delta")
    assert not (models / "out").exists()


def test_an_input_that_links_into_the_output_is_refused(models):
    merge(models)
    (models / "c").mkdir()
    for name in ("model.safetensors", "config.json"):
        (models / "c" / name).symlink_to(models / "out" / name)
    before = state(models)
    with pytest.raises(UserError, match=r"out: would replace .*out/.*, which the input .*c/.* is a link to; choose another"):
        merge(models, experts={"a": models / "a", "c": models / "c"}, overwrite=True)
    assert state(models) == before


# ---- documents never lose a merge -------------------------------------------------------------------------------------


def test_documents_are_composed_before_the_merge(models, monkeypatch):
    monkeypatch.setattr(documented_merge, "merge", lambda *_, **__: pytest.fail("merged"))
    monkeypatch.setattr(documented_merge, "card", lambda record: record["no such key"])
    with pytest.raises(UserError, match="do not fit a model card"):
        merge(models)
    monkeypatch.setattr(documented_merge, "origin", lambda *_: int("an impossible date"))
    with pytest.raises(UserError, match=r"base: its README.md, its configs or its name do not fit a model card"):
        merge(models)


def test_a_document_that_cannot_be_written_leaves_the_merge_and_is_an_error(models, monkeypatch):
    merge(models, output=models / "first")

    def full(folder, *_):
        (folder / "provenance.json").write_text("")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(documented_merge, "document", full)
    with pytest.raises(UserError, match=r"out: the merged model is whole and stays, its documents .*No space .*merge again"):
        merge(models)
    assert sha256(models / "out/model.safetensors") == sha256(models / "first/model.safetensors")
    with pytest.raises(UserError, match=r"it has no provenance\.json"):
        merge(models, overwrite=True)


def test_a_merge_whose_reader_goes_away_is_written(models):
    for broken in ("stdout", "stderr"):
        reader, writer = os.pipe()
        os.close(reader)
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, broken: writer}
        run = [word for word in words(models, "--overwrite") if word != "--quiet"]
        done = subprocess.run(run, env=ENVIRONMENT, check=False, text=True, **streams)
        os.close(writer)
        assert done.returncode in (0, 141) and "Traceback" not in str(done.stderr)
        assert why_not_ours(models / "out") == ""
        shutil.rmtree(models / "out")


def test_a_full_disk_behind_stdout_is_one_line_and_the_merge_is_written(models):
    with open("/dev/full", "w") as full:
        done = subprocess.run(words(models), env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: No space left on device") and done.stderr.count("\n") == 1
    assert tensors_of(models / "out")


def test_a_folder_whose_name_is_no_text_does_not_end_in_a_traceback(models):
    done = subprocess.run(
        [*words(models)[:-2], os.fsencode(models) + b"/\xff", "--quiet"], env=ENVIRONMENT, capture_output=True, check=False
    )
    assert b"Traceback" not in done.stderr
    assert done.returncode in (0, 1)


# ---- errors of the system ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["EIO", "ESTALE"])
def test_a_read_that_fails_names_file_and_way_out(kind, models, monkeypatch):
    def fails(*_):
        raise OSError(getattr(errno, kind), os.strerror(getattr(errno, kind)))

    monkeypatch.setattr(os, "preadv", fails)
    with pytest.raises(UserError, match=rf"{os.strerror(getattr(errno, kind))} \(.*model.safetensors\): "):
        merge(models)
    assert not (models / "out").exists()


@pytest.mark.parametrize("kind", ["ENOSPC", "EFBIG", "EIO", "EDQUOT"])
@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "ftruncate", "fsync"])
def test_a_write_that_fails_names_file_and_way_out(call, kind, models, monkeypatch):
    original = getattr(os, call)

    def fails(handle, *given):
        if not os.readlink(f"/proc/self/fd/{handle}").endswith("model.safetensors"):
            return original(handle, *given)
        raise OSError(getattr(errno, kind), os.strerror(getattr(errno, kind)))

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(UserError, match=rf"{os.strerror(getattr(errno, kind))} \(.*model.safetensors\): "):
        merge(models)
    assert not (models / "out").exists()


def test_a_name_that_is_too_long_and_a_file_in_the_way_are_named(models):
    for output, message in ((models / ("x" * 300), "File name too long"), (models / "base/config.json/out", "Not a directory")):
        with pytest.raises(UserError, match=message):
            merge(models, output=output)


# ---- many models ------------------------------------------------------------------------------------------------------


def test_three_hundred_shards_a_model_are_merged_with_few_open_files(tmp_path):
    rng = np.random.default_rng(0)
    base = {f"layers.{number}.weight": rng.standard_normal((2, 3), np.float32) for number in range(300)}
    save(tmp_path / "base", base, shards=300)
    for name in "ab":
        save(tmp_path / name, {key: value + np.float32(0.1) for key, value in base.items()}, shards=300)
    shell = ["sh", "-c", 'ulimit -n 256 && exec "$@"', "sh", *words(tmp_path, method="task_arithmetic+nan_delta")]
    done = subprocess.run(shell, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    assert len(tensors_of(tmp_path / "out")) == 300


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("method", ["task_arithmetic+nan_delta", "ties"])
def test_a_thousand_experts_are_merged_with_the_numbers_of_numpy(method, dtype, tmp_path):
    """More than one kernel takes, and more than there may be open files."""
    base = {"w": np.linspace(-1, 1, 6).astype(dtype)}
    save(tmp_path / "base", base)
    moves = [np.float32(0.125 * (number % 8 + 1)) for number in range(1000)]
    experts = {
        f"e{number:04}": save(tmp_path / f"e{number:04}", {"w": (base["w"].astype(np.float32) + move).astype(dtype)})
        for number, move in enumerate(moves)
    }
    found = nan_merge.merge(base=tmp_path / "base", experts=experts, method=method, output=tmp_path / "out", quiet=True)
    assert len(found.coefficients) == 1000
    if method != "ties":
        theta = base["w"].astype(np.float64)
        steps = (tensors_of(folder)["w"].astype(np.float64) - theta for folder in experts.values())
        expected = theta + sum(found.coefficients[name]["model"] * step for name, step in zip(experts, steps, strict=True))
        tolerance = 1e-6 if dtype is np.float32 else 1e-2
        assert tensors_of(tmp_path / "out")["w"].astype(np.float64) == pytest.approx(expected, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("to", ["open_clip", "transformers"])
def test_a_conversion_never_replaces_a_folder(to, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("mine")
    run = [sys.executable, "-m", "nan_merge.cli", "convert", tmp_path, "--to", to, "--output", tmp_path / "out"]
    done = subprocess.run(list(map(str, run)), env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and f"{tmp_path / 'out'}: exists already; choose another --output" in done.stderr
    assert (tmp_path / "out/thesis.tex").read_text() == "mine"
