"""A method with `draws` or a `scan` is several methods; what a suite cannot have is skipped with the reason."""

import pytest
from models import ROOT, shipped

from experiment.experiment import Experiment
from experiment.fitness import why_unfit
from nan_merge.catalogue.files import read_yaml
from nan_merge.catalogue.sweeps import lacks_shuffle
from nan_merge.core.errors import UserError
from nan_merge.methods.recipe import STAGES as OPERATORS

NAN, PERMUTED = "task_arithmetic+nan_delta", "task_arithmetic+nan_delta+permuted"


def asked(*names, **config):
    return Experiment({**shipped().config, "methods": [*names], **config}, ROOT)


TWO = {"mine": {"base": "o/b", "experts": {"a": "o/e", "b": "o/f"}}}


def test_draws_are_methods_with_a_seed_each():
    found = asked(PERMUTED)
    assert found.sweeps == {PERMUTED: [f"{PERMUTED}_{k}" for k in range(1, 6)]}
    assert PERMUTED not in found.methods
    assert [found.methods[f"{PERMUTED}_{k}"]["control"] for k in (1, 2)] == [{"permuted": {"seed": k}} for k in (1, 2)]
    assert found.methods[f"{PERMUTED}_2"]["label"] == "Task arithmetic (λ = 0.3) + NAN (delta) + permuted, draw 2"


def test_a_run_names_all_draws_by_the_entry():
    found = asked("task_arithmetic", NAN, PERMUTED)
    draws = [f"{PERMUTED}_{k}" for k in range(1, 6)]
    assert found.config["methods"] == ["task_arithmetic", NAN, *draws]
    (pair,) = (pair for pair in found.pairs() if pair["kind"] == "control")
    assert (pair["against"], pair["draws"]) == (PERMUTED, draws)
    row = found.rows()[-1]
    assert (row["id"], row["label"], row["draws"]) == (PERMUTED, "Task arithmetic (λ = 0.3) + NAN (delta) + permuted", draws)
    assert len(found.rows()) == 3


@pytest.mark.parametrize(("entry", "host"), [("dare_draws", "dare"), ("dare_ties_draws", "dare_ties"), ("della_draws", "della")])
def test_a_method_that_drops_at_random_has_draws_that_differ_in_their_seed_only(entry, host):
    found = asked(host, entry)
    draws = [f"{entry}_{k}" for k in range(1, 6)]
    assert found.config["methods"] == [host, *draws]
    specs = [found.method_spec(method, *OPERATORS) for method in (host, *draws)]
    ((operator, values),) = specs[0]["preprocess"].items()
    assert [spec["preprocess"] for spec in specs[1:]] == [{operator: {**values, "seed": k}} for k in range(1, 6)]
    assert all(specs[0] | {"preprocess": None} == spec | {"preprocess": None} for spec in specs)
    row = found.rows()[-1]
    assert (row["id"], row["label"], row["draws"]) == (entry, found.methods[host]["label"], draws)


def test_draws_of_dropped_entries_are_not_counted_as_shuffles():
    """Two experts have one shuffle, and as many draws of DARE as any number of them."""
    found = asked("dare_draws")
    assert all(lacks_shuffle(found.methods[f"dare_draws_{k}"], 2) == "" for k in range(1, 6))
    shuffled = asked(PERMUTED).methods
    assert [bool(lacks_shuffle(shuffled[f"{PERMUTED}_{k}"], 2)) for k in range(1, 6)] == [False, True, True, True, True]


def test_a_variant_goes_on_the_method_that_draws_extend():
    with pytest.raises(UserError, match=r"dare_draws does not take the variant 'nan_delta'.*put the variant on .* \(dare\)"):
        asked("dare", "dare_draws+nan_delta")


def test_a_scan_is_the_product_of_its_lists_and_of_its_host_s():
    found = asked("ties", "ties_elections+nan_scan_scope")
    names = found.sweeps["ties_elections+nan_scan_scope"]
    assert names[:2] == [f"ties_elections+nan_scan_scope-weights-model-{elect}" for elect in ("weighted", "unweighted")]
    assert len(names) == 2 * 3 * 2
    record = found.methods["ties_elections+nan_scan_scope-weights-layer-unweighted"]
    assert record["coefficients"] == {"nan": {"norm_of": "weights", "scope": "layer", "mean": 0.3}}
    assert record["combine"] == {"disjoint_sum": {"elect": "unweighted"}}
    assert record["label"] == "TIES (20 %, sum, λ = 0.3) + NAN: norm of weights, scope layer, elect unweighted"
    assert record["sweep"]["values"] == {"norm_of": "weights", "scope": "layer", "elect": "unweighted"}


def test_the_shipped_scans_are_few_and_stand_beside_their_hosts():
    found = Experiment({**shipped().config, **read_yaml(ROOT / "config/scan.yaml")}, ROOT)
    scans = [method for method in found.config["methods"] if "-" in method]
    assert 20 < len(scans) <= 50
    pairs = {(pair["method"], pair["against"]) for pair in found.pairs() if pair["kind"] == "scan"}
    assert pairs == {(m, m.partition("+")[0].removesuffix("_elections")) for m in scans}
    assert found.method_spec(scans[0], "coefficients") == {
        "coefficients": {"nan": {"norm_of": "weights", "scope": "model", "exponent": 0.5, "mean": 0.3}}
    }


@pytest.mark.parametrize(
    ("host", "reading"),
    [
        ("task_arithmetic", {"normaliser": "softmax", "norm_of": "weights"}),
        ("task_arithmetic", {"normaliser": "softmin", "norm_of": "weights"}),
        ("task_arithmetic", {"norm_of": "weights", "total": 1.0}),
        ("task_arithmetic", {"norm_of": "weights", "mean": 0.5}),  # a sum of half the experts, for any number of them
        ("task_arithmetic", {"norm_of": "task_vector", "scope": "tensor", "exponent": 2.0}),
        ("weight_averaging_scaled", {"norm_of": "weights"}),  # the factor of the merged weights, base and all
        ("ties_mean", {"norm_of": "task_vector"}),
        ("ties", {"norm_of": "processed", "scope": "model"}),  # NAN as a step after other methods
        ("ties_mean", {"norm_of": "processed", "scope": "tensor"}),
        ("ties", {"norm_of": "task_vector", "scope": "layer", "elect": "unweighted"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_the_scan_has_every_reading_of_the_paper(host, reading):
    found = Experiment({**shipped().config, **read_yaml(ROOT / "config/scan.yaml")}, ROOT)
    scanned = [found.methods[method] for method in found.config["methods"] if "-" in method]
    assert [each for each in scanned if each["host"] == host and reading.items() <= each["sweep"]["values"].items()]


def test_a_search_is_one_candidate_a_trial_and_is_compared_once_with_its_host():
    names = ["task_arithmetic", "task_arithmetic+tuned", NAN, f"{NAN}+tuned", "task_arithmetic+searched"]
    found = asked("weight_averaging", *names)
    trials = found.candidates_of("task_arithmetic+searched")
    assert trials == [f"task_arithmetic+searched-t{number}" for number in range(1, 49)]
    assert found.earlier_trials(trials[8]) == trials[:8] and found.earlier_trials(trials[7]) == []
    assert "tune" not in found.method(trials[0]) and found.method_spec(trials[0], "coefficients", "tune") == {
        "coefficients": {"multiples": {"mean": 0.3}}
    }
    assert len(found.candidates_of("task_arithmetic+tuned")) == len(found.candidates_of(f"{NAN}+tuned")) == 9
    pairs = {(pair["method"], pair["against"]): pair["kind"] for pair in found.pairs()}
    assert len(pairs) == len(found.pairs()), "no comparison twice"
    assert pairs[f"{NAN}+tuned", "task_arithmetic+tuned"] == "host"
    assert pairs["task_arithmetic+tuned", "task_arithmetic"] == "selection"
    assert pairs["task_arithmetic+searched", "task_arithmetic"] == "host"
    assert pairs["task_arithmetic+searched", "task_arithmetic+tuned"] == pairs[NAN, "task_arithmetic+searched"] == "control"


def test_thresholds_follow_a_search_that_trims(monkeypatch):
    made = asked("ties", "ties_tuned")
    assert (
        made.thresholds("ties") == made.thresholds("ties_tuned") == made.thresholds("ties_tuned-0.2") == "density_0.2-scope_model"
    )
    tune = {"search": "sobol", "budget": 2, "space": {"density": {"low": 0.1, "high": 0.5}}}
    grid = {"search": "grid", "space": {"density": [0.1, 0.5]}}
    catalogue = made.catalogue
    monkeypatch.setattr("experiment.experiment.Catalogue", lambda root: catalogue)
    for name, changed in (("ties_sobol", tune), ("ties_grid", grid)):
        catalogue.hosts[name] = {**catalogue.hosts["ties"], "label": name, "tune": changed}
    found = asked("ties_sobol", "ties_grid")
    ids = {method: found.thresholds(method) for method in ("ties_sobol", *found.candidates_of("ties_sobol"), "ties_grid")}
    assert all(method == name for method, name in ids.items()), "unknown before the run"
    assert [found.thresholds(each) for each in found.candidates_of("ties_grid")] == [
        f"density_{density}-scope_model" for density in (0.1, 0.5)
    ]
    assert {*ids, "density_0.1-scope_model"} <= found.needing(found.thresholds).keys()


def test_a_negative_candidate_keeps_its_sign():
    tuned = f"{NAN}_tuned"
    found = asked(tuned)
    assert found.candidates_of(tuned)[:2] == [f"{tuned}-{p}" for p in (-2, -1)]
    assert found.method_spec(f"{tuned}--0.5", "coefficients")["coefficients"]["nan"]["exponent"] == -0.5


# Skips.


def test_shuffles_that_do_not_exist_are_skipped():
    own = asked("task_arithmetic", PERMUTED, suites=[], models=TWO)
    reasons = own.skipped_methods("mine")
    assert reasons == {f"{PERMUTED}_{k}": "2 experts have no more shuffles than 1" for k in range(2, 6)}
    assert own.run("mine") == own.merges("mine") == ["task_arithmetic", f"{PERMUTED}_1"]


def test_an_operator_for_another_number_of_experts_is_skipped(monkeypatch):
    monkeypatch.setattr(OPERATORS["combine"]["disjoint_mean"], "experts", 2, raising=False)
    found = asked("task_arithmetic", "ties_mean")
    assert found.skipped_methods("text") == {"ties_mean": "disjoint_mean merges 2 experts, here are 6"}
    assert asked("ties_mean", suites=[], models=TWO).skipped_methods("mine") == {}


def test_what_is_skipped_is_neither_run_nor_compared(monkeypatch):
    monkeypatch.setattr(OPERATORS["preprocess"]["trim"], "experts", 2, raising=False)
    names = ["weight_averaging", "ties", "ties_tuned", "ties+nan_delta", "ties+nan_delta+permuted", "dare"]
    found = asked(*names)
    assert found.run("text") == found.merges("text") == ["weight_averaging", "dare"]
    assert found.candidates_in("text") == []
    assert not [pair for pair in found.pairs() if "ties" in pair["method"] + pair["against"]]
    assert [row["id"] for row in found.rows()] == names


def test_a_method_that_takes_the_choice_of_a_skipped_one_is_skipped_too(monkeypatch):
    monkeypatch.setattr(OPERATORS["coefficients"]["constant"], "experts", 2, raising=False)
    found = asked("task_arithmetic_tuned", "task_arithmetic_tuned+nan_delta")
    assert set(found.skipped_methods("text")) == {"task_arithmetic_tuned", "task_arithmetic_tuned+nan_delta"}


def test_models_of_ones_own_have_no_data(monkeypatch):
    own = asked("task_arithmetic", "ties", suites=[], models=TWO)
    own.methods["ties"]["learn"] = {}
    assert why_unfit(own, "ties", "mine") == "it needs data of the tasks, and models of your own come without data"
    of_suite = asked("task_arithmetic", "ties")
    of_suite.methods["ties"]["learn"] = {}
    assert why_unfit(of_suite, "ties", "text") == why_unfit(own, "task_arithmetic", "mine") == ""


def test_coefficients_by_data_size_need_a_stated_size_of_every_expert():
    sized = "weight_averaging+data_size"
    reason = "the number of training examples is not stated for b (`examples:`)"
    models = {"mine": {**TWO["mine"], "examples": {"a": 100}}}
    assert asked("ties", sized, suites=[], models=models).skipped_methods("mine") == {sized: reason}
    with pytest.raises(UserError, match=r"config/config.yaml: models: mine: no method of the run can merge them \(weight_aver"):
        asked(sized, suites=[], models=models)
    models["mine"]["examples"]["b"] = 300
    assert asked(sized, suites=[], models=models).skipped_methods("mine") == {}
    assert asked(sized).skipped_methods("text") == {}, "the prepared data sets tell"
    fetched = asked(sized, suites=["vit_b32_8"])
    assert fetched.examples("vit_b32_8").keys() == {*fetched.task_ids("vit_b32_8")}


def test_a_space_is_for_adapters_of_ones_own_and_measured_in_files_of_its_own():
    names = ["ties", "ties+core", "ties+knots+nan_delta", "dare+core+nan_processed", "dare+nan_processed"]
    found, own = asked(*names), asked(*names, suites=[], models=TWO)
    skipped = {name: f"the space '{name.split('+')[1]}' needs LoRA adapters" for name in names[1:4]}
    assert {name: reason.split(",")[0] for name, reason in found.skipped_methods("text").items()} == skipped
    assert found.run("text") == [names[0], names[4]]
    assert own.skipped_methods("mine") == {} and own.merges("mine") == names
    assert len({own.thresholds(name) for name in names[:3]}) == 3
    assert len({own.processed(name) for name in names[3:]}) == 2
    assert own.thresholds("ties") == "density_0.2-scope_model", "files of methods without a space keep their names"
    assert own.processed("dare+nan_processed") == "drop-rate_0.9-seed_0"


def test_one_draw_can_be_named_alone():
    found = asked("task_arithmetic", NAN, f"{PERMUTED}_2")
    assert found.config["methods"][-1] == f"{PERMUTED}_2" and found.rows()[-1]["draws"] == [f"{PERMUTED}_2"]
