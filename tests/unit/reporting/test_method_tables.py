"""Rows of several draws, scans, sweeps and skipped methods in tables, figures and the report."""

import csv

import numpy as np
import pytest
from test_reporting import METHODS, TASKS, pair
from test_statistics import answers

from nan_merge.core.files import read_table
from nan_merge.reporting.checks import checks
from nan_merge.reporting.figures import draw_figure
from nan_merge.reporting.paired_tests import compare_methods
from nan_merge.reporting.report import write_report
from nan_merge.reporting.statistics import summarise
from nan_merge.reporting.study import Score, studies
from nan_merge.reporting.tables import render_table

DRAWS = ["permuted_1", "permuted_2", "permuted_3"]
VALUES = {"exponent": 2.0, "scope": "layer"}
ROWS = [
    *(method for method in METHODS if method["id"] != "permuted"),
    {"id": "permuted", "label": "Permuted", "group": "control", "sweep": {"id": "permuted", "label": "Permuted"}, "draws": DRAWS},
    {"id": "scan-2-layer", "label": "Scan: 2", "group": "scan", "sweep": {"id": "scan", "label": "Scan", "values": VALUES}},
    {"id": "slerp", "label": "Slerp", "group": "host", "data": "train", "static": False, "reference": "1234.56789"},
    {"id": "swept", "label": "Swept", "group": "nan", "tune": {"hyper_parameter": "exponent", "fixed": 1.0}},
]
LEVELS = {"individual": 0.9, "weight_averaging": 0.6, "nan": 0.62, "scan-2-layer": 0.64} | dict(
    zip(DRAWS, (0.5, 0.6, 0.7), strict=True)
)
SKIPPED = {"slerp": "slerp merges 2 experts, here are 3"}


def study_of(tmp_path, skipped=None):
    """Read a study from files, as the scripts do."""
    suite = {"id": "toy", "label": "Toy", "tasks": [{"id": t, "label": t.title(), "train": 9} for t in TASKS], "seeds": [0]}
    suite["skipped_methods"] = SKIPPED if skipped is None else skipped
    (tmp_path / "scores.tsv").write_text("suite\tmethod\ttask\tmetric\tvalue\tstderr\tn\tseed\n")
    (found,) = studies([suite], ROWS, tmp_path / "scores.tsv")
    found.scores = [Score("toy", m, t, "accuracy", level, 100, 0) for m, level in LEVELS.items() for t in TASKS]
    grid = {-2.0: 0.5, -0.5: 0.4, 0.0: 0.45}
    found.scores += [
        Score("toy", f"swept-{p:g}", t, "validation_accuracy", level, 100, 0) for p, level in grid.items() for t in TASKS
    ]
    rows = {"experts": TASKS, "scope": "model", "rows": {"model": [0.1, 0.2]}}
    found.coefficients = [{"suite": "toy", "method": "swept", "seed": 0, "chosen": -2.0, **rows}]
    against = pair("nan", "permuted", "control", 0.02) | {"draws": "3", "above": "2"}
    found.comparisons = [against, pair("scan-2-layer", "nan", "scan", 0.01, 0.3)]
    return found


@pytest.fixture
def study(tmp_path):
    return study_of(tmp_path)


def rendered(study, tmp_path, kind, **record):
    render_table(study, {"id": "t", "kind": kind, "title": "Title", **record}, tmp_path / "t_toy")
    with open(tmp_path / "t_toy.csv", newline="") as lines:
        return {row["method"]: row for row in csv.DictReader(lines)}, (tmp_path / "t_toy.md").read_text()


def line(markdown, start):
    return next(line for line in markdown.splitlines() if line.startswith(f"| {start}"))


def test_draws_are_one_row_their_mean_with_smallest_and_largest(study, tmp_path):
    rows, markdown = rendered(study, tmp_path, "accuracy")
    assert rows.keys().isdisjoint(DRAWS)
    found = rows["permuted"]
    assert [float(found[f"average{end}"]) for end in ("", "_low", "_high")] == pytest.approx([0.6, 0.5, 0.7])
    assert found["draws"] == "3"
    assert "50.0 to 70.0<sup>" in line(markdown, "Permuted, 3 draws")
    assert "Smallest and largest average of the draws; this is no interval." in markdown
    assert "Permuted, 3 draws: +2.0 [0.0, +4.0] p 0.001, above 2 of 3" in line(markdown, "NAN")


def test_draws_that_a_suite_cannot_have_are_not_counted(tmp_path):
    study = study_of(tmp_path, {"permuted_3": "2 experts have no more shuffles than 2"})
    row = next(row for row in summarise(study) if row.method["id"] == "permuted")
    assert (row.method["label"], row.average.value) == ("Permuted, 2 draws", pytest.approx(0.55))
    alone = study_of(tmp_path, dict.fromkeys(DRAWS[1:], "no"))
    row = next(row for row in summarise(alone) if row.method["id"] == "permuted")
    assert (row.method["label"], row.average.draws) == ("Permuted", 0)
    assert row.average.low < 0.5 < row.average.high, "a single draw has an interval of its own"
    none = study_of(tmp_path, dict.fromkeys(DRAWS, "too few"))
    row = next(row for row in summarise(none) if row.method["id"] == "permuted")
    assert (row.average.value, row.average.reason) == (None, "skipped: too few")


def test_a_skipped_method_is_a_row_of_empty_cells_with_one_footnote(study, tmp_path):
    rows, markdown = rendered(study, tmp_path, "accuracy")
    assert rows["slerp"]["average"] == rows["slerp"]["digits"] == ""
    assert rows["slerp"]["average_remark"] == "skipped: slerp merges 2 experts, here are 3"
    assert markdown.count("Skipped: slerp merges 2 experts, here are 3.") == 1
    assert line(markdown, "Slerp").count("<sup>") == 5  # two tasks and three averages


def test_a_table_shows_the_methods_that_it_names(study, tmp_path):
    rows, _ = rendered(study, tmp_path, "accuracy", methods=["nan", "p*"], without=["pretrained"])
    assert list(rows) == ["nan", "permuted"]
    rows, _ = rendered(study, tmp_path, "accuracy", without=["scan"])
    assert "scan-2-layer" not in rows, "a family is named by its id"
    rows, markdown = rendered(study, tmp_path, "comparisons", methods=["nan"])
    assert list(rows) == ["nan"]
    assert "over the 1 host and control comparison of" in markdown and "Permuted, 3 draws" in markdown


def test_the_scan_table_has_a_column_for_each_hyper_parameter(study, tmp_path):
    rows, markdown = rendered(study, tmp_path, "scan")
    assert list(rows) == ["scan-2-layer"]
    assert (rows["scan-2-layer"]["exponent"], rows["scan-2-layer"]["against"]) == ("2.0", "nan")
    assert "| Scan   | 2.0      | layer |" in markdown and "over the 1 comparison of scans" in markdown


def test_the_sweep_table_says_what_was_chosen(study, tmp_path):
    render_table(study, {"id": "t", "kind": "sweep", "title": "Title"}, tmp_path / "t_toy")
    with open(tmp_path / "t_toy.csv", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["tuned"], row["value"], row["chosen"]) for row in rows] == [
        ("p", "-2.0", "True"),
        ("p", "-0.5", "False"),
        ("p", "0.0", "False"),
    ]
    assert "| −2 " in (tmp_path / "t_toy.md").read_text().replace("    ", " ")


def test_the_table_of_methods_says_what_they_see(study, tmp_path):
    rows, markdown = rendered(study, tmp_path, "methods")
    assert [rows["slerp"][key] for key in ("data", "static", "reference")] == ["train", "False", "1234.56789"]
    assert [rows["nan"][key] for key in ("data", "static")] == ["none", "True"]
    assert "Skipped: slerp merges 2 experts" in markdown


def test_figures_name_the_exponent_and_leave_out_what_they_are_told(study, tmp_path):
    draw_figure(study, {"id": "f", "kind": "selection", "title": "T", "methods": ["swept"]}, tmp_path / "f")
    draw_figure(study, {"id": "f", "kind": "accuracy", "title": "T", "without": ["scan"]}, tmp_path / "a")
    assert "smallest to the largest draw" in (tmp_path / "a.svg").read_text()


def test_checks_name_the_exponent_and_the_rank_among_draws(study):
    found = {check.statement: " ".join(check.evidence) for check in checks(study)}
    assert "Swept: p selected on validation is above the fixed p = 1 on the test split" in found
    assert "above 2 of 3 draws" in found['NAN is above the control "Permuted, 3 draws"']


def test_the_report_names_data_draws_and_what_was_skipped(study, tmp_path):
    write_report([study], ROWS, [], [], {}, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Slerp was skipped: slerp merges 2 experts, here are 3." in page
    assert "Permuted, 3 draws" in page and "<td>train</td><td>no</td>" in page
    assert "Toy, Swept: p = -2, chosen by the average accuracy over tasks on the validation splits." in page


def test_a_method_is_compared_with_the_mean_of_the_draws_and_ranked_among_them(tmp_path):
    random = np.random.default_rng(0)
    levels = dict(zip(("nan", *DRAWS), (0.6, 0.4, 0.5, 0.9), strict=True))
    right = {name: {task: (random.random(200) < level).astype(int) for task in TASKS} for name, level in levels.items()}
    files = [answers(tmp_path, name, given) for name, given in right.items()]
    plain = {"suite": "toy", "method": "nan", "kind": "control"}
    pairs = [{**plain, "against": "permuted", "draws": DRAWS}, *({**plain, "against": draw} for draw in DRAWS)]
    compare_methods(files, pairs, tmp_path / "comparisons.tsv")
    together, *single = [row for row in read_table(tmp_path / "comparisons.tsv") if row["task"] == "average"]
    gaps = [float(row["difference"]) for row in single]
    assert float(together["difference"]) == pytest.approx(np.mean(gaps))
    assert float(together["low"]) < np.mean(gaps) < float(together["high"])
    assert (together["draws"], together["above"]) == ("3", str(sum(gap > 0 for gap in gaps))) == ("3", "2")
    assert {(row["draws"], row["above"]) for row in single} == {("", "")}
    for column in ("discordant", "changed", "n"):
        assert int(together[column]) == sum(int(row[column]) for row in single)


def test_draws_with_the_same_answers_are_no_difference(tmp_path):
    right = {task: np.arange(50) % 2 for task in TASKS}
    files = [answers(tmp_path, name, right) for name in ("nan", *DRAWS)]
    together = {"suite": "toy", "method": "nan", "against": "permuted", "kind": "control", "draws": DRAWS}
    compare_methods(files, [together], tmp_path / "comparisons.tsv")
    (row,) = read_table(tmp_path / "comparisons.tsv")
    assert (row["difference"], row["above"], row["discordant"]) == ("0.0", "0", "0")
