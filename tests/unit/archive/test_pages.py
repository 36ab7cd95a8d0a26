"""Tables of the documentation are those of archived runs."""

import csv
import re

import pytest
from fabricated_run import FabricatedRun, quick

from nan_merge.archive import pages
from nan_merge.archive.container import opened, write
from nan_merge.core.errors import UserError
from nan_merge.reporting.claims_page import write_claims
from nan_merge.reporting.tables import render_table
from scripts import write_docs

SUBSETS = """\
label,host,experts,average,average_low,average_high,difference,difference_low,difference_high
Averaging,,2,0.7,0.6,0.8,,,
Averaging,,3,0.6,0.5,0.7,,,
Averaging + NAN,weight_averaging,2,0.71,0.61,0.81,0.01,-0.02,0.04
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """An archive with the main table and the claims of a fabricated run."""
    folder = tmp_path_factory.mktemp("run")
    with quick():
        run = FabricatedRun(folder, {"seeds": [0, 1]}, gains={"task_arithmetic+nan_delta": 0.1})
        (study,) = run.studies
        render_table(study, {"id": "main", **run.experiment.reports["tables"]["main"]}, folder / "main_text")
        write_claims([study], run.experiment.registered_claims, folder / "claims")
    time = {"results/benchmarks/merge_checkpoints/text/ties/seed0.tsv": b"s\tcpu_time\n9.1\t12.6\n"}
    main = {f"results/tables/main_{suite}.csv": folder / "main_text.csv" for suite in ("text", "typos")}
    members = {**time, **main, "results/tables/subsets_text.csv": SUBSETS.encode(), "results/claims.csv": folder / "claims.csv"}
    write(folder / "mine.zip", {}, members)
    return folder / "mine.zip"


def rows(archive, name):
    with opened(archive) as read:
        return list(csv.DictReader(read.read(name).decode().splitlines()))


def test_averages_are_those_of_the_main_table_the_best_first(archive):
    with opened(archive) as read:
        found = pages.averages(read, "text")
    main = rows(archive, "results/tables/main_text.csv")
    assert {line[0]: line[1] for line in found} == {row["label"]: f"{100 * float(row['average']):.1f}" for row in main}
    assert [float(line[1]) for line in found] == sorted((float(line[1]) for line in found), reverse=True)
    assert all(len(line) == len(pages.AVERAGES) for line in found)
    by_label = {line[0]: line for line in found}
    assert by_label["Pretrained"][5] == ""
    (gained,) = [row for row in main if row["method"] == "task_arithmetic+nan_delta"]
    shown = by_label[gained["label"]][5].replace("−", "-")
    numbers = [f"{100 * float(gained[name]):+.1f}" for name in ("host_difference", "host_low", "host_high")]
    assert re.findall(r"[+-][\d.]+", shown) == numbers and ", p = " in shown


def test_a_method_stands_beside_its_row_with_a_variant(archive):
    with opened(archive) as read:
        found = {line[0]: line for line in pages.beside(read, "text", "nan_delta")}
        by_label = {line[0]: line for line in pages.averages(read, "text")}
    main = {row["method"]: row for row in rows(archive, "results/tables/main_text.csv")}
    assert set(found) == {row["label"] for name, row in main.items() if "+" not in name}
    gained = by_label[main["task_arithmetic+nan_delta"]["label"]]
    assert found[main["task_arithmetic"]["label"]][3:] == (gained[1], gained[5], "")
    assert found["Pretrained"][3:] == ("", "", "") and found[main["ties"]["label"]][5] == "13"


def test_all_suites_of_a_run_stand_side_by_side(archive):
    with opened(archive) as read:
        head, lines = pages.across(read)
        averages = pages.averages(read, "text")
    assert head == ("method", "`text`", "`typos`") and [line[0] for line in lines] == [line[0] for line in averages]
    assert [line[1] for line in lines] == [line[2] for line in lines]
    assert lines[0][1] == f"{averages[0][1]} [{averages[0][2].replace(' – ', ', ')}]"


def test_of_subsets_a_host_has_averages_and_a_variant_differences(archive):
    with opened(archive) as read:
        head, lines = pages.by_experts(read, "text")
    assert head == ("method", "2 experts", "3 experts")
    assert lines == [
        ("Averaging", "70.0 [60.0, 80.0]", "60.0 [50.0, 70.0]"),
        ("Averaging + NAN", "+1.0 [−2.0, +4.0]", ""),
    ]


def test_verdicts_are_those_that_could_be_tested(archive):
    with opened(archive) as read:
        found = pages.verdicts(read)
    tested = [row for row in rows(archive, "results/claims.csv") if row["difference"]]
    assert [line[3] for line in found] == [row["verdict"] for row in tested] and len(tested) > 5
    assert {row["verdict"] for row in rows(archive, "results/claims.csv")} - {line[3] for line in found} == {"not testable here"}
    assert any(line[2] == "`task_arithmetic+nan_delta` over `task_arithmetic`" for line in found)


def test_a_page_takes_them_and_an_unknown_suite_or_archive_is_told(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(write_docs, "ARCHIVES", archive.parent)
    (tmp_path / "page.md").write_text("<!-- generated: averages mine/text -->\n<!-- end -->\n")
    text = write_docs.generated(tmp_path / "page.md")
    assert "| method | average |" in text and "| Pretrained |" in text
    (tmp_path / "page.md").write_text(
        "".join(f"<!-- generated: {p} -->\n<!-- end -->\n" for p in ("across mine", "by_experts mine/text"))
    )
    assert "| `text` | `typos` |" in write_docs.generated(tmp_path / "page.md").replace("method | ", "")
    (tmp_path / "page.md").write_text("<!-- generated: averages mine/other -->\n<!-- end -->\n")
    with pytest.raises(UserError, match=r"mine\.zip: has no results/tables/main_other\.csv; name a suite"):
        write_docs.generated(tmp_path / "page.md")
    (tmp_path / "page.md").write_text("<!-- generated: verdicts yours -->\n<!-- end -->\n")
    with pytest.raises(UserError, match=r"yours\.zip: there is no such file"):
        write_docs.generated(tmp_path / "page.md")
