"""Merge small models with FusionBench; run by the Python of its environment: JOBS.json, a list of jobs.

A job has `method`, `settings`, `base`, `experts`, `calibration` (files), `output` and `double`: whether the numbers are
taken to float64 first. `turn` names matrices that are given to FusionBench transposed, and turned back afterwards; with
`draw`, what it draws at random are the draws of `draws.py`.
FusionBench's classes run where they take models; for Fisher and RegMean the functions after the data sets are called, and for
KnOTS, of which it has the alignment only, that and its TIES.
"""

import contextlib
import importlib
import json
import re
import sys
import types
from pathlib import Path

import torch
from draws import uniform
from fusion_bench import BaseModelPool
from safetensors.torch import load_file, save_file

PREFIXES = ("vision_model.", "transformer.")


def main(jobs):
    """Run every job and write one file of tensors for each."""
    drawn = torch.rand_like
    for job in jobs:
        kind = torch.float64 if job["double"] else torch.float32
        torch.rand_like = (lambda like: uniform(like.shape)) if job["draw"] else drawn
        base = read(Path(job["base"]) / "model.safetensors", kind)
        models = [turned(model, job["turn"]) for model in (base, *(expert(Path(place), base, kind) for place in job["experts"]))]
        calibration = [read(Path(file), kind) for file in job["calibration"]]
        with contextlib.redirect_stdout(sys.stderr):
            merged = METHODS[job["method"]](models, calibration, Path(job["base"]), **job["settings"])
        merged = turned({name: merged[name].detach().contiguous() for name in models[0]}, job["turn"])
        save_file(merged, job["output"])


def read(file, kind):
    """Return the tensors of a file in a type."""
    return {name: tensor.to(kind) for name, tensor in load_file(file).items()}


def expert(folder, base, kind):
    """Return the tensors of a whole model, or of a LoRA adapter on the base."""
    if not (folder / "adapter_config.json").exists():
        return read(folder / "model.safetensors", kind)
    factors, settings = (
        read(folder / "adapter_model.safetensors", kind),
        json.loads((folder / "adapter_config.json").read_text()),
    )
    stems = {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in factors}
    scale, moved = settings["lora_alpha"] / settings["r"], {}
    for stem in stems:
        b, a = (factors[f"base_model.model.{stem}.lora_{side}.weight"] for side in "BA")
        moved[f"{stem}.weight"] = base[f"{stem}.weight"] + scale * b @ a
    return base | moved


def turned(tensors, pattern):
    """Return tensors with those transposed whose name the pattern matches; none for an empty pattern."""
    return {name: t.T.contiguous() if pattern and re.search(pattern, name) else t for name, t in tensors.items()}


class Shell(torch.nn.Module):
    """Named tensors as a module; FusionBench's classes need only its state dict."""

    def __init__(self, tensors):
        super().__init__()
        for name, tensor in tensors.items():
            *path, last = name.split(".")
            module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, torch.nn.Module())
                module = module._modules[part]
            module.register_parameter(last, torch.nn.Parameter(tensor.clone()))


def by_class(path, with_base=True):
    """Return a method that runs an algorithm of FusionBench, named by its module and class, on a pool of models."""
    module, _, name = path.rpartition(".")

    def method(models, calibration, folder, **settings):
        algorithm = getattr(importlib.import_module(f"fusion_bench.method.{module}"), name)(**settings)
        names = ["_pretrained_", *(f"expert_{t}" for t in range(len(models) - 1))]
        pool = BaseModelPool({name: Shell(model) for name, model in [*zip(names, models, strict=True)][not with_base :]})
        return algorithm.run(pool).state_dict()

    return method


def fisher(models, calibration, folder, **settings):
    """Run FusionBench's merge of given Fisher weights."""
    from fusion_bench.method.fisher_merging.fisher_merging import merging_with_fisher_weights

    share = torch.full([len(calibration)], 1 / len(calibration), dtype=models[0][next(iter(models[0]))].dtype)
    return merging_with_fisher_weights(parameters(models), calibration, share, **settings)


def regmean(models, calibration, folder, **settings):
    """Run FusionBench's merge of given Gram matrices."""
    from fusion_bench.method.regmean.regmean import merging_with_regmean_weights

    grams = [{name.removesuffix(".weight"): gram for name, gram in each.items()} for each in calibration]
    return merging_with_regmean_weights(parameters(models), grams, **settings)


def knots(models, calibration, folder, *, scaled, **ties):
    """Align the updates of every matrix by FusionBench's part of KnOTS, and merge what it aligns by FusionBench's TIES.

    `scaled` is whether the singular values count with what is merged, as in the released code, or with the basis.
    """
    from fusion_bench.method.knots.knots_utils import subspace_alignment

    base, *experts = models
    moved = [name for name in base if any(not torch.equal(each[name], base[name]) for each in experts)]
    aligned = {name: subspace_alignment([each[name] - base[name] for each in experts]) for name in moved}
    blocks = [{name: (s[:, None] if scaled else 1) * vs[t] for name, (_, s, vs) in aligned.items()} for t in range(len(experts))]
    zero = {name: torch.zeros_like(block) for name, block in blocks[0].items()}
    merged = METHODS["ties_merging"]([zero, *blocks], (), folder, **ties)
    return base | {name: base[name] + (u if scaled else u * s) @ merged[name] for name, (u, s, _) in aligned.items()}


def adamerging(models, calibration, folder, *, wise, **settings):
    """Run FusionBench's test-time adaptation, `wise` is `task` or `layer`, on the encoder that both programs share."""
    import encoder
    from omegaconf import OmegaConf

    kind = models[0][next(iter(models[0]))].dtype
    module = importlib.import_module(f"fusion_bench.method.adamerging.{wise}_wise_adamerging")
    construct = f"construct_{wise}_wise_merged_model"

    class Adaptation(getattr(module, f"{wise.title()}WiseAdaMergingAlgorithm")):
        _fabric = types.SimpleNamespace(backward=lambda loss, **how: loss.backward(**how), setup=lambda *each: each)

        def get_shuffled_test_loader_iter(self, task):
            images, _ = tasks[task]
            while True:
                yield torch.from_numpy(images).to(kind), None

        def compute_logits(self, module, batch, task):
            images = batch[0] if wise == "task" else batch
            return encoder.SCALE * module(images) @ torch.from_numpy(tasks[task][1]).to(kind).T

    encoders = [encoder.load(folder, model) for model in models]
    shape = encoders[0].config
    names = [f"expert_{t}" for t in range(len(models) - 1)]
    tasks = {name: encoder.task(t, shape.image_size, shape.hidden_size) for t, name in enumerate(names)}
    pool = BaseModelPool(dict(zip(["_pretrained_", *names], encoders, strict=True)))
    fixed = {"weights": None, "optimizer": "adam", "tie_weights": True, "strict": False}
    algorithm = Adaptation(OmegaConf.create({**fixed, **settings}))
    algorithm.modelpool = pool  # the parts of its `run`, which wants a place to log to
    module = getattr(algorithm, construct)(pool)
    module.merge_weight = torch.nn.Parameter(torch.full_like(module.merge_weight, settings["init_values"], dtype=kind))
    return algorithm.test_time_adaptation(module).merge_and_unload().state_dict()


def parameters(models):
    """Return {name: the tensors of the experts}, as FusionBench gathers them."""
    return {name: [expert[name] for expert in models[1:]] for name in models[0]}


METHODS = {
    "simple_average": by_class("simple_average.SimpleAverageAlgorithm"),
    "task_arithmetic": by_class("task_arithmetic.TaskArithmeticAlgorithm"),
    "weighted_average": by_class("weighted_average.weighted_average.WeightedAverageAlgorithm"),
    "ties_merging": by_class("ties_merging.ties_merging.TiesMergingAlgorithm"),
    "dare_task_arithmetic": by_class("dare.task_arithmetic.DareTaskArithmetic"),
    "dare_ties": by_class("dare.ties_merging.DareTiesMerging"),
    "magmax": by_class("magmax.magmax.MagMaxAlgorithm"),
    "slerp": by_class("slerp.SlerpMergeAlgorithm", with_base=False),
    "model_stock": by_class("model_stock.ModelStock"),
    "doge_ta": by_class("doge_ta.doge_ta.DOGE_TA_Algorithm"),
    "svc_task_arithmetic": by_class("singular_value_calibration.task_arithmetic.SingularValueCalibrationArithmeticTask"),
    "knots": knots,
    "tsv_m": by_class("task_singular_vector.TaskSingularVectorMerging"),
    "iso_c": by_class("isotropic_merging.ISO_C_Merge"),
    "iso_cts": by_class("isotropic_merging.ISO_CTS_Merge"),
    "wudi": by_class("wudi.wudi.WUDIMerging"),
    "fisher": fisher,
    "regmean": regmean,
    "adamerging": adamerging,
}

if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
