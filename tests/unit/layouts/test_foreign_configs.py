"""What others wrote in a config.json is data: no value ends in a traceback, builds a huge network, or is fetched."""

import json
import time

import pytest
from models import moved, random_model, save

from nan_merge.core.errors import UserError
from nan_merge.layouts.renames import _kinds, _of_transformers
from nan_merge.layouts.unify import unify_layout

KEYS = (
    "architectures", "model_type", "text_config", "vision_config", "auto_map", "quantization_config", "tie_word_embeddings",
    "vocab_size", "num_attention_heads", "rope_scaling", "rope_parameters", "layer_types", "sliding_window", "license",
)  # fmt: skip
ODD = ([], {}, "x", -1, 10**30, [[["a"]]], {"a": {"b": [1]}}, True, 1.5, [None], {"text_config": []}, float("inf"), "\x1b[2J")


@pytest.mark.parametrize("who", ["base", "a"])
@pytest.mark.parametrize("key", KEYS)
def test_a_value_of_another_kind_is_read_over_or_told(key, who, tmp_path):
    tensors = random_model(0)
    folders = {name: save(tmp_path / name, moved(tensors, seed)) for seed, name in enumerate(("base", "a"))}
    for value in ODD:
        for place in ({key: value}, {"text_config": {key: value}}):
            (folders[who] / "config.json").write_text(json.dumps({"hidden_size": 8, **place}))
            try:
                models = unify_layout(folders["base"], {"a": folders["a"]})
            except UserError as error:
                assert "config" in str(error)
            else:
                assert models.experts.keys() == {"a"}


HUGE = {
    "layers": {"num_hidden_layers": 10**9, "hidden_size": 10**9, "layer_types": ["x"] * 3},
    "layers of a part": {"text_config": {"model_type": "llama", "num_hidden_layers": 10**9}},
    "code of a hub": {
        "attn_implementation": "evil/kernel",
        "auto_map": {"AutoModel": "evil/code--x.Y"},
        "name_or_path": "evil/x",
    },
}


@pytest.mark.parametrize("case", HUGE)
def test_the_names_of_transformers_are_asked_for_by_kinds_alone(case):
    record = {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", **HUGE[case]}
    allowed = {"architectures", "model_type"}
    assert _kinds(record).keys() <= allowed | {"text_config"} and _kinds(record).get("text_config", {}).keys() <= allowed
    started = time.monotonic()
    rename = _of_transformers(json.dumps(_kinds(record)))
    assert rename is not None and rename("language_model.model.layers.0.x.weight") == "model.language_model.layers.0.x.weight"
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("kind", ["pipeline", "AutoModel", "Trainer", "TimmWrapperModel", "os", 3, None, ["LlamaModel"]])
def test_no_other_name_of_transformers_is_called(kind):
    assert _of_transformers(json.dumps({"architectures": [kind], "model_type": "timm_wrapper"})) is None
