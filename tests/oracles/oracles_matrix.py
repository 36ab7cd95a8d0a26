"""The methods that take matrices apart, as naive float64 lines: task vectors (T, out, in), T coefficients -> (out, in).

Nothing here imports the library.
"""

import numpy as np
from scipy.linalg import polar


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
