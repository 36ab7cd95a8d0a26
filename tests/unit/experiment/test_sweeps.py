"""An entry with `draws` or a `scan` is several methods; what a suite cannot have is skipped with the reason."""

import pytest
import yaml
from models import ROOT, shipped

from experiment.experiment import Experiment
from nan_merge.catalogue.files import read_yaml
from nan_merge.catalogue.methods import methods, sweeps
from nan_merge.methods.recipe import STAGES as OPERATORS


@pytest.fixture
def entries(tmp_path):
    """Return a function that reads methods.yaml with some entries added."""
    (tmp_path / "workflow").symlink_to(ROOT / "workflow")
    (tmp_path / "config").mkdir()

    def read(**added):
        text = yaml.safe_dump({**read_yaml(ROOT / "config/methods.yaml"), **added})
        (tmp_path / "config/methods.yaml").write_text(text)
        return methods(tmp_path)

    return read


def asked(*names, **config):
    return Experiment({**shipped().config, "methods": [*names], **config}, ROOT)


TWO = {"mine": {"base": "o/b", "experts": {"a": "o/e", "b": "o/f"}}}


def test_draws_are_methods_with_a_seed_each(entries):
    found = entries(mixed={"extends": "permuted", "label": "Mixed", "summary": "s", "draws": 3})
    assert sweeps(found)["mixed"] == ["mixed_1", "mixed_2", "mixed_3"]
    assert "mixed" not in found
    assert [found[f"mixed_{k}"]["control"] for k in (1, 2, 3)] == [{"permuted": {"seed": k}} for k in (1, 2, 3)]
    assert found["mixed_2"]["label"] == "Mixed, draw 2"
    assert found["mixed_2"]["coefficients"] == found["task_arithmetic_nan_delta"]["coefficients"]


def test_a_run_names_all_draws_by_the_entry():
    found = asked("task_arithmetic", "task_arithmetic_nan_delta", "permuted")
    draws = [f"permuted_{k}" for k in range(1, 6)]
    assert found.config["methods"] == ["task_arithmetic", "task_arithmetic_nan_delta", *draws]
    (pair,) = (pair for pair in found.pairs() if pair["kind"] == "control")
    assert (pair["against"], pair["draws"]) == ("permuted", draws)
    row = found.rows()[-1]
    assert (row["id"], row["label"], row["draws"]) == ("permuted", "Control, permuted (TA)", draws)
    assert len(found.rows()) == 3


def test_a_scan_is_the_product_of_its_lists(entries):
    scan = {"coefficients": {"nan": {"exponent": [0.5, 2], "scope": ["layer"]}}, "preprocess": {"trim": {"density": [0.1, 0.2]}}}
    found = entries(scanned={"extends": "ties_nan", "label": "Scanned", "summary": "s", "scan": scan})
    names = sweeps(found)["scanned"]
    assert names == [f"scanned-{p}-layer-{density}" for p in ("0.5", "2") for density in ("0.1", "0.2")]
    record = found["scanned-2-layer-0.1"]
    assert record["coefficients"] == {"nan": {"norm_of": "weights", "mean": 0.3, "exponent": 2, "scope": "layer"}}
    assert record["preprocess"] == {"trim": {"density": 0.1}}
    assert record["combine"] == found["ties_nan"]["combine"]
    assert record["label"] == "Scanned: exponent 2, scope layer, density 0.1"
    assert record["sweep"]["values"] == {"exponent": 2, "scope": "layer", "density": 0.1}


def test_the_shipped_scans_are_few_and_stand_beside_their_hosts():
    found = asked("task_arithmetic", "ties", "nan_scan_ta", "nan_scan_scale", "nan_scan_ties")
    scans = [method for method in found.config["methods"] if "-" in method]
    assert 20 < len(scans) < 40
    pairs = {(pair["method"], pair["against"]) for pair in found.pairs() if pair["kind"] == "scan"}
    assert pairs == {(m, "ties" if m.startswith("nan_scan_ties") else "task_arithmetic") for m in scans}
    assert found.method_spec(scans[0], "coefficients") == {
        "coefficients": {"nan": {"norm_of": "weights", "scope": "model", "exponent": 0.5, "mean": 0.3}}
    }


def test_a_negative_candidate_keeps_its_sign():
    found = asked("task_arithmetic_nan_delta_p")
    assert found.candidates_of("task_arithmetic_nan_delta_p")[:2] == [f"task_arithmetic_nan_delta_p-{p}" for p in (-2, -1)]
    assert found.method_spec("task_arithmetic_nan_delta_p--0.5", "coefficients")["coefficients"]["nan"]["exponent"] == -0.5


# Skips.


def test_shuffles_that_do_not_exist_are_skipped():
    own = asked("task_arithmetic", "permuted", suites=[], models=TWO)
    reasons = own.skipped_methods("mine")
    assert reasons == {f"permuted_{k}": "2 experts have no more shuffles than 1" for k in range(2, 6)}
    assert own.run("mine") == own.merges("mine") == ["task_arithmetic", "permuted_1"]


def test_an_operator_for_another_number_of_experts_is_skipped(monkeypatch):
    monkeypatch.setattr(OPERATORS["combine"]["disjoint_mean"], "experts", 2, raising=False)
    found = asked("task_arithmetic", "ties_mean")
    assert found.skipped_methods("text") == {"ties_mean": "disjoint_mean merges 2 experts, here are 6"}
    assert asked("ties_mean", suites=[], models=TWO).skipped_methods("mine") == {}


def test_what_is_skipped_is_neither_run_nor_compared(monkeypatch):
    monkeypatch.setattr(OPERATORS["preprocess"]["trim"], "experts", 2, raising=False)
    names = ["weight_averaging", "ties", "ties_tuned", "ties_nan_delta", "ties_permuted", "dare"]
    found = asked(*names)
    assert found.run("text") == found.merges("text") == ["weight_averaging", "dare"]
    assert found.candidates_in("text") == []
    assert not [pair for pair in found.pairs() if "ties" in pair["method"] + pair["against"]]
    assert [row["id"] for row in found.rows()] == names


def test_a_method_that_takes_the_choice_of_a_skipped_one_is_skipped_too(monkeypatch):
    monkeypatch.setattr(OPERATORS["coefficients"]["constant"], "experts", 2, raising=False)
    found = asked("task_arithmetic_tuned", "task_arithmetic_nan_tuned")
    assert set(found.skipped_methods("text")) == {"task_arithmetic_tuned", "task_arithmetic_nan_tuned"}


def test_models_of_ones_own_have_no_data(monkeypatch):
    own = asked("task_arithmetic", "ties", suites=[], models=TWO)
    own.methods["ties"]["learn"] = {}
    assert own._reason("ties", 2, True) == "it needs data of the tasks, and models of your own come without data"
    assert own._reason("ties", 2, False) == own._reason("task_arithmetic", 2, True) == ""
