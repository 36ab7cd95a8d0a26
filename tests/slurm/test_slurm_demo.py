"""The default config through a real SLURM, as a user types it: the bytes of `make demo`, and every job done once."""

from __future__ import annotations

from collections import Counter

import pytest
from project import RESULTS, SNAKEMAKE, checkout
from slurm_cluster import OnCluster, started

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.demo]


def test_the_default_config_on_the_cluster_gives_the_bytes_of_a_local_run(demo, tmp_path):
    project = checkout(tmp_path / "checkout", demo / "results/assets")
    with started(tmp_path / "cluster") as cluster:
        run = OnCluster(project, cluster)
        done = run.call(*SNAKEMAKE, "--profile", "slurm")
        assert done.code == 0, done.text[-6000:]
    found, expected = project.digests(*RESULTS), demo.digests(*RESULTS)
    kinds = ("digests/", "coefficients/", "scores/", "tables/", "scores.tsv")
    assert all(any(name.startswith(kind) for name in expected) for kind in kinds)
    assert sorted(found) == sorted(expected)
    assert {name for name, digest in found.items() if digest != expected[name]} == set()
    calls = Counter(call for _, _, call in run.ran())
    assert {call for call, times in calls.items() if times > 1} == set(), "done twice"
    for script in ("finetune_checkpoint", "merge_checkpoints", "evaluate_checkpoint"):
        assert {node for node, _, _ in run.ran(script)} == {"cpu1", "cpu2"}
    assert project.jobs() == set() and project.leftovers() == []
