"""One network under several spellings of its names: library versions, wrappers, original repositories, adapters."""

import numpy as np
import pytest
from layout_models import draw, expert, factors, write, write_adapter
from models import merged

from nan_merge.core.errors import UserError
from nan_merge.layouts.renames import match_names
from nan_merge.layouts.unify import unify_layout

SUM = {"coefficients": {"constant": {"value": 0.3}}}
BERT = {
    "bert.embeddings.word_embeddings.weight": (12, 4),
    "bert.embeddings.LayerNorm.weight": (4,),
    "bert.embeddings.LayerNorm.bias": (4,),
    "bert.encoder.layer.0.attention.self.query.weight": (4, 4),
    "bert.encoder.layer.0.output.LayerNorm.weight": (4,),
    "bert.encoder.layer.0.output.LayerNorm.bias": (4,),
}
QWEN = {  # names in memory of transformers 4.52 and later
    "model.visual.patch_embed.proj.weight": (4, 6),
    "model.visual.blocks.0.attn.qkv.weight": (12, 4),
    "model.visual.merger.mlp.0.weight": (4, 4),
    "model.language_model.embed_tokens.weight": (12, 4),
    "model.language_model.layers.0.self_attn.q_proj.weight": (4, 4),
    "model.language_model.norm.weight": (4,),
    "lm_head.weight": (12, 4),
}
LLAVA = {  # names in memory
    "model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight": (4, 4),
    "model.multi_modal_projector.linear_1.weight": (4, 4),
    "model.multi_modal_projector.linear_2.weight": (4, 4),
    "model.language_model.embed_tokens.weight": (12, 4),
    "model.language_model.layers.0.mlp.up_proj.weight": (6, 4),
    "lm_head.weight": (12, 4),
}


def replaced(*pairs):
    """Return a function that replaces the first of the pairs' beginnings that a name has."""

    def rename(name):
        return next((new + name.removeprefix(old) for old, new in pairs if name.startswith(old)), name)

    return rename


def tensorflow(name):
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


SPELLINGS = {
    "gamma and beta": (BERT, tensorflow),
    "gamma and beta without the prefix": (BERT, lambda name: tensorflow(name).removeprefix("bert.")),
    "compiled": (BERT, lambda name: f"_orig_mod.{name}"),
    "compiled in the middle": (BERT, lambda name: name.replace("encoder.layer.0.", "encoder.layer.0._orig_mod.")),
    "parallel and compiled": (BERT, lambda name: f"module._orig_mod.{name}"),
    "Qwen2.5-VL of the hub": (QWEN, replaced(("model.visual.", "visual."), ("model.language_model.", "model."))),
    "LLaVA of the hub": (
        LLAVA,
        replaced(
            ("model.vision_tower.", "vision_tower."), ("model.multi_modal_projector.", "multi_modal_projector."),
            ("model.language_model.", "language_model.model."), ("lm_head.", "language_model.lm_head."),
        ),
    ),
    "LLaVA as first published": (
        LLAVA,
        replaced(
            ("model.vision_tower.", "model.vision_tower.vision_tower."), ("model.language_model.", "model."),
            ("model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
            ("model.multi_modal_projector.linear_2.", "model.mm_projector.2."),
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("base_is_old", [True, False], ids=["old base", "old expert"])
@pytest.mark.parametrize("kind", SPELLINGS)
def test_both_spellings_are_one_network(kind, base_is_old, tmp_path):
    shapes, rename = SPELLINGS[kind]
    start, moved = ({name: array for name, array in draw(seed, shapes).items()} for seed in (0, 1))
    old = {rename(name): array for name, array in (start if base_is_old else moved).items()}
    base = write(tmp_path / "base", old if base_is_old else start, {})
    a = write(tmp_path / "a", moved if base_is_old else old, {})
    models = unify_layout(base, {"a": a})
    assert len(models.merged) == len(shapes) and len(models.notes) == 1
    found = merged(tmp_path / "out", SUM, base, {"a": a})
    for name in shapes:
        expected = start[name] + 0.3 * (moved[name].astype(np.float64) - start[name])
        assert found[rename(name) if base_is_old else name] == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("kind", "module"), [
    ("Qwen2.5-VL of the hub", "model.language_model.layers.0.self_attn.q_proj"),
    ("LLaVA of the hub", "model.language_model.layers.0.mlp.up_proj"),
])  # fmt: skip
def test_an_adapter_with_names_in_memory_finds_the_stored_ones(kind, module, tmp_path):
    shapes, rename = SPELLINGS[kind]
    start = {rename(name): array for name, array in draw(0, shapes).items()}
    moves = factors(module, *shapes[f"{module}.weight"])
    models = unify_layout(write(tmp_path / "base", start, {}), {"a": write_adapter(tmp_path / "a", moves)})
    a, b = (moves[f"{module}.lora_{side}.weight"].astype(np.float64) for side in "AB")
    name = rename(f"{module}.weight")
    assert expert(models, "a", name) == pytest.approx(start[name] + 1.5 * b @ a, rel=1e-5)


def test_weight_norm_before_and_after_torch_2():
    old, new = (
        ["conv.weight_g", "conv.weight_v"],
        ["conv.parametrizations.weight.original0", "conv.parametrizations.weight.original1"],
    )
    for here, there in ((old, new), (new, old)):
        assert match_names(here, there)[1] == dict(zip(here, there, strict=True))


def test_another_network_is_not_matched(tmp_path):
    base = write(tmp_path / "base", draw(0, BERT), {})
    with pytest.raises(UserError, match="do not match the base"):
        unify_layout(base, {"a": write(tmp_path / "a", draw(1, QWEN), {})})


@pytest.mark.parametrize(("embedding", "head"), [
    ("model.embed_tokens.weight", "output.weight"), ("gpt_neox.embed_in.weight", "embed_out.weight"),
    ("transformer.wte.weight", "lm_head.weight"), ("tok_embeddings.weight", "output.weight"),
])  # fmt: skip
def test_rows_of_embedding_and_head_are_recognised_by_their_role(embedding, head, tmp_path):
    """An expert with two rows more: both tables are cut to the rows of the base."""
    shapes = {embedding: (12, 4), "layers.0.mlp.weight": (12, 4), head: (12, 4)}
    longer = {embedding: (14, 4), "layers.0.mlp.weight": (12, 4), head: (14, 4)}
    base = write(tmp_path / "base", draw(0, shapes), {"vocab_size": 12, "tie_word_embeddings": False})
    a = draw(1, longer)
    models = unify_layout(base, {"a": write(tmp_path / "a", a, {"vocab_size": 14, "tie_word_embeddings": False})})
    for name in (embedding, head):
        assert expert(models, "a", name).tobytes() == a[name][:12].tobytes()
    assert len([note for note in models.notes if "dropped 2 rows" in note]) == 2
