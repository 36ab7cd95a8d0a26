"""The Python API: a merge of folders as the command makes it, and the same bytes from state dicts in memory."""

import subprocess
import sys
import warnings

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from layout_models import torch_tensor
from models import BFLOAT16, FLOAT32, ROOT, distinct, every_method, family, flat, moved, random_model, same_bytes, tensors_of

import nan_merge
from nan_merge import UserError, merge, merge_state_dicts
from nan_merge.standalone.state_dicts import to_numpy


def loaded(folder, kind=lambda values: values):
    """Return base and experts of a family as state dicts."""
    models = {name: {n: kind(t) for n, t in tensors_of(folder / name).items()} for name in ("base", "a", "b", "c")}
    return models.pop("base"), models


def as_arrays(tensors):
    return {name: to_numpy(tensor) for name, tensor in tensors.items()}


# ---- folders ----------------------------------------------------------------------------------------------------------


def test_five_lines_of_python_merge_folders(tmp_path, capsys):
    base, experts = family(tmp_path)
    found = merge(
        base=base, experts=experts, method="ties+nan_delta", output=tmp_path / "out", set={"preprocess.trim.density": 0.1}
    )
    assert found.output == tmp_path / "out"
    assert list(found.coefficients) == ["a", "b", "c"]
    assert sum(c["model"] for c in found.coefficients.values()) == pytest.approx(0.9)
    printed = capsys.readouterr()
    assert printed.out == "" and "merge: 100%" in printed.err
    card = (tmp_path / "out/README.md").read_text()
    assert "nan-merge merge" in card and "--set preprocess.trim.density=0.1" in card


def test_experts_without_names_get_those_of_their_folders(tmp_path, capsys):
    base, experts = family(tmp_path)
    found = merge(base=base, experts=list(experts.values()), method="ties", output=tmp_path / "out", quiet=True)
    assert list(found.coefficients) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


MISTAKES = {
    "a method": ({"method": "tise"}, "method: unknown 'tise'; did you mean 'ties'?"),
    "a type": ({"dtype": "float23"}, "dtype: unknown 'float23'; did you mean 'float32'?"),
    "threads": ({"threads": 0}, "threads 0: expected a whole number from 1"),
    "a name": ({"experts": {"a b": "x"}}, "experts: a b=x: expected a name of letters"),
    "the name of the base": ({"experts": {"base": "x"}}, "the name 'base' is taken"),
    "a setting": ({"set": {"trim.density": 1}}, 'set={"trim.density": 1}: expected stage.operator.hyper_parameter=value'),
    "data": ({"method": "fisher"}, "needs data (calibration: fisher), which only a suite has"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_error_with_a_way_out(mistake, tmp_path):
    base, experts = family(tmp_path)
    changes, message = MISTAKES[mistake]
    with pytest.raises(UserError) as error:
        merge(**{"base": base, "experts": experts, "method": "ties", "output": tmp_path / "out", **changes})
    assert message in str(error.value)


def test_the_package_imports_nothing_before_it_is_used():
    program = "import sys, nan_merge; print([m for m in sys.modules if m.startswith('nan_merge.')])"
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(ROOT / "workflow")}, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"
    with pytest.raises(AttributeError, match="its API is UserError, extract_adapter, merge, merge_state_dicts"):
        _ = nan_merge.mrege


# ---- state dicts ------------------------------------------------------------------------------------------------------


def in_memory():
    """Return the methods that need no more than models, one of each kind of sweep."""
    records = every_method()
    names = [m for m in distinct() if records[m]["data"] == "none" and records[m]["static"] and "tune" not in records[m]]
    return [m for m in names if "-" not in m and not m.endswith(("_2", "_3", "_4", "_5")) and "slerp" not in m]


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=str)
@pytest.mark.parametrize(
    "method",
    [
        "weight_averaging",
        "task_arithmetic+nan_delta_layer",
        "ties+nan_delta",
        "ties+nan_processed",
        "dare+nan_processed",
        "star+nan_processed",
        "tsv_m",
        "task_arithmetic+nan_delta+permuted_1",
    ],
)
@pytest.mark.parametrize("kind", ["NumPy", "torch"])
def test_the_bytes_are_those_of_files(kind, method, dtype, tmp_path):
    base, experts = family(tmp_path, dtype=dtype)
    merge(base=base, experts=experts, method=method, output=tmp_path / "out", seed=3, quiet=True)
    origin, models = loaded(tmp_path, torch_tensor if kind == "torch" else lambda values: values)
    found = merge_state_dicts(origin, models, method, seed=3)
    assert list(found) == list(origin)
    assert all(type(found[name]) is type(origin[name]) and found[name].dtype == origin[name].dtype for name in origin)
    assert same_bytes(as_arrays(found), tensors_of(tmp_path / "out"))


@pytest.mark.parametrize("host", ["ties", "dare", "della", "star"])
def test_coefficients_come_from_the_vectors_that_are_merged(host, tmp_path):
    """A merge of one expert at coefficient 1 less the base is its processed vector; base and experts are float64."""
    base, experts = family(tmp_path, dtype=np.dtype(np.float64))
    method = {"base": base, "seed": 3, "quiet": True}
    found = merge(**method, experts=experts, method=f"{host}+nan_processed", output=tmp_path / "out")
    alone = {"coefficients.constant.value": 1.0, "preprocess": every_method()[host]["preprocess"]}
    inverse, theta = {}, flat(tensors_of(base))
    for name, folder in experts.items():
        merge(**method, experts={name: folder}, method="task_arithmetic", set=alone, output=tmp_path / f"alone {name}")
        inverse[name] = 1 / np.linalg.norm(flat(tensors_of(tmp_path / f"alone {name}")) - theta)
    sums = sum(each["model"] for each in found.coefficients.values())
    for name, rows in found.coefficients.items():
        assert rows["model"] == pytest.approx(sums * inverse[name] / sum(inverse.values()), rel=1e-9)
    delta = merge(**method, experts=experts, method=f"{host}+nan_delta", output=tmp_path / "delta").coefficients
    assert sums == pytest.approx(sum(each["model"] for each in delta.values()), rel=1e-12), "the scale is the host's"
    assert all(abs(delta[name]["model"] / found.coefficients[name]["model"] - 1) > 1e-6 for name in delta)


def test_a_state_dict_of_a_module_is_merged_and_loads_again(tmp_path):
    config = transformers.GPT2Config(vocab_size=27, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    models = {}
    for seed, name in enumerate(("base", "a", "b")):
        torch.manual_seed(seed)
        models[name] = transformers.GPT2LMHeadModel(config)
        models[name].save_pretrained(tmp_path / name)
    folders = {name: tmp_path / name for name in "ab"}
    merge(base=tmp_path / "base", experts=folders, method="tsv_m", output=tmp_path / "out", quiet=True)
    states = {name: model.state_dict() for name, model in models.items()}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = merge_state_dicts(states["base"], {n: states[n] for n in "ab"}, "tsv_m", config=config.to_dict())
    assert any("is tied to" in str(each.message) for each in said)
    assert list(found) == list(states["base"])
    assert found["lm_head.weight"] is found["transformer.wte.weight"], "what the base ties stays tied"
    models["base"].load_state_dict(found)
    written = tensors_of(tmp_path / "out")
    assert same_bytes({name: to_numpy(found[name]) for name in written}, written)
    plain = merge_state_dicts(states["base"], {n: states[n] for n in "ab"}, "tsv_m", quiet=True)
    assert not same_bytes(as_arrays(plain), as_arrays(found)), "the config says how matrices are stored"


def test_the_inputs_are_left_alone_and_copies_are_new(tmp_path):
    family(tmp_path)
    for kind in (torch_tensor, lambda values: values.copy()):
        origin, models = loaded(tmp_path, kind)
        found = merge_state_dicts(origin, models, "task_arithmetic", dtype="bfloat16")
        found["position_ids"][:] = 9
        assert same_bytes(as_arrays(origin), tensors_of(tmp_path / "base"))
        assert same_bytes(as_arrays(models["a"]), tensors_of(tmp_path / "a"))
        floats = {name for name, tensor in as_arrays(found).items() if tensor.dtype == ml_dtypes.bfloat16}
        assert floats == {name for name, tensor in as_arrays(origin).items() if tensor.dtype == FLOAT32}


def test_tensors_that_are_strided_or_need_gradients_are_read_as_they_are():
    rng = np.random.default_rng(0)
    origin = {"w": rng.standard_normal((4, 6)).T, "v": rng.standard_normal(8)[::2]}
    expert = {name: tensor + 1 for name, tensor in origin.items()}
    found = merge_state_dicts(origin, {"a": expert}, "weight_averaging")
    assert all(found[name] == pytest.approx(expert[name]) for name in origin)
    wanted = {name: torch.tensor(tensor, requires_grad=True) for name, tensor in origin.items()}
    again = merge_state_dicts(wanted, {"a": expert}, "weight_averaging")
    assert same_bytes(as_arrays(again), {name: np.ascontiguousarray(found[name]) for name in found})


def changed(**tensors):
    return lambda model: model.update(tensors)


REFUSED = {
    "a name is missing": (lambda model: model.pop("logit_scale"), "expert 'a' has no tensor 'logit_scale'"),
    "another shape": (changed(logit_scale=np.ones(3, np.float32)), "expert 'a': tensor 'logit_scale' is [3], expected []"),
    "no array": (
        changed(logit_scale=1.0),
        "the expert 'a': 'logit_scale' is a float of type unknown; expected a NumPy array or a",
    ),
    "another type": (changed(logit_scale=np.array(1j)), "'logit_scale' is a ndarray of type complex128; expected"),
    "no number": (changed(logit_scale=np.full((), np.nan, np.float32)), "the expert 'a': tensor 'logit_scale' holds nan"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_does_not_fit_the_base_is_named(fault):
    base = random_model(0)
    expert = moved(base, 1)
    change, message = REFUSED[fault]
    change(expert)
    with pytest.raises(UserError) as error:
        merge_state_dicts(base, {"a": expert}, "task_arithmetic+nan_delta")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"excluded": ["x"]}, "merge_state_dicts: unknown 'excluded'; did you mean 'exclude'?"),
        ({"set": ["combine=ties"]}, "set: expected values by path, as {'preprocess.trim.density': 0.1}; found ['combine=ties']"),
        ({"threads": True}, "threads True: expected a whole number from 1"),
        ({"method": "tsv_m", "blas_threads": "2"}, "blas_threads 2: expected a whole number from 1 to 64"),
    ],
    ids=str,
)
def test_an_argument_of_another_name_or_kind_is_told(options, message, tmp_path):
    base = random_model(0)
    with pytest.raises(UserError) as error:
        merge_state_dicts(base, {"a": moved(base, 1)}, **{"method": "ties", **options})
    assert str(error.value) == message
    with pytest.raises(UserError) as error:
        nan_merge.merge(base="B", experts={"a": "A"}, output=tmp_path / "out", **{"method": "ties", **options})
    assert str(error.value) == message.replace("merge_state_dicts", "merge")


@pytest.mark.parametrize(("method", "reason"), [("fisher", "needs data"), ("emr", "a model for each task"), ("tise", "unknown")])
def test_a_method_that_needs_more_is_refused_with_the_reason(method, reason):
    base = random_model(0)
    with pytest.raises(UserError, match=reason):
        merge_state_dicts(base, {"a": moved(base, 1)}, method)


def test_every_method_of_models_alone_merges_in_memory(tmp_path):
    base = random_model(0)
    experts = {name: moved(base, seed) for seed, name in enumerate("abc", start=1)}
    for method in in_memory():
        found = merge_state_dicts(base, experts, method)
        assert found.keys() == base.keys() and not same_bytes(found, base), method


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_of_a_gpu_come_back_to_it():
    base = {name: torch_tensor(tensor).cuda() for name, tensor in random_model(0).items()}
    expert = {name: torch_tensor(tensor).cuda() for name, tensor in moved(random_model(0), 1).items()}
    found = merge_state_dicts(base, {"a": expert}, "ties", device="cuda")
    assert {tensor.device for tensor in found.values()} == {base["logit_scale"].device}
