"""Collect Gram matrices of all experts layer by layer, behind layers that are merged already (rule collect_gram_plus)."""

import argparse
import json
from pathlib import Path

from merging.classification import Forward
from merging.data import Dataset
from merging.evaluate import family
from merging.evidence import KINDS_TOGETHER, bound
from merging.evidence.records import write_evidence
from merging.layouts import align
from merging.progress import bar
from merging.results import command_line, named_folders


def main() -> None:
    """Parse the command line and collect."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", required=True)
    parser.add_argument("--kind", choices=sorted(KINDS_TOGETHER), required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--experts", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--datasets", nargs="+", required=True, metavar="NAME=FOLDER", help="of each expert's task")
    parser.add_argument(
        "--settings", type=json.loads, default={}, help="an entry of config/evidence.yaml, less its kind, as JSON"
    )
    parser.add_argument("--layout", type=json.loads, default={}, help="exclude, vocabulary and missing as JSON")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--output", type=Path, required=True, help="gets a folder for each expert")
    args = parser.parse_args()
    forward = Forward(args.device)
    models = align(args.base, named_folders(args.experts), **args.layout)
    inputs = {name: Dataset(folder).inputs("train") for name, folder in named_folders(args.datasets).items()}
    collect = bound(KINDS_TOGETHER[args.kind], args.settings, f"config/evidence.yaml: kind: {args.kind}")
    encoder = family(args.family).load(args.base)
    forward.place(encoder)
    with bar(args.kind, 0) as shown:
        found = collect(encoder, models, inputs, shown.update)
    for expert, tensors in found.items():
        examples = min(collect.keywords["examples"], len(inputs[expert]))
        record = {"kind": args.kind, "settings": collect.keywords, "examples": examples}
        write_evidence(args.output / expert, tensors, record | forward.elsewhere())


if __name__ == "__main__":
    command_line(main)
