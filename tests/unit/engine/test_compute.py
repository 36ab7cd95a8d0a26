"""Merges whose operators take whole tensors in float32: near float64, with the same bytes every time, and only where they may."""

import numpy as np
import pytest
import threadpoolctl
from models import (
    BFLOAT16,
    FLOAT32,
    distinct,
    family,
    is_whole,
    measures,
    merge_measured,
    merger,
    moved,
    random_model,
    same_bytes,
    save,
    tensors_of,
)

from nan_merge.engine.devices import device
from nan_merge.engine.request import MergeRequest
from nan_merge.methods.context import whole
from nan_merge.methods.recipe import COMBINE, STAGES, bind

FLOAT64 = np.dtype(np.float64)
HOSTS = {name: method_spec for name, method_spec in distinct().items() if is_whole(method_spec) and "+" not in name}
SUM = {"coefficients": {"constant": {"value": 0.3}}}
LARGE = (0.1, 0.2, 0.05)  # no task vector vanishes in bfloat16
every_host = pytest.mark.parametrize("method_spec", HOSTS.values(), ids=HOSTS)


def distance(found, expected, base):
    """Return the length of the difference of two merges over that of the second's task vector, over all tensors."""
    vectors = [np.concatenate([each[name].astype(float).ravel() for name in base]) for each in (found, expected, base)]
    return np.linalg.norm(vectors[0] - vectors[1]) / np.linalg.norm(vectors[1] - vectors[2])


@every_host
def test_float32_is_near_float64_and_threads_change_no_byte(method_spec, tmp_path):
    base, experts = family(tmp_path, sizes=LARGE)
    merge = merger(method_spec, base, experts)
    merge(tmp_path / "float64")
    for threads in (1, 3):
        merge(tmp_path / f"{threads}", threads=threads, compute=FLOAT32)
    found = tensors_of(tmp_path / "1")
    assert same_bytes(tensors_of(tmp_path / "3"), found)
    assert distance(found, tensors_of(tmp_path / "float64"), tensors_of(base)) <= 2e-5


@pytest.mark.parametrize("factor", [1e-25, 1e-12, 1e25])
@pytest.mark.parametrize("name", ["tsv_m", "ace", "actmat", "orthomerge", "karcher"])
def test_numbers_whose_products_float32_lacks_are_computed_in_float64(name, factor, tmp_path):
    models = {"base": random_model(0)} | {name: moved(random_model(0), seed, 0.1) for seed, name in enumerate("abc", 1)}
    for folder, tensors in models.items():
        floats = {key: (factor * value).astype(FLOAT32) for key, value in tensors.items() if value.dtype == FLOAT32}
        save(tmp_path / folder, {**tensors, **floats})
    base, experts = tmp_path / "base", {name: tmp_path / name for name in "abc"}
    merge = merger(HOSTS[name], base, experts)
    merge(tmp_path / "float64")
    merge(tmp_path / "float32", compute=FLOAT32)
    assert distance(tensors_of(tmp_path / "float32"), tensors_of(tmp_path / "float64"), tensors_of(base)) <= 2e-5


@every_host
def test_torch_is_as_near(method_spec, tmp_path):
    pytest.importorskip("torch")
    base, experts = family(tmp_path, sizes=LARGE)
    merge = merger(method_spec, base, experts)
    merge(tmp_path / "float64")
    merge(tmp_path / "torch", device=device("torch"), compute=FLOAT32)
    assert distance(tensors_of(tmp_path / "torch"), tensors_of(tmp_path / "float64"), tensors_of(base)) <= 2e-5


@pytest.mark.parametrize(("stored", "computed"), [(BFLOAT16, FLOAT32), (FLOAT32, FLOAT32), (FLOAT64, FLOAT64)], ids=str)
def test_operators_get_all_arrays_in_float32_unless_the_model_has_more_digits(stored, computed, tmp_path, monkeypatch):
    seen = set()

    @whole
    def summed(taus, alpha, context):
        seen.update(each.dtype for each in (taus, context.base, *context.calibration))
        return COMBINE["weighted_sum"](taus, alpha, context)

    monkeypatch.setitem(STAGES["combine"], "summed", summed)
    models, _, *measured = measures(SUM, *family(tmp_path, dtype=stored, sizes=LARGE))
    summing, statistics = bind({**SUM, "combine": "summed"}), dict(models.experts)
    merge_measured(models, summing, *measured, tmp_path / "out", compute=FLOAT32, calibration=statistics)
    assert seen == {computed}
    assert MergeRequest(models, summing, measured[0], compute=FLOAT32).computed == computed


def test_piecewise_merges_are_as_they_were(tmp_path):
    merge = merger({**SUM, "preprocess": "trim", "combine": "disjoint_sum"}, *family(tmp_path))
    for compute in (FLOAT64, FLOAT32):
        merge(tmp_path / compute.name, compute=compute)
    assert same_bytes(tensors_of(tmp_path / "float32"), tensors_of(tmp_path / "float64"))


@pytest.mark.parametrize("dtype", [FLOAT64, FLOAT32, BFLOAT16], ids=str)
def test_experts_that_equal_the_base_give_it_bit_for_bit(dtype, tmp_path):
    base, _ = family(tmp_path, dtype=dtype)
    merge = merger(HOSTS["tsv_m"], base, {"a": base, "b": base})
    merge(tmp_path / "out", compute=FLOAT32)
    assert same_bytes(tensors_of(tmp_path / "out"), tensors_of(base))


def matrices(folder, **shapes):
    """Write a base and three experts of matrices of these shapes."""
    draw = np.random.default_rng(0)
    base = {name: draw.normal(size=shape).astype(FLOAT32) for name, shape in shapes.items()}
    for expert in "abc":
        save(folder / expert, {n: v + draw.normal(scale=0.1, size=v.shape).astype(FLOAT32) for n, v in base.items()})
    return save(folder / "base", base), {name: folder / name for name in "abc"}


@pytest.mark.parametrize(("asked", "given"), [(1, (1, 1, 1)), (2, (2, 1, 1)), (5, (5, 5, 1))], ids=str)
def test_threads_of_the_matrix_library_go_to_tensors_of_which_few_fit_the_memory(asked, given, tmp_path, monkeypatch):
    """Beside the largest tensor, two of half its size fit, or ten of a tenth."""
    seen = {}

    @whole
    def summed(taus, alpha, context):
        seen[context.tensor] = {
            library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"
        }
        return COMBINE["weighted_sum"](taus, alpha, context)

    monkeypatch.setitem(STAGES["combine"], "summed", summed)
    merge = merger({**SUM, "combine": "summed"}, *matrices(tmp_path, large=(40, 10), half=(20, 10), tenth=(4, 10)))
    for threads in (1, 3):
        seen.clear()
        merge(tmp_path / f"{threads}", threads=threads, blas_threads=asked)
        assert [seen[name] for name in ("large", "half", "tenth")] == [{number} for number in given]


@pytest.mark.parametrize("name", ["tsv_m", "ace"])
def test_bytes_depend_on_the_threads_of_the_matrix_library_and_on_no_others(name, tmp_path):
    merge = merger(HOSTS[name], *matrices(tmp_path, large=(600, 300), other=(600, 300), small=(200, 100)))
    merge(tmp_path / "one")
    for threads in (1, 2, 4):
        merge(tmp_path / f"{threads}", threads=threads, blas_threads=2)
    found = tensors_of(tmp_path / "1")
    assert all(same_bytes(tensors_of(tmp_path / f"{threads}"), found) for threads in (2, 4))
    assert distance(found, tensors_of(tmp_path / "one"), tensors_of(tmp_path / "base")) <= 1e-6  # of float32 files
