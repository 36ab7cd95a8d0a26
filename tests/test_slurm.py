"""The workflow through a real SLURM: the bytes of a local run, and what goes wrong is done again and nothing else."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest
from slurm_cluster import FAIL, HANG, MEMORY, Cluster, OnCluster, install, wait_until

pytestmark = pytest.mark.slurm
METHODS = ("ties", "dare", "task_arithmetic_nan_delta")
MERGES = [f"results/merged/tiny/{method}/seed0" for method in METHODS]
MERGED = [f"merged/tiny/{method}/**/*" for method in METHODS]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster without accounting, as a small laboratory has it."""
    install()
    cluster = Cluster(tmp_path_factory.mktemp("slurm") / "cluster")
    cluster.do("start")
    yield cluster
    cluster.do("stop")


@pytest.fixture
def run(project, cluster):
    """The finished project without its merges, on the cluster; a merge asks for 800 MB."""
    project.remove("results/merged")
    project.edit("profiles/default/profile.v9+.yaml", small_merges)
    yield OnCluster(project, cluster)
    for number in cluster.jobs():
        cluster.ask("scancel", number)
    cluster.wait_until_idle()


def small_merges(profile):
    profile["set-resources"]["merge_checkpoints"] = {"mem_mb": "attempt * 800", "runtime": "attempt * 5"}


def merges(run):
    """Return how often each method was merged."""
    return Counter(call.split("--output results/merged/tiny/")[1].split("/")[0] for _, _, call in run.ran("merge_checkpoints"))


def whole(run, finished):
    """Say that all merges are there with the bytes of a local run, that nothing is left to do and nothing half done is left."""
    assert run.project.digests(*MERGED) == finished.digests(*MERGED)
    assert run.project.jobs(*MERGES) == set()
    assert run.project.leftovers() == []


def test_a_run_on_the_cluster_gives_the_bytes_of_a_local_run_and_takes_gpus_where_a_rule_asks(project, cluster, finished):
    made = ("measures", "coefficients", "merged", "scores")
    project.remove(*(f"results/{name}" for name in made))
    project.edit("profiles/default/profile.v9+.yaml", lambda p: p["set-resources"]["merge_checkpoints"].update(gpu=1))
    run = OnCluster(project, cluster)
    names = ("task_arithmetic_nan_delta", "dare")
    run.made(*(f"results/scores/tiny/{method}/seed0/all.json" for method in names))
    patterns = [f"{kind}/tiny/{method}/**/*" for kind in made[1:] for method in names] + ["measures/tiny/seed0.json"]
    found, expected = project.digests(*patterns), finished.digests(*patterns)
    assert len(expected) > 10 and found == expected
    merged = run.ran("merge_checkpoints")
    assert len(merged) == 2 and all(node == "gpu1" and gpus in ("0", "1") for node, gpus, _ in merged)
    others = [call for name in ("measure_weights", "estimate_coefficients", "evaluate_checkpoint") for call in run.ran(name)]
    assert len(others) == 5 and all(node.startswith("cpu") and gpus == "none" for node, gpus, _ in others)


def test_a_failed_job_and_one_out_of_memory_are_tried_again_while_slurmctld_restarts(run, finished):
    run.fault("merged/tiny/ties/", FAIL)
    run.fault("merged/tiny/dare/", MEMORY)
    process = run.start(*MERGES)
    wait_until(lambda: len(run.ran("merge_checkpoints")) >= 3, "three jobs")
    run.cluster.do("stop-ctld")
    run.cluster.do("start-ctld")
    assert process.wait(300) == 0, run.log()[-6000:]
    assert merges(run) == {"ties": 2, "dare": 2, "task_arithmetic_nan_delta": 1}
    whole(run, finished)


def test_a_killed_snakemake_does_not_submit_its_jobs_a_second_time(run, finished):
    run.fault("merged/tiny/ties/", HANG)
    process = run.start(*MERGES)
    wait_until(lambda: len(run.cluster.jobs()) == 1 and "2 of 3 steps" in run.log(), "two finished merges", 240)
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
    assert merges(run) == {"ties": 2, "dare": 1, "task_arithmetic_nan_delta": 1}
    whole(run, finished)
