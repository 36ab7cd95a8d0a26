"""The worked example of CONTRIBUTING.md works: its blocks are applied to a copy of the project, and the method runs."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny
from models import ROOT, family, flat, tensors_of
from project import Project

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
METHOD = "task_arithmetic_ranked"


def block(language):
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    return found


def apply(diff, project):
    """Replace what the diff takes away, which stands in the file once, by what it adds."""
    _, name, _, *lines = diff.splitlines(keepends=True)
    file = project / name.removeprefix("+++ b/").strip()
    old = "".join(line[1:] for line in lines if line[0] in " -")
    new = "".join(line[1:] for line in lines if line[0] in " +")
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{file.name} has changed: bring the example of CONTRIBUTING.md up to date"
    file.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """The tiny project after the example."""
    project = Project(tiny.build(tmp_path_factory.mktemp("taught") / "project"))
    apply(block("diff"), project.folder)
    with open(project / "config/methods.yaml", "a", encoding="utf-8") as lines:
        lines.write(block("yaml"))
    return project


def run(project, *words):
    path = os.pathsep.join([str(project / "workflow"), str(project.folder)])
    environment = {**project.environment(), "PYTHONPATH": path}
    done = subprocess.run(words, cwd=project.folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_example_costs_ten_lines_and_one():
    assert len([line for line in block("diff").splitlines() if re.match(r"\+(?!\+\+)", line)]) <= 10
    assert len(block("yaml").splitlines()) == 1


def test_the_new_method_merges(taught, tmp_path):
    base, experts = family(tmp_path / "models", sizes=(0.01, 0.02, 0.005))
    names = {"BASE": str(base), "A": str(experts["a"]), "B": str(experts["b"]), "MERGED": str(tmp_path / "merged")}
    words = [names.get(word, word) for word in shlex.split(block("console"))]
    run(taught, sys.executable, *words[1:])
    theta, (shorter, longer) = flat(tensors_of(base)), (flat(tensors_of(experts[name])) for name in "ab")
    expected = theta + 0.3 * (4 / 3 * (shorter - theta) + 2 / 3 * (longer - theta))
    assert flat(tensors_of(tmp_path / "merged")) == pytest.approx(expected, abs=1e-6)


def test_the_new_rule_obeys_the_laws(taught):
    shutil.copytree(ROOT / "tests", taught / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    how = ("-q", "--noconftest", "-p", "no:cacheprovider")
    said = run(taught, sys.executable, "-m", "pytest", *how, "tests/test_laws.py", "-k", "coefficient and ranked")
    assert re.search(r"^[1-9]\d* passed", said, flags=re.MULTILINE)


def test_a_mistake_in_its_hyper_parameters_is_told(taught):
    code = (
        "from pathlib import Path; from experiment.methods import check_method_spec\n"
        "check_method_spec({'coefficients': {'ranked': {'means': 1.0}}}, Path('.'), 'here')"
    )
    with pytest.raises(AssertionError, match="unknown key 'means'; did you mean 'mean'"):
        run(taught, sys.executable, "-c", code)


def test_the_new_method_is_planned(taught):
    taught.edit("config/config.yaml", lambda config: config["methods"].append(METHOD))
    jobs = taught.jobs()
    for job in ("estimate_coefficients", "merge_checkpoints"):
        assert f"{job}: tiny, {METHOD}, seed 0" in jobs
    assert f"evaluate_checkpoint: tiny, {METHOD}, all, seed 0" in jobs


def test_equal_norms_have_the_same_rank(taught):
    code = (
        "import numpy; from nan_merge.methods.coefficients import ranked; print(*ranked(numpy.array([2.0, 1.0, 2.0]), mean=1.0))"
    )
    assert np.array(run(taught, sys.executable, "-c", code).split(), float) == pytest.approx([6 / 7, 9 / 7, 6 / 7])
