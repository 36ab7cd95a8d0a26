"""`keep_merged: false`: a merge is removed once it was scored; its digest and its scores stay, and nothing is made twice."""

import hashlib
import json

import pytest
import yaml
from models import family
from test_reruns import FIGURES, GATHERED, PRESENTED, TABLES, each, scored

TIES = "results/merged/tiny/ties/seed0"
OF_TIES = ("results/merged/tiny/ties", "results/digests/tiny/ties", "results/scores/tiny/ties", "results/scores.tsv")


def keep(project, value):
    """Change the key; one table is enough to present the scores."""
    project.edit("config/config.yaml", lambda config: config.update(keep_merged=value, tables=["main"], figures=[]))


def test_a_merge_is_removed_once_scored_and_its_digest_and_scores_are_those_of_one_that_is_kept(project, finished):
    keep(project, False)
    project.remove("results/merged", *OF_TIES[1:])
    project.made()
    assert not (project / "results/merged").exists() and project.jobs() == set()
    patterns = ("scores/**/*.json", "digests/**/*.json")
    assert project.digests(*patterns) == finished.digests(*patterns)


def test_a_digest_has_the_hash_of_every_file_and_what_says_how_the_merge_was_made(finished):
    digest, folder = json.loads((finished / "results/digests/tiny/ties/seed0.json").read_text()), finished / TIES
    files = [file for file in folder.iterdir() if file.name != ".snakemake_timestamp"]
    assert digest["sha256"] == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    assert "model.safetensors" in digest["sha256"] and digest["card"] == (folder / "README.md").read_text()
    assert digest["provenance"] == json.loads((folder / "provenance.json").read_text())


def test_a_change_of_mind_makes_no_merge_and_no_score(project):
    presented = {"write_run_config", "write_report"}  # they state the config
    keep(project, False)
    assert project.jobs() == presented
    project.remove("results/merged")
    assert project.jobs() == presented
    keep(project, True)
    assert project.jobs() == presented
    assert project.jobs(TIES) == each("merge_checkpoints", ["ties"])


def test_a_merge_that_is_asked_for_stays_until_the_next_run_scores_it(project):
    keep(project, False)
    project.remove(*OF_TIES)
    project.made(TIES)  # also the state after an interruption between merge and evaluation
    assert (project / TIES / "model.safetensors").exists()
    assert project.jobs() == scored("ties") | GATHERED | (PRESENTED - TABLES - FIGURES) | {"render_table: main, tiny"}
    project.made()
    assert not (project / TIES).exists() and project.jobs() == set()


def test_an_evaluation_that_fails_keeps_its_merge_and_no_other(project):
    keep(project, False)
    project.remove("results/merged", "results/scores/tiny/dare", *OF_TIES[1:])
    start = '"python -m scripts.evaluate_checkpoint'
    project.replace("workflow/rules/evaluate.smk", start, start.replace('"', '"test {wildcards.method} != ties; ', 1))
    assert project.run().code == 1
    assert [path.name for path in (project / "results/merged/tiny").iterdir()] == ["ties"]


@pytest.mark.parametrize("value", ["yes please", 1])
def test_another_value_is_refused(project, value):
    keep(project, value)
    done = project.run("--dry-run")
    assert done.code == 1 and "config/config.yaml: keep_merged" in done.text and "expected true or false" in done.text


def test_merges_of_own_models_are_results_and_stay(project, tmp_path):
    base, experts = family(tmp_path / "models")
    own = {"base": str(base), "experts": {name: str(folder) for name, folder in experts.items()}}
    overlay = {"suites": [], "methods": ["ties"], "tables": [], "figures": [], "keep_merged": False}
    (project / "own.yaml").write_text(yaml.safe_dump({**overlay, "models": {"mine": {**own, "merge": {"exclude": ["scale"]}}}}))
    project.made("--configfile", "own.yaml")
    assert (project / "results/merged/mine/ties/seed0/model.safetensors").exists()
