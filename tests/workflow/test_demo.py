"""The demo as a user types it: the real config, from nothing to the report, with the separation that makes it worth reading.

Assets come from the package index, or from `results/assets` of the checkout where an earlier run has verified them.
"""

from __future__ import annotations

import csv
import itertools

import pytest
import tiny
from models import shipped

from planning.sizes import held

pytestmark = [pytest.mark.demo, pytest.mark.slow]  # test_promises runs it on fewer tasks and methods


@pytest.fixture(scope="module")
def averages(demo) -> dict[str, float]:
    with open(demo / "results/scores.tsv", newline="") as lines:
        rows = [row for row in csv.DictReader(lines, delimiter="\t") if row["metric"] == "accuracy"]
    config = tiny.read_yaml(demo / "config/config.yaml")
    tasks = {task for suite in config["suites"] for task in tiny.read_yaml(demo / f"config/suites/{suite}.yaml")["tasks"]}
    assert {row["task"] for row in rows} == tasks
    methods = shipped().config["methods"]  # a control with draws stands for all of them
    assert {row["method"] for row in rows} == set(methods)
    assert len(rows) == len(tasks) * len(methods) * len(config["seeds"])
    return {m: sum(float(row["value"]) for row in rows if row["method"] == m) * len(methods) / len(rows) for m in methods}


def test_merging_gains_over_the_base_and_stays_below_the_experts(averages):
    merges = {m: value for m, value in averages.items() if m not in ("pretrained", "individual", "weight_averaging")}
    best = max(merges.values())
    order = [averages["pretrained"], averages["weight_averaging"], best, averages["individual"]]
    assert order == sorted(order), order
    assert min(b - a for a, b in itertools.pairwise(order)) > 0.01, order


def test_nan_and_its_controls_are_all_compared(demo):
    with open(demo / "results/comparisons.tsv", newline="") as lines:
        kinds = {row["kind"] for row in csv.DictReader(lines, delimiter="\t")}
    assert kinds >= {"host", "control"}


def test_the_report_shows_every_table_and_figure(demo):
    config = tiny.read_yaml(demo / "config/config.yaml")
    page = (demo / "results/report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == len(config["figures"]) * len(config["suites"])
    for suite in config["suites"]:
        for table in config["tables"]:
            assert (demo / f"results/tables/{table}_{suite}.md").stat().st_size
            assert f"{table}_{suite}.csv" in page


def test_made_again_it_has_nothing_to_do(demo):
    assert demo.jobs() == set()
    done = demo.shell("make demo")
    assert done.code == 0 and "Nothing to be done" in done.text and demo.leftovers() == []


def test_its_last_lines_are_the_table_and_the_path_of_the_report(demo):
    lines = demo.shell("make demo").text.rstrip().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("Method "))
    rows = tiny.read_yaml(demo / "config/config.yaml")["methods"]  # the draws of a control are one row
    assert len(lines[start + 1 : -2]) == len(rows) and lines[-2:] == ["", "results/report.html"]


def test_no_merge_is_left_and_what_is_left_is_small(demo):
    assert not any((demo / f"results/{name}").exists() for name in ("merged", "candidates"))
    merges = [method for method in shipped().config["methods"] if method not in ("pretrained", "individual")]
    assert all((demo / f"results/digests/text/{method}/seed0.json").exists() for method in merges)
    assert held(demo / "results") < 1.5e9
