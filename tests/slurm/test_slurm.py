"""The workflow through a real SLURM: the bytes of a local run, and what goes wrong is done again and nothing else."""

from __future__ import annotations

import os

import pytest
from slurm_cluster import (
    FAIL,
    MEMORY,
    MERGED,
    MERGES,
    NOT_INSTALLED,
    OnCluster,
    merges,
    missing,
    small_merges,
    started,
    whole,
)

if missing() and os.environ.get("SLURM") != "1":
    pytest.skip(NOT_INSTALLED, allow_module_level=True)  # one line for all

pytestmark = pytest.mark.slurm
METHOD = "task_arithmetic+nan_delta"  # from its coefficients to its scores
CHAIN = ("estimate_coefficients", "evaluate_checkpoint")
MADE = (f"coefficients/tiny/{METHOD}/*", *MERGED, f"scores/tiny/{METHOD}/**/*")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster without accounting, as a small laboratory has it."""
    with started(tmp_path_factory.mktemp("slurm") / "cluster") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def eventful(finished, cluster, tmp_path_factory):
    """A run in which a job fails and another takes too much memory; merges ask for a GPU."""
    project = finished.copy(tmp_path_factory.mktemp("eventful") / "project")
    project.remove("results/merged", f"results/coefficients/tiny/{METHOD}", f"results/scores/tiny/{METHOD}")
    project.edit("profiles/default/profile.v9+.yaml", lambda profile: small_merges(profile, gpu=1))
    run = OnCluster(project, cluster)
    run.fault("merged/tiny/ties/", FAIL)
    run.fault("merged/tiny/dare/", MEMORY)
    run.made(*MERGES, f"results/scores/tiny/{METHOD}/seed0/all.json")
    return run


def test_the_bytes_are_those_of_a_local_run(eventful, finished):
    found, expected = eventful.project.digests(*MADE), finished.digests(*MADE)
    assert {name.split("/")[0] for name in expected} == {"coefficients", "merged", "scores"} and found == expected


def test_a_failed_job_and_one_out_of_memory_are_tried_again_and_no_other(eventful, finished):
    assert merges(eventful) == {"ties": 2, "dare": 2, METHOD: 1}
    assert [len(eventful.ran(name)) for name in CHAIN] == [1, 1]
    whole(eventful, finished)


def test_a_gpu_is_taken_where_a_rule_asks_and_nowhere_else(eventful):
    merged, others = eventful.ran("merge_checkpoints"), [row for name in CHAIN for row in eventful.ran(name)]
    assert all(node == "gpu1" and gpus in ("0", "1") for node, gpus, _ in merged), merged
    assert len(others) == len(CHAIN) and all(node.startswith("cpu") and gpus == "none" for node, gpus, _ in others), others
