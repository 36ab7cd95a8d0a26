"""The worked examples of CONTRIBUTING.md work: their blocks are applied to a copy of the project, and everything runs."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny
import yaml
from models import ROOT, family, flat, tensors_of
from project import Project

from nan_merge.core.files import read_table

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RANKED, SOFT = "task_arithmetic+ranked", "task_arithmetic_soft"
FILES = {"A coefficient rule": "config/variants.yaml", "An operator": "config/methods.yaml"}  # that the YAML goes to
OF_TINY = {"minilm_l6": "tiny_bert", "movie": "fruit", "crowd": "tools", "1.0e-3": "0.02"}


def block(heading, language):
    """Return the one block of a language under a heading."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", TEXT, flags=re.DOTALL | re.MULTILINE)
    (content,) = re.findall(rf"^```{language}\n(.*?)^```$", section, flags=re.DOTALL | re.MULTILINE)
    return content


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
def extended(tmp_path_factory):
    """The tiny project with all examples; the suite has the tiny project's assets and tasks."""
    project = Project(tiny.build(tmp_path_factory.mktemp("extended") / "project"))
    for heading, file in FILES.items():
        apply(block(heading, "diff"), project)
        with open(project / file, "a", encoding="utf-8") as lines:
            lines.write(block(heading, "yaml"))
    (project / "workflow/nan_merge/models/families/word_vectors.py").write_text(block("A family", "python"), encoding="utf-8")
    shutil.copyfile(project / "envs/text.yaml", project / "envs/word_vectors.yaml")
    suite = block("A suite", "yaml")
    for name, of_tiny in OF_TINY.items():
        suite = suite.replace(name, of_tiny)
    (project / "config/suites/word_vectors.yaml").write_text(suite, encoding="utf-8")
    return project


def run(project, *command):
    folders = ("workflow", ".", "tests/fakes", "tests/oracles")
    environment = {**project.environment(), "PYTHONPATH": os.pathsep.join(str(project / folder) for folder in folders)}
    return subprocess.run(command, cwd=project.folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def merge(extended, tmp_path):
    """Return the command that merges two experts by the example's method, and the flat weights of base and experts."""
    base, experts = family(tmp_path / "models", sizes=(0.01, 0.02, 0.005))
    names = {"BASE": str(base), "A": str(experts["a"]), "B": str(experts["b"]), "MERGED": str(tmp_path / "merged")}
    command = [names.get(argument, argument) for argument in shlex.split(block("A coefficient rule", "console"))]
    assert command[0] == "nan-merge"  # here of the extended checkout, not the installed one
    return [sys.executable, "-m", "nan_merge.cli", *command[1:]], [
        flat(tensors_of(folder)) for folder in (base, experts["a"], experts["b"])
    ]


@pytest.mark.parametrize("heading", FILES)
def test_an_operator_costs_ten_lines_and_one(heading):
    assert len([line for line in block(heading, "diff").splitlines() if re.match(r"\+(?!\+\+)", line)]) <= 10
    assert len(block(heading, "yaml").splitlines()) == 1


def test_the_new_methods_merge(extended, merge, tmp_path):
    command, (theta, shorter, longer) = merge
    done = run(extended, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = theta + 0.3 * (4 / 3 * (shorter - theta) + 2 / 3 * (longer - theta))
    assert flat(tensors_of(tmp_path / "merged")) == pytest.approx(expected, abs=1e-6)

    shutil.rmtree(tmp_path / "merged")
    done = run(extended, *(SOFT if argument == RANKED else argument for argument in command))
    assert done.returncode == 0, done.stdout + done.stderr
    tau = np.stack([shorter - theta, longer - theta])
    expected = theta + 0.3 * (np.sign(tau) * np.maximum(abs(tau) - 0.002, 0)).sum(axis=0)
    assert flat(tensors_of(tmp_path / "merged")) == pytest.approx(expected, abs=1e-6)
    assert np.abs(expected - theta - 0.3 * tau.sum(axis=0)).max() > 1e-4  # the operator changes something


def test_a_mistake_in_its_hyper_parameters_is_told(extended, merge):
    done = run(extended, *merge[0], "--set", "coefficients.ranked.means=1.0")
    assert done.returncode != 0 and "not 'means'; did you mean 'mean'" in done.stdout + done.stderr


def test_the_new_operators_obey_the_laws(extended):
    shutil.copytree(ROOT / "tests", extended / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    options = ("-q", "--noconftest", "-p", "no:cacheprovider", "-k", "ranked or soft_threshold")
    done = run(extended, sys.executable, "-m", "pytest", *options, "tests/unit/methods/test_laws.py")
    assert re.search(r"^\d\d+ passed", done.stdout, flags=re.MULTILINE) and "failed" not in done.stdout, done.stdout


def test_equal_norms_have_the_same_rank(extended):
    code = "import numpy; from nan_merge.methods.coefficients import ranked; print(*ranked(numpy.array([2.0, 1.0, 2.0])))"
    ranks = np.array(run(extended, sys.executable, "-c", code).stdout.split(), float)
    assert ranks == pytest.approx([2 / 7, 3 / 7, 2 / 7])


def test_the_suite_names_assets_and_tasks_of_the_project():
    suite = yaml.safe_load(block("A suite", "yaml"))
    assert {suite["base"], suite["text_tower"]} <= tiny.read_yaml(ROOT / "config/assets.yaml").keys()
    assert set(suite["tasks"]) <= tiny.read_yaml(ROOT / "config/tasks.yaml").keys()


def test_the_new_suite_of_the_new_family_runs_with_the_new_methods(extended):
    methods = ["pretrained", "individual", RANKED, SOFT]
    extended.edit("config/config.yaml", lambda config: config.update(suites=["word_vectors"], methods=methods))
    extended.made("results/scores.tsv")
    scores = {(row["method"], row["task"]): float(row["value"]) for row in read_table(extended / "results/scores.tsv")}
    assert scores.keys() == {(method, task) for method in methods for task in ("fruit", "tools")}
    assert scores["individual", "fruit"] > scores["pretrained", "fruit"]
