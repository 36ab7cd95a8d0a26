"""What the engine costs beside a plain loop in the same process: ratios of processor time with wide margins, never seconds."""

import functools
import itertools
import shutil
import time

import numpy as np
import pytest
from models import BFLOAT16, merger, save
from threadpoolctl import threadpool_limits

from nan_merge.checkpoints.checkpoint import Checkpoint, write_tensors
from nan_merge.engine import measure
from nan_merge.layouts.unify import unify_layout
from nan_merge.methods.ace import ace
from nan_merge.methods.context import TensorContext
from nan_merge.methods.covariance import actmat
from nan_merge.methods.spectral import cart, iso_c, tsv

ROUNDS = 3
SHAPE, TENSORS, EXPERTS = (2048, 2048), 3, ("a", "b", "c")  # 25 MB a model: below 10, what every merge costs is most of it


@pytest.fixture(autouse=True)
def one_thread():
    """Matrix libraries wait for each other's threads by spinning, which counts as processor time."""
    with threadpool_limits(1):
        yield


def ratio(ours, plain):
    """Return the processor time of ours by that of the plain way: the least of some runs in turn, after one that loads all."""
    times = {way: [] for way in (ours, plain)}
    for way in (ours, plain) * (ROUNDS + 1):
        start = time.process_time()
        way()
        times[way].append(time.process_time() - start)
    return min(times[ours][1:]) / min(times[plain][1:])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base and three experts in bfloat16, each of one file."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("models")
    names = [f"layers.{n}.weight" for n in range(TENSORS)]
    drawn = {model: {name: rng.random(SHAPE, np.float32).astype(BFLOAT16) for name in names} for model in ("base", *EXPERTS)}
    folders = {model: save(folder / model, tensors) for model, tensors in drawn.items()}
    return folders.pop("base"), folders


def plainly_merged(base, experts, output):
    """Write the base plus 0.3 times the sum of the task vectors by NumPy, tensor by tensor."""
    base, *experts = map(Checkpoint, (base, *experts.values()))
    merge = {}
    for name in base.names:
        theta = base.read(name).astype(np.float32)
        merge[name] = (theta + 0.3 * sum(each.read(name).astype(np.float32) - theta for each in experts)).astype(BFLOAT16)
    write_tensors(output, merge)


def test_a_merge_takes_less_than_a_loop_of_numpy(models, tmp_path):
    numbers = itertools.count()
    merge = merger({"coefficients": {"constant": {"value": 0.3}}}, *models)

    def ours():
        output = tmp_path / f"ours-{next(numbers)}"
        merge(output)
        shutil.rmtree(output)

    assert ratio(ours, lambda: plainly_merged(*models, tmp_path / "plain.safetensors")) < 0.8


def plainly_measured(base, experts):
    """Return the norms of weights and task vectors of every tensor by NumPy, in float64 as ours."""
    base, *experts = map(Checkpoint, (base, *experts.values()))
    for name in base.names:
        theta = base.read(name).astype(np.float64)
        for each in experts:
            stored = each.read(name).astype(np.float64)
            np.linalg.norm(stored), np.linalg.norm(stored - theta)


def test_norms_take_less_than_a_loop_of_numpy(models):
    unified = unify_layout(*models)
    assert ratio(lambda: measure.norms(unified), lambda: plainly_measured(*models)) < 0.5


def plain_tsv(taus):
    """Merge by the formula of TSV-M with whole decompositions."""
    parts = [np.linalg.svd(tau, full_matrices=False) for tau in taus]
    count = min(taus[0].shape) // len(taus)
    us, ss, vts = zip(*parts, strict=True)
    u, vt = np.concatenate([u[:, :count] for u in us], 1), np.concatenate([vt[:count] for vt in vts])
    s = np.concatenate([s[:count] for s in ss])
    (left, _, right), (above, _, below) = (np.linalg.svd(side, full_matrices=False) for side in (u, vt))
    return (left @ right * s) @ (above @ below)


def plain_cart(taus):
    """Merge by the formula of CART with whole decompositions."""
    average = sum(taus) / len(taus)
    count = int(0.08 * min(taus[0].shape))
    parts = [np.linalg.svd(tau - average, full_matrices=False) for tau in taus]
    return average + 2 * sum((u[:, :count] * s[:count]) @ vt[:count] for u, s, vt in parts)


def plain_iso_c(taus):
    """Merge by the formula of Iso-C with a whole decomposition."""
    u, s, vt = np.linalg.svd(sum(taus), full_matrices=False)
    return s.mean() * u @ vt


def plain_actmat(taus):
    """Merge by the formula of ACTMat with the pseudo-inverse that the authors take."""
    covariances = [tau.T @ tau for tau in taus]
    return sum(tau @ c for tau, c in zip(taus, covariances, strict=True)) @ np.linalg.pinv(sum(covariances), rcond=1e-6)


def plain_ace(taus):
    """Merge by the equations of ACE for uneven experts, in their order."""
    tildes = [tau - tau.mean(axis=0) for tau in taus]
    traces = [(tilde**2).sum() for tilde in tildes]
    shares = [tilde.T @ tilde / trace for tilde, trace in zip(tildes, traces, strict=True)]
    ridged = [share + 1e-5 / trace * np.eye(len(share)) for share, trace in zip(shares, traces, strict=True)]
    prior = sum(shares).mean(axis=0) / np.mean([(tau**2).sum() for tau in taus])
    merged = sum(tilde @ r for tilde, r in zip(tildes, ridged, strict=True)) @ np.linalg.inv(sum(ridged) + prior)
    fused = merged + sum(tau @ (share - sum(ridged) / len(taus)) for tau, share in zip(taus, shares, strict=True))
    u, s, vt = np.linalg.svd(fused, full_matrices=False)
    k = int(0.3 * len(s))
    return merged + s[:k].mean() * u[:, :k] @ vt[:k]


LONG, SQUARE = (640, 240), (400, 400)
UNEVEN = functools.partial(ace, normalise="always", refine="always")


@pytest.mark.parametrize("shape", [SQUARE, LONG], ids=["square", "long"])
@pytest.mark.parametrize(
    ("operator", "plain"),
    [(tsv, plain_tsv), (cart, plain_cart), (iso_c, plain_iso_c), (actmat, plain_actmat), (UNEVEN, plain_ace)],
    ids=["tsv_m", "cart", "iso_c", "actmat", "ace"],
)
def test_methods_of_matrices_take_less_than_whole_decompositions(operator, plain, shape):
    taus = list(np.random.default_rng(1).standard_normal((3, *shape)))
    merged = operator(taus, [1.0] * 3, TensorContext("layers.0.weight"))
    assert abs(merged - plain(taus)).max() < 1e-9
    assert ratio(lambda: operator(taus, [1.0] * 3, TensorContext("layers.0.weight")), lambda: plain(taus)) < 0.9
