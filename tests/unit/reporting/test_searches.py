"""The table and the figure of searches: numbers as they were written, in the order of the rows."""

import csv
import json

import pytest

from nan_merge.reporting.figures import draw_figure
from nan_merge.reporting.search_figures import search_figure
from nan_merge.reporting.study import Study, spelt_point, studies
from nan_merge.reporting.tables import render_table

SUITE = {"id": "toy", "tasks": [{"id": "x"}], "seeds": [0]}
METHODS = [{"id": "host", "label": "Host"}, {"id": "host+searched", "label": "Searched"}, {"id": "host+tuned", "label": "Tuned"}]
POINT = {"coefficients.multiples.values": {"a": 1.23456, "b": 0.5}, "preprocess.trim.density": 0.25}


def written(folder, method, averages, nested, seed=0):
    best, trace = 0.0, []
    for number, average in enumerate(averages, 1):
        best = max(best, average)
        trace.append(
            {"candidate": f"{method}-t{number}", "point": POINT, "tasks": {"x": average}, "average": average, "best": best}
        )
    record = {
        "suite": "toy", "method": method, "seed": seed, "search": "cma_es", "trials": len(trace), "chosen": f"{method}-t2",
        "point": POINT, "best": best, "cross_validated": nested, "optimism": best - nested, "folds": {}, "trace": trace,
    }  # fmt: skip
    file = folder / f"{method}{seed}.json"
    file.write_text(json.dumps(record))
    return file


@pytest.fixture
def study(tmp_path):
    (tmp_path / "scores.tsv").write_text("suite\tmethod\ttask\tmetric\tvalue\tstderr\tn\tseed\n")
    files = [written(tmp_path, "host+tuned", [0.5, 0.6], 0.55), written(tmp_path, "host+searched", [0.5, 0.7, 0.65], 0.71)]
    return studies([SUITE], METHODS, tmp_path / "scores.tsv", searches=files)[0]


def test_the_table_has_a_row_a_search_in_the_order_of_the_methods(study, tmp_path):
    render_table(study, {"id": "search", "kind": "search", "title": "Searches"}, tmp_path / "t")
    text = (tmp_path / "t.md").read_text()
    assert text.index("Searched") < text.index("Tuned")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "ed " in line and "|" in line]
    shown = {row[0]: row[2:] for row in rows if row[0] in ("Searched", "Tuned")}
    assert shown["Searched"] == ["3", "50.0", "70.0", "71.0", "−1.0", "values (a 1.23, b 0.5), density 0.25"]
    assert shown["Tuned"][:5] == ["2", "50.0", "60.0", "55.0", "5.0"]
    with open(tmp_path / "t.csv", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["method"], float(row["optimism"])) for row in rows] == [
        ("host+searched", pytest.approx(-0.01)),
        ("host+tuned", pytest.approx(0.05)),
    ]


def test_the_figure_shows_the_best_so_far(study, tmp_path):
    draw_figure(study, {"id": "search", "kind": "search", "title": "Searches"}, tmp_path / "f")
    svg = (tmp_path / "f.svg").read_text()
    assert "Searched" in svg and "best average validation accuracy in %" in svg
    study.searches = []
    draw_figure(study, {"id": "search", "kind": "search", "title": "Searches"}, tmp_path / "none")
    assert "No hyper-parameter was searched in this suite." in (tmp_path / "none.svg").read_text()


@pytest.fixture
def pruned(study):
    """The same study, with a trial of the search by CMA-ES that was pruned after a task."""
    entry = next(each for each in study.searches if each["method"] == "host+searched")
    entry["cost"] = {"pruned": 1, "examples_scored": 160, "examples": 200}
    entry["trace"][2] = {key: value for key, value in entry["trace"][2].items() if key != "average"} | {"pruned": "x"}
    return study


def test_pruned_trials_are_counted_with_the_share_of_examples_that_was_scored(pruned, tmp_path):
    render_table(pruned, {"id": "search", "kind": "search", "title": "Searches"}, tmp_path / "t")
    text = (tmp_path / "t.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert rows[0][2:6] == ["Trials", "Pruned", "Scored", "First"]
    assert [row[2:6] for row in rows[2:]] == [["3", "1", "80.0", "50.0"], ["2", "–", "100.0", "50.0"]]
    assert "Pruned: trials that were stopped after a task" in text and "–: a search that stops none" in text
    with open(tmp_path / "t.csv", newline="") as lines:
        numbers = {row["method"]: [row["pruned"], row["examples_scored"], row["examples"]] for row in csv.DictReader(lines)}
    assert numbers == {"host+searched": ["1", "160", "200"], "host+tuned": ["", "", ""]}


def test_pruned_trials_are_crosses_in_the_figure(pruned, tmp_path):
    record = {"id": "search", "kind": "search", "title": "Searches"}
    figure, caption = search_figure(pruned, record)
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x" and line.get_linestyle() == "None"]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in crosses] == [([3], [70.0])]
    assert caption.endswith(". ×: trials that were pruned.")
    for entry in pruned.searches:
        for trial in entry["trace"]:
            trial.pop("pruned", None)
    figure, caption = search_figure(pruned, record)
    assert len(figure.axes[0].lines) == 2 and "pruned" not in caption


def test_what_a_search_chose_is_told_with_its_methods():
    methods = [{"id": "m", "label": "M", "tune": {"hyper_parameters": ["values", "density"]}}]
    told = Study(SUITE, methods, coefficients=[{"method": "m", "chosen": POINT}])
    assert told.symbol("m") == "values, density" and told.chosen("m") == []
    assert told.choices() == [
        f"M: values, density = {spelt_point(POINT)}, chosen by the average accuracy over tasks on the validation splits."
    ]
