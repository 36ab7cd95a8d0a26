"""The zip of a run: the same bytes each time, whole or not at all, and no file that others made can do harm."""

import errno
import json
import os
import resource
import subprocess
import sys
import zipfile

import pytest
from models import ROOT

from nan_merge.archive import container
from nan_merge.archive.container import MANIFEST, opened
from nan_merge.core.errors import UserError
from scripts.archive_run import write_archive

FACTS = {"program": "nan-merge", "date": "2026-01-01"}
MEMBERS = {"README.md": b"# Results\n", "results/scores.tsv": b"suite\tmethod\n", "results/a+b/seed0.json": b"{}\n"}


@pytest.fixture
def archive(tmp_path):
    container.write(tmp_path / "run.zip", FACTS, MEMBERS)
    return tmp_path / "run.zip"


def rewritten(archive, change):
    """Write the members of an archive once more, as (name, content) pairs that were changed."""
    with zipfile.ZipFile(archive) as bundle:
        members = change([(info.filename, bundle.read(info)) for info in bundle.infolist()])
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in members:
            bundle.writestr(name, content)
    return archive


def added(*members):
    return lambda found: [*found, *members]


def test_what_was_written_is_read_back(archive, tmp_path):
    with opened(archive) as found:
        digests = found.extract(tmp_path / "out")
        assert {name: digests[name] for name in MEMBERS} == {name: record["sha256"] for name, record in found.files.items()}
        assert found.manifest | FACTS == found.manifest and found.missing == found.unlisted == []
    assert {name: (tmp_path / "out" / name).read_bytes() for name in MEMBERS} == MEMBERS


def test_two_archives_of_the_same_files_are_equal_whatever_the_clock_and_the_permissions_say(archive, tmp_path):
    file = tmp_path / "scores.tsv"
    file.write_bytes(MEMBERS["results/scores.tsv"])
    file.chmod(0o600)
    os.utime(file, (1e9, 1e9))
    reordered = dict(reversed({**MEMBERS, "results/scores.tsv": file}.items()))
    container.write(tmp_path / "again.zip", dict(reversed(FACTS.items())), reordered)
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()


@pytest.mark.parametrize("kept", [0, 10, 0.3, 0.9, -1])
def test_a_file_that_is_cut_off_is_told(kept, archive):
    content = archive.read_bytes()
    archive.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with (
        pytest.raises(UserError, match=r"run\.zip: cannot be read .*cut off, damaged or no zip; get the archive again"),
        opened(archive),
    ):
        pass


def test_a_byte_that_changed_on_the_way_is_found(archive, tmp_path):
    with zipfile.ZipFile(archive) as bundle:
        info = bundle.getinfo("results/scores.tsv")
    content = bytearray(archive.read_bytes())
    content[info.header_offset + 30 + len(info.filename) + 4] ^= 1
    archive.write_bytes(content)
    with opened(archive) as found:
        assert found.extract(tmp_path / "out")["results/scores.tsv"] != found.files["results/scores.tsv"]["sha256"]


@pytest.mark.parametrize("name", ["", "a\nb", "a\u202eb"])
def test_a_member_without_a_name_that_can_be_shown_is_refused(name, archive):
    rewritten(archive, added((zipfile.ZipInfo(name), b"x")))
    with pytest.raises(UserError, match="has no name, or one with control characters; not unpacked"), opened(archive):
        pass


def test_a_file_that_is_not_that_of_the_manifest_is_not_read(archive):
    rewritten(archive, lambda found: [(name, content.replace(b"suite", b"Suite")) for name, content in found])
    with opened(archive) as found:
        assert found.read("README.md") == MEMBERS["README.md"]
        with pytest.raises(
            UserError, match=r"run\.zip: results/scores\.tsv: is not the file of its manifest; run nan-merge verify"
        ):
            found.read("results/scores.tsv")


@pytest.mark.parametrize(
    ("name", "tables"), [("none.zip", True), ("run.zip", False), ("tables.zip", True), ("tables.zip", False)]
)
def test_an_archive_of_the_same_kind_may_be_replaced(name, tables, archive):
    container.write(archive.with_name("tables.zip"), FACTS, {container.WHOLE: b"{}"})
    container.refuse_loss(archive.with_name(name), tables)


@pytest.mark.parametrize(
    ("name", "tables", "message"),
    [
        ("run.zip", True, "is a whole archive, of which tables and digests alone would stay; remove it, or take another name"),
        ("other.zip", False, r"is there, and is no archive that would be replaced \(has no manifest"),
        ("text.zip", False, r"is there, and is no archive that would be replaced \(cannot be read"),
        ("folder.zip", True, r"is there, and is no archive that would be replaced \(is a folder"),
    ],
)
def test_what_is_no_archive_of_the_same_kind_is_not_replaced(name, tables, message, archive):
    archive.with_name("folder.zip").mkdir()
    archive.with_name("text.zip").write_text("precious")
    with zipfile.ZipFile(archive.with_name("other.zip"), "w") as bundle:
        bundle.writestr("precious", b"")
    with pytest.raises(UserError, match=rf"{name}: {message}"):
        container.refuse_loss(archive.with_name(name), tables)


def test_what_would_be_replaced_is_told_before_the_run_is_read(tmp_path):
    (tmp_path / "notes.zip").write_text("precious")
    with pytest.raises(UserError, match=r"notes\.zip: is there, and is no archive"):
        write_archive(tmp_path, tmp_path / "notes.zip", weights=False, partial=False, tables=False)
    assert (tmp_path / "notes.zip").read_text() == "precious"


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../out", "a//b", "a\\b", "./a", "folder/"])
def test_a_member_with_a_path_outside_is_refused(name, archive, tmp_path):
    rewritten(archive, added((name, b"x")))
    with (
        pytest.raises(UserError, match=r"run\.zip: member .*(has a path outside its folder|is a link or a folder); not unpacked"),
        opened(archive),
    ):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.zip"]


def test_a_link_is_refused(archive):
    link = zipfile.ZipInfo("results/link")
    link.external_attr = 0o120777 << 16
    rewritten(archive, added((link, b"/etc/passwd")))
    with pytest.raises(UserError, match="'results/link' is a link or a folder; not unpacked"), opened(archive):
        pass


def test_a_bomb_is_refused_before_it_is_unpacked(archive):
    with (
        zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as bundle,
        bundle.open("results/bomb", "w", force_zip64=True) as member,
    ):
        for _ in range(11):
            member.write(bytes(100 << 20))
    with pytest.raises(UserError, match=r"would unpack to 1\.15 GB, more than 100 times its size; not unpacked"), opened(archive):
        pass


def test_two_files_of_one_name_are_refused(archive):
    with pytest.warns(UserWarning, match="Duplicate name"):
        rewritten(archive, added(("README.md", b"other")))
    with pytest.raises(UserError, match="holds two files of one name"), opened(archive):
        pass


def edited(change):
    """Return a change of the members that changes the manifest."""

    def apply(members):
        return [(name, change(json.loads(content)) if name == MANIFEST else content) for name, content in members]

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edited(lambda m: json.dumps({**m, "format": 2})), r"has format 2, this version reads 1; take the version of nan-merge"),
        (edited(lambda m: json.dumps([])), "has format None"),
        (edited(lambda m: "{"), f"{MANIFEST}: not valid JSON"),
        (edited(lambda m: json.dumps({**m, "files": {"README.md": 3}})), "expected `files` with sha256 and size of each"),
        (edited(lambda m: json.dumps({**m, "partial": True})), "found something else in `partial`; the archive is damaged"),
        (edited(lambda m: json.dumps({**m, "versions": {"numpy": 2}})), "found something else in `versions`"),
        (edited(lambda m: json.dumps({**m, "versions": ["numpy"]})), "found something else in `versions`"),
        (edited(lambda m: json.dumps({**m, "commit": 5})), "found something else in `commit`"),
        (lambda members: members[1:], f"has no {MANIFEST}; expected a file that nan-merge archive has written"),
    ],
)
def test_another_format_or_no_manifest_is_refused(change, message, archive):
    rewritten(archive, change)
    with pytest.raises(UserError, match=message), opened(archive):
        pass


def test_missing_and_unlisted_members_are_named(archive, tmp_path):
    rewritten(archive, lambda members: [*(each for each in members if each[0] != "README.md"), ("more.txt", b"")])
    with opened(archive) as found:
        assert (found.missing, found.unlisted) == (["README.md"], ["more.txt"])


def test_a_name_that_is_no_archive_is_told(tmp_path):
    with pytest.raises(UserError, match=r"none\.zip: there is no such file; name an archive"), opened(tmp_path / "none.zip"):
        pass
    with pytest.raises(UserError, match="is a folder; name an archive"), opened(tmp_path):
        pass


@pytest.mark.parametrize("old", [None, b"an older archive"])
def test_a_disk_that_fills_up_leaves_what_was_there(old, tmp_path):
    """The kernel's limit on the size of a file stands for a full disk: the write fails in the middle."""
    if old:
        (tmp_path / "run.zip").write_bytes(old)
    (tmp_path / "noise").write_bytes(os.urandom(1 << 20))
    program = (
        "import signal, sys\nfrom pathlib import Path\nfrom nan_merge.archive import container\n"
        "from nan_merge.core.command_line import command_line\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "command_line(lambda: container.write(folder / 'run.zip', {}, {'noise': folder / 'noise'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT / "workflow")}, capture_output=True, text=True,
        check=False, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, 1 << 19)),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr.startswith(f"error: {os.strerror(errno.EFBIG)} ({tmp_path / 'run.zip'})") and "Traceback" not in done.stderr
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == (["noise", "run.zip"] if old else ["noise"])
    assert not old or (tmp_path / "run.zip").read_bytes() == old
