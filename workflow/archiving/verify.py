"""Check an archive in layers: its digests, what is made from its predictions, and its coefficients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from archiving.contents import TABLES
from archiving.replay import ESTIMATION, REPORTING, Layer, code_of, made_again, made_from_assets
from archiving.run import CONFIG
from nan_merge.archive import predictions
from nan_merge.archive.container import MANIFEST, WHOLE, Archive, as_written
from nan_merge.archive.differences import difference
from nan_merge.catalogue.files import read_yaml
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json
from nan_merge.core.versions import versions

DIGESTS, REBUILT, ESTIMATED = "digests", "tables, comparisons, figures and report from predictions", "coefficients from norms"
MERGED, SCORED = "merges from assets", "predictions and scores from assets"
TABLES_ALONE = "tables and digests alone"  # why a layer is not tried
SAME = ("commit", "code", "date", "versions", "partial", "program")  # keys that tables have as the whole archive has
TIMES = "results/benchmarks/"  # of jobs
DIGEST, SCORES = "results/digests/", ("results/scores/", "results/validation/")


@dataclass(eq=False)
class Finding:
    """The outcome of one layer: how many files were compared, what does not hold, and what a reader should know besides.

    A layer that was not tried has the reason.
    """

    layer: int
    title: str
    compared: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    untried: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether every file of the layer is as it should be; None where it was not tried."""
        return None if self.untried else not self.faults


def verify(archive: Archive, root: Path, folder: Path, assets: Path | None = None, rescore: bool = False) -> Iterator[Finding]:
    """Unpack an archive into a folder and yield the finding of each layer; `root` is the checkout whose code is run.

    With a folder of fetched `assets` the merges are made again too, and with `rescore` their predictions and scores.
    """
    digests = _digests(archive, folder)
    yield digests
    unread = [name for name in archive.files if not (folder / name).is_file()]
    lacking = f"missing: {', '.join(unread[:5])}" if unread else TABLES_ALONE if WHOLE in archive.files else ""
    for finding, compare in ((Finding(2, REBUILT), _rebuilt), (Finding(3, ESTIMATED), _estimated)):
        finding.untried = lacking
        if not lacking:
            compare(archive, root, folder, finding)
        yield finding
    more = {Finding(4, MERGED): (DIGEST,), **({Finding(5, SCORED): SCORES} if rescore else {})} if assets else {}
    for finding in more:
        finding.untried = lacking
    if assets and not lacking:
        _from_assets(archive, root, folder, assets, more)
    yield from more


def _digests(archive: Archive, folder: Path) -> Finding:
    found = archive.extract(folder)
    finding = Finding(1, DIGESTS, len(archive.files))
    finding.faults += [f"{name}: is missing" for name in archive.missing]
    finding.faults += [f"{name}: is not listed in {MANIFEST}" for name in archive.unlisted]
    for name, record in archive.files.items():
        if name in found and found[name] != record["sha256"]:
            kind = "cannot be read whole" if not found[name] else "its SHA-256 is not that of the manifest"
            finding.faults.append(f"{name}: {kind}")
    if found.get(WHOLE):
        with _told(finding, WHOLE, folder):
            finding.faults += _unlike(archive, read_json(folder / WHOLE))
    return finding


def _unlike(archive: Archive, whole: Mapping[str, Any]) -> Iterator[str]:
    """Yield what tables and digests alone have otherwise than the manifest of the whole archive says.

    A whole archive of an older version has no times of jobs; its tables may have them.
    """
    files, kept = whole["files"], archive.files
    timed = any(name.startswith(TIMES) for name in files)
    for name, record in kept.items():
        if name != WHOLE and files.get(name) != record and (timed or name in files or not name.startswith(TIMES)):
            yield f"{name}: is not that of {WHOLE}"
    yield from (f"{name}: is missing, and {WHOLE} has it" for name in files if TABLES.fullmatch(name) and name not in kept)
    yield from (f"{MANIFEST}: its `{key}` is not that of {WHOLE}" for key in SAME if archive.manifest.get(key) != whole.get(key))


def _rebuilt(archive: Archive, root: Path, folder: Path, finding: Finding) -> None:
    """Compare tables of predictions, scores and reports with what the predictions give."""
    files = {name: folder / name for name in archive.files if predictions.Place.of(name)}
    tables = {place.table for name in files if (place := predictions.Place.of(name))}
    for name in sorted(tables | {name for name in archive.files if name.startswith(f"{predictions.FOLDER}/")}):
        finding.compared += 1
        with _told(finding, name, folder):
            finding.faults += predictions.changed(name, (folder / name).read_bytes(), files)
    for name in (name.removesuffix(".npz") + ".json" for name in files):
        finding.compared += 1
        with _told(finding, name, folder):
            finding.faults += predictions.wrong_scores(name, folder / name)
    _compare(archive, root, folder, REPORTING, [], finding)


def _below(folder: Path, error: UserError) -> str:
    """Return what an error says, its files named as in the archive that is unpacked in `folder`."""
    return str(error).replace(f"{folder}/", "")


@contextmanager
def _told(finding: Finding, name: str, folder: Path) -> Iterator[None]:
    """Turn into a fault that a file cannot be read, with its name in the archive."""
    try:
        with as_written(name):
            yield
    except UserError as error:
        finding.faults.append(_below(folder, error))
    except FileNotFoundError:
        finding.faults.append(f"{name}: is missing")


def _estimated(archive: Archive, root: Path, folder: Path, finding: Finding) -> None:
    """Compare choices and coefficients with what norms and validation scores give."""
    made = [name for name in archive.files if ESTIMATION.makes(name)]
    with _told(finding, CONFIG, folder):
        learned = {name for name, method in read_yaml(folder / CONFIG)["methods"].items() if "learn" in method}
        targets = [name for name in made if PurePosixPath(name).parent.name not in learned]
        if skipped := len(made) - len(targets):
            finding.notes.append(f"{skipped} learned with data, which an archive does not hold: not compared")
        if targets:
            _compare(archive, root, folder, ESTIMATION, targets, finding)


def _compare(archive: Archive, root: Path, folder: Path, layer: Layer, targets: list[str], finding: Finding) -> None:
    """Make the files of a layer again and compare each with the archived one, both ways."""
    expected = set(targets) or {name for name in archive.files if layer.makes(name)}
    if archive.manifest.get("partial") and not targets:
        targets = sorted(expected)  # of what the config asks for, some is missing
    try:
        with made_again(root, folder, archive.files, layer, targets) as run:
            made = {str(f.relative_to(run)) for f in (run / "results").rglob("*") if f.is_file()}
            made = {name for name in made if layer.makes(name) and not Path(name).name.startswith(".")}
            for name in sorted(expected | (made - expected if not targets else set())):
                finding.compared += 1
                if name not in made or name not in expected:
                    finding.faults.append(f"{name}: {'is not made any more' if name in expected else 'is missing'}")
                elif (found := difference(folder / name, run / name)) is not None:
                    finding.faults.append(f"{name}: {found}")
    except UserError as error:
        finding.faults.append(_below(folder, error))


def _from_assets(archive: Archive, root: Path, folder: Path, assets: Path, findings: Mapping[Finding, tuple[str, ...]]) -> None:
    """Compare the files in the places of each finding with those that the whole workflow makes again."""
    targets = {finding: sorted(name for name in archive.files if name.startswith(places)) for finding, places in findings.items()}
    tables = {name: (folder / name).read_bytes() for name in archive.files if name.startswith(f"{predictions.FOLDER}/")}
    try:
        with made_from_assets(root, folder, archive.files, assets, [name for names in targets.values() for name in names]) as run:
            for finding, names in targets.items():
                files = {name: run / name for name in names if predictions.Place.of(name)}
                finding.compared += len(names)
                found = {name: difference(folder / name, run / name) for name in names if name not in files}
                finding.faults += [f"{name}: {how}" for name, how in found.items() if how is not None]
                for name in sorted({place.table for each in files if (place := predictions.Place.of(each))}):
                    finding.faults += predictions.changed(name, tables[name], files)
    except UserError as error:
        for finding in findings:
            finding.faults.append(_below(folder, error))


def differing(archive: Archive, root: Path) -> list[str]:
    """Say how code and packages of here differ from those that the archive was written with: what may explain a difference."""
    facts, notes = archive.manifest, []
    if facts.get("partial"):
        notes.append(f"the run is partial: {len(facts['partial'])} jobs or files are missing")
    if facts.get("code") != code_of(root):
        way = f"; git checkout {facts['commit']}" if facts.get("commit", "").isalnum() else ""
        notes.append(f"the archive was written with other code than that of {root}{way}")
    here, there = versions(), facts.get("versions", {})
    other = [
        f"{name} {here.get(name, 'missing')} ({there.get(name, 'missing')})"
        for name in {**there, **here}
        if here.get(name) not in there.get(name, "").split(", ")
    ]
    if other:
        notes.append(f"other versions here (in the archive): {', '.join(other)}")
    return notes
