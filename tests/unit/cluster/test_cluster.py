"""Checks before a run and the writer of the profile, against fake commands of SLURM."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from cluster import executor_patch, job_resources, partitions
from cluster import slurm as cluster
from nan_merge.core.errors import UserError

CONFIG = (
    "AccountingStorageType   = accounting_storage/{}\nClusterName             = somewhere\nMinJobAge               = {} sec\n"
)
SINFO = "cpu*|1-00:00:00|64+|256000|(null)|up\ngpu|2-12:00:00|96|512000|gpu:a100:4(S:0-1)|up\nold|infinite|8|1000|(null)|down\n"
ONE_OF_US = (
    "17|RUNNING|{}|rule_merge_checkpoints_wildcards_x\n18|PENDING|{}|group_evaluate\n19|RUNNING|{}|\n20|RUNNING|/else|rule_x\n"
)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Put commands on the path that print a text or fail; `slurm(squeue="...", sacct=None)` changes them."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.delenv("SLURM_CONF", raising=False)
    (tmp_path / "bin").mkdir()

    def put(accounting="slurmdbd", age=300, **commands):
        usual = {"scontrol": CONFIG.format(accounting, age), "squeue": "", "sacct": "", "sinfo": SINFO, "sacctmgr": "lab\nlab\n"}
        default = commands.pop("default", "lab\n")
        for name, text in {**usual, **commands}.items():
            file = tmp_path / "bin" / name
            body = f"cat <<'TEXT'\n{text}TEXT\n" if text is not None else "echo no data base >&2; exit 1\n"
            if name == "sacctmgr":
                body = f"case $* in *defaultaccount*) printf %s '{default}'; exit ;; esac\n{body}"
            file.write_text(f"#!/bin/sh\n{body}")
            file.chmod(0o755)

    put()
    return put


def write_profile(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_CONFIG_HOME": str(folder)}
    return subprocess.run([sys.executable, "-m", "scripts.write_profile", *words], cwd=tiny.ROOT, env=environment,
                          capture_output=True, text=True, check=False)  # fmt: skip


@pytest.mark.parametrize("accounting, age, command, first_poll", [
    ("slurmdbd", 300, "sacct", 20), ("slurmdbd", 10, "sacct", 20), ("slurmdbd", 10, "squeue", 20), ("none", 300, "squeue", 20),
    ("none", 300, "squeue", 100),
])  # fmt: skip
def test_a_cluster_on_which_every_end_is_seen_passes(slurm, tmp_path, accounting, age, command, first_poll):
    slurm(accounting, age)
    cluster.check(command, first_poll, tmp_path)


@pytest.mark.parametrize("accounting, age, command, first_poll, words", [
    ("none", 300, "sacct", 20, ["keeps no accounting", "slurm-status-command: squeue"]),
    ("none", 300, "squeue", 101, ["keeps no accounting", "at most 100"]),
    ("none", 30, "squeue", 20, ["keeps no accounting", "MinJobAge, 30 s", "at most 10"]),
    ("none", 120, "squeue", 20, ["forgets a finished job after 120 s", "MinJobAge of 300"]),
    ("slurmdbd", 120, "squeue", 20, ["forgets a finished job after 120 s", "slurm-status-command: sacct"]),
])  # fmt: skip
def test_a_run_that_would_wait_for_ever_is_refused(slurm, tmp_path, accounting, age, command, first_poll, words):
    slurm(accounting, age)
    with pytest.raises(UserError) as refused:
        cluster.check(command, first_poll, tmp_path)
    assert all(word in str(refused.value) for word in words), refused.value


@pytest.fixture
def executor(slurm, monkeypatch):
    """The patched SLURM executor; unpatched afterwards. A newer version may need no patch: then executor_patch.py can go."""
    assert importlib.metadata.version("snakemake-executor-plugin-slurm") == executor_patch.PATCHED_VERSION
    executor = importlib.import_module("snakemake_executor_plugin_slurm")
    for name in ("get_min_job_age", "query_job_status"):
        monkeypatch.setattr(executor, name, getattr(executor, name))
    executor_patch.patch_slurm_polling(again=0.1)
    return executor


def poll(executor, command, later=lambda: None):
    """Return the states that one poll gets; `later` is called while it waits."""

    async def both():
        asyncio.get_running_loop().call_later(0.5, later)
        return await asyncio.wait_for(executor.query_job_status(command, logging.getLogger()), 20)

    return asyncio.run(both())[0]


def test_a_poll_waits_for_a_slurm_that_does_not_answer(slurm, executor, caplog):
    slurm(squeue=None)
    assert poll(executor, "squeue", lambda: slurm(squeue="7|RUNNING\n")) == {"7": "RUNNING"}
    assert [record.message for record in caplog.records] == ["SLURM does not answer squeue; asking again until it does"]


def test_the_age_of_jobs_is_known_while_slurm_does_not_answer(slurm, executor):
    slurm(scontrol=None)
    assert executor.get_min_job_age() == 300


def test_a_job_that_sacct_calls_cancelled_has_ended(slurm, executor):
    slurm(sacct="7|CANCELLED by 1000\n8|COMPLETED\n")
    assert poll(executor, "sacct") == {"7": "CANCELLED", "8": "COMPLETED"}


def test_a_data_base_that_does_not_answer_is_said(slurm, tmp_path):
    slurm(sacct=None)
    with pytest.raises(UserError, match=r"sacct .* failed: no data base"):
        cluster.check("sacct", 20, tmp_path)


def test_jobs_of_an_earlier_run_in_the_folder_are_refused_and_others_are_not(slurm, tmp_path):
    slurm(squeue=ONE_OF_US.format(*[tmp_path] * 3))
    with pytest.raises(UserError, match=r"^2 jobs .* pending/running: .*scancel 17 18$"):
        cluster.check("sacct", 20, tmp_path)
    cluster.check("sacct", 20, tmp_path / "elsewhere")


def test_an_account_is_checked(slurm, tmp_path):
    cluster.check("sacct", 20, tmp_path, "lab")
    with pytest.raises(UserError, match="none of yours: lab"):
        cluster.check("sacct", 20, tmp_path, "other")
    slurm("none")
    with pytest.raises(UserError, match="keeps no accounts; remove the line"):
        cluster.check("squeue", 20, tmp_path, "lab")


def test_arrays_are_refused_where_one_task_would_stand_for_all(slurm, tmp_path):
    cluster.check("squeue", 20, tmp_path, arrays="all")
    with pytest.raises(UserError, match="the end of one task of an array for the end of all"):
        cluster.check("sacct", 20, tmp_path, arrays="merge_checkpoints")


def test_no_slurm_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="scontrol: no such command here"):
        cluster.check("sacct", 20, tmp_path)


def test_a_configuration_that_jobs_do_not_see_is_warned_of(slurm, tmp_path, monkeypatch, capsys):
    (tmp_path / "bin/scontrol").write_text(
        f'#!/bin/sh\n[ -n "$SLURM_CONF" ] || exit 1\ncat <<TEXT\n{CONFIG.format("none", 300)}TEXT\n'
    )
    monkeypatch.setenv("SLURM_CONF", "/somewhere/slurm.conf")
    cluster.check("squeue", 20, tmp_path)
    assert "Could not establish a configuration source" in capsys.readouterr().err


@pytest.mark.parametrize("limit, minutes", [
    ("infinite", None), ("1-00:00:00", 1440), ("2-12:30:00", 3630), ("04:00:00", 240), ("30:00", 30), ("15", 15), ("n/a", None),
])  # fmt: skip
def test_time_limits_are_read(limit, minutes):
    assert partitions.minutes(limit) == minutes


def test_the_profile_is_written_for_the_cluster_once(slurm, tmp_path):
    first = write_profile(tmp_path)
    assert first.returncode == 0, first.stderr
    profile = tiny.read_yaml(tmp_path / "snakemake/slurm/profile.v9+.yaml")
    assert profile["executor"] == "slurm" and profile["slurm-status-command"] == "squeue"
    assert profile["default-resources"]["slurm_account"] == "lab" and "set-resources" not in profile
    limits = tiny.read_yaml(tmp_path / "snakemake/slurm/partitions.yaml")["partitions"]
    assert limits == {
        "cpu": {"max_runtime": 1440, "max_threads": 64, "max_mem_mb": 256000},
        "gpu": {"max_runtime": 3600, "max_threads": 96, "max_mem_mb": 512000, "max_gpu": 4, "available_gpu_models": ["a100"]},
    }
    again = write_profile(tmp_path)
    assert again.returncode == 1 and "is there already and stays as it is" in again.stderr
    named = write_profile(tmp_path, "--output", str(tmp_path / "mine"), "--partitions", "gpu", "--account", "other")
    assert named.returncode == 0 and list(tiny.read_yaml(tmp_path / "mine/partitions.yaml")["partitions"]) == ["gpu"]
    assert tiny.read_yaml(tmp_path / "mine/profile.v9+.yaml")["default-resources"]["slurm_account"] == "other"


@pytest.mark.parametrize("words, commands, said", [
    ((), {"sacctmgr": "a\nb\n", "default": ""}, "choose one: --account a"),
    (("--partitions", "big"), {}, "no partition big here; sinfo shows cpu, gpu"),
    ((), {"sinfo": "a|1:00|1|1|(null)|up\n"}, "no default partition; choose: --partitions a"),
])  # fmt: skip
def test_a_choice_that_only_the_user_can_make_is_asked_for(slurm, tmp_path, words, commands, said):
    slurm(**commands)
    done = write_profile(tmp_path, *words)
    assert done.returncode == 1 and said in done.stderr and not (tmp_path / "snakemake").exists()


@pytest.mark.parametrize("accounting, age, command", [("none", 300, "squeue"), ("slurmdbd", 30, "sacct")])
def test_jobs_are_watched_by_what_the_cluster_has(slurm, tmp_path, accounting, age, command):
    slurm(accounting, age)
    assert write_profile(tmp_path).returncode == 0
    text = (tmp_path / "snakemake/slurm/profile.v9+.yaml").read_text()
    assert f"\nslurm-status-command: {command}\n" in text
    assert ("  slurm_account: lab" in text) == (accounting == "slurmdbd")


def test_no_profile_is_written_where_no_end_of_a_job_would_be_seen(slurm, tmp_path):
    slurm("none", 30)
    done = write_profile(tmp_path)
    assert done.returncode == 1 and "forgets a finished job after 30 s" in done.stderr and not (tmp_path / "snakemake").exists()


def test_the_two_profiles_do_not_wipe_each_others_keys():
    default, slurm = (tiny.read_yaml(tiny.ROOT / f"profiles/{name}/profile.v9+.yaml") for name in ("default", "slurm"))
    assert not default.keys() & slurm.keys()
    assert "default-resources" not in default and not slurm.keys() & {"set-resources", "set-threads"}


def test_sizes_count_what_lies_in_folders(tmp_path):
    (tmp_path / "model/part").mkdir(parents=True)
    (tmp_path / "model/part/a").write_bytes(b"1" * 1_500_000)
    (tmp_path / "b").write_bytes(b"1" * 1_000_000)
    assert job_resources.megabytes([str(tmp_path / "model"), str(tmp_path / "b")]) == 3
    with pytest.raises(FileNotFoundError):
        job_resources.megabytes([str(tmp_path / "missing")])
    assert job_resources.megabytes([]) == 0


@pytest.mark.parametrize("gigabytes, threads", [(0.5, 1), (1.5, 2), (9, 4)])
def test_large_models_are_merged_with_more_threads_once_they_are_there(tmp_path, gigabytes, threads):
    model = tmp_path / "model.safetensors"
    assert job_resources.threads_for_models(None, [str(model)]) == 1
    with open(model, "wb") as file:
        file.truncate(int(gigabytes * 1e9))  # no byte is written
    assert job_resources.threads_for_models(None, [str(model)]) == threads


def test_memory_and_time_grow_with_each_attempt_and_memory_with_the_inputs(tmp_path):
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.truncate(200_000_000)
    inputs = [str(tmp_path / "model.safetensors")]
    assert [job_resources.memory(1500, per_input=1 / 10)(None, inputs, attempt) for attempt in (1, 2)] == [1520, 3040]
    assert job_resources.memory(1000)(None, ["not there"], 3) == 3000
    assert job_resources.minutes(60)(None, 2) == 120
