"""The table that `make demo` ends with."""

import re

import pytest
from test_method_tables import study_of

from nan_merge.core.errors import UserError
from nan_merge.reporting.tables import render_table
from scripts.show_table import text


def test_methods_averages_and_intervals_are_aligned(tmp_path):
    render_table(study_of(tmp_path), {"id": "t", "kind": "accuracy", "title": "T"}, tmp_path / "main_toy")
    shown = text(tmp_path / "main_toy.csv").splitlines()
    assert len({len(line) for line in shown}) == 1 and shown[0].split("  ")[0] == "Method"
    rows = {name: numbers for name, *numbers in (re.split(" {2,}", line) for line in shown)}
    assert rows["NAN (|W|)"] == ["62.0", "[55.1, 68.3]"]
    assert rows["Permuted, 3 draws"] == ["60.0", "50.0 to 70.0"], "draws have no interval"
    assert rows["Slerp"] == ["-", "-"], "a skipped method has no number"


def test_a_table_that_is_absent_or_of_another_kind_is_refused(tmp_path):
    (tmp_path / "sweep.csv").write_text("method,value\nties,1\n")
    with pytest.raises(UserError, match=r"none\.csv: there is no such table; run `make demo`"):
        text(tmp_path / "none.csv")
    with pytest.raises(UserError, match=r"sweep\.csv: has no column `average_low`"):
        text(tmp_path / "sweep.csv")
