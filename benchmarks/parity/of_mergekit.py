"""The comparisons with mergekit: its parameters and the counterpart here."""

from __future__ import annotations

from benchmarks.parity.models import CONV1D
from benchmarks.parity.run import Comparison

PEER = "mergekit"
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
WHOLE_MEAN = ("coefficients.constant.value=1.0", "combine.disjoint_mean.divide_by=coefficients")
ROUNDED = "mergekit draws what is drawn here; it takes tensors to float32 for it (sparsify.py)"
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
ARC = "coefficients.given.values={expert_0: 0.7, expert_1: 0.3}"

MERGEKIT = [
    Comparison(PEER, "linear", "weight_averaging", each={"weight": 1.0}, base=None),
    Comparison(PEER, "task_arithmetic", "task_arithmetic", each={"weight": 0.3}),
    Comparison(PEER, "ties", "ties_mean", each={"weight": 1.0, "density": 0.2}, change=("preprocess.trim.scope=tensor",)),
    *(
        Comparison(
            PEER,
            method,
            ours,
            f"with `rescale: true` mergekit restores the sum of magnitudes, here entries are divided by the density; {ROUNDED}",
            settings={"rescale": False},
            each={"weight": 3.0, "density": 0.1},
            draw=True,
            within=1e-6,
        )
        for method, ours in (("dare_linear", "dare"), ("dare_ties", "dare_ties"))
    ),
    *(
        Comparison(
            PEER,
            method,
            "breadcrumbs",
            each={"weight": 0.3, "density": 0.9, "gamma": 0.01},
            change=(
                *(f"preprocess.breadcrumbs.{each}" for each in ("scope=tensor", "density=0.9", "outliers=0.01")),
                "coefficients.constant.value=0.3",
                *signs,
            ),
        )
        for method, signs in (("breadcrumbs", ()), ("breadcrumbs_ties", ("combine=disjoint_sum",)))
    ),
    Comparison(
        PEER,
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
            PEER,
            "della",
            "della",
            note,
            each={"weight": 1.0, "density": 0.6, "epsilon": 0.3},
            change=(*WHOLE_MEAN, *(f"preprocess.della.{each}" for each in ("density=0.6", "window=0.3", "rescale=l1"))),
            families=families,
            draw=True,
            apart=apart,
            within=within,
        )
        for note, families, apart, within in DELLA
    ),
    Comparison(
        PEER,
        "della_linear",
        "della",
        ROUNDED,
        each={"weight": 1.1, "density": 0.7, "epsilon": 0.15},
        change=("preprocess.della.rescale=l1", "combine=weighted_sum"),
        families=("LLaMA",),
        draw=True,
        within=1e-6,
    ),
    Comparison(PEER, "slerp", "slerp", experts=2, base="first", settings={"t": 0.3}, change=(ARC,)),
    Comparison(
        PEER,
        "nuslerp",
        "slerp",
        "on the arc however short it is",
        experts=2,
        each={"weight": 1.0},
        base=None,
        change=("combine.slerp.collinear=0.9999999999",),
    ),
    Comparison(PEER, "model_stock", "model_stock", "experts with much in common", shared=2.0),
    Comparison(PEER, "model_stock", "model_stock", OPPOSED, families=("CLIP",), shared=0.0, within=None),
    Comparison(PEER, "karcher", "karcher", base=None),
    Comparison(PEER, "sce", "sce"),
    Comparison(PEER, "sce", "sce", settings={"select_topk": 0.3}, change=("combine.sce.select=0.3",)),
    Comparison(PEER, "ram", "ram", settings={"epsilon": 0.002}, change=("combine.overlap_mean.threshold=0.002",)),
    Comparison(
        PEER,
        "ramplus_tl",
        "ram_plus",
        "mergekit computes the factor of unique entries in float32, from integer counts (ram.py, ramplus_tl_merge)",
        settings={"epsilon": 0.002, "r": 0.2, "alpha": 1.0},
        change=("combine.ram_plus.threshold=0.002",),
        within=1e-7,
    ),
    Comparison(PEER, "nearswap", "nearswap", experts=1, settings={"t": 0.001}, change=("preprocess.clip.limit=0.001",)),
    Comparison(PEER, "multislerp", "multislerp", ADDED, each={"weight": 1.0}, base=None, within=1e-6),
    Comparison(
        PEER,
        "multislerp",
        "weight_averaging_magic",
        f"of task vectors, which is NAN by tensor at the mean length; {ADDED}",
        each={"weight": 1.0},
        change=("coefficients={nan: {scope: tensor}}",),
        within=1e-4,
    ),
    Comparison(PEER, "arcee_fusion", "arcee_fusion", MASKS, experts=1, families=("CLIP", "LLaMA")),
    Comparison(PEER, "arcee_fusion", "arcee_fusion", ROWS, experts=1, families=("GPT-2",), within=None),
    Comparison(
        PEER,
        "arcee_fusion",
        "arcee_fusion",
        f"without the Conv1D matrices; {MASKS}",
        experts=1,
        families=("GPT-2",),
        apart=CONV1D,
    ),
]
