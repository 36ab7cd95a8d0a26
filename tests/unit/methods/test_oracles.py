"""Every shipped method gives what its few naive float64 lines give, rounded once.

float32 is computed in float64, so with u = 2^-24, half a unit in the last place of 1, the error of an entry is at most
u |merged|, and a little of float64 (1e-14) of the sizes of the |c_t tau_t| that go in.
"""

import numpy as np
import pytest
from models import EXAMPLES, SHAPES, calibration, family, flat, merged, method_specs, tensors_of
from oracles import ORACLES, Model

UNIT = 2.0**-24


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    return family(tmp_path_factory.mktemp("family"), experts=4, sizes=(0.1, 0.2, 0.05, 0.3))


@pytest.fixture(scope="module")
def model(experts):
    base, folders = experts
    theta = flat(tensors_of(base))
    ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES.values()])
    spans = {name: slice(int(e - np.prod(shape)), int(e)) for (name, shape), e in zip(SHAPES.items(), ends, strict=True)}
    layers = {str(i): [name for name in SHAPES if f"layer.{i}." in name] for i in range(2)}
    layers["rest"] = [name for name in SHAPES if "layer." not in name]
    tau = np.stack([flat(tensors_of(folder)) - theta for folder in folders.values()])
    statistics = {kind: seen(kind, *experts) for kind in ("fisher", "gram")}
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
    assert abs(update).max() > 1e-3, "a test of no update would prove nothing"


def test_oracles_tell_the_methods_apart(model):
    """Rows that are tuned or learned start at their hosts' values; RegMean++ has other calibration than RegMean.

    All other hosts, and all variants on task arithmetic, must differ on this data. Scans repeat methods on purpose.
    """
    names = [method for method in ORACLES if "-" not in method and method.partition("+")[0] in (method, "task_arithmetic")]
    updates = {method: ORACLES[method](model) for method in names}
    same = [
        {"task_arithmetic", "task_arithmetic_tuned", "task_arithmetic+nan_delta+uniform", "adamerging_task", "adamerging_layer"},
        {"task_arithmetic+nan_delta", "task_arithmetic+nan_delta_tuned"},
        {"ace", "ace_e4"},
        {"ties", "ties_tuned", "adamerging_task_plus", "adamerging_layer_plus"},
        {"regmean", "regmean_plus"},
    ]
    for left in updates:
        for right in updates:
            if left < right and not any({left, right} <= group for group in same):
                assert abs(updates[left] - updates[right]).max() > 1e-6, (left, right)
