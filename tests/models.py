"""Tiny random checkpoints, the shipped methods, and the three stages that turn them into a merged model."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np

from experiment import REFERENCES, Experiment, read_yaml
from merging import engine, measure
from merging.checkpoints import Checkpoint, write_tensors
from merging.layouts import align
from merging.recipe import bind

ROOT = Path(__file__).parents[1]
FLOAT32, BFLOAT16 = np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)
SHAPES: dict[str, tuple[int, ...]] = {
    "embeddings.weight": (11, 6),
    "encoder.layer.0.dense.weight": (13, 7),
    "encoder.layer.0.dense.bias": (13,),
    "encoder.layer.1.dense.weight": (9, 8),
    "encoder.layer.1.norm.weight": (1,),
    "logit_scale": (),
    "unused": (0, 4),
}
SLOTS = ("preprocess", "coefficients", "control", "combine")


def random_model(seed: int, dtype: np.dtype = FLOAT32, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Draw the tensors of SHAPES from N(0, scale^2), and add an integer and a boolean buffer."""
    rng = np.random.default_rng(seed)
    tensors = {name: np.asarray(scale * rng.standard_normal(shape), dtype) for name, shape in SHAPES.items()}
    return {**tensors, "position_ids": np.arange(5), "causal": np.array([True, False, True])}


def moved(base: Mapping[str, np.ndarray], seed: int, size: float = 0.01) -> dict[str, np.ndarray]:
    """Return an expert of `base`: every float moved by N(0, size^2), buffers changed too."""
    step = random_model(seed, FLOAT32, size)
    tensors = {n: np.asarray(base[n].astype(np.float64) + step[n], base[n].dtype) for n in SHAPES}
    return {**tensors, "position_ids": base["position_ids"] + seed, "causal": ~base["causal"]}


def save(folder: Path, tensors: Mapping[str, np.ndarray], shards: int = 1) -> Path:
    """Write a checkpoint folder, in one file or in several with their index."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"hidden_size": 8}')
    if shards == 1:
        write_tensors(folder / "model.safetensors", tensors)
        return folder
    names = list(tensors)
    places = {name: f"model-{1 + i % shards:05}-of-{shards:05}.safetensors" for i, name in enumerate(names)}
    for file in sorted(set(places.values())):
        write_tensors(folder / file, {name: tensors[name] for name in names if places[name] == file})
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def family(folder: Path, experts: int = 3, dtype: np.dtype = FLOAT32, sizes: tuple[float, ...] = (0.01, 0.02, 0.005)):
    """Write a base and its experts `a`, `b`, ... and return (base folder, {expert: folder})."""
    base = random_model(0, dtype)
    models = {chr(97 + t): moved(base, t + 1, sizes[t % len(sizes)]) for t in range(experts)}
    return save(folder / "base", base), {name: save(folder / name, tensors) for name, tensors in models.items()}


def merged(
    output: Path, sentence: Mapping, base: Path, experts: Mapping[str, Path], exclude: tuple[str, ...] = (), seed: int = 0, **how
):
    """Measure, estimate and merge as the rules do, and return the tensors by name."""
    engine.merge(*measures(sentence, base, experts, exclude), output, seed=seed, **how)
    return tensors_of(output)


def measures(sentence: Mapping, base: Path, experts: Mapping[str, Path], exclude: tuple[str, ...] = ()):
    """Return what a merge takes, measured: models, recipe, coefficients, thresholds."""
    recipe, models = bind(sentence), align(base, experts, exclude)
    cuts = measure.thresholds(models, **recipe.trim) if recipe.trim else {}
    return models, recipe, recipe.estimate(measure.norms(models)), cuts


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    """Read all tensors of a checkpoint folder."""
    checkpoint = Checkpoint(folder)
    tensors = {name: checkpoint.read(name) for name in checkpoint.names}
    return tensors


def flat(tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Concatenate the float tensors of SHAPES in float64: (d,)."""
    return np.concatenate([tensors[name].astype(np.float64).ravel() for name in SHAPES])


def same_bytes(left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> bool:
    """Say whether two models have the same names, types, shapes and bits."""
    return left.keys() == right.keys() and all(
        left[n].dtype == right[n].dtype and left[n].shape == right[n].shape and left[n].tobytes() == right[n].tobytes()
        for n in left
    )


@cache
def shipped() -> Experiment:
    """Return the shipped default experiment."""
    return Experiment(read_yaml(ROOT / "config/config.yaml"), ROOT)


@cache
def sentences() -> dict[str, dict]:
    """Return the sentence of every shipped method that merges, by method."""
    methods = {name: record for name, record in shipped().methods.items() if name not in REFERENCES}
    return {name: {slot: record[slot] for slot in SLOTS if slot in record} for name, record in methods.items()}
