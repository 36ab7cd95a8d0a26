"""Matched units of networks, as naive float64 lines: ZipIt! (arXiv 2305.03053), permutations (arXiv 2209.04836).

Nothing here imports the library.
"""

from itertools import permutations

import numpy as np

APART = -1


def merge_and_unmerge(groups):
    """Return the merge and unmerge matrices (n, n) of every network, of the groups of its units (T, n)."""
    count, width = np.shape(groups)
    merge, unmerge = np.zeros((count, width, width)), np.zeros((count, width, width))
    for g in range(width):
        members = [(t, j) for t in range(count) for j in range(width) if groups[t][j] == g]
        for t, j in members:
            merge[t, g, j], unmerge[t, j, g] = 1 / len(members), 1.0
    return merge, unmerge


def matched(weights, statistics):
    """Return T M_t W_t U'_t of a tensor of every network (T, out, in, ...), whose groups are those of outputs, then of inputs."""
    outputs, found = weights.shape[1], []
    merge, _ = merge_and_unmerge([each[:outputs] for each in statistics])
    _, unmerge = merge_and_unmerge([each[outputs:] for each in statistics])
    for t, weight in enumerate(weights):
        own = np.einsum("oi...,ig->og...", weight, unmerge[t]) if weight.ndim > 1 else weight
        apart = (np.asarray(statistics[t][:outputs]) == APART).all()
        found.append(own if apart else len(weights) * np.einsum("go,o...->g...", merge[t], own))
    return np.stack(found)


def is_shared(statistics, outputs):
    return bool(len(statistics)) and not any(g == APART for g in statistics[0][:outputs])


def greedy(similarity, count, within, repeated):
    """Put units into groups by the greedy matching of section 4.3: a list of sets of units, of similarities (T n, T n)."""
    total = len(similarity)
    width = total // count
    groups = {unit: {unit} for unit in range(total)}
    of = {unit: unit // width for unit in groups}
    alike = {frozenset((i, j)): similarity[i][j] for i in groups for j in groups if i < j}
    budget = [int((total - width) // count * within + 1e-4)] * count
    apart = {pair for pair in alike if len({of[unit] for unit in pair}) == 1 and not budget[0]}
    while len(groups) > width:
        choice = [pair for pair in alike if pair not in apart] or list(alike)
        best = max(choice, key=lambda pair: (alike[pair], -min(pair), -max(pair)))
        kept, gone = sorted(best)
        groups[kept] |= groups.pop(gone)
        del alike[best]
        for other in groups:
            if other != kept:
                near, far = frozenset((kept, other)), frozenset((gone, other))
                alike[near] = repeated * min(alike[near], alike.pop(far))
                if far in apart:
                    apart.add(near)
        if of[kept] == of[gone]:
            budget[of[kept]] -= 1
            if budget[of[kept]] == 0:
                apart |= {pair for pair in alike if {of[unit] for unit in pair} == {of[kept]}}
    return list(groups.values())


def best_permutation(similarity):
    """Return the permutation with the largest sum of similarities (n, n), by trying all: unit i of the first and found[i]."""
    rows = range(len(similarity))
    return max(permutations(rows), key=lambda order: sum(similarity[i][order[i]] for i in rows))


def convolved(network, images):
    """Return what a chain of 3x3 convolutions, ReLU and max pooling gives, and all activations: (B, d), [(B, n, h, w), ...]."""
    x, seen = images, []
    for number, (weight, bias) in enumerate(network[:-1]):
        if number:
            height, width = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
            x = x[:, :, :height, :width].reshape(*x.shape[:2], height // 2, 2, width // 2, 2).max((3, 5))
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        shifted = [
            np.einsum("oi,bihw->bohw", weight[:, :, r, c], padded[:, :, r : r + x.shape[2], c : c + x.shape[3]])
            for r in range(3)
            for c in range(3)
        ]
        x = np.maximum(sum(shifted) + bias[None, :, None, None], 0)
        seen.append(x)
    weight, bias = network[-1]
    embeddings = x.mean((2, 3)) @ weight.T + bias
    return embeddings / np.sqrt((embeddings**2).sum(1, keepdims=True)), seen
