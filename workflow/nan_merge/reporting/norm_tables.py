"""Tables of norms and coefficients, one function a kind."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nan_merge.reporting import norm_data
from nan_merge.reporting.formats import Table, count, percent, signed_number
from nan_merge.reporting.study import Study


def experts(study: Study, record: dict[str, Any]) -> Table:
    """One row an expert: data, norms and their NAN shares (p = 1, whole model)."""
    table = Table(
        study.title(record),
        ["Expert", "Training examples", "Share of data", "‖W‖", "‖τ‖", "‖τ‖ / ‖W‖ in %", "α from ‖W‖", "α from ‖τ‖"],
    )
    measured = norm_data.experts(study)
    total = sum(study.sizes.values())
    for expert, row in measured.items():
        size = study.sizes.get(expert)
        share = size / total if size and len(study.sizes) == len(study.tasks) else None
        digits = {"weights": 4, "task_vector": 4, "ratio": 3, "alpha_weights": 6, "alpha_task_vector": 4}
        cells = [
            study.label(expert),
            count(size),
            "" if share is None else f"{share:.4f}",
            *(_spread(row[key] * (100 if key == "ratio" else 1), places) for key, places in digits.items()),
        ]
        table.add(
            cells, {"expert": expert, "train": size, "share_of_data": share, **{key: float(np.mean(row[key])) for key in digits}}
        )
    table.notes = [
        "Norms: Frobenius, over all merged tensors, in double precision; W are the expert's weights, τ its task "
        "vector (expert minus base). α: (1/norm) / Σ (1/norm), sums to 1."
        + (" Mean ± standard deviation over seeds." if len(study.measures) > 1 else "")
    ]
    return table


def coefficients(study: Study, record: dict[str, Any]) -> Table:
    """One row a method: its coefficients as shares, their largest ratio and their entropy."""
    names = list(dict.fromkeys(expert for table in study.coefficients for expert in table["experts"]))
    table = Table(
        study.title(record),
        ["Method", "Scope", "Rows", "Mean c", *(f"α {study.label(name)}" for name in names), "max / min", "Entropy"],
        text=(0, 1),
    )
    for method in study.methods:
        shares = norm_data.shares(study, method["id"])
        if shares is None:
            continue
        cells = [method.get("label", method["id"]), shares.scope, count(shares.rows)]
        alpha = dict(zip(shares.experts, shares.mean.tolist(), strict=True))  # a nested merge has experts of its own
        cells += [f"{shares.coefficient:.4f}", *(f"{alpha[name]:.4f}" if name in alpha else "" for name in names)]
        cells.append("" if shares.ratio is None else _range(shares.ratio, 3))
        undefined = table.mark("", "Not defined: a coefficient is not positive.") if shares.entropy is None else ""
        cells.append(undefined if shares.entropy is None else _range(shares.entropy, 4))
        numbers = {"method": method["id"], "scope": shares.scope, "rows": shares.rows, "mean_coefficient": shares.coefficient}
        numbers |= {f"alpha_{name}": alpha.get(name) for name in names}
        numbers |= norm_data.extent("max_over_min", shares.ratio) | norm_data.extent("entropy", shares.entropy)
        table.add(cells, numbers, study.block(method))
    table.notes = [
        "c: coefficient of a task vector; α = c / Σ c over the experts, mean over rows (layers or tensors), seeds and draws. "
        "max / min: largest over smallest coefficient. Entropy: −Σ α log α / log T, 1 for uniform coefficients. "
        "With several rows: mean, in brackets the range over rows.",
        *study.choices(),
    ]
    return table


def premise(study: Study, record: dict[str, Any]) -> Table:
    """One row a probe: the same task fine-tuned on nested subsets, at equal steps and at equal epochs."""
    table = Table(study.title(record), ["Task", "Protocol", "Examples", "Steps", "‖W‖", "‖τ‖", "Accuracy"], text=(0, 1))
    order = sorted(study.premise, key=lambda row: (row["task"], row["protocol"] != "steps", int(row["examples"]), row["seed"]))
    for row in order:
        cells = [study.label(row["task"]), f"equal {row['protocol']}", count(row["examples"]), count(row["steps"])]
        cells += [f"{float(row[name]):.4f}" for name in norm_data.NORMS.values()]
        table.add([*cells, percent(float(row["accuracy"]))], dict(row), (row["task"], row["protocol"]))
    table.notes = ["Nested subsets of one training set, same base and recipe; accuracy in %."]
    return table


def _spread(values: np.ndarray, digits: int) -> str:
    text = signed_number(float(np.mean(values)), digits, signed=False)
    return f"{text} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else text


def _range(values: np.ndarray, digits: int) -> str:
    mean = f"{np.mean(values):.{digits}f}"
    low, high = float(np.min(values)), float(np.max(values))
    return mean if math.isclose(low, high, rel_tol=1e-12) else f"{mean} [{low:.{digits}f}, {high:.{digits}f}]"
