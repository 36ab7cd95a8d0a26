"""A tiny LLaVA that was trained on drawn pictures, scored by the script of the workflow; bad input is one message each."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from zipfile import ZipFile

import drawn_pictures
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import tiny_vlm as world
import torch

from nan_merge.core.errors import UserError
from nan_merge.models.benchmark_scores import Scoring, score
from nan_merge.models.harness.tasks import Benchmark
from nan_merge.models.own_tasks import SHIPPED

TASKS = {"ai2d": "ai2d", "mathvista": "mathvista", "wemath": "we_math", "geoqa": "geoqa"}  # task -> folder
SETTINGS = {"chat_template": True}


def entry(task, **changes):
    return {"folder": TASKS[task], "tasks": [task], "metric": "exact_match", "filter": "rules", **changes}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Train the model, draw the data, score all four benchmarks by the script."""
    folder = tmp_path_factory.mktemp("pictures")
    torch.set_num_threads(1)
    world.publish_model(folder / "model")
    drawn_pictures.publish(folder / "data")
    geoqa = folder / "data/geoqa"
    for name in ("images.zip", "test_questions.jsonl", "test_answers.jsonl"):  # an asset each
        (folder / f"assets/{name}").mkdir(parents=True)
        shutil.copy(geoqa / name, folder / f"assets/{name}")
    data = [*(folder / "data" / task for task in TASKS if task != "geoqa"), *sorted((folder / "assets").iterdir())]
    entries = [{"id": task, **entry(task), **({"folders": 3} if task == "geoqa" else {})} for task in TASKS]
    command = [sys.executable, "-m", "scripts.evaluate_benchmark", "--checkpoints", folder / "model", "--data", *data,
               "--suite", "s", "--method", "pretrained", "--seed", "0", "--cache", folder / "cache",
               "--scores", folder / "all.json", "--spec", json.dumps({"benchmarks": entries, "settings": SETTINGS})]  # fmt: skip
    paths = os.pathsep.join([str(tiny.ROOT / "workflow"), str(tiny.ROOT)])
    done = subprocess.run([*map(str, command)], env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    return folder


def scores(folder, task):
    found = json.loads((folder / "all.json").read_text())["scores"]
    return {each["metric"]: (each["value"], each["stderr"], each["n"]) for each in found if each["task"] == task}


def lines(folder, task):
    with gzip.open(folder / "all.jsonl.gz", "rt") as stream:
        return [line for line in map(json.loads, stream) if line["benchmark"] == task]


def rows(folder, task):
    (file,) = (folder / "data" / task).rglob("*.parquet")
    import datasets

    return [*datasets.Dataset.from_parquet(str(file))]


@torch.no_grad()
def generated(folder, picture, prompt):
    """Return what the model writes, without the harness."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    made = AutoProcessor.from_pretrained(folder / "model")
    model = LlavaForConditionalGeneration.from_pretrained(folder / "model", dtype=torch.float32).eval()
    inputs = made(images=[picture], text=[prompt], return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=16, do_sample=False)
    return made.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_outputs_are_those_of_the_model_outside_the_harness_and_depend_on_the_picture(made):
    for task in ("ai2d", "mathvista"):
        documents, found = rows(made, task), lines(made, task)
        for number in range(0, 20, 5):
            document = documents[number]
            prompt = world.prompt(document, world.processor())
            assert found[number]["output"] == generated(made, drawn_pictures.picture(document), prompt)
        assert len({line["output"] for line in found}) >= 3


def test_what_the_model_has_learned_is_counted_as_right(made):
    assert scores(made, "ai2d")["accuracy"][0] >= 0.8 and scores(made, "mathvista")["accuracy"][0] >= 0.5
    for task, field in (("ai2d", "options"), ("mathvista", "choices")):
        letters = [drawn_pictures.answer(row) for row in rows(made, task)]
        for line, letter, row in zip(lines(made, task), letters, rows(made, task), strict=True):
            free = field == "choices" and row["question_type"] == "free_form"
            assert line["right"] == (line["answer"] == letter), (line, letter, free)


def test_shares_without_an_answer_and_cut_off_are_metrics(made):
    for task in TASKS:
        found, kept = scores(made, task), lines(made, task)
        assert found["unanswered"][0] == pytest.approx(np.mean([line["answer"] == "[invalid]" for line in kept]))
        assert found["cut_off"][0] == pytest.approx(np.mean([line["cut"] for line in kept]))
    assert scores(made, "ai2d")["cut_off"][0] == 0


def test_questions_on_one_picture_are_one_group_and_problems_of_we_math_are(made):
    with np.load(made / "all.npz") as arrays:
        assert len({*arrays["ai2d.cluster"]}) == 20 and arrays["ai2d.cluster"][0] == arrays["ai2d.cluster"][20]
        assert arrays["wemath.cluster"].tolist() == [0] * 3 + [1] * 3 + [2] * 4
        for task in TASKS:
            right = (arrays[f"{task}.prediction"] == arrays[f"{task}.label"]).mean()
            assert right == pytest.approx(scores(made, task)["accuracy"][0])


def test_four_way_scores_of_we_math_are_there_and_no_other_task_has_them(made):
    found = scores(made, "wemath")
    assert {"ik", "ig", "cm_strict", "cm_loose", "score_strict", "score_loose"} <= found.keys()
    for mode in ("strict", "loose"):
        assert found[f"score_{mode}"][0] == pytest.approx(found[f"cm_{mode}"][0] + found["ig"][0] / 2)
    assert not {"ik", "score_strict"} & scores(made, "ai2d").keys()


def test_geoqa_reads_questions_answers_and_pictures_of_three_assets(made):
    assert scores(made, "geoqa")["accuracy"][2] == len(lines(made, "geoqa")) == 6
    assert len({line["group"] for line in lines(made, "geoqa")}) == 6


# ---- bad input -----------------------------------------------------------------------------------------------------


def told(model, task, data, out, **changes):
    """Return the message for a model, or data, that cannot be scored."""
    scoring = Scoring(settings=SETTINGS, cache=out / "cache", batch_size=4)
    with pytest.raises(UserError) as error:
        score(scoring, [model], [Benchmark(task, data, entry(task, **changes))],
              {"suite": "s", "method": "m", "seed": 0}, out / "all.json")  # fmt: skip
    return str(error.value)


def changed(made, out, change, task="ai2d"):
    """Copy the data of a task with a table that `change` has made of its own."""
    (file,) = (made / "data" / task).rglob("*.parquet")
    copy = out / "odd" / file.relative_to(made / "data" / task)
    copy.parent.mkdir(parents=True)
    pq.write_table(change(pq.read_table(file)), copy)
    return out / "odd"


def with_picture(number, picture):
    def change(table):
        pictures = table["image"].to_pylist()
        pictures[number] = picture(pictures[number]) if callable(picture) else picture
        column = pa.array(pictures, table.schema.field("image").type)
        return table.set_column(table.schema.get_field_index("image"), table.schema.field("image"), column)

    return change


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ({"bytes": b"no picture", "path": None}, "the picture of document 3 cannot be decoded"),
        (lambda whole: {**whole, "bytes": whole["bytes"][:60]}, "the picture of document 3 cannot be decoded"),
        (None, "document 3 has no picture"),
        ({"bytes": b"", "path": None}, "document 3 has no picture"),
    ],
)
def test_a_picture_that_cannot_be_decoded_or_is_missing_is_told_with_its_document(picture, message, made, tmp_path):
    data = changed(made, tmp_path, with_picture(3, picture))
    text = told(made / "model", "ai2d", data, tmp_path)
    assert text.startswith("config/tasks.yaml: ai2d: harness: ") and message in text and str(data) in text


@pytest.mark.parametrize(
    ("task", "renamed"),
    [("ai2d", "options"), ("ai2d", "image"), ("mathvista", "query"), ("mathvista", "decoded_image"), ("wemath", "key")],
)
def test_data_of_another_revision_are_told_with_the_column(task, renamed, made, tmp_path):
    data = changed(made, tmp_path, lambda t: t.rename_columns([n if n != renamed else "other" for n in t.column_names]), task)
    text = told(made / "model", task, data, tmp_path)
    assert f"column '{renamed}' is missing; found " in text and "Lock that revision of the asset" in text


def test_odd_steps_of_we_math_and_missing_files_are_told(made, tmp_path):
    def change(table):
        place = table.schema.get_field_index("key")
        return table.set_column(place, "key", pa.array([key.replace("steps", "step") for key in table["key"].to_pylist()]))

    assert "column 'key' has '2step_1'" in told(made / "model", "wemath", changed(made, tmp_path, change, "wemath"), tmp_path)
    (tmp_path / "empty").mkdir()
    for task, missing in (("mathvista", "data files found in"), ("geoqa", "there is no test_questions.jsonl")):
        assert missing in told(made / "model", task, tmp_path / "empty", tmp_path)
    (tmp_path / "empty/data").mkdir()
    shutil.copy(made / "data/ai2d/data/test-00000-of-00001.parquet", tmp_path / "empty/data/validation.parquet")
    assert "data files found in" in told(made / "model", "ai2d", tmp_path / "empty", tmp_path)


def test_a_damaged_archive_and_an_absent_picture_of_geoqa_are_told(made, tmp_path):
    copy = shutil.copytree(made / "data/geoqa", tmp_path / "geoqa")
    with ZipFile(copy / "images.zip") as archive, ZipFile(copy / "fewer.zip", "w") as fewer:
        for name in archive.namelist()[1:]:
            fewer.writestr(name, archive.read(name))
    os.replace(copy / "fewer.zip", copy / "images.zip")
    assert "document 0 has no picture" in told(made / "model", "geoqa", copy, tmp_path)
    (copy / "images.zip").write_bytes(b"no archive")
    assert "images.zip is damaged" in told(made / "model", "geoqa", copy, tmp_path)
    (copy / "test_answers.jsonl").write_text("")
    assert "test_answers.jsonl has no answer to question 0" in told(made / "model", "geoqa", copy, tmp_path)


def edited(made, out, name, **changes):
    model = shutil.copytree(made / "model", out / "model")
    record = json.loads((model / name).read_text())
    (model / name).write_text(json.dumps({k: v for k, v in {**record, **changes}.items() if v is not None}))
    return model


def test_a_model_without_what_takes_pictures_is_told(made, tmp_path):
    def message(model):
        return told(model, "ai2d", made / "data/ai2d", tmp_path)

    model = shutil.copytree(made / "model", tmp_path / "plain")
    (model / "chat_template.jinja").unlink()
    assert message(model).startswith(f"{model}: its processor has no chat template, which `harness: chat_template: true`")
    for name in ("processor_config.json", "preprocessor_config.json"):
        (model / name).unlink(missing_ok=True)
    assert message(model).startswith(f"{model}: no processor, which prepares the pictures")
    original = edited(made, tmp_path, "config.json", vision_config=None)
    assert "no `vision_config`" in message(original) and "nan-merge convert" in message(original)


@pytest.mark.parametrize("number", [4, 999])
def test_a_model_whose_token_of_pictures_is_another_or_no_token_is_told(number, made, tmp_path):
    model = edited(made, tmp_path, "config.json", image_token_index=number, image_token_id=number)
    text = told(model, "ai2d", made / "data/ai2d", tmp_path)
    assert text.startswith(f"{model}: the token of pictures, number {number} of config.json, is ") and "'<image>'" in text


def test_a_processor_that_cuts_pictures_in_another_way_than_its_model_is_told(made, tmp_path):
    model, odd = world.untrained("llava_next"), [[32, 32]]
    model.save_pretrained(tmp_path / "model")
    processor = world.processor("llava_next")
    processor.image_processor.image_grid_pinpoints = odd
    processor.save_pretrained(tmp_path / "model")
    text = told(tmp_path / "model", "ai2d", made / "data/ai2d", tmp_path)
    assert text.startswith(
        f"{tmp_path / 'model'}: `image_grid_pinpoints` is {odd} in the processor, which cuts pictures by it, and"
    )


@pytest.mark.parametrize(("kind", "other"), [("llava", "llava_next"), ("llava_next", "llava")])
def test_a_processor_of_the_other_kind_of_llava_is_told(kind, other, made, tmp_path):
    model = tmp_path / "model"
    world.untrained(kind).save_pretrained(model)
    world.processor(other).save_pretrained(model)
    sizes = {"llava": None, "llava_next": [[*each] for each in world.GRID]}
    found = (
        f"`image_grid_pinpoints` is {sizes[other]} in the processor, which cuts pictures by it, and {sizes[kind]} in config.json"
    )
    assert told(model, "ai2d", made / "data/ai2d", tmp_path).startswith(f"{model}: {found}")


def test_an_output_that_reaches_the_limit_is_counted(made, tmp_path):
    mine = shutil.copytree(SHIPPED / "ai2d", tmp_path / "mine", ignore=shutil.ignore_patterns("__pycache__"))
    task = mine / "ai2d.yaml"
    task.write_text(task.read_text().replace("max_gen_toks: 16", "max_gen_toks: 1"))
    scoring = Scoring(settings=SETTINGS, cache=tmp_path / "cache", batch_size=4)
    harness = entry(
        "ai2d", folder=os.path.relpath(mine) if os.path.relpath(mine).startswith(".") else f"./{os.path.relpath(mine)}"
    )
    score(scoring, [made / "model"], [Benchmark("ai2d", made / "data/ai2d", harness)],
          {"suite": "s", "method": "m", "seed": 0}, tmp_path / "all.json")  # fmt: skip
    assert scores(tmp_path, "ai2d")["cut_off"][0] == 1 and scores(made, "ai2d")["cut_off"][0] == 0
    assert scores(tmp_path, "ai2d")["accuracy"] == scores(made, "ai2d")["accuracy"]
