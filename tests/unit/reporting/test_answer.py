"""The first screen of the report: the answer follows from the numbers, and the chart and the table hold all rows."""

import re

import pytest

from nan_merge.reporting.answer import answer, question
from nan_merge.reporting.pairs import AVERAGE, Standing
from nan_merge.reporting.results_view import chart, results
from nan_merge.reporting.statistics import best_merge, summarise


@pytest.fixture
def study(default_run):
    found = default_run.studies[0]
    before = [dict(row) for row in found.comparisons]
    yield found
    found.comparisons = before


def of_norms(study):
    nan = {method["id"] for method in study.methods if method["group"] == "nan"}
    return [row for row in study.comparisons if row["kind"] == "host" and row["task"] == AVERAGE and row["method"] in nan]


def test_the_question_names_norms_only_where_they_are_in_the_run():
    assert "NAN" in question(True) and "NAN" not in question(False) and question(False).endswith("?")


def test_the_first_sentence_has_the_best_merge_and_the_references(study):
    best, merges = best_merge(study)
    sentence = answer(study, {AVERAGE: Standing([], untested="no answers")})[0]
    assert sentence.startswith(
        f"The best of {merges} merges, {study.label(best.method['id'])}, has {100 * best.average.value:.1f} %"
    )
    for row in summarise(study):
        named = row.method["id"] in ("pretrained", "individual", "weight_averaging")
        assert (f"{study.label(row.method['id'])} {100 * row.average.value:.1f} % [" in sentence) == named


@pytest.mark.parametrize(("difference", "expected"), [(0.1, (1, 0)), (-0.1, (0, 1)), (0.001, (0, 0))])
def test_the_second_sentence_counts_the_verdicts_on_norms(study, difference, expected):
    rows = of_norms(study)
    assert len(rows) > 4
    for row in rows:  # nothing is decided
        row.update(p_holm="0.9", low="-0.1", high="0.1", discordant="30", least_p_holm="0.001", same_as="")
    low, high = difference - 0.05, difference + 0.05
    rows[0].update(p_holm="0.001", difference=str(difference), low=str(low), high=str(high))
    sentence = answer(study, {AVERAGE: Standing([], untested="no answers")})[1]
    raised, lowered, same, undecided = map(int, re.findall(r"(?:in|;|and) (\d+)", sentence.partition("norms")[2]))
    assert (raised, lowered) == expected and same == 0 and raised + lowered + undecided == len(rows)
    assert sentence.startswith(f"In {len(rows)} comparisons")


def test_the_third_sentence_names_what_is_not_told_apart(study):
    best, _ = best_merge(study)
    name, leader = best.method["id"], study.label(best.method["id"])
    others = [row.method["id"] for row in summarise(study) if row.method["group"] == "host" and row.method["id"] != name]
    apart = f"cannot be told apart from {leader} by a paired test, adjusted for all pairs"
    for alike, words in {
        (): f"Every other merge is told apart from {leader} by",
        (others[0],): f"1 merge {apart}: {study.label(others[0])}.",
        tuple(others[:4]): "4 merges cannot",
    }.items():
        assert words in answer(study, {AVERAGE: Standing([name], list(alike))})[2]
    assert answer(study, {AVERAGE: Standing([name], untested="a reason")})[2].endswith("was not tested: a reason.")


def test_every_row_has_its_place_on_the_axis_of_the_chart(study):
    shown = chart(study, {})
    assert [row["id"] for row in shown["rows"]] == [method["id"] for method in study.methods]
    for row in shown["rows"]:
        assert 0 <= row["low"] <= row["at"] <= row["low"] + row["width"] + 0.01 <= 100.02
    assert shown["ticks"][0][0] == 0 and shown["ticks"][-1][0] == 100
    spaces = {round(b - a, 1) for (a, _), (b, _) in zip(shown["ticks"], shown["ticks"][1:], strict=False)}
    assert len(spaces) == 1 or max(spaces) - min(spaces) < 0.2


def test_a_cell_has_its_interval_in_text_and_in_words(study):
    shown = results(study, {study.tasks[0]["id"]: Standing(["ties"], ["tsv_m"])})
    rows = {row["id"]: row["cells"][0] for row in shown["rows"]}
    assert [rows[name]["standing"] for name in ("ties", "tsv_m", "ace")] == ["best", "alike", ""]
    low, high = re.fullmatch(r"\[(.+), (.+)\]", rows["ties"]["interval"]).groups()
    assert f"95 % interval {low} to {high}, 40 examples" in rows["ties"]["title"]
    draws = next(row for row in shown["rows"] if "draws" in row["label"])["cells"][0]
    assert " to " in draws["interval"] and "5 draws" in draws["title"]


def test_a_missing_score_is_a_dash_with_its_reason(study):
    study.scores, kept = [score for score in study.scores if score.method != "ties"], study.scores
    row = next(row for row in results(study, {})["rows"] if row["id"] == "ties")
    study.scores = kept
    assert {(cell["value"], cell["number"]) for cell in row["cells"]} == {("–", None)}
    assert row["cells"][0]["title"] == "No score."
