"""A whole CLIP of real shape with random numbers, as its folder on the hub: weights, tokenizer, preprocessor."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nan_merge.core.files import read_json, write_json
from nan_merge.models.zero_shot import MEAN, STD

VISION: dict[str, dict[str, Any]] = {  # what differs from the library's defaults, which are ViT-B/32
    "ViT-B-32": {},
    "ViT-B-16": {"patch_size": 16},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64},
}
TEXT: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
}
MERGES = slice(1, 49152 - 256 - 2 + 1)  # the lines of open_clip's vocabulary file that OpenAI's tokenizer has
ENDS = ["<|startoftext|>", "<|endoftext|>"]


def make(folder: Path, size: str) -> Path:
    """Write a CLIPModel with random weights, the same every time."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    model: Any = CLIPModel(CLIPConfig(text_config=TEXT.get(size, {}), vision_config=VISION[size]))
    model.save_pretrained(folder)
    side = model.config.vision_config.image_size
    _write_tokenizer(folder)
    write_json(folder / "preprocessor_config.json", {
        "feature_extractor_type": "CLIPFeatureExtractor", "image_processor_type": "CLIPImageProcessor",
        "do_resize": True, "size": {"shortest_edge": side}, "resample": 3, "do_convert_rgb": True,
        "do_center_crop": True, "crop_size": {"height": side, "width": side},
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": MEAN, "image_std": STD,
    })  # fmt: skip
    return folder


def _write_tokenizer(folder: Path) -> None:
    """Write OpenAI's byte pairs, which open_clip ships, in the two files of the transformers library."""
    found = find_spec("open_clip")
    assert found is not None and found.origin is not None
    file = Path(found.origin).with_name("bpe_simple_vocab_16e6.txt.gz")
    pairs = gzip.decompress(file.read_bytes()).decode().split("\n")[MERGES]
    letters = _letters()
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair.split()) for pair in pairs), *ENDS]
    write_json(folder / "vocab.json", {word: number for number, word in enumerate(words)})
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs, ""]), encoding="utf-8")
    special = {"bos_token": ENDS[0], "eos_token": ENDS[1], "unk_token": ENDS[1], "pad_token": ENDS[1]}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special})
    write_json(folder / "special_tokens_map.json", special)


def _letters() -> list[str]:
    """Return the printable letters that stand for the 256 bytes (Radford et al. 2019)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in plain] + [chr(256 + number) for number in range(256 - len(plain))]


def side(folder: Path) -> int:
    """Return the width of the images that a model takes."""
    width: int = read_json(folder / "preprocessor_config.json")["crop_size"]["width"]
    return width
