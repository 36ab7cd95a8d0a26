"""The conda environments name the versions that requirements.txt pins, and every environment of a rule exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
ON_CONDA = {"pytorch": "torch", "python-xxhash": "xxhash"}  # packages that have another name on conda-forge


def pinned() -> dict[str, str]:
    lines = (line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    return {normal(name): version for name, version in (line.split("==") for line in lines if line)}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named(environment: Path) -> dict[str, str]:
    found = {}
    for entry in yaml.safe_load(environment.read_text())["dependencies"]:
        for line in entry["pip"] if isinstance(entry, dict) else [entry]:
            if line not in ("pip", "python=3.11"):
                name, version = re.split("==?", line)
                found[normal(ON_CONDA.get(name, name))] = version
    return found


@pytest.mark.parametrize("environment", sorted((ROOT / "envs").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_environment_has_the_pinned_versions(environment):
    versions = named(environment)
    assert versions
    assert versions == {name: pinned().get(name) for name in versions}


def test_every_environment_of_a_rule_is_there_and_used():
    rules = "\n".join(file.read_text() for file in (ROOT / "workflow/rules").glob("*.smk"))
    assert set(re.findall(r"envs/(\w+)\.yaml", rules)) == {path.stem for path in (ROOT / "envs").glob("*.yaml")}


def test_every_requirement_is_pinned_once():
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    names = [normal(line.split("==")[0]) for line in lines if line]
    assert all("==" in line for line in lines if line)
    assert len(names) == len(set(names))
