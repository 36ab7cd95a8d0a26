"""Claims name methods of the catalogue, and their contrasts are those of the run."""

from models import ROOT

from experiment.experiment import Experiment
from nan_merge.catalogue.files import read_yaml

PLAIN = read_yaml(ROOT / "config/config.yaml")


def contrasts(*methods, claim, **overlay):
    found = Experiment({**PLAIN, "methods": ["pretrained", *methods], **overlay}, ROOT)
    (record,) = (each for each in found.registered_claims["claims"] if each["id"] == claim)
    return record, found


def test_a_contrast_is_a_pair_of_the_run_or_says_which_method_is_not():
    record, found = contrasts("task_arithmetic", "task_arithmetic+nan_delta", claim="nan_delta")
    (one,) = (each for each in record["contrasts"] if "missing" not in each)
    assert one == {"suite": "text", "method": "task_arithmetic+nan_delta", "against": "task_arithmetic"}
    missing = [each["missing"] for each in record["contrasts"] if "missing" in each]
    assert missing == ["weight_averaging+nan_delta is not in the run", "ties+nan_delta is not in the run"]
    pairs = [(pair["method"], pair["against"]) for pair in found.pairs()]
    assert pairs.count((one["method"], one["against"])) == 1, "it is compared as a host, not twice"


def test_a_contrast_that_is_no_other_comparison_is_one_of_its_own():
    record, found = contrasts("tsv_m", "ace", claim="ace_best")
    assert [(pair["method"], pair["against"]) for pair in found.pairs() if pair["kind"] == "claim"] == [("ace", "tsv_m")]
    assert record["contrasts"] == [{"suite": "text", "method": "ace", "against": "tsv_m"}]


def test_draws_of_a_control_are_one_contrast():
    names = ("ties", "ties+nan_delta", "ties+nan_delta+permuted")
    record, _ = contrasts(*names, claim="nan_norms")
    assert {"suite": "text", "method": names[1], "against": names[2]} in record["contrasts"]


def test_a_method_that_was_skipped_is_missing_with_its_reason():
    names = ("weight_averaging", "weight_averaging+data_size")
    record, found = contrasts(*names, claim="nan_data_size", suites=["smollm"])
    reason = found.skipped_methods("smollm")[names[1]]
    assert record["contrasts"][0]["missing"] == f"{names[1]} was skipped: {reason}"


def test_a_claim_about_certain_suites_is_not_about_others():
    record, _ = contrasts("ties", claim="nan_undertrained", suites=["text", "vision"])
    assert record["suites"] == [] and record["contrasts"] == []
    assert contrasts("ties", claim="nan_delta", suites=["text", "vision"])[0]["suites"] == ["text", "vision"]
