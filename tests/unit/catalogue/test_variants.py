"""A variant on a host: coefficients at its scale, labels from values, controls, refusals, new names of old ids."""

import re
import shutil

import pytest
import yaml
from models import ROOT, every_method, method_specs

from nan_merge.catalogue.files import read_yaml
from nan_merge.catalogue.methods import REFERENCES, STAGES, WHOLE, Catalogue, takes, takes_norms_of_calibration
from nan_merge.core.errors import UserError
from nan_merge.methods.recipe import bind

CATALOGUE = Catalogue(ROOT)


@pytest.fixture
def edited(tmp_path):
    """Return a function that changes the entries of methods.yaml or variants.yaml and reads the catalogue again."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "workflow").symlink_to(ROOT / "workflow")

    def change(file, edit):
        path = tmp_path / "config" / file
        records = read_yaml(path)
        edit(records)
        path.write_text(yaml.safe_dump(records))
        return Catalogue(tmp_path)

    return change


def one(name, catalogue=CATALOGUE):
    (record,) = catalogue.members(name).values()
    return record


def test_a_changed_lambda_is_the_mean_and_the_label_of_every_row(edited):
    """A wrong label or a NAN row of another size than its host cannot be written."""
    catalogue = edited("methods.yaml", lambda m: m["task_arithmetic"]["coefficients"]["constant"].update(value=0.4))
    assert one("task_arithmetic", catalogue)["label"] == "Task arithmetic (λ = 0.4)"
    row = one("task_arithmetic+nan_delta", catalogue)
    assert row["label"] == "Task arithmetic (λ = 0.4) + NAN (delta)"
    assert row["coefficients"] == {"nan": {"norm_of": "task_vector", "mean": 0.4}}
    assert one("dare+nan", catalogue)["coefficients"] == {"nan": {"norm_of": "weights", "mean": 0.4}}


@pytest.mark.parametrize(
    ("host", "scale"),
    [("weight_averaging", {"total": 1.0}), ("slerp", {"total": 1.0}), ("ties", {"mean": 0.3}), ("della", {"mean": 1.1}),
     ("metagpt", {"total": 1.0}), ("fisher_normalised", {"mean": 1.0, "over": "calibration"})],
)  # fmt: skip
def test_the_scale_is_the_host_s(host, scale):
    assert one(f"{host}+nan_delta")["coefficients"] == {"nan": {"norm_of": "task_vector", **scale}}
    assert one(f"{host}+data_size")["coefficients"] == {"data_size": scale}


def test_the_scale_is_the_host_s_also_where_it_is_tuned():
    row = one("task_arithmetic_tuned+nan_delta")
    assert row["tune"] == {"hyper_parameter": "mean", "as": "task_arithmetic_tuned"}
    assert row["label"] == "Task arithmetic (λ on validation) + NAN (delta)"
    assert (row["data"], row["host"]) == ("validation", "task_arithmetic_tuned")
    control = CATALOGUE.members("task_arithmetic_tuned+nan_delta+permuted")
    assert all(record["tune"] == row["tune"] for record in control.values())


@pytest.mark.parametrize(
    ("name", "key", "scale"),
    [("task_arithmetic", "value", 0.3), ("weight_averaging", "total", 1.0), ("della", "value", 1.1), ("metagpt", "total", 1.0),
     ("task_arithmetic+nan_delta", "mean", 0.3), ("weight_averaging+nan", "total", 1.0), ("doge_lambda", "mean", 1.0)],
)  # fmt: skip
def test_every_method_is_tuned_at_the_same_multiples_of_its_own_scale(name, key, scale):
    row, plain = one(f"{name}+tuned"), one(name)
    multiples = CATALOGUE.variants["tuned"]["tune"]["multiples"]
    assert row["tune"] == {"hyper_parameter": key, "grid": pytest.approx([scale * multiple for multiple in multiples])}
    assert (row["group"], row["data"], row["extends"]) == (plain["group"], "validation", name)
    assert 1.0 in multiples, "the method itself is one of the candidates"
    ((rule, values),) = row["coefficients"].items()
    assert values[key] == scale and rule in str(plain.get("coefficients", "uniform"))


def test_a_tuned_row_is_compared_with_its_host_tuned_alike():
    assert one("task_arithmetic+nan_delta+tuned")["host"] == "task_arithmetic+tuned"
    assert "host" not in one("task_arithmetic+tuned")
    assert one("task_arithmetic+tuned+nan_delta")["tune"] == {"hyper_parameter": "mean", "as": "task_arithmetic+tuned"}


@pytest.mark.parametrize("host", ["weight_averaging", "task_arithmetic", "ties", "slerp"])
def test_searched_coefficients_are_multiples_of_the_host_s(host):
    row = one(f"{host}+searched")
    ((_, scale),) = one(f"{host}+nan_delta")["coefficients"].items()
    assert row["coefficients"] == {"multiples": {key: value for key, value in scale.items() if key != "norm_of"}}
    measures = {"experts": ["a", "b"], "tensors": {"w": {"task_vector": [1.0, 4.0]}}}
    equal, twice = (
        bind({"coefficients": {"multiples": {**row["coefficients"]["multiples"], **more}}}).estimate(measures).at("w")
        for more in ({}, {"values": {"a": 2.0, "b": 0.5}})
    )
    assert twice == pytest.approx([2.0 * equal[0], 0.5 * equal[1]])
    assert equal == bind({"coefficients": one(host).get("coefficients", "uniform")}).estimate(measures).at("w")
    assert one(f"{host}+searched+uniform")["tune"]["as"] == f"{host}+searched"
    assert f"{host}+searched" in one(f"{host}+nan_delta")["controls"]
    controls = [f"{host}+searched+uniform", f"{host}+searched+permuted", f"{host}+tuned"]
    assert row["controls"] == [*controls, *one(host).get("controls", [])], "spaces are none"
    assert f"{host}+tuned" in row["controls"], "what one number for all experts reaches"


def test_all_other_stages_are_the_host_s():
    for name, record in every_method().items():
        host, _, variant = name.partition("+")
        if variant and "-" not in name:
            entry = CATALOGUE.hosts[host]
            kept = [stage for stage in STAGES if stage not in ("coefficients", "control")]
            assert {s: record.get(s) for s in kept} == {s: entry.get(s) for s in kept}, name
            assert record.get("calibration") == entry.get("calibration"), name


def test_what_a_method_takes_is_what_its_recipe_takes():
    for name, method_spec in method_specs().items():
        assert (takes(method_spec) == WHOLE) == bind(method_spec).whole, name


def test_every_host_takes_every_variant_unless_it_has_draws_or_its_coefficients_are_learned_or_tuned_twice():
    taken = {name for name in every_method() if name.count("+") == 1 and "-" not in name}
    lacking = {
        f"{host}+{variant}"
        for host in CATALOGUE.hosts
        for variant, entry in CATALOGUE.variants.items()
        if "coefficients" in entry and "scan" not in entry
    } - taken
    swept = {name for name in lacking if "elections" in name}  # members of a sweep have longer ids
    assert {name.partition("+")[0] for name in lacking - swept} == {
        *REFERENCES, "adamerging_task", "adamerging_layer", "adamerging_task_plus", "adamerging_layer_plus",
        "task_arithmetic_tuned", "ties_tuned", "dare_draws", "dare_ties_draws", "della_draws",
        "rebasin", "zipit", "zipit_partial"}  # fmt: skip
    matched = {name for name in lacking if name.startswith(("rebasin", "zipit"))}
    assert {name.partition("+")[2] for name in matched} == {"nan_processed"}
    assert {name for name in lacking if "arithmetic_tuned" in name} == {
        "task_arithmetic_tuned+nan_delta_tuned",
        "task_arithmetic_tuned+nan_delta_half",
        "task_arithmetic_tuned+searched",
    }


def test_a_control_keeps_the_coefficients_and_belongs_to_its_row():
    row, controls = one("ties+nan_delta"), CATALOGUE.members("ties+nan_delta+permuted")
    assert list(controls) == [f"ties+nan_delta+permuted_{k}" for k in range(1, 6)]
    assert all(control["coefficients"] == row["coefficients"] for control in controls.values())
    assert row["controls"] == ["ties+nan_delta+permuted", "ties+data_size", "ties+searched"]
    assert "task_arithmetic_tuned" in one("task_arithmetic+nan_delta")["controls"]
    assert one("ties+data_size")["controls"] == ["ties+data_size+permuted"]
    assert not [control for control in controls.values() if {"host", "controls"} & control.keys()]
    assert {control["group"] for control in controls.values()} == {"control"}


@pytest.mark.parametrize("host", ["weight_averaging", "task_arithmetic", "ties_tuned", "magmax", "metagpt", "fisher_normalised"])
def test_equal_coefficients_are_a_control_only_where_they_are_not_the_host(host):
    """One comparison, not two: the control `uniform` of a row is listed unless its coefficients are those of the host."""
    squares = {"weights": [9.0, 4.0, 5.0], "task_vector": [1.0, 2.0, 4.0], "calibration": [3.0, 1.0, 1.0]}
    squares["processed"] = [1.0, 1.0, 3.0]
    measures = {"experts": ["a", "b", "c"], "examples": [3, 5, 4], "tensors": {"w": squares}}

    def coefficients(name):
        record = one(name)
        return bind({stage: record[stage] for stage in ("coefficients", "control") if stage in record}).estimate(measures).at("w")

    seen, refused = set(), ("_tuned", "_half", "searched") if host.endswith("_tuned") else "searched"  # which knows none yet
    for variant, entry in CATALOGUE.variants.items():
        if "coefficients" in entry and "scan" not in entry and not variant.endswith(refused):
            name = f"{host}+{variant}"
            listed = f"{name}+uniform" in one(name)["controls"]
            assert listed == (coefficients(f"{name}+uniform") != coefficients(host)), name
            seen.add(listed)
    assert True in seen and (False in seen) == (host != "metagpt")


def test_nan_stands_on_normalised_fisher_merging_as_on_any_host():
    """The norms of Fisher information belong to the method; NAN replaces the coefficients, not these norms."""
    squares = {"weights": [9.0, 4.0], "task_vector": [1.0, 4.0], "calibration": [1.0, 9.0]}
    measures = {"experts": ["a", "b"], "tensors": {"w": squares}}
    host, row = (bind({"coefficients": one(n)["coefficients"]}).estimate(measures).rows["model"] for n in FISHER)
    assert host == pytest.approx([1.5, 0.5]) and row == pytest.approx([1.5 * 4 / 3, 0.5 * 2 / 3])
    assert takes_norms_of_calibration(one(FISHER[0])) and takes_norms_of_calibration(one(FISHER[1]))
    assert not takes_norms_of_calibration(one("fisher+nan_delta"))


FISHER = ("fisher_normalised", "fisher_normalised+nan_delta")


def test_the_study_has_normalised_fisher_merging_as_host():
    methods = read_yaml(ROOT / "config/study/every_method.yaml")["methods"]
    assert {*FISHER} <= {*methods} and "fisher+nan_delta" not in methods
    assert one("fisher_normalised")["label"] == "Fisher merging"


def test_a_control_that_is_its_host_is_in_no_shipped_run():
    for file in (
        "config.yaml",
        "study/every_method.yaml",
        "scan.yaml",
        *(f"{path.parent.name}/{path.name}" for kind in ("papers", "pools") for path in ROOT.glob(f"config/{kind}/*.yaml")),
    ):
        for name in read_yaml(ROOT / "config" / file).get("methods", []):
            row, _, control = name.rpartition("+")
            assert control != "uniform" or name in one(row)["controls"], (file, name)


REFUSED = {
    "individual+nan": "individual does not take the variant 'nan': it merges nothing",
    "adamerging_task+nan": "adamerging_task does not take the variant 'nan': its coefficients are learned from data",
    "ties+permuted": "ties does not take the variant 'permuted': its coefficients are all equal",
    "ties+nan+nan_delta": "ties+nan does not take the variant 'nan_delta': 'nan' has replaced its coefficients already",
    "ties+nan+permuted+uniform": "ties+nan+permuted does not take the variant 'uniform': a control takes no further variant",
    "ties_tuned+nan_delta_tuned": "it chooses `value` on validation; put the variant on the method that it extends (ties)",
    "ties_elections+tuned": "the keys ['tune', 'scan'] exclude each other; keep one",
    "individual+tuned": "individual does not take the variant 'tuned': it merges nothing",
    "slerp+tuned": "`slerp` does not see a common factor of the coefficients, so there is no scale to choose",
    "ties_magic+tuned": "`magic` does not see a common factor of the coefficients, so there is no scale to choose",
    "adamerging_task+searched": "its coefficients are learned from data",
    "ties_tuned+tuned": "ties_tuned does not take the variant 'tuned': it chooses `value` on validation already",
    "ties+searched+tuned": "it chooses `values` on validation already",
    "ties_tuned+searched": "it chooses `value` on validation; put the variant on the method that it extends (ties)",
    "ties_elections+nan_delta_tuned": "the keys ['tune', 'scan'] exclude each other; keep one",
    "nan_delta+permuted": "nan_delta is a variant; put it on a host, as in ties+nan_delta",
    "ties+": "'ties+': expected a host, or host+variant",
    "tise+nan": "unknown 'tise'; did you mean 'ties'?",
    "ties+nan_detla": "ties+nan_detla: unknown 'nan_detla'; did you mean 'nan_delta'?",
    "ties_nan": "'ties_nan' is now called 'ties+nan'",
    "ties_nan_delta_layer": "is now called 'ties+nan_delta_layer'",
    "dare_nan": "is now called 'dare+nan_delta'",
    "task_arithmetic_nan_tuned": "is now called 'task_arithmetic_tuned+nan_delta'",
    "task_arithmetic_nan_delta_p": "is now called 'task_arithmetic+nan_delta_tuned'",
    "task_arithmetic_nan_length": "is now called 'task_arithmetic+nan_length'",
    "uniform_matched": "is now called 'task_arithmetic+nan_delta+uniform'",
    "permuted": "permuted is a variant; put it on a host, as in ties+nan_delta+permuted",
    "ties_permuted": "is now called 'ties+nan_delta+permuted'",
    "nan_scan_ties": "is now called 'ties_elections+nan_scan_scope'",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_host_cannot_take_is_refused_with_the_reason(name):
    with pytest.raises(UserError) as error:
        CATALOGUE.members(name, "config/config.yaml: methods")
    assert str(error.value).startswith("config/config.yaml: methods")
    assert REFUSED[name] in str(error.value)
    if "is now called" in REFUSED[name]:
        assert CATALOGUE.members(re.findall("'([^']+)'", REFUSED[name])[-1])


# Labels.


def test_no_number_stands_in_prose():
    """A digit in a label or a summary is a value, in braces; names of steps (E1) are not numbers."""
    for file in ("methods.yaml", "variants.yaml"):
        for name, record in read_yaml(ROOT / "config" / file).items():
            for key in ("label", "summary"):
                plain = re.sub(r"\{[^}]*\}", "", record.get(key, ""))
                assert not re.search(r"(?<![A-Z|])\d", plain.replace("1/|", "")), (file, name, plain)


def test_labels_are_filled_with_values_that_are_there(edited):
    assert one("ties")["label"] == "TIES (20 %, sum, λ = 0.3)"
    catalogue = edited("methods.yaml", lambda m: m["ties"].update(preprocess={"trim": {"density": 0.05}}))
    assert one("ties", catalogue)["label"] == "TIES (5 %, sum, λ = 0.3)"
    assert one("ties_svc", catalogue)["label"] == "TIES + SVC (5 %, sum, λ = 0.3)"
    tuned = edited("methods.yaml", lambda m: m["ties_tuned"].update(label="TIES (λ = {value})"))
    assert one("ties_tuned", tuned)["label"] == "TIES (λ on validation)"
    with pytest.raises(UserError, match=r"methods.yaml: ties: label, summary: 'densty' is no hyper-parameter.*'density'"):
        one("ties", edited("methods.yaml", lambda m: m["ties"].update(label="TIES ({densty})")))


def test_every_method_has_a_label_of_its_own():
    labels = [record["label"] for record in every_method().values()]
    twice = {label for label in labels if labels.count(label) > 1}
    assert not twice


def test_a_new_rule_is_on_every_host_by_one_variant(edited):
    new = {"label": "half", "group": "nan", "summary": "s", "scale": "host", "coefficients": {"nan": {"exponent": 0.5}}}
    catalogue = edited("variants.yaml", lambda v: v.update(half=new))
    assert one("ace+half", catalogue)["coefficients"] == {"nan": {"exponent": 0.5, "mean": 1.0}}
    assert one("slerp+half", catalogue)["label"] == "SLERP + half"


FAULTS = {
    "a finished rule with the scale of the host": (
        {"scale": "host", "coefficients": {"constant": {"value": 0.5}}},
        "`constant` gives finished coefficients, which have no scale; remove `scale: host` from config/variants.yaml",
    ),
    "two scales": (
        {"scale": "host", "coefficients": {"nan": {"mean": 0.7}}},
        "config/variants.yaml states `mean`, and `scale: host` too; keep one",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_variant_that_fits_no_host_says_why(fault, edited):
    entry, message = FAULTS[fault]
    catalogue = edited("variants.yaml", lambda v: v.update(new={"label": "new", "summary": "s", **entry}))
    with pytest.raises(UserError) as error:
        catalogue.members("ties+new")
    assert message in str(error.value)


def test_a_scale_of_its_own_does_not_follow_a_tuned_host(edited):
    new = {"label": "new", "summary": "s", "coefficients": "metagpt"}
    catalogue = edited("variants.yaml", lambda v: v.update(new=new))
    assert one("ties+new", catalogue)["coefficients"] == {"metagpt": {}}
    with pytest.raises(UserError, match="it chooses `value` on validation, and the variant has a scale of its own"):
        catalogue.members("ties_tuned+new")


def test_a_variant_may_be_called_as_a_draw_is(edited):
    new = {"label": "mine", "summary": "s", "control": "uniform_matched"}
    catalogue = edited("variants.yaml", lambda v: v.update(permuted_1=new))
    assert one("ties+nan+permuted_1", catalogue)["control"] == "uniform_matched"


def test_papers_of_host_and_variant_are_named():
    assert one("ties+nan_delta")["reference"] == "2306.01708, 2505.16148"


# ---- spaces ---------------------------------------------------------------------------------------------------------


def test_a_space_goes_on_a_host_before_its_coefficients_and_is_a_host_then():
    row, law = one("ties+core"), one("ties+core+nan_delta")
    assert (row["space"], row["group"], row["extends"]) == ("core", "host", "ties")
    assert row["label"] == "TIES (20 %, sum, λ = 0.3) + Core Space" and row["reference"] == "2306.01708, 2509.17786"
    assert (law["space"], law["host"], law["coefficients"]) == ("core", "ties+core", one("ties+nan_delta")["coefficients"])
    assert law["controls"] == ["ties+core+nan_delta+permuted", "ties+core+data_size", "ties+core+searched"]
    assert {record["space"] for record in CATALOGUE.members("ties+core+nan_delta+permuted").values()} == {"core"}
    assert [record["sweep"]["id"] for record in CATALOGUE.members("ties_elections+core").values()] == ["ties_elections+core"] * 2


def test_hosts_that_no_space_takes_say_why():
    reasons = {}
    for host in CATALOGUE.hosts:
        try:
            CATALOGUE.members(f"{host}+core")
        except UserError as error:
            reasons[host] = str(error).rpartition("'core': ")[2]
    takes = {host: reason.split(", which")[0] for host, reason in reasons.items() if " takes " in reason}
    assert takes == {
        "fisher": "the combine 'fisher' takes fisher statistics",
        "fisher_normalised": "the combine 'fisher' takes fisher statistics",
        "regmean": "the combine 'gram' takes gram statistics",
        "regmean_plus": "the combine 'gram' takes gram statistics",
        "slerp": "the combine 'slerp' takes the weights of the base",
        "karcher": "the combine 'karcher' takes the weights of the base",
        "multislerp": "the combine 'karcher' takes the weights of the base",
        "widen": "the combine 'widen' takes the weights of the base",
        "orthomerge": "the combine 'orthomerge' takes the weights of the base",
        "orthomerge_conflicts": "the combine 'orthomerge' takes the weights of the base",
        **dict.fromkeys(("rebasin", "zipit", "zipit_partial"), "the preprocess 'matched' takes matching statistics"),
        "arcee_fusion": "the preprocess 'fusion' takes the weights of the base",
        "weight_averaging_scaled": "the postprocess 'scale_weights' takes the weights of the base",
    }
    assert {reasons[host].split(";")[0] for host in reasons.keys() - takes} <= {
        "its scale is chosen on validation", "its coefficients are learned from data", "it has several draws",
    } | {reason for reason in reasons.values() if "merges nothing" in reason}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "reason"),
    [("ties+core+knots", "it is merged in the space 'core' already"),
     ("ties+nan_delta+core", r"a space goes before the coefficients, as in ties\+core\+nan_delta"),
     ("ties+core+uniform", "its coefficients are all equal")],
)  # fmt: skip
def test_a_space_in_the_wrong_place_is_refused(name, reason):
    with pytest.raises(UserError, match=reason):
        CATALOGUE.members(name)
