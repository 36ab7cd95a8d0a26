"""Every shipped method once more, as naive float64 lines on whole-model vectors: (T, d) task vectors in, (d,) out.

Nothing here imports the library, so that a mistake of the library is not repeated. `Model` also knows which entries
belong to which layer and tensor.
"""

import re
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product

import numpy as np
import oracles_matrix
import oracles_operators


@dataclass
class Model:
    base: np.ndarray  # (d,) float64
    tau: np.ndarray  # (T, d) float64
    spans: dict[str, slice]  # entries of each tensor
    layers: dict[str, list[str]]  # tensors of each layer; the rest are a layer of their own
    experts: list[str]
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    calibration: dict[str, dict[str, list[np.ndarray]]] = field(default_factory=dict)  # by kind and tensor, one an expert


def alike(model, value):
    return np.full_like(model.tau, value)


def shares(vectors, p=1.0):
    inverse = np.sqrt((vectors**2).sum(axis=1)) ** -p
    return inverse / inverse.sum()


def nan(model, of="task_vector", scope="model", total=None, mean=None, order=None, p=1.0):
    """Return the coefficients of every entry, (T, d): |v|^-p over each group, normalised, scaled and reordered."""
    v = model.tau if of == "task_vector" else model.base + model.tau
    c = np.empty_like(v)
    layers = {name: np.r_[tuple(model.spans[t] for t in names)] for name, names in model.layers.items()}
    groups = {"model": {"all": slice(None)}, "layer": layers, "tensor": model.spans}[scope]
    for entries in groups.values():
        if v[:, entries].size:
            part = shares(v[:, entries], p) * (total if total is not None else mean * len(v))
            c[:, entries] = part[list(order or range(len(v))), None]
    return c


def trimmed(tau, density):
    cut = np.sort(abs(tau), axis=1)[:, [tau.shape[1] - int(density * tau.shape[1]) - 1]]
    return np.where(abs(tau) >= cut, tau, 0)


def agreeing(weighted, voters=None):
    elected = np.where((weighted if voters is None else voters).sum(axis=0) >= 0, 1, -1)
    return weighted * (np.sign(weighted) == elected)


def added(model, c):
    return (c * model.tau).sum(axis=0)


def ties(model, c):
    return agreeing(c * trimmed(model.tau, 0.2)).sum(axis=0)


def ties_unweighted(model, c):
    kept = trimmed(model.tau, 0.2)
    return agreeing(c * kept, kept).sum(axis=0)


def ties_mean(model, c):
    kept = agreeing(c * trimmed(model.tau, 0.2))
    return kept.sum(axis=0) / np.maximum((kept != 0).sum(axis=0), 1)


def kept_at_random(model, rate=0.9, seed=0):
    dropped = model.tau.copy()
    for row, expert in enumerate(model.experts):
        for name, span in model.spans.items():
            dropped[row, span] *= oracles_operators.draws(seed, expert, name, span.stop - span.start) >= rate * 2**24
    return dropped / (1 - rate)


def dare(model, c):
    return (c * kept_at_random(model)).sum(axis=0)


def dare_ties(model, c):
    return agreeing(c * kept_at_random(model)).sum(axis=0)


# Methods that go tensor by tensor.


def by_tensor(m, c, formula):
    """Return formula(name, task vectors (T, ...), T coefficients) of every tensor that has entries, as (d,)."""
    merged = np.zeros(m.tau.shape[1])
    for name, span in m.spans.items():
        if span.stop > span.start:
            merged[span] = formula(name, m.tau[:, span].reshape(-1, *m.shapes[name]), c[:, span.start]).ravel()
    return merged


def by_matrix(m, c, formula, skip="no matrix", **how):
    """Apply formula(task vectors, coefficients) to matrices; other tensors and those with a name as `skip` get the mean."""

    def one(name, taus, alpha):
        if taus[0].ndim == 2 and not re.search(skip, name):
            return formula(taus, alpha, **how)
        return np.tensordot(alpha, taus, 1) / len(taus)

    return by_tensor(m, c, one)


def base_of(m, name):
    return m.base[m.spans[name]].reshape(m.shapes[name])


def preprocessed(m, operator):
    """Return the model with operator(task vector, expert, name) in place of every tensor of its task vectors."""
    rows = [
        by_tensor(m, alike(m, 1.0), lambda name, taus, _, t=t, expert=expert: operator(taus[t], expert, name))
        for t, expert in enumerate(m.experts)
    ]
    return replace(m, tau=np.stack(rows))


def starred(m):
    return preprocessed(m, lambda tau, *_: oracles_matrix.star(tau) if tau.ndim == 2 else tau)


def breadcrumbs(m, c):
    return added(preprocessed(m, lambda tau, *_: oracles_operators.breadcrumbs(tau)), c)


def della(m, c):
    kept = agreeing(c * preprocessed(m, oracles_operators.della).tau)
    return kept.sum(axis=0) / np.maximum((kept != 0).sum(axis=0), 1)


def information(m):
    return np.stack([np.concatenate([m.calibration["fisher"][name][t].ravel() for name in m.spans]) for t in range(len(m.tau))])


def fisher(m, c):
    return oracles_operators.fisher(m.tau, c, information(m))


def pcb(m, c):
    return by_tensor(m, c, lambda _, taus, alpha: oracles_operators.pcb(taus, alpha))


def slerp(m, law):
    """Merge the first two experts only."""
    two = replace(m, tau=m.tau[:2], experts=m.experts[:2])

    def arc(name, taus, alpha):
        w1, w2 = base_of(m, name) + taus
        return oracles_operators.slerp(w1, w2, alpha[1] / alpha.sum()) - base_of(m, name)

    return by_tensor(two, law(two), arc)


def karcher(m, c):
    return by_tensor(
        m, c, lambda name, taus, a: oracles_operators.karcher(base_of(m, name) + taus, a / a.sum()) - base_of(m, name)
    )


def model_stock(m, c):
    return by_tensor(m, c, lambda _, taus, alpha: oracles_operators.model_stock(taus, alpha))


def widen(m, c):
    return by_tensor(
        m, c, lambda name, taus, alpha: oracles_operators.widen(base_of(m, name), taus, alpha, tokens="embeddings" in name)
    )


def lines(m, merged):
    """Halve layer 0 and what is in no layer, stretch layer 1 by a half: 0.5 + 1.0 l / (L - 1) of two layers."""
    last = np.r_[tuple(m.spans[name] for name in m.layers["1"])]
    factor = np.full(merged.shape, 0.5)
    factor[last] = 1.5
    return factor * merged


def svc(m, merged, alpha=None):
    """Calibrate the matrices of a merge against the task vectors of `m`."""

    def one(name, taus, _):
        part = merged[m.spans[name]].reshape(m.shapes[name])
        return oracles_matrix.svc(part, taus, alpha or 1 / len(taus)) if part.ndim == 2 else part

    return by_tensor(m, alike(m, 1.0), one)


def regmean(m, c):
    def one(name, taus, alpha):
        if taus[0].ndim != 2:
            return np.tensordot(alpha, taus, 1) / len(taus)
        return oracles_matrix.regmean(taus, alpha, m.calibration["gram"][name])

    return by_tensor(m, c, one)


def lengths(m, kappa):
    """Return the coefficients that bring all task vectors to one length, 0.3 times the mean or the least of theirs."""
    norms = np.sqrt((m.tau**2).sum(axis=1))
    return (0.3 * kappa(norms) / norms)[:, None] * np.ones_like(m.tau)


# The draws of the permuted controls over four experts: expert t gets the coefficient of expert SHUFFLES[k][t] in draw k.
SHUFFLES = {1: (3, 2, 1, 0), 2: (1, 3, 0, 2), 3: (0, 2, 3, 1), 4: (0, 2, 1, 3), 5: (2, 3, 1, 0)}


def shuffled(method, merge, **scale):
    return {f"{method}_{k}": lambda m, order=order: merge(m, nan(m, order=order, **scale)) for k, order in SHUFFLES.items()}


def scanned():
    """Return the methods of the scans by id, made of the values that are in it."""
    found = {}
    for of, scope in product(("weights", "task_vector"), ("model", "layer", "tensor")):
        law = partial(nan, of=of, scope=scope, mean=0.3)
        for p in (0.5, 1.0, 2.0):
            found[f"nan_scan_ta-{of}-{scope}-{p:g}"] = lambda m, law=law, p=p: added(m, law(m, p=p))
        found[f"nan_scan_ties-{of}-{scope}-weighted"] = lambda m, law=law: ties(m, law(m))
        found[f"nan_scan_ties-{of}-{scope}-unweighted"] = lambda m, law=law: ties_unweighted(m, law(m))
    for of, total in product(("weights", "task_vector"), (1, 3)):
        found[f"nan_scan_scale-{of}-{total}"] = lambda m, of=of, total=total: added(m, nan(m, of, total=total))
    return found


def with_nan(method, merge, mean):
    """Return a host with equal coefficients, and with those of NAN (delta) of the same mean."""
    return {method: lambda m: merge(m, alike(m, mean)), f"{method}_nan": lambda m: merge(m, nan(m, mean=mean))}


ACE = {
    "e1": {"normalise": "never", "prior": False, "refine": "never"},
    "e2": {"prior": False, "refine": "never"},
    "e3": {"refine": "never"},
    "e4": {},
    "epsilon_1e4": {"epsilon": 1e-4},
    "epsilon_1e3": {"epsilon": 1e-3},
    "epsilon_1e2": {"epsilon": 1e-2},
}
ORACLES = {
    "weight_averaging": lambda m: m.tau.mean(axis=0),
    "task_arithmetic": lambda m: 0.3 * m.tau.sum(axis=0),
    "task_arithmetic_tuned": lambda m: 0.3 * m.tau.sum(axis=0),
    "ties": lambda m: ties(m, alike(m, 0.3)),
    "ties_tuned": lambda m: ties(m, alike(m, 0.3)),
    "ties_mean": lambda m: ties_mean(m, alike(m, 1.0)),
    "dare": lambda m: dare(m, alike(m, 0.3)),
    "dare_ties": lambda m: dare_ties(m, alike(m, 0.3)),
    "weight_averaging_nan": lambda m: added(m, nan(m, "weights", total=1)),
    "weight_averaging_nan_delta": lambda m: added(m, nan(m, total=1)),
    "weight_averaging_nan_delta_layer": lambda m: added(m, nan(m, scope="layer", total=1)),
    "weight_averaging_nan_delta_tensor": lambda m: added(m, nan(m, scope="tensor", total=1)),
    "task_arithmetic_nan": lambda m: added(m, nan(m, "weights", mean=0.3)),
    "task_arithmetic_nan_delta": lambda m: added(m, nan(m, mean=0.3)),
    "task_arithmetic_nan_delta_layer": lambda m: added(m, nan(m, scope="layer", mean=0.3)),
    "task_arithmetic_nan_delta_tensor": lambda m: added(m, nan(m, scope="tensor", mean=0.3)),
    "task_arithmetic_nan_tuned": lambda m: added(m, nan(m, mean=0.3)),
    "task_arithmetic_nan_delta_p": lambda m: added(m, nan(m, mean=0.3)),
    "ties_nan": lambda m: ties(m, nan(m, "weights", mean=0.3)),
    "ties_nan_delta": lambda m: ties(m, nan(m, mean=0.3)),
    "ties_nan_delta_layer": lambda m: ties(m, nan(m, scope="layer", mean=0.3)),
    "ties_nan_delta_tensor": lambda m: ties(m, nan(m, scope="tensor", mean=0.3)),
    "uniform_matched": lambda m: added(m, alike(m, 0.3)),
    **shuffled("permuted", added, mean=0.3),
    **shuffled("weight_averaging_permuted", added, total=1),
    **shuffled("ties_permuted", ties, mean=0.3),
    **scanned(),
    "task_arithmetic_nan_length": lambda m: added(m, lengths(m, np.mean)),
    "task_arithmetic_nan_shrink": lambda m: added(m, lengths(m, np.min)),
    "metagpt": lambda m: added(m, nan(m, p=-2, total=1)),
    "task_arithmetic_lines": lambda m: lines(m, added(m, alike(m, 0.3))),
    "dare_nan": lambda m: dare(m, nan(m, mean=0.3)),
    "dare_ties_nan": lambda m: dare_ties(m, nan(m, mean=0.3)),
    **with_nan("magmax", lambda m, c: oracles_operators.max_magnitude(c * m.tau), 0.5),
    **with_nan("consensus", lambda m, c: oracles_operators.consensus(m.tau, c), 0.3),
    **with_nan("fisher", fisher, 1.0),
    "fisher_normalised": lambda m: fisher(m, shares(information(m))[:, None]),
    "emr": lambda m: by_tensor(m, alike(m, 1.0), lambda _, taus, alpha: oracles_operators.emr(taus, alpha, 0)),
    **with_nan("breadcrumbs", breadcrumbs, 0.2),
    **with_nan("della", della, 1.1),
    **with_nan("pcb", pcb, 1.2),
    "slerp": lambda m: slerp(m, lambda two: alike(two, 0.5)),
    "slerp_nan": lambda m: slerp(m, lambda two: nan(two, total=1)),
    **with_nan("karcher", karcher, 0.25),
    "model_stock": lambda m: model_stock(m, alike(m, 0.25)),
    "widen": lambda m: widen(m, alike(m, 1.0)),
    **with_nan("tsv_m", partial(by_matrix, formula=oracles_matrix.tsv), 1.0),
    **with_nan("iso_c", partial(by_matrix, formula=oracles_matrix.iso_c), 1.0),
    "iso_cts": lambda m: by_matrix(m, alike(m, 1.0), oracles_matrix.iso_cts),
    **with_nan("cart", partial(by_matrix, formula=oracles_matrix.cart, skip="embed"), 1.0),
    "star": lambda m: starred(m).tau.mean(axis=0),
    "task_arithmetic_svc": lambda m: svc(m, 0.3 * m.tau.sum(axis=0)),
    "ties_svc": lambda m: svc(replace(m, tau=trimmed(m.tau, 0.2)), ties(m, alike(m, 0.3))),
    "tsv_m_svc": lambda m: svc(m, by_matrix(m, alike(m, 1.0), oracles_matrix.tsv), alpha=1.0),
    **with_nan("regmean", regmean, 1.0),
    "regmean_plus": lambda m: regmean(m, alike(m, 1.0)),
    **with_nan("actmat", partial(by_matrix, formula=oracles_matrix.data_free), 1.0),
    "tact": lambda m: by_matrix(m, alike(m, 1.0), oracles_matrix.data_free, density=0.5),
    **with_nan("wudi", partial(by_matrix, formula=oracles_matrix.wudi), 1.0),
    "wudi_exact": lambda m: by_matrix(m, alike(m, 1.0), oracles_matrix.data_free, trace=True),
    **with_nan("ace", partial(by_matrix, formula=oracles_matrix.ace), 1.0),
    **{f"ace_{name}": lambda m, how=how: by_matrix(m, alike(m, 1.0), oracles_matrix.ace, **how) for name, how in ACE.items()},
    "adamerging_task": lambda m: 0.3 * m.tau.sum(axis=0),
    "adamerging_layer": lambda m: 0.3 * m.tau.sum(axis=0),
    "adamerging_task_plus": lambda m: ties_unweighted(m, alike(m, 0.3)),
    "adamerging_layer_plus": lambda m: ties_unweighted(m, alike(m, 0.3)),
}
