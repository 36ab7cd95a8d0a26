"""Publish the small CLIP experiment in the formats of its originals: repositories of a hub and pickled modules.

models/tiny/clip                 a CLIPModel with its tokenizer, in pytorch_model.bin as older repositories have it
models/tiny/clip_<task>          its experts, CLIPVisionModel with the prefix `vision_model.` (collection C)
models/tiny/open_clip            the same base in open_clip's hub format
models/tiny/tall_masks           experts as plain state dicts of an image encoder, in one repository (collection B)
datasets/tiny/<task>             parquet shards with a card, grey PNG or coloured JPEG, or WebDataset shards
task_vectors/<task>/finetuned.pt experts as whole modules pickled with classes that exist nowhere else (collection A)
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tiny_clip_experiment
import torch
import yaml
from hub import Hub
from safetensors.torch import save_file
from tiny_clip_experiment import TEXT, VISION, Task
from torch import Tensor, nn

TASKS = {"digits": "Digits", "scans": "Scans", "greek": "Greek"}  # task -> name in the repository of all experts
CONFIG: dict[str, Any] = {  # of open_clip; the same network as VISION and TEXT
    "embed_dim": 32, "quick_gelu": True,
    "vision_cfg": {"image_size": VISION["image_size"], "layers": 3, "width": 64, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": TEXT["vocab_size"], "width": 32, "heads": 2, "layers": 2},
}  # fmt: skip
PREPROCESS = {
    "mean": tiny_clip_experiment.MEAN,
    "std": tiny_clip_experiment.STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
PARTS = {  # of a transformer's layer, transformers -> open_clip
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
}  # fmt: skip
NAMES = {  # of the rest
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    **{f"vision_model.pre_layrnorm.{kind}": f"visual.ln_pre.{kind}" for kind in ("weight", "bias")},
    **{f"vision_model.post_layernorm.{kind}": f"visual.ln_post.{kind}" for kind in ("weight", "bias")},
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    **{f"text_model.final_layer_norm.{kind}": f"ln_final.{kind}" for kind in ("weight", "bias")},
    "logit_scale": "logit_scale",
}  # fmt: skip


def build(root: Path, assets: Path) -> tuple[dict[str, Task], dict[str, Any]]:
    """Run the experiment and publish it below `root`; return its tasks, and its models by task and as `base`."""
    world = tiny_clip_experiment.tasks(assets)
    base = tiny_clip_experiment.train_base(world)
    models = {"base": base, **{name: tiny_clip_experiment.train_expert(base, task) for name, task in world.items()}}
    _publish_clip(root / "models/tiny", models)
    _publish_open_clip(root, models)
    for name, task in world.items():
        (_publish_tars if name == "scans" else _publish_parquet)(root / "datasets/tiny" / name, task)
    return world, models


def serve(hub: Hub, root: Path) -> None:
    """Publish all repositories below `root` on a hub."""
    for folder in sorted(root.glob("*/tiny/*")):
        hub.put(f"tiny/{folder.name}", folder, folder.parents[1].name)


def _publish_clip(folder: Path, models: Mapping[str, Any]) -> None:
    for name, model in models.items():
        target = folder / ("clip" if name == "base" else f"clip_{name}")
        target.mkdir(parents=True)
        state = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
        if name == "base":
            _write_tokenizer(target)
            vision, text = {"model_type": "clip_vision_model", **VISION}, {"model_type": "clip_text_model", **TEXT}
            config = {
                "architectures": ["CLIPModel"],
                "model_type": "clip",
                "projection_dim": 32,
                "logit_scale_init_value": 2.6592,
            }
            config |= {"vision_config": vision, "text_config": text}
            positions = {"text_model": TEXT["max_position_embeddings"], "vision_model": 5}
            state |= {f"{half}.embeddings.position_ids": torch.arange(count)[None] for half, count in positions.items()}
            torch.save(state, target / "pytorch_model.bin")
        else:
            config = {"architectures": ["CLIPVisionModel"], "model_type": "clip_vision_model", **VISION}
            seen = {key: tensor for key, tensor in state.items() if key.startswith("vision_model.")}
            save_file(seen, target / "model.safetensors", {"format": "pt"})
        (target / "config.json").write_text(json.dumps(config, indent=2))


def _write_tokenizer(folder: Path) -> None:
    """Write the byte pairs of CLIP, which open_clip ships, in the files of transformers."""
    import open_clip
    from transformers import CLIPTokenizer

    found = open_clip.SimpleTokenizer()
    special = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {special.get(word, word): number for word, number in found.encoder.items()}
    merges = [" ".join(pair) for pair in found.bpe_ranks]
    CLIPTokenizer(vocab=vocabulary, merges=[tuple(pair) for pair in found.bpe_ranks]).save_pretrained(str(folder))
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def to_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a CLIPModel under the names of open_clip, queries, keys and values in one."""
    found = {new: state[old] for old, new in NAMES.items()}
    found["visual.proj"], found["text_projection"] = (state[f"{half}_projection.weight"].T for half in ("visual", "text"))
    for half, stem, layers in (("vision_model", "visual.", 3), ("text_model", "", 2)):
        for i in range(layers):
            old, new = f"{half}.encoder.layers.{i}", f"{stem}transformer.resblocks.{i}"
            for kind in ("weight", "bias"):
                parts = [state[f"{old}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
                found[f"{new}.attn.in_proj_{kind}"] = torch.cat(parts)
                found |= {f"{new}.{ours}.{kind}": state[f"{old}.{theirs}.{kind}"] for theirs, ours in PARTS.items()}
    return {name: tensor.detach().clone().contiguous() for name, tensor in found.items()}


def _publish_open_clip(root: Path, models: Mapping[str, Any]) -> None:
    """Publish base and experts for open_clip, the experts both as state dicts and as pickled modules."""
    base = root / "models/tiny/open_clip"
    base.mkdir()
    save_file(to_open_clip(models["base"].state_dict()), base / "open_clip_model.safetensors", {"format": "pt"})
    (base / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": PREPROCESS}, indent=2))
    for name, title in TASKS.items():
        with _image_encoder(to_open_clip(models[name].state_dict())) as module:
            for file, content in (
                (root / f"models/tiny/tall_masks/single_task/ViT-T-16/{title}Val/nonlinear_finetuned.pt", module.state_dict()),
                (root / f"task_vectors/{title}/finetuned.pt", module),
            ):
                file.parent.mkdir(parents=True)
                torch.save(content, file)


@contextmanager
def _image_encoder(state: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """Yield the image encoder of task_vectors: a CLIP without text blocks, of a class that exists in this block only."""
    import open_clip

    class ImageEncoder(nn.Module):
        pass

    home = types.ModuleType("src.modeling")
    ImageEncoder.__module__, ImageEncoder.__qualname__, home.ImageEncoder = home.__name__, "ImageEncoder", ImageEncoder  # type: ignore
    sys.modules |= {"src": types.ModuleType("src"), "src.modeling": home}
    try:
        module = ImageEncoder()
        module.model = open_clip.CLIP(**CONFIG)
        module.model.load_state_dict(state)
        del module.model.transformer
        module.train_preprocess = module.val_preprocess = open_clip.image_transform(tiny_clip_experiment.SIDE, is_train=False)
        module.cache_dir = "/somewhere/else"
        yield module
    finally:
        del sys.modules["src.modeling"], sys.modules["src"]


def _publish_parquet(folder: Path, task: Task) -> None:
    """Write parquet shards with features and card in the format of `datasets`; train has two shards."""
    import datasets

    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=task.names))
    sizes = {}
    for split, shards in (("train", 2), ("test", 1)):
        rows = [{"bytes": data, "path": f"{i}.{task.suffix}"} for i, data in enumerate(task.pictures[split])]
        whole = datasets.Dataset.from_dict({"image": rows, "label": task.labels[split]}, features=features)
        sizes[split] = len(whole)
        (folder / "data").mkdir(parents=True, exist_ok=True)
        for i in range(shards):
            part = whole.shard(shards, i, contiguous=True)
            part.to_parquet(str(folder / f"data/{split}-{i:05}-of-{shards:05}.parquet"))
    info = {"features": features._to_yaml_list(), "splits": [{"name": name, "num_examples": n} for name, n in sizes.items()]}
    files = [{"split": name, "path": f"data/{name}-*"} for name in sizes]
    header = {"dataset_info": info, "configs": [{"config_name": "default", "data_files": files}]}
    (folder / "README.md").write_text(
        f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n", encoding="utf-8"
    )


def _publish_tars(folder: Path, task: Task) -> None:
    """Write WebDataset shards: a picture and its label are two files with one stem."""
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        with tarfile.open(folder / split / "0.tar", "w") as shard:
            for i, (picture, label) in enumerate(zip(task.pictures[split], task.labels[split], strict=True)):
                for suffix, data in ((task.suffix, picture), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"s{i:07}.{suffix}")
                    member.size = len(data)
                    shard.addfile(member, io.BytesIO(data))
        (folder / split / "nshards.txt").write_text("1")
    (folder / "classnames.txt").write_text("\n".join(task.names))
    (folder / "README.md").write_text("# Optical digits as shards of WebDataset\n")
