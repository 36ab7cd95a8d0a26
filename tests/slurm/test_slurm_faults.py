"""What a cluster does to a run, with and without accounting: minutes each, so `make test-slow` runs them and CI does not."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys

import pytest
import tiny
from project import LIMIT, RESULTS
from slurm_cluster import FAIL, HANG, MEMORY, MERGES, OnCluster, merges, started, wait_until, whole

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
THREADED = ("measure_weights", "measure_threshold", "merge_checkpoints")  # rules that take as many threads as they get
ONCE = {"ties": 2, "dare": 1, "task_arithmetic+nan_delta": 1}


@pytest.fixture(scope="module", params=["none", "dbd"])
def cluster(request, tmp_path_factory):
    """A cluster without accounting, then one with slurmdbd and MariaDB."""
    with started(tmp_path_factory.mktemp("slurm") / "cluster", request.param) as cluster:
        yield cluster


def held(run):
    """Return the number and the node of the one job that is left, when the other two merges are done."""
    wait_until(lambda: "2 of 3 steps" in run.log() and len(run.cluster.jobs("RUNNING")) == 1, "two finished merges")
    (line,) = run.cluster.ask("squeue", "-h", "-t", "RUNNING", "-o", "%i %N").splitlines()
    return line.split()


def one_more(run, finished):
    """Say that the one merge that was disturbed was made once more and no other, and that all is there."""
    assert merges(run) == ONCE
    whole(run, finished)


def finished_after_one_more(run, finished, process):
    assert process.wait(LIMIT) == 0, run.log()[-6000:]
    one_more(run, finished)


def resumed(run, finished):
    run.made(*MERGES)
    one_more(run, finished)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_whole_run_gives_the_bytes_of_a_local_one(fresh, cluster, finished, tmp_path, threads):
    if (threads == 2) != cluster.has_accounting:
        pytest.skip("the other cluster does this")
    few = {"methods": ["pretrained", "individual", "task_arithmetic", "task_arithmetic+nan_delta"], "tables": ["main"],
           "figures": ["accuracy"]}  # fmt: skip
    local = finished.copy(tmp_path / "local")
    for project in (fresh, local):
        project.edit("config/config.yaml", lambda config: config.update(few))
        project.edit("config/suites/tiny.yaml", lambda suite: suite.pop("premise"))
        project.edit("profiles/default/profile.v9+.yaml", lambda p: p.update({"set-threads": dict.fromkeys(THREADED, threads)}))
    local.made()
    run = OnCluster(fresh, cluster)
    run.made()
    whole_results = fresh.digests(*RESULTS)
    assert {"scores.tsv", "tables/main_tiny.md", "merged/tiny/task_arithmetic/seed0/model.safetensors"} <= set(whole_results)
    assert whole_results == {name: digest for name, digest in local.digests(*RESULTS).items() if name in whole_results}
    assert fresh.jobs() == set()


def test_failure_and_out_of_memory(run, finished):
    run.fault("merged/tiny/ties/", FAIL)
    run.fault("merged/tiny/dare/", MEMORY)
    run.made(*MERGES)
    assert merges(run) == {**ONCE, "dare": 2}
    whole(run, finished)


def test_a_run_outlives_slurmctld_and_once_killed_does_not_submit_its_jobs_a_second_time(run, finished):
    """Restart slurmctld during a run, kill the run, and finish it once the job that is left in the queue is cancelled."""
    run.fault("merged/tiny/ties/", HANG)
    process = run.start(*MERGES)
    wait_until(lambda: run.ran(), "a job")  # none with a GPU: SLURM 22.05 counts GPUs wrongly after a restart
    run.cluster.do("stop-ctld")
    run.cluster.do("start-ctld")
    wait_until(lambda: len(run.cluster.jobs()) == 1 and "2 of 3 steps" in run.log(), "two finished merges")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    second = run.run(*MERGES)
    assert second.code == 1 and "--unlock" in second.text, second.text[-3000:]
    assert run.call(*run.command("--unlock")).code == 0
    refused = run.run(*MERGES)
    (left,) = run.cluster.jobs()
    assert refused.code == 1 and f"scancel {left}" in refused.text and "second time" in refused.text, refused.text[-3000:]
    run.cluster.ask("scancel", left)
    run.cluster.wait_until_idle()
    run.made(*MERGES)
    one_more(run, finished)


def test_slurmctld_restarted_in_mid_run(run, finished):
    run.watch = "squeue"  # sacct would answer for it
    process = run.start(*MERGES)
    wait_until(lambda: len(run.ran("merge_checkpoints")) == 3, "three jobs")
    run.cluster.do("stop-ctld")
    wait_until(lambda: "SLURM does not answer" in run.log(), "a look meanwhile")
    run.cluster.do("start-ctld")
    assert process.wait(LIMIT) == 0, run.log()[-6000:]
    assert set(merges(run).values()) == {1}
    whole(run, finished)


def test_time_limit(run, finished):
    run.project.edit(
        "profiles/default/profile.v9+.yaml", lambda p: p["set-resources"]["merge_checkpoints"].update(runtime="attempt * 1")
    )
    run.fault("merged/tiny/ties/", HANG)
    run.made(*MERGES)
    assert merges(run)["ties"] == 2
    whole(run, finished)


def test_a_cancelled_job_is_done_by_the_next_run_and_no_other(run, finished):
    run.fault("merged/tiny/ties/", HANG)
    process = run.start("--retries", "0", *MERGES)
    number, _ = held(run)
    run.cluster.ask("scancel", number)
    assert process.wait(LIMIT) == 1
    status = run.call(sys.executable, "-m", "scripts.show_status").text
    assert re.search(r"^merge_checkpoints +3 +2 +0 +1 +0$", status, re.M) and "failed: merge_checkpoints: tiny, ties" in status
    resumed(run, finished)


def test_a_node_that_goes_down(run, finished):
    run.fault("merged/tiny/ties/", HANG)
    process = run.start(*MERGES)
    _, node = held(run)
    run.cluster.do("kill-node", node)
    try:
        finished_after_one_more(run, finished, process)
    finally:
        run.cluster.do("start-node", node)


def test_ctrl_c_ends_the_jobs_and_the_next_run_goes_on(run, finished):
    run.fault("merged/tiny/ties/", HANG)
    process = run.start(*MERGES)
    held(run)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(LIMIT) != 0
    run.cluster.wait_until_idle()
    resumed(run, finished)


def test_two_runs_in_one_folder(run, finished):
    run.fault("merged/tiny/ties/", HANG)
    process = run.start(*MERGES)
    number, _ = held(run)
    second = run.run(*MERGES)
    assert second.code == 1 and "Directory cannot be locked" in second.text and "--unlock" in second.text
    partial = run.call(sys.executable, "-m", "scripts.remove_partial")
    assert partial.code == 0 or "a run is at work" in partial.text
    run.cluster.ask("scancel", number)  # tried again by the first
    finished_after_one_more(run, finished, process)


def test_many_methods_in_few_submissions(run, finished):
    """A group holds several merges one after another; every merge still has its files, its log and its benchmark."""
    run.made("--groups", "merge_checkpoints=merge", "--group-components", "merge=4", "--cores", "1", *MERGES)
    submitted = (run.cluster.folder / "log/slurmctld.log").read_text().count("_slurm_rpc_submit_batch_job")
    assert len(re.findall(r"submitted with SLURM jobid", max(run.project.folder.glob(".snakemake/log/*.log")).read_text())) == 1
    assert submitted and all((run.project / f"results/logs/merge_checkpoints/tiny/{m}/seed0.log").exists() for m in ONCE)
    whole(run, finished)


def test_the_whole_run_inside_one_allocation(run, finished):
    page = (tiny.ROOT / "docs/cluster.md").read_text(encoding="utf-8")
    command = re.search(r"(?s)\n(sbatch .*?'\n)", page)
    assert command, "docs/cluster.md shows no sbatch"
    words = shlex.split(command[1].replace("\\\n", " "))
    words = ["4" if w == "32" else "5000" if w == "120G" else w for w in words]
    words[-1] = f"{words[-1]} -- {' '.join(MERGES)}".replace("snakemake", f"{sys.executable} -m snakemake", 1)
    done = run.call("sbatch", "--wait", *words[1:])
    assert done.code == 0, done.text
    assert set(merges(run)) == set(ONCE) and {node for node, _, _ in run.ran("merge_checkpoints")} <= {"cpu1", "cpu2"}
    whole(run, finished)


def test_a_wrong_account_is_refused_at_the_start(run):
    profile = run.project / ".home/snakemake/slurm/profile.v9+.yaml"
    profile.write_text(re.sub(r"(?m)^  (# )?slurm_account: .*$", "  slurm_account: nobody", profile.read_text()))
    done = run.run(*MERGES)
    assert done.code == 1 and "slurm_account: nobody" in done.text and not run.ran("merge_checkpoints")


def test_jobs_that_nobody_would_see_end_are_refused_at_the_start(run):
    if run.cluster.has_accounting:
        pytest.skip("sacct sees them")
    run.watch = "sacct"
    done = run.run(*MERGES)
    assert done.code == 1 and "keeps no accounting" in done.text and not run.ran("merge_checkpoints")


def test_a_profile_of_the_site_stays_as_it_is(run):
    home = run.project / ".home"
    files = {file: file.read_bytes() for file in home.rglob("*") if file.is_file()}
    done = run.call(sys.executable, "-m", "scripts.write_profile")
    assert done.code == 1 and "is there already and stays as it is" in done.text
    assert {file: file.read_bytes() for file in home.rglob("*") if file.is_file()} == files
