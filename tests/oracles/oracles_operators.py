"""The methods that choose entries, or look at lengths and angles, as naive float64 lines on one tensor: (T, ...) -> (...).

Nothing here imports the library.
"""

import hashlib
import math

import numpy as np


def splitmix64(state, count):
    for i in range(count):
        z = (state + i * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        yield z ^ z >> 31


def draws(seed, expert, name, count, draw=0):
    """Return the random numbers of the entries of a tensor, 24 bits each; draw 0 is that of a method without draws."""
    text = f"{seed}\0{expert}\0{name}" + (f"\0{draw}" if draw else "")
    key = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return np.array([z >> 40 for z in splitmix64(int.from_bytes(key, "little"), count)])


def rows_of(tensor):
    return tensor.reshape(-1, tensor.shape[-1] if tensor.ndim else 1)


def breadcrumbs(tau, density=0.15, outliers=0.006):
    """Sort every row, drop its largest, keep the next."""
    kept = np.zeros_like(tau)
    for row, out in zip(rows_of(tau), rows_of(kept), strict=True):
        order = sorted(range(len(row)), key=lambda i: -abs(row[i]))
        chosen = order[int(outliers * len(row)) :][: max(1, int(density * len(row)))]
        out[chosen] = row[chosen]
    return kept


def keep_probabilities(tau, density, window):
    rows = rows_of(tau)
    rank = np.argsort(np.argsort(abs(rows), axis=-1), axis=-1)
    if rows.shape[-1] == 1:
        return np.full(tau.shape, density)
    return (density + window * (2 * rank / (rows.shape[-1] - 1) - 1)).reshape(tau.shape)


def della(tau, expert, name, seed=0, density=0.7, window=0.15, draw=0):
    probability = keep_probabilities(tau, density, window)
    numbers = draws(seed, expert, name, tau.size, draw).reshape(tau.shape) / 2**24
    return tau / probability * (numbers >= 1 - probability)


def max_magnitude(weighted):
    return np.take_along_axis(weighted, np.argmax(abs(weighted), axis=0)[None], 0)[0]


def consensus(taus, c, threshold=0.4, agree=2):
    """Weigh, sum, and keep where enough tasks are active; `c` has the shape of the task vectors or one number a task."""
    c = np.asarray(c, float).reshape(len(taus), *np.shape(c)[1:] or (1,) * (taus.ndim - 1))
    total = (c / c.mean(axis=0) * taus).sum(axis=0)
    active = (abs(taus) > threshold * abs(total - taus)).sum(axis=0)
    return c.mean(axis=0) * total * (active >= min(agree, len(taus)))


def fisher(taus, c, information, floor=1e-6):
    weights = c * (information + floor)
    return (weights * taus).sum(axis=0) / weights.sum(axis=0)


def pcb(taus, c, ratio=0.05, tails=1e-4, pairs=False):
    """PCB as the authors write it; where nothing lies above the cut, what is largest and above zero counts."""
    tau = taus.reshape(len(taus), -1)
    ordered, n = np.sort(abs(tau), axis=1), tau.shape[1]
    cut = int(tails * n)
    size = np.clip(abs(tau), ordered[:, [cut]], ordered[:, [n - 1 - cut]])
    spread = (size.max(1) - size.min(1))[:, None]
    unit = (size - size.min(1)[:, None]) / np.where(spread, spread, 1)
    signed = np.sign(tau) * unit
    inter = np.array([np.tanh(signed * one).sum(0) for one in signed]) if pairs else np.tanh(tau * tau.sum(0))
    score = np.exp(len(tau) * unit**2) * inter
    low, high = np.sort(score, axis=1)[:, [min(int(n * (1 - ratio)), n - 1)]], score.max(1)[:, None]
    scaled = (np.maximum(score, low) - low) / np.where(high > low, high - low, 1)
    weight = np.where(high > low, scaled, (score == high) & (score > 0))
    merged = (np.array(c)[:, None] * weight * np.sign(tau) * size).sum(0) / np.maximum(weight.sum(0), 1e-12)
    return merged.reshape(taus.shape[1:])


def emr(taus, c, task):
    """Elect signs by the weighted sum and the largest entries of that sign; mask and rescale them for one task."""
    sign = np.where(np.tensordot(c, taus, 1) > 0, 1, -1)
    elected = sign * np.max(np.where(taus * sign > 0, abs(taus), 0), axis=0)
    masked = np.where(elected * taus[task] > 0, elected, 0)
    return masked * abs(taus[task]).sum() / max(abs(masked).sum(), 1e-300)


def slerp(w1, w2, t):
    """Return the point of the arc; of the line where the weights are almost on one."""
    cosine = (w1 * w2).sum() / np.linalg.norm(w1) / np.linalg.norm(w2)
    if abs(cosine) > 0.9995:
        return (1 - t) * w1 + t * w2
    omega = math.acos(cosine)
    return (math.sin((1 - t) * omega) * w1 + math.sin(t * omega) * w2) / math.sin(omega)


def karcher(weights, shares):
    """Iterate on unit vectors, as mergekit does."""
    lengths = [np.linalg.norm(w) for w in weights]
    units = [w.ravel() / n for w, n in zip(weights, lengths, strict=True)]
    u = sum(a * v for a, v in zip(shares, units, strict=True))
    for _ in range(10):
        u = u / np.linalg.norm(u)
        angles = [math.acos(min(u @ v, 1)) for v in units]
        pulls = [a * angle / math.sin(angle) if angle > 1e-5 else 0 for a, angle in zip(shares, angles, strict=True)]
        step = sum(pull * (v - u @ v * u) for pull, v in zip(pulls, units, strict=True))
        if np.linalg.norm(step) < 1e-5:
            break
        u = math.cos(np.linalg.norm(step)) * u + math.sin(np.linalg.norm(step)) * step / np.linalg.norm(step)
    return (np.dot(shares, lengths) * u / np.linalg.norm(u)).reshape(weights[0].shape)


def model_stock(taus, shares):
    flat = taus.reshape(len(taus), -1)
    pairs = [(flat[i], flat[j]) for i in range(len(flat)) for j in range(i)]
    cosine = max(0, np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]))
    return len(taus) * cosine / (1 + (len(taus) - 1) * cosine) * np.average(taus, axis=0, weights=shares)


def widen(base, taus, c, t=1.0, s=1.0, tokens=False):
    """Score the columns of matrices, which are the inputs, or the tokens; score entries of vectors by their change."""
    if taus[0].ndim < 2:
        change = abs(taus).reshape(len(taus), -1)
        score = np.where(change > t * change.mean(1)[:, None], s, np.exp(change) / np.exp(change).sum(0))
        return np.tensordot(c, score.reshape(taus.shape) * taus, 1)
    if tokens:
        return widen(base.T, taus.transpose(0, 2, 1), c, t, s).T
    scores = 0.5 * sum(widen_scores(change, t, s) for change in widen_changes(base, taus))
    return (np.array(c)[:, None, None] * scores[:, None, :] * taus).sum(0)


def widen_changes(base, taus):
    m0, m = np.linalg.norm(base, axis=0), np.linalg.norm(base + taus, axis=1)
    return abs(m - m0), 1 - (base * (base + taus)).sum(1) / (m0 * m)


def widen_scores(change, t, s):
    rank = np.argsort(np.argsort(change, axis=1, kind="stable"), axis=1, kind="stable")
    softmax = np.exp(rank / change.shape[1]) / np.exp(rank / change.shape[1]).sum(0)
    return np.where(rank > t * rank.mean(1)[:, None], s, softmax)


def magic(merged, taus, rho=1.0):
    """Scale a merge to the mean length of its task vectors."""
    return rho * np.mean([np.linalg.norm(tau) for tau in taus]) / np.linalg.norm(merged) * merged


def overlap(taus, c, threshold=0.0):
    """Average each entry over the tasks that change it."""
    changed = abs(taus) > threshold
    return (c * taus * changed).sum(axis=0) / np.maximum(changed.sum(axis=0), 1)


def ram_plus(taus, c, threshold=1e-5, r=0.2, cap=1.0):
    """Add what one task alone changes, stretched by how much the task shares; average what several change."""
    changed, merged = abs(taus) > threshold, np.zeros(taus.shape[1:])
    for mine, tau, weight in zip(changed, taus, c, strict=True):
        alone, shared = mine & (changed.sum(0) == 1), mine & (changed.sum(0) > 1)
        stretch = 1 + r * min(cap, shared.sum() / alone.sum() if alone.any() else 0)
        merged[alone] += weight * stretch * tau[alone]
        merged[shared] += weight * tau[shared] / changed.sum(0)[shared]
    return merged


def sce(taus, c, select=1.0):
    """Select by variance, calculate weights by squares, erase the minority sign; flat entry by entry."""
    flat = taus.reshape(len(taus), -1)
    variance = flat.var(axis=0)
    chosen = np.argsort(-variance)[: int(select * (variance > 0).sum())] if select < 1 else np.arange(flat.shape[1])
    weights = np.array([w * (tau[chosen] ** 2).sum() / tau.size for w, tau in zip(c, flat, strict=True)])
    merged = np.zeros(flat.shape[1])
    for i in chosen:
        elected = 1 if flat[:, i].sum() >= 0 else -1
        agree = [t for t in range(len(flat)) if np.sign(flat[t, i]) == elected]
        if agree:
            merged[i] = np.average(flat[agree, i], weights=weights[agree])
    return merged.reshape(taus.shape[1:])


def softmax(row):
    powers = np.exp(row - row.max())
    return powers / powers.sum()


def fusion(tau, base, eps=1e-8):
    """Keep the entries whose importance, change times divergence of their row, is an outlier of the tensor."""
    importance = np.zeros_like(tau)
    for before, change, out in zip(rows_of(base), rows_of(tau), rows_of(importance), strict=True):
        p, q = softmax(before + change) + eps, softmax(before) + eps
        out[:] = abs(change) * (p * np.log(p / q)).sum()
    ordered = np.sort(importance, axis=None)
    q1, median, q3 = (ordered[int(q * (tau.size - 1))] for q in (0.25, 0.5, 0.75))
    return tau * (importance >= median + 1.5 * (q3 - q1))


def multislerp(vectors, shares):
    """Interpolate in the tangent space at the mean direction, and go back to the sphere of the mean length, as mergekit does."""
    flat = vectors.reshape(len(vectors), -1)
    lengths = np.linalg.norm(flat, axis=1)
    units = flat / lengths[:, None]
    mean = shares @ units / np.linalg.norm(shares @ units)
    tangent = shares @ (units - (units @ mean)[:, None] * mean)
    angle = np.linalg.norm(tangent) + 1e-8
    point = math.cos(angle) * mean + math.sin(angle) / angle * tangent
    return (shares @ lengths * point).reshape(vectors.shape[1:])
