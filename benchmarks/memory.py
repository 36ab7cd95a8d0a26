"""Measure the peak memory of our merges for models of several sizes and for several numbers of experts.

Memory is anonymous: private (RssAnon) and shared (RssShmem), sampled 200 times a second. A model that
the disk does not hold is made of files with holes: 32 MB of numbers a model, the rest reads as zeros and takes no disk.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.cases import ROOT, SPARE, Case, add_options, facts, made, models, positive, tiny
from benchmarks.programs import OURS, ours, run
from benchmarks.shapes import MODELS, model_bytes
from benchmarks.tables import cut_to, grid, machine, save
from nan_merge.core.command_line import command_line


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, and write the results."""
    parser = argparse.ArgumentParser("benchmarks.memory", description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=MODELS, default=["100M", "1B", "7B"], help="of 3 experts each")
    parser.add_argument("--experts", nargs="*", type=positive, default=[2, 8, 20], help="numbers of experts of the first size")
    parser.add_argument("--methods", nargs="+", choices=OURS, default=["task_arithmetic", "nan", "ties"])
    add_options(parser)
    args = parser.parse_args(argv)
    results: dict[str, Any] = {"facts": facts(args.folder), "runs": []}
    for size, experts in [*((size, 3) for size in args.sizes), *((args.sizes[0], count) for count in args.experts)]:
        free = shutil.disk_usage(args.folder if args.folder.exists() else ROOT).free - SPARE
        holes = (experts + 2) * model_bytes(MODELS[size]) > free
        with models(size, experts, args.folder, keep=args.keep, holes=holes) as case:
            results["runs"] += list(runs(case, args.methods))
    save(args.output / "memory", results, memory_table(results))


def runs(case: Case, methods: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the measurements of every method on a case, after a merge of tiny models that compiles the kernels."""
    for method in methods:
        program = ours(method, 1)
        with made(tiny(case)) as small:
            run(program, small)
        found = run(program, case, per_second=200)
        print(f"{case.size}, {case.count} experts, {method}: {found.outcome}, {found.anonymous / 1e6:.0f} MB", flush=True)
        yield {**case.record(), "method": method, "traffic": case.traffic, **dataclasses.asdict(found)}


def memory_table(results: Mapping[str, Any]) -> str:
    """Return the table of the peaks with its heading."""
    about = "Peak of the memory that no file stands behind (RssAnon + RssShmem) of whole merges. Holes: a file whose"
    about += " first 32 MB hold numbers and whose rest reads as zeros."
    return "\n".join(["# Memory of a merge", "", machine(results["facts"]), "", about, "", *peaks(results), ""])


def peaks(results: Mapping[str, Any]) -> list[str]:
    """Return the table of the peaks by case and method, and of how far the peaks of a method lie from their middle."""
    methods = list(dict.fromkeys(run["method"] for run in results["runs"]))
    cases: dict[tuple[str, int], dict[str, Any]] = {}
    for each in results["runs"]:
        cases.setdefault((each["size"], each["experts"]), {})[each["method"]] = each
    rows = []
    for (size, experts), found in cases.items():
        first = next(iter(found.values()))
        how = ["holes"] * first["holes"] + [cut_to(first)] * (first["layers"] < first["layers_of_size"])
        size = f"{size} ({', '.join(how)})" if how else size
        rows.append([size, f"{first['bytes'] / 1e9:.2f}", str(experts), *(_cell(found.get(method)) for method in methods)])
    every = {m: [r["anonymous"] for r in results["runs"] if r["method"] == m and r["outcome"] == "ok"] for m in methods}
    rows.append(["largest / smallest", "", "", *(f"{max(p) / min(p):.2f}" if p else "" for p in every.values())])
    rows.append(["middle ±", "", "", *(f"{(max(p) - min(p)) / (max(p) + min(p)):.1%}" if p else "" for p in every.values())])
    return grid(["models", "GB each", "experts", *(f"{method} MB" for method in methods)], rows)


def _cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    return f"{found['anonymous'] / 1e6:.0f}" if found["outcome"] == "ok" else found["outcome"]


if __name__ == "__main__":
    command_line(main)
