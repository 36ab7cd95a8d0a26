"""Which methods of a run are compared with which, and as what."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nan_merge.methods.search_space import owns

Experiment = Any  # experiment.Experiment
AVERAGING = "weight_averaging"  # the baseline of all other merges
INDIVIDUAL = "individual"  # the upper reference


def pairs(experiment: Experiment) -> list[dict[str, Any]]:
    """Return the comparisons: suite, method, against, kind; several draws of a control are one comparison, with `draws`."""
    found = []
    claimed = [contrast for claim in experiment.registered_claims["claims"] for contrast in claim["contrasts"]]
    for suite in experiment.suites:
        run, unseen = experiment.run(suite), experiment.owner(suite) != suite and INDIVIDUAL in experiment.absent(suite)
        compared = [pair for name in run for pair in _pairs_of(experiment, name, unseen)]
        known = {pair[:2] for pair in compared}
        wanted = [(each["method"], each["against"]) for each in claimed if each["suite"] == suite]
        compared += [(*pair, "claim") for pair in dict.fromkeys(wanted) if pair not in known]
        for method, against, kind in compared:
            draws = [member for member in experiment.sweeps.get(against, []) if member in run]
            if method in run and (against in run or draws):
                pair = {"suite": suite, "method": method, "against": against, "kind": kind}
                found.append({**pair, "draws": draws} if draws else pair)
    return found


def _pairs_of(experiment: Experiment, method: str, unseen: bool) -> Iterable[tuple[str, str, str]]:
    """Yield (method, against, kind) of every comparison of a method; on `unseen` tasks merges are compared with the base."""
    record = experiment.methods[method]
    host, parent, group = record.get("host"), record.get("extends"), record.get("group")
    scanned = "values" in record.get("sweep", {})  # compared with its host only, and adjusted apart
    if host:
        yield method, host, "scan" if scanned else "host"
    if "nested" in record:  # the same method over all experts at once
        yield method, record["method"], "nested"
    for control in record.get("controls", []) if host and not scanned else []:
        yield method, control, "control"
    if parent and owns(record) and parent != host:
        yield method, parent, "selection"
    if parent and group == "ablation":
        yield method, parent, "ablation"
    if unseen and method not in experiment.references and "draw" not in record.get("sweep", {}):
        yield method, "pretrained", "forgetting"
    if method == AVERAGING:
        yield method, "pretrained", "order"
    elif group != "reference" and "draw" not in record.get("sweep", {}):
        yield method, AVERAGING, "order"
        for upper in (INDIVIDUAL, *experiment.expert_rows):
            yield upper, method, "order"
