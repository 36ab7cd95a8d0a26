"""The claims of config/claims.yaml, with the suites and the methods of a run in place of patterns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

Experiment = Any  # experiment.Experiment, which imports this module

WHERE = "config/claims.yaml"


def check_claims(experiment: Experiment) -> None:
    """Check the methods that claims name; a pattern may find none."""
    for name, claim in experiment.claims["claims"].items():
        for contrast in claim.get("contrasts", []):
            for method in (each for each in contrast["methods"] if not set(each) & set("*?[")):
                where = f"{WHERE}: claims: {name}: contrasts: methods"
                against = _against(contrast, method, experiment.catalogue.entry(method, where))
                experiment.catalogue.entry(against, where.replace("methods", "against"))


def registered(experiment: Experiment) -> dict[str, Any]:
    """Return config/claims.yaml with the claims as a list, each with its `id`, its suites and its contrasts in this run."""
    claims = []
    for name, claim in experiment.claims["claims"].items():
        suites = [s for s in experiment.suites if any(fnmatchcase(s, pattern) for pattern in claim.get("suites", ["*"]))]
        claims.append({**claim, "id": name, "suites": suites, "contrasts": [*_contrasts(experiment, claim, suites)]})
    return {**experiment.claims, "claims": claims}


def _contrasts(experiment: Experiment, claim: Mapping[str, Any], suites: list[str]) -> Iterator[dict[str, str]]:
    """Yield suite, method and against of every contrast; one whose methods are not run has the reason as `missing`."""
    for suite in suites:
        run, skipped = experiment.run(suite), experiment.skipped_methods(suite)
        rows = {row["id"]: row for row in experiment.rows() if {*row.get("draws", [row["id"]])} & {*run}}

        def missing(method: str, rows: Mapping = rows, skipped: Mapping = skipped) -> dict[str, str]:
            reason = f"was skipped: {skipped[method]}" if method in skipped else "is not in the run"
            return {} if method in rows else {"missing": f"{method} {reason}"}

        for contrast in claim.get("contrasts", []):
            for pattern in contrast["methods"]:
                for method in [row for row in rows if fnmatchcase(row, pattern)] or [pattern]:
                    against = _against(contrast, method, rows.get(method, {}))
                    yield {"suite": suite, "method": method, "against": against, **(missing(method) or missing(against))}


def _against(contrast: Mapping[str, Any], method: str, record: Mapping[str, Any]) -> str:
    host = record.get("host") or method.rpartition("+")[0] or method
    return str(contrast["against"]).replace("{host}", host).replace("{method}", method)
