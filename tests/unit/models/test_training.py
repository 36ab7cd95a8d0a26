"""Fine-tuning learns, leaves frozen tensors alone and gives the same bytes for the same seed."""

import numpy as np
import pytest
import torch

from nan_merge.core.errors import UserError
from nan_merge.models import training

SETTINGS = {"learning_rate": 0.02, "steps": 30, "batch_size": 8, "logit_scale": 10.0, "weight_decay": 0.01,
            "frozen": ["^first"]}  # fmt: skip


class Encoder(torch.nn.Module):
    """Two layers on number rows: enough for a family's contract."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(6, 64)
        self.second = torch.nn.Linear(64, 4)

    def forward(self, inputs):
        hidden = self.second(torch.tanh(self.first(torch.from_numpy(inputs))))
        return torch.nn.functional.normalize(hidden, dim=1)


@pytest.fixture(scope="module")
def data():
    draw = np.random.default_rng(1)
    inputs = draw.normal(size=(50, 6)).astype(np.float32)
    return (inputs, (inputs[:, 0] > 0).astype(np.int64), np.array([[1, 0, 0, 0], [-1, 0, 0, 0]], dtype=np.float32))


def tuned(data, seed=0, **changes):
    encoder = Encoder()
    losses = training.finetune(encoder, *data, {**SETTINGS, **changes}, seed)
    return {name: tensor.detach().numpy().copy() for name, tensor in encoder.state_dict().items()}, losses


def test_the_loss_falls_and_progress_sees_every_step(data):
    seen = []
    losses = training.finetune(Encoder(), *data, SETTINGS, 0, progress=lambda step, loss: seen.append((step, loss)))
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert seen == list(enumerate(losses)) and len(losses) == 30


def test_frozen_tensors_keep_their_bytes_and_the_others_move(data):
    before = Encoder().state_dict()
    after, _ = tuned(data)
    for name, tensor in before.items():
        assert (tensor.numpy().tobytes() == after[name].tobytes()) == name.startswith("first"), name


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(data):
    one, two, other = tuned(data)[0], tuned(data)[0], tuned(data, seed=1)[0]
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)
    assert one["second.weight"].tobytes() != other["second.weight"].tobytes()


@pytest.mark.parametrize("threads", [1, 3])
def test_the_bytes_do_not_depend_on_the_threads_of_the_process(data, threads):
    expected = tuned(data)[0]["second.weight"].tobytes()
    torch.set_num_threads(threads)
    assert tuned(data)[0]["second.weight"].tobytes() == expected
    assert torch.get_num_threads() == 1


def test_batches_visit_every_example_once_a_round():
    order = training.index_batches(10, 4, seed=5)
    first = np.concatenate([next(order) for _ in range(5)])
    assert sorted(first[:10]) == sorted(first[10:]) == list(range(10))
    assert list(first[:10]) != list(first[10:])


def test_the_learning_rate_warms_up_and_falls_to_zero():
    shares = [training.schedule(step, 100) for step in range(100)]
    assert shares[0] == pytest.approx(0.1) and np.argmax(shares) in (8, 9, 10) and max(shares) <= 1
    assert (np.diff(shares[10:]) < 0).all() and shares[-1] < 0.001


@pytest.mark.parametrize(
    ("change", "message"), [({"frozen": ["^third"]}, r"'\^third' fits no tensor"), ({"epochs": 3}, r"unknown \['epochs'\]")]
)
def test_mistakes_in_the_settings_are_user_errors(data, change, message):
    with pytest.raises(UserError, match=message):
        tuned(data, **change)
