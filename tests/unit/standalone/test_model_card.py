"""The model card of a merge is what the hub reads, and says what went in."""

import json

import pytest
import transformers
import yaml
from huggingface_hub import ModelCard

from nan_merge.standalone.model_card import card, command, document, front_matter, loading, merged_licence, origin
from nan_merge.standalone.sources import Source

TABLE = {"experts": ["code", "math"], "scope": "model", "rows": {"model": [0.25, 0.75]}, "norms": {"model": [3.0, 1.0]}}

LOADING = {"library": "transformers", "model": "AutoModelForCausalLM", "tokenizer": "AutoTokenizer"}


def model(title, **more):
    return {
        "title": title,
        "path": f"/models/{title}",
        "xxh3_128": "0" * 64,
        "files": {"model.safetensors": {"size": 1234}},
        **more,
    }


def record(**more):
    inputs = {"base": model("base"), "code": model("owner/code", hub="owner/code", commit="a" * 40), "math": model("math|2")}
    method_spec = {"coefficients": {"nan": {"norm_of": "task_vector", "total": 1.0}}}
    return {"name": "merged", "method": "averaging", "label": "Averaging + NAN", "method_spec": method_spec,
            "coefficients": TABLE,
            "inputs": inputs, "seed": 0, "notes": [], "versions": {"numpy": "2.4"},
            "loading": LOADING, **more}  # fmt: skip


def with_licences(*licences):
    names = ("base", "code", "math")
    return {"inputs": {n: model(n, **({"license": one} if one else {})) for n, one in zip(names, licences, strict=True)}}


def test_the_hub_s_own_reader_finds_the_metadata():
    inputs = {name: model(f"o/{name}", license="mit") for name in ("base", "code", "math")}
    inputs["base"]["pipeline_tag"] = "text-generation"
    found = ModelCard(card(record(inputs=inputs)))
    assert found.data.to_dict() == {
        "base_model": ["o/base", "o/code", "o/math"],
        "base_model_relation": "merge",
        "tags": ["merge", "nan-merge"],
        "library_name": "transformers",
        "license": "mit",
        "pipeline_tag": "text-generation",
    }


def test_the_card_says_models_coefficients_recipe_and_command():
    text = card(record(notes=["the vocabulary of 'math' was cut"], reference="2505.16148", exclude=["^head"], dtype="bfloat16"))
    for part in (
        "# merged\n",
        "merge of 2 fine-tuned models of `base` by the method *Averaging + NAN* ([arXiv:2505.16148](https://arxiv.org/abs/2505.16148))",
        "| code | `owner/code` | 0.25 | not stated |",
        "| math | `math\\|2` | 0.75 | not stated |",
        "- the vocabulary of 'math' was cut",
        "```console\nnan-merge merge \\\n    --base base \\\n"
        f"    --expert code=owner/code@{'a' * 40} \\\n    --expert 'math=math|2' \\\n    --method averaging \\\n"
        "    --exclude '^head' \\\n    --dtype bfloat16 \\\n    --output merged\n```",
        "Folders on the machine where it was made: `base`, `math|2`.",
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("merged")\ntokenizer = AutoTokenizer.from_pretrained("merged")\n```',
        f"| code | {'a' * 40} | `{'0' * 64}` |",
        "| base | model.safetensors | 1,234 |  |",
    ):
        assert part in text
    recipe = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert recipe == {"averaging": record()["method_spec"], "exclude": ["^head"], "seed": 0, "dtype": "bfloat16"}


def test_no_path_of_the_machine_stands_in_the_card():
    assert "/models/" not in card(record())


NEEDS = {
    "calibration": ({"calibration": ["a=b"]}, "The merge needs calibration statistics of every expert, so only the workflow"),
    "norms of it": ({"method_spec": {"coefficients": {"nan": {"norm_of": "calibration"}}}}, "needs calibration statistics"),
    "learned": ({"method_spec": {"coefficients": "learned"}}, "coefficients that were learned on unlabelled test inputs"),
    "a task": ({"task": "fruit"}, "the task that it is for, `fruit`"),
}


@pytest.mark.parametrize("case", NEEDS)
def test_a_merge_that_needs_data_is_repeated_by_the_workflow_alone(case):
    more, message = NEEDS[case]
    assert message in card(record(**more)) and "nan-merge merge" not in card(record(**more))
    assert command(record(**more), {}, "results/merged/s/m/seed0") == "snakemake --cores all -- results/merged/s/m/seed0"


def test_a_chosen_value_is_an_assignment():
    tuned = record(
        coefficients={**TABLE, "chosen": 0.5}, method_spec={"preprocess": {"trim": {"density": 0.1}}, "control": "kept"}
    )
    assert "--method task_arithmetic \\\n    --set preprocess.trim.density=0.1 \\\n    --set control=kept" in card(tuned)


LOADED = {
    "a language model": ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "transformers", "AutoModelForCausalLM"),
    "GPT-2": ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "transformers", "AutoModelForCausalLM"),
    "a class without a head": ({"model_type": "clip", "architectures": ["CLIPModel"]}, "transformers", "CLIPModel"),
    "no architecture": ({"model_type": "bert"}, "transformers", "AutoModel"),
    "a canonical open_clip": ({"model_type": "open_clip"}, "safetensors", None),
    "nothing": (None, "safetensors", None),
}


@pytest.mark.parametrize("case", LOADED)
def test_how_a_model_is_loaded_follows_from_its_config(case, tmp_path):
    config, library, kind = LOADED[case]
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    found = loading(tmp_path)
    assert (found["library"], found.get("model"), "tokenizer" in found) == (library, kind, False)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert ("tokenizer" in loading(tmp_path)) == (library == "transformers")
    assert hasattr(transformers, kind or "AutoModel")
    assert f"from {library}" in card(record(loading=found))


def test_a_hub_folder_of_open_clip_is_loaded_by_it(tmp_path):
    (tmp_path / "open_clip_config.json").write_text("{}")
    assert 'create_model_from_pretrained("local-dir:merged")' in card(record(loading=loading(tmp_path)))
    assert ModelCard(card(record(loading=loading(tmp_path)))).data.library_name == "open_clip"


def test_coefficients_of_many_rows_are_summarised():
    table = {**TABLE, "scope": "layer", "rows": {"layers.0": [0.2, 0.4], "layers.1": [0.4, 0.8]}}
    text = card(record(coefficients=table))
    assert "| name | model | mean coefficient of 2 layers | smallest | largest | licence |" in text
    assert "| code | `owner/code` | 0.3 | 0.2 | 0.4 | not stated |" in text


def test_one_expert_is_one_model():
    table = {**TABLE, "experts": ["code"], "rows": {"model": [0.5]}}
    inputs = {"base": model("base"), "code": model("code")}
    assert "merge of one fine-tuned model of `base` by the method" in card(record(coefficients=table, inputs=inputs))


LICENCES = {
    "all the same": (("mit", "mit", "mit"), "mit", None),
    "different": (("mit", "apache-2.0", "mit"), "other", "base: mit; code: apache-2.0; math: mit"),
    "one is missing": (("mit", "mit", None), "other", "base: mit; code: mit; math: not stated"),
    "none": ((None, None, None), None, "No input states a licence"),
}


@pytest.mark.parametrize("case", LICENCES)
def test_the_licence_is_the_inputs_where_they_agree(case):
    given, expected, note = LICENCES[case]
    text = card(record(**with_licences(*given)))
    assert ModelCard(text).data.to_dict().get("license") == expected
    assert note is None or note in text


def test_a_licence_of_its_own_keeps_its_name_and_link():
    own = {"license": "other", "license_name": "llama2", "license_link": "LICENSE.txt"}
    assert merged_licence([own, own]) == own
    assert merged_licence([own, {**own, "license_name": "llama3"}])["license_name"] == "licences-of-the-inputs"


FRONTS = {
    "a card": ("---\nlicense: mit\ntags:\n- x\n---\n# title\n", {"license": "mit", "tags": ["x"]}),
    "with windows' lines": ("---\r\nlicense: mit\r\n---\r\n", {"license": "mit"}),
    "with a byte order mark": ("\ufeff---\nlicense: mit\n---\n", {"license": "mit"}),
    "no front matter": ("# title\n---\nlicense: mit\n---\n", {}),
    "without an end": ("---\nlicense: mit\n", {}),
    "broken": ("---\nlicense: [mit\n---\n", {}),
    "no mapping": ("---\n- mit\n---\n", {}),
    "empty": ("", {}),
}


@pytest.mark.parametrize("case", FRONTS)
def test_front_matter_is_read_or_left(case, tmp_path):
    text, expected = FRONTS[case]
    (tmp_path / "README.md").write_bytes(text.encode())
    assert front_matter(tmp_path / "README.md") == expected
    assert front_matter(tmp_path / "none.md") == {}


def test_an_input_is_described_by_its_folder(tmp_path):
    blob = tmp_path / "blobs" / ("f" * 64)
    snapshot = tmp_path / "snapshots" / ("c" * 40)
    blob.parent.mkdir()
    snapshot.mkdir(parents=True)
    blob.write_bytes(b"12345")
    (snapshot / "model.safetensors").symlink_to(blob)
    (snapshot / "config.json").write_text('{"license": "gemma"}')
    (snapshot / "optimizer.bin").write_bytes(b"not a part of the model")
    found = origin(Source("o/m", snapshot, "o/m", "c" * 40), "digest")
    assert found == {
        "title": "o/m",
        "hub": "o/m",
        "commit": "c" * 40,
        "xxh3_128": "digest",
        "files": {"model.safetensors": {"size": 5, "sha256": "f" * 64}, "config.json": {"size": 20}},
        "license": "gemma",
    }
    (snapshot / "README.md").write_text("---\nlicense: mit\npipeline_tag: fill-mask\n---\n")
    assert origin(Source("x", snapshot), "d") | {"license": "mit", "pipeline_tag": "fill-mask", "path": "x"} == origin(
        Source("x", snapshot), "d"
    )


def test_the_documents_are_the_same_bytes_every_time(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        document(tmp_path / name, record())
    for file in ("README.md", "provenance.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert json.loads((tmp_path / "one/provenance.json").read_text())["coefficients"] == TABLE
