"""`nan-merge convert`: the same CLIP under the names of another library."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from nan_merge.cli.parser import command_parser
from nan_merge.core.errors import UserError, advice_for_options, tell

ABOUT = "Turn a CLIP of open_clip into one of transformers, or back: the same numbers under other names."


@advice_for_options()
def main(argv: Sequence[str]) -> None:
    """Parse the command line and convert."""
    parser = command_parser("convert", ABOUT, "nan-merge convert MODEL --to transformers --output FOLDER")
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder of a CLIP or its vision half, or a fine-tuned file")
    parser.add_argument("--to", choices=("open_clip", "transformers"), required=True)
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder of the converted model")
    parser.add_argument("--base", type=Path, metavar="MODEL", default=None, help="the whole CLIP, for what MODEL lacks")
    args = parser.parse_args(argv)
    from nan_merge.core.atomic import recover
    from nan_merge.layouts import clip_conversion

    if os.path.lexists(args.output):
        raise UserError(f"{args.output}: exists already; choose another --output")
    for model in filter(None, (args.model, args.base)):
        recover(model)
        if not model.exists():
            raise UserError(f"{model}: no such folder or file; correct the path")
        if model.resolve() in args.output.resolve().parents:
            raise UserError(f"{args.output}: lies inside {model}, which is read; choose another --output")
    if args.to == "open_clip":
        clip_conversion.to_open_clip(args.model, args.output, args.base)
    else:
        left = clip_conversion.to_transformers(args.model, args.output, args.base, _write_tokenizer)
        if left:
            tell(f"note: left out, since no image needs it: {', '.join(left)}")
    print(f"{args.output}: written")


def _write_tokenizer(folder: Path) -> None:
    """Write the tokenizer of CLIP, which open_clip brings along."""
    from nan_merge.models.families import clip, open_clip

    clip.write_tokenizer(folder, *open_clip.tokenizer())
