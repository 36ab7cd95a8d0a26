"""An archive of tables alone: it holds by the manifest of the whole one, and what needs the whole one is not tried."""

import json

import pytest
from models import ROOT

from archiving.contents import tables_alone
from archiving.replay import Layer
from archiving.verify import Finding, _compare, verify
from nan_merge.archive import container
from nan_merge.archive.container import WHOLE, opened
from nan_merge.core.errors import UserError
from scripts.verify_archive import check

FACTS = {"program": "nan-merge", "date": "2026-01-01", "code": "0", "commit": "ab" * 20, "versions": {"numpy": "2.0"}}
MAIN, CLAIMS, TIME = "results/tables/main_s.csv", "results/claims.csv", "results/benchmarks/merge_checkpoints/s/m/seed0.tsv"
CONTENTS = {MAIN: b"1", CLAIMS: b"2", TIME: b"3", "results/scores.tsv": b"4"}


@pytest.fixture
def faults(tmp_path):
    """Return a function that gives the faults of the digests of an archive of tables."""

    def run(facts, members):
        container.write(tmp_path / "tables.zip", facts, members)
        with opened(tmp_path / "tables.zip") as archive:
            digests, *others = verify(archive, ROOT, tmp_path / "unpacked")
        assert [each.holds for each in others] == [None, None]
        return digests.faults

    return run


def other(**changes):
    """Return the manifest of the whole archive with changes."""
    return json.dumps({**json.loads(container.manifest(FACTS, CONTENTS)), **changes}).encode()


@pytest.mark.parametrize(
    ("facts", "changes", "said"),
    [
        ({}, {}, []),
        ({}, {"results/tables/new.csv": b"5"}, [f"results/tables/new.csv: is not that of {WHOLE}"]),
        ({}, {MAIN: b"5"}, [f"{MAIN}: is not that of {WHOLE}"]),
        ({}, {MAIN: None}, [f"{MAIN}: is missing, and {WHOLE} has it"]),
        ({}, {WHOLE: other(files={})}, [f"{name}: is not that of {WHOLE}" for name in (CLAIMS, MAIN)]),
        ({}, {TIME.replace("/m/", "/n/"): b"5"}, [f"{TIME.replace('/m/', '/n/')}: is not that of {WHOLE}"]),
        *(({}, {WHOLE: other(**{key: ""})}, [f"manifest.json: its `{key}` is not that of {WHOLE}"]) for key in FACTS),
        ({"commit": "cd" * 20}, {}, [f"manifest.json: its `commit` is not that of {WHOLE}"]),
    ],
)
def test_tables_are_those_of_the_whole_archive(facts, changes, said, faults):
    members = tables_alone(FACTS, CONTENTS) | changes
    assert faults({**FACTS, **facts}, {name: content for name, content in members.items() if content is not None}) == said


def test_a_whole_archive_of_an_older_version_has_no_times(faults):
    untimed = {name: content for name, content in CONTENTS.items() if name != TIME}
    assert faults(FACTS, {**tables_alone(FACTS, CONTENTS), WHOLE: container.manifest(FACTS, untimed)}) == []


@pytest.mark.parametrize(
    ("changes", "first", "last"),
    [
        ({}, "1 digests: holds (4 compared)", "the digests hold; the rest was not tried, get the whole archive"),
        ({MAIN: b"5"}, "1 digests: does not hold (1 fault)", "does not hold"),
    ],
)
def test_the_last_line_and_the_exit_code_are_of_the_layers_that_were_tried(changes, first, last, tmp_path, capsys):
    file = tmp_path / "tables.zip"
    container.write(file, FACTS, tables_alone(FACTS, CONTENTS) | changes)
    assert check(file, False, None, False) == (not changes)
    lines = capsys.readouterr().out.splitlines()
    assert first in lines and lines[-1] == f"{file}: {last}"
    assert lines[0].startswith("note: ")  # what may explain faults stands before them
    assert "3 coefficients from norms: not tried (tables and digests alone)" in lines
    with pytest.raises(UserError, match="--assets needs the whole archive"):
        check(file, False, tmp_path, False)


def test_a_fault_names_no_scratch_folder(tmp_path):
    container.write(tmp_path / "run.zip", FACTS, {"results/scores.tsv": b""})
    with opened(tmp_path / "run.zip") as archive:
        archive.extract(tmp_path / "unpacked")
        _compare(archive, ROOT, tmp_path / "unpacked", Layer((), ("results/tables/",)), [], finding := Finding(2, "tables"))
    assert finding.faults[0].startswith("results/run_config.yaml: there is no such file") and len(finding.faults) == 1
