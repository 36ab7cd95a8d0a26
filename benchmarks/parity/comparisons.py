"""The comparisons: every method of a peer with its counterpart here."""

from __future__ import annotations

from benchmarks.parity.run import Comparison

FB, MK = "fusion-bench", "mergekit"
CONV1D = r"\.(?:c_attn|c_proj|c_fc)\.weight$"
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
OPPOSED = (
    "experts with nothing in common: the mean cosine of some tensors is negative, and mergekit steps from the base away from"
    " the experts (model_stock.py, model_stock_merge_method); here it stays at the base"
)
ADDED = "mergekit adds 1e-8 to every norm (multislerp.py, multislerp)"
MASKS = "in float32 the divergences that mergekit compares are rounding, so other entries are kept; here it is float64 in both"
ROWS = (
    "mergekit takes the rows of GPT-2's Conv1D matrices as they are stored, along the outputs; here along the inputs of one"
    " output. All else agrees: next row"
)
STEPS = "three steps, layer-wise, on one encoder, one batch a task and one head a task"
LEARNED = {"scope": "tensor", "steps": 3, "learning_rate": 1e-3, "init": 0.3, "clamp": False}
WHOLE_MEAN = ("coefficients.constant.value=1.0", "combine.disjoint_mean.divide_by=coefficients")
ROUNDED = "both keep what has a probability above 0.4877; mergekit takes tensors to float32 for it (sparsify.py, della_magprune)"
DELLA = (
    (ROUNDED, ("LLaMA",), "", 1e-6),
    (
        "mergekit ranks along the second axis of whatever a tensor has (sparsify.py, della_magprune): along the three"
        " channels of the patch embedding; here along the last. All else agrees: next row",
        ("CLIP",),
        "",
        None,
    ),
    (f"without the patch embedding; {ROUNDED}", ("CLIP",), "patch_embedding", 1e-6),
    (
        "mergekit ranks GPT-2's Conv1D matrices along their outputs, as they are stored; here along the inputs of one output,"
        " as in any other model. All else agrees: next row",
        ("GPT-2",),
        "",
        None,
    ),
    (f"without the Conv1D matrices; {ROUNDED}", ("GPT-2",), CONV1D, 1e-6),
)

AVERAGED = ("combine.wudi.others=1",)  # as FusionBench does, unlike the authors

FUSIONBENCH = [
    Comparison(FB, "simple_average", "weight_averaging"),
    Comparison(FB, "task_arithmetic", "task_arithmetic", settings={"scaling_factor": 0.3}),
    Comparison(FB, "ties_merging", "ties", settings={**TIES, "scaling_factor": 0.3, "merge_func": "sum"}),
    Comparison(
        FB,
        "ties_merging",
        "ties_mean",
        settings={**TIES, "scaling_factor": 1.0, "merge_func": "mean"},
    ),
    Comparison(FB, "fisher", "fisher", settings={"normalize_fisher_weight": False}, calibration="fisher"),
    Comparison(FB, "fisher", "fisher_normalised", NORMALISED, calibration="fisher", within=1e-4),
    Comparison(
        FB,
        "regmean",
        "regmean",
        NO_FRACTION,
        settings={"reduce_non_diagonal_ratio": 0.95, "weight_transpose": True},
        calibration="gram",
        families=("CLIP", "LLaMA"),
        within=1e-7,
    ),
    Comparison(
        FB,
        "regmean",
        "regmean",
        "`weight_transpose: false`, as FusionBench sets for GPT-2; a factor that float32 holds",
        settings={"reduce_non_diagonal_ratio": 0.9375, "weight_transpose": False},
        change=("combine.gram.off_diagonal=0.9375",),
        calibration="gram",
        families=("GPT-2",),
    ),
    Comparison(FB, "tsv_m", "tsv_m"),
    Comparison(FB, "iso_c", "iso_c", settings={"scaling_factor": 1.0}),
    Comparison(
        FB, "iso_cts", "iso_cts", settings={"scaling_factor": 1.0, "common_space_fraction": 0.8}, families=("CLIP", "LLaMA")
    ),
    Comparison(
        FB,
        "iso_cts",
        "iso_cts",
        STORED,
        settings={"scaling_factor": 1.0, "common_space_fraction": 0.8},
        families=("GPT-2",),
        within=None,
    ),
    Comparison(
        FB,
        "iso_cts",
        "iso_cts",
        AS_OUT_IN,
        settings={"scaling_factor": 1.0, "common_space_fraction": 0.8},
        families=("GPT-2",),
        turn=CONV1D,
    ),
    Comparison(FB, "wudi", "wudi", settings={"iter_num": 300}, change=AVERAGED, families=("CLIP", "LLaMA")),
    Comparison(FB, "wudi", "wudi", STORED, settings={"iter_num": 300}, change=AVERAGED, families=("GPT-2",), within=None),
    Comparison(FB, "wudi", "wudi", AS_OUT_IN, settings={"iter_num": 300}, change=AVERAGED, families=("GPT-2",), turn=CONV1D),
    Comparison(FB, "adamerging", "task_arithmetic", STEPS, settings=ADAPTED, learn=LEARNED, families=("CLIP",)),
]

MERGEKIT = [
    Comparison(MK, "linear", "weight_averaging", each={"weight": 1.0}, base=None),
    Comparison(MK, "task_arithmetic", "task_arithmetic", each={"weight": 0.3}),
    Comparison(MK, "ties", "ties_mean", each={"weight": 1.0, "density": 0.2}, change=("preprocess.trim.scope=tensor",)),
    Comparison(
        MK,
        "breadcrumbs",
        "breadcrumbs",
        each={"weight": 0.3, "density": 0.9, "gamma": 0.01},
        change=(
            "preprocess.breadcrumbs.scope=tensor",
            "preprocess.breadcrumbs.density=0.9",
            "preprocess.breadcrumbs.outliers=0.01",
            "coefficients.constant.value=0.3",
        ),
    ),
    Comparison(
        MK,
        "della",
        "della",
        each={"weight": 1.0, "density": 1.0},
        change=(
            *WHOLE_MEAN,
            "preprocess.della.density=1.0",
            "preprocess.della.window=0.0",
        ),
    ),
    *(
        Comparison(
            MK,
            "della",
            "della",
            note,
            each={"weight": 1.0, "density": 0.6, "epsilon": 0.3},
            change=(*WHOLE_MEAN, *(f"preprocess.della.{each}" for each in ("density=0.6", "window=0.3", "rescale=l1"))),
            families=families,
            draw=0.4877,
            apart=apart,
            within=within,
        )
        for note, families, apart, within in DELLA
    ),
    Comparison(
        MK,
        "slerp",
        "slerp",
        experts=2,
        base="first",
        settings={"t": 0.3},
        change=("coefficients.given.values={expert_0: 0.7, expert_1: 0.3}",),
    ),
    Comparison(MK, "model_stock", "model_stock", "experts with much in common", shared=2.0),
    Comparison(MK, "model_stock", "model_stock", OPPOSED, families=("CLIP",), shared=0.0, within=None),
    Comparison(MK, "karcher", "karcher", base=None),
    Comparison(MK, "sce", "sce"),
    Comparison(MK, "sce", "sce", settings={"select_topk": 0.3}, change=("combine.sce.select=0.3",)),
    Comparison(MK, "ram", "ram", settings={"epsilon": 0.002}, change=("combine.overlap_mean.threshold=0.002",)),
    Comparison(
        MK,
        "ramplus_tl",
        "ram_plus",
        "mergekit computes the factor of unique entries in float32, from integer counts (ram.py, ramplus_tl_merge)",
        settings={"epsilon": 0.002, "r": 0.2, "alpha": 1.0},
        change=("combine.ram_plus.threshold=0.002",),
        within=1e-7,
    ),
    Comparison(MK, "nearswap", "nearswap", experts=1, settings={"t": 0.001}, change=("preprocess.clip.limit=0.001",)),
    Comparison(MK, "multislerp", "multislerp", ADDED, each={"weight": 1.0}, base=None, within=1e-6),
    Comparison(
        MK,
        "multislerp",
        "weight_averaging_magic",
        f"of task vectors, which is NAN by tensor at the mean length; {ADDED}",
        each={"weight": 1.0},
        change=("coefficients={nan: {scope: tensor}}",),
        within=1e-4,
    ),
    Comparison(MK, "arcee_fusion", "arcee_fusion", MASKS, experts=1, families=("CLIP", "LLaMA")),
    Comparison(MK, "arcee_fusion", "arcee_fusion", ROWS, experts=1, families=("GPT-2",), within=None),
    Comparison(
        MK,
        "arcee_fusion",
        "arcee_fusion",
        f"without the Conv1D matrices; {MASKS}",
        experts=1,
        families=("GPT-2",),
        apart=CONV1D,
    ),
]

COMPARISONS = [*FUSIONBENCH, *MERGEKIT]
