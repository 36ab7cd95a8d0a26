"""Parse the command line of a script whose settings are one JSON object: files and flags as options, the rest as `--spec`."""

import argparse
from pathlib import Path
from typing import Any

from nan_merge.core.errors import UserError
from nan_merge.core.scoring import COMPUTE, PRECISIONS
from nan_merge.core.text import parse_json, read_json

LAYOUT = "`merge:` of the suite: exclude, vocabulary, missing"
POINTS = "candidates and their points; null for trials"
METHODS = "records in the order of the rows"
OPTIONS: dict[str, dict[str, Any]] = {  # of several scripts
    **{name: {"type": Path} for name in ("base", "checkpoint", "dataset", "head", "text-tower", "output", "scores")},
    **{name: {"type": Path, "nargs": "+"} for name in ("datasets", "heads")},
    **{name: {} for name in ("family", "suite", "method")},
    "checkpoints": {"type": Path, "nargs": "+", "help": "one for all tasks, or one for each"},
    "data": {"type": Path, "nargs": "+", "help": "folders of the data of benchmarks, one or `folders` each"},
    "precision": {"choices": PRECISIONS, "default": "float32", "help": "of the weights, or of the forward pass by autocast"},
    "experts": {"nargs": "+", "metavar": "NAME=FOLDER"},
    "seed": {"type": int},
    "logit-scale": {"type": float, "help": "`finetune: logit_scale:` of the suite"},
    "threads": {"type": int, "default": 1},
    "device": {"default": "cpu", "help": "cpu, cuda or cuda:N"},
    "compute": {"default": COMPUTE[0], "choices": COMPUTE, "help": "type of merges that take whole tensors"},
    "blas-threads": {"type": int, "default": 1, "help": "of the matrix library at large tensors"},
    "thresholds": {"type": Path, "default": None, "help": "measured thresholds, for a method that trims"},
}


def options(description: str | None, *names: str) -> argparse.ArgumentParser:
    """Return a parser with the named entries of OPTIONS; those without a default are required."""
    parser = argparse.ArgumentParser(description=description)
    for name in names:
        parser.add_argument(f"--{name}", required="default" not in OPTIONS[name], **OPTIONS[name])
    return parser


def parse_with_spec(parser: argparse.ArgumentParser, **keys: str) -> argparse.Namespace:
    """Add `--spec` to a parser, parse, and make each key of the spec an attribute of the arguments.

    `keys` describes each key for `--help`. Raises UserError if the spec is not JSON, or its keys are not `keys`.
    """
    described = "; ".join(f"{key}: {description}" for key, description in keys.items())
    parser.add_argument("--spec", type=json_or_file, required=True, metavar="FILE", help=f"JSON object with the keys {described}")
    args = parser.parse_args()
    spec = vars(args).pop("spec")
    found = sorted(spec) if isinstance(spec, dict) else type(spec).__name__
    if found != sorted(keys):
        raise UserError(f"--spec: expected a JSON object with the keys {sorted(keys)}, found {found}; see --help")
    vars(args).update(spec)
    return args


def add_measured(parser: argparse.ArgumentParser) -> None:
    """Add the files that tables, figures and the report are made from."""
    parser.add_argument("--scores", required=True, metavar="FILE.tsv")
    parser.add_argument("--comparisons", metavar="FILE.tsv")
    for name in ("coefficients", "measures", "datasets", "premise", "data_checks", "searches"):
        parser.add_argument(f"--{name}", nargs="*", default=[], metavar="FILE")


def json_or_file(text: str) -> Any:
    """Read the file that holds a JSON value; a short value may be written out in place of the file."""
    return parse_json(text, "command line") if text.lstrip()[:1] in ("[", "{") else read_json(text)
