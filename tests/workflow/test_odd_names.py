"""No name of a folder reaches the shell as anything but a name: every word of every command is quoted."""

import re

import pytest
import tiny
import yaml
from models import ROOT, family, same_bytes, tensors_of
from project import Project

from nan_merge.cli.merge import main as merge_models

ODD = "a b'c\"d$(touch PWNED)`touch PWNED`;&|*{x} {{y}}<z>ü\\"  # as part of a file name
METHODS = ["task_arithmetic", "ties+nan_delta"]


# ---- what the rules say -----------------------------------------------------------------------------------------------


def commands():
    """Return the command of every rule by file and first line."""
    found = {}
    for file in sorted((ROOT / "workflow/rules").glob("*.smk")):
        for block in re.findall(r"^    shell:\n((?:^        .*\n)+)", file.read_text(), re.MULTILINE):
            found[f"{file.name}: {' '.join(block.split()[1:4])}"] = "".join(re.findall(r'"(.*)"', block))
    return found


def test_every_rule_with_a_command_is_seen():
    text = "".join(file.read_text() for file in (ROOT / "workflow/rules").glob("*.smk"))
    assert len(commands()) == len(re.findall(r"\bshell:", text)) > 15


@pytest.mark.parametrize("rule", commands())
def test_every_field_of_a_command_is_quoted_by_snakemake(rule):
    fields = re.findall(r"\{([^{}]*)\}", commands()[rule])
    assert len(fields) > 2
    assert [field for field in fields if field != "threads" and not field.endswith(":q")] == []


def test_no_rule_runs_python_or_a_script_of_snakemake_with_a_command_of_its_own():
    text = "".join(file.read_text() for file in (ROOT / "workflow/rules").glob("*.smk"))
    assert not re.findall(r"^    (run|script|notebook|wrapper|cwl):", text, re.MULTILINE)
    assert not re.findall(r"\bshell\(|os\.system|subprocess", text)


# ---- a run ------------------------------------------------------------------------------------------------------------


def overlay(base, experts):
    folders = {"base": str(base), "experts": {name: str(folder) for name, folder in experts.items()}}
    return {"suites": [], "methods": METHODS, "tables": [], "figures": [], "models": {"mine": folders}}


def test_models_with_odd_names_are_merged_in_a_checkout_with_an_odd_name(tmp_path):
    base, experts = family(tmp_path / f"models {ODD}")
    moved = {name: folder.rename(folder.with_name(f"{name} {ODD}")) for name, folder in {"base": base, **experts}.items()}
    base = moved.pop("base")
    project = Project(tiny.copy_code(tmp_path / f"checkout {ODD}"))
    (project / "own.yaml").write_text(yaml.safe_dump(overlay(base, moved)))
    done = project.run("--configfile", "own.yaml")
    assert done.code == 0, done.text[-6000:]
    assert not [*tmp_path.rglob("PWNED*")]
    for method in METHODS:
        words = [f"--expert={name}={folder}" for name, folder in moved.items()]
        merge_models(["--base", str(base), *words, "--method", method, "--output", str(tmp_path / method), "--quiet"])
        assert same_bytes(tensors_of(project / f"results/merged/mine/{method}/seed0"), tensors_of(tmp_path / method))
    assert "Nothing to be done" in project.run("--configfile", "own.yaml").text
