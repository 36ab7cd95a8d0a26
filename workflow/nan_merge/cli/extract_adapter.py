"""`nan-merge extract-adapter`: a LoRA adapter from a full fine-tune."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from nan_merge.cli.parser import command_parser, positive
from nan_merge.core.errors import tell
from nan_merge.core.escape import visible

ABOUT = "Write the difference of a fine-tuned model from its base as a LoRA adapter of PEFT, and state what the rank leaves out."


def main(argv: Sequence[str]) -> None:
    """Parse the command line, extract, and print what the adapter holds."""
    usage = "nan-merge extract-adapter BASE MODEL (--rank R | --energy E) --output FOLDER [options]"
    parser = command_parser("extract-adapter", ABOUT, "nan-merge extract-adapter BASE MODEL --rank 16 --output ADAPTER", usage)
    add = parser.add_argument
    add("base", metavar="BASE", help="what MODEL was fine-tuned from: a folder, or a hub id as owner/name[@revision]")
    add("model", metavar="MODEL", help="the fine-tuned model")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--rank", type=positive, metavar="R", help="of every matrix")
    size.add_argument("--energy", type=float, metavar="E", help="share of the squared norm of every matrix that is kept")
    add("--output", type=Path, required=True, metavar="FOLDER", help="folder of the adapter")
    add("--threads", type=positive, metavar="N", help="default: one for each processor")
    add("--json", action="store_true", default=False, help="print the result as JSON")
    args = vars(parser.parse_args(argv))
    from nan_merge.standalone.extract_adapter import run
    from nan_merge.standalone.model_card import adapter_phrase

    as_json = args.pop("json")
    made = run(**args)
    for note in made.notes:
        tell(f"note: {note}")
    if as_json:
        print(json.dumps({**asdict(made), "output": str(made.output)}, indent=1, ensure_ascii=False))
    else:
        print(visible(f"{adapter_phrase(made.adapter)}\n{made.output}: written"))
