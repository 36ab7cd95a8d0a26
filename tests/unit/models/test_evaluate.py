"""The batch loop: order of batches, reading ahead, device and precision, and the provenance of a score."""

import json
import threading
import time

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from nan_merge.checkpoints.checkpoint import write_checkpoint, write_tensors
from nan_merge.core.errors import UserError
from nan_merge.data.dataset import write_dataset
from nan_merge.data.metrics import scores_of
from nan_merge.models.classification import Forward, ahead, digest_files, embed
from nan_merge.models.families import text_encoder
from scripts import evaluate_checkpoint

WORDS, CLASSES = 30, 3
CONFIG = {**tiny.BERT, "vocab_size": WORDS, "max_position_embeddings": 10}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small text encoder, a data set of 70 rows and a head."""
    folder = tmp_path_factory.mktemp("evaluate")
    draw = np.random.default_rng(0)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in text_encoder.Encoder(CONFIG, set()).state_dict().items()}
    write_checkpoint(folder / "model", {n: draw.normal(0, 0.3, s).astype(np.float32) for n, s in shapes.items()}, CONFIG)
    rows = draw.integers(1, WORDS, (70, 8)).astype(np.uint16)
    for row, length in zip(rows, draw.integers(1, 8, 70), strict=True):
        row[length:] = 0
    write_dataset(folder / "data/task", {"classes": ["a", "b", "c"]}, {"test": (rows, draw.integers(0, CLASSES, 70))})
    write_tensors(folder / "head.safetensors", {"head": draw.normal(size=(CLASSES, CONFIG["hidden_size"])).astype(np.float32)})
    return folder


@pytest.fixture(autouse=True)
def one_thread():
    """Leave the threads of torch as they were."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def rows(folder):
    return np.load(folder / "data/task/test.inputs.npy")


def score(folder, out, monkeypatch, *words):
    """Run the script in this process and return its two files."""
    names = ["--family", "text_encoder", "--suite", "s", "--method", "m", "--seed", "0"]
    given = {"--checkpoints": "model", "--datasets": "data/task", "--heads": "head.safetensors"}
    inputs = [word for flag, name in given.items() if flag not in words for word in (flag, str(folder / name))]
    outputs = ["--scores", str(out / "scores.json"), "--predictions", str(out / "predictions.npz")]
    monkeypatch.setattr("sys.argv", ["evaluate_checkpoint", *names, *inputs, *outputs, *map(str, words)])
    evaluate_checkpoint.main()
    return json.loads((out / "scores.json").read_text()), dict(np.load(out / "predictions.npz"))


def test_by_default_the_bytes_are_those_of_a_plain_loop_on_one_thread(folder, rows):
    encoder, batches = text_encoder.load(folder / "model"), text_encoder.batches(rows, 16)
    found = embed(encoder, rows, batches)
    expected = np.empty_like(found)
    with torch.inference_mode():
        for batch in batches:
            expected[batch] = encoder(rows[batch]).numpy()
    assert found.dtype == np.float32 and (found == expected).all()
    assert torch.get_num_threads() == 1


def test_embeddings_do_not_depend_on_the_order_of_batches(folder, rows):
    encoder, batches = text_encoder.load(folder / "model"), text_encoder.batches(rows, 16)
    found = embed(encoder, rows, batches)
    assert (embed(encoder, rows, batches[::-1]) == found).all()
    assert (embed(encoder, rows, batches[2:] + batches[:2]) == found).all()


@pytest.mark.parametrize("threads", [2, 3, 16])
def test_embeddings_do_not_depend_on_the_number_of_threads(folder, rows, threads):
    encoder, batches = text_encoder.load(folder / "model"), text_encoder.batches(rows, 9)
    assert (embed(encoder, rows, batches, Forward(threads=threads)) == embed(encoder, rows, batches)).all()


def test_as_many_batches_are_computed_at_once_as_there_are_threads():
    meeting = threading.Barrier(3, timeout=600)  # breaks unless three are there at once

    def encoder(batch):
        meeting.wait()
        return torch.from_numpy(batch)

    inputs = np.arange(18, dtype=np.float32).reshape(9, 2)
    assert (embed(encoder, inputs, np.split(np.arange(9), 9), Forward(threads=3)) == inputs).all()


def test_an_error_of_one_thread_ends_the_others_at_their_next_batch():
    computed = []

    def encoder(batch):
        if batch[0, 0] == 1:
            raise OSError("broken")
        computed.append(batch)
        time.sleep(0.05)
        return torch.from_numpy(batch)

    with pytest.raises(OSError, match="broken"):
        embed(encoder, np.arange(200, dtype=np.float32)[:, None], np.split(np.arange(200), 200), Forward(threads=2))
    assert len(computed) < 20


class Watched:
    """Inputs that note which batches were asked for, and by which thread."""

    def __init__(self):
        self.asked, self.threads, self.there = [], set(), threading.Semaphore(0)

    def __getitem__(self, batch):
        self.asked.append(int(batch[0]))
        self.threads.add(threading.get_ident())
        self.there.release()
        return batch


def test_the_next_batch_is_read_while_one_is_computed_and_never_more():
    inputs = Watched()
    for number, found in enumerate(ahead(inputs, list(np.arange(5)[:, None]))):
        assert found[0] == number
        for _ in range(2 if number == 0 else number < 4):
            assert inputs.there.acquire(timeout=600)
        assert inputs.asked == list(range(min(number + 2, 5)))
    assert threading.get_ident() not in inputs.threads


def test_what_goes_wrong_while_reading_ahead_is_not_lost():
    class Broken:
        def __getitem__(self, batch):
            if batch[0]:
                raise OSError("disk")
            return batch

    with pytest.raises(OSError, match="disk"):
        list(ahead(Broken(), list(np.arange(3)[:, None])))


def test_the_reading_thread_ends_with_an_error_of_the_encoder():
    """Not when the error is collected, which may be in the middle of anything."""

    def broken(batch):
        raise ValueError("no batch")

    before = threading.active_count()
    with pytest.raises(ValueError, match="no batch") as error:
        embed(broken, np.zeros((6, 2), np.float32), [np.arange(3), np.arange(3, 6)])
    assert threading.active_count() == before and error.tb is not None


class Half(torch.nn.Linear):
    """An encoder that notes how it is run."""

    def forward(self, inputs):
        self.seen = (torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled(), torch.get_num_threads())
        return super().forward(torch.from_numpy(inputs).to(self.weight.device))


@pytest.mark.parametrize(("precision", "most"), [("float32", 1e-6), ("bfloat16", 2e-2), ("float16", 2e-3)])
def test_precision_is_that_of_the_forward_pass_and_embeddings_are_float32(precision, most):
    inputs = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    encoder = Half(8, 4)
    expected = torch.nn.functional.linear(torch.from_numpy(inputs), encoder.weight, encoder.bias).detach().numpy()
    found = embed(encoder, inputs, [np.arange(12), np.arange(12, 20)], Forward(precision=precision, threads=2))
    error = np.abs(found - expected).max()
    assert found.dtype == np.float32 and most / 100 * (precision != "float32") <= error < most
    assert encoder.seen == (precision != "float32", True, 1)


def test_a_device_that_is_not_here_is_a_user_error():
    with pytest.raises(UserError, match=r"device 'gpu': expected cpu, cuda or cuda:N; correct `device:`"):
        Forward("gpu")
    with pytest.raises(UserError, match=r"device 'cuda:99': torch .* finds \d+ CUDA devices here"):
        Forward("cuda:99")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_gives_what_the_processor_gives():
    inputs, encoder = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32), Half(8, 4)
    both = [embed(encoder, inputs, np.split(np.arange(20), [7, 15]), each) for each in (Forward(), Forward("cuda"))]
    assert np.allclose(*both, atol=1e-5)


def test_a_score_says_how_and_from_what_it_was_computed(folder, tmp_path, monkeypatch):
    record, predictions = score(folder, tmp_path, monkeypatch, "--batch-size", "16", "--threads", "2")
    provenance = record["provenance"]
    assert {key: provenance[key] for key in ("device", "dtype", "threads", "batch_size", "family")} == {
        "device": "cpu", "dtype": "float32", "threads": 2, "batch_size": 16, "family": "text_encoder",
    }  # fmt: skip
    assert provenance["versions"]["torch"] == torch.__version__.split("+")[0]
    assert set(provenance["xxh3_128"]) == {str(folder / name) for name in ("model", "data/task", "head.safetensors")}
    (found,) = record["scores"]
    assert found["n"] == 70 and found["value"] == (predictions["task.prediction"] == predictions["task.label"]).mean()


def test_predictions_do_not_depend_on_batch_size_and_threads(folder, tmp_path, monkeypatch):
    _, expected = score(folder, tmp_path, monkeypatch)
    for words in (["--batch-size", "7"], ["--threads", "2"]):
        _, found = score(folder, tmp_path, monkeypatch, *words)
        assert (found["task.prediction"] == expected["task.prediction"]).all()


def test_the_identity_of_files_is_that_of_their_names_and_contents(tmp_path):
    files = [tmp_path / name for name in ("one", "two")]
    for file in files:
        file.write_bytes(b"x" * 3_000_000)
    first = digest_files(files)
    assert digest_files(reversed(files)) == first
    assert digest_files(files[:1]) != first
    files[1].write_bytes(b"x" * 2_999_999 + b"y")
    assert digest_files(files) != first


def test_a_head_of_another_task_or_width_is_a_user_error(folder, tmp_path, monkeypatch):
    for shape in ((CLASSES + 1, CONFIG["hidden_size"]), (CLASSES, 5)):
        head = tmp_path / "head.safetensors"
        write_tensors(head, {"head": np.ones(shape, np.float32)})
        with pytest.raises(UserError, match=rf"{head}: the head is \[{shape[0]}, {shape[1]}\], expected \[3, 32\]"):
            score(folder, tmp_path, monkeypatch, "--heads", head)
    assert not (tmp_path / "scores.json").exists()


def test_numbers_that_are_none_are_a_user_error_and_never_class_0(folder, tmp_path, monkeypatch):
    tensors = load_file(folder / "model/model.safetensors")
    tensors["embeddings.LayerNorm.bias"][0] = torch.nan
    (tmp_path / "model").mkdir()
    save_file(tensors, tmp_path / "model/model.safetensors")
    (tmp_path / "model/config.json").write_bytes((folder / "model/config.json").read_bytes())
    with pytest.raises(UserError, match=r"model: 70 of 70 embeddings of .*task are NaN or infinite; it holds NaN or infinities"):
        score(folder, tmp_path, monkeypatch, "--checkpoints", tmp_path / "model")


@pytest.mark.parametrize("words", [["--batch-size", "0"], ["--threads", "0"]])
def test_no_batch_and_no_thread_is_a_user_error(folder, tmp_path, monkeypatch, words):
    with pytest.raises(UserError, match=r"expected 1 or more of both"):
        score(folder, tmp_path, monkeypatch, *words)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_the_text_encoder_runs_at_a_lower_precision(folder, rows, precision):
    encoder, batches = text_encoder.load(folder / "model"), text_encoder.batches(rows, 16)
    expected, found = (embed(encoder, rows, batches, Forward(precision=each)) for each in ("float32", precision))
    assert 0 < np.abs(found - expected).max() < 0.05


METRICS = {
    ("task=precision",): "--metrics: found 'task=precision'; expected TASK=METRIC with a task of --datasets (task) and one of",
    ("task",): "--metrics: found 'task='; expected",
    ("cola=matthews",): "--metrics: found 'cola=matthews'; expected TASK=METRIC with a task of --datasets (task)",
    ("task=pearson_spearman",): "metric pearson_spearman does not fit labels of type int64; correct `metrics:` of the suite",
}


@pytest.mark.parametrize("words", METRICS)
def test_a_metric_that_does_not_fit_is_refused(folder, tmp_path, monkeypatch, words):
    with pytest.raises(UserError) as error:
        score(folder, tmp_path, monkeypatch, "--metrics", *words)
    assert METRICS[words] in str(error.value) and not (tmp_path / "scores.json").exists()


def test_the_test_split_has_all_parts_of_a_metric_and_validation_the_metric_alone(folder, tmp_path, monkeypatch):
    score(folder, tmp_path, monkeypatch, "--metrics", "task=f1_accuracy")
    found = {row["metric"]: row["value"] for row in json.loads((tmp_path / "scores.json").read_text())["scores"]}
    assert list(found) == ["accuracy", "f1", "f1_accuracy"]
    assert found["f1_accuracy"] == (found["f1"] + found["accuracy"]) / 2
    measured = scores_of("f1_accuracy", "validation", np.array([0, 1, 1]), np.array([1, 1, 0]))
    assert measured["f1_accuracy"]["value"] == (1 / 2 + 1 / 3) / 2 and len(measured) == 1


@pytest.fixture
def trial(folder, tmp_path, monkeypatch):
    """Score a trial on two groups of tasks, after five complete trials that are right in a share of all examples of each task."""
    (tmp_path / "data").mkdir()
    for task in ("a", "b", "c"):
        splits = {"validation": tuple(np.load(folder / f"data/task/test.{part}.npy") for part in ("inputs", "labels"))}
        write_dataset(tmp_path / "data" / task, {"classes": ["a", "b", "c"]}, splits)

    def run(share, group, before=(), trials=5):
        earlier = []
        for number in range(trials):
            earlier.append(tmp_path / f"t{number}.json")
            rows = [{"method": f"m-t{number}", "task": task, "value": share, "n": 70} for task in ("a", "b", "c")]
            earlier[-1].write_text(json.dumps({"scores": rows}))
        out = tmp_path / "-".join(group)
        out.mkdir(exist_ok=True)
        words = ["--split", "validation", "--datasets", *[tmp_path / "data" / task for task in group]]
        words += ["--heads", *[folder / "head.safetensors"] * len(group)]
        words += [word for flag, files in (("--earlier", earlier), ("--before", before)) if files for word in (flag, *files)]
        record, predictions = score(folder, out, monkeypatch, *words)
        return record, predictions, out / "scores.json"

    return run


def test_a_trial_below_the_median_is_stopped_and_says_what_was_not_scored(trial):
    whole, expected, _ = trial(0.0, ["a", "b"])
    assert [row["task"] for row in whole["scores"]] == ["a", "b"] and "pruned" not in whole
    record, predictions, file = trial(1.0, ["a", "b"])
    assert record["scores"] == whole["scores"][:1] and sorted(predictions) == ["a.label", "a.prediction"]
    assert (predictions["a.prediction"] == expected["a.prediction"]).all()
    average = whole["scores"][0]["value"]
    told = {"method": "m", "after": "a", "average": average, "median": 1.0, "trials": 5}
    assert record["pruned"] == {**told, "unscored": {"b": 70}}
    rest, nothing, _ = trial(1.0, ["c"], before=[file])
    assert rest["scores"] == [] and nothing == {} and rest["pruned"] == {**told, "unscored": {"c": 70}}


def test_a_trial_may_be_stopped_between_two_groups(trial):
    record, _, file = trial(1.0, ["a"])
    assert "pruned" not in record, "the rule is asked before a task, and the group has no further one"
    rest, _, _ = trial(1.0, ["b", "c"], before=[file])
    assert rest["scores"] == [] and rest["pruned"]["after"] == "a" and rest["pruned"]["unscored"] == {"b": 70, "c": 70}
    assert len(trial(0.0, ["b", "c"], before=[file])[0]["scores"]) == 2


def test_four_complete_trials_stop_none(trial):
    assert len(trial(1.0, ["a", "b"], trials=4)[0]["scores"]) == 2
    assert trial(1.0, ["a", "b"], trials=0)[0]["scores"] == trial(0.0, ["a", "b"])[0]["scores"]
