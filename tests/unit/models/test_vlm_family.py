"""LLaVAs in original names: linked for merges, and put together with tower and processor before they are scored."""

import json

import pytest
import torch
from layout_models import CLIP_VIT, vision_language, write_clip, write_llava
from tokenizers import Tokenizer, models

from nan_merge.core.errors import UserError
from nan_merge.models.families.vlm import assemble, prepare

ROWS = 64  # of the tables of a LLaVA of transformers


@pytest.fixture
def parts(tmp_path):
    """Write a merge without a tower, a LLaVA-Next with a tower of its own, a CLIP, and a processor; return their tensors."""
    plain, donor = vision_language("llava", vocab_size=ROWS), vision_language("llava_next", 3, vocab_size=ROWS)
    write_llava(tmp_path / "merge", plain, "original", tower=False)
    write_llava(tmp_path / "donor", donor, "original")
    write_llava(tmp_path / "frozen", plain, "original")
    write_clip(tmp_path / "clip", plain)
    plain.config.save_pretrained(tmp_path / "processor")  # as published: it tells how many heads a tower has
    (tmp_path / "processor/processor_config.json").write_text("{}")
    return {"clip": plain.state_dict(), "donor": donor.state_dict()}


def made(folder, model, pipeline, tower, keeps=False):
    """Assemble a model, load it with transformers, and return its tensors and the notes."""
    import transformers

    given = {name: folder / name for name in ("clip", "donor", "processor")}
    notes = assemble(folder / model, folder / "out", pipeline, tower=tower, keeps=keeps, **given)
    kind = getattr(transformers, json.loads((folder / "out/config.json").read_text())["architectures"][0])
    loaded, report = kind.from_pretrained(folder / "out", output_loading_info=True)
    assert not any(report.values()), report
    assert (folder / "out/processor_config.json").is_file()
    return loaded.state_dict(), " ".join(notes)


def has_tower_of(found, other):
    return all(torch.equal(found[name], other[name]) for name in found if "vision_tower" in name)


@pytest.mark.parametrize("pipeline", ["llava", "llava_next"])
@pytest.mark.parametrize(
    ("model", "tower", "keeps", "expected"),
    [
        ("merge", "clip", False, "clip"),
        ("merge", "donor", False, "donor"),
        ("merge", "donor", True, "clip"),  # the base, which was trained with CLIP's
        ("donor", "clip", True, "donor"),
        ("frozen", "donor", True, "clip"),
    ],
)
def test_a_tower_is_the_models_own_or_that_of_the_suite(pipeline, model, tower, keeps, expected, parts, tmp_path):
    found, notes = made(tmp_path, model, pipeline, tower, keeps)
    assert has_tower_of(found, parts[expected]) and not has_tower_of(found, parts["donor" if expected == "clip" else "clip"])
    own = keeps and model != "merge"
    assert ("keeps its own tower" in notes) == own and ("its tower is that of" in notes) != own
    if own:
        assert ("equals that of" in notes) == (model == "frozen") and ("differs from that of" in notes) == (model == "donor")
    assert ("model.image_newline" in found) == (pipeline == "llava_next")
    if pipeline == "llava_next":
        assert torch.equal(found["model.image_newline"], parts["donor"]["model.image_newline"])


def test_weights_are_linked_and_a_tokenizer_is_not_needed(parts, tmp_path):
    prepare(tmp_path / "merge", tmp_path / "base")
    assert (tmp_path / "base/model.safetensors").samefile(tmp_path / "merge/model.safetensors")
    prepare(tmp_path / "donor", tmp_path / "expert", tmp_path / "base")
    assert (tmp_path / "expert/config.json").is_file()


def test_a_tokenizer_that_differs_from_the_bases_is_refused(parts, tmp_path):
    for folder, words, model in (
        ("merge", {"<s>": 0, "yes": 1, "no": 2}, b"one"),
        ("donor", {"<s>": 0, "no": 1, "yes": 2}, b"two"),
    ):
        Tokenizer(models.WordLevel(words, unk_token="no")).save(str(tmp_path / folder / "tokenizer.json"))
        (tmp_path / folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
        (tmp_path / folder / "tokenizer.model").write_bytes(model)
    with pytest.raises(UserError, match="its tokenizer differs from that of the base"):
        prepare(tmp_path / "donor", tmp_path / "out", tmp_path / "merge")
    (tmp_path / "donor/tokenizer.model").write_bytes(b"one")
    prepare(tmp_path / "donor", tmp_path / "out", tmp_path / "merge")


def test_a_tower_of_another_width_is_refused(parts, tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    CLIPVisionModel(CLIPVisionConfig(**{**CLIP_VIT, "hidden_size": 16})).save_pretrained(tmp_path / "wide")
    with pytest.raises(UserError, match=r"gives 16 numbers for a patch, the projector of .* takes 8"):
        given = {"clip": tmp_path / "wide", "processor": tmp_path / "processor", "donor": None}
        assemble(tmp_path / "merge", tmp_path / "out", "llava", tower="clip", keeps=False, **given)
