"""The graph of a hundred methods on twenty tasks of three suites is planned in a minute."""

import json
import re
import subprocess
import sys

import pytest
import tiny
from project import SNAKEMAKE, Project

SUITES, TASKS = ("first", "second", "third"), [f"task{number}" for number in range(20)]
JOBS, SECONDS, BYTES = 6000, 60, 1e9


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The tiny project with twenty copies of a task, three suites and every method there is; nothing is run."""
    project = Project(tiny.build(tmp_path_factory.mktemp("scale") / "project"))
    fruit = tiny.read_yaml(project / "config/tasks.yaml")["fruit"]
    tiny.write_yaml(project / "config/tasks.yaml", {task: {**fruit, "label": task} for task in TASKS})
    suite = {key: value for key, value in tiny.SUITE.items() if key not in ("groups", "premise")}
    for name in SUITES:
        tiny.write_yaml(project / f"config/suites/{name}.yaml", {**suite, "tasks": TASKS})
    methods = tiny.read_yaml(tiny.ROOT / "config/study.yaml")["methods"]
    project.edit("config/config.yaml", lambda c: c.update(suites=list(SUITES), methods=methods))
    return project


METER = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(done.stdout, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, sep="\\n")
"""


def used(command, project):
    """Run a command; return its output, the processor seconds of all its processes, and the peak memory of the largest.

    A small process starts it: what a process holds before it becomes another program counts as that program's peak.
    """
    done = subprocess.run([sys.executable, "-c", METER, *command], cwd=project.folder, env=project.environment(), text=True,
                          capture_output=True, check=True)  # fmt: skip
    *text, seconds, memory = done.stdout.splitlines()
    return "\n".join(text), float(seconds), int(memory)


def test_thousands_of_jobs_are_planned_in_a_minute(project):
    command = [*SNAKEMAKE, "--dry-run", "--quiet", "rules"]
    text, seconds, memory = used(command, project)
    total = re.search(r"^total +(\d+)", text, flags=re.MULTILINE)
    assert total and int(total[1]) >= JOBS, text[-3000:]
    assert seconds < SECONDS, f"{seconds:.0f} s of processor time for {total[1]} jobs"
    assert memory < BYTES, f"{memory / 1e6:.0f} MB at the peak"


CHECK = """
import sys, time
sys.path.insert(0, "workflow")
start = time.process_time()
import yaml
from pathlib import Path
from experiment.experiment import Experiment
from nan_merge.core.errors import UserError
config = yaml.safe_load(Path("config/config.yaml").read_text())
try:
    Experiment({**config, "methods": [*config["methods"], "tise"]}, Path.cwd())
except UserError as error:
    print(error)
print(time.process_time() - start)
"""


def test_the_settings_of_a_job_may_be_longer_than_an_argument_of_a_command(tmp_path):
    """Every suite with every method: the resolved config alone is above the 131,072 bytes that Linux allows an argument."""
    project = Project(tiny.copy_code(tmp_path / "project"))
    suites = sorted(file.stem for file in (project / "config/suites").glob("*.yaml"))
    methods = tiny.read_yaml(project / "config/study.yaml")["methods"]
    project.edit("config/config.yaml", lambda config: config.update(suites=suites, methods=methods))
    done = project.run("--quiet", "rules", "--", "results/run_config.yaml")
    assert done.code == 0, done.text[-3000:]
    written = tiny.read_yaml(project / "results/run_config.yaml")
    assert written["suites"].keys() == set(suites) and len(suites) >= 17
    assert len(json.dumps(written)) > 131_072


def test_a_mistake_is_refused_before_the_graph_and_in_a_second(project):
    """Snakemake itself takes 1.2 s to start; with it the user waits less than two."""
    done = subprocess.run([sys.executable, "-c", CHECK], cwd=project.folder, text=True, capture_output=True, check=True)
    said, seconds = done.stdout.splitlines()
    assert said == "config/config.yaml: methods: unknown 'tise'; did you mean 'ties'?" and float(seconds) < 1.0


def test_planning_imports_no_torch(project):
    program = (
        "import sys; from snakemake.cli import main\n"
        "try: main(['--dry-run', '--quiet', 'all'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'open_clip', 'datasets'} & set(sys.modules), 'imported while planning'"
    )
    project.edit("config/config.yaml", lambda c: c.update(suites=["first"], methods=["pretrained", "ties_nan_delta"]))
    done = subprocess.run([sys.executable, "-c", program], cwd=project.folder, env=project.environment(), text=True,
                          capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
