"""Tasks with pictures: answers are taken from texts as models write them, and scored as the benchmarks do."""

import csv
import math
import time
from importlib import import_module
from pathlib import Path

import pytest

PARALLEL = "A:50°\nB:120°\nC:130°\nD:150°"
QUESTIONS = {
    "ai2d": {
        "web": {"options": ["Hawk", "Snake", "Grasshopper", "Grass"]},
        "labels": {"options": ["A", "B", "C", "D"]},
        "fruit": {"options": ["red", "dark red", "green", "blue"]},
    },
    "geoqa": {
        "parallel": {"text": f"Answer: xxx.\nQuestion:AB // CD, angle 1 = 50.0, then angle 2 is ()\nChoices:\n{PARALLEL}"},
        "lengths": {"text": "Question: the length of EC is ()\nChoices:\nA:1cm\nB:2cm\nC:3cm\nD:4cm"},
        "roots": {"text": "Question: then AB is ()\nChoices:\nA:√3\nB:3\nC:2√3\nD:\\frac{3}{2}"},
        "areas": {"text": "Question: the area is ()\nChoices:\nA:12cm²\nB:24cm²\nC:6cm²\nD:8cm²"},
    },
    "we_math": {
        "perimeter": {"option": "A. 6 cm; B. 12 cm; C. 9 cm; D. No correct answer"},
        "fraction": {"option": "A. 1/2; B. 1/4; C. 1/3; D. 2/3; E. 3/4; F. 1/5; G. No correct answer"},
    },
    "mathvista": {
        "choice": {"question_type": "multi_choice", "answer_type": "text", "choices": ["45°", "35°", "145°", "135°"]},
        "yes": {"question_type": "multi_choice", "answer_type": "text", "choices": ["Yes", "No"]},
        **{
            name: {"question_type": "free_form", "answer_type": {"money": "float", "percent": "integer"}.get(name, name)}
            for name in ("integer", "float", "money", "percent", "list")
        },
    },
}  # fmt: skip


def task(name):
    return import_module(f"nan_merge.models.tasks.{name}.score")


def answers(name):
    with open(Path(__file__).with_name("answers") / f"{name}.tsv", newline="", encoding="utf-8") as lines:
        return [*csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)]


@pytest.mark.parametrize("name", QUESTIONS)
def test_an_answer_is_taken_from_what_models_write(name):
    rows = answers(name)
    assert len({(row["question"], row["output"]) for row in rows}) == len(rows) >= 60
    found = [task(name).extract(row["output"].replace(r"\n", "\n"), QUESTIONS[name][row["question"]]) for row in rows]
    wrong = [(row["output"], row["answer"], given) for row, given in zip(rows, found, strict=True) if given != row["answer"]]
    assert not wrong


REPEATED = ["!", "Answer: A" + "," * 3999, "[1", "[" + "1, " * 1332, "1", "the ", "answer ", "Answer: A" + " " * 3999, "A or "]


@pytest.mark.parametrize("text", REPEATED)
@pytest.mark.parametrize("name", QUESTIONS)
def test_outputs_that_repeat_a_sign_are_read_in_time(name, text):
    whole = (text * 4000)[:40_000]  # of a program whose time grows with the square it takes minutes
    start = time.process_time()
    for question in QUESTIONS[name].values():
        task(name).extract(whole, question)
    assert time.process_time() - start < 60


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_filter_gives_one_answer_a_document_and_marks_none(name):
    (question,) = [*QUESTIONS[name].values()][:1]
    outputs = ["The answer is C.", ""]
    assert task(name).extracted([[text] for text in outputs], [question] * 2) == [["C"], ["[invalid]"]]


@pytest.mark.parametrize(
    ("kind", "precision", "right", "given", "scored"),
    [
        ("integer", None, "5", "5", True),
        ("integer", None, "5", "5.0", True),
        ("integer", None, "5", "5.7", False),
        ("integer", None, "5", "10/2", True),
        ("integer", None, "5", "[invalid]", False),
        ("integer", None, "-5", "5", False),
        ("float", 1.0, "1.2", "1.23", True),
        ("float", 1.0, "1.2", "1.3", False),
        ("float", 1.0, "1.2", "6/5", True),
        ("float", 2.0, "0.67", "2/3", True),
        ("float", 2.0, "1.45", "1.4", False),
        ("float", 1.0, "1.0", "1/0", False),
        ("list", None, "[1, 2, 3]", "[1, 2, 3]", True),
        ("list", None, "[1, 2, 3]", "[1, 2]", False),
        ("list", None, "[0, 2]", "[2, 0]", False),
    ],
)
def test_numbers_of_mathvista_are_compared_at_their_precision(kind, precision, right, given, scored):
    question = {"question_type": "free_form", "answer_type": kind, "precision": precision, "answer": right}
    assert task("mathvista").score(question, given) == scored
    assert task("mathvista").process_results(question, [given]) == {"exact_match": int(scored)}


def test_options_of_mathvista_are_compared_by_their_text():
    question = {"question_type": "multi_choice", "answer_type": "text", "choices": ["Yes", "No"], "answer": "No"}
    assert task("mathvista").score(question, "B") and not task("mathvista").score(question, "A")
    assert not task("mathvista").score(question, "[invalid]")


def test_prompts_begin_with_the_picture_and_have_it_once():
    asked = task("ai2d").prompt({"question": "What is <image>?", "options": ["a", "b"]})
    assert asked == "<image>What is ?\nA. a\nB. b\nAnswer with the option's letter from the given choices directly."
    asked = task("we_math").prompt({"question": "How long?", "option": "A. 1 cm; B. 2 cm"})
    assert asked.count("<image>") == 1 and "Question: How long?\nOption: A. 1 cm; B. 2 cm\n" in asked
    assert task("geoqa").prompt({"text": "\nFirst perform reasoning"}) == "<image>First perform reasoning"
    assert task("mathvista").prompt({"query": "Hint: ..."}) == "<image>Hint: ..."


# ---- four-way scores of We-Math -----------------------------------------------------------------------------------


def samples(*problems):
    """Return samples of problems: right or wrong by step, the whole last."""
    found = []
    for number, answers in enumerate(problems):
        names = [*map(str, range(1, len(answers))), "multi"]
        group = f"{len(answers) - 1} {number}"
        found += [{"group": group, "step": step, "right": right} for step, right in zip(names, answers, strict=True)]
    return found


PROBLEMS = [  # each four-way class, of two and of three steps
    (0, 1, 0), (0, 0, 0), (1, 1, 0), (1, 1, 1), (0, 1, 1), (0, 0, 1),
    (1, 1, 1, 0), (1, 0, 1, 0), (1, 1, 1, 1), (1, 0, 1, 1), (0, 0, 0, 1), (1, 1, 1, 1),
]  # fmt: skip


def test_four_way_scores_are_those_of_the_authors():
    found = {each["metric"]: each for each in task("we_math").aggregate(samples(*PROBLEMS))}
    count = len(PROBLEMS)
    ik, ig, cm = 3, 2, {"strict": 3, "loose": 5}
    for mode, rote in (("strict", 4), ("loose", 2)):
        assert found[f"cm_{mode}"]["value"] == pytest.approx(cm[mode] / count)
        assert found[f"rm_{mode}"]["value"] == pytest.approx(rote / (cm[mode] + rote))
        assert found[f"score_{mode}"]["value"] == pytest.approx((count - 0.5 * ig - rote - ik) / count)
    assert found["ik"]["value"] == pytest.approx(ik / count) and found["ig"]["value"] == pytest.approx(ig / count)
    assert found["ik"]["stderr"] == pytest.approx(math.sqrt(ik / count * (1 - ik / count) / count))


def test_problems_that_were_not_asked_whole_are_left_out():
    assert task("we_math").aggregate(samples(*PROBLEMS)[:2]) == []
    whole, more = samples(*PROBLEMS[:4]), samples(*PROBLEMS)[12:14]
    assert task("we_math").aggregate(whole + more) == task("we_math").aggregate(whole)
    unsolved = {each["metric"] for each in task("we_math").aggregate(samples((0, 0, 0)))}
    assert not {"rm_strict", "rm_loose"} & unsolved
