"""T5 on GLUE in words: outputs by lm_eval are those of transformers' T5, one token after another, also of a merge."""

from __future__ import annotations

import copy
import gzip
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import seq2seq_project as world
import tiny_t5
import torch
from safetensors.torch import load_file, save_file
from scipy import stats
from seq2seq_project import SUITES, TASKS

from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json
from nan_merge.models.benchmark_scores import Scoring, score
from nan_merge.models.families.seq2seq_lm import prepare
from nan_merge.models.harness.answers import answers
from nan_merge.models.harness.backends import load_model
from nan_merge.models.harness.tasks import Benchmark, load_tasks
from nan_merge.models.own_tasks import SHIPPED
from nan_merge.standalone.merge_models import merge


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Return the folder of what is published, and the models."""
    root = tmp_path_factory.mktemp("t5")
    return root, world.build(root)


def benchmark(root, task):
    harness = {"folder": "flan_t5_glue", "tasks": [f"flan_t5_glue_{TASKS[task]}"], "metric": "exact_match"}
    harness |= {"correlation": "spearman"} if task == "stsb_text" else {}
    return Benchmark(task, root / "datasets/tiny/glue", harness)


def scored(root, folder, place):
    """Return the outputs by task, and the scores by task and metric, of a model in a folder."""
    scoring = Scoring(batch_size=16, settings={}, cache=place / "cache")
    score(scoring, [folder], [benchmark(root, task) for task in TASKS], {"method": "m"}, place / "scores.json")
    with gzip.open(place / "scores.jsonl.gz", "rt") as lines:
        found = [json.loads(line) for line in lines]
    scores = {(each["task"], each["metric"]): each["value"] for each in read_json(place / "scores.json")["scores"]}
    return {task: [each["output"] for each in found if each["benchmark"] == task] for task in TASKS}, scores


def average(models):
    """Return the base with the mean of all tensors of the experts; an embedding and its copies are one tensor."""
    model, experts = copy.deepcopy(models["base"]), [models[task].state_dict() for task in TASKS]
    model.load_state_dict({name: sum(expert[name] for expert in experts) / len(experts) for name in model.state_dict()})
    return model


@pytest.mark.parametrize("suite", SUITES)
def test_outputs_are_those_of_transformers_one_token_after_another(suite, published, tmp_path):
    root, models = published
    kind, folders = SUITES[suite], {"base": tmp_path / "base"}
    prepare(root / "models/tiny/t5", folders["base"])
    for task in TASKS:
        prepare(root / f"models/tiny/t5_{task}{kind}", folders.setdefault(task, tmp_path / task), folders["base"])
    experts, folders["average"] = {task: folders[task] for task in TASKS}, tmp_path / "average"
    merge(base=folders["base"], experts=experts, method="weight_averaging", output=folders["average"], quiet=True)
    expected, seen = {**models[suite], "average": average(models[suite])}, set()
    for name, folder in folders.items():
        (place := tmp_path / f"of_{name}").mkdir()
        outputs, _ = scored(root, folder, place)
        for task, given in outputs.items():
            prompts, _ = world.examples(root, task, "validation")
            written = tiny_t5.written(expected[name], world.WORDS, prompts[:10])
            assert sum(one == two for one, two in zip(given, written, strict=False)) >= 9, (name, task)
        seen |= {text for given in outputs.values() for text in given}
    assert len(seen) > 4


def test_labels_are_compared_as_texts_and_numbers_by_their_ranks(published, tmp_path):
    root, _ = published
    prepare(root / "models/tiny/t5", tmp_path / "base")
    prepare(root / "models/tiny/t5_stsb_text", tmp_path / "expert", tmp_path / "base")
    outputs, scores = scored(root, tmp_path / "expert", tmp_path)
    right = {task: world.examples(root, task, "validation")[1] for task in TASKS}
    assert scores["cola_text", "accuracy"] == np.mean(
        [a == b for a, b in zip(*(x["cola_text"] for x in (outputs, right)), strict=True)]
    )
    numbers = [float(text) if text in world.WORDS else 0.0 for text in outputs["stsb_text"]]
    expected = stats.spearmanr(numbers, [float(text) for text in right["stsb_text"]]).statistic
    assert scores["stsb_text", "spearman"] == pytest.approx(expected, abs=1e-6) and expected > 0.25
    assert {metric for task, metric in scores if task == "stsb_text"} == {"spearman", "unanswered", "cut_off"}
    with np.load(tmp_path / "scores.npz") as found:
        assert np.allclose(found["stsb_text.prediction"], numbers) and found["cola_text.prediction"].dtype == np.int64


def test_a_text_that_is_no_finite_number_counts_as_zero():
    texts = ["4.5", " 3", "four", "", "nan", "inf"]
    rows = [{"doc_hash": str(n), "target": "1.0", "answer": text, "right": 0, "found": True} for n, text in enumerate(texts)]
    assert answers({"stsb": rows}, "spearman").prediction.tolist() == [4.5, 3.0, 0.0, 0.0, 0.0, 0.0]


def test_the_head_of_the_base_stays_apart_from_the_embedding(published, tmp_path):
    root, models = published
    prepare(root / "models/tiny/t5", tmp_path / "base")
    found = load_model(tmp_path / "base", "cpu", "float32", {}).model
    assert torch.equal(found.lm_head.weight, models["flan_t5_base_8"]["base"].lm_head.weight)
    assert not torch.equal(found.lm_head.weight, found.shared.weight)


def test_a_folded_adapter_is_the_model_that_peft_makes(published, tmp_path):
    root, models = published
    prepare(root / "models/tiny/t5", tmp_path / "base")
    prepare(root / "models/tiny/t5_cola_text_lora", tmp_path / "expert", tmp_path / "base")
    found, expected = load_file(tmp_path / "expert/model.safetensors"), models["flan_t5_base_lora_8"]["cola_text"].state_dict()
    assert all(torch.allclose(tensor, expected[name], atol=1e-6) for name, tensor in found.items())
    assert found.keys() == load_file(tmp_path / "base/model.safetensors").keys()
    names = {file.name for file in (tmp_path / "expert").iterdir()}
    assert "tokenizer.json" in names and "adapter_config.json" not in names


def test_models_that_do_not_fit_are_refused(published, tmp_path):
    root, _ = published
    base, adapter = root / "models/tiny/t5", root / "models/tiny/t5_cola_text_lora"
    decoder = shutil.copytree(base, tmp_path / "decoder")
    (decoder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match=r"config\.json: is_encoder_decoder is not true.*choose another `family:`"):
        prepare(decoder, tmp_path / "out")
    with pytest.raises(UserError, match="no tokenizer"):
        prepare(root / "models/tiny/t5_cola_text", tmp_path / "out")
    prepare(base, tmp_path / "base")
    wide = shutil.copytree(adapter, tmp_path / "wide")
    file = wide / "adapter_model.safetensors"
    save_file({name: 100 * tensor for name, tensor in load_file(file).items()}, file)
    with pytest.raises(UserError, match=r"is no expert of the base"):
        prepare(wide, tmp_path / "out", tmp_path / "base")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="vLLM runs no model of an encoder and a decoder"):
        load_model(tmp_path / "base", "cpu", "float32", {"backend": "vllm"})


def test_hidden_labels_and_missing_files_are_refused(published, tmp_path):
    root, _ = published
    data = tmp_path / "datasets/tiny/glue"
    with pytest.raises(UserError, match=r"no file cola/validation-\*\.parquet"):
        load_tasks(benchmark(tmp_path, "cola_text"), tmp_path)
    shutil.copytree(root / "datasets/tiny/glue", data)
    file = next((data / "cola").glob("validation-*"))
    table = pq.read_table(file)
    pq.write_table(table.set_column(table.column_names.index("label"), "label", pa.array([-1] * len(table))), file)
    with pytest.raises(UserError, match=r"40 of 40 labels of cola/validation are below 0"):
        load_tasks(benchmark(tmp_path, "cola_text"), tmp_path)


def test_every_label_of_glue_has_its_text():
    tasks = {file.stem.removesuffix("_text") for file in (SHIPPED / "flan_t5_glue").glob("[a-z]*.yaml")}
    assert tasks == {"cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb"}
