"""The difference of two methods on the same test examples, stratified by task: estimate, interval and test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtr, stdtrit

from nan_merge.reporting.statistics import LEVEL

FLIPS = 100_000
RESAMPLES = 10_000
MANY, BATCH = 256, 2_000  # sizes of differences that are counted; flips whose signs are drawn at once
DIGITS = 9  # of weighted differences that are told apart


class Paired(NamedTuple):
    """Difference of the averages over tasks, one method minus the other, as a fraction, with 95 % limits and p.

    Two one-sided tests at the same level exclude differences, either way, larger than `within` (TOST, Schuirmann 1987):
    the larger of the limits of the 90 % interval. `least_p` is the p that the same discordant examples would give if all of
    them favoured one method, and `error` the standard error of the difference under the null hypothesis.
    """

    difference: float
    low: float
    high: float
    within: float
    p: float
    least_p: float
    error: float


def paired(
    differences: Sequence[NDArray],
    terms: int,
    weights: ArrayLike,
    random: np.random.Generator,
    clusters: Sequence[NDArray | None] | None = None,
    tested: bool = True,
) -> Paired:
    """Test and estimate a weighted mean over tasks of per-example differences.

    Sign-flip test: under the null hypothesis the two methods' answers to an example may be swapped (for all its terms
    at once), so each non-zero difference has either sign; p = (1 + flips at least as extreme) / (1 + flips). Against
    the mean of several draws, which is no set of answers, that holds for large samples only. Interval: percentile
    bootstrap of the examples within each task. Without any discordant example the bootstrap has no width; then the
    interval is the exact 95 % bound on the share of discordant examples, put where it moves the average most.
    Examples that come in clusters are flipped and drawn cluster by cluster, so both hold for dependent examples within one.

    Args:
        differences: for each task t, (n_t,) numbers from -terms to terms: correct answers to each example of the method
            less those of the other, summed over `terms`.
        terms: number of pairs of models: fine-tuning seeds times draws of a control.
        weights: of the tasks; scaled to sum to 1.
        clusters: for each task, the cluster of every example (n_t,), numbered from 0, or None for independent examples.
        tested: False for the difference and its interval alone; p is that of no sign-flip test then.
    """
    w = np.asarray(weights, float) / np.sum(weights)
    scale = [weight / (terms * len(d)) for weight, d in zip(w, differences, strict=True)]
    members = [None if cluster is None else np.bincount(cluster) for cluster in clusters or [None] * len(differences)]
    differences = [
        d if cluster is None else np.bincount(cluster, d).round(DIGITS)
        for d, cluster in zip(differences, clusters or [None] * len(differences), strict=True)
    ]
    observed = float(sum(s * d.sum() for s, d in zip(scale, differences, strict=True)))
    if not any(d.any() for d in differences):
        bound = max(weight * (1 - (1 - LEVEL) ** (1 / len(d))) for weight, d in zip(w, differences, strict=True))
        return Paired(0.0, -float(bound), float(bound), float(bound), 1.0, 1.0, 0.0)
    flips = FLIPS if tested else 0
    flipped, means = np.zeros(flips), np.zeros(RESAMPLES)
    for factor, d, sizes in zip(scale, differences, members, strict=True):
        _flip(flipped, factor, d, random)
        if sizes is None:
            values, counts = np.unique(d, return_counts=True)
            means += factor * (random.multinomial(len(d), counts / len(d), RESAMPLES) @ values)
        else:
            drawn = random.multinomial(len(d), np.full(len(d), 1 / len(d)), RESAMPLES)
            means += factor * sizes.sum() * (drawn @ d) / (drawn @ sizes)
    extreme = int(np.sum(np.abs(flipped) >= abs(observed) - 1e-12))
    low, inner, outer, high = np.quantile(means, [(1 - LEVEL) / 2, 1 - LEVEL, LEVEL, (1 + LEVEL) / 2])
    least = 2.0 ** (1 - sum(int(np.count_nonzero(d)) for d in differences))  # two of all the patterns of signs
    error = np.sqrt(sum(factor**2 * np.sum(d**2) for factor, d in zip(scale, differences, strict=True)))
    p = (1 + extreme) / (1 + flips)
    least_p = min(p, (1 + flips * least) / (1 + flips))  # p is an estimate, and can fall below
    return Paired(observed, float(low), float(high), float(max(-inner, outer)), p, least_p, float(error))


def _flip(flipped: NDArray, factor: float, differences: NDArray, random: np.random.Generator) -> None:
    """Add to every one of the sums `flipped` (flips,) `factor` times the differences (n,), each with a sign drawn at random.

    Equal sizes are drawn together; of more than MANY sizes, as scores that are no counts have, every sign is drawn.
    """
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    if len(sizes) <= MANY:
        for size, count in zip(sizes, counts, strict=True):
            flipped += factor * size * (2.0 * random.binomial(count, 0.5, len(flipped)) - count)
        return
    every = np.repeat(sizes, counts)
    for part in np.split(flipped, range(BATCH, len(flipped), BATCH)):  # views
        bits = random.bytes(len(part) * -(-len(every) // 8))
        signs = np.unpackbits(np.frombuffer(bits, np.uint8).reshape(len(part), -1), axis=1, count=len(every))
        part += factor * (2.0 * (signs @ every) - every.sum())


def paired_over_seeds(
    differences: Sequence[NDArray],
    draws: int,
    weights: ArrayLike,
    random: np.random.Generator,
    clusters: Sequence[NDArray | None] | None = None,
    tested: bool = True,
) -> Paired:
    """Test and estimate as `paired` does, for other fine-tuning seeds too: seeds and examples are both taken as a sample.

    The standard error is that of a bootstrap of seeds and, crossed with it, of the examples (or clusters) within each task
    (Owen 2007, the pigeonhole bootstrap); R - 1 of R seeds are drawn, which makes the variance over seeds unbiased. Limits
    and p are those of Student's t with R - 1 degrees of freedom, more where the seeds have the smaller part of the variance
    (Satterthwaite 1946). p is the larger of this test's and the sign-flip test's, so both must be significant.
    Of one seed it is `paired`.

    Args:
        differences: for each task t, (R, n_t): as in `paired`, a row a seed, each summed over `draws` of a control.
        weights: of the tasks, (T,), or of the tasks in each seed, (R, T); scaled to sum to 1.
    """
    seeds = len(differences[0])
    given = np.broadcast_to(np.asarray(weights, float), (seeds, len(differences)))
    shares = given / given.sum(axis=1, keepdims=True)
    mean = shares.mean(axis=0) if np.ptp(given, axis=0).any() else given[0]
    factors = shares / mean if np.ptp(given, axis=0).any() else np.ones_like(given)
    summed = [(factor[:, None] * each).sum(axis=0).round(DIGITS) for factor, each in zip(factors.T, differences, strict=True)]
    fixed = paired(summed, draws * seeds, mean, random, clusters, tested)
    if seeds < 2 or not any(each.any() for each in differences):
        return fixed
    drawn = random.multinomial(seeds - 1, np.full(seeds, 1 / seeds), RESAMPLES) / (seeds - 1)  # (RESAMPLES, R)
    by_seed, means = np.zeros(seeds), np.zeros(RESAMPLES)
    for share, each, cluster in zip(shares.T, differences, clusters or [None] * len(differences), strict=True):
        by_seed += share / draws * each.mean(axis=1)
        means += np.sum(drawn * share / draws * _drawn_means(each, cluster, random), axis=1)
    variance, of_seeds = float(np.var(means, ddof=1)), float(np.var(by_seed, ddof=1)) / seeds
    error = variance**0.5
    freedom = (seeds - 1) * max(1.0, (variance / of_seeds) ** 2) if of_seeds > 0 else np.inf
    wide, narrow = (error * stdtrit(freedom, level) for level in ((1 + LEVEL) / 2, LEVEL))
    p = max(fixed.p, float(2 * stdtr(freedom, -abs(fixed.difference) / error))) if error else fixed.p
    return fixed._replace(
        low=fixed.difference - wide,
        high=fixed.difference + wide,
        within=abs(fixed.difference) + narrow,
        p=p,
        error=wide / ndtri((1 + LEVEL) / 2),
    )


def _drawn_means(each: NDArray, cluster: NDArray | None, random: np.random.Generator) -> NDArray:
    """Return the mean difference of every seed over each bootstrap draw of examples, or of clusters: (RESAMPLES, R)."""
    if cluster is None:
        patterns, counts = np.unique(each, axis=1, return_counts=True)
        drawn = random.multinomial(each.shape[1], counts / each.shape[1], RESAMPLES)
        return drawn @ patterns.T / each.shape[1]
    sizes = np.bincount(cluster)
    sums = np.array([np.bincount(cluster, row) for row in each])
    drawn = random.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), RESAMPLES)
    return drawn @ sums.T / (drawn @ sizes)[:, None]
