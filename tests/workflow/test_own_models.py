"""Models of the user go through the workflow by a small config file, and give what the one command gives."""

import json
import re
import shutil

import pytest
import tiny
import yaml
from models import ROOT, family, moved, same_bytes, save, tensors_of
from project import Project

from experiment.experiment import Experiment
from nan_merge.catalogue.files import read_yaml
from nan_merge.cli.merge import main as merge_models
from nan_merge.core.errors import UserError

METHODS = ["task_arithmetic", "ties+nan_delta", "ties_mean+nan_processed", "dare+nan_processed"]


def merged(name):
    return f"results/merged/mine/{name}/seed0"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The tiny project after a run of an overlay that names a base and its experts, and nothing to score."""
    folder = tmp_path_factory.mktemp("own")
    fresh = Project(tiny.build(folder / "project"))
    shutil.copy(ROOT / "config/variants.yaml", fresh / "config/variants.yaml")
    base, experts = family(folder / "models")
    folders = {"base": str(base), "experts": {name: str(folder) for name, folder in experts.items()}}
    overlay = {
        "suites": [],
        "methods": METHODS,
        "tables": [],
        "figures": [],
        "models": {"mine": {**folders, "merge": {"exclude": ["scale"]}}},
    }
    (fresh / "own.yaml").write_text(yaml.safe_dump(overlay))
    fresh.made("--configfile", "own.yaml")
    return fresh, base, experts


def test_a_small_config_file_merges_own_models(own, tmp_path):
    project, base, experts = own
    for method in METHODS:
        words = [f"--expert={name}={folder}" for name, folder in experts.items()]
        output = tmp_path / "alone" / method
        merge_models(["--base", str(base), *words, "--method", method, "--exclude", "scale", "--output", str(output)])
        assert same_bytes(tensors_of(project / merged(method)), tensors_of(output))
        alone, through = (json.loads((folder / "provenance.json").read_text()) for folder in (output, project / merged(method)))
        for name in ("base", *experts):
            assert alone["inputs"][name]["xxh3_128"] == through["inputs"][name]["xxh3_128"]
        cards = [(folder / "README.md").read_text() for folder in (output, project / merged(method))]
        assert cards[0] == cards[1]
        assert not re.search(r"[ =\"]/\w", cards[1])
    again = project.run("--configfile", "own.yaml")
    assert "Nothing to be done" in again.text


def test_a_new_expert_costs_the_measures_and_every_merge_and_no_table(own, tmp_path):
    project, base, _ = own
    overlay = ("--configfile", "own.yaml")
    new = save(tmp_path / "models/new", moved(tensors_of(base), 9))
    project.edit("own.yaml", lambda o: o["models"]["mine"]["experts"].update(new=str(new)))
    measured = {"measure_weights: mine, seed 0", "measure_threshold: mine, density_0.2-scope_model, seed 0"}
    measured |= {f"measure_processed: mine, {name}, seed 0" for name in ("trim-density_0.2-scope_model", "drop-rate_0.9")}
    each = {f"{rule}: mine, {method}, seed 0" for rule in ("estimate_coefficients", "merge_checkpoints") for method in METHODS}
    assert project.jobs(*overlay) == measured | each | {"write_run_config"}


MISTAKES = {
    "a tuned method": ({"methods": ["task_arithmetic_tuned"]}, "'task_arithmetic_tuned' needs scores to choose 'value'"),
    "no experts": ({"models": {"mine": {"base": "b", "experts": {}}}}, "models.mine.experts"),
    "an expert called base": ({"models": {"mine": {"base": "b", "experts": {"base": "e"}}}}, "the base has that name"),
    "an unknown device": (
        {"device": "tpu"},
        "device: expected a text \\(device of merges: .*\\), found the text 'tpu'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_before_anything_runs(mistake):
    changes, message = MISTAKES[mistake]
    own = {"suites": [], "methods": METHODS, "models": {"mine": {"base": "b", "experts": {"a": "e"}}}, **changes}
    with pytest.raises(UserError, match=message):
        Experiment({**read_yaml(ROOT / "config/config.yaml"), **own}, ROOT)
