"""What a person does around a run: how it stands, what it left, what it asks a cluster for; and a disk that fills up."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import tiny
from project import mounted

from cluster import snakemake_log

RULE = re.compile(r"^(?:rule|use rule \w+ as) (\w+)", re.M)
MERGE = "results/merged/tiny/ties/seed0"


def script(name, folder, *words):
    """Run one of the scripts for people on a project's folder."""
    return subprocess.run([sys.executable, "-m", f"scripts.{name}", "--directory", str(folder), *words], cwd=tiny.ROOT,
                          capture_output=True, text=True, check=False)  # fmt: skip


def rules():
    """Return the text of every rule by name, as the files of workflow/rules have it."""
    found = {}
    for file in sorted((tiny.ROOT / "workflow/rules").glob("*.smk")):
        _, *parts = RULE.split(file.read_text(encoding="utf-8"))  # name, text, name, text, ...
        found |= dict(zip(parts[::2], parts[1::2], strict=True))
    return found


RULES = rules()
BASES = {  # of derived rules, which have the resources of their base where they name none
    derived: base
    for file in (tiny.ROOT / "workflow/rules").glob("*.smk")
    for base, derived in re.findall(r"^use rule (\w+) as (\w+)", file.read_text(encoding="utf-8"), re.M)
}


@pytest.mark.parametrize("name", [name for name, text in RULES.items() if "localrule: True" not in text])
def test_every_submitted_rule_asks_for_memory_and_time(name):
    text = RULES[name] if "resources:" in RULES[name] else RULES[BASES.get(name, name)]
    assert "localrule: True" in text or re.search(r"mem_mb=memory\(.*\n +runtime=minutes\(", text)


@pytest.mark.parametrize("name", [name for name, text in RULES.items() if "\n    message:" in text])  # not mere targets
def test_every_rule_has_a_log_and_times_itself_or_is_cached(name):
    directives = set(re.findall(r"^    (\w+):", RULES[name], re.M))
    assert "log" in directives and directives & {"benchmark", "cache"}


def resources(project, *targets, words=(), **environment):
    """Return what a dry run says of each job's resources; rules without a message show them."""
    for file in (project / "workflow/rules").glob("*.smk"):
        file.write_text(re.sub(r"\n    message:\n +.*(?=\n)", "", file.read_text(encoding="utf-8")), encoding="utf-8")
    text = project.run("--dry-run", "--rerun-triggers", "mtime", *words, "--", *targets, **environment).text
    return dict(re.findall(r"^rule (\w+):(?:\n    .*)*?\n    resources: (.*)", text, re.M))


def test_a_gpu_is_asked_for_by_merges_on_cuda_and_by_nothing_else(project):
    project.remove("results/merged", "results/scores")
    score = "results/scores/tiny/dare/seed0/all.json"
    found = resources(project, score)
    assert found.keys() == {"merge_checkpoints", "evaluate_checkpoint"} and "gpu=1" not in "".join(found.values())
    project.edit("config/config.yaml", lambda config: config.update(device="cuda"))
    found = resources(project, score)
    assert "gpu=1" in found["merge_checkpoints"] and "gpu=1" not in found["evaluate_checkpoint"]


def test_memory_grows_with_the_bytes_of_the_inputs(project):
    project.remove("results/merged")
    (project / "results/checkpoints/tiny/seed0/fruit/more.bin").write_bytes(bytes(200_000_000))
    small, large = 1500, 1500 + 20
    (asked,) = re.findall(r"mem_mb=(\d+)", resources(project, MERGE)["merge_checkpoints"])
    assert small + 15 < int(asked) <= large + 1


def test_resources_and_threads_of_a_rule_are_overridden_from_outside(project):
    project.remove("results/merged")
    words = ("--set-resources", "merge_checkpoints:mem_mb=attempt * 800", "--set-threads", "merge_checkpoints=2")
    assert "mem_mb=800" in resources(project, MERGE, words=words)["merge_checkpoints"]


def test_a_site_s_own_profile_keeps_its_account_and_partition_and_gets_what_the_rules_need(project):
    project.remove("results/merged")
    site = project / "home/snakemake/slurm/config.yaml"
    site.parent.mkdir(parents=True)
    site.write_text("executor: slurm\njobs: 7\ndefault-resources:\n  slurm_account: lab\n  slurm_partition: long\n  mem_mb: 99\n")
    asked = resources(project, MERGE, words=("--profile", "slurm"), XDG_CONFIG_HOME=str(project / "home"))["merge_checkpoints"]
    assert "slurm_account=lab, slurm_partition=long" in asked and "runtime=60" in asked
    assert 1500 <= int(re.findall(r"mem_mb=(\d+)", asked)[0]) < 1600


# ---- how a run stands ---------------------------------------------------------------------------------------------


def test_the_status_of_a_run_names_what_failed_and_shows_its_log(project):
    project.remove("results/merged", "results/measures")
    (project / "results/coefficients/tiny/ties/seed0.json").write_text("{}")
    done = project.run("--rerun-triggers", "mtime", "--", MERGE, "results/merged/tiny/dare/seed0")
    assert done.code == 1
    status = script("show_status", project.folder)
    assert status.returncode == 0, status.stderr
    assert re.search(r"^merge_checkpoints +2 +1 +0 +1 +0$", status.stdout, re.M), status.stdout
    assert ": ended\n" in status.stdout and "failed: merge_checkpoints: tiny, ties, seed 0" in status.stdout
    log = (project / "results/logs/merge_checkpoints/tiny/ties/seed0.log").read_text().splitlines()
    assert log and f"    {log[-1]}\n" in status.stdout


LOG = """
Job stats:
job                  count
-----------------  -------
merge_checkpoints        3
evaluate_checkpoint      2
all                      1
total                    6

[Sun Nov 22 10:00:14 2026]
Job 4: merge_checkpoints: tiny, ties
Job 5: merge_checkpoints: tiny, dare
Job 4 has been submitted with SLURM jobid 71 (log: a/71.log).
Error in rule merge_checkpoints:
    message: SLURM-job '71' failed
    jobid: 4
    log: results/logs/a.log, a/71.log (check log file(s) for error details)
Finished jobid: 5 (Rule: merge_checkpoints)
Job 6: evaluate_checkpoint: tiny, dare
"""


def test_a_log_is_followed_through_failures_and_second_tries(tmp_path):
    file = tmp_path / ".snakemake/log/2026-11-22T100014.1.snakemake.log"
    file.parent.mkdir(parents=True)
    file.write_text(LOG)
    run = snakemake_log.read(snakemake_log.newest(tmp_path))
    assert run.table() == [("merge_checkpoints", 3, 1, 0, 1, 1), ("evaluate_checkpoint", 2, 0, 1, 0, 1),
                           ("all", 1, 0, 0, 0, 1), ("total", 6, 1, 1, 1, 3)]  # fmt: skip
    assert run.failed[4].logs == ["results/logs/a.log", "a/71.log"] and not run.ended
    assert snakemake_log.at_work(tmp_path, file, run).startswith("broken off")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/71.log").write_text("killed\n")
    assert snakemake_log.tail(tmp_path, run.failed[4]) == ("a/71.log", ["killed"])
    file.write_text(LOG + "Trying to restart job 4.\nJob 4: merge_checkpoints: tiny, ties\n")
    assert snakemake_log.read(file).table()[0] == ("merge_checkpoints", 3, 1, 1, 0, 1)
    (tmp_path / ".snakemake/locks").mkdir()
    (tmp_path / ".snakemake/locks/0.input.lock").touch()
    assert snakemake_log.at_work(tmp_path, file, snakemake_log.read(file)).startswith("at work, or killed")


def test_a_folder_without_a_run_is_said(tmp_path):
    done = script("show_status", tmp_path)
    assert done.returncode == 1 and "holds no log of a run" in done.stderr


# ---- what runs leave ----------------------------------------------------------------------------------------------


def test_partial_files_are_removed_unless_a_run_is_at_work(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))  # no squeue
    folder = tmp_path / "results/merged/a/.seed0.12.part"
    parts = [folder / "x", folder / ".merged.part/x", tmp_path / "results/scores/.all.json.7.part"]
    kept = [tmp_path / "results/merged/a/seed0/model.part", tmp_path / "results/.hidden"]
    for file in (*parts, *kept):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"half")
    said = script("remove_partial", tmp_path, "--dry-run")
    assert said.returncode == 0 and said.stdout.count("would remove") == 2 and all(file.exists() for file in parts)
    lock = tmp_path / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    refused = script("remove_partial", tmp_path)
    assert refused.returncode == 1 and "a run is at work" in refused.stderr and all(file.exists() for file in parts)
    lock.unlink()
    aside = tmp_path / "results/merged/a/.seed1.part/old/model"
    aside.parent.mkdir(parents=True)
    aside.write_bytes(b"old")
    done = script("remove_partial", tmp_path)
    assert done.returncode == 0 and "3 partial files" in done.stdout
    assert (tmp_path / "results/merged/a/seed1/model").read_bytes() == b"old" and not aside.exists()
    assert not any(file.exists() for file in parts) and all(file.exists() for file in kept)


def test_a_disk_that_fills_up_in_a_merge_leaves_a_run_that_goes_on(project, isolated, finished):
    project.remove("results/merged/tiny/ties", "results/merged/tiny/dare")
    (project / "results/merged/tiny/ties").mkdir()
    small = mounted(isolated, "mount -t tmpfs -o size=64k none results/merged/tiny/ties")
    targets = (MERGE, "results/merged/tiny/dare/seed0")
    full = project.run("--", *targets, before=small)
    assert full.code == 1 and "No space left on device" in full.text, full.text[-3000:]
    assert (project / "results/merged/tiny/dare/seed0/model.safetensors").exists() and not (project / MERGE).exists()
    assert project.jobs(*targets) == {"merge_checkpoints: tiny, ties, seed 0"}
    project.made("--", *targets)
    patterns = ("merged/tiny/ties/**/*", "merged/tiny/dare/**/*")
    assert project.digests(*patterns) == finished.digests(*patterns) and project.leftovers() == []


def test_a_second_run_in_the_folder_is_refused_with_a_hint(project):
    """Snakemake's own lock, which `make` does without: its lock is the kernel's."""
    lock = project / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    project.remove("results/merged/tiny/ties")
    lock.write_text(f"{MERGE}\n")
    words = [sys.executable, "-m", "snakemake", "--cores", "1", MERGE]
    done = subprocess.run(words, cwd=project.folder, env=project.environment(), capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "cannot be locked" in said and "--unlock" in said, said[-3000:]
    assert not (project / MERGE).exists()
