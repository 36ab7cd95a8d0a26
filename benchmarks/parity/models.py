"""Small random models of three families in folders: a base, its experts, and random calibration statistics of every expert.

Experts are the base plus noise of their own size and a part that they share, so that neither cosines nor norms are
alike. Beside each expert lie random Fisher weights and Gram matrices, which both programs of a comparison are given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.shapes import Clip, Llama, Shapes
from nan_merge.checkpoints.checkpoint import Checkpoint, write_checkpoint, write_tensors
from nan_merge.core.files import write_json
from nan_merge.layouts.unify import unify_layout

Tensors = dict[str, np.ndarray]
SIZES = (0.004, 0.002, 0.001)  # of the noise of the experts; the base has 0.02


@dataclass(frozen=True)
class Gpt2:
    """The shape of a GPT-2, stored in float32: its matrices are (in, out), its output embedding is the input's."""

    hidden: int
    layers: int
    heads: int
    vocabulary: int
    positions: int

    def config(self) -> dict[str, Any]:
        """Return its `config.json`."""
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "n_embd": self.hidden,
            "n_layer": self.layers,
            "n_head": self.heads,
            "n_positions": self.positions,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": True,
            "torch_dtype": "float32",
            "bos_token_id": 1,
            "eos_token_id": 2,
        }

    def tensors(self) -> Shapes:
        """Return name -> shape of every tensor."""
        wide = self.hidden
        matrices = {"attn.c_attn": (wide, 3 * wide), "attn.c_proj": (wide, wide)}
        matrices |= {"mlp.c_fc": (wide, 4 * wide), "mlp.c_proj": (4 * wide, wide)}
        layer: Shapes = {f"{name}.{part}": (wide,) for name in ("ln_1", "ln_2") for part in ("weight", "bias")}
        for name, shape in matrices.items():
            layer |= {f"{name}.weight": shape, f"{name}.bias": shape[1:]}
        shapes: Shapes = {"wte.weight": (self.vocabulary, wide), "wpe.weight": (self.positions, wide)}
        shapes |= {f"h.{i}.{name}": shape for i in range(self.layers) for name, shape in layer.items()}
        shapes |= {"ln_f.weight": (wide,), "ln_f.bias": (wide,)}
        return {f"transformer.{name}": shape for name, shape in shapes.items()}


Shape = Clip | Gpt2 | Llama
LORA, RANK = "LLaMA with LoRA", 4
FAMILIES: dict[str, Shape] = {  # widths that three experts do not divide evenly
    "CLIP": Clip(hidden=40, intermediate=112, layers=2, heads=4, image=64, patch=16),
    "GPT-2": Gpt2(hidden=40, layers=2, heads=4, vocabulary=128, positions=24),
    "LLaMA": replace(Llama(40, 112, 2, 4, 2, 128), dtype="F32"),
    "LLaMA of six layers": replace(Llama(40, 112, 6, 4, 2, 128), dtype="F32"),
    LORA: replace(Llama(40, 112, 2, 4, 2, 128), dtype="F32"),
}
LLAMA = r"(?:[qkvo]_proj|(?:gate|up|down)_proj|lm_head)\.weight$"
CONV1D = r"\.(?:c_attn|c_proj|c_fc)\.weight$"
LINEAR = {  # the weights of linear layers, and whether they are stored as (in, out)
    "CLIP": (r"(?:[qkv]_proj|out_proj|fc[12])\.weight$", False),
    "GPT-2": (r"(?:c_attn|c_proj|c_fc)\.weight$", True),
    "LLaMA": (LLAMA, False),
    "LLaMA of six layers": (LLAMA, False),
    LORA: (LLAMA, False),
}


@dataclass(frozen=True)
class Family:
    """A base and its experts on the disk, with calibration statistics of the experts."""

    name: str
    folder: Path
    count: int

    @property
    def base(self) -> Path:
        """The folder of the base."""
        return self.folder / "base"

    @property
    def experts(self) -> list[Path]:
        """The folders of the experts."""
        return [self.folder / f"expert_{t}" for t in range(self.count)]

    def calibration(self, kind: str) -> list[Path]:
        """Return the files of `fisher` or `gram`, one an expert: tensors by the name of the weight they belong to."""
        return [self.folder / f"{kind}_{t}.safetensors" for t in range(self.count)]

    def inputs(self, name: str) -> int | None:
        """Return the axis of the inputs of a linear weight, None for other tensors."""
        pattern, turned = LINEAR[self.name]
        return None if not re.search(pattern, name) else 0 if turned else 1

    def largest(self) -> float:
        """Return the largest magnitude in any task vector."""
        models = unify_layout(self.base, {each.name: each for each in self.experts})
        pairs = [(models.base.read(name), each.read(name)) for each in models.experts.values() for name in models.merged]
        return max(float(np.abs(expert.astype(np.float64) - base).max()) for base, expert in pairs)


def tensors(name: str) -> Shapes:
    """Return name -> shape of every tensor of a family, under the names that transformers 5 writes."""
    return {key.removeprefix("vision_model."): shape for key, shape in FAMILIES[name].tensors().items()}


def make(name: str, folder: Path, count: int = len(SIZES), shared: float = 0.5) -> Family:
    """Write a base, `count` experts and their calibration statistics of one family under `folder`.

    `shared` is the size of the noise that all experts have in common, in units of their own: the cosine between two
    task vectors is about shared^2 / (1 + shared^2).
    """
    family, config, shapes = Family(name, folder, count), FAMILIES[name].config(), tensors(name)
    base = draw(shapes, 0.02, 0)
    for key, tensor in base.items():
        if re.search(r"(?:norm\d?|rnorm|ln_\w)\.weight$", key):
            tensor += 1
    common = draw(shapes, shared, 1)
    write_checkpoint(family.base, single(base), config)
    for t, expert in enumerate(family.experts):
        if name == LORA:
            adapter(expert, base, str(family.base), SIZES[t] ** 0.5, 2 + t)
            continue
        own = draw(shapes, 1.0, 2 + t)
        write_checkpoint(expert, single({key: base[key] + SIZES[t] * (own[key] + common[key]) for key in base}), config)
        collect(family, t, shapes)
    return family


def collect(family: Family, t: int, shapes: Shapes) -> None:
    """Write random Fisher weights (squares) and Gram matrices (of random inputs) of expert `t`."""
    rng = np.random.default_rng(100 + t)
    scale = 10.0 ** (-3 - t)  # experts whose Fisher weights differ in size, as they do
    fisher = {key: scale * rng.standard_normal(shape) ** 2 for key, shape in shapes.items()}
    write_tensors(family.calibration("fisher")[t], single(fisher))
    gram = {}
    for key, shape in shapes.items():
        if (axis := family.inputs(key)) is not None:
            inputs = rng.standard_normal((2 * shape[axis], shape[axis])) * np.geomspace(1, 0.1, shape[axis])
            gram[key] = inputs.T @ inputs / len(inputs)
    write_tensors(family.calibration("gram")[t], single(gram))


def adapter(folder: Path, base: Tensors, place: str, size: float, seed: int) -> None:
    """Write a LoRA adapter on the attention of a base, its factors drawn from N(0, size^2)."""
    folder.mkdir()
    shapes = {}
    for name in (name for name in base if name.endswith(("q_proj.weight", "v_proj.weight"))):
        stem, (rows, columns) = f"base_model.model.{name.removesuffix('.weight')}", base[name].shape
        shapes |= {f"{stem}.lora_A.weight": (RANK, columns), f"{stem}.lora_B.weight": (rows, RANK)}
    write_tensors(folder / "adapter_model.safetensors", single(draw(shapes, size, seed)))
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK, "bias": "none"}
    modules = {"target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": place}
    write_json(folder / "adapter_config.json", {**settings, **modules})


def draw(shapes: Shapes, size: float, seed: int) -> Tensors:
    """Draw tensors from N(0, size^2) in float64."""
    rng = np.random.default_rng(seed)
    return {name: size * rng.standard_normal(shape) for name, shape in shapes.items()}


def single(tensors: Mapping[str, np.ndarray]) -> Tensors:
    """Round to float32."""
    return {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}


def read(place: Path) -> Tensors:
    """Read all tensors of a folder, or of one file, in float64."""
    checkpoint = Checkpoint(place)
    return {name: checkpoint.read(name).astype(np.float64) for name in checkpoint.names}
