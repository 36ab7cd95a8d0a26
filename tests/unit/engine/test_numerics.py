"""Every element of a merge lies within one unit in the last place of the same merge in float64; torch gives its bytes."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from models import BFLOAT16, ROOT, calibration_for, distinct, family, is_whole, measures, merger, same_bytes, save, tensors_of

from nan_merge.core.errors import UserError
from nan_merge.engine.devices import device
from nan_merge.methods.context import TensorContext

DTYPES = {"float64": np.dtype("f8"), "float32": np.dtype("f4"), "float16": np.dtype("f2"), "bfloat16": BFLOAT16}
MANTISSA = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}
every_type = pytest.mark.parametrize("dtype", DTYPES)
METHODS = {
    "task_arithmetic": {"coefficients": {"constant": {"value": 0.3}}},
    "nan": {"coefficients": {"nan": {"norm_of": "task_vector", "mean": 0.3}}},
    "ties": {"preprocess": "trim", "coefficients": {"constant": {"value": 0.3}}, "combine": "disjoint_sum"},
    "ties_mean": {"preprocess": "trim", "coefficients": {"constant": {"value": 1.0}}, "combine": "disjoint_mean"},
    "magmax": {"coefficients": {"constant": {"value": 0.5}}, "combine": "max_magnitude"},
    "consensus": {"coefficients": {"constant": {"value": 0.3}}, "combine": "consensus"},
    "fisher": {"coefficients": {"constant": {"value": 1.0}}, "combine": "fisher"},
    "dare": {"preprocess": {"drop": {"rate": 0.5}}, "coefficients": {"constant": {"value": 0.3}}},
}
TIES = {"ties": 0.001, "consensus": 0.01}  # the share of entries that may tie where 16 bits make the steps coarse
WHOLE = {method: method_spec for method, method_spec in distinct().items() if is_whole(method_spec)}


def models(folder, dtype, size=60_000, experts=8):
    """Write a base of N(0, 1) and experts that moved by a hundredth of it, of one tensor each."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal(size).astype(DTYPES[dtype])
    moved = {f"e{t}": base.astype(np.float64) + 0.01 * (t + 1) * rng.standard_normal(size) for t in range(experts)}
    folders = {name: save(folder / name, {"w": tensor.astype(DTYPES[dtype])}) for name, tensor in moved.items()}
    return save(folder / "base", {"w": base}), folders


def unit(x, dtype):
    """Return the unit in the last place of |x| in a type (of its smallest normal number for less)."""
    smallest = {"float16": -14}.get(dtype, -126)
    return 2.0 ** (np.floor(np.log2(np.maximum(abs(x), 2.0**smallest))) - MANTISSA[dtype])


@every_type
@pytest.mark.parametrize("method", METHODS)
def test_every_element_is_within_one_unit_of_float64(method, dtype, tmp_path):
    """In 16 bits an election or a comparison may tie, since the steps are coarse, and rounding then decides what is taken."""
    base, experts = models(tmp_path, dtype)
    _, recipe, table, cuts = measures(METHODS[method], base, experts)
    merger(METHODS[method], base, experts)(tmp_path / "out")
    theta = tensors_of(base)["w"].astype(np.float64)
    taus = np.stack([tensors_of(folder)["w"].astype(np.float64) - theta for folder in experts.values()])
    kept = np.stack([recipe.preprocess(tau, context(t, cuts)) for t, tau in zip(experts, taus, strict=True)])
    seen = [each.read("w").astype(np.float64) for each in calibration_for(recipe, base, experts).values()]
    expected = theta + recipe.combine(list(kept), table.at("w"), replace(context("", {}), calibration=seen))
    found = tensors_of(tmp_path / "out")["w"].astype(np.float64)
    within = abs(found - expected) <= unit(expected, dtype)
    assert within.mean() >= 1 - (TIES.get(method, 0) if dtype in ("float16", "bfloat16") else 0)


def context(expert, cuts):
    return TensorContext("w", 0, expert, 0, cuts.get(expert, {}).get("model", 0.0))


@every_type
@pytest.mark.parametrize("method", METHODS)
def test_torch_runs_the_same_operators(method, dtype, tmp_path):
    """The operators see tensors instead of arrays, on blocks moved over, and give the same bytes on the host."""
    pytest.importorskip("torch")
    merge = merger(METHODS[method], *models(tmp_path, dtype))
    for name in ("cpu", "torch"):
        merge(tmp_path / name, device=device(name))
    assert same_bytes(tensors_of(tmp_path / "torch"), tensors_of(tmp_path / "cpu"))


@pytest.mark.parametrize("method", WHOLE)
def test_torch_agrees_within_one_unit_on_whole_tensors(method, tmp_path):
    """Both compute in float64, but multiply and decompose matrices in their own order."""
    pytest.importorskip("torch")
    merge = merger(WHOLE[method], *family(tmp_path, sizes=(0.1, 0.2, 0.05)))
    for name in ("cpu", "torch"):
        merge(tmp_path / name, device=device(name))
    host, moved = tensors_of(tmp_path / "cpu"), tensors_of(tmp_path / "torch")
    for name, tensor in host.items():
        if tensor.dtype == np.float32:
            assert (abs(tensor - moved[name]) <= unit(tensor.astype(np.float64), "float32")).all()


@pytest.mark.parametrize("method", [*METHODS, *WHOLE])
def test_a_graphics_processor_agrees_within_one_unit(method, tmp_path):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA device")
    merge = merger({**METHODS, **WHOLE}[method], *models(tmp_path, "float32"))
    for name in ("cpu", "cuda"):
        merge(tmp_path / name, device=device(name))
    host, moved = (tensors_of(tmp_path / name)["w"].astype(np.float64) for name in ("cpu", "cuda"))
    assert (abs(host - moved) <= unit(host, "float32")).all()


def test_a_device_that_is_not_there_is_named():
    torch = pytest.importorskip("torch")
    with pytest.raises(UserError, match="device 'tpu': expected cpu, cuda or cuda:N"):
        device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"device 'cuda': torch .* finds 0 CUDA devices here; set `device:`"):
            device("cuda")


THREADS = """
import sys
from threadpoolctl import threadpool_info
from nan_merge.cli.main import main
from nan_merge.methods import decompose

factorise = decompose.cholesky

def cholesky(matrix):
    found = factorise(matrix)
    for library in threadpool_info():
        print(library["filepath"], library["num_threads"]) if library["user_api"] == "blas" else None
    return found

sys.exit("SciPy is loaded already") if "scipy.linalg" in sys.modules else None
decompose.cholesky = cholesky
main(sys.argv[1:])
"""


def test_all_matrix_libraries_keep_to_one_thread(tmp_path):
    """SciPy has a library of its own, which a fresh process loads with its first factorisation."""
    base, experts = family(tmp_path, sizes=(0.1, 0.2))
    given = {**os.environ, "PYTHONPATH": str(ROOT / "workflow"), "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    named = [word for folder in experts.values() for word in ("--expert", folder)]
    words = ["merge", "--base", base, *named, "--method", "actmat", "--output", tmp_path / "out", "--threads", "1"]
    run = [sys.executable, "-c", THREADS, *map(str, words)]
    done = subprocess.run(run, env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    threads = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines() if "blas" in line)
    assert len(threads) >= 2 and set(threads.values()) == {"1"}
