"""Turn a CLIP of open_clip into one of transformers, or back: the same numbers under other names."""

from pathlib import Path

from nan_merge.core.command_line import command_line
from nan_merge.layouts import clip_conversion
from nan_merge.models.families import clip, open_clip
from scripts.arguments import options


def main() -> None:
    """Parse the command line and convert."""
    parser = options(__doc__, "output")
    parser.add_argument("model", type=Path, help="a folder: a whole CLIP, its vision half, or a file fine-tuned from it")
    parser.add_argument("--to", choices=("open_clip", "transformers"), required=True)
    parser.add_argument("--base", type=Path, help="the whole CLIP, for a model that lacks its config or projection")
    args = parser.parse_args()
    if args.to == "open_clip":
        clip_conversion.to_open_clip(args.model, args.output, args.base)
    else:
        words, merges = open_clip.tokenizer()
        left = clip_conversion.to_transformers(
            args.model, args.output, args.base, lambda folder: clip.write_tokenizer(folder, words, merges)
        )
        if left:
            print(f"left out, since no image needs it: {', '.join(left)}")


if __name__ == "__main__":
    command_line(main)
