"""The comparisons with FusionBench: its settings and the counterpart here."""

from __future__ import annotations

from benchmarks.parity.models import CONV1D, LORA
from benchmarks.parity.run import Comparison

PEER = "fusion-bench"
AS_OUT_IN = "GPT-2's matrices given to FusionBench as (out, in)"
STORED = (
    "FusionBench takes GPT-2's Conv1D matrices as they are stored, (in, out), so that inputs and outputs change places;"
    " here they are turned. With the turned matrices given to it, both agree: next row"
)
NO_FRACTION = "the factor of the off-diagonals is rounded to float32 by FusionBench (regmean.py, reduce_non_diagonal_elements)"
TIES = {"threshold": 20, "remove_keys": []}
ADAPTED = {"init_values": 0.3, "lr": 1e-3, "max_steps": 3, "clamp_weights": False}
NORMALISED = (
    "FusionBench's default: the Fisher weights of each expert over their norm in the model (fisher_merging.py,"
    " merging_with_fisher_weights), which is NAN on norms of the calibration; it adds 1e-6 to each norm, 1e-5 to 1e-4 of them"
    " here"
)
STEPS = "three steps on one encoder, one batch a task and one head a task"
LEARNED = {"steps": 3, "learning_rate": 1e-3, "init": 0.3, "clamp": False}
DRAWN = "FusionBench draws what is drawn here"
DROPPED = {"scaling_factor": 0.3, "sparsity_ratio": 0.9, "only_on_linear_weights": False, "rescale": True}
ARC = "coefficients.given.values={expert_0: 0.7, expert_1: 0.3}"
COSINE = "FusionBench computes the angles in float32 (model_stock.py, compute_angle)"
SIDES = (("", ("CLIP", "LLaMA"), "", 1e-9), (STORED, ("GPT-2",), "", None), (AS_OUT_IN, ("GPT-2",), CONV1D, 1e-9))
SIDED = (  # methods that tell inputs from outputs
    ("iso_cts", "iso_cts", {"scaling_factor": 1.0, "common_space_fraction": 0.8}, ()),
    ("wudi", "wudi", {"iter_num": 300}, ("combine.wudi.others=1",)),  # FusionBench averages other tensors, unlike the authors
    ("svc_task_arithmetic", "task_arithmetic_svc", {"scaling_factor": 0.3, "alpha": 1 / 3}, ()),
)

FUSIONBENCH = [
    Comparison(PEER, "simple_average", "weight_averaging"),
    Comparison(PEER, "task_arithmetic", "task_arithmetic", settings={"scaling_factor": 0.3}),
    Comparison(PEER, "ties_merging", "ties", settings={**TIES, "scaling_factor": 0.3, "merge_func": "sum"}),
    Comparison(
        PEER,
        "ties_merging",
        "ties_mean",
        settings={**TIES, "scaling_factor": 1.0, "merge_func": "mean"},
    ),
    Comparison(PEER, "fisher", "fisher", settings={"normalize_fisher_weight": False}, calibration="fisher"),
    Comparison(PEER, "fisher", "fisher_normalised", NORMALISED, calibration="fisher", within=1e-4),
    Comparison(
        PEER,
        "regmean",
        "regmean",
        NO_FRACTION,
        settings={"reduce_non_diagonal_ratio": 0.95, "weight_transpose": True},
        calibration="gram",
        families=("CLIP", "LLaMA"),
        within=1e-7,
    ),
    Comparison(
        PEER,
        "regmean",
        "regmean",
        "`weight_transpose: false`, as FusionBench sets for GPT-2; a factor that float32 holds",
        settings={"reduce_non_diagonal_ratio": 0.9375, "weight_transpose": False},
        change=("combine.gram.off_diagonal=0.9375",),
        calibration="gram",
        families=("GPT-2",),
    ),
    Comparison(PEER, "tsv_m", "tsv_m"),
    Comparison(PEER, "iso_c", "iso_c", settings={"scaling_factor": 1.0}),
    *(
        Comparison(
            PEER,
            "adamerging",
            "task_arithmetic",
            STEPS,
            settings={**ADAPTED, "wise": wise},
            learn={**LEARNED, "scope": scope},
            families=("CLIP",),
        )
        for wise, scope in (("task", "model"), ("layer", "tensor"))
    ),
    Comparison(
        PEER,
        "weighted_average",
        "weight_averaging",
        settings={"normalize": True, "weights": [1, 2, 5]},
        change=("coefficients={given: {values: {expert_0: 1, expert_1: 2, expert_2: 5}, normalise: true}}",),
    ),
    Comparison(PEER, "dare_task_arithmetic", "dare", DRAWN, settings=DROPPED, draw=True),
    Comparison(
        PEER,
        "dare_ties",
        "dare_ties",
        f"{DRAWN}; a threshold that trims nothing",
        settings={**DROPPED, **TIES, "threshold": 99.999, "merge_func": "sum"},
        draw=True,
    ),
    Comparison(PEER, "magmax", "magmax", settings={"scaling_factor": 0.5}),
    Comparison(PEER, "slerp", "slerp", experts=2, settings={"t": 0.3}, change=(ARC,)),
    Comparison(PEER, "model_stock", "model_stock", COSINE, experts=2, shared=2.0, within=1e-5),
    Comparison(
        PEER,
        "model_stock",
        "model_stock",
        "of more than two experts FusionBench averages the angles of all pairs, here, as in mergekit, the cosines",
        families=("CLIP",),
        shared=2.0,
        within=None,
    ),
    Comparison(
        PEER,
        "doge_ta",
        "doge_ta",
        "FusionBench trims the task vectors over the model, here by tensor; nothing is trimmed",
        settings={"subspace": 6, "K": 99.999, "lamda": 0.07},
        change=("combine.doge.density=1.0", "combine.doge.others=0"),
        families=("CLIP",),
    ),
    *(
        Comparison(PEER, method, ours, note, settings=settings, change=change, families=families, turn=turn, within=within)
        for method, ours, settings, change in SIDED
        for note, families, turn, within in SIDES
    ),
    Comparison(
        PEER,
        "knots",
        "ties+knots",
        "FusionBench has the alignment of KnOTS alone; here followed by its TIES over all that is aligned",
        settings={**TIES, "scaling_factor": 0.3, "merge_func": "sum", "scaled": False},
        families=(LORA,),
    ),
    Comparison(
        PEER,
        "knots",
        "ties_mean+knots_scaled",
        "the same with the singular values in what is merged, as in the code of KnOTS",
        settings={**TIES, "scaling_factor": 1.0, "merge_func": "mean", "scaled": True},
        families=(LORA,),
    ),
]
