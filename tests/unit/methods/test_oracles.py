"""Every shipped method gives what its few naive float64 lines give, rounded once.

float32 is computed in float64, so with u = 2^-24, half a unit in the last place of 1, the error of an entry is at most
u |merged|, and a little of float64 (1e-14) of the sizes of the |c_t tau_t| that go in.
"""

import numpy as np
import pytest
from models import EXAMPLES, SHAPES, calibration, family, flat, merged, method_specs, random_model, save, tensors_of
from oracles import ORACLES, Model, trimmed

from nan_merge.engine.devices import Device

UNIT = 2.0**-24


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    return family(tmp_path_factory.mktemp("family"), experts=4, sizes=(0.1, 0.2, 0.05, 0.3))


@pytest.fixture(scope="module")
def model(experts):
    return model_of(*experts)


def model_of(base, folders):
    """Return the whole-model vectors of a family, with its calibration."""
    theta = flat(tensors_of(base))
    ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES.values()])
    spans = {name: slice(int(e - np.prod(shape)), int(e)) for (name, shape), e in zip(SHAPES.items(), ends, strict=True)}
    layers = {str(i): [name for name in SHAPES if f"layer.{i}." in name] for i in range(2)}
    layers["rest"] = [name for name in SHAPES if "layer." not in name]
    tau = np.stack([flat(tensors_of(folder)) - theta for folder in folders.values()])
    statistics = {kind: seen(kind, base, folders) for kind in ("fisher", "gram", "matching")}
    return Model(theta, tau, spans, layers, list(folders), SHAPES, statistics, EXAMPLES)


def seen(kind, base, folders):
    """Return the calibration of one kind by tensor, in float64, one an expert."""
    found = calibration(kind, base, folders)
    names = [name for name in SHAPES if all(name in each.entries for each in found.values())]
    return {name: [each.read(name).astype(np.float64) for each in found.values()] for name in names}


def test_every_method_that_merges_has_an_oracle():
    assert set(ORACLES) == set(method_specs())


@pytest.mark.parametrize("method", method_specs())
def test_method_equals_its_oracle(method, experts, model, tmp_path):
    update = ORACLES[method](model)
    found = merged(tmp_path / method, method_specs()[method], *experts)
    bound = UNIT * abs(model.base + update) + 1e-14 * (1 + abs(model.tau).sum(axis=0))
    assert all(found[name].dtype == np.float32 for name in SHAPES)
    assert (abs(flat(found) - (model.base + update)) <= bound).all()
    assert (abs(update) > 100 * bound).any(), "a test of no update would prove nothing"


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    """Experts whose task vectors have seven different values, so that many entries lie at the threshold, with both signs."""
    folder, steps = tmp_path_factory.mktemp("tied"), np.random.default_rng(5)
    drawn = random_model(0)
    base = {**drawn, **{name: np.asarray(np.round(8 * drawn[name]) / 8, np.float32) for name in SHAPES}}
    experts = {
        name: {n: np.asarray(v + steps.integers(-3, 4, v.shape) / 64, v.dtype) if n in SHAPES else v for n, v in base.items()}
        for name in "abcd"
    }
    return save(folder / "base", base), {name: save(folder / name, tensors) for name, tensors in experts.items()}


@pytest.mark.parametrize("fused", [True, False], ids=["kernel", "NumPy"])
@pytest.mark.parametrize("method", ["ties", "ties_mean", "ties+nan_delta", "ties_elections-unweighted"])
def test_trim_equals_its_oracle_where_entries_tie_at_the_threshold(method, fused, tied, tmp_path):
    found, model = merged(tmp_path / "out", method_specs()[method], *tied, device=Device(fused=fused)), model_of(*tied)
    kept = (trimmed(model.tau, 0.2) != 0).sum(axis=1)
    assert (kept > int(0.2 * model.tau.shape[1]) + 1).all(), "entries at the threshold beyond the share are kept"
    expected = model.base + ORACLES[method](model)
    assert (abs(flat(found) - expected) <= UNIT * abs(expected) + 1e-14).all()
    strict = model.tau * (abs(model.tau) > np.min(np.where(trimmed(model.tau, 0.2), abs(model.tau), np.inf), axis=1)[:, None])
    assert (strict != trimmed(model.tau, 0.2)).any(axis=1).all(), "`>` in place of `>=` would be seen"


def test_oracles_tell_the_methods_apart(model):
    """Rows that are tuned or learned start at their hosts' values; RegMean++ has other calibration than RegMean, and
    ZipIt! than permutations.

    All other hosts, and all variants on task arithmetic, must differ on this data. Scans repeat methods on purpose.
    """
    names = [method for method in ORACLES if "-" not in method and method.partition("+")[0] in (method, "task_arithmetic")]
    updates = {method: ORACLES[method](model) for method in names}
    same = [
        {
            "task_arithmetic",
            "task_arithmetic_tuned",
            "task_arithmetic+searched",
            "adamerging_task",
            "adamerging_layer",
            "task_arithmetic+nan_delta+uniform",
        },
        {"task_arithmetic+nan_delta", "task_arithmetic+nan_delta_tuned", "task_arithmetic+nan_processed"},
        {"ace", "ace_e4"},
        {"ties", "ties_tuned", "adamerging_task_plus", "adamerging_layer_plus"},
        {"regmean", "regmean_plus"},
        {"rebasin", "zipit"},
        {"cart", "cart_released"},  # one direction of matrices as small as these
        {"ram", "ram_plus", "weight_averaging"},  # all experts change all entries
    ]
    for left in updates:
        for right in updates:
            if left < right and not any({left, right} <= group for group in same):
                assert abs(updates[left] - updates[right]).max() > 1e-6, (left, right)
