"""Every form of a mergekit file, merged by the command, has the values that the file says."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from reproduce import run

from benchmarks.parity import import_models
from benchmarks.parity.models import read
from nan_merge.cli import import_mergekit
from nan_merge.core.errors import UserError
from nan_merge.standalone.mergekit_files import template_of


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return import_models.make(tmp_path_factory.mktemp("forms") / "models").folder


@pytest.fixture
def work(models, tmp_path, monkeypatch):
    """A folder of links to the models, in which the command runs."""
    for folder in models.iterdir():
        if folder.is_dir():
            shutil.copytree(folder, tmp_path / folder.name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def merge(*documents):
    """Merge by a file with these documents, and return the tensors."""
    with open("file.yml", "w", encoding="utf-8") as file:
        yaml.safe_dump_all(documents, file, allow_unicode=True, sort_keys=False)
    import_mergekit.main(["file.yml", "--output", "out", "--quiet", "--threads", "1"])
    return read(Path("out"))


def content(weights, method="task_arithmetic", **more):
    """Return a document over models by their weights."""
    listed = [{"model": model, "parameters": {"weight": weight}} for model, weight in weights.items()]
    return {"merge_method": method, "base_model": "base", "models": listed, "dtype": "float64", **more}


def summed(work, **weights):
    """Return base + sum of weight * (expert - base); a weight is a number, or a function of the layer (None outside)."""
    base, experts = read(work / "base"), {name: read(work / name) for name in weights}
    found = {}
    for name, tensor in base.items():
        layer = int(name.split(".")[2]) if ".layers." in name else None
        values = {expert: weight(layer, name) if callable(weight) else weight for expert, weight in weights.items()}
        found[name] = tensor + sum(value * (experts[each][name] - tensor) for each, value in values.items())
    return found


def same(found, expected, within=1e-12):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor, atol=within, rtol=0, err_msg=name)


def test_slices_have_weights_and_gradients_of_their_own(work):
    def part(first, end, weight):
        sources = [{"model": model, "layer_range": [first, end]} for model in ("base", "expert_0")]
        return {"sources": sources, "parameters": {"weight": weight}}

    slices = [part(0, 4, [0.0, 0.6]), part(4, 5, [0.1, 0.9]), part(5, 6, 0.3)]
    document = content({}, slices=slices)
    del document["models"]
    weights = [0.0, 0.2, 0.4, 0.6, 0.9, 0.3]  # a slice of one layer has the end of its gradient

    def weight(layer, name):
        return weights[layer] if layer is not None else 0.0 if "embed" in name else 0.3

    same(merge(document), summed(work, expert_0=weight))


def test_filters_fall_through_to_the_weight_of_all_models(work):
    weight = [{"filter": "self_attn", "value": [0, 1]}, {"filter": "mlp", "value": 0.5}]
    document = content({"expert_0": weight}, parameters={"weight": "2e-1"})
    same(
        merge(document),
        summed(work, expert_0=lambda layer, name: layer / 5 if "self_attn" in name else 0.5 if "mlp" in name else 0.2),
    )


def test_models_are_mappings_and_adapters_on_the_base(work):
    settings = json.loads((work / "adapter/adapter_config.json").read_text())
    factors = read(work / "adapter/adapter_model.safetensors")
    document = content({}, models=[
        {"model": {"model": "base", "lora": {"path": "adapter"}}, "parameters": {"weight": 0.7}},
        {"model": {"model": {"path": "expert_1"}}, "parameters": {"weight": 0.4}},
    ])  # fmt: skip
    expected = summed(work, expert_1=0.4)
    for name in expected:
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" in factors:
            update = factors[f"{stem}.lora_B.weight"] @ factors[f"{stem}.lora_A.weight"]
            expected[name] = expected[name] + 0.7 * settings["lora_alpha"] / settings["r"] * update
    found = merge(document)
    same(found, expected, within=1e-7)
    shutil.rmtree("out")
    document["models"][0]["model"] = "base+adapter"
    same(merge(document), found, within=0)


def average(*models, **more):
    """Return a document that averages models."""
    listed = [{"model": model, "parameters": {"weight": 1}} for model in models]
    return {"merge_method": "linear", "models": listed, "dtype": "float64", **more}


@pytest.mark.parametrize("listed", [("base", "base+adapter"), ("base+adapter", "base")])
def test_an_average_of_a_model_and_its_adapter_stands_on_the_model(listed, work):
    whole = merge(content({"base+adapter": 0.5}))
    shutil.rmtree("out")
    same(merge(average(*listed)), whole)


def test_an_average_of_adapters_of_one_model_needs_no_base(work):
    shutil.copytree("adapter", "second")
    whole = merge(content({"base+adapter": 0.5, "base+second": 0.5}))
    shutil.rmtree("out")
    same(merge(average("base+adapter", "base+second")), whole)


AVERAGES = {
    "an adapter first": (
        average("base+adapter", "expert_1"),
        "the base 'base+adapter', the first of `models` since there is no `base_model`, is not supported;",
        "write `base_model: base`",
    ),
    "a base without a weight": (
        average("base+adapter", "expert_1", base_model="base"),
        "the base base is averaged with them, in mergekit too, and has no `weight`; list it with one,",
        "or remove `base_model`, which adapters of one model do not need",
    ),
}


@pytest.mark.parametrize("case", AVERAGES)
def test_what_an_average_with_adapters_lacks_is_said(case, work):
    document, *parts = AVERAGES[case]
    with pytest.raises(UserError) as error:
        merge(document)
    assert not [part for part in parts if part not in str(error.value)], error.value


ODD = [
    "mein modell",
    "größe-7b",
    "ckpt-lr=2e-5",
    "_tmp",
    "llama+math",
    "a{b}",
    "$(touch x)",
    "it's",
    "-lead",
    "two\nlines",
    "a;b&c",
]


@pytest.mark.parametrize("name", ODD)
def test_a_folder_of_any_name_is_a_model(name, work):
    (work / "expert_1").rename(work / name)
    expected = summed(work, **{"expert_0": 0.5, name: 0.25})
    same(merge(content({"expert_0": 0.5, name: 0.25})), expected)
    assert not (work / "x").exists()


def test_documents_are_merged_in_an_order_that_they_can_be(work):
    last = content({"half done": 0.5, "expert_2": 0.5})
    first = content({"expert_0": 0.5, "expert_1": 0.5}, name="half done")
    found = merge(last, first)
    half = summed(work, expert_0=0.5, expert_1=0.5)
    same(read(work / "out-half done"), half)
    base, other = read(work / "base"), read(work / "expert_2")
    same(found, {name: 0.5 * half[name] + 0.5 * other[name] for name in base})


@pytest.mark.parametrize("name", ["../../x", "a/b", 5, ["a"], "a\nb"])
def test_the_name_of_a_document_stays_beside_the_output(name, work):
    with pytest.raises(UserError, match=r"file\.yml: name: expected a text that can be a part of a folder's name"):
        merge(content({"expert_0": 0.5}, name=name), content({"expert_1": 0.5}))
    assert not [*work.glob("out*")]


TOKENIZERS = [{"tokenizer_source": "base"}, {"tokenizer": {"source": "base"}}]


@pytest.mark.parametrize("key", TOKENIZERS)
def test_with_the_tokenizer_of_the_base_rows_that_a_model_lacks_stay_at_the_base(key, work):
    found = merge(content({"longer": 0.5, "shorter": 0.4}, **key))
    base, longer, shorter = (read(work / name) for name in ("base", "longer", "shorter"))
    for name, tensor in base.items():
        steps = [0.5 * (longer[name][: len(tensor)] - tensor), np.zeros_like(tensor)]
        steps[1][: len(shorter[name])] = 0.4 * (shorter[name] - tensor[: len(shorter[name])])
        np.testing.assert_allclose(found[name], tensor + sum(steps), atol=1e-12, err_msg=name)
    assert (work / "out/tokenizer.json").read_bytes() == (work / "base/tokenizer.json").read_bytes()


SHARED = [
    {"tokenizer_source": "union"},
    {"tokenizer": {}},
    {"tokenizer_source": "expert_1"},
    {"tokenizer": {"source": "expert_0"}},
]


@pytest.mark.parametrize("key", SHARED)
def test_a_tokenizer_that_all_models_share_changes_no_row(key, work):
    same(merge(content({"expert_0": 0.5, "expert_1": 0.4}, **key)), summed(work, expert_0=0.5, expert_1=0.4))


@pytest.mark.parametrize("source", ["union", "longer"])
def test_a_tokenizer_with_more_tokens_than_the_base_is_refused(source, work):
    with pytest.raises(UserError, match=rf"tokenizer_source: {source}: 'longer' and the base differ in 2 tokens: 'word128'; 'w"):
        merge(content({"longer": 0.5}, tokenizer_source=source))


@pytest.mark.parametrize("source", ["union", "base", "expert_1"])
def test_tokens_with_other_numbers_than_in_the_base_are_refused(source, work):
    text = (work / "expert_1/tokenizer.json").read_text().replace('"word7": 7', '"word7": 8').replace('"word8": 8', '"word8": 7')
    (work / "expert_1/tokenizer.json").write_text(text)
    with pytest.raises(UserError, match="2 tokens of 'expert_1' have other numbers than in the base: 'word7'; 'word8'"):
        merge(content({"expert_0": 0.5, "expert_1": 0.5}, tokenizer_source=source))


TEXT = "{% for message in messages %}<{{ message.role }}>'$x'\n{{ message.content }}\n{% endfor %}"


def test_a_chat_template_of_the_file_is_that_of_the_output(work):
    merge(content({"expert_0": 0.5}, chat_template=TEXT))
    assert (work / "out/chat_template.jinja").read_text() == TEXT


def test_auto_takes_the_chat_template_of_most_models(work):
    merge(content({"expert_0": 0.1, "longer": 0.1, "shorter": 0.1}, chat_template="auto", tokenizer_source="base"))
    assert template_of(work / "out") == template_of(work / "shorter") != template_of(work / "expert_0")


@pytest.mark.parametrize("template", ["chatml", "llama3", 5, ["a"], "no brace in a text of more than twenty letters"])
def test_a_chat_template_that_is_none_is_refused(template, work):
    with pytest.raises(UserError, match=r"chat_template: .* is not supported; supported are `auto` and a template in Jinja"):
        merge(content({"expert_0": 0.5}, chat_template=template))


@pytest.mark.parametrize(("types", "expected"), [({"out_dtype": "bfloat16"}, "BF16"), ({"dtype": "torch.float16"}, "F16")])
def test_the_type_of_the_output_is_that_of_the_file(types, expected, work):
    merge({**content({"expert_0": 0.5}), **types})
    header = (work / "out/model.safetensors").read_bytes()[:400]
    assert f'"dtype":"{expected}"'.encode() in header.replace(b" ", b"")


def test_the_printed_command_merges_the_same(work, capsys):
    document = content({"expert_0": [0.1, 1e-05], "expert_1": -0.3}, "dare_ties", chat_template=TEXT)
    merge(document)
    capsys.readouterr()
    import_mergekit.main(["file.yml"])
    command = capsys.readouterr().out.partition("\n\n#")[0]
    run(command, "--output", "again", "--threads", "1")
    assert (work / "again/model.safetensors").read_bytes() == (work / "out/model.safetensors").read_bytes()
    assert (work / "again/chat_template.jinja").read_text() == TEXT
