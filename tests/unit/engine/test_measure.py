"""Norms equal NumPy's in float64, and trim thresholds are exact, whatever the blocks."""

import json

import numpy as np
import pytest
from layout_models import DOWN, EMBEDDING, QUERY, draw, factors, write, write_adapter
from models import BFLOAT16, FLOAT32, SHAPES, family, flat, merged, save, tensors_of

from nan_merge.core.errors import UserError
from nan_merge.engine import measure, reader
from nan_merge.engine.processed import processed as norms_processed
from nan_merge.engine.request import Contexts
from nan_merge.layouts import unify
from nan_merge.layouts.unify import unify_layout
from nan_merge.methods.coefficients import CoefficientTable, estimate, kept, nan, permuted, row_of, uniform_matched


def partitioned(base, expert, density):
    """The reference: np.partition on the whole task vector, as float32."""
    size = abs(expert.astype(np.float32) - base.astype(np.float32))
    rank = len(size) - int(density * len(size))
    return 0.0 if rank == 0 else float(np.partition(size, rank - 1)[rank - 1])


def norms(base, experts, exclude=(), **how):
    return measure.norms(unify_layout(base, experts, exclude), **how)


def threshold(base, expert, density, **how):
    return measure.thresholds(unify_layout(base, {"a": expert}), density, **how)["a"]["model"]


def pair(folder, base, expert):
    """Write a base and one expert of a single tensor each."""
    return save(folder / "base", {"w": base}), save(folder / "expert", {"w": expert})


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_norms_equal_numpy_in_float64(dtype, tmp_path):
    base, experts = family(tmp_path, dtype=BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype))
    found = norms(base, experts)
    theta = tensors_of(base)
    assert found["experts"] == ["a", "b", "c"]
    assert set(found["tensors"]) == set(SHAPES)
    for t, folder in enumerate(experts.values()):
        model = tensors_of(folder)
        for name, squares in found["tensors"].items():
            weights = model[name].astype(np.float64)
            assert squares["numel"] == weights.size
            assert squares["weights"][t] == pytest.approx(np.sum(weights**2), rel=1e-14)
            assert squares["task_vector"][t] == pytest.approx(np.sum((weights - theta[name].astype(np.float64)) ** 2), rel=1e-14)


FLOAT64 = np.dtype(np.float64)
MODULES = [name.removesuffix(".weight") for name in (QUERY, DOWN, EMBEDDING)]


def adapters(folder, start):
    """Write two adapters of a tiny decoder, and the same two folded into whole models, in float64: (adapters, models)."""
    q, d, table = MODULES
    moves = {
        "a": {**factors(q, 6, 6, dtype=FLOAT64), **factors(d, 6, 10, seed=1, dtype=FLOAT64)},
        "b": factors(d, 6, 10, seed=2, dtype=FLOAT64)
        | draw(3, {f"{table}.lora_embedding_A": (2, 12), f"{table}.lora_embedding_B": (6, 2)}, FLOAT64),
    }
    whole = {name: {key: value.astype(np.float64) for key, value in start.items()} for name in moves}
    for name, tensors in moves.items():
        for (module, a), b in zip(list(tensors.items())[::2], list(tensors.values())[1::2], strict=True):
            place, update = module.split(".lora_")[0], 1.5 * b @ a
            whole[name][f"{place}.weight"] += update.T if place == table else update
    lora = {name: write_adapter(folder / name, tensors) for name, tensors in moves.items()}
    return lora, {name: write(folder / f"{name}-whole", tensors) for name, tensors in whole.items()}


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_norms_of_adapters_are_those_of_the_exact_fold_and_read_nothing_of_the_base(dtype, tmp_path):
    start = draw(0, dtype=BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype))
    lora, folded = adapters(tmp_path, start)
    exact = write(tmp_path / "exact", {name: value.astype(np.float64) for name, value in start.items()})
    base, read = write(tmp_path / "base", start), []
    found, expected = norms(base, lora, of=["task_vector"], progress=read.append), norms(exact, folded)
    assert sum(read) == 0
    for name, squares in found["tensors"].items():
        assert {*squares} == {"numel", "task_vector"}
        assert squares["task_vector"] == pytest.approx(expected["tensors"][name]["task_vector"], rel=1e-12, abs=1e-25)
    both = norms(base, {**lora, "whole": write(tmp_path / "whole", draw(9))}, progress=read.append)
    assert sum(read) > 0
    for name, squares in both["tensors"].items():
        assert squares["task_vector"][:2] == found["tensors"][name]["task_vector"]
        assert squares["weights"][:2] == pytest.approx(expected["tensors"][name]["weights"], rel=1e-6)
    rows = [estimate(measures, nan, kept).rows["model"] for measures in (found, expected)]
    assert rows[0] == pytest.approx(rows[1], rel=1e-12)


def test_the_norm_of_factors_that_nearly_cancel_keeps_its_digits(tmp_path):
    base, row, column = (
        write(tmp_path / "base", draw(0)),
        draw(1, {"r": (1, 10)}, FLOAT64)["r"],
        draw(2, {"c": (6, 1)}, FLOAT64)["c"],
    )
    pair = {f"{MODULES[1]}.lora_A.weight": np.repeat(row, 2, 0), f"{MODULES[1]}.lora_B.weight": column * [[1.0, 2.0**-27 - 1]]}
    found = norms(base, {"a": write_adapter(tmp_path / "a", pair)}, of=["task_vector"])["tensors"][DOWN]["task_vector"]
    assert found == pytest.approx([(1.5 * 2.0**-27) ** 2 * (row**2).sum() * (column**2).sum()], rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_factors_that_are_not_finite_are_blamed(bad, tmp_path):
    pair = factors(MODULES[1], 6, 10, dtype=FLOAT64)
    pair = {name: np.full_like(value, bad) for name, value in pair.items()}
    with pytest.raises(UserError, match=rf"/a: the factors of tensor '{DOWN}' hold NaN, infinity"):
        norms(write(tmp_path / "base", draw(0)), {"a": write_adapter(tmp_path / "a", pair)})


def test_norms_do_not_depend_on_blocks_shards_or_order(tmp_path, monkeypatch):
    base, experts = family(tmp_path)
    whole = norms(base, experts)
    sharded = {e: save(tmp_path / "sharded" / e, tensors_of(folder), shards=3) for e, folder in reversed(experts.items())}
    assert norms(base, sharded) == whole
    monkeypatch.setattr(reader, "SUM_TILE", 7)
    fine = norms(base, experts)
    for threads, step in ((1, 7), (3, 21), (2, 700)):
        assert norms(base, experts, threads=threads, step=step) == fine
    for name, squares in whole["tensors"].items():
        for key in ("weights", "task_vector"):
            assert fine["tensors"][name][key] == pytest.approx(squares[key], rel=1e-14)


@pytest.mark.parametrize("density", [0.001, 0.05, 0.2, 0.5, 0.999, 1.0])
def test_the_threshold_is_the_one_of_the_whole_vector(density, tmp_path, monkeypatch):
    base, experts = family(tmp_path)
    expected = partitioned(flat(tensors_of(base)), flat(tensors_of(experts["a"])), density)
    assert threshold(base, experts["a"], density) == expected
    monkeypatch.setattr(unify, "WORK_UNIT", 21)
    for threads, step in ((1, 7), (3, 5)):
        assert threshold(base, experts["a"], density, threads=threads, step=step) == expected


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("density", [0.001, 0.2, 0.999])
def test_a_guessed_threshold_of_a_large_model_is_exact_and_saves_a_pass(density, dtype, tmp_path, monkeypatch):
    """Neighbours resemble each other here, as in rows of a matrix."""
    rng, kind = np.random.default_rng(0), BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)
    base = rng.standard_normal(200_000).astype(kind)
    expert = (base.astype(np.float64) + np.repeat(rng.gamma(20, size=400), 500) * rng.standard_normal(200_000)).astype(kind)
    computed = np.float32 if dtype == "bfloat16" else np.float64
    size = np.sort(abs(expert.astype(computed) - base.astype(computed)))
    models, expected = pair(tmp_path, base, expert), size[len(size) - int(density * len(size)) - 1]
    read = {}
    for guessed in (1 << 26, 1000):
        monkeypatch.setattr(measure, "GUESSED", guessed)
        passes = read[guessed] = []
        assert threshold(*models, density, progress=passes.append) == expected
    assert sum(read[1000]) < sum(read[1 << 26]) or density != 0.2, "where magnitudes are rare, the guess is a wide interval"


@pytest.mark.parametrize("guess", [(0, 1), (1 << 20, 1 << 21), (0x7F000000, 0x7F000001), (1, 2)])
def test_a_wrong_guess_costs_passes_only(guess, tmp_path, monkeypatch):
    base, experts = family(tmp_path)
    expected = partitioned(flat(tensors_of(base)), flat(tensors_of(experts["a"])), 0.2)
    monkeypatch.setattr(measure, "GUESSED", 0)
    monkeypatch.setattr(measure, "_guesses", lambda *_: [guess])
    assert threshold(base, experts["a"], 0.2) == expected


def test_an_expert_that_keeps_all_has_threshold_0_beside_others(tmp_path, monkeypatch):
    base, experts = family(tmp_path)
    models = unify_layout(base, experts)
    for guessed in (1 << 26, 0):
        monkeypatch.setattr(measure, "GUESSED", guessed)
        found = measure.thresholds(models, {"a": 1.0, "b": 0.2, "c": 0.0})
        theta = flat(tensors_of(base))
        expected = {name: partitioned(theta, flat(tensors_of(experts[name])), share) for name, share in (("b", 0.2), ("c", 0.0))}
        assert {name: cuts["model"] for name, cuts in found.items()} == {"a": 0.0, **expected}


def test_many_experts_are_counted_in_groups(tmp_path):
    base, experts = family(tmp_path, experts=9)
    found = measure.thresholds(unify_layout(base, experts), 0.2)
    assert found == {name: {"model": threshold(base, folder, 0.2)} for name, folder in experts.items()}


def test_each_tensor_has_its_own_threshold_on_request(tmp_path):
    base, experts = family(tmp_path)
    theta, model = tensors_of(base), tensors_of(experts["b"])
    found = measure.thresholds(unify_layout(base, experts), 0.3, scope="tensor")["b"]
    for name in SHAPES:
        size = np.sort(abs(model[name].astype(np.float64) - theta[name]).ravel())
        kept = max(1, int(0.3 * len(size)))
        assert found[name] == (size[-kept] if len(size) else 0.0), "exactly so many are kept"


@pytest.mark.parametrize("density", [0.1, 0.2, 0.25, 0.7, 1.0])
def test_the_threshold_is_exact_among_ties(density, tmp_path):
    expert = np.random.default_rng(0).integers(-3, 4, 1000).astype(np.float32) / 8
    base = np.zeros_like(expert)
    assert threshold(*pair(tmp_path, base, expert), density) == partitioned(base, expert, density)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_the_threshold_is_exact_among_denormals_zeros_and_giants(density, tmp_path):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 1 << 20, 500).astype(np.uint32).view(np.float32)
    expert = rng.permutation(np.concatenate([small, -small, np.zeros(100, np.float32), np.float32([3e38, -3e38, 1.0, -0.0])]))
    base = np.zeros_like(expert)
    assert 0 < threshold(*pair(tmp_path, base, expert), 0.5) < 1e-38
    assert threshold(tmp_path / "base", tmp_path / "expert", density) == partitioned(base, expert, density)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_the_threshold_of_other_types_is_the_one_in_float32(dtype, tmp_path):
    base, experts = family(tmp_path, experts=1, dtype=BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype))
    theta, expert = flat(tensors_of(base)), flat(tensors_of(experts["a"]))
    expected = partitioned(np.zeros_like(theta), expert - theta, 0.2)
    assert threshold(base, experts["a"], 0.2) == pytest.approx(expected, rel=1e-7)


def test_a_nan_is_an_error(tmp_path):
    base, experts = family(tmp_path, experts=1)
    broken = {name: array.copy() for name, array in tensors_of(experts["a"]).items()}
    broken["logit_scale"] = np.array(np.nan, np.float32)
    folder = save(tmp_path / "broken", broken)
    with pytest.raises(UserError, match="tensor 'logit_scale' holds nan at flat index 0"):
        norms(base, {"a": folder})
    with pytest.raises(UserError, match="tensor 'logit_scale' holds nan at flat index 0"):
        threshold(base, folder, 0.2)


# Norms of processed vectors.

PREPROCESS = {
    "identity": ({}, lambda tau: tau),
    "trim": ({"density": 0.2, "scope": "tensor"}, lambda tau: np.where(abs(tau) >= largest(tau, 0.2), tau, 0)),
    "breadcrumbs": ({"density": 0.3, "outliers": 0.1, "scope": "tensor"}, lambda tau: between(tau, 0.3, 0.1)),
}
ALONE = {"combine": "weighted_sum", "coefficients": {"constant": {"value": 1.0}}}


def largest(tau, share):
    return np.sort(abs(tau).ravel())[-max(1, int(share * tau.size))]


def between(tau, share, removed):
    order = np.argsort(abs(tau).ravel(), kind="stable")
    kept = np.zeros(tau.size, bool)
    end = tau.size - int(removed * tau.size)
    kept[order[end - max(1, int(share * tau.size)) : end]] = True
    return np.where(kept.reshape(tau.shape), tau, 0)


def processed(base, experts, operator, cuts=None, seed=0, **how):
    """Measure, with the thresholds that a trim needs."""
    ((name, given),) = operator.items()
    models = unify_layout(base, experts)
    if name == "trim":
        cuts = measure.thresholds(models, **{"density": 0.2, **given})
    return norms_processed(Contexts(models, cuts or {}, seed), preprocess=operator, **how)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("operator", PREPROCESS)
def test_norms_of_processed_vectors_equal_numpy_in_float64(operator, dtype, tmp_path):
    base, experts = family(tmp_path, dtype=BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype))
    given, oracle = PREPROCESS[operator]
    found, theta = processed(base, experts, {operator: given}), tensors_of(base)
    assert found["experts"] == ["a", "b", "c"] and set(found["tensors"]) == set(SHAPES)
    for t, folder in enumerate(experts.values()):
        model = tensors_of(folder)
        for name, squares in found["tensors"].items():
            tau = model[name].astype(np.float64) - theta[name].astype(np.float64)
            expected = np.sum(oracle(tau) ** 2) if tau.size else 0.0
            assert squares["numel"] == tau.size
            assert squares["processed"][t] == pytest.approx(expected, rel=1e-6 if dtype in ("float16", "bfloat16") else 1e-14)


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=str)
def test_the_processed_vector_of_no_process_has_the_norm_of_the_task_vector_to_the_last_digit(dtype, tmp_path):
    base, experts = family(tmp_path, dtype=dtype)
    plain = norms(base, experts)["tensors"]
    for operator in ({"identity": {}}, {"drop": {"rate": 0.0}}, {"trim": {"density": 1.0}}):
        found = processed(base, experts, operator)["tensors"]
        assert {name: each["processed"] for name, each in found.items()} == {n: each["task_vector"] for n, each in plain.items()}


@pytest.mark.parametrize(
    "operator", [{"drop": {"rate": 0.5}}, {"trim": {"density": 0.3}}, {"della": {}}, {"star": {"eta": 0.5}}], ids=str
)
@pytest.mark.parametrize("seed", [0, 3])
def test_the_norm_is_that_of_the_very_vector_that_is_merged(operator, seed, tmp_path):
    """Base and experts are float64, so a merge of one expert with coefficient 1 less the base is the processed vector."""
    base, experts = family(tmp_path, dtype=np.dtype(np.float64))
    found, theta = processed(base, experts, operator, seed=seed)["tensors"], tensors_of(base)
    for t, (expert, folder) in enumerate(experts.items()):
        moved = merged(tmp_path / f"merge {expert}", {"preprocess": operator, **ALONE}, base, {expert: folder}, seed=seed)
        for name, squares in found.items():
            assert squares["processed"][t] == pytest.approx(np.sum((moved[name] - theta[name]) ** 2), rel=1e-9, abs=1e-28)


def test_draws_of_processed_vectors_follow_the_seed(tmp_path):
    base, experts = family(tmp_path)
    first, again, other = (processed(base, experts, {"drop": {"rate": 0.5}}, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("operator", [{"drop": {"rate": 0.5}}, {"trim": {"density": 0.3}}, {"breadcrumbs": {}}], ids=str)
def test_norms_of_processed_vectors_do_not_depend_on_blocks_shards_or_order(operator, tmp_path, monkeypatch):
    base, experts = family(tmp_path)
    whole = processed(base, experts, operator)
    sharded = {e: save(tmp_path / "sharded" / e, tensors_of(folder), shards=3) for e, folder in reversed(experts.items())}
    assert processed(base, sharded, operator) == whole
    monkeypatch.setattr(reader, "SUM_TILE", 7)
    fine = processed(base, experts, operator)
    for threads, step in ((1, 7), (3, 21), (2, 700)):
        assert processed(base, experts, operator, threads=threads, step=step) == fine


def test_a_nan_is_an_error_of_the_processed_vector_too(tmp_path):
    base, experts = family(tmp_path, experts=1)
    broken = {name: array.copy() for name, array in tensors_of(experts["a"]).items()}
    broken["logit_scale"] = np.array(np.nan, np.float32)
    folder = save(tmp_path / "broken", broken)
    for operator in ("identity", "breadcrumbs"):
        with pytest.raises(UserError, match="tensor 'logit_scale' holds nan at flat index 0"):
            processed(base, {"a": folder}, {operator: {}})


# From norms to the table of coefficients.


@pytest.mark.parametrize("scope", ["model", "layer", "tensor"])
def test_coefficients_by_hand_from_what_trimming_leaves(scope, tmp_path):
    base, experts = family(tmp_path)
    found, theta = processed(base, experts, {"trim": {"density": 0.2, "scope": "tensor"}}), tensors_of(base)
    table = estimate(found, nan, kept, norm_of="processed", scope=scope, mean=0.3)
    lengths = {name: [] for name in SHAPES}
    for folder in experts.values():
        for name, weights in tensors_of(folder).items():
            if name in SHAPES and weights.size:
                tau = weights.astype(np.float64) - theta[name]
                lengths[name].append(np.sum(tau[abs(tau) >= largest(tau, 0.2)] ** 2))
    for name in SHAPES:
        row = [lengths[other] for other in SHAPES if row_of(other, scope) == row_of(name, scope) and lengths[other]]
        inverse = 1 / np.sqrt(np.sum(row, axis=0)) if row else np.ones(3)
        assert table.at(name) == pytest.approx(0.9 * inverse / inverse.sum(), rel=1e-12)


@pytest.mark.parametrize("scope", ["model", "layer", "tensor"])
@pytest.mark.parametrize("norm_of", ["weights", "task_vector"])
def test_the_table_has_a_row_for_every_tensor(scope, norm_of, tmp_path):
    base, experts = family(tmp_path)
    measures = norms(base, experts)
    table = estimate(measures, lambda n: n, kept, norm_of=norm_of, scope=scope)
    for name in SHAPES:
        row = [other for other in SHAPES if row_of(other, scope) == row_of(name, scope)]
        squares = np.sum([measures["tensors"][other][norm_of] for other in row], axis=0)
        assert table.at(name) == pytest.approx(np.sqrt(squares))
    assert CoefficientTable.of(json.loads(json.dumps(table.record()))).at("logit_scale") == table.at("logit_scale")


@pytest.mark.parametrize(
    ("tensor", "layer"),
    [
        ("encoder.layer.3.attention.query.weight", "encoder.layer.3"),
        ("vision_model.encoder.layers.11.mlp.fc1.bias", "vision_model.encoder.layers.11"),
        ("visual.transformer.resblocks.0.ln_1.weight", "visual.transformer.resblocks.0"),
        ("transformer.h.7.mlp.c_fc.weight", "transformer.h.7"),
        ("blocks.2.0.conv.weight", "blocks.2"),
        ("embeddings.word.weight", "outside the layers"),
    ],
)
def test_layers_are_found_by_their_names(tensor, layer):
    assert row_of(tensor, "layer") == layer
    assert row_of(tensor, "model") == "model"
    assert row_of(tensor, "tensor") == tensor


def test_controls_act_on_every_row_alike(tmp_path):
    base, experts = family(tmp_path)
    measures = norms(base, experts)
    plain, shuffled, matched = (estimate(measures, nan, control, scope="layer") for control in (kept, permuted, uniform_matched))
    orders = {tuple(plain.rows[row].index(c) for c in shuffled.rows[row]) for row in plain.rows}
    assert len(orders) == 1
    assert all(row == [1 / 3] * 3 for row in matched.rows.values())
