"""Merges of merges by the rules: the bytes of two commands, one after the other, and jobs for what a change concerns only."""

import json
import shutil

import pytest
import tiny
import yaml
from models import ROOT, family, same_bytes, tensors_of
from project import Project
from test_reruns import GATHERED, PRESENTED

from nan_merge.cli.merge import main as merge_models

NESTED = {
    "ab": {"method": "ties+nan_delta", "experts": ["a", "b"]},
    "abc": {"method": "task_arithmetic+nan_delta", "experts": ["ab", "c", "a"]},
}
CUT = "density_0.2-scope_model"
OVERLAY = ("--configfile", "own.yaml")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The tiny project after a run of an overlay with a base, three experts, and a merge of the merge of two of them."""
    folder = tmp_path_factory.mktemp("nested")
    project = Project(tiny.build(folder / "project"))
    shutil.copy(ROOT / "config/variants.yaml", project / "config/variants.yaml")
    base, experts = family(folder / "models")
    places = {"base": str(base), "experts": {name: str(place) for name, place in experts.items()}}
    mine = {**places, "merge": {"exclude": ["scale"]}, "nested": NESTED}
    overlay = {"suites": [], "methods": ["weight_averaging"], "tables": [], "figures": [], "models": {"mine": mine}}
    (project / "own.yaml").write_text(yaml.safe_dump(overlay))
    return project, project.made(*OVERLAY), base, experts


@pytest.fixture
def copied(made, tmp_path):
    return made[0].copy(tmp_path / "project")


def merged(name):
    return f"results/merged/mine/{name}/seed0"


def jobs(name, *before):
    """Return the jobs of one nested merge whose measures change, with those that are named `before` it."""
    found = {f"{rule}: mine, {name}, seed 0" for rule in ("estimate_coefficients", "merge_checkpoints")}
    return found | {f"{rule}: mine/{name}, {more}seed 0" for rule, more in before}


WEIGHTS, CUTS = ("measure_weights", ""), ("measure_threshold", f"{CUT}, ")


def test_a_merge_of_a_merge_has_the_bytes_of_two_commands(made, tmp_path):
    project, _, base, experts = made
    folders = {name: str(place) for name, place in experts.items()}
    for name, entry in NESTED.items():
        words = [f"--expert={each}={folders[each]}" for each in entry["experts"]]
        folders[name] = str(tmp_path / name)
        merge_models(["--base", str(base), *words, "--method", entry["method"], "--exclude", "scale", "--output", folders[name]])
        assert same_bytes(tensors_of(project / merged(name)), tensors_of(tmp_path / name)), name
        both = (tmp_path / name, project / merged(name))
        alone, through = (json.loads((folder / "provenance.json").read_text()) for folder in both)
        left, right = ({each: known["xxh3_128"] for each, known in record["inputs"].items()} for record in (alone, through))
        assert left == right and alone["coefficients"]["rows"] == through["coefficients"]["rows"]
        cards = [sorted((folder / "README.md").read_text().splitlines()) for folder in both]  # experts in the order of the file
        assert [line for line in cards[0] if not line.startswith("Folders")] == [
            line for line in cards[1] if not line.startswith("Folders")
        ]


def test_norms_of_a_merge_are_measured_as_those_of_any_expert(made):
    project = made[0]
    table = json.loads((project / "results/coefficients/mine/abc/seed0.json").read_text())
    assert {*table["experts"]} == {"ab", "c", "a"} and table["method"] == "abc"
    inverse = [1 / norm for norm in table["norms"]["model"]]
    assert table["rows"]["model"] == pytest.approx([0.3 * 3 * each / sum(inverse) for each in inverse])


def test_an_expert_that_goes_in_twice_is_said_before_the_first_job(made):
    assert "note: mine: nested: abc: a is in it more than once" in made[1].text


def test_a_finished_run_has_nothing_to_do(made):
    assert made[0].jobs(*OVERLAY) == set()


def test_a_changed_method_remakes_its_merge_and_what_that_goes_into(copied):
    copied.edit("own.yaml", lambda o: o["models"]["mine"]["nested"]["ab"].update(method="task_arithmetic"))
    assert copied.jobs(*OVERLAY) == jobs("ab") | jobs("abc", WEIGHTS) | {"write_run_config"}


def test_a_changed_method_of_the_last_merge_remakes_that_alone(copied):
    copied.edit("own.yaml", lambda o: o["models"]["mine"]["nested"]["abc"].update(method="ties"))
    assert copied.jobs(*OVERLAY) == jobs("abc", CUTS) | {"write_run_config"}


def test_another_merge_costs_its_own_jobs(copied):
    new = {"method": "task_arithmetic", "experts": ["b", "c"]}
    copied.edit("own.yaml", lambda o: o["models"]["mine"]["nested"].update(bc=new))
    assert copied.jobs(*OVERLAY) == jobs("bc", WEIGHTS) | {"write_run_config"}


def test_another_expert_of_the_last_merge_leaves_the_first_as_it_is(copied):
    copied.edit("own.yaml", lambda o: o["models"]["mine"]["nested"]["abc"].update(experts=["ab", "c"]))
    assert copied.jobs(*OVERLAY) == jobs("abc", WEIGHTS) | {"write_run_config"}


def test_another_label_merges_nothing(copied):
    copied.edit("own.yaml", lambda o: o["models"]["mine"]["nested"]["abc"].update(label="All"))
    assert copied.jobs(*OVERLAY) == {"write_run_config"}


def test_in_a_suite_the_last_merge_is_scored_and_compared_and_nothing_else_is_made_again(project):
    nested = {
        "pair": {"method": "task_arithmetic+nan_delta", "experts": ["fruit", "weather"]},
        "whole": {"method": "ties", "experts": ["pair", "tools"]},
    }
    project.edit("config/suites/tiny.yaml", lambda suite: suite.update(nested=nested))
    new = {f"{rule}: tiny, {name}, seed 0" for rule in ("estimate_coefficients", "merge_checkpoints") for name in nested}
    new |= {f"measure_weights: tiny/{name}, seed 0" for name in nested} | {f"measure_threshold: tiny/whole, {CUT}, seed 0"}
    new |= {"evaluate_checkpoint: tiny, whole, all, seed 0"}
    assert project.jobs() == new | GATHERED | PRESENTED
