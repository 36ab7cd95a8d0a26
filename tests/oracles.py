"""Every shipped method once more, as naive float64 lines on whole-model vectors: (T, d) task vectors in, (d,) out.

Nothing here imports the library, so that a mistake of the library is not repeated. `Model` also knows which entries
belong to which layer and tensor.
"""

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass
class Model:
    base: np.ndarray  # (d,) float64
    tau: np.ndarray  # (T, d) float64
    spans: dict[str, slice]  # entries of each tensor
    layers: dict[str, list[str]]  # tensors of each layer; the rest are a layer of their own
    experts: list[str]


def alike(model, value):
    return np.full_like(model.tau, value)


def shares(vectors):
    inverse = 1 / np.sqrt((vectors**2).sum(axis=1))
    return inverse / inverse.sum()


def nan(model, of="task_vector", scope="model", total=None, mean=None, order=(0, 1, 2, 3)):
    """Return the coefficients of every entry, (T, d): 1/|v| over each group, normalised, scaled and reordered."""
    v = model.tau if of == "task_vector" else model.base + model.tau
    c = np.empty_like(v)
    layers = {name: np.r_[tuple(model.spans[t] for t in names)] for name, names in model.layers.items()}
    groups = {"model": {"all": slice(None)}, "layer": layers, "tensor": model.spans}[scope]
    for entries in groups.values():
        if v[:, entries].size:
            part = shares(v[:, entries]) * (total if total is not None else mean * len(v))
            c[:, entries] = part[list(order), None]
    return c


def trimmed(tau, density):
    cut = np.sort(abs(tau), axis=1)[:, [tau.shape[1] - int(density * tau.shape[1]) - 1]]
    return np.where(abs(tau) >= cut, tau, 0)


def agreeing(weighted):
    elected = np.where(weighted.sum(axis=0) >= 0, 1, -1)
    return weighted * (np.sign(weighted) == elected)


def added(model, c):
    return (c * model.tau).sum(axis=0)


def ties(model, c):
    return agreeing(c * trimmed(model.tau, 0.2)).sum(axis=0)


def ties_mean(model, c):
    kept = agreeing(c * trimmed(model.tau, 0.2))
    return kept.sum(axis=0) / np.maximum((kept != 0).sum(axis=0), 1)


def splitmix64(state, count):
    for i in range(count):
        z = (state + i * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        yield z ^ z >> 31


def kept_at_random(model, rate=0.9, seed=0):
    dropped = model.tau.copy()
    for row, expert in enumerate(model.experts):
        for name, span in model.spans.items():
            key = hashlib.blake2b(f"{seed}\0{expert}\0{name}".encode(), digest_size=8).digest()
            stream = splitmix64(int.from_bytes(key, "little"), span.stop - span.start)
            dropped[row, span] *= [z >> 40 >= rate * 2**24 for z in stream]
    return dropped / (1 - rate)


def dare(model, c):
    return (c * kept_at_random(model)).sum(axis=0)


def dare_ties(model, c):
    return agreeing(c * kept_at_random(model)).sum(axis=0)


# The two draws of the permuted controls over four experts: expert t gets the coefficient of expert FIRST[t].
FIRST, SECOND = (2, 0, 1, 3), (3, 0, 2, 1)

ORACLES = {
    "weight_averaging": lambda m: m.tau.mean(axis=0),
    "task_arithmetic": lambda m: 0.3 * m.tau.sum(axis=0),
    "task_arithmetic_tuned": lambda m: 0.3 * m.tau.sum(axis=0),
    "ties": lambda m: ties(m, alike(m, 0.3)),
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
    "ties_nan": lambda m: ties(m, nan(m, "weights", mean=0.3)),
    "ties_nan_delta": lambda m: ties(m, nan(m, mean=0.3)),
    "ties_nan_delta_layer": lambda m: ties(m, nan(m, scope="layer", mean=0.3)),
    "ties_nan_delta_tensor": lambda m: ties(m, nan(m, scope="tensor", mean=0.3)),
    "uniform_matched": lambda m: added(m, alike(m, 0.3)),
    "permuted": lambda m: added(m, nan(m, mean=0.3, order=FIRST)),
    "permuted_2": lambda m: added(m, nan(m, mean=0.3, order=SECOND)),
    "weight_averaging_permuted": lambda m: added(m, nan(m, total=1, order=FIRST)),
    "ties_permuted": lambda m: ties(m, nan(m, mean=0.3, order=FIRST)),
}
