"""Write the differences of two programs: every comparison as JSON, and as Markdown with its note."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.tables import grid

Row = Mapping[str, Any]
PEERS = {"fusion-bench": "FusionBench", "mergekit": "mergekit"}
HEAD = (
    "method",
    "here",
    "models",
    "error in float32",
    "of the largest τ",
    "error in float64",
    "of the largest τ",
    "same",
    "note",
)


def row(record: Mapping[str, Any], family: str, errors: Mapping[str, float], largest: float) -> dict[str, Any]:
    """Return one comparison on one family: the errors by precision, and whether the programs agree.

    `agrees` is None where they differ on purpose.
    """
    within = record["within"]
    agrees = None if within is None else errors["float64"] <= within * largest
    return {**record, "family": family, "errors": dict(errors), "largest_task_vector": largest, "agrees": agrees}


def faults(rows: Sequence[Row]) -> list[str]:
    """Describe the comparisons that should agree and do not."""
    return [
        f"{each['peer']} {each['method']} and {each['ours']} on {each['family']} ({relative(each, 'float64'):.1e})"
        for each in rows
        if each["agrees"] is False
    ]


def relative(each: Row, precision: str) -> float:
    """Return the largest error in units of the largest entry of any task vector."""
    return each["errors"][precision] / each["largest_task_vector"]


def table(results: Mapping[str, Any]) -> str:
    """Return the tables, one a peer, with versions and notes."""
    lines = ["# Agreement with public implementations", "", *about(results["facts"])]
    for peer, name in PEERS.items():
        rows = [each for each in results["rows"] if each["peer"] == peer]
        if rows:
            version = results["facts"]["peers"][peer][peer]
            notes = list(dict.fromkeys(note(each) for each in rows if note(each)))
            lines += [f"## {name} {version}", "", *grid(HEAD, [cells(each, notes) for each in rows], 3), ""]
            lines += [line for number, text in enumerate(notes, 1) for line in (f"[{number}] {text}", "")]
            lines += ["At the edges:", "", *(f"- {each}" for each in results["found"][peer]), ""]
    return "\n".join(lines)


def about(facts: Mapping[str, Any]) -> list[str]:
    """Describe models and versions."""
    versions = [
        f"{PEERS[name]} {of[name]} (torch {of['torch']}, NumPy here {facts['versions']['numpy']})"
        for name, of in facts["peers"].items()
    ]
    return [
        f"Measured {facts['date']}; {', '.join(versions)}. Models: random CLIP image encoders, GPT-2 and LLaMA of fewer than"
        " 0.1 M parameters, stored in float32, with three experts (one or two where a method takes no more), or LoRA"
        " adapters of rank 4. All programs draw the same random numbers.",
        "",
        "*error* is the largest difference in any number of the merged models, *of the largest τ* the same in units of the"
        " largest entry of any task vector. In float32 both write what a user gets (weights near 1 round at 1.2e-7, which is"
        " 7e-6 of the largest τ here); in float64 the same float32 models are taken to float64 first, which shows whether the"
        " formulas are the same. *here* is an entry of `config/methods.yaml`; what `--set` of `nan-merge merge` changes in"
        " it stands in the note. *same* is ✓ where the programs compute the same and – where they differ on purpose; then a"
        " note says why.",
        "",
    ]


def cells(each: Row, notes: Sequence[str]) -> list[str]:
    """Return one row of the table."""
    errors = [
        text
        for precision in ("float32", "float64")
        for text in (f"{each['errors'][precision]:.1e}", f"{relative(each, precision):.1e}")
    ]
    return [
        f"`{each['method']}` {settings(each)}".strip(),
        f"`{each['ours']}`",
        each["family"],
        *errors,
        {True: "✓", False: "✗", None: "–"}[each["agrees"]],
        f"[{notes.index(note(each)) + 1}]" if note(each) else "",
    ]


def settings(each: Row) -> str:
    """Return the settings of the peer as a line."""
    shown = {key: value for key, value in {**each["settings"], **each["each"]}.items() if value != []}
    return re.sub(r'[{}"]', "", json.dumps(shown, sort_keys=True))


def note(each: Row) -> str:
    """Return the `--set` options and the note of a comparison as sentences; empty without both."""
    options = " ".join(f"--set {change}" for change in each["change"])
    reason = each["note"] if each["note"].startswith(tuple(PEERS)) else each["note"][:1].upper() + each["note"][1:]
    return " ".join([f"Here `{options}`."] * bool(options) + [f"{reason}."] * bool(reason))
