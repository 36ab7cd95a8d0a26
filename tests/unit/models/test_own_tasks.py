"""Harness tasks of the project: answers are extracted and compared as by the toolkit, and a changed file is another task."""

import shutil

import pytest
import yaml
from models import ROOT

from nan_merge.models.own_tasks import SHIPPED, definition, more_scores, own_folder
from nan_merge.models.tasks.qwen25_math.score import answer, equal, extracted, number, process_results

ENTRIES = yaml.safe_load((ROOT / "config/tasks.yaml").read_text())
TASKS = {name for name, task in ENTRIES.items() if own_folder(task.get("harness", {}).get("folder", "none"))}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"So \boxed{\frac{1}{2}} and then \boxed{18}. The answer is 3", "18"),
        (r"\boxed{\text{a {nested} 7}", r"\text{a {nested} 7}"),
        (r"$\boxed 12$.", "12"),
        ("First 3, then 4. The answer is: 1,234.", "1,234"),
        ("The answer is 5. No, the answer is $6", "$6"),
        ("My final answer is\n 8.", "8"),
        ("The final answer is $9$. I hope it is correct. The answer is 4", "9"),
        ("答案是 10", "10"),
        ("He buys 1,200 and sells -3.5", "-3.5"),
        ("nothing", ""),
    ],
)
def test_an_answer_is_taken_from_the_box_then_the_mark_then_the_last_number(text, found):
    assert answer(text) == found
    assert extracted([[text]], None) == [[answer(text) or "[invalid]"]]


@pytest.mark.parametrize(
    ("given", "right", "same"),
    [
        ("1,234", "1234", True),
        (r"\$18.00", "18", True),
        ("18 dollars", "18", True),
        (r"70\%", "0.7", True),
        ("0.7", "70", True),
        ("70", "0.7", True),
        ("18.001", "18", True),
        ("18.01", "18", False),
        ("7", "70", False),
        ("0", "18", False),
        ("18.Question: Tom", "18", False),
        (r"12\text{ apples}", "12", True),
        ("x+1", "x+1", True),
        ("", "18", False),
        ("[invalid]", "18", False),
    ],
)
def test_answers_are_compared_as_numbers_up_to_per_cent(given, right, same):
    assert equal(given, right) == same
    assert process_results({"answer": f"Work.\n#### {right}"}, [given]) == {"exact_match": int(same)}


def test_a_fraction_is_no_number():
    assert number(r"\frac{1}{2}") is None and number("1/2") is None


def test_the_digest_of_a_definition_changes_with_each_of_its_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copy = shutil.copytree(SHIPPED / "qwen25_math", "mine", ignore=shutil.ignore_patterns("__pycache__"))
    first = definition("./mine")
    assert first == definition("qwen25_math") != ""
    for name in ("gsm8k_wizard_zs.yaml", "score.py", "_gsm8k.yaml"):
        before = definition("./mine")
        with open(f"{copy}/{name}", "a") as file:
            file.write("# changed\n")
        assert definition("./mine") != before, name
    assert definition("gsm8k") == "" and own_folder("gsm8k") is None, "lm_eval's own folder, known by its version"
    assert definition("./nowhere") == ""


def test_functions_that_shipped_tasks_share_are_part_of_each_definition(tmp_path, monkeypatch):
    copy = shutil.copytree(SHIPPED, tmp_path / "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr("nan_merge.models.own_tasks.SHIPPED", copy)
    before = {name: definition(name) for name in ("ai2d", "geoqa")}
    with open(copy / "letters.py", "a") as file:
        file.write("# changed\n")
    assert all(definition(name) != old for name, old in before.items())


def test_each_shipped_task_is_in_the_config():
    names = {file.stem for file in SHIPPED.glob("*/[!_]*.yaml")}
    assert names == TASKS and {"ai2d", "gsm8k_wizard_zs"} <= TASKS


def test_more_scores_come_from_own_folders_that_aggregate(tmp_path, monkeypatch):
    assert more_scores("gsm8k", []) == more_scores("qwen25_math", []) == more_scores("ai2d", []) == []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/score.py").write_text("def aggregate(samples):\n    yield {'metric': 'count', 'value': len([*samples])}\n")
    assert more_scores("./mine", [{}, {}]) == [{"metric": "count", "value": 2}]
