"""Write results: every raw number as JSON, medians and ratios as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.programs import SAME_AS
from nan_merge.core.atomic import atomic_write
from nan_merge.core.files import write_json

Run = Mapping[str, Any]
PEERS = ("mergekit", "fusion-bench")


def save(path: Path, results: Mapping[str, Any], table: str) -> None:
    """Write `path`.json and `path`.md, and print the latter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path.with_name(f"{path.name}.json"), results)
    with atomic_write(path.with_name(f"{path.name}.md")) as part:
        part.write_text(table, encoding="utf-8")
    print(table)


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], text: int = 1) -> list[str]:
    """Return the lines of a Markdown table whose first `text` columns are text and the others numbers."""
    rule = ["---"] * text + ["---:"] * (len(head) - text)
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]


def machine(facts: Mapping[str, Any]) -> str:
    """Return one sentence on machine and date."""
    versions = [f"{name} {number}" for name, number in sorted(facts["versions"].items())]
    versions += [f"{name} {of[name]} (torch {of['torch']})" for name, of in facts["peers"].items()]
    return (
        f"Measured {facts['date']} on {facts['processors']} × {facts['processor']}, {facts['memory_bytes'] / 2**30:.0f} GiB of"
        f" memory, {facts['file_system']}, {facts['system']}, load {facts['load']:.1f} at the start; {', '.join(versions)}."
    )


def describe(case: Mapping[str, Any]) -> str:
    """Describe a case: models, number and size."""
    layers = f"{case['layers']} layers" if case["layers"] == case["layers_of_size"] else cut_to(case)
    return (
        f"{case['experts']} × {case['size']} ({case['family']} shape, {layers}, {case['parameters'] / 1e9:.2f} B parameters,"
        f" {case['type']}, {case['bytes'] / 1e9:.2f} GB a model)"
    )


def cut_to(case: Mapping[str, Any]) -> str:
    """Describe the cut of a model that did not fit on the disk, in layers."""
    return f"cut to {case['layers']} of its {case['layers_of_size']} layers"


def merge_table(results: Mapping[str, Any]) -> str:
    """Return the tables of `benchmarks.merge`: one for each case, and the throughputs of several sizes."""
    lines = ["# Merges, from the command to durable files", "", machine(results["facts"]), ""]
    for case in results["cases"]:
        inputs = "dropped from the page cache before every run" if case["cold"] else "in the page cache as far as it goes"
        about = f"Inputs {inputs}. Median (smallest – largest) of the runs. {others(case['runs'])}"
        lines += [f"## {describe(case)}", "", about, ""]
        head = ["method", "program", "runs", "wall s", "CPU s", "anonymous MB", "resident MB", "× peer", "× floor", "GB/s"]
        lines += [*grid(head, [_row(case, *key) for key in keys(case["runs"])], 2), ""]
    if len(results["cases"]) > 1 and all(case["asked"] is None for case in results["cases"]):
        lines += _throughputs(results["cases"])
    return "\n".join(lines)


def others(runs: Sequence[Run]) -> str:
    """Say what other programs took of the processor time that was used: in all runs together, and at most in one."""
    most = max(others_share([run]) for run in runs)
    return f"Other programs took {others_share(runs):.0%} of the processor time that was used, at most {most:.0%} in a run."


def others_share(runs: Sequence[Run]) -> float:
    """Return the share of other programs of the processor time that was used during runs."""
    others = sum(run["others"] for run in runs)
    return others / (others + sum(run["processor_seconds"] for run in runs))


def keys(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Return (method, program) of every row: the floor, then method by method."""
    found = list(dict.fromkeys((run["method"], run["program"]) for run in runs))
    methods = ["", *dict.fromkeys(run["method"] for run in runs if run["program"] == "ours")]
    return sorted(found, key=lambda key: (methods.index(key[0]) if key[0] in methods else len(methods), key[1] != "ours"))


def _row(case: Mapping[str, Any], method: str, program: str) -> list[str]:
    every = select(case["runs"], program, method)
    runs = [run for run in every if run["outcome"] == "ok"]
    names = [method or "read and write", program]
    if not runs:
        words = f"{every[0]['outcome']} after {every[0]['seconds']:.0f} s"
        memory = [megabytes(every, key) for key in ("anonymous", "resident")]
        return [*names, f"0 of {len(every)}", words, "", *memory, "", "", ""]
    seconds = median(run["seconds"] for run in runs)
    peer = next((found for name in PEERS if (found := wall(case, name, SAME_AS.get(method, method)))), None)
    floor = wall(case, "floor", "")
    return [
        *names,
        str(len(runs)) if len(runs) == len(every) else f"{len(runs)} of {len(every)}",
        spread([run["seconds"] for run in runs]),
        f"{median(run['processor_seconds'] for run in runs):.2f}",
        *(megabytes(runs, key) for key in ("anonymous", "resident")),
        f"{seconds / peer:.3f}" if peer and program == "ours" else "",
        f"{seconds / floor:.2f}" if floor else "",
        f"{case['traffic'] / seconds / 1e9:.2f}",
    ]


def select(runs: Sequence[Run], program: str, method: str) -> list[Run]:
    """Return the runs of one program and method."""
    return [run for run in runs if (run["program"], run["method"]) == (program, method)]


def wall(case: Mapping[str, Any], program: str, method: str, key: str = "seconds") -> float | None:
    """Return the median wall time (or `key`) in seconds of the runs that ended well; None without one."""
    seconds = [run[key] for run in select(case["runs"], program, method) if run["outcome"] == "ok"]
    return median(seconds) if seconds else None


def spread(values: Sequence[float]) -> str:
    """Write median, smallest and largest."""
    middle = f"{median(values):.2f}"
    return f"{middle} ({min(values):.2f} – {max(values):.2f})" if len(values) > 1 else middle


def megabytes(runs: Sequence[Run], key: str) -> str:
    """Write the most memory of any run."""
    return f"{max(run[key] for run in runs) / 1e6:,.0f}"


def _throughputs(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Compare the throughput of the cases with that of the first, and extrapolate models that were cut."""
    rows, notes = [], []
    for method, program in keys(cases[0]["runs"]):
        walls = [wall(case, program, method) for case in cases]
        if any(seconds is None for seconds in walls):
            continue
        rates = [case["traffic"] / seconds / 1e9 for case, seconds in zip(cases, walls, strict=True)]
        cells = [f"{rate:.2f} ({rate / rates[0]:.2f} ×)" for rate in rates[1:]]
        rows.append([method or "read and write", program, f"{rates[0]:.2f}", *cells])
        for case, rate in zip(cases, rates, strict=True):
            if program == "ours" and case["layers"] < case["layers_of_size"]:
                bytes_ = (case["experts"] + 2) * case["bytes_of_size"]
                notes.append(
                    f"{case['size']} was {cut_to(case)}, the most that the disk held. At this throughput {method} of"
                    f" {case['experts']} × {case['bytes_of_size'] / 1e9:.1f} GB takes {bytes_ / rate / 1e9:.0f} s (extrapolated)."
                )
    head = ["method", "program", *(f"{case['size']} GB/s" for case in cases)]
    about = "Bytes of all inputs and of the output, each counted once, by the median wall time; × the first size."
    return ["## Throughput by size", "", about, "", *grid(head, rows, 2), "", *(line for note in notes for line in (note, ""))]


def matrix_ratios(results: Mapping[str, Any]) -> list[str]:
    """Return a table of the seconds of all matrices by method and program, the ratios by shape, and the errors of float32."""
    shapes = results["shapes"]
    columns = [f"{rows:,} × {inputs:,}" for rows, inputs in (each["shape"] for each in shapes)]
    lines = []
    for method in shapes[0]["methods"]:
        cells = [(each["count"], each["methods"][method]) for each in shapes]
        seconds = {name: sum(count * min(cell["seconds"][name]) for count, cell in cells) for name in cells[0][1]["seconds"]}
        ratio = seconds["ours"] / seconds["torch"]
        by_shape = [f"{min(cell['seconds']['ours']) / min(cell['seconds']['torch']):.2f}" for _, cell in cells]
        errors = {name: max(cell["differences"][name] for _, cell in cells) for name in cells[0][1]["differences"]}
        numbers = [*(f"{each:.1f}" for each in seconds.values()), f"{ratio:.2f}", *by_shape]
        lines.append([f"`{method}`", *numbers, *(f"{error:.0e}" for error in errors.values())])
    heads = [*(f"{name}, CPU s" for name in seconds), "ratio", *columns, *(f"error of {name}" for name in errors)]
    return grid(["method", *heads], lines)
