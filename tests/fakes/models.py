"""Tiny random checkpoints, the shipped methods, and the three stages that turn them into a merged model."""

import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache, partial
from pathlib import Path

import ml_dtypes
import numpy as np

from experiment.experiment import Experiment
from nan_merge.catalogue.files import read_yaml
from nan_merge.catalogue.methods import REFERENCES, STAGES, Catalogue
from nan_merge.checkpoints.checkpoint import Checkpoint, write_tensors
from nan_merge.core.errors import UserError
from nan_merge.engine import measure, merge
from nan_merge.engine.processed import processed as norms_processed
from nan_merge.engine.request import Contexts, MergeRequest
from nan_merge.layouts.unify import Models, unify_layout
from nan_merge.methods.coefficients import CoefficientTable
from nan_merge.methods.recipe import Recipe, bind

ROOT = Path(__file__).parents[2]
HOSTS = ("weight_averaging", "task_arithmetic", "ties")  # with the variants that the default run has
EXAMPLES = (300, 100, 200, 400)  # that experts were trained on
FLOAT32, BFLOAT16 = np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)
SHAPES: dict[str, tuple[int, ...]] = {
    "embeddings.weight": (11, 6),
    "encoder.layer.0.dense.weight": (13, 7),
    "encoder.layer.0.dense.bias": (13,),
    "encoder.layer.1.dense.weight": (16, 17),
    "encoder.layer.1.norm.weight": (1,),
    "logit_scale": (),
    "unused": (0, 4),
}


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
    output: Path,
    method_spec: Mapping,
    base: Path,
    experts: Mapping[str, Path],
    exclude: tuple[str, ...] = (),
    seed: int = 0,
    **settings,
):
    """Measure, estimate and merge as the rules do, and return the tensors by name."""
    merger(method_spec, base, experts, exclude)(output, seed=seed, **settings)
    return tensors_of(output)


def merger(method_spec: Mapping, base: Path, experts: Mapping[str, Path], exclude: tuple[str, ...] = ()):
    """Return the merge of measured models, with the calibration that its operators require, as a function of the output.

    A method that makes a model for each task makes that of the first expert.
    """
    models, recipe, *measured = measures(method_spec, base, experts, exclude)
    statistics = calibration_for(recipe, base, models.experts)
    return partial(merge_measured, models, recipe, *measured, calibration=statistics, task=min(models.experts))


def merge_measured(models: Models, recipe: Recipe, table: CoefficientTable, thresholds: Mapping, output: Path, **settings):
    """Merge into a folder; settings of the request and of the run alike."""
    names = ("calibration", "task", "seed", "dtype", "compute", "blas_threads")
    of_request = {key: settings.pop(key) for key in names if key in settings}
    merge.merge(MergeRequest(models, recipe, table, thresholds, **of_request), output, **settings)


def measures(method_spec: Mapping, base: Path, experts: Mapping[str, Path], exclude: tuple[str, ...] = ()):
    """Measure, and return models, recipe, coefficients and thresholds of a merge."""
    recipe = bind(method_spec)
    models = unify_layout(base, enough(recipe, experts), exclude)
    cuts = measure.thresholds(models, **recipe.requirements["thresholds"]) if "thresholds" in recipe.requirements else {}
    if processed := recipe.requirements.get("processed"):
        norms = norms_processed(Contexts(models, cuts), **processed)
    else:
        norms = measure.norms(models)
    if statistics := calibration_for(recipe, base, models.experts):
        for name, sums in norms["tensors"].items():
            sums["calibration"] = [squares(each, name) for each in statistics.values()]
    norms["examples"] = EXAMPLES[: len(models.experts)]
    return models, recipe, recipe.estimate(norms), cuts


def squares(calibration: Checkpoint, name: str) -> float:
    """Return the sum of squares of the calibration of a tensor, 0 without any."""
    return float((calibration.read(name).astype(np.float64) ** 2).sum()) if name in calibration.entries else 0.0


def enough(recipe: Recipe, experts: Mapping[str, Path]) -> dict[str, Path]:
    """Return as many experts as the method takes, in the order of their names."""
    chosen = sorted(experts)[: getattr(recipe.combine.func, "experts", None)]
    return {name: folder for name, folder in experts.items() if name in chosen}


def calibration_for(recipe: Recipe, base: Path, experts: Iterable[str]) -> dict[str, Checkpoint]:
    """Return the calibration that a method requires, {} if it requires none."""
    kinds = [kind for kind in recipe.requirements if kind in ("fisher", "gram", "matching")]
    return calibration(kinds[0], base, experts) if kinds else {}


def calibration(kind: str, base: Path, experts: Iterable[str]) -> dict[str, Checkpoint]:
    """Return positive random calibration of every expert, written beside the base once; it depends on the expert only."""
    folders = {name: base.parent / "calibration" / kind / name for name in experts}
    for name, folder in folders.items():
        if not folder.exists():
            save(folder, drawn_calibration(kind, Checkpoint(base), int.from_bytes(name.encode(), "little")))
    return {name: Checkpoint(folder) for name, folder in folders.items()}


def drawn_calibration(kind: str, base: Checkpoint, seed: int) -> dict[str, np.ndarray]:
    """Draw calibration of a kind for every tensor.

    `fisher` is a positive number for every entry, `gram` a Gram matrix of 30 inputs for every matrix, `matching` a group for
    every output and input of some tensors; the outputs of one of them stay apart.
    """
    rng = np.random.default_rng(seed)
    shapes = {name: entry.shape for name, entry in base.entries.items() if entry.is_float}
    if kind == "fisher":
        return {name: np.asarray(10 ** rng.standard_normal(shape), np.float32) for name, shape in shapes.items()}
    if kind == "matching":
        apart, layers = "encoder.layer.1.dense.weight", {name: shapes[name][:2] for name in shapes if ".dense." in name}
        drawn = {name: np.concatenate([rng.integers(size, size=size) for size in sizes]) for name, sizes in layers.items()}
        drawn[apart][: shapes[apart][0]] = -1
        return drawn
    inputs = {name: rng.standard_normal((30, shape[1])) for name, shape in shapes.items() if len(shape) == 2}
    return {name: np.asarray(x.T @ x / len(x), np.float32) for name, x in inputs.items()}


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    """Read all tensors of a checkpoint folder."""
    checkpoint = Checkpoint(folder)
    tensors = {name: checkpoint.read(name) for name in checkpoint.names}
    return tensors


def flat(tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Concatenate the float tensors of SHAPES in float64: (d,)."""
    return np.concatenate([tensors[name].astype(np.float64).ravel() for name in SHAPES])


def same_bytes(left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> bool:
    """Return whether two models have the same names, types, shapes and bits."""
    return left.keys() == right.keys() and all(
        left[n].dtype == right[n].dtype and left[n].shape == right[n].shape and left[n].tobytes() == right[n].tobytes()
        for n in left
    )


@cache
def shipped() -> Experiment:
    """Return the shipped default experiment."""
    return Experiment(read_yaml(ROOT / "config/config.yaml"), ROOT)


@cache
def every_method() -> dict[str, dict]:
    """Return every host, every variant on every host that takes it, controls and scans of some, by id."""
    catalogue = Catalogue(ROOT)
    of_coefficients = [
        name for name, variant in catalogue.variants.items() if "coefficients" in variant and "scan" not in variant
    ]
    names = [*catalogue.hosts, *(f"{host}+{variant}" for host in catalogue.hosts for variant in of_coefficients)]
    names += [f"{host}+nan_delta+{control}" for host in HOSTS for control in ("uniform", "permuted")]
    names += read_yaml(ROOT / "config/scan.yaml")["methods"]
    found: dict[str, dict] = {}
    for name in names:
        with contextlib.suppress(UserError):  # refused, which tests of the catalogue list
            found |= catalogue.members(name)
    return found


@cache
def method_specs() -> dict[str, dict]:
    """Return the spec of every method that merges, by id; learned coefficients have their initial value."""
    return {name: method_spec_of(record) for name, record in every_method().items() if name not in REFERENCES}


def method_spec_of(record: Mapping) -> dict:
    """Return the operators of a method's entry by stage."""
    learned = {"coefficients": {"constant": {"value": record["learn"]["init"]}}} if "learn" in record else {}
    return {**{stage: record[stage] for stage in STAGES if stage in record}, **learned}


def distinct() -> dict[str, dict]:
    """Return the specs of hosts, and of the variants on some, without scans and without all draws but the first."""
    return {
        name: method_spec
        for name, method_spec in method_specs().items()
        if "-" not in name and not re.search(r"_[2-9]$", name)
        if name.endswith("+nan_delta") or name.partition("+")[0] in (name, *HOSTS)
    }


def is_whole(method_spec: Mapping) -> bool:
    """Return whether a method needs whole tensors."""
    return bind(method_spec).whole
