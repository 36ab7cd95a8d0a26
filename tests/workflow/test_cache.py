"""Two checkouts of one group and one cache between workflows: assets, prepared data and heads are made once."""

from __future__ import annotations

import os
import re

import tiny
from project import Project

MADE = {f"datasets/tiny/{task}" for task in tiny.TASKS} | {f"heads/tiny_bert/{task}.safetensors" for task in tiny.TASKS}
MADE |= {"assets/tiny_bert", "assets/tiny_texts"}


def made(project: Project) -> set[str]:
    """Run up to what is shared, and return what was made here and given to the cache."""
    return set(re.findall(r"^Moving output file results/(\S+) to cache", project.made("--cache", "--", "shared").text, re.M))


def test_a_second_checkout_takes_from_the_cache_what_the_first_has_made(fresh, finished, tmp_path, monkeypatch):
    monkeypatch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    assert made(fresh) == MADE
    second = Project(tiny.build(tmp_path / "second"))
    second.edit("config/tasks.yaml", lambda tasks: tasks["tools"].update(prompt="words on {}"))
    assert made(second) == {"heads/tiny_bert/tools.safetensors"}
    patterns = ("assets/**/*", "datasets/**/*", "heads/*/fruit*", "heads/*/weather*")
    assert second.digests(*patterns) == finished.digests(*patterns)
    expert = "checkpoints/tiny/seed0/fruit"
    second.made(f"results/{expert}")
    assert second.digests(f"{expert}/*") == finished.digests(f"{expert}/*")
    assert fresh.jobs("shared") == second.jobs("shared") == set()


def test_what_is_in_the_cache_can_be_read_and_replaced_by_the_whole_group(fresh, tmp_path, monkeypatch):
    monkeypatch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    fresh.made("--cache", "--", "results/assets/tiny_texts")
    (folder,) = (tmp_path / "cache").iterdir()
    assert os.stat(folder).st_mode & 0o777 == 0o777
    assert {os.stat(file).st_mode & 0o777 for file in folder.iterdir()} == {0o666}
