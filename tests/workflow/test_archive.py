"""A finished run becomes one file, which another person checks, and which tells every change that was made in it."""

from __future__ import annotations

import csv
import getpass
import hashlib
import io
import json
import re
import socket
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import yaml
from project import Done, Project, package
from safetensors.numpy import load_file

from archiving.contents import refuse_traces
from archiving.verify import verify
from nan_merge.archive.container import opened
from nan_merge.archive.privacy import COMMON, Traces
from nan_merge.core.errors import UserError

ROOT = Path(__file__).parents[2]
PRIVATE = {"USER": "adalovelace", "HOSTNAME": "node17", "HF_TOKEN": "hf_" + "aB3" * 11}
DARE = "results/scores/tiny/dare/seed0/all.npz"
TABLE = "predictions/test/tiny/seed0/all.tsv"
MANIFEST = "manifest.json"


def nan_merge(project: Project, *words: str | Path, **environment: str) -> Done:
    """Run the command of the project's own checkout in its folder."""
    line = " ".join(["python -m nan_merge.cli", *map(str, words)])
    return project.shell(line, **{"PYTHONPATH": str(project / "workflow"), **environment})


@pytest.fixture(scope="module")
def archived(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the finished project with its archive, `run.zip`; shared: read it, leave it as it is."""
    project = finished.copy(tmp_path_factory.mktemp("archived") / "project")
    done = nan_merge(project, "archive", "run.zip", **PRIVATE)
    assert done.code == 0, done.text
    return project


@pytest.fixture
def members(archived: Project) -> dict[str, bytes]:
    """The members of the archive, to be changed at will."""
    with zipfile.ZipFile(archived / "run.zip") as bundle:
        return {name: bundle.read(name) for name in bundle.namelist()}


def written(file: Path, members: dict[str, bytes], manifest: bool = True) -> Path:
    """Write members as an archive, as somebody does who also puts the new digests into the manifest."""
    record = json.loads(members[MANIFEST])
    if manifest:
        record["files"] = {
            name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in members.items()
            if name != MANIFEST
        }
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in {**members, MANIFEST: json.dumps(record).encode()}.items():
            bundle.writestr(name, content)
    return file


def verified(project: Project, file: Path) -> dict[int, list[str]]:
    """Return the faults of each layer, and check that the exit code says whether there are any."""
    done = nan_merge(project, "verify", file, "--json", "2>/dev/null && echo 0 || echo $?")
    text, _, code = done.text.rstrip().rpartition("\n")
    found = json.loads(text)
    assert found["holds"] == all(layer["holds"] is not False for layer in found["layers"]) and (code == "0") == found["holds"]
    return {layer["layer"]: layer["untried"] or layer["faults"] for layer in found["layers"]}


def arrays(content: bytes, change: Callable[[dict[str, np.ndarray]], None]) -> bytes:
    """Return a file of predictions with a change."""
    found, out = dict(np.load(io.BytesIO(content))), io.BytesIO()
    change(found)
    np.savez(out, **found)
    return out.getvalue()


# ---- the archive ------------------------------------------------------------------------------------------------------


def test_an_archive_holds_on_another_checkout(archived, finished, tmp_path):
    other = finished.copy(tmp_path / "other")
    other.remove("results", ".snakemake")
    done = nan_merge(other, "verify", archived / "run.zip")
    assert done.code == 0, done.text
    assert [line.partition(" (")[0] for line in done.text.splitlines()] == [
        "1 digests: holds",
        "2 tables, comparisons, figures and report from predictions: holds",
        "3 coefficients from norms: holds",
        f"{archived / 'run.zip'}: holds",
    ]
    assert sorted(path.name for path in other.folder.iterdir() if "results" in path.name) == []


def test_it_has_every_result_and_record_and_no_weights(archived, members):
    config = yaml.safe_load(members["results/run_config.yaml"])
    methods = [*config["methods"]]
    for pattern in ("scores/tiny/{}/seed0/all.json", "scores/tiny/{}/seed0/all.npz"):
        assert {f"results/{pattern.format(method)}" for method in methods} <= members.keys()
    results = archived / "results"
    kinds = ("tables/*", "figures/*", "*.tsv", "claims.*", "report.html", "coefficients/**/*.json", "measures/**/*.json",
             "digests/**/*.json", "selected/**/*.json", "searches/**/*.json", "premise/*.tsv", "validation/**/*")  # fmt: skip
    expected = {f.relative_to(archived.folder).as_posix() for kind in kinds for f in results.glob(kind) if f.is_file()}
    assert expected <= members.keys() and len(expected) > 60
    assert {
        f"config/{name}" for name in ("config.yaml", "methods.yaml", "suites/tiny.yaml", "assets.lock.json")
    } <= members.keys()
    assert {"README.md", "CITATION.cff", ".zenodo.json", "Snakefile", "results/logs/gather_scores.log"} <= members.keys()
    assert [name for name in members if name.startswith(".snakemake/metadata/")]
    assert [name for name in members if name.endswith((".safetensors", ".npy", ".part")) or "/merged/" in name] == []


def test_of_a_merge_it_has_the_digest_of_every_tensor(archived, members):
    tensors = json.loads(members["results/digests/tiny/ties/seed0.json"])["tensors"]
    merged = load_file(archived / "results/merged/tiny/ties/seed0/model.safetensors")
    assert tensors.keys() == merged.keys() and len({*tensors.values()}) > 30
    other = json.loads(members["results/digests/tiny/dare/seed0.json"])["tensors"]
    frozen = {name for name in tensors if name.startswith("embeddings.")}  # `exclude` of the suite: as in the base
    assert {name for name in tensors if tensors[name] == other[name]} & frozen == frozen and tensors != other


def test_two_archives_of_one_run_are_equal(archived, tmp_path):
    copy = archived.copy(tmp_path / "elsewhere")
    installed = f"{package(tmp_path, 'vllm', '99.0')}:{copy / 'workflow'}"
    assert nan_merge(copy, "archive", "again.zip", USER="somebody", PYTHONPATH=installed).code == 0
    assert (copy / "again.zip").read_bytes() == (archived / "run.zip").read_bytes()


def test_nothing_in_it_tells_where_and_by_whom_it_was_made(archived, members):
    home, host, user = str(Path.home()), socket.gethostname(), getpass.getuser()
    names = [name for name in (host, user) if name not in COMMON and len(name) > 2]
    told = [str(archived.folder), str(archived.folder.parents[2]), *PRIVATE.values(), *([home] if home != "/" else [])]
    for name, content in members.items():
        text = content.decode("utf-8", "replace")
        assert [each for each in told if each in text] == [], name
        assert [each for each in names if re.search(rf"\b{re.escape(each)}\b", text)] == [], name
        if not name.endswith((".png", ".npz")):
            paths = re.findall(r"(?:^|[\s'\"=(\[])(/(?:home|root|tmp|usr|var|opt|work|mnt|data)/\S+)", text)
            assert paths == [], name


def test_its_first_page_says_what_was_run_and_how_to_verify_and_cite(members):
    page = members["README.md"].decode()
    main = members["results/tables/main_tiny.md"].decode().strip()
    assert page.startswith("# Merged models: Tiny BERT\n") and main in page and "partial" not in page
    assert "nan-merge verify FILE.zip" in page and "`CITATION.cff` cites" in page
    listed = re.findall(r"^\| `([^`]+)` \|", page, re.M)
    assert all(any(name == path or name.startswith(f"{path}/") for name in members) for path in listed)


def test_every_prediction_is_in_a_table(members):
    rows = list(csv.DictReader(members[TABLE].decode().splitlines(), delimiter="\t"))
    found = np.load(io.BytesIO(members[DARE]))
    for task in ("fruit", "weather", "tools"):
        assert [int(row["dare"]) for row in rows if row["task"] == task] == found[f"{task}.prediction"].tolist()


def test_files_of_another_run_in_the_folder_stay_out(project, archived):
    stale = project / "results/scores/tiny/other/seed0/all.json"
    stale.parent.mkdir(parents=True)
    stale.write_text('{"scores": []}')
    (project / "results/tables/old_tiny.md").write_text("old")
    assert nan_merge(project, "archive", "run.zip").code == 0
    assert (project / "run.zip").read_bytes() == (archived / "run.zip").read_bytes()


def test_weights_are_added_on_request(project):
    assert nan_merge(project, "archive", "run.zip", "--weights").code == 0
    with zipfile.ZipFile(project / "run.zip") as bundle:
        assert "results/merged/tiny/ties/seed0/model.safetensors" in bundle.namelist()
        content = bundle.read("results/merged/tiny/ties/seed0/model.safetensors")
    assert content == (project / "results/merged/tiny/ties/seed0/model.safetensors").read_bytes()


def test_tables_alone_have_the_digests_of_the_whole_archive(archived, members, tmp_path):
    assert nan_merge(archived, "archive", tmp_path / "tables.zip", "--tables", **PRIVATE).code == 0
    with zipfile.ZipFile(tmp_path / "tables.zip") as bundle:
        found = {name: bundle.read(name) for name in bundle.namelist()}
    assert found.pop("whole/manifest.json") == members[MANIFEST] and found.pop(MANIFEST)
    assert {"results/tables/main_tiny.csv", "results/claims.csv", "results/comparisons.tsv"} <= found.keys()
    assert {"results/benchmarks/merge_checkpoints/tiny/ties/seed0.tsv"} <= found.keys() and len(found) < len(members) / 5
    assert all(members[name] == content for name, content in found.items())
    faults = verified(archived, tmp_path / "tables.zip")
    assert faults[1] == [] and faults[2] == faults[3] == "tables and digests alone"
    same = json.loads(nan_merge(archived, "compare", tmp_path / "tables.zip", "run.zip", "--json").text)
    assert same["files"] == [] and same["averages"] and all(row["a"] == row["b"] for row in same["averages"])
    found["results/claims.csv"] += b"1"
    faults = verified(archived, written(tmp_path / "run.zip", {**members, **found, "whole/manifest.json": members[MANIFEST]}))
    assert "results/claims.csv: is not that of whole/manifest.json" in faults[1]


@pytest.mark.parametrize("file", sorted((ROOT / "docs/archives").glob("*.zip")), ids=lambda file: file.stem)
def test_the_archives_of_the_pages_are_whole(file, tmp_path):
    with opened(file) as archive:
        assert next(verify(archive, ROOT, tmp_path)).faults == []


def test_the_commit_and_changes_of_the_code_are_in_it(project, tmp_path):
    def git(*words):
        identity = ["-c", "user.name=Ada", "-c", "user.email=a@b.example"]
        return subprocess.run(["git", "-C", project.folder, *identity, *words], check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    (project / ".gitignore").write_text("results\n.snakemake\narchives\n.cache\n__pycache__\n*.zip\n")
    git("add", "--all")
    git("commit", "-qm", "one")
    staged = git("diff", "--cached", "--stat")
    with open(project / "workflow/rules/paths.smk", "a") as file:
        file.write("# a remark\n")
    (project / "scripts/new_script.py").write_text("NEW = 1\n")
    assert nan_merge(project, "archive", "run.zip").code == 0
    with zipfile.ZipFile(project / "run.zip") as bundle:
        assert json.loads(bundle.read(MANIFEST))["commit"] == git("rev-parse", "HEAD").strip()
        changes = bundle.read("code/changes.diff").decode()
        assert "+# a remark\n" in changes and "+NEW = 1\n" in changes and changes.count("diff --git") == 2
        assert "changes in `code/changes.diff`" in bundle.read("README.md").decode()
    assert git("diff", "--cached", "--stat") == staged  # the user's index is as it was


# ---- what is refused --------------------------------------------------------------------------------------------------


def test_an_unfinished_run_is_refused_or_says_so_on_its_first_page(project):
    project.remove("results/report.html")
    done = nan_merge(project, "archive", "run.zip")
    assert done.code == 1 and "the run is not finished: 1 of " in done.text and "jobs are to be done (write_report)" in done.text
    assert not (project / "run.zip").exists()
    assert nan_merge(project, "archive", "run.zip", "--partial").code == 0
    with zipfile.ZipFile(project / "run.zip") as bundle:
        page = bundle.read("README.md").decode()
    assert "**This run is partial**" in page.split("## ")[0] and "\n- write_report\n" in page
    assert "note: the run is partial: " in nan_merge(project, "verify", "run.zip").text


def test_a_result_that_snakemake_needs_no_more_is_missed(project):
    project.remove(DARE)
    done = nan_merge(project, "archive", "run.zip")
    assert (
        done.code == 1 and f"files of the run are gone: {DARE}; " in done.text and f"`snakemake --cores all {DARE}`" in done.text
    )
    assert nan_merge(project, "archive", "run.zip", "--partial").code == 0
    with zipfile.ZipFile(project / "run.zip") as bundle:
        assert f"\n- {DARE}\n" in bundle.read("README.md").decode().split("## ")[0]


def test_a_changed_config_is_no_finished_run(project):
    project.edit("config/methods.yaml", lambda methods: methods["dare"]["preprocess"]["drop"].update(rate=0.5))
    done = nan_merge(project, "archive", "run.zip")
    assert done.code == 1 and "the run is not finished" in done.text and "Traceback" not in done.text


PATH = "/scratch/ada/models/base"
TOLD = {
    f"# made at {PATH}\n": f"line 1: holds the absolute path '{PATH}'",
    "a: 1\nby: adalovelace\n": "line 2: holds the name of the host or the user 'adalovelace'",
    f"token: {PRIVATE['HF_TOKEN']}\n": "line 1: holds the secret of the environment, and 1 more",
}


@pytest.mark.parametrize("text", TOLD)
def test_a_private_text_is_refused_with_its_place(text, project):
    (project / "config/note.yaml").write_text(text)
    done = nan_merge(project, "archive", "run.zip", **PRIVATE)
    assert done.code == 1 and f"config/note.yaml, {TOLD[text]}" in done.text and PRIVATE["HF_TOKEN"] not in done.text
    assert not (project / "run.zip").exists()


def test_letters_of_an_image_are_no_path_and_no_name():
    traces = Traces([], environment={"USER": "ada"})
    image = '{"images": ["data:image/webp;base64,UklGR+/scratch/ada/x+Ada/=="]}\n'
    refuse_traces({"results/examples/vision.json": image.encode(), "results/report.html": image.encode()}, traces)
    refuse_traces({"results/figures/search_text.pdf": b"<< >>\nstream\nx \xff /C/c y\nendstream\n"}, traces)
    with pytest.raises(UserError, match="line 3: holds the absolute path '/scratch/ada'"):
        refuse_traces({"results/figures/a.pdf": b"<< >>\nstream\n/C/c\nendstream\n/Title (/scratch/ada)"}, traces)
    with pytest.raises(UserError, match=r"vision\.json, line 2: holds the absolute path '/scratch/ada/x'"):
        refuse_traces({"results/examples/vision.json": f"{image}+/scratch/ada/x".encode()}, traces)


def test_a_log_is_kept_without_what_tells(project):
    log = project / "results/logs/gather_scores.log"
    log.write_text(f"on node17 in {project.folder}/x by adalovelace\n" + "line\n" * 60)
    assert nan_merge(project, "archive", "run.zip", **PRIVATE).code == 0
    with zipfile.ZipFile(project / "run.zip") as bundle:
        kept = bundle.read("results/logs/gather_scores.log").decode().splitlines()
    assert kept[0].startswith("on <name of the host or the user> in <absolute path>") and len(kept) == 41


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "run.zip"], "nowhere: there is no such folder; expected the folder that Snakemake ran in"),
        (["config", "run.zip"], "run_config.yaml: there is no such file, so no run that could be archived"),
        (["run.tar"], "run.tar: expected a name that ends in .zip"),
    ],
)
def test_a_mistake_of_the_command_line_is_told(words, message, archived):
    done = nan_merge(archived, "archive", *words)
    assert done.code == 1 and message in done.text and "Traceback" not in done.text


# ---- verify -----------------------------------------------------------------------------------------------------------


def test_a_changed_digit_is_named_with_method_task_and_index(archived, members, tmp_path):
    def change(found):
        found["weather.prediction"][5] = 7

    old = int(np.load(io.BytesIO(members[DARE]))["weather.prediction"][5])
    members[DARE] = arrays(members[DARE], change)
    said = f"dare of tiny, seed 0, test split, task weather, index 5: prediction 7, expected {old}"
    faults = verified(archived, written(tmp_path / "run.zip", members))  # the manifest was changed, too
    assert faults[1] == [] and said in faults[2] and faults[3] == []
    assert any(
        fault.startswith("results/scores/tiny/dare/seed0/all.json: weather: value of accuracy is ") for fault in faults[2]
    ) == (old == int(np.load(io.BytesIO(members[DARE]))["weather.label"][5]))


@pytest.mark.slow
def test_a_swapped_file_of_predictions_is_named(archived, members, tmp_path):
    other = DARE.replace("dare", "ties")
    members[DARE], members[other] = members[other], members[DARE]
    faults = verified(archived, written(tmp_path / "run.zip", members))
    assert faults[1] == faults[3] == [] and {fault.split()[0] for fault in faults[2] if "test split" in fault} == {"dare", "ties"}


@pytest.mark.slow
def test_every_changed_file_is_named(archived, members, tmp_path):
    coefficients = "results/coefficients/tiny/ties+nan_delta/seed0.json"
    record = json.loads(members[coefficients])
    record["rows"]["model"][0] *= 1 + 1e-14
    members[coefficients] = json.dumps(record, sort_keys=True, indent=1).encode() + b"\n"
    members["results/tables/main_tiny.csv"] = members["results/tables/main_tiny.csv"].replace(b"0.", b"0.9", 1)
    members["results/report.html"] = members["results/report.html"].replace(b"Tiny BERT", b"Huge BERT", 1)
    members["results/figures/accuracy_tiny.png"] += b"x"
    members["results/tables/more_tiny.md"] = b"one table more"
    faults = verified(archived, written(tmp_path / "run.zip", members))
    assert faults[1] == []
    of = {fault.partition(": ")[0]: fault.partition(": ")[2] for fault in faults[2]}
    assert re.match(r"differs in numbers alone: 1 number, the largest relative difference ", of["results/tables/main_tiny.csv"])
    assert of["results/report.html"].startswith("line ")
    assert of["results/figures/accuracy_tiny.png"].startswith("other bytes (")
    assert of["results/tables/more_tiny.md"] == "is not made any more"
    assert of["results/tables/coefficients_tiny.csv"].startswith("differs by rounding alone: ")
    assert of.keys() <= {
        *(name for name in members if name.startswith(("results/tables/", "results/figures/", "results/report")))
    }
    assert [fault.partition(",")[0] for fault in faults[3]] == [f"{coefficients}: differs by rounding alone: 1 number"]


def test_missing_members_are_named_and_no_traceback(archived, members, tmp_path):
    del members["results/measures/tiny/seed0.json"]
    members["results/scores.tsv.bak"] = b"more"
    members["results/scores.tsv"] += b"more"
    faults = verified(archived, written(tmp_path / "run.zip", members, manifest=False))
    assert faults[1] == [
        "results/measures/tiny/seed0.json: is missing",
        f"results/scores.tsv.bak: is not listed in {MANIFEST}",
        "results/scores.tsv: its SHA-256 is not that of the manifest",
    ]
    assert faults[2] == faults[3] == "missing: results/measures/tiny/seed0.json"


def test_a_file_that_the_manifest_has_forgotten_too_is_missed(archived, members, tmp_path):
    del members["results/measures/tiny/seed0.json"], members["results/tables/main_tiny.md"]
    faults = verified(archived, written(tmp_path / "run.zip", members))
    assert faults[1] == [] and faults[2] and faults[3]
    assert "results/measures/tiny/seed0.json" in "".join(faults[3])


def test_damaged_files_are_told(archived, members, tmp_path):
    members[DARE] = members[DARE][:-30]
    members["results/scores/tiny/ties/seed0/all.json"] = b"[]"
    members["results/run_config.yaml"] = b"config: {}"
    faults = verified(archived, written(tmp_path / "run.zip", members))
    assert any("ties/seed0/all.json: is not what this version writes there" in fault for fault in faults[2])
    (fault,) = faults[3]
    assert fault.startswith(
        "results/run_config.yaml: is not what this version writes there (KeyError: 'methods'); get the archive"
    )
    assert faults[1] == [] and any(
        "dare/seed0/all.npz" in fault and "cannot be read as predictions" in fault for fault in faults[2]
    )


def test_a_cut_off_archive_and_another_version_are_told(archived, members, tmp_path):
    (tmp_path / "cut.zip").write_bytes((archived / "run.zip").read_bytes()[:5000])
    members[MANIFEST] = json.dumps({**json.loads(members[MANIFEST]), "format": 99}).encode()
    written(tmp_path / "new.zip", members, manifest=False)
    for name, message in (("cut.zip", "cut off, damaged or no zip"), ("new.zip", "has format 99, this version reads 1")):
        done = nan_merge(archived, "verify", tmp_path / name)
        assert done.code == 1 and message in done.text and done.text.startswith("error: ") and done.text.count("\n") == 1


@pytest.mark.slow
def test_other_code_is_named(archived, tmp_path):
    other = archived.copy(tmp_path / "other")
    other.replace("workflow/nan_merge/reporting/statistics.py", "LEVEL = 0.95", "LEVEL = 0.9")
    done = nan_merge(other, "verify", "run.zip")
    assert done.code == 1 and "note: the archive was written with other code than that of" in done.text
    assert "results/comparisons.tsv: " in done.text and "3 coefficients from norms: holds" in done.text


@pytest.mark.slow
def test_merges_and_scores_are_made_again_from_the_assets(archived, members, tmp_path):
    """Whoever changes a prediction wherever it stands is found out by the models alone."""
    digest, tensor = "results/digests/tiny/ties/seed0.json", "encoder.layer.1.output.dense.weight"
    members[digest] = members[digest].replace(json.loads(members[digest])["tensors"][tensor].encode(), b"0" * 32)
    old = int(np.load(io.BytesIO(members[DARE]))["weather.prediction"][5])
    members[DARE] = arrays(members[DARE], lambda found: found["weather.prediction"].__setitem__(5, 7))
    rows = [line.split("\t") for line in members[TABLE].decode().splitlines()]
    (row,) = (row for row in rows if row[:2] == ["weather", "5"])
    row[rows[0].index("dare")] = "7"
    members[TABLE] = "".join("\t".join(row) + "\n" for row in rows).encode()
    file = written(tmp_path / "run.zip", members)
    done = nan_merge(archived, "verify", file, "--assets", archived / "results/assets", "--rescore", "--json || true")
    faults = {layer["layer"]: layer["faults"] for layer in json.loads(done.text)["layers"]}
    assert faults[4] == [f"{digest}: 1 of 37 tensors differ: {tensor}"]
    assert faults[5] == [f"dare of tiny, seed 0, test split, task weather, index 5: prediction {old}, expected 7"]


# ---- compare ----------------------------------------------------------------------------------------------------------


def test_an_archive_equals_itself(archived):
    found = json.loads(nan_merge(archived, "compare", "run.zip", "run.zip", "--json").text)
    assert found["settings"] == found["files"] == [] and all(row["A"] == row["B"] for row in found["scores"])
    assert {(row["a"] - row["b"], row["changed"], row["p"]) for row in found["averages"]} == {(0, 0, 1)}
    assert nan_merge(archived, "compare", "run.zip", "run.zip").text.count("not paired") == 0


def test_two_runs_are_compared_setting_by_setting_and_example_by_example(archived, members, tmp_path):
    def change(found):
        found["weather.prediction"][5] = 1 - found["weather.prediction"][5]

    before = np.load(io.BytesIO(members[DARE]))
    step = 1 if before["weather.prediction"][5] != before["weather.label"][5] else -1
    members[DARE] = arrays(members[DARE], change)
    scores = json.loads(members[DARE.replace(".npz", ".json")])
    for row in scores["scores"]:
        if row["task"] == "weather":
            row["value"] += step / row["n"]
    members[DARE.replace(".npz", ".json")] = json.dumps(scores).encode()
    members["results/run_config.yaml"] = members["results/run_config.yaml"].replace(b"density: 0.2", b"density: 0.3", 1)
    written(tmp_path / "b.zip", members)
    found = json.loads(nan_merge(archived, "compare", "run.zip", tmp_path / "b.zip", "--json").text)
    (setting,) = found["settings"]
    assert (setting["A"], setting["B"]) == (0.2, 0.3) and setting["key"].startswith("methods.")
    changed = {row["method"]: row for row in found["averages"] if row["changed"]}
    assert changed.keys() == {"dare"} and changed["dare"]["changed"] == 1
    assert changed["dare"]["b"] - changed["dare"]["a"] == pytest.approx(step / 80 / 3)
    assert changed["dare"]["low"] <= step / 80 / 3 <= changed["dare"]["high"]
    shown = nan_merge(archived, "compare", "run.zip", tmp_path / "b.zip").text
    assert "settings that differ, A | B: 1\n" in shown and "1 of 240" in shown


def test_the_target_of_make_is_the_command():
    line = re.search(r"^archive: .*\n\t(.*)$", (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8"), re.M)
    assert line and line[1].endswith("nan-merge archive results.zip")


def test_the_metadata_are_a_workflow_run_crate_of_every_file(members):
    pytest.importorskip("rocrate", reason="requirements.txt has it")
    graph = {entity["@id"]: entity for entity in json.loads(members["ro-crate-metadata.json"])["@graph"]}
    root, action = graph["./"], graph["#run"]
    assert root["mainEntity"] == {"@id": "Snakefile"} == action["instrument"]
    assert {"@id": "https://w3id.org/ro/wfrun/workflow/0.5"} in root["conformsTo"]
    assert root["license"] == "No licence of these results is stated. They were made from: tiny_bert (none); tiny_texts (none)."
    described = {unquote(entity["@id"]) for entity in graph.values() if "File" in entity["@type"]}
    assert described == members.keys() - {MANIFEST, "ro-crate-metadata.json"}
    assert {"@id": "results/scores.tsv"} in action["result"] and {"@id": "config/config.yaml"} in action["object"]


VALIDATOR = ROOT / ".bench/roc-validator/bin"
UNKNOWN = {  # what the profiles recommend and no run knows; the workflow is a file of the crate
    "The Application SHOULD have a url",
    "The SoftwareApplication id SHOULD be an absolute URI",
    "The Action SHOULD have an agent that is a Person or Organization",
    "The Root Data Entity SHOULD have a link to a Contextual Entity representing the schema_org:license type",
    "The Root Data Entity SHOULD have a link to a Contextual Entity representing the `author` of the RO-Crate",
    "The `publisher` property of a `Root Data Entity` SHOULD be an `Organization`",
    "The Main Workflow SHOULD comply with Bioschemas ComputationalWorkflow profile version 1.0 or later",
}


@pytest.fixture
def validated(tmp_path):
    """Return a function that gives what roc-validator finds amiss in a crate, by severity, without a network."""
    if not (VALIDATOR / "rocrate-validator").exists():
        pytest.skip("roc-validator is not installed: make .bench/roc-validator/.installed")
    pytest.importorskip("rocrate", reason="requirements.txt has it")

    def run(file):
        command = [VALIDATOR / "python", ROOT / "tests/fakes/ro_crate/validate.py", file, tmp_path / "cache"]
        said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
        return {severity: {m for s, m in json.loads(said) if s == severity} for severity in ("REQUIRED", "RECOMMENDED")}

    return run


def test_the_metadata_hold_for_the_validator_of_their_profile(archived, validated, tmp_path):
    assert validated(archived / "run.zip") == {"REQUIRED": set(), "RECOMMENDED": UNKNOWN}
    command = [VALIDATOR / "rocrate-validator", "-y", "validate", "-p", "workflow-run-crate", archived / "run.zip"]
    done = subprocess.run(
        [*command, "--offline", "--cache-path", tmp_path / "cache"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_the_validator_finds_what_the_profile_requires(members, tmp_path, validated):
    crate = json.loads(members["ro-crate-metadata.json"])
    (action,) = (entity for entity in crate["@graph"] if entity["@id"] == "#run")
    del action["instrument"]
    members["ro-crate-metadata.json"] = json.dumps(crate).encode()
    found = validated(written(tmp_path / "run.zip", members))
    assert "The Action MUST have an instrument property that references the executed tool" in found["REQUIRED"]
