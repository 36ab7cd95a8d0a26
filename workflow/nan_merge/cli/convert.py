"""`nan-merge convert`: the same CLIP or LLaVA under the names of another library."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from nan_merge.cli.parser import command_parser
from nan_merge.core.errors import UserError, advice_for_options, tell

ABOUT = "Turn a CLIP of open_clip into one of transformers, or a LLaVA in its original names into one of transformers, or back."
CLIP, LLAVA = ("open_clip", "transformers"), ("llava", "llava-hf", "llava-next-hf")
GIVES = ("tower", "newline")  # options for LLaVAs alone


@advice_for_options()
def main(argv: Sequence[str]) -> None:
    """Parse the command line and convert."""
    parser = command_parser("convert", ABOUT, "nan-merge convert MODEL --to llava-hf --tower CLIP --output FOLDER")
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="folder of a CLIP, its vision half or a LLaVA, or a fine-tuned file of a CLIP")
    add("--to", choices=(*CLIP, *LLAVA), required=True, help="layout; of LLaVAs `llava` has the original names")
    add("--output", type=Path, required=True, metavar="FOLDER", help="folder of the converted model")
    add(
        "--base",
        type=Path,
        metavar="MODEL",
        default=None,
        help="whole CLIP, or LLaVA with tokenizer and processor, for what MODEL lacks",
    )
    add("--tower", type=Path, metavar="MODEL", default=None, help="CLIP or LLaVA that gives a LLaVA its vision tower")
    add("--newline", type=Path, metavar="MODEL", default=None, help="LLaVA-Next that gives `image_newline`")
    args = parser.parse_args(argv)
    from nan_merge.core.atomic import recover
    from nan_merge.layouts import clip_conversion, llava_conversion

    if os.path.lexists(args.output):
        raise UserError(f"{args.output}: exists already; choose another --output")
    given = {name: getattr(args, name) for name in GIVES}
    if args.to in CLIP and (extra := [f"--{name}" for name in GIVES if given[name]]):
        raise UserError(f"{', '.join(extra)}: only for LLaVAs, not for --to {args.to}; leave it out")
    for model in filter(None, (args.model, args.base, *given.values())):
        recover(model)
        if not model.exists():
            raise UserError(f"{model}: no such folder or file; correct the path")
        if model.resolve() in args.output.resolve().parents:
            raise UserError(f"{args.output}: lies inside {model}, which is read; choose another --output")
    if args.to in LLAVA:
        notes = llava_conversion.convert(args.model, args.output, args.to, base=args.base, **given)
    elif args.to == "open_clip":
        notes = []
        clip_conversion.to_open_clip(args.model, args.output, args.base)
    else:
        left = clip_conversion.to_transformers(args.model, args.output, args.base, _write_tokenizer)
        notes = [f"left out, since no image needs it: {', '.join(left)}"] if left else []
    if notes:
        tell("\n".join(f"note: {note}" for note in notes))
    print(f"{args.output}: written")


def _write_tokenizer(folder: Path) -> None:
    """Write the tokenizer of CLIP, which open_clip brings along."""
    from nan_merge.models.families import clip, open_clip

    clip.write_tokenizer(folder, *open_clip.tokenizer())
