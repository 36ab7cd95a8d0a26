"""OpenCompass as a check on lm_eval: planned only where the config asks for it. It is never run here."""

import re

import tiny
from project import Project


def test_jobs_of_the_check_are_planned_for_the_methods_that_the_config_names(tmp_path):
    project = Project(tiny.copy_code(tmp_path / "project"))
    table = ("--dry-run", "--configfile", "config/papers/nan_table2.yaml")
    assert "cross_check" not in project.run(*table).text
    planned = project.run(*table, "--printshellcmds", "--config", "cross_check=[pretrained,individual]")
    assert planned.code == 0, planned.text[-4000:]
    assert re.search(r"^cross_check +9$", planned.text, re.MULTILINE), "three models, three groups of benchmarks"
    commands = re.findall(r"python -m scripts\.cross_check (.*?) 2>&1", planned.text)
    assert len(commands) == 9 and all("--precision float16" in command and "--batch-size 8" in command for command in commands)
    (choice,) = [command for command in commands if "/pretrained/" in command and "choice" in command]
    assert '{"benchmarks":{"ceval":"ceval-valid","mmlu":"mmlu"},"gpus":1}' in choice
