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
import oracles_units


@dataclass
class Model:
    base: np.ndarray  # (d,) float64
    tau: np.ndarray  # (T, d) float64
    spans: dict[str, slice]  # entries of each tensor
    layers: dict[str, list[str]]  # tensors of each layer; the rest are a layer of their own
    experts: list[str]
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    calibration: dict[str, dict[str, list[np.ndarray]]] = field(default_factory=dict)  # by kind and tensor, one an expert
    examples: tuple[int, ...] = ()  # that each expert was trained on


def alike(model, value):
    return np.full_like(model.tau, value)


def shares(vectors, p=1.0):
    norms = np.sqrt((vectors**2).sum(axis=1))
    if not norms.any():  # nothing tells them apart
        return np.full(len(norms), 1 / len(norms))
    inverse = np.array([norm**-p if norm else 0.0 for norm in norms])  # where one has nothing it gets nothing
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


def kept_at_random(model, rate=0.9, seed=0, draw=0):
    dropped = model.tau.copy()
    for row, expert in enumerate(model.experts):
        for name, span in model.spans.items():
            dropped[row, span] *= oracles_operators.draws(seed, expert, name, span.stop - span.start, draw) >= rate * 2**24
    return dropped / (1 - rate)


def dare(model, c, **drawn):
    return (c * kept_at_random(model, **drawn)).sum(axis=0)


def dare_ties(model, c, **drawn):
    return agreeing(c * kept_at_random(model, **drawn)).sum(axis=0)


# Methods that go tensor by tensor.


def by_tensor(m, c, formula):
    """Return formula(name, task vectors (T, ...), T coefficients) of every tensor that has entries, as (d,)."""
    merged = np.zeros(m.tau.shape[1])
    for name, span in m.spans.items():
        if span.stop > span.start:
            merged[span] = formula(name, m.tau[:, span].reshape(-1, *m.shapes[name]), c[:, span.start]).ravel()
    return merged


def by_matrix(m, c, formula, skip="no matrix", others=1, **how):
    """Apply formula(task vectors, coefficients) to matrices; other tensors and those with a name as `skip` get the mean, or 0."""

    def one(name, taus, alpha):
        if taus[0].ndim == 2 and not re.search(skip, name):
            return formula(taus, alpha, **how)
        return others * np.tensordot(alpha, taus, 1) / len(taus)

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


def matched(m):
    """Return the model with task vectors of networks whose units are in common groups."""

    def one(name, taus, _, t):
        statistics = m.calibration["matching"].get(name, ())
        if not len(statistics):
            return taus[t]
        return oracles_units.matched(taus + base_of(m, name), statistics)[t] - base_of(m, name)

    rows = [by_tensor(m, alike(m, 1.0), partial(one, t=t)) for t in range(len(m.tau))]
    return replace(m, tau=np.stack(rows))


def shared_trunk(m, c):
    """Sum the tensors whose outputs are in groups, and take the others of the first network."""

    def one(name, taus, alpha):
        statistics = m.calibration["matching"].get(name, ())
        shared = taus[0].ndim and oracles_units.is_shared(statistics, len(taus[0]))
        return np.tensordot(alpha, taus, 1) if shared else taus[0]

    return by_tensor(matched(m), c, one)


def starred(m):
    return preprocessed(m, lambda tau, *_: oracles_matrix.star(tau) if tau.ndim == 2 else tau)


def breadcrumbs(m, c):
    return added(preprocessed(m, lambda tau, *_: oracles_operators.breadcrumbs(tau)), c)


def della(m, c, **drawn):
    kept = agreeing(c * preprocessed(m, partial(oracles_operators.della, **drawn)).tau)
    return kept.sum(axis=0) / np.maximum((kept != 0).sum(axis=0), 1)


def scaled_weights(m, c):
    """Multiply the weighted sum of whole weights by half the number of experts: s sum_t c_t W_t, less the base."""
    return len(m.tau) / 2 * (m.base + added(m, c)) - m.base


def information(m):
    return np.stack([np.concatenate([m.calibration["fisher"][name][t].ravel() for name in m.spans]) for t in range(len(m.tau))])


def fisher(m, c):
    return oracles_operators.fisher(m.tau, c, information(m))


def pcb(m, c):
    return by_tensor(m, c, lambda _, taus, alpha: oracles_operators.pcb(taus, alpha))


def slerp(m, law):
    """Merge the first two experts only."""
    two = replace(m, tau=m.tau[:2], experts=m.experts[:2], examples=m.examples[:2])

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


def magic(m, merged):
    """Calibrate every tensor of a merge by the lengths of the task vectors of `m`."""
    return by_tensor(
        m, alike(m, 1.0), lambda name, taus, _: oracles_operators.magic(merged[m.spans[name]].reshape(m.shapes[name]), taus)
    )


def boosted(m, merged):
    def one(name, taus, _):
        part = merged[m.spans[name]].reshape(m.shapes[name])
        return oracles_matrix.boosted(part) if part.ndim == 2 else part

    return by_tensor(m, alike(m, 1.0), one)


def stitched(m, c, density=0.05):
    return oracles_operators.overlap(trimmed(m.tau, density), c)


def ram(m, c):
    return oracles_operators.overlap(m.tau, c, 1e-5)


def ram_plus(m, c):
    return by_tensor(m, c, lambda _, taus, alpha: oracles_operators.ram_plus(taus, alpha))


def sce(m, c):
    return by_tensor(m, c, lambda _, taus, alpha: oracles_operators.sce(taus, alpha))


def near(m):
    return replace(m, tau=np.where(abs(m.tau) <= 1e-4, m.tau, np.sign(m.tau) * 1e-4))


def fused(m):
    return preprocessed(m, lambda tau, _, name: oracles_operators.fusion(tau, base_of(m, name)))


def multislerp(m, c):
    def one(name, taus, alpha):
        return oracles_operators.multislerp(base_of(m, name) + taus, alpha / alpha.sum()) - base_of(m, name)

    return by_tensor(m, c, one)


def orthomerge(m, c, **how):
    def one(name, taus, alpha):
        if taus[0].ndim != 2:
            return np.tensordot(alpha, taus, 1) / len(taus)
        return oracles_matrix.orthomerge(base_of(m, name), taus, alpha, **how)

    return by_tensor(m, c, one)


def one_length(m, eta=0.07):
    """Return eta over the norm of each tensor of each task vector, for every entry."""
    c = np.ones_like(m.tau)
    for span in m.spans.values():
        if span.stop > span.start:
            c[:, span] = eta / np.linalg.norm(m.tau[:, span], axis=1, keepdims=True)
    return c


# Coefficients (T, d) in place of a host's, with its scale: `mean`, or `total`.


def scaled(m, parts, mean=None, total=None):
    """Scale shares (T,) to a mean or a total."""
    return alike(m, 1.0) * (parts * (total if total is not None else mean * len(m.tau)))[:, None]


def softmax(m, power=-1.0, sign=1.0, of="weights", **scale):
    norms = np.sqrt(((m.base * (of == "weights") + m.tau) ** 2).sum(axis=1))
    exponentials = np.exp(sign * norms**power)
    return scaled(m, exponentials / exponentials.sum(), **scale)


softmin = partial(softmax, power=1.0, sign=-1.0)


def data_size(m, **scale):
    return scaled(m, np.array(m.examples) / sum(m.examples), **scale)


def lengths(m, kappa, mean=None, total=None):
    """Return the coefficients that bring all task vectors to one length, the mean or the least of theirs, times the mean."""
    norms = np.sqrt((m.tau**2).sum(axis=1))
    return alike(m, mean if mean is not None else total / len(m.tau)) * (kappa(norms) / norms)[:, None]


VARIANTS = {
    "nan": lambda m, **scale: nan(m, "weights", **scale),
    "nan_delta": nan,
    "nan_delta_layer": lambda m, **scale: nan(m, scope="layer", **scale),
    "nan_delta_tensor": lambda m, **scale: nan(m, scope="tensor", **scale),
    "nan_delta_theory": lambda m, **scale: nan(m, p=2.0, **scale),
    "nan_delta_tuned": nan,
    "nan_softmax": softmax,
    "nan_softmin": softmin,
    "nan_delta_half": lambda m, **scale: nan(m, total=len(m.tau) / 2),
    "nan_length": lambda m, **scale: lengths(m, np.mean, **scale),
    "nan_shrink": lambda m, **scale: lengths(m, np.min, **scale),
    "data_size": data_size,
    "searched": lambda m, **scale: scaled(m, np.full(len(m.tau), 1 / len(m.tau)), **scale),  # before the search: its start
}
# The draws of the permuted controls over four experts: expert t gets the coefficient of expert SHUFFLES[k][t] in draw k.
SHUFFLES = {1: (3, 2, 1, 0), 2: (1, 3, 0, 2), 3: (0, 2, 3, 1), 4: (0, 2, 1, 3), 5: (2, 3, 1, 0)}
CONTROLS = {
    "nan_delta+uniform": lambda m, **scale: scaled(m, np.full(len(m.tau), 1 / len(m.tau)), **scale),
    **{f"nan_delta+permuted_{k}": lambda m, order=order, **scale: nan(m, order=order, **scale) for k, order in SHUFFLES.items()},
}


RANDOM = {"dare": (dare, 0.3), "dare_ties": (dare_ties, 0.3), "della": (della, 1.1)}
DRAWS = {  # of methods that drop entries at random: another draw drops others
    f"{host}_draws_{k}": lambda m, merge=merge, mean=mean, k=k: merge(m, alike(m, mean), draw=k)
    for host, (merge, mean) in RANDOM.items()
    for k in range(1, 6)
}


# What hosts do to a task vector before coefficients come in; the others leave it as it is.
PROCESSED = {
    **dict.fromkeys(("ties", "ties_mean", "ties_tuned", "ties_elections", "ties_svc"), lambda m: trimmed(m.tau, 0.2)),
    **dict.fromkeys(("dare", "dare_ties"), kept_at_random),
    "breadcrumbs": lambda m: preprocessed(m, lambda tau, *_: oracles_operators.breadcrumbs(tau)).tau,
    "della": lambda m: preprocessed(m, oracles_operators.della).tau,
    "star": lambda m: starred(m).tau,
    "ties_magic": lambda m: trimmed(m.tau, 0.2),
    "localize_and_stitch": lambda m: trimmed(m.tau, 0.05),
    "nearswap": lambda m: near(m).tau,
    "arcee_fusion": lambda m: fused(m).tau,
    "doge_lambda": lambda m: trimmed(m.tau, 0.3),
}


def by_processed(host, **how):
    """Return NAN's law for the task vectors as a host processes them."""
    process = PROCESSED.get(host.partition("-")[0], lambda m: m.tau)
    return lambda m, **scale: nan(replace(m, tau=process(m)), **how, **scale)


# Hosts: a merge of (model, coefficients) and the coefficients of its own, or their scale.


def ace(**how):
    return lambda m, c: by_matrix(m, c, oracles_matrix.ace, **how)


def of_matrices(formula, **how):
    return lambda m, c: by_matrix(m, c, formula, **how)


TA, TIES = (added, {"mean": 0.3}), (ties, {"mean": 0.3})
ONE, TOTAL = {"mean": 1.0}, {"total": 1}
HOSTS = {
    "weight_averaging": (added, TOTAL),
    "weight_averaging_scaled": (scaled_weights, TOTAL),
    "task_arithmetic": TA,
    "task_arithmetic_tuned": TA,
    "ties": TIES,
    "ties_tuned": TIES,
    "ties_elections-weighted": TIES,
    "ties_elections-unweighted": (ties_unweighted, {"mean": 0.3}),
    "ties_mean": (ties_mean, ONE),
    "dare": (dare, {"mean": 0.3}),
    "dare_ties": (dare_ties, {"mean": 0.3}),
    "metagpt": (added, TOTAL),
    "task_arithmetic_lines": (lambda m, c: lines(m, added(m, c)), {"mean": 0.3}),
    "magmax": (lambda m, c: oracles_operators.max_magnitude(c * m.tau), {"mean": 0.5}),
    "consensus": (lambda m, c: oracles_operators.consensus(m.tau, c), {"mean": 0.3}),
    **dict.fromkeys(("rebasin", "zipit"), (lambda m, c: added(matched(m), c), TOTAL)),
    "zipit_partial": (shared_trunk, TOTAL),
    "fisher": (fisher, ONE),
    "fisher_normalised": (lambda m, c: fisher(m, c * shares(information(m))[:, None]), ONE),
    "emr": (lambda m, c: by_tensor(m, c, lambda _, taus, alpha: oracles_operators.emr(taus, alpha, 0)), ONE),
    "breadcrumbs": (breadcrumbs, {"mean": 0.2}),
    "della": (della, {"mean": 1.1}),
    "pcb": (pcb, {"mean": 1.2}),
    "slerp": (slerp, TOTAL),
    "karcher": (karcher, TOTAL),
    "model_stock": (model_stock, TOTAL),
    "widen": (widen, ONE),
    "weight_averaging_magic": (lambda m, c: magic(m, added(m, c)), TOTAL),
    "ties_magic": (lambda m, c: magic(replace(m, tau=trimmed(m.tau, 0.2)), ties(m, c)), {"mean": 0.3}),
    "sce": (sce, ONE),
    "localize_and_stitch": (stitched, ONE),
    "ram": (ram, ONE),
    "ram_plus": (ram_plus, ONE),
    "nearswap": (lambda m, c: added(near(m), c), TOTAL),
    "multislerp": (multislerp, TOTAL),
    "arcee_fusion": (lambda m, c: added(fused(m), c), TOTAL),
    "doge_lambda": (lambda m, c: (c * trimmed(m.tau, 0.3)).sum(axis=0), ONE),
    "doge_ta": (of_matrices(oracles_matrix.doge, skip="embed"), ONE),
    "tsv_m": (of_matrices(oracles_matrix.tsv), ONE),
    "iso_c": (of_matrices(oracles_matrix.iso_c), ONE),
    "iso_cts": (of_matrices(oracles_matrix.iso_cts), ONE),
    "cart": (of_matrices(oracles_matrix.cart, skip="embed"), ONE),
    "cart_released": (of_matrices(oracles_matrix.cart, skip="embed", rank=0.12), ONE),
    "star": (lambda m, c: added(starred(m), c), TOTAL),
    "task_arithmetic_svc": (lambda m, c: svc(m, added(m, c)), {"mean": 0.3}),
    "ties_svc": (lambda m, c: svc(replace(m, tau=trimmed(m.tau, 0.2)), ties(m, c)), {"mean": 0.3}),
    "tsv_m_svc": (lambda m, c: svc(m, by_matrix(m, c, oracles_matrix.tsv), alpha=1.0), ONE),
    "task_arithmetic_boosted": (lambda m, c: boosted(m, added(m, c)), {"mean": 0.3}),
    "dc_merge": (of_matrices(oracles_matrix.dc_merge), ONE),
    "dc_merge_smoothed": (of_matrices(oracles_matrix.dc_merge, smoothing="average"), ONE),
    "orthomerge": (orthomerge, ONE),
    "orthomerge_conflicts": (partial(orthomerge, conflicts=True), ONE),
    "regmean": (regmean, ONE),
    "regmean_plus": (regmean, ONE),
    "actmat": (of_matrices(oracles_matrix.data_free), ONE),
    "tact": (of_matrices(oracles_matrix.data_free, density=0.5), ONE),
    "wudi": (of_matrices(oracles_matrix.wudi, others=0), ONE),
    "wudi_exact": (of_matrices(oracles_matrix.data_free, trace=True), ONE),
    "swudi": (of_matrices(oracles_matrix.swudi), ONE),
    "aswudi": (of_matrices(oracles_matrix.swudi, time=None, rank="participation"), ONE),
    "optmerge": (of_matrices(oracles_matrix.optmerge), ONE),
    "ace": (ace(), ONE),
    "ace_e1": (ace(normalise="never", prior=False, refine="never"), ONE),
    "ace_e2": (ace(prior=False, refine="never"), ONE),
    "ace_e3": (ace(refine="never"), ONE),
    "ace_e4": (ace(), ONE),
    "ace_epsilon_1e4": (ace(epsilon=1e-4), ONE),
    "ace_epsilon_1e3": (ace(epsilon=1e-3), ONE),
    "ace_epsilon_1e2": (ace(epsilon=1e-2), ONE),
    "adamerging_task": TA,
    "adamerging_layer": TA,
    "adamerging_task_plus": (ties_unweighted, {"mean": 0.3}),
    "adamerging_layer_plus": (ties_unweighted, {"mean": 0.3}),
}
OWN = {  # coefficients that are not all equal
    "metagpt": lambda m, **scale: nan(m, p=-2, **scale),
    **dict.fromkeys(("doge_lambda", "doge_ta"), lambda m, **scale: one_length(m)),
}
MATCHED = ("rebasin", "zipit", "zipit_partial")  # whose preprocess needs data, which norms are measured without
LEARNED = [host for host in HOSTS if host.startswith("adamerging")]


def equal(m, mean=None, total=None):
    return alike(m, mean if mean is not None else total / len(m.tau))


def oracle(host, law):
    """Return the update (d,) of a model by a host whose coefficients follow a law."""
    merge, scale = HOSTS[host]
    return lambda m: slerp(m, lambda two: law(two, **scale)) if merge is slerp else merge(m, law(m, **scale))


def scanned():
    """Return the methods of the scans by id, made of the values that are in it."""
    found = {}
    for of, scope in product(("weights", "task_vector"), ("model", "layer", "tensor")):
        for p in (0.5, 1.0, 2.0):
            law = partial(nan, of=of, scope=scope, p=p)
            found[f"task_arithmetic+nan_scan-{of}-{scope}-{p:g}"] = oracle("task_arithmetic", law)
        for elect in ("weighted", "unweighted"):
            law = partial(nan, of=of, scope=scope)
            found[f"ties_elections+nan_scan_scope-{of}-{scope}-{elect}"] = oracle(f"ties_elections-{elect}", law)
    for of in ("weights", "task_vector"):
        scales = {"total-{}-1": {"total": 1}, "mean-{}-0.15": {"mean": 0.15}, "mean-{}-0.5": {"mean": 0.5}}
        for name, scale in scales.items():
            found[f"task_arithmetic+nan_scan_{name.format(of)}"] = lambda m, of=of, scale=scale: added(m, nan(m, of, **scale))
        for host in ("ties_mean", "weight_averaging_scaled"):
            found[f"{host}+nan_scan_norm-{of}"] = oracle(host, partial(nan, of=of))
        for name, law in (("softmax", softmax), ("softmin", softmin)):
            found[f"task_arithmetic+nan_scan_normaliser-{of}-{name}"] = oracle("task_arithmetic", partial(law, of=of))
    for host, scope in product(("ties", "ties_mean"), ("model", "layer", "tensor")):
        found[f"{host}+nan_scan_processed-processed-{scope}"] = oracle(host, by_processed(host, scope=scope))
    return found


def on(host, name):
    """Return the id of a variant on a host: of a sweep, the member that has its value."""
    return f"{host}+{name}" if "-" not in host else f"{host.split('-')[0]}+{name}-{host.split('-')[1]}"


TWICE = ("_tuned", "_half", "searched")  # variants that have a choice or a scale of their own
ORACLES = {
    **{host: oracle(host, OWN.get(host, equal)) for host in HOSTS},
    **{
        on(host, name): oracle(host, law)
        for host in HOSTS
        for name, law in VARIANTS.items()
        if host not in LEARNED
        and not ("-" in host and name.endswith(("_tuned", "searched")))
        and not (host.endswith("_tuned") and name.endswith(TWICE))  # which have a choice or a scale of their own
    },
    **{on(host, "nan_processed"): oracle(host, by_processed(host)) for host in HOSTS if host not in (*LEARNED, *MATCHED)},
    **{
        f"{host}+{name}": oracle(host, law)
        for host in ("weight_averaging", "task_arithmetic", "ties")
        for name, law in CONTROLS.items()
    },
    **DRAWS,
    **scanned(),
}
