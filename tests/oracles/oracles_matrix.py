"""The methods that take matrices apart, as naive float64 lines: task vectors (T, out, in), T coefficients -> (out, in).

Nothing here imports the library.
"""

import math

import numpy as np
from scipy.linalg import null_space, polar


def orthonormal(basis):
    return polar(basis)[0]


def tsv(taus, alpha):
    k = min(taus[0].shape) // len(taus)
    parts = [np.linalg.svd(tau) for tau in taus]
    u, v = np.hstack([u[:, :k] for u, _, _ in parts]), np.hstack([vt[:k].T for _, _, vt in parts])
    s = np.concatenate([c * s[:k] for c, (_, s, _) in zip(alpha, parts, strict=True)])
    return orthonormal(u) @ np.diag(s) @ orthonormal(v).T


def iso_c(taus, alpha):
    total = sum(c * tau for c, tau in zip(alpha, taus, strict=True))
    return np.linalg.norm(total, "nuc") / min(total.shape) * orthonormal(total)


def iso_cts(taus, alpha, common=0.8):
    parts, rank = [c * tau for c, tau in zip(alpha, taus, strict=True)], min(taus[0].shape)
    n = round((rank - int(rank * common)) / len(parts))
    k = rank - n * len(parts)
    u, s, vt = np.linalg.svd(sum(parts))
    us, ss, vs = [u[:, :k]], [s[:k]], [vt[:k].T]
    for part in parts:
        own_u, own_s, own_vt = np.linalg.svd((np.eye(len(u)) - u[:, :k] @ u[:, :k].T) @ part)
        us, ss, vs = [*us, own_u[:, :n]], [*ss, own_s[:n]], [*vs, own_vt[:n].T]
    return np.concatenate(ss).mean() * orthonormal(np.hstack(us)) @ orthonormal(np.hstack(vs)).T


def cart(taus, alpha, rank=0.08, scale=2.0):
    average = sum(c * tau for c, tau in zip(alpha, taus, strict=True)) / len(taus)
    merged, k = average, max(1, int(rank * min(average.shape)))
    for c, tau in zip(alpha, taus, strict=True):
        u, s, vt = np.linalg.svd(tau - average)
        merged = merged + scale * c * sum(s[r] * np.outer(u[:, r], vt[r]) for r in range(k))
    return merged


def star(tau, eta=0.4):
    (u, s, vt), out, r = np.linalg.svd(tau), np.zeros(tau.shape), 0
    while s[:r].sum() < eta * s.sum():
        out, r = out + s[r] * np.outer(u[:, r], vt[r]), r + 1
    return out * s.sum() / s[:r].sum()


def svc(merged, taus, alpha):
    u, s, vt = np.linalg.svd(merged)
    out = np.zeros(merged.shape)
    for r in range(len(s)):
        pairs = [(u[:, r] @ merged, u[:, r] @ tau) for tau in taus]
        gamma = len(taus) / sum(max(alpha, (a @ b) / (b @ b)) for a, b in pairs)
        out += gamma * s[r] * np.outer(u[:, r], vt[r])
    return out


def regmean(taus, c, grams, factor=0.95):
    scaled = [a * (factor * g + (1 - factor) * np.diag(np.diag(g))) for a, g in zip(c, grams, strict=True)]
    return sum(t @ g for t, g in zip(taus, scaled, strict=True)) @ np.linalg.inv(sum(scaled))


def data_free(taus, c, density=1.0, trace=False):
    """ACTMat; TACT with a density; the exact minimum of WUDI with traces."""
    cut = [np.sort(abs(t), axis=None)[t.size - max(1, round(density * t.size))] for t in taus]
    kept = [np.where(abs(t) >= x, t, 0) for t, x in zip(taus, cut, strict=True)]
    covariances = [a * k.T @ k / (np.trace(k.T @ k) if trace else 1) for a, k in zip(c, kept, strict=True)]
    return sum(t @ x for t, x in zip(taus, covariances, strict=True)) @ np.linalg.pinv(sum(covariances), rcond=1e-6)


def wudi_loss(tau, taus, c):
    return sum(a * (((tau - t) @ t.T) ** 2).sum() / (t**2).sum() for a, t in zip(c, taus, strict=True))


def wudi(taus, c, steps=300, learning_rate=1e-5):
    x, m, v = taus.sum(axis=0), 0.0, 0.0
    for step in range(1, steps + 1):
        g = sum(2 * a * (x - t) @ t.T @ t / (t**2).sum() for a, t in zip(c, taus, strict=True))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x = x - learning_rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    return x


def ace(taus, c, epsilon=1e-5, epsilon_mode="absolute", threshold=0.3, gamma="paper", normalise="adaptive", prior=True,
        refine="adaptive", k_frac=0.3, centre=True, restore_mean="none"):  # fmt: skip
    """Write Eq. 5 to 19 down as they stand, with one matrix for every symbol."""
    count, rows, width = taus.shape
    mu = taus.mean(axis=1, keepdims=True) * centre  # Eq. 5
    w = taus - mu  # Eq. 6
    sigma_hat = [x.T @ x for x in w]
    norms = np.array([np.linalg.norm(x) ** 2 for x in taus])
    logs = np.log(norms + 1e-12)
    spread = {
        "paper": logs.var(ddof=1) / (logs.mean() ** 2 + 1e-12),
        "var_log": np.log(norms).var(ddof=1),
        "cv_of_energy": norms.std(ddof=1) / norms.mean(),
    }[gamma]  # Eq. 7
    het = spread > threshold
    traces = [np.trace(s) + 1e-12 for s in sigma_hat]
    divide = {"adaptive": het, "always": True, "never": False}[normalise]
    if epsilon_mode == "relative":
        epsilon = epsilon * np.mean(traces) / width
    sigma = [s / tr if divide else s for s, tr in zip(sigma_hat, traces, strict=True)]  # Eq. 8, 9
    r = [s + epsilon / (tr if divide else 1) * np.eye(width) for s, tr in zip(sigma, traces, strict=True)]  # Eq. 10
    sigma, r = ([x * a for a, x in zip(c, each, strict=True)] for each in (sigma, r))  # the coefficients
    rank_one = np.outer(np.ones(width), np.ones(width) @ sum(sigma) / width)  # Eq. 11-13
    rank_one = prior * rank_one / (norms.mean() + 1e-12 if divide else 1)
    w_pre = sum(x @ y for x, y in zip(w, r, strict=True)) @ np.linalg.inv(sum(r) + rank_one)  # Eq. 14
    restored = sum(a * x for a, x in zip(c, mu, strict=True)) / count if restore_mean == "mean" else 0
    if not {"adaptive": het, "always": True, "never": False}[refine]:
        return restored + w_pre
    residual = sum(x @ (s - sum(r) / count) for x, s in zip(taus, sigma, strict=True))  # Eq. 15
    u, s, vt = np.linalg.svd(w_pre + residual)  # Eq. 16
    k = max(1, int(k_frac * min(rows, width)))
    return restored + w_pre + s[:k].mean() * sum(np.outer(u[:, i], vt[i]) for i in range(k))  # Eq. 17-19


def boosted(merged, beta=0.01):
    """Raise all singular values to the first at which their cumulative share reaches beta."""
    u, s, vt = np.linalg.svd(merged, full_matrices=False)
    cut = next(r for r in range(len(s)) if s[: r + 1].sum() >= beta * s.sum())
    return u @ np.diag([max(value, s[cut]) for value in s]) @ vt


def swudi(taus, c, time=1300.0, rank=0.65):
    """Move the sum of the task vectors towards the least interference, one eigenvector of the loss at a time."""
    weights = [a / (t**2).sum() for a, t in zip(c, taus, strict=True)]
    curvature = sum(w * t.T @ t for w, t in zip(weights, taus, strict=True))
    target = sum(w * t @ t.T @ t for w, t in zip(weights, taus, strict=True))
    values, vectors = np.linalg.eigh(curvature)
    values = np.where(values > 1e-8, values, 0)
    keep = math.ceil(np.sqrt(values).sum() ** 2 / values.sum() if rank == "participation" else rank * len(values))
    merged = taus.sum(axis=0)
    for value, vector in list(zip(values, vectors.T, strict=True))[::-1][:keep]:
        if value:
            share = 1 - math.exp(-value * time) if time else 1
            merged = merged + share * np.outer(target @ vector / value - taus.sum(axis=0) @ vector, vector)
    return merged


def rank_k(matrix, k):
    u, s, vt = np.linalg.svd(matrix)
    return sum(s[r] * np.outer(u[:, r], vt[r]) for r in range(k))


def optmerge(taus, c, steps=300, learning_rate=1e-5):
    """WUDI with the strongest directions of each task vector, and of its difference from the mean, in the loss."""
    k, mean = max(1, min(taus[0].shape) // len(taus)), taus.mean(axis=0)
    goals, rows = [mean + rank_k(t - mean, k) for t in taus], [rank_k(t, k) for t in taus]
    x, m, v = taus.sum(axis=0), 0.0, 0.0
    for step in range(1, steps + 1):
        g = sum(2 * a * (x - goal) @ r.T @ r / (t**2).sum() for a, t, goal, r in zip(c, taus, goals, rows, strict=True))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x = x - learning_rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    return x


def doge(taus, c, density=0.3, subspace=6, steps=400, learning_rate=1e-4):
    """Learn one addition to all task vectors, outside the directions that they share, row by row of the loss."""
    r = min(taus[0].shape)
    tops = np.hstack([np.linalg.svd(tau)[0][:, : r // len(taus)] for tau in taus])
    span = np.linalg.svd(tops)[0][:, : r // subspace]
    outside = np.eye(len(span)) - span @ span.T
    delta, m, v = np.zeros(taus[0].shape), 0.0, 0.0
    for step in range(1, steps + 1):
        merged = sum(w * (tau + delta) for w, tau in zip(c, taus, strict=True))
        g = outside @ sum(2 * (tau * (tau - merged)).sum(axis=1, keepdims=True) * -sum(c) * tau for tau in taus)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        delta = delta - learning_rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    merged = np.zeros(delta.shape)
    for w, tau in zip(c, taus, strict=True):
        cut = np.sort(abs(tau), axis=None)[max(0, tau.size - int(density * tau.size) - 1)]
        merged += w * (tau + delta) * (abs(tau) >= cut)
    return merged


def closest_rotation(base, target):
    """Return the R that takes the base closest to the target, and of those the one closest to the identity."""
    product = base.T @ target
    values, vectors = np.linalg.eigh(product.T @ product)
    some = values > 1e-12 * values.max()
    partial = product @ vectors[:, some] / np.sqrt(values[some]) @ vectors[:, some].T
    unused, reached = null_space(product.T, rcond=1e-6), null_space(product, rcond=1e-6)
    return partial + unused @ polar(unused.T @ reached)[0] @ reached.T if unused.size else partial


def orthomerge(base, taus, c, conflicts=False):
    """Rotate the base by the mean of the experts' rotations in the Lie algebra, and add the mean of what rotations leave."""
    eye, mean = np.eye(base.shape[1]), taus.mean(axis=0)
    rotations = []
    for tau in taus:
        opposed = (tau * mean).sum(axis=1, keepdims=True) < 0
        rotations.append(closest_rotation(base, base + tau * (opposed if conflicts else 1)))
    algebra = [np.linalg.inv(r + eye) @ (r - eye) for r in rotations]
    total = sum(w * a for w, a in zip(c, algebra, strict=True))
    length = np.average([np.linalg.norm(a) for a in algebra], weights=c)
    a = length * total / np.linalg.norm(total)
    rotated = base @ np.linalg.inv(eye - a) @ (eye + a)
    rest = sum(w * (base + tau - base @ r) for w, tau, r in zip(c, taus, rotations, strict=True)) / len(taus)
    return rotated + rest - base


def dc_merge(taus, c, smoothing="none", density=1e-3, rho=5.0):
    """Merge the cores of low-rank parts in one cover basis, entry by entry, and keep their diagonal blocks."""
    k = min(taus[0].shape) // len(taus)
    parts = [np.linalg.svd(w * tau) for w, tau in zip(c, taus, strict=True)]
    cover_u = orthonormal(np.hstack([u[:, :k] for u, _, _ in parts]))
    cover_v = orthonormal(np.hstack([vt[:k].T for _, _, vt in parts]))
    cores = []
    for u, s, vt in parts:
        strength = {
            "none": s[:k],
            "average": np.full(k, s[:k].mean()),
            "linear": np.linspace(min(rho, s[0] / s[k - 1]), 1, k)
            * s[:k].sum()
            / np.linspace(min(rho, s[0] / s[k - 1]), 1, k).sum(),
        }[smoothing]
        core = cover_u.T @ (u[:, :k] * strength) @ vt[:k] @ cover_v
        cut = np.sort(abs(core), axis=None)[core.size - max(1, int(density * core.size))]
        cores.append(np.where(abs(core) >= cut, core, 0))
    cores = np.stack(cores)
    agree = (np.sign(cores) == np.sign(cores.sum(axis=0))) & (cores != 0)
    merged = (cores * agree).sum(axis=0) / np.maximum(agree.sum(axis=0), 1)
    blocks = np.kron(np.eye(len(taus)), np.ones((k, k)))
    return cover_u @ (merged * blocks) @ cover_v.T
