"""The graph of a hundred methods on twenty tasks of three suites is planned in time linear in the number of its jobs."""

import json
import re
import subprocess
import sys

import pytest
import tiny
from project import SNAKEMAKE, Project

SUITES, TASKS = ("first", "second", "third"), [f"task{number}" for number in range(20)]
JOBS, FACTOR, BYTES = 6000, 1.5, 1e9


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The tiny project with twenty copies of a task, three suites and every method there is; nothing is run."""
    project = Project(tiny.build(tmp_path_factory.mktemp("scale") / "project"))
    fruit = tiny.read_yaml(project / "config/tasks.yaml")["fruit"]
    tiny.write_yaml(project / "config/tasks.yaml", {task: {**fruit, "label": task} for task in TASKS})
    suite = {key: value for key, value in tiny.SUITE.items() if key not in ("groups", "premise")}
    for name in SUITES:
        tiny.write_yaml(project / f"config/suites/{name}.yaml", {**suite, "tasks": TASKS})
    methods = tiny.read_yaml(tiny.ROOT / "config/study/every_method.yaml")["methods"]
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


def planned(project):
    """Plan a run; return the number of its jobs, the processor seconds and the peak memory in bytes."""
    text, seconds, memory = used([*SNAKEMAKE, "--dry-run", "--quiet", "rules"], project)
    total = re.search(r"^total +(\d+)", text, flags=re.MULTILINE)
    assert total, text[-3000:]
    return int(total[1]), seconds, memory


@pytest.mark.slow
def test_thousands_of_jobs_are_planned_in_time_linear_in_their_number(project):
    """A job of the whole graph costs at most `FACTOR` times what one costs in a part of it, the start of Snakemake included."""
    whole = tiny.read_yaml(project / "config/config.yaml")
    jobs, seconds, memory = planned(project)
    some = [name for name in whole["methods"] if "tuned" not in name][::3]  # a tuned one goes with those that use its value
    project.edit("config/config.yaml", lambda c: c.update(suites=["first"], methods=some))
    fewer, reference, _ = planned(project)
    tiny.write_yaml(project / "config/config.yaml", whole)
    assert jobs >= JOBS and fewer < jobs / 5
    assert seconds / jobs < FACTOR * reference / fewer, f"{seconds:.0f} s for {jobs} jobs, {reference:.0f} s for {fewer}"
    assert memory < BYTES, f"{memory / 1e6:.0f} MB at the peak"


def test_the_settings_of_a_job_may_be_longer_than_an_argument_of_a_command(tmp_path):
    """Every suite with every method: the resolved config alone is above the 131,072 bytes that Linux allows an argument."""
    project = Project(tiny.copy_code(tmp_path / "project"))
    suites = sorted(file.stem for file in (project / "config/suites").glob("*.yaml"))
    methods = tiny.read_yaml(project / "config/study/every_method.yaml")["methods"]
    project.edit("config/config.yaml", lambda config: config.update(suites=suites, methods=methods))
    done = project.run("--quiet", "rules", "--", "results/run_config.yaml")
    assert done.code == 0, done.text[-3000:]
    written = tiny.read_yaml(project / "results/run_config.yaml")
    assert written["suites"].keys() == set(suites) and len(suites) >= 17
    assert len(json.dumps(written)) > 131_072


def test_a_mistake_is_refused_before_any_graph_is_built(project):
    graph = "Building DAG of jobs"
    right = project.run("--dry-run", "results/assets/tiny_bert")
    assert right.code == 0 and graph in right.text
    project.edit("config/config.yaml", lambda c: c["methods"].append("tise"))
    wrong = project.run("--dry-run")
    project.edit("config/config.yaml", lambda c: c["methods"].remove("tise"))
    assert wrong.code == 1 and "config/config.yaml: methods: unknown 'tise'; did you mean 'ties'?" in wrong.text
    assert graph not in wrong.text


def test_planning_imports_no_torch(project):
    program = (
        "import sys; from snakemake.cli import main\n"
        "try: main(['--dry-run', '--quiet', 'all'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'open_clip', 'datasets'} & set(sys.modules), 'imported while planning'"
    )
    project.edit("config/config.yaml", lambda c: c.update(suites=["first"], methods=["pretrained", "ties+nan_delta"]))
    done = subprocess.run([sys.executable, "-c", program], cwd=project.folder, env=project.environment(), text=True,
                          capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


COUNTED = """
import sys
sys.path.insert(0, {workflow!r})
from planning.rate_limit import lift_default_rate

onstart:
    selects = workflow.scheduler.job_selector
    def counted(jobs):
        print("select", file=sys.stderr)
        return selects(jobs)
    workflow.scheduler.job_selector = counted
    lift_default_rate(workflow)

rule all:
    input: expand("{{number}}", number=range(16))

rule one:
    output: "{{number}}"
    shell: "sleep 0.5; touch {{output}}"
"""


@pytest.mark.parametrize(("limit", "once_a_job"), [([], True), (["--max-jobs-per-timespan", "50/1s"], False)])
def test_jobs_are_selected_once_for_each_that_ends_unless_the_user_limits_their_rate(tmp_path, limit, once_a_job):
    """With a limit Snakemake selects more and more often: an upgrade in which this test fails may need our change no longer."""
    (tmp_path / "Snakefile").write_text(COUNTED.format(workflow=str(tiny.ROOT / "workflow")))
    command = [*SNAKEMAKE, "--cores", "2", "--scheduler", "greedy", *limit]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    selections = done.stderr.splitlines().count("select")
    assert selections >= 8
    assert (selections <= 17) == once_a_job
