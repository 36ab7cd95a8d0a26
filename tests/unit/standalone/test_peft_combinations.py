"""`add_weighted_adapter` of PEFT 0.21.2 and our merges of the same adapters: where they agree, and why not elsewhere."""

import math

import numpy as np
import pytest
from layout_models import draw
from library_configs import LLAMA

from nan_merge import merge

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

KEY = "base_model.model.model.layers.0.self_attn.q_proj"
NAME, C = "model.layers.0.self_attn.q_proj.weight", {"a": 0.7, "b": 0.4}
TRIM = {"preprocess": {"trim": {"density": 0.5, "scope": "tensor"}}}
MEAN = {"combine": {"disjoint_mean": {"elect": "unweighted", "divide_by": "count"}}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Llama and two adapters of its queries with other ranks and scales."""
    folder = tmp_path_factory.mktemp("peft")
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)).save_pretrained(folder / "base")
    for name, alpha in {"a": 3, "b": 1}.items():
        settings = peft.LoraConfig(target_modules=["q_proj"], r=2, lora_alpha=alpha)
        adapter = peft.get_peft_model(transformers.LlamaForCausalLM.from_pretrained(folder / "base"), settings)
        with torch.no_grad():
            for number, value in enumerate(each for each in adapter.parameters() if each.requires_grad):
                value += torch.from_numpy(0.1 * draw(100 * alpha + number, {"v": tuple(value.shape)})["v"])
        adapter.save_pretrained(folder / name)
    return folder


def theirs(folder, kind, names="ab", **how):
    """Return the change of one matrix by PEFT, after `merge_and_unload`, and its model with all adapters: (out, in)."""
    base = transformers.LlamaForCausalLM.from_pretrained(folder / "base").double()
    before = base.state_dict()[NAME].clone().numpy()
    model = peft.PeftModel.from_pretrained(base, folder / "a", adapter_name="a").double()
    model.load_adapter(folder / "b", adapter_name="b")
    torch.manual_seed(0)
    model.double().add_weighted_adapter([*names], [C[name] for name in names], "new", combination_type=kind, **how)
    model.double().set_adapter("new")
    return model.merge_and_unload(adapter_names=["new"]).state_dict()[NAME].numpy() - before


def ours(folder, output, names="ab", rank=None, **stages):
    """Return the same change by `merge`: of a model, or of an adapter that PEFT folds."""
    law = {"coefficients": {"given": {"values": {name: C[name] for name in names}}}}
    how = {"base": folder / "base", "experts": {name: folder / name for name in names}, "quiet": True, "output_adapter": rank}
    merge(**how, method="task_arithmetic", set={**law, **stages}, output=output)
    before = transformers.LlamaForCausalLM.from_pretrained(folder / "base").double()
    origin = before.state_dict()[NAME].clone().numpy()
    if rank:
        model = peft.PeftModel.from_pretrained(before, output).double().merge_and_unload()
    else:
        model = transformers.LlamaForCausalLM.from_pretrained(output).double()
    return model.state_dict()[NAME].numpy() - origin


def products(folder):
    """Return (scale, B, A) of both adapters."""
    base = transformers.LlamaForCausalLM.from_pretrained(folder / "base")
    found = {}
    for name, alpha in {"a": 3, "b": 1}.items():
        state = peft.PeftModel.from_pretrained(base, folder / name, adapter_name=name).state_dict()
        found[name] = (alpha / 2, *(state[f"{KEY}.lora_{side}.{name}.weight"].double().numpy() for side in "BA"))
    return found


def apart(left, right):
    return np.abs(left - right).max() / np.abs(right).max()


AGREEING = {  # combination_type, its options, the same merge here
    "cat": ("cat", {}, {}, True),
    "svd": ("svd", {"svd_rank": 4}, {}, True),
    "svd of a lower rank": ("svd", {"svd_rank": 2}, {}, 2),
    "ties_svd": ("ties_svd", {"svd_rank": 8, "density": 0.5}, TRIM | MEAN, None),
    "ties_svd of a lower rank": ("ties_svd", {"svd_rank": 3, "density": 0.5}, TRIM | MEAN, 3),
    "magnitude_prune_svd": ("magnitude_prune_svd", {"svd_rank": 8, "density": 0.5}, TRIM, None),
}


@pytest.mark.parametrize("case", AGREEING)
def test_combinations_of_whole_products_are_ours(case, folder, tmp_path):
    kind, how, stages, rank = AGREEING[case]
    assert apart(theirs(folder, kind, **how), ours(folder, tmp_path / "out", rank=rank, **stages)) < 1e-5


@pytest.mark.parametrize("kind", ["linear", "ties", "magnitude_prune"])
def test_combinations_of_single_factors_have_cross_terms(kind, folder, tmp_path):
    """(sum_t sqrt(c_t s_t) B_t) (sum_t sqrt(c_t s_t) A_t): products of one expert's B and another's A, so no merge of B_t A_t."""
    found = theirs(folder, kind, **({} if kind == "linear" else {"density": 1.0}))
    factors = products(folder)
    roots = {name: math.sqrt(C[name] * scale) for name, (scale, *_) in factors.items()}
    b, a = (sum(roots[name] * factors[name][side] for name in C) for side in (1, 2))
    if kind != "ties":  # which elects signs of entries of B and of A
        assert apart(found, b @ a) < 1e-6
    plain = ours(folder, tmp_path / "out", **(MEAN if kind == "ties" else {}))
    assert apart(found, plain) > 0.1


def test_dare_drops_and_rescales_in_both(folder, tmp_path):
    """Other random numbers, the same four values of an entry: c tau / density of either expert, of both, or of none.

    Of one adapter alone PEFT 0.21.2 returns the adapter, whatever the combination.
    """
    a, b = (C[name] * scale * left @ right for name, (scale, left, right) in products(folder).items())
    values = np.stack([0 * a, 2 * a, 2 * b, 2 * a + 2 * b])
    for found in (
        theirs(folder, "dare_linear_svd", svd_rank=8, density=0.5),
        ours(folder, tmp_path / "out", preprocess={"drop": {"rate": 0.5}}),
    ):
        distances = np.abs(found - values)
        assert distances.min(axis=0).max() < 1e-5 * np.abs(a).max()
        assert {*distances.argmin(axis=0).ravel()} == {0, 1, 2, 3}
    assert apart(theirs(folder, "dare_linear_svd", names="a", svd_rank=8, density=0.5), a) < 1e-5
