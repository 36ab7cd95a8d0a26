"""Fisher, Gram and entropy equal naive loops on tiny encoders, and scripts write the same bytes again."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tiny
import torch
from calibration_suite import CONFIG, EXCLUDE, EXPERTS, PLUS, SCRIPTS, TUNING, aligned, arguments, contents, opened, random_task
from torch import nn
from torch.nn.functional import gelu, layer_norm

from nan_merge.calibration.adamerging import entropy, learn
from nan_merge.calibration.fisher import fisher
from nan_merge.calibration.gram import gram
from nan_merge.calibration.gram_plus import gram_plus
from nan_merge.calibration.kinds import KINDS, bound
from nan_merge.calibration.records import leave_out
from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json
from nan_merge.engine.merge import merge
from nan_merge.engine.request import MergeRequest
from nan_merge.layouts.unify import unify_layout
from nan_merge.models import training
from nan_merge.models.families import image_encoder, text_encoder
from nan_merge.models.training import Task


@pytest.fixture
def task():
    return random_task(0)


@pytest.fixture
def expert(suite):
    return text_encoder.load(suite / "one")


def wide(task: Task) -> Task:
    return Task(task.inputs, task.labels, task.head.astype(np.float64), task.logit_scale)


# Fisher.


def squared_gradient(encoder, scalar):
    encoder.zero_grad()
    scalar.backward()
    return {name: 0 if p.grad is None else p.grad.numpy() ** 2 for name, p in encoder.named_parameters()}


def naive(estimator, encoder, task, count, size):
    total = {name: np.zeros(p.shape) for name, p in encoder.named_parameters()}

    def log_p(rows):
        return torch.log_softmax(task.logit_scale * encoder(task.inputs[rows]) @ torch.from_numpy(task.head).T, 1)

    def add(scalar, weight=1.0):
        for name, square in squared_gradient(encoder, scalar).items():
            total[name] = total[name] + weight * square / count

    for start in range(0, count, size):
        rows = list(range(start, min(start + size, count)))
        if estimator == "batch_sqrt":
            p = torch.softmax(log_p(rows).detach(), 1)
            add((p.sqrt() * log_p(rows)).sum())
        for row in rows if estimator != "batch_sqrt" else []:
            for y in range(len(task.head)) if estimator == "exact" else [task.labels[row]]:
                weight = float(log_p([row])[0, y].detach().exp()) if estimator == "exact" else 1.0
                add(log_p([row])[0, y], weight)
    return total


@pytest.mark.parametrize("estimator", ["batch_sqrt", "exact", "empirical"])
def test_fisher_is_the_mean_squared_gradient_of_a_naive_loop(expert, task, estimator):
    encoder, data = expert.double(), wide(task)
    found = fisher(encoder, data, estimator=estimator, examples=10, batch_size=4)
    expected = naive(estimator, encoder, data, 10, 4)
    assert found.keys() == expected.keys() == dict(encoder.named_parameters()).keys()
    for name, tensor in found.items():
        assert tensor.dtype == np.float32 and tensor.shape == expected[name].shape
        np.testing.assert_allclose(tensor, expected[name], rtol=1e-5, atol=1e-12)  # keys' biases: zero but for rounding
    assert found["encoder.layer.0.attention.self.query.weight"].max() > 0


def test_only_examples_and_classes_one_by_one_make_the_exact_fisher(expert, task):
    """One example a batch still has cross terms between classes; with the label's class alone there are none."""
    alone = fisher(expert, task, estimator="batch_sqrt", examples=6, batch_size=1)["encoder.layer.1.output.dense.weight"]
    exact = fisher(expert, task, estimator="exact", examples=6, batch_size=1)["encoder.layer.1.output.dense.weight"]
    assert not np.allclose(alone, exact, rtol=0.01)
    by_batch = fisher(expert, task, estimator="exact", examples=6, batch_size=5)["encoder.layer.1.output.dense.weight"]
    np.testing.assert_allclose(exact, by_batch, rtol=1e-4)


def test_fisher_of_what_is_not_merged_is_zero_and_no_more_examples_are_asked_for_than_there_are(expert, task):
    leave_out(expert, EXCLUDE)
    found = fisher(expert, task, examples=1000, batch_size=16)
    assert not any(found[name].any() for name in found if name.startswith("embeddings"))
    np.testing.assert_array_equal(
        found["encoder.layer.0.output.dense.bias"],
        fisher(expert, task, examples=24, batch_size=16)["encoder.layer.0.output.dense.bias"],
    )


# Gram.


def inputs_of(weights, heads, tokens):
    """Return by matrix its inputs (n, d_in) for one text without padding, with nothing but matrix products."""
    w = {name: tensor.double() for name, tensor in weights.items()}
    seen = {}

    def linear(name, x):
        seen[f"{name}.weight"] = x
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name, x):
        return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], CONFIG["layer_norm_eps"])

    ids = torch.from_numpy(tokens.astype(np.int64))
    parts = [w[f"embeddings.{kind}_embeddings.weight"] for kind in ("word", "position", "token_type")]
    hidden = norm("embeddings.LayerNorm", parts[0][ids] + parts[1][: len(ids)] + parts[2][0])
    for i in range(CONFIG["num_hidden_layers"]):
        at = f"encoder.layer.{i}"
        q, k, v = (linear(f"{at}.attention.self.{part}", hidden) for part in ("query", "key", "value"))
        mixed = torch.cat([
            torch.softmax(a @ b.T / a.shape[1] ** 0.5, 1) @ c
            for a, b, c in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1), strict=True)
        ], 1)  # fmt: skip
        hidden = norm(f"{at}.attention.output.LayerNorm", linear(f"{at}.attention.output.dense", mixed) + hidden)
        inner = gelu(linear(f"{at}.intermediate.dense", hidden))
        hidden = norm(f"{at}.output.LayerNorm", linear(f"{at}.output.dense", inner) + hidden)
    return seen


def naive_gram(weights, inputs):
    seen = [inputs_of(weights, CONFIG["num_attention_heads"], row[row != 0]) for row in inputs]
    stacked = {name: torch.cat([each[name] for each in seen]) for name in seen[0]}
    return {name: (x.T @ x / len(x)).numpy() for name, x in stacked.items()}


def test_gram_is_that_of_the_inputs_of_every_matrix_without_padding(expert, task):
    found = gram(expert, task, examples=20, batch_size=8)
    expected = naive_gram(expert.state_dict(), task.inputs[:20])
    assert found.keys() == expected.keys() and len(found) == 12
    assert "encoder.layer.0.attention.self.query.weight" in found  # without gradients the encoder calls no layer
    for name, matrix in found.items():
        assert matrix.dtype == np.float32 and matrix.shape == (expert.get_parameter(name).shape[1],) * 2
        np.testing.assert_allclose(matrix, expected[name], rtol=1e-4, atol=1e-5)
    assert all(parameter.requires_grad for parameter in expert.parameters())


def test_gram_leaves_out_what_is_not_merged_and_does_not_depend_on_batches(expert, task):
    whole = gram(expert, task, batch_size=24)
    leave_out(expert, [r"layer\.0"])
    found = gram(expert, task, batch_size=5)
    assert set(found) == {name for name in whole if "layer.1" in name}
    for name in found:
        np.testing.assert_allclose(found[name], whole[name], rtol=1e-4, atol=1e-6)


def test_gram_of_the_image_encoder_is_that_of_its_pooled_features():
    torch.manual_seed(0)
    stages = [[1, 3, 1, 1, 4, 4], [1, 3, 2, 2, 4, 6]]
    encoder = image_encoder.Encoder({"stem": 4, "head": 12, "projection": 6, "stages": stages}).eval()
    images = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)
    found = gram(encoder, Task(images, np.zeros(7, np.int64), np.eye(6, dtype=np.float32), 1.0), batch_size=3)
    x = encoder.features(images).detach().numpy()
    assert list(found) == ["projection.weight"]
    np.testing.assert_allclose(found["projection.weight"], x.T @ x / 7, rtol=1e-4, atol=1e-6)


class Conv1D(nn.Module):
    """GPT-2's linear layer: the weight is (in, out)."""

    def __init__(self, wide, narrow):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(wide, narrow))

    def forward(self, x):
        return x @ self.weight


class Fused(nn.Module):
    """A fused attention, alone or in torch's own layer, between Conv1Ds."""

    def __init__(self, attention):
        super().__init__()
        self.before, self.attention, self.after = Conv1D(5, 8), attention, nn.Linear(8, 2, bias=False)

    def forward(self, inputs):
        x = self.before(torch.from_numpy(inputs))
        x = self.attention(x, x, x)[0] if isinstance(self.attention, nn.MultiheadAttention) else self.attention(x)
        return self.after(input=x)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_gram_sees_into_fused_attention_and_conv1d(batch_first, bias):
    torch.manual_seed(1)
    encoder = Fused(nn.MultiheadAttention(8, 2, bias=bias, batch_first=batch_first)).eval()
    inputs = np.random.default_rng(0).normal(size=(6, 4, 5)).astype(np.float32)
    found = gram(encoder, Task(inputs, np.zeros(6), np.zeros((1, 2)), 1.0), batch_size=6)
    assert set(found) == {"before.weight", "attention.in_proj_weight", "attention.out_proj.weight", "after.weight"}

    x = torch.from_numpy(inputs) @ encoder.before.weight
    attention = encoder.attention
    texts = x if batch_first else x.transpose(0, 1)
    zero = torch.zeros(24)
    q, k, v = (texts @ attention.in_proj_weight.T + (attention.in_proj_bias if bias else zero)).chunk(3, -1)
    mixed = torch.cat(
        [torch.softmax(a @ b.mT / 2, -1) @ c for a, b, c in zip(q.split(4, -1), k.split(4, -1), v.split(4, -1), strict=True)], -1
    )
    out = mixed @ attention.out_proj.weight.T + (attention.out_proj.bias if bias else 0)
    for name, seen in (("before.weight", torch.from_numpy(inputs)), ("attention.in_proj_weight", x),
                       ("attention.out_proj.weight", mixed), ("after.weight", out)):  # fmt: skip
        rows = seen.detach().reshape(-1, seen.shape[-1]).numpy()
        np.testing.assert_allclose(found[name], rows.T @ rows / 24, rtol=1e-4, atol=1e-6, err_msg=name)


def test_gram_sees_into_the_layers_of_torch():
    encoder = Fused(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)).eval()
    found = gram(encoder, Task(np.ones((3, 4, 5), np.float32), np.zeros(3), np.zeros((1, 2)), 1.0))
    expected = {"self_attn.in_proj_weight": 8, "self_attn.out_proj.weight": 8, "linear1.weight": 8, "linear2.weight": 16}
    for name, size in expected.items():
        assert found[f"attention.{name}"].shape == (size, size)


def test_attention_over_other_tokens_is_refused():
    class Cross(Fused):
        def forward(self, inputs):
            x = self.before(torch.from_numpy(inputs))
            return self.attention(x, x + 1, x + 1)[0]

    encoder = Cross(nn.MultiheadAttention(8, 2, batch_first=True)).eval()
    with pytest.raises(UserError, match=r"attention 'attention\.': .* expected self-attention"):
        gram(encoder, Task(np.ones((3, 4, 5), np.float32), np.zeros(3), np.zeros((1, 2)), 1.0))


# RegMean++.


def test_gram_plus_reads_every_layer_behind_merged_ones(suite):
    models, tasks = aligned(suite), {name: random_task(t) for t, name in enumerate(EXPERTS)}
    inputs = {name: task.inputs for name, task in tasks.items()}
    found = gram_plus(text_encoder.load(suite / "base"), models, inputs, examples=16, batch_size=8, off_diagonal=0.9)
    states = {name: text_encoder.load(suite / name).state_dict() for name in EXPERTS}
    state = copy.deepcopy(text_encoder.load(suite / "base").state_dict())
    for i in range(2):
        members = [name for name in state if f"layer.{i}." in name]
        of_layer = {}
        for expert in EXPERTS:
            mixed = {**state, **{name: states[expert][name] for name in members}}
            of_layer[expert] = {n: g for n, g in naive_gram(mixed, inputs[expert][:16]).items() if n in members}
            for name, matrix in of_layer[expert].items():
                np.testing.assert_allclose(found[expert][name], matrix, rtol=1e-3, atol=1e-4, err_msg=f"{expert}: {name}")
        for name in members:
            values = [states[expert][name].double().numpy() for expert in EXPERTS]
            if name in of_layer["one"]:
                grams = [0.9 * of_layer[e][name] + 0.1 * np.diag(np.diag(of_layer[e][name])) for e in EXPERTS]
                values = [np.linalg.solve(sum(grams), sum(g @ w.T for g, w in zip(grams, values, strict=True))).T]
            state[name] = torch.from_numpy(np.mean(values, axis=0)).float()
    assert all(len(each) == 12 for each in found.values())


def test_gram_plus_of_one_expert_is_its_gram(suite, task):
    models = unify_layout(suite / "base", {"one": suite / "one"}, EXCLUDE)
    found = gram_plus(text_encoder.load(suite / "base"), models, {"one": task.inputs})["one"]
    expected = gram(text_encoder.load(suite / "one"), task)
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-4)


# AdaMerging.


@pytest.mark.parametrize("method_spec", [{}, PLUS], ids=["plain", "plus"])
@pytest.mark.parametrize("scope", ["model", "layer", "tensor"])
def test_learning_lowers_the_entropy_of_all_inputs(suite, method_spec, scope):
    encoder, tasks = text_encoder.load(suite / "base"), [random_task(t) for t in range(3)]
    merge_of, _ = opened(suite, method_spec)
    learned = learn(encoder, merge_of, tasks, 0, scope=scope, steps=25, learning_rate=0.02, batch_size=12)
    every = [np.arange(24)] * 3

    def of(table):
        rows = {name: torch.tensor(table(name), dtype=torch.float64) for name in merge_of.models.merged}
        return float(entropy(encoder, merge_of.tensors(rows), tasks, every).detach())

    assert of(learned.table.at) < 0.95 * of(lambda name: [0.3] * 3)
    assert set(learned.table.rows) == {"model": {"model"}, "tensor": set(merge_of.models.merged),
                                       "layer": {"encoder.layer.0", "encoder.layer.1"}}[scope]  # fmt: skip
    assert len(learned.losses) == 25 and learned.coefficients["two"][0] == pytest.approx(0.3)
    assert all(0 <= c <= 1 for row in learned.table.rows.values() for c in row)


@pytest.mark.parametrize("method_spec", [{}, PLUS], ids=["plain", "plus"])
def test_the_first_gradient_is_a_finite_difference(suite, method_spec):
    encoder, tasks = text_encoder.load(suite / "base").double(), [wide(random_task(t)) for t in range(3)]
    merge_of, _ = opened(suite, method_spec, torch.float64)
    names = merge_of.models.merged
    alpha = torch.full((len(names), 3), 0.3, dtype=torch.float64, requires_grad=True)

    def loss(values):
        return entropy(encoder, merge_of.tensors(dict(zip(names, values, strict=True))), tasks, [np.arange(5)] * 3)

    loss(alpha).backward()
    for row, t in ((0, 0), (7, 1), (len(names) - 1, 2)):
        step = torch.zeros_like(alpha)
        step[row, t] = 1e-5
        difference = float((loss(alpha + step) - loss(alpha - step)).detach() / 2e-5)
        assert float(alpha.grad[row, t]) == pytest.approx(difference, rel=1e-4, abs=1e-9)


def test_the_model_that_learns_is_the_model_that_is_merged(suite, tmp_path):
    merge_of, cuts = opened(suite, PLUS)
    learned = learn(text_encoder.load(suite / "base"), merge_of, [random_task(0)], 0, steps=3, learning_rate=0.05)
    merge(MergeRequest(merge_of.models, merge_of.recipe, learned.table, cuts), tmp_path / "merged")
    rows = {name: torch.tensor(learned.table.at(name), dtype=torch.float64) for name in merge_of.models.merged}
    for name, tensor in merge_of.tensors(rows).items():
        np.testing.assert_allclose(Checkpoint(tmp_path / "merged").read(name), tensor.numpy(), rtol=1e-5, atol=1e-7)


def test_coefficients_are_held_between_zero_and_one_only_where_that_is_wanted(suite):
    encoder, merge_of, tasks = text_encoder.load(suite / "base"), opened(suite, {})[0], [random_task(0)]
    settings = {"scope": "model", "steps": 8, "init": 0.95, "learning_rate": 0.2, "batch_size": 8}
    held = learn(encoder, merge_of, tasks, 0, clamp=True, **settings).table.rows["model"]
    free = learn(encoder, merge_of, tasks, 0, clamp=False, **settings).table.rows["model"]
    assert max(held) <= 1 and min(held) >= 0 and (max(free) > 1 or min(free) < 0)


# Traditional multi-task learning.


def test_the_loss_of_every_task_falls(suite):
    tasks, encoder = [random_task(t) for t in range(3)], text_encoder.load(suite / "base")
    every = np.arange(24)
    before = [float(task.loss(encoder, every).detach()) for task in tasks]
    losses = training.finetune_joint(encoder, tasks, TUNING, 0)
    after = [float(task.loss(encoder, every).detach()) for task in tasks]
    assert len(losses) == 3 * TUNING["steps"]
    assert all(late < 0.7 * early for early, late in zip(before, after, strict=True))


def test_every_task_has_its_turn_in_every_round(suite):
    turns = []

    class Spy(Task):
        def loss(self, encoder, rows):
            turns.append(self.logit_scale)
            return super().loss(encoder, rows)

    tasks = [Spy(each.inputs, each.labels, each.head, t) for t, each in enumerate(map(random_task, range(3)))]
    training.finetune_joint(text_encoder.load(suite / "base"), tasks, {**TUNING, "steps": 4}, 0)
    assert [sorted(turns[start : start + 3]) for start in range(0, 12, 3)] == [[0, 1, 2]] * 4
    assert len({tuple(turns[start : start + 3]) for start in range(0, 12, 3)}) > 1


# Scripts.


@pytest.fixture(scope="module")
def outputs(suite, tmp_path_factory):
    """A folder of what every script writes in this process."""
    folder = tmp_path_factory.mktemp("outputs")
    with pytest.MonkeyPatch.context() as patch:
        for name, script in SCRIPTS.items():
            patch.setattr("sys.argv", arguments(suite, name, folder / name))
            script.main()
    return folder


def test_scripts_write_the_same_bytes_again_with_more_threads(suite, outputs, tmp_path):
    lines = [arguments(suite, name, tmp_path / name) for name in SCRIPTS]
    code = "import importlib, json, sys\nfor line in json.load(sys.stdin):\n    sys.argv = line\n"
    code += "    importlib.import_module(f'scripts.{line[0]}').main()"
    threads = {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3"}
    again = {"input": json.dumps(lines), "env": {**os.environ, "PYTHONPATH": f"{tiny.ROOT / 'workflow'}:{tiny.ROOT}", **threads}}
    subprocess.run([sys.executable, "-c", code], cwd=tiny.ROOT, check=True, capture_output=True, text=True, **again)
    for name in SCRIPTS:
        assert contents(outputs / name) == contents(tmp_path / name), name


def test_a_folder_of_calibration_is_a_checkpoint_with_a_record(suite, outputs):
    calibration, record = Checkpoint(outputs / "fisher"), read_json(outputs / "fisher/calibration.json")
    assert set(calibration.names) == set(Checkpoint(suite / "one").names) == set(record["tensors"])
    name = "encoder.layer.1.output.dense.weight"
    assert record["tensors"][name] == pytest.approx(np.square(calibration.read(name).astype(np.float64)).sum())
    assert record["settings"] == {"estimator": "batch_sqrt", "examples": 10, "batch_size": 4} and record["examples"] == 10
    assert record["kind"] == "fisher" and "torch" in record["versions"]


def test_a_file_of_learned_coefficients_has_a_table_and_a_curve(suite, outputs):
    record = read_json(outputs / "learned")
    assert record["experts"] == sorted(EXPERTS) and record["scope"] == "tensor" and record["norms"] == {}
    assert set(record["rows"]) == set(aligned(suite).merged)
    assert len(record["curve"]["loss"]) == len(record["curve"]["coefficients"]["one"]) == 3


def test_an_unknown_setting_is_named_with_the_known_ones():
    with pytest.raises(UserError, match=r"config/calibration.yaml: x: takes \['batch_size', 'examples'\], not 'exampels'"):
        bound(KINDS["gram"], {"exampels": 3}, "config/calibration.yaml: x")
