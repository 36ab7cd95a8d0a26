"""Tiny vision-language models that were trained on drawn pictures: a LLaVA, and one with the parts of Qwen2-VL."""

from __future__ import annotations

import random
import re
from collections import ChainMap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from drawn_pictures import KINDS, SIDE, answer, asked, picture
from layout_models import LLAVA_NAMES, write_llava
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)  # fmt: skip

PATCH = 8
WORDS = "Which colour has the shape ? How many bars are there letter integer A B C D 1 2 3 4 USER: ASSISTANT:"
VOCABULARY = ["<unk>", "<s>", "</s>", *dict.fromkeys(WORDS.split())]
PICTURE = len(VOCABULARY)  # the token of a picture, behind the words as in conversions of LLaVAs; then that of padding
TOKENS = {"llava": ["<image>"], "llava_next": ["<image>"],
          "qwen2_vl": ["<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"]}  # fmt: skip
GRID = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE]]  # sizes to which LLaVA-Next stretches a picture
TEMPLATE = (
    "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}PICTURE {% else %}{{ c['text'] }}"
    "{% endif %}{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
VISION = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": SIDE,
          "patch_size": PATCH}  # fmt: skip
TEXT = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 64,
        "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip


def processor(kind: str = "llava") -> Any:
    """Return a processor of whole words, pictures of SIDE pixels and a chat template."""
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": TOKENS[kind]}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **special)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    if kind == "qwen2_vl":
        sizes = {"patch_size": PATCH // 2, "merge_size": 2, "min_pixels": SIDE**2, "max_pixels": SIDE**2}
        made, films = Qwen2VLImageProcessor(**sizes), Qwen2VLVideoProcessor(**sizes)
        seen = "<|vision_start|><|image_pad|><|vision_end|>"
        return Qwen2VLProcessor(made, tokenizer, films, chat_template=TEMPLATE.replace("PICTURE", seen))
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    given = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1,
             "chat_template": TEMPLATE.replace("PICTURE", "<image>")}  # fmt: skip
    if kind == "llava_next":
        return LlavaNextProcessor(LlavaNextImageProcessor(**size, image_grid_pinpoints=GRID), tokenizer, **given)
    return LlavaProcessor(CLIPImageProcessor(**size), tokenizer, **given)


def untrained(kind: str = "llava") -> Any:
    """Return a model of 0.6 million parameters."""
    text, places = {**TEXT, "pad_token_id": PICTURE + len(TOKENS[kind])}, (SIDE // PATCH) ** 2
    if kind == "qwen2_vl":
        vision = {"depth": 3, "embed_dim": 96, "hidden_size": 96, "num_heads": 4, "mlp_ratio": 2, "patch_size": PATCH // 2}
        rope = {"rope_type": "default", "mrope_section": [4, 4, 4], "rope_theta": 10_000.0}
        tokens = dict(zip(("image_token_id", "vision_start_token_id", "vision_end_token_id", "video_token_id"),
                          range(PICTURE, PICTURE + 4), strict=True))  # fmt: skip
        text |= {"num_key_value_heads": 4, "rope_parameters": rope}
        return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **tokens))
    parts = {"text_config": LlamaConfig(**text), "vision_config": CLIPVisionConfig(**VISION), "image_token_index": PICTURE,
             "image_seq_length": places}  # fmt: skip
    if kind == "llava_next":
        return LlavaNextForConditionalGeneration(LlavaNextConfig(**parts, image_grid_pinpoints=GRID))
    return LlavaForConditionalGeneration(LlavaConfig(**parts))


def prompt(row: dict[str, Any], made: Any) -> str:
    """Return the question of a row in the chat template of a processor."""
    content = [{"type": "image"}, {"type": "text", "text": asked(row)}]
    return made.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def train(model: Any, made: Any, kinds: Sequence[str] = (*KINDS,), steps: int = 60, rate: float = 1e-3) -> None:
    """Train all but the frozen tensors on kinds of questions, with the loss on the answer and the end only."""
    rng, optimiser = random.Random(1), torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    model.train()
    for _ in range(steps):
        rows = [KINDS[rng.choice(kinds)](rng) for _ in range(24)]
        texts = [f"{prompt(row, made)} {answer(row)} </s>" for row in rows]
        inputs = made(images=[*map(picture, rows)], text=texts, return_tensors="pt", padding=True, padding_side="left")
        labels = inputs["input_ids"].clone()
        labels[:, :-2] = -100
        model(**inputs, labels=labels).loss.backward()
        optimiser.step(), schedule.step(), optimiser.zero_grad()
    model.eval()


def experts(model: Any, made: Any, steps: int, towers: Sequence[str] = ()) -> Iterable[str]:
    """Train a base for some steps, then two experts of it; yield the name of each while the model is that one.

    `shapes` and `bars` are trained from the base each; the tower moves in those of `towers` only.
    """
    train(model, made, steps=steps)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    yield "base"
    for name, kinds in (("bars", ["bars", "numbers"]), ("shapes", ["shapes"])):
        model.load_state_dict(state)
        for key, weight in model.named_parameters():
            weight.requires_grad_(name in towers or not key.startswith(("model.vision_tower.", "model.visual.")))
        train(model, made, kinds, steps=60, rate=5e-4)
        yield name


def publish_model(folder: Path, kind: str = "llava") -> None:
    """Train a model on all kinds of questions and write it with its processor."""
    torch.manual_seed(0)
    made, model = processor(kind), untrained(kind)
    train(model, made)
    model.save_pretrained(folder)
    made.save_pretrained(folder)


def publish_qwen(root: Path) -> None:
    """Write below `root` a Qwen2-VL and two experts of it, as transformers saves them."""
    torch.manual_seed(1)
    made, model = processor("qwen2_vl"), untrained("qwen2_vl")
    for name in experts(model, made, steps=30):
        model.save_pretrained(root / f"qwen_{name}")
        made.save_pretrained(root / f"qwen_{name}")


def publish_llavas(root: Path) -> None:
    """Write below `root` a base and two experts in original names, their frozen tower as a CLIP, and two processors.

    `shapes` has a tower of its own and an `image_newline`, as LLaVA-1.6 has; `bars` has a copy of the frozen one.
    """
    torch.manual_seed(0)
    made, model, other = processor(), untrained(), untrained("llava_next")
    for name in experts(model, made, 50, towers=["shapes"]):
        other.load_state_dict({**other.state_dict(), **model.state_dict()})
        if name == "base":
            model.model.vision_tower.save_pretrained(root / "clip")
        write_llava(root / name, other if name == "shapes" else model, "original", tower=name != "base", picture=PICTURE)
        made.tokenizer.save_pretrained(root / name)
    for kind in ("llava", "llava_next"):
        processor(kind).save_pretrained(root / f"processor_{kind}")
        untrained(kind).config.save_pretrained(root / f"processor_{kind}")


@torch.no_grad()
def outputs(kind: str, folders: Sequence[Path], rows: Iterable[dict[str, Any]]) -> list[str]:
    """Return what a LLaVA in original names writes, loaded by the names of its tensors and no other code.

    A tensor is that of the first folder that has it.
    """
    model, made = untrained(kind).eval(), processor(kind)
    stored = ChainMap(*(load_file(folder / "model.safetensors") for folder in folders))
    for name, tensor in model.state_dict().items():
        for pattern, new in LLAVA_NAMES["original"]:
            name = re.sub(pattern, new, name)
        tensor[: len(stored[name])] = stored[name]
    found = []
    for row in rows:
        inputs = made(images=[picture(row)], text=[prompt(row, made)], return_tensors="pt")
        written = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        found.append(made.tokenizer.decode(written, skip_special_tokens=True))
    return found
