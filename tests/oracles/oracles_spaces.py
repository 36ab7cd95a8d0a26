"""KnOTS and Core Space as naive float64 lines on dense matrices: products B A of T experts -> the merged one (out, in).

`merge` makes one array of T arrays of one shape. Nothing here imports the library.
"""

import numpy as np


def knots_blocks(products, scaled):
    """arXiv 2410.19735: [B_1 A_1, ..., B_T A_T] = U S [V_1^T, ..., V_T^T]: what the blocks are multiplied by; the blocks."""
    u, s, vt = np.linalg.svd(np.hstack(products), full_matrices=False)
    real = s > 1e-9 * s[0]
    u, s, vt = u[:, real], s[real], vt[real]
    blocks = np.hsplit(vt, len(products))
    return (u, [np.diag(s) @ block for block in blocks]) if scaled else (u @ np.diag(s), blocks)


def core_blocks(pairs):
    """arXiv 2509.17786: bases of all B side by side and all A below each other, and the cores U^T B_t A_t V."""
    u, s, _ = np.linalg.svd(np.hstack([b for b, _ in pairs]), full_matrices=False)
    _, z, vt = np.linalg.svd(np.vstack([a for _, a in pairs]), full_matrices=False)
    u, vt = u[:, s > 1e-9 * s[0]], vt[z > 1e-9 * z[0]]
    return u, [u.T @ b @ a @ vt.T for b, a in pairs], vt


def knots(pairs, merge, scaled=False):
    left, blocks = knots_blocks([b @ a for b, a in pairs], scaled)
    return left @ merge(blocks)


def core(pairs, merge):
    left, blocks, right = core_blocks(pairs)
    return left @ merge(blocks) @ right


def ties(blocks, density, coefficients):
    """Trim each vector of all its blocks together, elect signs by the weighted sum, and sum what agrees: [T lists] -> a list."""
    flat = [np.concatenate([part.ravel() for part in parts]) for parts in blocks]
    kept = []
    for vector in flat:
        cut = np.sort(abs(vector))[len(vector) - int(density * len(vector)) - 1]
        kept.append(np.where(abs(vector) >= cut, vector, 0) if density < 1 else vector)
    weighted = np.array([c * vector for c, vector in zip(coefficients, kept, strict=True)])
    sign = np.where(weighted.sum(axis=0) >= 0, 1, -1)
    merged = np.where(weighted * sign > 0, weighted, 0).sum(axis=0)
    sizes = np.cumsum([part.size for part in blocks[0]])[:-1]
    return [part.reshape(like.shape) for part, like in zip(np.split(merged, sizes), blocks[0], strict=True)]
