"""`nan-merge merge`: merge models without a suite."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from nan_merge.cli.parser import command_parser, number_by_name, positive
from nan_merge.core.errors import about
from nan_merge.core.escape import visible
from nan_merge.core.parallel import available_processors
from nan_merge.core.scoring import COMPUTE

VOCABULARY, MISSING = ("truncate", "pad_mean"), ("error", "base")  # as in the library, which a help does not wait for
TYPES = ("float16", "bfloat16", "float32", "float64")
EXAMPLE = "nan-merge merge --base BASE --expert math=A --expert B --method ties+nan_delta --output M"


def main(argv: Sequence[str], name: str = "merge") -> None:
    """Parse the command line, merge, and print the coefficients and the folder of the output."""
    args = vars(arguments(name).parse_args(argv))
    from nan_merge.standalone.merge_models import OwnModels, run
    from nan_merge.standalone.method import assignment
    from nan_merge.standalone.model_card import adapter_phrase
    from nan_merge.standalone.sources import named

    if "examples" in args:
        args["examples"] = dict(args["examples"])
    as_json, experts, settings = args.pop("json"), named(args.pop("expert")), dict(map(assignment, args.pop("set")))
    if "chat_template" in args:
        args["chat_template"] = template(args["chat_template"])
    merged = run(OwnModels(experts=experts, set=settings, **args), show=not as_json)
    text = visible(f"{merged.output}: written in {merged.seconds:.1f} s")
    if merged.adapter:
        text = visible(f"{adapter_phrase(merged.adapter)}\n{merged.output}: written in {merged.seconds:.1f} s")
    if as_json:
        text = json.dumps({**asdict(merged), "output": str(merged.output)}, indent=1, ensure_ascii=False)
    with about(f"standard output; {merged.output} is written"):
        print(text.encode("utf-8", "backslashreplace").decode(), flush=True)  # of a name that is no UTF-8


def arguments(name: str = "merge") -> argparse.ArgumentParser:
    """Return the parser; where an option has no default here, it has that of `OwnModels`."""
    usage = f"nan-merge {name} --base MODEL --expert [NAME=]MODEL ... --method ID --output FOLDER [options]"
    about = "Merge models of your own into one. A MODEL is a folder, or a hub id as owner/name[@revision]."
    parser = command_parser(name, about, EXAMPLE, usage)
    add = parser.add_argument
    add("--base", required=True, metavar="MODEL", help="what the experts were fine-tuned from; gives files and types")
    add("--expert", required=True, action="append", metavar="[NAME=]MODEL", help="fine-tuned model or LoRA adapter; repeat")
    add("--method", required=True, metavar="ID", help="see `nan-merge methods`")
    add("--set", action="append", default=[], metavar="PATH=VALUE", help="such as preprocess.trim.density=0.1; repeat")
    add("--output", type=Path, required=True, metavar="FOLDER", help="folder of the merged model")
    add("--overwrite", action="store_true", help="replace an existing merged model")
    add("--exclude", nargs="+", action="extend", metavar="REGEX", help="tensors that stay at the base")
    add("--vocabulary", choices=VOCABULARY, help="for rows that differ in number (default: truncate)")
    add("--missing", choices=MISSING, help="for a tensor that an expert lacks (default: error)")
    add("--dtype", choices=TYPES, metavar="TYPE", help=f"of all floats: {', '.join(TYPES)}")
    add("--device", help="cpu (default), cuda or cuda:N")
    add("--compute", choices=COMPUTE, help="float32 halves memory of whole-tensor methods (TSV-M, ACE, ...)")
    add("--blas-threads", type=positive, help=argparse.SUPPRESS)  # docs/performance.md; the help of all fits a screen
    add("--threads", type=positive, metavar="N", help=f"default: one for each processor, {available_processors()}")
    add("--chat-template", help=argparse.SUPPRESS)  # of import-mergekit and of model cards
    add("--seed", type=int, metavar="N", help="of random draws (default: 0)")
    add("--examples", nargs="+", type=number_by_name, metavar="NAME=N", help="training examples of each expert, for data_size")
    add("--export-mergekit", type=Path, metavar="FILE", help="write the coefficients as a mergekit config too")
    add("--output-adapter", nargs="?", const=True, type=positive, metavar="RANK", help="write a LoRA adapter, no whole model")
    add("--quiet", action="store_true", help=argparse.SUPPRESS)  # as in other programs
    add("--json", action="store_true", default=False, help=argparse.SUPPRESS)  # as in other programs
    return parser


def template(given: str) -> str:
    """Return a chat template: the text itself, which has a brace, or the content of a file; UserError for anything else."""
    from nan_merge.core.errors import UserError

    if "{" in given and not os.path.isfile(given):  # which takes a text of any length, unlike Path
        return given
    try:
        text = Path(os.path.expanduser(given)).read_bytes().decode("utf-8")
    except (OSError, ValueError) as error:
        raise UserError(
            f"--chat-template {given[:200]}: expected a template in Jinja, or a file in UTF-8 with one; found neither"
            f" ({error}); correct it"
        ) from None
    if "{" not in text:
        raise UserError(f"--chat-template {given}: the file holds no template in Jinja, which has a brace; correct it")
    return text
