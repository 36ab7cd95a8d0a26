"""Printed tables beside measured ones: every printed number is there, and a difference is judged only where it can be."""

import csv
import json
import math
import re
import subprocess
import sys
from collections import Counter

import pytest
from models import ROOT, shipped

from nan_merge.catalogue.files import read_yaml
from nan_merge.catalogue.methods import Catalogue
from nan_merge.core.errors import UserError
from nan_merge.reporting.published.numbers import (
    COLUMNS,
    MEANS,
    OTHERS,
    OUTSIDE,
    UNLIKE,
    WITHIN,
    Printed,
    judge,
    read_published,
    recomputed,
)
from nan_merge.reporting.published.tables import render_published
from nan_merge.reporting.statistics import Estimate
from nan_merge.reporting.study import Score, Study

FILE = ROOT / "config/published.tsv"
NUMBERS = read_published(FILE)
RECORDS = {name: {"id": name, **record} for name, record in read_yaml(ROOT / "config/tables.yaml")["published"].items()}
VISION_8 = ["sun397", "cars", "resisc45", "eurosat", "svhn", "gtsrb", "mnist_hub", "dtd"]
VISION_20 = [
    *VISION_8,
    *("flowers102", "pcam", "fer2013", "pets", "stl10", "cifar100"),
    *("cifar10", "food101", "fashion_mnist", "emnist_letters", "kmnist", "rendered_sst2"),
]
COUNTS = {
    "ace_ablation": 12, "ace_gpt2": 64, "ace_llama": 1, "ace_roberta": 16, "ace_vision": 51,
    "actmat_t5": 64, "actmat_vision": 216, "adamerging_logs": 36, "fusionbench_clip": 395, "fusionbench_clip_20": 120,
    "fusionbench_flan_t5": 135, "fusionbench_gpt2": 48, "fusionbench_gpt2_lambda": 176, "nan_table1": 153, "nan_table2": 30,
    "nan_table3": 22, "wudi_llama": 30, "wudi_roberta": 16, "wudi_vision": 252,
}  # fmt: skip
RECOMPUTED = {  # means of the rows of NAN's tables, rounded to two digits
    "nan_table1/vit_b32_8": "48.06 90.51 89.06 73.71 80.14 65.80 68.34 71.78 69.16 71.93 72.45 73.78",
    "nan_table1/vit_l14_8": "94.15 93.09 84.49 85.99 86.43",
    "nan_table2/llama2_13b_2": "36.10 45.90 46.05 48.45 47.53 48.45",
    "nan_table3/llava_13b_2": "38.88 48.25 47.35 48.80",
}


def printed(table, suite=None, label=None, task=None):
    """Return the numbers of a table, or of a part of it."""
    wanted = {"suite": suite, "label": label, "task": task}
    of_table = [number for number in NUMBERS if number.table == table]
    return [n for n in of_table if all(value is None or getattr(n, key) == value for key, value in wanted.items())]


# The shipped numbers.


def test_the_file_is_in_order_one_number_a_line():
    lines = FILE.read_text(encoding="utf-8").splitlines()
    assert lines[0].split("\t") == list(COLUMNS)
    assert {line.count("\t") for line in lines} == {len(COLUMNS) - 1}
    assert not re.search(r" $|\t | \t", "\n".join(lines), re.MULTILINE)
    assert [number.table for number in NUMBERS] == sorted(number.table for number in NUMBERS)
    rows = [(number.table, number.suite, number.label) for number in NUMBERS]
    starts = [row for row, before in zip(rows, [None, *rows], strict=False) if row != before]
    assert len(starts) == len(set(starts)), "the numbers of a row stand together"
    assert all(number.source and number.collection for number in NUMBERS)


def test_no_number_is_missing():
    assert Counter(number.table for number in NUMBERS) == COUNTS
    assert set(RECORDS) == set(COUNTS)


@pytest.mark.parametrize("where", RECOMPUTED)
def test_the_means_of_nans_rows_are_those_that_were_recomputed(where):
    table, suite = where.split("/")
    found = []
    for label in dict.fromkeys(number.label for number in printed(table, suite)):
        row = printed(table, suite, label)
        values = [number.value for number in row if number.task not in MEANS]
        found += [f"{sum(values) / len(values) + 1e-9:.2f}"] if len(values) == len(RECORDS[table]["tasks"]) else []
    assert " ".join(found) == RECOMPUTED[where]


def test_every_other_mean_follows_from_its_row_or_is_known_not_to():
    off = set()
    for number in NUMBERS:
        mean = recomputed(number, printed(number.table, number.suite, number.label), RECORDS[number.table]["tasks"])
        off |= {(number.table, number.suite, number.label)} if mean is not None else set()
    assert {row for row in off if not row[0].startswith(("nan", "wudi"))} == {
        ("fusionbench_clip", "vit_b32_8", "Fine-tuned (STL)"),
        ("fusionbench_clip", "vit_b16_8", "Fine-tuned (STL)"),
        ("fusionbench_clip", "vit_b16_8", "RegMean"),
        ("fusionbench_flan_t5", "flan_t5_base_lora_8", "Simple Average"),
        ("fusionbench_flan_t5", "flan_t5_large_lora_8", "Fine-tuned (STL)"),
    }
    assert ("nan_table1", "vit_b32_8", "TA + NAN") in off and ("nan_table1", "vit_b32_8", "Ties + NAN") not in off


def test_tables_that_print_the_same_agree():
    """ACE repeats FusionBench's GPT-2 rows, and WUDI's README the rows of AdaMerging that NAN repeats, but one."""

    def values(table, suite):
        rows = {number.label: [] for number in printed(table, suite)}
        for number in printed(table, suite):
            rows[number.label].append(number.text.removesuffix(".0"))
        return list(rows.values())

    assert all(row in values("ace_gpt2", "gpt2_7") for row in values("fusionbench_gpt2", "gpt2_7"))
    nan, wudi = values("nan_table1", "vit_b32_8"), values("wudi_vision", "vit_b32_8")
    assert sum(row in wudi for row in nan) == 8, "all copied rows, less Individual (SUN397) and the task-wise AdaMerging++"
    fewer = [(n.task, n.value) for n in printed("fusionbench_clip_20", "vit_b32_20", "Fine-Tuned") if n.task in VISION_8]
    eight = {n.task: n.value for n in printed("fusionbench_clip", "vit_b32_8", "Fine-tuned (STL)")}
    assert all(abs(number - eight[task]) < 0.3 for task, number in fewer)


def test_every_method_suite_and_task_is_known():
    suites = [read_yaml(path)["experts"] for path in (ROOT / "config/suites").glob("*.yaml") if "experts" in read_yaml(path)]
    rows = {f"expert_{name}" for experts in suites if isinstance(experts, dict) for name in experts}
    assert {number.method for number in NUMBERS} - {""} <= shipped().methods.keys() | rows
    assert {number.collection for number in NUMBERS if number.suite.startswith("vit_")} == {"A", "B", "C", "actmat"}
    tasks = {number.task for number in NUMBERS if number.suite.startswith("vit_")} - MEANS.keys()
    assert tasks == set(VISION_20)
    suites = [read_yaml(path) for path in sorted((ROOT / "config/suites").glob("*.yaml"))]
    named = {record["published"] for record in suites if "published" in record}
    assert named <= {number.suite for number in NUMBERS}, "a suite names a printed suite that does not exist"


@pytest.mark.parametrize("table", RECORDS)
def test_a_record_explains_its_numbers_and_nothing_else(table):
    record, numbers = RECORDS[table], printed(table)
    assert {note for number in numbers for note in number.notes} == record["notes"].keys()
    assert {number.suite for number in numbers} == record["suites"].keys()
    assert {number.task for number in numbers} - MEANS.keys() == record["tasks"].keys()
    assert {number.collection for number in numbers} <= record["collections"].keys()
    assert record["tolerance"]["methods"].keys() <= shipped().methods.keys()
    for suite, methods in record.get("unlike", {}).items():
        assert methods.keys() <= {number.method for number in NUMBERS}, f"{suite}: settings of a method that is not printed"
        assert suite in record["suites"]


@pytest.mark.parametrize("table", RECORDS)
def test_settings_that_differ_from_the_printed_ones_are_told_with_the_values_of_the_methods(table):
    catalogue = Catalogue(ROOT)
    texts = {(method, text) for texts in RECORDS[table].get("unlike", {}).values() for method, text in texts.items()}
    assert not any("{" in catalogue.filled(text, method, table) for method, text in texts)
    for text in [text for method, text in texts if method == "ties"]:
        assert "it is 0.3 here" in catalogue.filled(text, "ties", table)
        catalogue.hosts["ties"] = {**catalogue.hosts["ties"], "coefficients": {"constant": {"value": 0.45}}}
        assert "it is 0.45 here" in catalogue.filled(text, "ties", table) and "0.45" in catalogue.filled(text, "ties+nan", table)


# Verdicts.

RECORD = {
    "id": "toy",
    "title": "Toy, Table 1",
    "suites": {"small": "Small"},
    "tasks": {"digits": "Digits", "news": "News"},
    "collections": {"A": "the authors'", "C": "the hub's"},
    "tolerance": {"average": 0.2, "task": 0.5, "methods": {"fisher": {"average": 1.0, "task": 2.5}}},
    "unlike": {"small": {"iso": "The scale is 2 in print and 1 here."}},
    "notes": {"copied": "Copied.", "typo": "Probably 60."},
}


def number(text="70.0", task="digits", method="ta", label="TA", notes=(), suite="small"):
    return Printed("toy", suite, "A", method, label, task, text, "a paper", notes)


@pytest.mark.parametrize(
    ("given", "measured", "collection", "difference", "verdict"),
    [
        (number(), 0.70, "A", 0.0, WITHIN),
        (number(), 0.705, "A", 0.5, WITHIN),
        (number(), 0.7054, "A", 0.5, WITHIN),  # what is shown is judged: 70.5
        (number(), 0.706, "A", 0.6, OUTSIDE),
        (number(), 0.694, "A", -0.6, OUTSIDE),
        (number("70.00"), 0.7054, "A", 0.54, OUTSIDE),
        (number("70"), 0.7054, "A", 0.5, WITHIN),
        (number(task="average"), 0.702, "A", 0.2, WITHIN),
        (number(task="average"), 0.703, "A", 0.3, OUTSIDE),
        (number(task="normalised_average"), 0.703, "A", 0.3, OUTSIDE),
        (number(task="average", method="fisher"), 0.71, "A", 1.0, WITHIN),
        (number(method="fisher"), 0.726, "A", 2.6, OUTSIDE),
        (number(), 0.70, "C", 0.0, OTHERS),
        (number(), 0.90, "C", 20.0, OTHERS),
        (number(method="iso"), 0.90, "A", 20.0, UNLIKE),
        (number(method="iso"), 0.90, "C", 20.0, OTHERS),
        (number(), None, "A", None, ""),
        (None, 0.70, "A", None, ""),
    ],
)
def test_a_difference_is_judged_only_where_checkpoints_and_settings_are_the_same(
    given, measured, collection, difference, verdict
):
    found = judge(given, Estimate(measured), collection, RECORD)
    assert (found.difference, found.verdict) == (difference, verdict)
    assert (found.tolerance is not None) == (verdict in (WITHIN, OUTSIDE))


# Rendering.

PRINTED = [
    number("70.0", "digits", notes=("copied",)),
    number("60.0", "news", notes=("copied", "typo")),
    number("67.0", "average", notes=("copied",)),
    number("50.0", "digits", "", "Their own"),
    number("52.00", "average", "iso", "Iso (2)"),
]
METHODS = [
    {"id": "ta", "label": "Task arithmetic"},
    {"id": "iso", "label": "Iso-C"},
    {"id": "nan", "label": "TA + NAN (delta)"},
    {"id": "slerp", "label": "SLERP"},
]
LEVELS = {"ta": (0.704, 0.59), "iso": (0.5, 0.5), "nan": (0.72, 0.62)}


def study(name="small_a", collection="A", levels=LEVELS, tasks=("digits", "news"), **more):
    """A suite of two tasks, 1000 examples each."""
    scores = [
        Score(name, method, task, "accuracy", level, 1000, 0)
        for method, values in levels.items()
        for task, level in zip(tasks, values, strict=False)
    ]
    suite = {"id": name, "label": "Small models", "published": "small", "seeds": [0], "skipped": [], **more}
    suite |= {"collection": {"id": collection}, "tasks": [{"id": task, "label": task.title()} for task in tasks]}
    methods = [{**method, "skipped": "two experts only"} if method["id"] == "slerp" else method for method in METHODS]
    return Study(suite, methods, scores)


def write(path, numbers):
    rows = [[*number[:6], number.text, number.source, " ".join(number.notes)] for number in numbers]
    path.write_text("\n".join("\t".join(row) for row in [list(COLUMNS), *rows]) + "\n", encoding="utf-8")
    return path


def rendered(tmp_path, studies=(), record=RECORD, numbers=PRINTED):
    render_published(record, write(tmp_path / "published.tsv", numbers), list(studies), tmp_path / "toy")
    with open(tmp_path / "toy.csv", newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines)), (tmp_path / "toy.md").read_text(), (tmp_path / "toy.tex").read_text()


def lines(markdown):
    """Return the rows of a table as lists of cells."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line.startswith("|")]
    return cells[:1] + cells[2:]


def plain(cell):
    return re.sub(r" ?<sup>\w</sup>", "", cell)


def test_without_a_measurement_the_printed_numbers_stand_alone(tmp_path):
    rows, markdown, _ = rendered(tmp_path)
    assert len(rows) == len(PRINTED)
    assert {row[key] for row in rows for key in ("measured", "low", "high", "n", "difference", "tolerance", "verdict")} == {""}
    assert "- Nothing of this table was measured in this run." in markdown
    header, first, second, third = lines(markdown)
    assert header == ["Models", "Method", "Numbers", "Digits", "News", "Average", "95 % interval", "Verdict"]
    assert [plain(cell) for cell in first] == ["Small", "TA", "published, A", "70.0", "60.0", "67.0", "", ""]
    assert second == ["Small", "Their own", "published, A", "50.0", "", "", "", ""]
    assert third == ["Small", "Iso (2)", "published, A", "", "", "52.00", "", ""]


def test_measured_rows_stand_below_the_printed_and_others_below_a_rule(tmp_path):
    rows, markdown, latex = rendered(tmp_path, [study()])
    found = [[plain(cell) for cell in line] for line in lines(markdown)[1:]]
    assert [(line[1], line[2], line[-1]) for line in found] == [
        ("TA", "published, A", ""),
        ("Task arithmetic", "measured, A", "outside: News, Average"),
        ("Their own", "published, A", ""),
        ("Iso (2)", "published, A", ""),
        ("Iso-C", "measured, A", "other settings"),
        ("TA + NAN (delta)", "measured, A", "not printed"),
    ]
    assert found[1][3:7] == ["70.4 (+0.4)", "59.0 (−1.0)", "64.7 (−2.3)", "[62.6, 66.7]"]
    assert found[4][3:6] == ["50.0", "50.0", "50.00 (−2.00)"]
    assert found[5][3:6] == ["72.0", "62.0", "67.0"]
    assert latex.count(r"\midrule") == 2, "one below the header, one above what is not printed"
    assert latex.index(r"Iso-C") < latex.rindex(r"\midrule") < latex.index("TA + NAN (delta)")
    by = {(row["method"], row["label"], row["task"]): row for row in rows}
    assert by["ta", "TA", "digits"] | {"low": "", "high": ""} == {
        **dict.fromkeys(("low", "high", "remark"), ""),
        **{"table": "toy", "suite": "small", "collection_published": "A", "suite_measured": "small_a"},
        **{"collection_measured": "A", "method": "ta", "label": "TA", "task": "digits", "published": "70.0"},
        **{"published_error": ""},
        **{"measured": "70.39999999999999", "n": "1000", "difference": "0.4", "tolerance": "0.5", "verdict": "within"},
        **{"source": "a paper", "note": "copied"},
    }
    assert by["ta", "TA", "average"]["n"] == "2000"
    assert float(by["ta", "TA", "average"]["low"]) < 64.7 < float(by["ta", "TA", "average"]["high"])
    assert by["nan", "", "news"]["verdict"] == "not printed" and by["nan", "", "news"]["published"] == ""


def test_collections_never_mix_and_the_printed_one_comes_first(tmp_path):
    rows, markdown, _ = rendered(tmp_path, [study("small", "C"), study()])
    found = [(plain(line[1]), line[2], line[-1]) for line in lines(markdown)[1:4]]
    assert found == [
        ("TA", "published, A", ""),
        ("Task arithmetic", "measured, A", "outside: News, Average"),
        ("Task arithmetic", "measured, C", "other checkpoints"),
    ]
    assert {row["verdict"] for row in rows if row["collection_measured"] == "C"} == {"other checkpoints", "not printed"}
    assert {row["tolerance"] for row in rows if row["collection_measured"] == "C"} == {""}
    assert "- A: the authors'." in markdown and "- C: the hub's." in markdown
    assert "- Measured, C: Small models (suite small), 2,000 test examples." in markdown
    unnamed = study("own")
    del unnamed.suite["collection"]
    assert "other checkpoints" in rendered(tmp_path, [unnamed])[1]
    apart = rendered(tmp_path, [study("one"), study("two")])[0]
    assert {row["suite_measured"] for row in apart} == {"one", "two", ""}, "two suites of one collection do not hide each other"


def test_a_suite_of_something_else_is_left_out(tmp_path):
    assert "Nothing of this table was measured" in rendered(tmp_path, [study(published="large")])[1]
    unnamed = study()
    del unnamed.suite["published"]
    assert "Nothing of this table was measured" in rendered(tmp_path, [unnamed])[1]


def test_a_partial_measurement_fills_what_it_can(tmp_path):
    rows, markdown, _ = rendered(tmp_path, [study(levels={"ta": (0.704,)})])
    found = [[plain(cell) for cell in line] for line in lines(markdown)[1:]]
    assert [line[2] for line in found] == ["published, A", "measured, A", "published, A", "published, A"]
    assert found[1][3:] == ["70.4 (+0.4)", "", "", "", "within"]
    assert "No score." in markdown and "No average without News." in markdown
    assert float(rows[0]["measured"]) == pytest.approx(70.4) and rows[1]["measured"] == rows[2]["measured"] == ""


def test_averages_over_other_tasks_are_not_compared(tmp_path):
    more = study(levels={"ta": (0.7, 0.6, 0.9)}, tasks=("digits", "news", "maps"))
    rows, markdown, _ = rendered(tmp_path, [more])
    assert [row["difference"] for row in rows][:3] == ["0.0", "0.0", ""]
    assert "No average to compare, the suite small\\_a also has Maps." in markdown
    less = study(levels={"ta": (0.7,)}, tasks=("digits",), skipped=[{"task": "News", "reason": "gated"}])
    rows, markdown, _ = rendered(tmp_path, [less])
    assert [row["difference"] for row in rows][:3] == ["0.0", "", ""]
    assert "No average to compare, News was skipped." in markdown


def test_seeds_give_a_spread_and_a_skipped_method_its_reason(tmp_path):
    several = study()
    several.suite["seeds"] = [0, 1]
    several.scores += [score._replace(seed=1, value=score.value + 0.02) for score in several.scores]
    _, markdown, _ = rendered(tmp_path, [several])
    assert "71.4 ± 1.4 (+1.4)" in markdown
    _, markdown, _ = rendered(tmp_path, [study()], numbers=[*PRINTED, number(method="slerp", label="SLERP, printed")])
    assert "Skipped: two experts only." in markdown


def test_notes_mark_a_row_a_number_or_the_whole_table(tmp_path):
    _, markdown, latex = rendered(tmp_path)
    first = lines(markdown)[1]
    assert first[1] == "TA<sup>a</sup>" and first[4] == "60.0<sup>b</sup>" and first[5] == "67.0<sup>c</sup>"
    assert (
        "- <sup>a</sup> Copied.\n- <sup>b</sup> Probably 60.\n- <sup>c</sup> The mean of the printed tasks is 65.00." in markdown
    )
    assert r"60.0\textsuperscript{b}" in latex and r"\textsuperscript{c} The mean" in latex
    _, markdown, _ = rendered(tmp_path, numbers=PRINTED[:3])
    assert lines(markdown)[1][1] == "TA" and "\n- Copied.\n" in markdown
    _, markdown, _ = rendered(tmp_path, [study()])
    assert "Iso-C<sup>" in markdown and "The scale is 2 in print and 1 here." in markdown


def test_columns_may_be_suites(tmp_path):
    record = {**RECORD, "columns": "suites", "suites": {"small": "Small", "large": "Large"}, "tasks": {}, "unlike": {}}
    averages = [number("66.0", "average"), number("76.0", "average", suite="large")]
    rows, markdown, _ = rendered(tmp_path, [study(), study("large_a", published="large")], record, averages)
    found = [[plain(cell) for cell in line] for line in lines(markdown)]
    assert found[:3] == [
        ["Method", "Numbers", "Small", "Large", "Verdict"],
        ["TA", "published, A", "66.0", "76.0", ""],
        ["Task arithmetic", "measured, A", "64.7 (−1.3)", "64.7 (−11.3)", "outside"],
    ]
    assert {row["suite_measured"] for row in rows} == {"small_a", "large_a"}
    rows, markdown, _ = rendered(tmp_path, [study()], record, averages)
    assert [plain(cell) for cell in lines(markdown)[2]][2:4] == ["64.7 (−1.3)", ""]
    assert [row["task"] for row in rows if row["suite"] == "large" and row["label"]] == ["average"], "it is still in the CSV file"


def test_the_methods_that_are_not_printed_can_be_chosen(tmp_path):
    for chosen in ({"methods": []}, {"without": ["nan"]}, {"methods": ["iso"]}):
        _, markdown, _ = rendered(tmp_path, [study()], {**RECORD, **chosen})
        assert "not printed" not in markdown and "Task arithmetic" in markdown, "printed ones are always shown"


@pytest.mark.parametrize("table", RECORDS)
def test_every_shipped_table_renders_without_measurements(table, tmp_path):
    render_published(RECORDS[table], FILE, [], tmp_path / table)
    markdown, latex = ((tmp_path / f"{table}.{suffix}").read_text(encoding="utf-8") for suffix in ("md", "tex"))
    with open(tmp_path / f"{table}.csv", newline="", encoding="utf-8") as rows:
        records = list(csv.DictReader(rows))
    assert len(records) == COUNTS[table]
    assert not {cell.lower() for record in records for cell in record.values()} & {"nan", "none", "inf"}
    shown = Counter(plain(cell).partition(" ± ")[0] for line in lines(markdown)[1:] for cell in line)
    wanted = Counter(number.text for number in printed(table))
    assert all(shown[text] >= count for text, count in wanted.items())
    assert len({len(line) for line in lines(markdown)}) == 1
    assert latex.count(r" \\") == len(lines(markdown)) and r"\bottomrule" in latex
    remarks = markdown.replace("\\", "")
    assert all(" ".join(text.split()) in remarks for text in RECORDS[table]["notes"].values())
    marks = re.findall(r"^- <sup>(\w+)</sup>", markdown, re.MULTILINE)
    assert all(f"<sup>{mark}</sup>" in markdown.split("\n- ")[0] for mark in marks)


def test_the_oddities_of_nans_tables_are_footnotes_where_they_belong(tmp_path):
    render_published(RECORDS["nan_table1"], FILE, [], tmp_path / "t")
    text = (tmp_path / "t.md").read_text(encoding="utf-8")
    notes = dict(re.findall(r"^- <sup>(\w+)</sup> (.*)$", text, re.MULTILINE))
    header, *rows = lines(text)

    def of(models, label, column="Method"):
        row = next(row for row in rows if row[0] == models and plain(row[1]) == label)
        return " ".join(notes[mark] for mark in re.findall(r"<sup>(\w+)</sup>", row[header.index(column)]))

    assert "typo for 51.6" in of("CLIP ViT-B/32", "TA + NAN", "DTD")
    assert "71.93" in of("CLIP ViT-B/32", "TA + NAN", "Average")
    assert "states neither the norm object" in of("CLIP ViT-B/32", "TA + NAN")
    assert "task-wise" in of("CLIP ViT-B/32", "AdaMerging++")
    assert "82.4" in of("CLIP ViT-B/32", "RegMean") and "Copied" in of("CLIP ViT-B/32", "RegMean")
    assert "not above RegMean" in of("CLIP ViT-B/32", "Ties + NAN")
    assert "89.06" in of("CLIP ViT-B/32", "Traditional MTL", "Average")
    assert "93.09" in of("CLIP ViT-L/14", "Traditional MTL", "Average")
    assert "repeats the value of RESISC45" in of("CLIP ViT-L/14", "Traditional MTL", "EuroSAT")
    assert "GTSRB (+9.2) alone" in of("CLIP ViT-L/14", "Ties + NAN")
    assert "73.9" in of("CLIP ViT-L/14", "Task Arithmetic")
    assert of("CLIP ViT-B/32", "Individual", "Average") == ""


# Mistakes.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("\t70.0\t", "\tnan\t"), r"line 2: value: expected a number in per cent, found 'nan'"),
        (lambda text: text.replace("\t70.0\t", "\t?\t"), r"line 2: value: .* found '\?'; leave an unknown number out"),
        (lambda text: text + text.splitlines()[1] + "\n", r"line 7: toy/small/TA/digits occurs twice"),
        (lambda text: text.replace("\tsource", ""), r"line 2: expected the columns table, suite"),
        (lambda text: text.replace("\tcopied\n", "\n"), r"line 2: expected the columns"),
        (
            lambda text: text.replace("copied", "copyed"),
            r"TA: 'copyed' is not in config/tables.yaml: published: toy: notes; known: copied",
        ),
        (lambda text: text.replace("\tdigits\t", "\tdigit\t"), r"'digit' is not in .*: toy: tasks; known: digits, news"),
        (lambda text: text.replace("\tsmall\t", "\tmedium\t"), r"'medium' is not in .*: toy: suites; known: small"),
        (lambda text: text.replace("\tA\t", "\tZ\t"), r"'Z' is not in .*: toy: collections; known: A, C"),
    ],
)
def test_a_mistake_in_the_file_is_named_by_its_place(change, message, tmp_path):
    file = write(tmp_path / "published.tsv", PRINTED)
    file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        render_published(RECORD, file, [], tmp_path / "toy")
    assert not list(tmp_path.glob("toy*"))


def test_the_command_renders_with_and_without_scores_and_never_loads_torch(tmp_path):
    columns = ["suite", "method", "task", "metric", "value", "stderr", "n", "seed"]
    rows = [["vit_b32_8", "ties", task, "accuracy", "0.75", "0.01", "1000", "0"] for task in VISION_8]
    (tmp_path / "scores.tsv").write_text("\n".join("\t".join(row) for row in [columns, *rows]) + "\n")
    tasks = [{"id": task, "label": task} for task in VISION_8]
    suite = {"id": "vit_b32_8", "label": "B/32", "published": "vit_b32_8", "collection": {"id": "C"}, "tasks": tasks}
    spec = {"table": RECORDS["fusionbench_clip"], "suites": [suite], "methods": [{"id": "ties", "label": "TIES"}]}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    given, measured = ["--spec", "spec.json", "--published", str(FILE)], ["--scores", "scores.tsv"]
    code = "import sys; from scripts.render_published import main\n"
    code += f"for more in ([], {measured}): sys.argv += more; main()\nassert not {{'torch', 'pandas'}} & sys.modules.keys()"
    path = {"PYTHONPATH": f"{ROOT / 'workflow'}:{ROOT}"}
    subprocess.run([sys.executable, "-c", code, *given, "--output", "table"], cwd=tmp_path, env=path, check=True)
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    (row,) = (line for line in lines(text) if line[1] == "TIES")
    average = row[lines(text)[0].index("Average")]
    assert average == "75.0 (+2.8)" and row[-1].startswith("outside") and math.isclose(75 - 72.2, 2.8)


def test_columns_are_in_the_order_of_print_however_the_record_came(tmp_path):
    sorted_keys = json.loads(json.dumps(RECORDS["nan_table1"], sort_keys=True))
    render_published(sorted_keys, FILE, [], tmp_path / "t")
    header = next(line for line in (tmp_path / "t.md").read_text().splitlines() if line.startswith("| Models"))
    assert [cell.strip() for cell in header.split("|")[4:8]] == ["SUN397", "Cars", "RESISC45", "EuroSAT"]
