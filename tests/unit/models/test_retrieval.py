"""Retrieval by sentence encoders: numbers are those of trec_eval and of the library, also of merges with their dense layers."""

from __future__ import annotations

import copy
import gzip
import json
import shutil
import sys

import numpy as np
import pytest
import pytrec_eval
import tiny_sentences as world
import torch
from safetensors.torch import load_file
from scipy import stats

from nan_merge.archive.predictions import wrong_scores
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json, read_table, write_json
from nan_merge.data.retrieval import Collection, read
from nan_merge.layouts.modules import KINDS
from nan_merge.models import retrieval
from nan_merge.models.benchmark_scores import Scoring, score
from nan_merge.models.families.sentence_encoder import prepare
from nan_merge.models.harness.tasks import Benchmark
from nan_merge.reporting.paired_tests import compare_methods
from nan_merge.reporting.study import gather_scores
from nan_merge.standalone.extract_adapter import extract_adapter
from nan_merge.standalone.merge_models import merge
from nan_merge.standalone.model_card import digest
from scripts import evaluate_models

DENSE = "2_Dense/model.safetensors"
TASKS = ("scifact", "nfcorpus")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Return the folder of what is published, and the models of the library."""
    root = tmp_path_factory.mktemp("sentences")
    return root, world.build(root)


@pytest.fixture(scope="module")
def prepared(published, tmp_path_factory):
    """Return the prepared folders by name, and that of the mean of the experts."""
    folder, models = tmp_path_factory.mktemp("prepared"), published[0] / "models/tiny"
    prepare(models / "sentences", folder / "base")
    for name in world.EXPERTS:
        prepare(models / f"sentences_{name}", folder / name, folder / "base")
    experts = {name: folder / name for name in world.EXPERTS}
    merge(base=folder / "base", experts=experts, method="weight_averaging", output=folder / "mean", quiet=True)
    return {name: folder / name for name in ("base", *experts, "mean")}


def benchmark(root, task, **how):
    return Benchmark(task, root / f"datasets/tiny/{task}", {"retrieval": {"split": "test", **how}})


def scored(published, folders, place):
    """Score folders by name on both collections; return their score files."""
    tasks = [benchmark(published[0], task) for task in TASKS]
    scoring = Scoring(batch_size=16, settings={}, cache=place / "cache")
    for name, folder in folders.items():
        score(scoring, [folder], tasks, {"suite": "s", "method": name, "seed": 0}, place / f"{name}.json")
    return {name: place / f"{name}.json" for name in folders}


def mean_of(models):
    """Return the base with the mean of all tensors of the experts, as torch has it."""
    model, experts = copy.deepcopy(models["base"]), [models[name].state_dict() for name in world.EXPERTS]
    model.load_state_dict({name: sum(each[name] for each in experts) / len(experts) for name in model.state_dict()})
    return model


# ---- numbers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("documents", [4, 40])
def test_ndcg_and_recall_are_those_of_trec_eval_with_equal_scores_and_grades(documents):
    draw = np.random.default_rng(documents)
    names = [f"d{number}" for number in range(documents)]
    ties = np.argsort(np.argsort(names)[::-1])
    judged = {f"q{at}": dict(zip(names, map(int, draw.integers(-1, 4, documents)), strict=True)) for at in range(30)}
    runs = {query: draw.integers(0, 6, documents).astype(np.float32) for query in judged}
    library = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut.10", "recall.10"})
    expected = library.evaluate({query: dict(zip(names, map(float, run), strict=True)) for query, run in runs.items()})
    for query, run in runs.items():
        found = retrieval.measured([(names[place], run[place]) for place in retrieval.ranked(run, ties)], judged[query])
        assert float(found["answer"]) / float(found["target"]) == pytest.approx(expected[query]["ndcg_cut_10"], abs=1e-6)
        assert found["recall"] == pytest.approx(expected[query]["recall_10"], abs=1e-6)


def test_scores_are_those_of_trec_eval_on_the_embeddings_of_the_library(published, prepared, tmp_path):
    root, models = published
    files = scored(published, prepared, tmp_path)
    for name, model in {**models, "mean": mean_of(models)}.items():
        found = {(row["task"], row["metric"]): row for row in read_json(files[name])["scores"]}
        with gzip.open(files[name].with_suffix(".jsonl.gz"), "rt") as lines:
            samples = [json.loads(line) for line in lines]
        for task in TASKS:
            data = read(root / f"datasets/tiny/{task}", "test")
            asked, documents = (model.encode(list(texts.values())) for texts in (data.queries, data.documents))
            cosines = asked @ documents.T
            run = {
                query: dict(zip(data.documents, map(float, row), strict=True))
                for query, row in zip(data.queries, cosines, strict=True)
            }
            evaluated = pytrec_eval.RelevanceEvaluator(
                {query: dict(of) for query, of in data.judged.items()}, {"ndcg_cut.10", "recall.10"}
            ).evaluate(run)
            for metric, key in (("ndcg_at_10", "ndcg_cut_10"), ("recall_at_10", "recall_10")):
                values = [each[key] for each in evaluated.values()]
                assert found[task, metric]["value"] == pytest.approx(np.mean(values), abs=1e-6) and found[task, metric]["n"] == 40
                assert found[task, metric]["stderr"] == pytest.approx(stats.sem(values), rel=0.1)
            for sample in (each for each in samples if each["benchmark"] == task):
                assert all(cosine == pytest.approx(run[sample["query"]][name], abs=1e-6) for name, cosine in sample["output"])
    gather_scores([*files.values()], tmp_path / "scores.tsv")
    values = {(row["method"], row["metric"]): float(row["value"]) for row in read_table(tmp_path / "scores.tsv")}
    assert values["mean", "ndcg_at_10"] > values["base", "ndcg_at_10"] > 0.05  # the models tell documents apart


def test_queries_are_paired_as_the_library_pairs_numbers(published, prepared, tmp_path):
    files = scored(published, {name: prepared[name] for name in ("base", "high")}, tmp_path)
    pair = {"suite": "s", "method": "high", "against": "base", "kind": "host"}
    compare_methods([*files.values()], [pair, {**pair, "task": "scifact"}], tmp_path / "comparisons.tsv")
    average, alone = read_table(tmp_path / "comparisons.tsv")
    values = {}
    for name, file in files.items():
        with np.load(file.with_suffix(".npz")) as arrays:
            values[name] = {task: arrays[f"{task}.prediction"] / arrays[f"{task}.label"] for task in TASKS}
    gap = {task: (values["high"][task] - values["base"][task]).astype(float) for task in TASKS}
    assert float(average["difference"]) == pytest.approx(np.mean([each.mean() for each in gap.values()]))
    assert float(alone["difference"]) == pytest.approx(gap["scifact"].mean()) and (int(average["n"]), int(alone["n"])) == (80, 40)
    assert float(alone["low"]) < gap["scifact"].mean() < float(alone["high"])
    library = stats.permutation_test((gap["scifact"],), np.mean, permutation_type="samples", n_resamples=20_000, rng=0)
    assert float(alone["p"]) == pytest.approx(library.pvalue, abs=0.01)
    assert int(alone["discordant"]) == np.count_nonzero(gap["scifact"])


def test_nan_merge_evaluate_compares_models_query_by_query(published, prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = f"scifact={published[0] / 'datasets/tiny/scifact'}"
    words = [f"base={prepared['base']}", f"mean={prepared['mean']}", "--tasks", "scifact", "--data", data]
    monkeypatch.setattr(sys, "argv", ["evaluate", *words])
    evaluate_models.main()
    shown = capsys.readouterr().out
    assert "Score in %" in shown and "except for SciFact: nDCG at 10" in shown and "Δ" in shown
    values = {}
    for name in ("base", "mean"):
        with np.load(tmp_path / f"evaluation/scores/{name}.npz") as arrays:
            values[name] = (arrays["scifact.prediction"] / arrays["scifact.label"]).mean()
    (row,) = (each for each in read_table(tmp_path / "evaluation/comparisons.tsv") if each["task"] == "scifact")
    assert float(row["difference"]) == pytest.approx(values["mean"] - values["base"], abs=1e-6)


def test_archived_scores_are_counted_again(published, prepared, tmp_path):
    file = scored(published, {"high": prepared["high"]}, tmp_path)["high"]
    assert not [*wrong_scores("high.json", file)]
    record = read_json(file)
    record["scores"][0]["value"] += 1e-6
    write_json(file, record)
    assert "value of ndcg_at_10" in "".join(wrong_scores("high.json", file))


def test_a_document_with_the_id_of_a_query_is_left_out_where_the_task_says_so(published):
    data = Collection({"a": "tell1", "b": "tell1 tell2"}, {"a": "tell1"}, {"a": {"b": 1}})
    for skipped, names in ((True, ["b"]), (False, ["a", "b"])):
        (found,) = retrieval.run_task(published[1]["base"], data, benchmark(published[0], "scifact", skip_same_id=skipped), {}, 8)
        assert sorted(name for name, _ in found["output"]) == names


# ---- merges -------------------------------------------------------------------------------------------------------------


def test_a_merge_is_loaded_by_the_library_and_its_dense_layer_is_merged(published, prepared):
    from sentence_transformers import SentenceTransformer

    texts = ["ask1 ask2 ask3", "title tell1 tell2 tell3 tell4"]
    loaded, expected = SentenceTransformer(str(prepared["mean"]), device="cpu"), mean_of(published[1])
    assert [type(part).__name__ for part in loaded] == ["Transformer", "Pooling", "Dense", "Normalize"]
    assert np.abs(loaded.encode(texts) - expected.encode(texts)).max() < 1e-6
    experts = [load_file(prepared[name] / DENSE) for name in world.EXPERTS]
    merged, name = load_file(prepared["mean"] / DENSE), "linear.weight"
    assert merged.keys() == {"linear.weight", "linear.bias"} and not torch.equal(merged[name], experts[0][name])
    assert torch.allclose(merged[name], sum(each[name] for each in experts) / 2, atol=1e-7)
    record = digest(prepared["mean"])
    assert DENSE in record["provenance"]["inputs"]["low"]["files"] and DENSE in record["provenance"]["files"]
    assert {"2_Dense/linear.weight", "2_Dense/linear.bias"} <= record["tensors"].keys() and DENSE in record["sha256"]
    assert not (prepared["mean"] / "model.safetensors.index.json").exists()


def test_dense_layers_in_pickles_are_merged_to_the_same_bytes(published, prepared, tmp_path):
    folders = {name: shutil.copytree(prepared[name], tmp_path / name) for name in ("base", *world.EXPERTS)}
    for folder in folders.values():
        torch.save(load_file(folder / DENSE), folder / "2_Dense/pytorch_model.bin")
        (folder / DENSE).unlink()
    experts = {name: folders[name] for name in world.EXPERTS}
    done = merge(base=folders["base"], experts=experts, method="weight_averaging", output=tmp_path / "out", quiet=True)
    assert not done.notes and not (tmp_path / "out/2_Dense/pytorch_model.bin").exists()
    for name in (DENSE, "model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (prepared["mean"] / name).read_bytes()


def test_another_format_of_a_merged_layer_is_not_taken_along(prepared, tmp_path):
    folders = {name: shutil.copytree(prepared[name], tmp_path / name) for name in ("base", *world.EXPERTS)}
    (folders["base"] / "2_Dense/pytorch_model.bin").write_bytes(b"the base's, which nothing reads")
    experts = {name: folders[name] for name in world.EXPERTS}
    merge(base=folders["base"], experts=experts, method="weight_averaging", output=tmp_path / "out", quiet=True)
    assert {path.name for path in (tmp_path / "out/2_Dense").iterdir()} == {"config.json", "model.safetensors"}


def test_an_expert_without_the_dense_layer_is_named(prepared, tmp_path):
    expert = shutil.copytree(prepared["low"], tmp_path / "low")
    (expert / DENSE).unlink()
    with pytest.raises(UserError, match=r"expert 'low' has no tensor '2_Dense/linear.bias'"):
        merge(base=prepared["base"], experts={"low": expert}, method="task_arithmetic", output=tmp_path / "out", quiet=True)


def test_an_adapter_is_not_made_of_a_model_whose_dense_layer_moved(prepared, tmp_path):
    with pytest.raises(UserError, match=r"moves '2_Dense/linear.bias', of a module of sentence-transformers"):
        extract_adapter(prepared["base"], prepared["low"], tmp_path / "adapter", rank=2)


# ---- what differs or is wrong -------------------------------------------------------------------------------------------


def other_pooling(model):
    record = read_json(model / "1_Pooling/config.json")
    write_json(model / "1_Pooling/config.json", {**record, "pooling_mode": "cls"})


def older_pooling(model):
    write_json(model / "1_Pooling/config.json", {"word_embedding_dimension": 32, "pooling_mode_max_tokens": True})


def unset_pooling(model):
    write_json(model / "1_Pooling/config.json", {"word_embedding_dimension": 32, "include_prompt": False})


def other_prompt(model):
    record = read_json(model / "config_sentence_transformers.json")
    write_json(model / "config_sentence_transformers.json", {**record, "prompts": {"query": "query: ", "document": ""}})


def other_similarity(model):
    record = read_json(model / "config_sentence_transformers.json")
    write_json(model / "config_sentence_transformers.json", {**record, "similarity_fn_name": "dot"})


def without_dense(model):
    write_json(model / "modules.json", [each for each in read_json(model / "modules.json") if "Dense" not in each["type"]])


DIFFERENT = {
    "pooling": (other_pooling, r"Pooling \(cls\).* those of the base .* Pooling \(mean\)"),
    "an older config": (older_pooling, r"Pooling \(max\)"),
    "no pooling mode": (unset_pooling, r"Pooling \(mean, without the prompt\)"),
    "a prompt": (other_prompt, r"prompt query 'query: '; those of"),
    "similarity": (other_similarity, "similarity dot"),
    "no dense layer": (without_dense, r"are Transformer, Pooling \(mean\); those of the base"),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_an_expert_with_other_modules_is_refused(kind, published, prepared, tmp_path):
    change, message = DIFFERENT[kind]
    model = shutil.copytree(published[0] / "models/tiny/sentences_low", tmp_path / "low")
    change(model)
    with pytest.raises(UserError, match=f"{message}.*Correct\n? `experts:` of the suite"):
        prepare(model, tmp_path / "out", prepared["base"])
    assert not (tmp_path / "out").exists()


MODULES, SETTINGS, POOLING = "modules.json", "config_sentence_transformers.json", "1_Pooling/config.json"
FORMS = [
    (MODULES, {}, "modules.json: no list of modules"),
    (MODULES, [], "modules.json: no list of modules"),
    (MODULES, [{"path": "1_Pooling"}], "modules.json: no list of modules"),
    (MODULES, [{"path": "../1_Pooling", "type": "x.Pooling"}], r"path '\.\./1_Pooling' of Pooling is no sub-folder"),
    (MODULES, [{"path": "../x", "type": "x.Normalize"}], r"path '\.\./x' of Normalize is no sub-folder"),
    (MODULES, [{"path": "2_Lost", "type": "x.Dense"}], "2_Lost/config.json: there is no such file"),
    (SETTINGS, {"prompts": ["a"]}, r"config_sentence_transformers.json: prompts \['a'\]; expected a mapping"),
    (SETTINGS, {"prompts": {"query": 3}}, "prompts {'query': 3}; expected a mapping with a text for each name"),
    (POOLING, {"pooling_mode": "men"}, "1_Pooling/config.json: pooling_mode 'men'; expected one or several of cls, max, mean"),
    (POOLING, {"pooling_mode": 3}, "pooling_mode 3; expected"),
    (POOLING, {"pooling_mode": []}, r"pooling_mode \[\]; expected"),
]


@pytest.mark.parametrize("base", [True, False])
@pytest.mark.parametrize(("file", "content", "message"), FORMS)
def test_modules_of_another_form_are_named(file, content, message, base, prepared, tmp_path):
    model = shutil.copytree(prepared["low"], tmp_path / "low")
    write_json(model / file, content)
    with pytest.raises(UserError, match=message):
        prepare(model, tmp_path / "out", None if base else prepared["base"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["sentence_transformers.models.Pool", "own_code.Normalize"])
def test_a_base_with_modules_that_the_library_has_not_is_refused(kind, prepared, tmp_path):
    model = shutil.copytree(prepared["base"], tmp_path / "model")
    write_json(model / MODULES, [*read_json(model / MODULES), {"path": "", "type": kind}])
    with pytest.raises(UserError, match=f"modules.json: type '{kind}'; expected a module of sentence_transformers, Transformer"):
        prepare(model, tmp_path / "out")


def test_the_modules_that_a_base_may_have_are_those_of_the_library():
    from sentence_transformers.sentence_transformer import modules

    assert {*KINDS} == {*modules.__all__} - {"Module", "InputModule"}


@pytest.mark.parametrize("base", [True, False])
def test_a_model_without_the_weights_of_its_dense_layer_is_not_prepared(base, published, prepared, tmp_path):
    model = shutil.copytree(published[0] / "models/tiny/sentences_low", tmp_path / "model")
    (model / DENSE).unlink()
    with pytest.raises(UserError, match=r"model: no weights of the dense layer '2_Dense'; expected 2_Dense/model\.safetensors"):
        prepare(model, tmp_path / "out", None if base else prepared["base"])


def test_a_merge_of_such_an_expert_says_so(prepared, tmp_path):
    model = shutil.copytree(prepared["low"], tmp_path / "low")
    other_pooling(model)
    done = merge(base=prepared["base"], experts={"low": model}, method="task_arithmetic", output=tmp_path / "out", quiet=True)
    (note,) = done.notes
    assert "expert 'low': its modules are Transformer, Pooling (cls)" in note and "has those of the base" in note


def test_a_base_of_transformers_gets_the_mean_and_experts_need_no_more(published, tmp_path):
    prepare(published[0] / "network", tmp_path / "base")
    plain = world.encoder(published[0] / "network", dense=None)
    plain.save_pretrained(str(tmp_path / "plain"), create_model_card=False)
    prepare(tmp_path / "plain", tmp_path / "expert", tmp_path / "base")  # it normalises, which a cosine does not see
    assert not (tmp_path / "expert/modules.json").exists()
    model = retrieval.load_model(tmp_path / "expert", "cpu", "float32", {})
    given, expected = (np.array(each.encode(["ask1 ask2"], normalize_embeddings=True)) for each in (model, plain))
    assert np.abs(given - expected).max() < 1e-6
    with pytest.raises(UserError, match=r"which are those of a folder without modules\.json"):
        prepare(published[0] / "models/tiny/sentences_low", tmp_path / "out", tmp_path / "base")


def append(folder, name, row):
    with open(folder / name, "a") as lines:
        lines.write(f"{json.dumps(row)}\n")


def judged(query, document, score):
    return lambda folder: append(
        folder, "qrels/test.jsonl", {"query-id": query, "corpus-id": document, **({} if score is None else {"score": score})}
    )


def table(content):
    """Return a change that puts a table in the place of the judgements."""

    def change(folder):
        (folder / "qrels/test.jsonl").unlink()
        (folder / "qrels/test.tsv").write_bytes(content)

    return change


def document(**row):
    return lambda folder: append(folder, "corpus.jsonl", {"_id": "new", "text": "", **row})


HEADER = b"query-id\tcorpus-id\tscore\n"
WRONG = {
    "no corpus": (lambda folder: (folder / "corpus.jsonl").unlink(), "corpus.jsonl: there is no such file"),
    "an empty corpus": (lambda folder: (folder / "corpus.jsonl").write_text("\n"), "corpus.jsonl: is empty"),
    "no judgements": (lambda folder: (folder / "qrels/test.jsonl").unlink(), "no judgements of split 'test': .* found no file"),
    "empty judgements": (lambda folder: (folder / "qrels/test.jsonl").write_text(""), "qrels of test: no judgement"),
    "an unknown query": (judged("q99", "d1", 1), "1 queries are not in queries.jsonl: q99"),
    "an unknown document": (judged("q1", "d999", 1), "1 documents are not in corpus.jsonl: d999"),
    "nothing relevant": (judged("other", "d1", 0), "1 of 41 queries have no relevant document .*: other"),
    "judged twice": (judged("q1", "d1", 0), "line 81: document 'd1' is judged twice for query 'q1'"),
    "no score": (judged("q1", "d9", None), "line 81: no 'score'; expected query-id, corpus-id, score"),
    "half a score": (judged("q1", "d9", 0.5), "line 81: score 0.5; expected a whole number"),
    "a score that is huge": (judged("q1", "d9", 1e300), r"line 81: score 1e\+300; expected a whole number, of at most 1,000,000"),
    "a score above floats": (judged("q1", "d9", 10**400), "line 81: score 10{77}.*; expected a whole number"),
    "a score that is none": (judged("q1", "d9", float("nan")), "line 81: score nan; expected a whole number"),
    "a list for a score": (judged("q1", "d9", [1]), r"line 81: score \[1\]; expected a text or a number"),
    "a list for a text": (document(text=["a"]), r"corpus.jsonl, line 81: text \['a'\]; expected a text or a number"),
    "a mapping for a title": (document(title={"a": 1}), "corpus.jsonl, line 81: title {'a': 1}; expected a text"),
    "half a character": (document(text="a \ud800"), r"corpus.jsonl, line 81: text holds '\\ud800', half of a surrogate pair"),
    "other bytes": (
        lambda folder: (folder / "corpus.jsonl").write_bytes(b'{"_id": "a", "text": "b"}\n{"_id": "c", "text": "caf\xe9"}\n'),
        "corpus.jsonl, line 2: not in UTF-8 .*save it in this encoding",
    ),
    "other bytes in a table": (table(HEADER + b"q1\td1\xe9\t1\n"), "qrels/test.tsv, line 2: not in UTF-8"),
    "a long field": (table(HEADER + b"\nq1\t%s\t1\n" % (b"d" * 131_073)), "test.tsv, line 3: corpus-id has 131,073 characters"),
    "a short line": (table(HEADER + b"q1\td1\n"), "test.tsv, line 2: no 'score'"),
    "no header": (
        table(b"q1\td1\t1\n"),
        r"test.tsv, line 1: 'q1\\td1\\t1'; expected the header query-id, corpus-id, score",
    ),
    "spaces for tabs": (table(HEADER.replace(b"\t", b" ")), "test.tsv, line 1: 'query-id corpus-id score'; expected the header"),
    "an empty table": (table(b""), "test.tsv, line 1: ''; expected the header"),
    "an id twice": (
        lambda folder: append(folder, "corpus.jsonl", {"_id": "d1", "text": ""}),
        "the id 'd1' stands twice",
    ),
    "no JSON": (lambda folder: (folder / "queries.jsonl").write_text("{"), "queries.jsonl, line 1: not valid JSON"),
    "no object": (
        lambda folder: (folder / "queries.jsonl").write_text("3"),
        "line 1: no '_id'; expected _id, text",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_data_of_another_form_are_refused_with_the_task_and_the_line(kind, published, tmp_path):
    change, message = WRONG[kind]
    folder = shutil.copytree(published[0] / "datasets/tiny/scifact", tmp_path / "datasets/tiny/scifact")
    change(folder)
    with pytest.raises(UserError, match=f"^config/tasks.yaml: scifact: harness: .*{message}"):
        retrieval.load_tasks(benchmark(tmp_path, "scifact"), tmp_path)


def test_judgements_of_the_archives_of_beir_are_read_alike(published, tmp_path):
    folder = shutil.copytree(published[0] / "datasets/tiny/nfcorpus", tmp_path / "nfcorpus")
    before = read(folder, "test")
    rows = [json.loads(line) for line in (folder / "qrels/test.jsonl").read_text().splitlines()]
    text = "".join("\t".join(str(int(v) if isinstance(v, float) else v) for v in row.values()) + "\n" for row in rows)
    (folder / "qrels/test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{text}")
    (folder / "qrels/test.jsonl").unlink()
    assert read(folder, "test") == before
    for file in ("qrels/test.tsv", "corpus.jsonl"):  # with a byte order mark
        (folder / file).write_text((folder / file).read_text(), encoding="utf-8-sig")
    assert read(folder, "test") == before


def test_a_query_whose_only_relevant_document_is_skipped_is_named(published, tmp_path):
    folder = shutil.copytree(published[0] / "datasets/tiny/scifact", tmp_path / "datasets/tiny/scifact")
    append(folder, "queries.jsonl", {"_id": "d1", "text": "ask1"})
    judged("d1", "d1", 1)(folder)
    assert retrieval.load_tasks(benchmark(tmp_path, "scifact"), tmp_path)["scifact"].judged["d1"] == {"d1": 1}
    task = benchmark(tmp_path, "scifact", skip_same_id=True)
    with pytest.raises(UserError, match=r"1 of 41 queries have no relevant document .* another id than the query\): d1;"):
        retrieval.load_tasks(task, tmp_path)
    judged("d1", "d2", 1)(folder)
    assert retrieval.load_tasks(task, tmp_path)["scifact"].judged["d1"] == {"d1": 1, "d2": 1}


def test_a_damaged_file_of_weights_is_told(prepared, tmp_path):
    model = shutil.copytree(prepared["base"], tmp_path / "model")
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(UserError, match="model: sentence-transformers cannot load this model: "):
        retrieval.load_model(model, "cpu", "float32", {})


def test_a_model_with_numbers_that_are_none_is_named(published):
    model = copy.deepcopy(published[1]["base"])
    next(model.parameters()).data.fill_(float("nan"))
    task = benchmark(published[0], "scifact")
    with pytest.raises(UserError, match="80 of 80 embeddings of documents are NaN or infinite"):
        retrieval.run_task(model, retrieval.load_tasks(task, published[0])["scifact"], task, {}, 16)


def test_a_folder_that_the_library_cannot_load_and_a_missing_library_are_told(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="sentence-transformers cannot load this model"):
        retrieval.load_model(tmp_path, "cpu", "float32", {})
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"sentence_transformers is not installed.*make language"):
        retrieval.load_model(tmp_path, "cpu", "float32", {})
