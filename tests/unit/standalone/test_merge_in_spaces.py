"""Adapters merged in a space: the whole way from folders to a model equals the papers on dense float64 matrices."""

import json

import ml_dtypes
import numpy as np
import oracles_matrix
import oracles_spaces
import pytest
from layout_models import CONFIG, DOWN, HEAD, QUERY, draw, factors, write, write_adapter
from safetensors.numpy import load_file

from nan_merge import merge, merge_state_dicts
from nan_merge.cli import merge as command
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json

Q, D = (name.removesuffix(".weight") for name in (QUERY, DOWN))
ALPHA = {"a": 3.0, "b": 1.0, "c": 2.0}
RANKS = {"a": {Q: 2, D: 1}, "b": {Q: 1}, "c": {Q: 1, D: 2}}  # by module: one expert leaves a module alone
SPACES = ("knots", "knots_scaled", "core")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, and three adapters of two of its matrices, with other ranks and scales."""
    folder = tmp_path_factory.mktemp("adapters")
    write(folder / "base", draw(0))
    for seed, (name, ranks) in enumerate(RANKS.items()):
        tensors = {}
        for module, rank in ranks.items():
            tensors |= factors(module, 6, 6 if module == Q else 10, rank=rank, seed=seed + 10 * (module == D))
        patterns = {"rank_pattern": ranks, "alpha_pattern": dict.fromkeys(ranks, ALPHA[name])}
        write_adapter(folder / name, tensors, r=1, lora_alpha=1, **patterns)
    write(folder / "whole", draw(5))
    return folder


def test_float32_is_refused_where_all_that_is_merged_are_coordinates(folder, tmp_path):
    with pytest.raises(UserError, match="compute float32: has no effect on these models"):
        run(folder, tmp_path / "out", "tsv_m+core", compute="float32")


def run(folder, output, method, experts="abc", **how):
    how = {"base": folder / "base", "experts": {name: folder / name for name in experts}, "quiet": True, **how}
    return merge(**how, method=method, output=output)


def change(folder, output):
    """Return what a merge added to the two matrices, in float64."""
    tensors, base = (load_file(each / "model.safetensors") for each in (output, folder / "base"))
    assert all(np.array_equal(tensors[name], base[name]) for name in base if name not in (QUERY, DOWN))
    return [tensors[name].astype(np.float64) - base[name] for name in (QUERY, DOWN)]


def pairs(folder, module):
    """Return (scale B, A) of every expert; None for one that leaves the module alone."""
    found = []
    for name, ranks in RANKS.items():
        tensors = {
            k.removeprefix("base_model.model."): v for k, v in load_file(folder / name / "adapter_model.safetensors").items()
        }
        if module not in ranks:
            found.append(None)
            continue
        b, a = (tensors[f"{module}.lora_{side}.weight"].astype(np.float64) for side in "BA")
        found.append((ALPHA[name] / ranks[module] * b, a))
    return found


def in_space(folder, space):
    """Return for each matrix (left, blocks of all experts, right): oracles of the coordinates, zero for an expert without any."""
    found = []
    for module in (Q, D):
        there = pairs(folder, module)
        known = [pair for pair in there if pair]
        if space == "core":
            left, blocks, right = oracles_spaces.core_blocks(known)
        else:
            left, blocks = oracles_spaces.knots_blocks([b @ a for b, a in known], space == "knots_scaled")
            right = np.eye(blocks[0].shape[1])
        rest = iter(blocks)
        found.append((left, [next(rest) if pair else 0 * blocks[0] for pair in there], right))
    return found


def lengths(folder):
    squares = [[np.linalg.norm(p[0] @ p[1]) ** 2 if p else 0.0 for p in pairs(folder, module)] for module in (Q, D)]
    return np.sqrt(np.sum(squares, axis=0))


def close(found, expected):
    return all(np.abs(f - e).max() < 2e-6 * max(1, np.abs(e).max()) for f, e in zip(found, expected, strict=True))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("law", ["", "+nan_delta"])
def test_ties_in_a_space_is_the_oracle_s(space, law, folder, tmp_path):
    """One threshold an expert over the coordinates of all matrices; norms are those of the task vectors."""
    made = run(folder, tmp_path / "out", f"ties+{space}{law}", set={"preprocess.trim.density": 0.5})
    known = in_space(folder, space)
    inverse = 1 / lengths(folder)
    c = 0.3 * len(inverse) * inverse / inverse.sum() if law else np.full(3, 0.3)
    assert [made.coefficients[name]["model"] for name in "abc"] == pytest.approx(list(c))
    merged = oracles_spaces.ties([[blocks[t] for _, blocks, _ in known] for t in range(3)], 0.5, c)
    expected = [left @ block @ right for (left, _, right), block in zip(known, merged, strict=True)]
    assert close(change(folder, tmp_path / "out"), expected)
    run(folder, tmp_path / "plain", f"ties{law}", set={"preprocess.trim.density": 0.5})
    assert not close(change(folder, tmp_path / "plain"), expected)


def test_singular_directions_are_those_of_the_cores(folder, tmp_path):
    run(folder, tmp_path / "out", "tsv_m+core")
    expected = [left @ oracles_matrix.tsv(blocks, [1.0] * 3) @ right for left, blocks, right in in_space(folder, "core")[:1]]
    assert close(change(folder, tmp_path / "out")[:1], expected)


def test_cores_are_outputs_by_inputs_however_the_weights_are_stored(tmp_path):
    """Conv1D of GPT-2 has (in, out); covariances of ACTMat are those of inputs."""
    name, config = "h.0.attn.c_attn", {"model_type": "gpt2", "n_layer": 1}
    base = draw(0, {f"{name}.weight": (5, 18), f"{name}.bias": (18,)})
    write(tmp_path / "base", base, config)
    known = []
    for seed in (1, 2, 3):
        tensors = factors(name, 18, 5, rank=3, seed=seed)
        write_adapter(tmp_path / f"e{seed}", tensors, r=3, lora_alpha=3)
        known.append([tensors[f"{name}.lora_{side}.weight"].astype(np.float64) for side in "BA"])
    run(tmp_path, tmp_path / "out", "actmat+core", ["e1", "e2", "e3"])
    left, cores, right = oracles_spaces.core_blocks(known)
    assert cores[0].shape == (9, 5), "no square"
    expected = left @ oracles_matrix.data_free(cores, [1.0] * 3) @ right
    found = load_file(tmp_path / "out/model.safetensors")[f"{name}.weight"].astype(np.float64) - base[f"{name}.weight"]
    assert np.abs(found.T - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float64"])
def test_other_types_are_rounded_once(kind, folder, tmp_path):
    dtype = np.dtype(getattr(ml_dtypes, kind, None) or kind)
    base = {name: value.astype(dtype) for name, value in draw(0).items()}
    write(tmp_path / "base", base)
    experts = {name: folder / name for name in "abc"}
    merge(base=tmp_path / "base", experts=experts, method="ties+core", output=tmp_path / "out", quiet=True)
    run(folder, tmp_path / "plain", "ties+core", dtype="float64")
    found, plain = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "plain"))
    for name in (QUERY, DOWN):
        expected = base[name].astype(np.float64) + (plain[name] - draw(0)[name])
        assert found[name].dtype == dtype
        assert (np.abs(found[name].astype(np.float64) - expected) <= ml_dtypes.finfo(dtype).eps * np.abs(expected) + 1e-6).all()


@pytest.mark.parametrize("method", ["task_arithmetic", "weight_averaging+nan_delta", "metagpt"])
@pytest.mark.parametrize("space", SPACES)
def test_a_weighted_sum_is_the_same_in_every_space(space, method, folder, tmp_path):
    """KnOTS-TA is task arithmetic."""
    host, plus, law = method.partition("+")
    run(folder, tmp_path / "in", f"{host}+{space}{plus}{law}")
    run(folder, tmp_path / "out", method)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("in", "out")]
    assert files[0] == files[1]


@pytest.mark.parametrize("method", ["star", "ties_magic"])
def test_orthonormal_bases_keep_norms_and_singular_values(method, folder, tmp_path):
    """So methods of norms and singular values are the same in a core, where their cost is that of the ranks."""
    options = {"set": {"preprocess": "identity", "combine": "weighted_sum"}} if method == "ties_magic" else {}
    run(folder, tmp_path / "plain", method, **options)
    run(folder, tmp_path / "core", f"{method}+core", **options)
    assert close(change(folder, tmp_path / "core"), change(folder, tmp_path / "plain"))


def test_norms_after_preprocessing_are_those_of_coordinates(folder, tmp_path):
    made = run(folder, tmp_path / "out", "dare+core+nan_processed", seed=3)
    plain = run(folder, tmp_path / "plain", "dare+nan_processed", seed=3)
    identity = {"set": {"preprocess": "identity"}}
    same = run(folder, tmp_path / "same", "dare+core+nan_processed", **identity)
    delta = run(folder, tmp_path / "delta", "dare+nan_delta", **identity)
    assert made.coefficients != plain.coefficients
    for name in "abc":
        assert same.coefficients[name]["model"] == pytest.approx(delta.coefficients[name]["model"], rel=1e-9)


@pytest.mark.parametrize("method", ["ties+core+nan_delta", "dare+knots", "tsv_m+core"])
def test_bytes_depend_on_neither_threads_nor_order_and_inputs_are_recorded_as_ever(method, folder, tmp_path):
    run(folder, tmp_path / "one", method, threads=1)
    run(folder, tmp_path / "two", method, experts="cba", threads=3)
    run(folder, tmp_path / "plain", "task_arithmetic")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]
    records = [read_json(tmp_path / name / "provenance.json")["inputs"] for name in ("one", "plain")]
    assert records[0] == records[1]


def test_the_card_names_the_space_and_repeats_the_merge(folder, tmp_path):
    run(folder, tmp_path / "out", "ties", set={"space": "knots"})
    card = (tmp_path / "out/README.md").read_text()
    assert "  space: knots\n" in card and "--set space=knots" in card
    assert read_json(tmp_path / "out/provenance.json")["method_spec"]["space"] == "knots"


def test_what_an_expert_stores_whole_is_merged_as_without_a_space(tmp_path):
    """A head, a norm and a bias: thresholds of their own, none of the coordinates'."""
    write(tmp_path / "base", draw(0))
    norm = "model.norm.weight"
    for seed, name in enumerate("ab"):
        moved = {**factors(Q, 6, 6, seed=seed), HEAD: draw(seed + 1)[HEAD], norm: draw(seed + 1)[norm]}
        write_adapter(tmp_path / name, moved, modules_to_save=["lm_head", "norm"])
    run(tmp_path, tmp_path / "in", "ties+core", "ab")
    write(tmp_path / "fine-a", {**draw(0), HEAD: draw(1)[HEAD], norm: draw(1)[norm]})
    write(tmp_path / "fine-b", {**draw(0), HEAD: draw(2)[HEAD], norm: draw(2)[norm]})
    others = "|".join(name.replace(".", r"\.") for name in draw(0) if name not in (HEAD, norm))
    alone = {name: tmp_path / f"fine-{name}" for name in "ab"}
    merge(base=tmp_path / "base", experts=alone, method="ties", output=tmp_path / "out", exclude=[f"^({others})$"], quiet=True)
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("in", "out"))
    for name in (HEAD, norm):
        assert np.array_equal(found[name], expected[name]), name
    assert not np.array_equal(found[QUERY], draw(0)[QUERY])


# ---- what is refused ------------------------------------------------------------------------------------------------

REFUSALS = {
    "a whole model": ("ab", {"whole": "whole"}, "ties+core", "'core': expert 'whole' .* is a whole model; expected LoRA"),
    "no adapter": ("", {"whole": "whole"}, "ties+knots", "space 'knots': expert 'whole' .* is a whole model"),
    "weights of the base": ("ab", {}, "karcher+core", "takes the weights of the base, which the space 'core' does not have"),
    "a space twice": ("ab", {}, "ties+core+knots", "it is merged in the space 'core' already"),
    "another order": ("ab", {}, "ties+nan_delta+core", "a space goes before the coefficients, as in ties.core.nan_delta"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_what_has_no_coordinates_is_refused_before_a_tensor_is_read(case, folder, tmp_path):
    names, others, method, message = REFUSALS[case]
    experts = {**{name: folder / name for name in names}, **{name: folder / place for name, place in others.items()}}
    with pytest.raises(UserError, match=message):
        merge(base=folder / "base", experts=experts, method=method, output=tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_other_adapters_than_plain_lora_are_refused_by_name(tmp_path):
    write(tmp_path / "base", draw(0))
    write_adapter(tmp_path / "a", factors(Q, 6, 6))
    norms = {f"{Q}.lora_magnitude_vector": np.ones(6, np.float32)}
    write_adapter(tmp_path / "dora", {**factors(Q, 6, 6, seed=1), **norms}, use_dora=True)
    write_adapter(tmp_path / "head", {HEAD: draw(1)[HEAD]}, modules_to_save=["lm_head"])
    with pytest.raises(UserError, match=f"space 'core': expert 'dora' rescales the weight below its factors of '{QUERY}'"):
        run(tmp_path, tmp_path / "out", "ties+core", ["a", "dora"])
    with pytest.raises(UserError, match="space 'core': all that the experts move they store whole, or `exclude` omits it"):
        run(tmp_path, tmp_path / "out", "ties+core", ["head"])
    broken = factors(Q, 6, 6, seed=1)
    broken[f"{Q}.lora_B.weight"][0, 0] = np.nan
    write_adapter(tmp_path / "broken", broken)
    with pytest.raises(UserError, match=f"{tmp_path / 'broken'}: the factors of tensor '{QUERY}' hold NaN"):
        run(tmp_path, tmp_path / "out", "ties+core", ["a", "broken"])


def test_arrays_in_memory_have_no_factors():
    with pytest.raises(UserError, match=r"space 'core': expert 'a' .* is a whole model"):
        merge_state_dicts(draw(0), {"a": draw(1)}, method="ties+core", config=CONFIG)


def test_the_command_makes_an_adapter_of_the_sum_of_the_ranks_or_a_lower_one(folder, tmp_path, capsys):
    words = ["--base", str(folder / "base"), *(w for n in "abc" for w in ("--expert", f"{n}={folder / n}")), "--quiet"]
    command.main([*words, "--method", "ties+core", "--output", str(tmp_path / "all"), "--output-adapter", "--json"])
    told = json.loads(capsys.readouterr().out)["adapter"]
    assert told["ranks"] == [3, 4] and told["error"]["total"] == pytest.approx(0, abs=1e-12)
    command.main([*words, "--method", "ties+core", "--output", str(tmp_path / "cut"), "--output-adapter", "1", "--json"])
    told = json.loads(capsys.readouterr().out)["adapter"]
    assert told["ranks"] == [1, 1] and told["error"]["total"] > 0.01
    with pytest.raises(UserError, match="--output-adapter 7: above the size"):
        command.main([*words, "--method", "ties+core", "--output", str(tmp_path / "no"), "--output-adapter", "7"])
    with pytest.raises(UserError, match="mergekit has no counterpart of the space 'core'"):
        command.main(
            [*words, "--method", "ties+core", "--output", str(tmp_path / "no"), "--export-mergekit", str(tmp_path / "m")]
        )
