"""Answers to benchmarks: hashes, clustered errors, the cache, and memory that runs out. lm_eval itself runs in tests/workflow."""

import gzip
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_language import make_tokenizer
from tiny_vlm import processor, untrained

from nan_merge.core.errors import UserError
from nan_merge.models.harness.answers import Answers, answers, clustered_error
from nan_merge.models.harness.backends import halved_until_it_fits, load_model, refuse_offloaded
from nan_merge.models.harness.cache import kept


def sample(number, answer, right, found=True):
    return {"doc_hash": f"h{number}", "target": "B", "answer": answer, "right": right, "found": found}


def test_a_prediction_is_the_label_if_and_only_if_the_answer_is_right():
    one = answers({"algebra": [sample(0, "B", 1), sample(1, "B", 0)], "anatomy": [sample(2, "", 0, False)]})
    two = answers({"algebra": [sample(0, "B", 1), sample(1, "C", 0)], "anatomy": [sample(2, "", 0, False)]})
    assert one.right.tolist() == [True, False, False] and one.cluster.tolist() == [0, 0, 1] and one.unanswered == 1
    assert (one.label == two.label).all() and (one.prediction == two.prediction).tolist() == [True, False, True]
    assert all(each.dtype == np.int64 and (each >= 0).all() for each in one[:2])


def test_micro_and_macro_averages_are_both_given():
    cluster = np.array([0] * 9 + [1])
    right = np.array([1] * 9 + [0])
    scores = {each["metric"]: each["value"] for each in Answers(np.ones(10, int), right, cluster, 0).scores()}
    assert scores == {"accuracy": 0.9, "macro_accuracy": 0.5, "unanswered": 0.0}


def test_the_clustered_error_is_that_of_whole_clusters():
    draw = np.random.default_rng(0)
    cluster = np.repeat(np.arange(200), 10)
    means = []
    for _ in range(300):  # a part is right or wrong as a whole with a chance of 60 %, other examples are independent
        shared = np.repeat(draw.random(200) < 0.5, 10)
        values = np.where(np.repeat(draw.random(200) < 0.6, 10), shared, draw.random(2000) < 0.5).astype(float)
        means.append((values.mean(), clustered_error(values, cluster)))
    means = np.array(means)
    assert means[:, 1].mean() == pytest.approx(means[:, 0].std(), rel=0.1)
    assert means[:, 1].mean() > 2 * np.sqrt(0.25 / 2000), "far above the error of independent examples"
    one = (draw.random(50) < 0.5).astype(float)
    assert clustered_error(one, np.zeros(50, int)) == pytest.approx(np.sqrt(one.mean() * (1 - one.mean()) / 50))


def needs(bytes_an_example):
    """Return work that allocates real memory by the batch size."""

    def attempt(size):
        return torch.empty(size * bytes_an_example, dtype=torch.uint8).numel() // bytes_an_example

    return attempt


def test_out_of_memory_halves_the_batch_says_so_and_stops_at_one():
    said = []
    assert halved_until_it_fits(needs(1), 8, said.append) == (8, 8) and not said
    done, size = halved_until_it_fits(needs(2**24), 2**28, said.append)
    assert done == size < 2**28 and said[-1] == f"out of memory: going on with batches of {size}"
    with pytest.raises(UserError, match=r"out of memory with one example at a time.*precision: bfloat16"):
        halved_until_it_fits(needs(2**60), 4, said.append)
    assert said[-2:] == ["out of memory: going on with batches of 2", "out of memory: going on with batches of 1"]


def test_another_error_is_no_matter_of_memory():
    with pytest.raises(RuntimeError, match="shapes"):
        halved_until_it_fits(lambda size: torch.ones(2) @ torch.ones((3, 3), dtype=torch.float64) if size else None, 4, print)


def test_the_cache_knows_answers_by_all_that_they_depend_on(tmp_path):
    made = []

    def make(text):
        return lambda: made.append(text) or ([{"answer": text}], 8)

    assert kept(tmp_path, {"model": "a"}, make("one")) == ([{"answer": "one"}], 8)
    assert kept(tmp_path, {"model": "a"}, make("two")) == ([{"answer": "one"}], 8), "not asked again"
    assert kept(tmp_path, {"model": "b"}, make("three")) == ([{"answer": "three"}], 8), "another model has its own answers"
    assert made == ["one", "three"]
    (first, second) = sorted(tmp_path.glob("*/*.json.gz"))
    assert gzip.decompress(first.read_bytes()) != gzip.decompress(second.read_bytes())
    for content in (first.read_bytes()[:-9], b"no gzip", gzip.compress(b"{")):
        for file in (first, second):
            file.write_bytes(content)
        with pytest.raises(UserError, match=r"\.json\.gz: (damaged answers|not valid JSON)"):
            kept(tmp_path, {"model": "a"}, make("four"))


def test_a_run_that_was_ended_leaves_whole_files_only(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path, {"model": "a"}, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert not list(tmp_path.glob("*/*.json.gz"))


@pytest.mark.skipif(bool(find_spec("vllm")), reason="vLLM is installed")
def test_without_vllm_its_backend_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"vLLM is not installed here.*--sdm conda.*envs/vllm.yaml"):
        load_model(tmp_path, "cuda", "float16", {"backend": "vllm"})


def test_a_job_that_sees_too_few_gpus_says_so(tmp_path):
    seen = torch.cuda.device_count()
    with pytest.raises(
        UserError, match=rf"scoring: parallelize: {seen + 1} GPUs are to hold .* this job sees {seen}; ask for as"
    ):
        load_model(tmp_path, "cuda", "float16", {"parallelize": seen + 1})


def text_model(**changes):
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **changes)), make_tokenizer()


def picture_model():
    return untrained("llava"), processor("llava")


@pytest.mark.parametrize(
    ("make", "lost"),
    [(text_model, ["model.layers.1.mlp.up_proj.weight", "lm_head.weight"]), (text_model, ["model.norm.weight"]),
     (picture_model, ["multi_modal_projector.linear_2.bias"])],
)  # fmt: skip
def test_weights_that_no_file_has_are_refused_and_not_drawn_at_random(make, lost, tmp_path):
    for part in make():
        part.save_pretrained(tmp_path)
    pictures = make is picture_model
    assert load_model(tmp_path, "cpu", "float32", {}, pictures).origin == tmp_path
    tensors = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(tuple(lost))}
    assert len(tensors) - len(kept) == len(lost)
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=rf"{tmp_path}: its files lack {len(lost)} tensors? of the network") as error:
        load_model(tmp_path, "cpu", "float32", {}, pictures)
    assert all(name in str(error.value) for name in lost)


def test_a_head_that_is_tied_is_not_lacking(tmp_path):
    for part in text_model(tie_word_embeddings=True):
        part.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    model = load_model(tmp_path, "cpu", "float32", {}).model
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_layers_beside_the_gpus_are_refused(tmp_path):
    """accelerate itself puts layers where it is told to, or where the memory of a device ends."""
    accelerate = pytest.importorskip("accelerate")
    config = transformers.GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=4, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    parts = (
        "transformer.wte",
        "transformer.wpe",
        *(f"transformer.h.{layer}" for layer in range(4)),
        "transformer.ln_f",
        "lm_head",
    )
    wanted = {part: "disk" if part.endswith("h.3") else "cpu" for part in parts}
    model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, device_map=wanted, offload_folder=tmp_path / "disk")
    assert model.hf_device_map == wanted
    with pytest.raises(
        UserError, match=r"does not fit the GPUs of this job: 8 of 8 parts .*'transformer.wte' on cpu, .*h.3' on disk"
    ):
        refuse_offloaded(tmp_path, model.hf_device_map)
    split = accelerate.infer_auto_device_map(model, max_memory={0: 30_000, "cpu": 10_000, "disk": 10**9})
    assert {0, "disk"} < {*split.values()}
    with pytest.raises(UserError, match="take more GPUs") as error:
        refuse_offloaded(tmp_path, split)
    assert " on disk" in str(error.value) and " on 0" not in str(error.value)
    refuse_offloaded(tmp_path, dict.fromkeys(split, 0))
    refuse_offloaded(tmp_path, {"": "cuda:0"})
