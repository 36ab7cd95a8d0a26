"""A killed run: what is half done is never taken for whole, and the next run ends with the bytes of one that was not killed."""

import os
import signal
import subprocess
import time

import pytest
import tiny
from project import LIMIT, make, make_command

from nan_merge.core.atomic import CONTENT, place_of

EXPERTS = [f"results/checkpoints/tiny/seed0/{task}" for task in ("fruit", "weather", "tools")]
MERGES = [f"results/merged/tiny/{method}/seed0" for method in ("ties", "dare", "task_arithmetic", tiny.DRAWS[0])]
PATTERNS = ("checkpoints/**/*", *(f"merged/tiny/{folder.split('/')[3]}/**/*" for folder in MERGES))


def start(project, *targets, options=()):
    """Start a run as a terminal does: leader of its own process group, Ctrl-C not ignored (as in a shell's background)."""
    with open(project / "killed.log", "w") as log:
        return subprocess.Popen([*make_command(), *options, "--", *targets], cwd=project.folder, env=project.environment(),
                                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # fmt: skip


def wait_for(sign, run, pause):
    """Wait until `sign()` is true; a run that ends first has not been interrupted."""
    end = time.monotonic() + LIMIT
    while not sign():
        assert run.poll() is None and time.monotonic() < end, "the run ended before it could be interrupted"
        time.sleep(pause)


def finetuning(project):
    log = project / "results/logs/finetune_checkpoint/tiny/seed0/weather.log"
    return lambda: log.exists() and "0/4000" in log.read_text()


def whole(folder):
    return {file.name for file in folder.glob("*")} >= {"model.safetensors", "config.json", "tokenizer.json"}


def after(project):
    """Run again as `make` does, and expect success."""
    done = make(project, *EXPERTS, *MERGES)
    assert done.code == 0, done.text[-6000:]
    assert project.jobs(*EXPERTS, *MERGES) == set()
    assert project.leftovers() == []
    return project.digests(*PATTERNS)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_run_that_is_ended_in_fine_tuning_goes_on_with_the_same_bytes(project, finished, end):
    """The training is made long for the interrupted run and is short again afterwards."""
    project.remove("results/checkpoints/tiny/seed0/weather", "results/merged", "results/logs")
    steps = {"quick": "steps: 40\n", "slow": "steps: 4000\n"}
    suite = "config/suites/tiny.yaml"
    (project / suite).write_text((project / suite).read_text().replace(steps["quick"], steps["slow"], 1))
    run = start(project, *EXPERTS, *MERGES, options=("--rerun-triggers", "mtime"))
    wait_for(finetuning(project), run, 0.05)
    os.killpg(run.pid, end)
    assert run.wait(LIMIT) != 0
    assert not (project / EXPERTS[1]).exists()
    (project / suite).write_text((project / suite).read_text().replace(steps["slow"], steps["quick"], 1))
    assert after(project) == finished.digests(*PATTERNS)


def test_a_run_that_is_killed_in_a_merge_goes_on_with_the_same_bytes(project, finished):
    project.remove("results/merged")
    run = start(project, *MERGES)
    folders = [(project / folder).parent for folder in MERGES]
    wait_for(lambda: any(folder.is_dir() and list(folder.glob(".*.part")) for folder in folders), run, 0.0005)
    os.killpg(run.pid, signal.SIGKILL)
    assert run.wait(LIMIT) != 0
    present = [folder for folder in MERGES if (project / folder).exists()]
    assert len(present) < len(MERGES)
    assert all(whole(project / folder) for folder in present)
    assert after(project) == finished.digests(*PATTERNS)


def test_what_a_killed_process_left_is_neither_taken_for_a_result_nor_kept(project, finished):
    left = place_of(project / "results/merged/tiny/ties/seed0")
    (left / "new.seed0").mkdir(parents=True)
    (left / "lock").write_bytes(CONTENT)
    (left / "new.seed0/model.safetensors").write_bytes(b"half")
    project.remove("results/merged/tiny/ties/seed0", "results/merged/tiny/dare/seed0")
    assert after(project) == finished.digests(*PATTERNS)


def test_two_runs_at_once_take_turns(project):
    project.remove("results/merged/tiny/ties")
    runs = [start(project, MERGES[0]) for _ in range(2)]
    assert [run.wait(LIMIT) for run in runs] == [0, 0]
    assert whole(project / MERGES[0])
