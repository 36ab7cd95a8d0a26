"""Claims of papers are judged by the numbers alone: an effect that is there, none, the opposite one, and one too small to see."""

import csv
import re

import numpy as np
import pytest
from fabricated_run import ROOT, FabricatedRun

from experiment import experiment
from nan_merge.catalogue.files import read_yaml
from nan_merge.reporting import norm_data, paired_difference
from nan_merge.reporting.claims_page import write_claims
from nan_merge.reporting.finding import (
    EXPONENT,
    NOT_REPRODUCED,
    OPPOSITE,
    REPRODUCED,
    UNDECIDED,
    UNTESTABLE,
    Effect,
    Finding,
)
from nan_merge.reporting.paper_claims import as_checks, combined, findings
from nan_merge.reporting.preregistration import planned_error
from nan_merge.reporting.statistics import detectable
from nan_merge.reporting.study import Study

HOSTS = ["pretrained", "individual", "weight_averaging", "task_arithmetic", "ties", "tsv_m", "ace"]
METHODS = [*HOSTS, "weight_averaging+nan_delta", "task_arithmetic+nan_delta", "ties+nan_delta", "weight_averaging+data_size"]
PLANTED = {"task_arithmetic+nan_delta": 0.05, "ties+nan_delta": -0.05, "ace": 0.1}  # weight_averaging+nan_delta: none
CLAIM = {"id": "toy", "paper": "1", "place": "§1", "wording": "implied", "statement": "A is above B.", "control": "B"}


def fabricated(folder, seeds, **settings):
    """A finished run with fewer draws, and the claims that are registered for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "unavailable", lambda specs: {})
        patch.setattr(paired_difference, "FLIPS", 9_999)
        patch.setattr(paired_difference, "RESAMPLES", 1_000)
        made = FabricatedRun(folder, {"methods": METHODS, "seeds": seeds, "tables": [], "figures": []}, **settings)
        assert made.studies
    return made.studies, made.experiment.registered_claims


@pytest.fixture(scope="module", params=[[0], [0, 1, 2, 3, 4]], ids=["one seed", "five seeds"])
def planted(request, tmp_path_factory):
    return (*fabricated(tmp_path_factory.mktemp("run"), request.param, size=1000, flips=0.004, gains=PLANTED), len(request.param))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run of two suites with so few examples that nothing of interest could be seen."""
    return fabricated(tmp_path_factory.mktemp("small"), [0], size=30, flips=0.03)


def judged(studies, registered):
    return {(each.claim["id"], each.method, each.metric): each for each in findings(studies, registered)}


def test_a_planted_effect_is_found_with_its_sign_and_no_effect_is_excluded(planted):
    studies, registered, seeds = planted
    found = judged(studies, registered)
    for method, verdict, effect in [
        ("weight_averaging+nan_delta", NOT_REPRODUCED, 0.0),
        ("task_arithmetic+nan_delta", REPRODUCED, 5.0),
        ("ties+nan_delta", OPPOSITE, -5.0),
    ]:
        one = found["nan_delta", method, "average"]
        assert (one.verdict, one.effect.seeds, one.effect.n) == (verdict, seeds, 3000)
        assert one.effect.low - 0.2 <= effect <= one.effect.high + 0.2 and one.p <= 1
    assert found["ace_best", "ace", "average"].verdict == REPRODUCED


def test_what_is_too_small_to_see_is_undecided_and_never_absent(small):
    found = [each for each in findings(*small) if each.effect and each.metric != EXPONENT]
    assert found and {each.verdict for each in found} == {UNDECIDED}


def test_the_needed_sample_detects_the_smallest_effect_of_interest(small):
    for each in (each for each in findings(*small) if each.verdict == UNDECIDED):
        if "more than 100 times" in each.change:
            assert detectable(each.effect.error / 10, each.family) > each.smallest
            continue
        needed = int(re.search(r"([\d,]+) test examples in place of 90 ", each.change)[1].replace(",", ""))
        error = each.effect.error * (each.effect.n / needed) ** 0.5
        assert detectable(error, each.family) == pytest.approx(each.smallest, rel=0.01)
        assert "seeds in place of" not in each.change


def test_p_is_adjusted_over_the_hypotheses_of_the_suite_and_the_same_one_counts_once(planted):
    studies, registered, _ = planted
    found = [each for each in findings(studies, registered) if each.effect]
    (family,) = {each.family for each in found}
    twice = {**registered, "claims": [*registered["claims"], {**registered["claims"][1], "id": "again"}]}
    assert {each.family for each in findings(studies, twice) if each.effect} == {family} == {len({each.key for each in found})}
    raw = sorted(each.effect.p for each in found)
    assert min(each.p for each in found) == pytest.approx(min(1, raw[0] * family))


@pytest.mark.parametrize(
    ("effect", "p", "verdict"),
    [
        ((1.0, 0.4, 1.6, 1.5), 0.01, REPRODUCED),
        ((-1.0, -1.6, -0.4, 1.5), 0.01, OPPOSITE),
        ((1.0, 0.4, 1.6, 1.5), 0.06, UNDECIDED),
        ((0.6, -0.1, 1.3, 1.2), 0.01, UNDECIDED),
        ((0.0, -0.4, 0.4, 0.3), 1.0, NOT_REPRODUCED),
        ((0.2, 0.1, 0.3, 0.29), 0.001, NOT_REPRODUCED),
        ((-0.2, -0.3, -0.1, 0.29), 0.001, NOT_REPRODUCED),
        ((0.0, -0.6, 0.6, 0.51), 1.0, UNDECIDED),
        ((0.0, 0.0, 0.0, 0.0), 1.0, NOT_REPRODUCED),
    ],
)
def test_size_comes_before_significance_and_both_before_a_verdict(effect, p, verdict):
    found = Finding(CLAIM, "text", "a", "b", "a − b", "average", 0.5, Effect(*effect, p, 1000, 1), p=p)
    assert found.verdict == verdict
    assert found.change.endswith(".") and not re.search(r"\bnan\b|\binf\b|None", found.change)


def test_an_effect_that_is_not_excluded_both_ways_is_undecided_but_its_gain_may_be():
    low, wide = (Finding(CLAIM, "text", "a", "b", "a − b", "average", 0.5, Effect(*effect, 0.2, 1000, 1), p=0.9).change
                 for effect in ((-0.6, -1.3, 0.1, 1.2), (0.1, -0.6, 0.8, 0.7)))  # fmt: skip
    assert "an effect of +0.5 points is excluded already" in low and "excluded" not in wide


def test_a_claim_with_several_verdicts_counts_them_and_leaves_out_what_was_not_run(planted):
    studies, registered, _ = planted
    shown = {check.statement: check for check in as_checks(studies, registered)}
    claims = {claim["id"]: shown[claim["statement"]] for claim in registered["claims"]}
    assert claims["nan_delta"].verdict == f"{REPRODUCED} 1, {NOT_REPRODUCED} 1, {OPPOSITE} 1"
    assert claims["nan_literal"].verdict == UNTESTABLE == combined([])
    assert any("weight_averaging+nan is not in the run." in line for line in claims["nan_literal"].evidence)
    assert claims["nan_undertrained"].evidence[1] == "No suite of this run is one that it is about."


def test_the_page_has_every_claim_and_the_file_every_number(planted, tmp_path):
    studies, registered, seeds = planted
    write_claims(studies, registered, tmp_path / "claims")
    page = (tmp_path / "claims.md").read_text(encoding="utf-8")
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## Preregistration", "## Design", "## Averages", "## Verdicts"]  # fmt: skip
    assert len(registered["claims"]) == len(read_yaml(ROOT / "config/claims.yaml")["claims"])
    untested = [check for check in as_checks(studies, registered) if check.verdict == UNTESTABLE]
    folded = page[page.index("<details>") : page.index("</details>")]
    assert f"<summary>{len(untested)} claims not testable here</summary>" in folded and folded.count("\n- ") == len(untested) > 1
    assert page.count("\n### ") == len(registered["claims"]) - len(untested) > 1 and "### " not in folded
    assert not re.search(r"\bNone\b|\binf\b|\(\)|\[\]|\.\.|[{}]", page)
    rows = list(csv.DictReader((tmp_path / "claims.csv").open(encoding="utf-8")))
    found = findings(studies, registered)
    assert [row["verdict"] for row in rows] == [each.verdict for each in found]
    for row, each in zip(rows, found, strict=True):
        assert float(row["difference"] or "nan") == pytest.approx(each.effect.difference if each.effect else np.nan, nan_ok=True)
    undecided = [each for each in found if each.verdict == UNDECIDED and each.metric != EXPONENT]
    assert ("seeds in place of" in page) == (seeds > 1 and bool(undecided))


def test_the_report_folds_claims_that_cannot_be_tested_here_into_one_part(default_run):
    shown = as_checks(default_run.studies, default_run.experiment.registered_claims)
    untested = [check for check in shown if check.verdict == UNTESTABLE]
    page = (default_run.folder / "report.html").read_text(encoding="utf-8")
    claims = page[page.index('<section id="claims">') :].partition("</section>")[0]
    parts = claims.split('<details class="check"')[1:]
    assert len(parts) == len(shown) - len(untested) + 1 and 1 < len(untested) < len(shown)
    assert f"<span>{len(untested)} claims</span>" in parts[-1] and parts[-1].count("<li>") == len(untested)
    assert f"{UNTESTABLE}</span>" in parts[-1] and "is not in the run." in parts[-1]


def test_a_run_with_hardly_a_method_has_a_page_too(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "unavailable", lambda specs: {})
    made = FabricatedRun(tmp_path, {"methods": ["ties"], "suites": ["text", "vision"], "tables": [], "figures": []})
    registered = made.experiment.registered_claims
    write_claims(made.studies, registered, tmp_path / "claims")
    page = (tmp_path / "claims.md").read_text(encoding="utf-8")
    assert {each.verdict for each in findings(made.studies, registered)} == {UNTESTABLE}
    assert "\n  - ace − tsv_m: ace is not in the run.\n" in page and "EfficientNet" in page


def trained(exponent, sizes=(200, 800, 3200), noise=0.01, **finetune):
    """A study whose 1/|tau| is the training-set size to a power, within tasks, which differ much from one another."""
    random, names, seeds = np.random.default_rng(0), [f"t{index}" for index in range(6)], range(5)
    tasks = [{"id": t, "train": {str(s): sizes[(i + s) % len(sizes)] for s in seeds}} for i, t in enumerate(names)]
    measures = {}
    for seed in seeds:
        drawn = 3.0 ** np.arange(6) * np.exp(noise * random.standard_normal(6))
        norms = drawn * np.array([float(task["train"][str(seed)]) for task in tasks]) ** -exponent
        measures[seed] = {"experts": names, "tensors": {"w": {"weights": [100.0] * 6, "task_vector": [*norms**2]}}}
    suite = {"id": "toy", "seeds": [*seeds], "tasks": tasks, "finetune": {"steps": 9, **finetune}}
    return Study(suite, [], measures=measures)


def premise(study, of="examples"):
    claim = {**CLAIM, "measure": {"norm": "task_vector", "of": of}, "suites": ["toy"], "contrasts": []}
    (found,) = findings([study], {"smallest_effect": {"points": 0.5, "exponent": 0.1}, "claims": [claim]})
    return found


@pytest.mark.parametrize(("exponent", "verdict"), [(0.5, REPRODUCED), (0.0, NOT_REPRODUCED), (-0.3, OPPOSITE)])
def test_the_premise_is_judged_within_tasks(exponent, verdict):
    found = premise(trained(exponent))
    assert found.verdict == verdict and found.effect.low < exponent < found.effect.high and found.effect.n == 30
    assert found.effect.difference == pytest.approx(exponent, abs=0.01)


def test_a_noisy_premise_says_how_many_models_it_needs():
    noisy = premise(trained(0.0, noise=0.7))
    assert noisy.verdict == UNDECIDED and re.search(r"[\d,]+ models in place of 30 would detect 0.1 ", noisy.change)


def test_the_premise_needs_sizes_that_change():
    found = premise(trained(0.5, sizes=(800,)))
    assert found.verdict == UNTESTABLE and "no two models of a task differ in the number of examples" in found.missing


def test_nested_subsets_of_a_task_are_judged_by_protocol():
    study, noise = trained(0.5, sizes=(800,)), np.random.default_rng(0)
    study.premise = [
        {"task": "t0", "seed": "0", "protocol": protocol, "examples": str(size), "norm_weights": "1",
         "norm_task_vector": str(size**-exponent * np.exp(0.01 * noise.standard_normal()))}
        for protocol, exponent in (("steps", 0.3), ("epochs", -0.4)) for size in (32, 64, 128, 256, 512)
    ]  # fmt: skip
    claim = {**CLAIM, "measure": {"norm": "task_vector", "of": "examples"}, "suites": ["toy"], "contrasts": []}
    found = findings([study], {"smallest_effect": {"points": 0.5, "exponent": 0.1}, "claims": [claim]})
    verdicts = {each.against: each.verdict for each in found}
    assert verdicts == {
        "experts at equal steps": UNTESTABLE,
        "nested subsets at equal steps": REPRODUCED,
        "nested subsets at equal epochs": OPPOSITE,
    }


def test_an_expert_that_is_trained_less_is_compared_with_itself_in_other_seeds():
    study = trained(0.0, undertrained=0.2)
    for seed, measure in study.measures.items():
        measure["tensors"]["w"]["task_vector"][seed] *= 0.2  # |tau|^2 ~ share of the steps
    found = premise(study, "steps")
    assert found.verdict == OPPOSITE and found.effect.difference == pytest.approx(-0.5, abs=0.02)
    assert premise(trained(0.0), "steps").verdict == UNTESTABLE


def test_the_exponent_has_the_error_of_least_squares():
    random, errors, slopes = np.random.default_rng(1), [], []
    for _ in range(300):
        points = [
            norm_data.Point(str(g), n, float(np.exp(g + 0.3 * np.log(n) + 0.1 * random.standard_normal())))
            for g in range(4)
            for n in (1, 2, 4)
        ]
        slope, error, freedom = norm_data.exponent(points)
        errors.append(error)
        slopes.append(slope)
    assert freedom == 12 - 4 - 1 and np.mean(slopes) == pytest.approx(0.3, abs=0.01)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(slopes), rel=0.15)


def test_the_planned_error_is_that_of_a_simulation():
    random, sizes, seeds, assumed = np.random.default_rng(2), [100, 300], 4, {"discordant": 0.2, "deviation": 2.0}
    signs = [random.choice([-1, 0, 1], (4000, size), p=[0.1, 0.8, 0.1]).mean(axis=1) for size in sizes]
    of_seeds = random.normal(0, 0.02, (4000, seeds)).mean(axis=1)
    assert np.std(np.mean(signs, axis=0) + of_seeds) == pytest.approx(planned_error(sizes, seeds, assumed), rel=0.05)
    assert np.std(np.mean(signs, axis=0)) == pytest.approx(planned_error(sizes, 1, assumed), rel=0.05)
