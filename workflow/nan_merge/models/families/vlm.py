"""Vision-language models: LLaVAs in their original names, which are merged as they are and converted before they are scored.

Weights are linked, as those of causal language models are. Benchmarks run the converted folders (`models.harness`).
"""

from __future__ import annotations

from pathlib import Path

from nan_merge.layouts.canonical import MAX_RELATIVE_DISTANCE
from nan_merge.models.families.causal_lm import check_tokenizer, link

__all__ = ["assemble", "prepare"]

HARNESS = True  # runs these models
TOKENIZER = "tokenizer.model"
LAYOUTS = {"llava": "llava-hf", "llava_next": "llava-next-hf"}  # pipeline -> layout of transformers


def prepare(source: Path, output: Path, base: Path | None = None, max_relative_distance: float = MAX_RELATIVE_DISTANCE) -> None:
    """Link the weights of an asset folder and copy its companions; `max_relative_distance` is not used, as weights are not read.

    A model may come without a tokenizer, since all are scored with that of the processor. Raises UserError for a GGUF file or
    packed weights, and for a tokenizer with other numbers than the base's.
    """
    mine, others = (folder / TOKENIZER if folder else Path() for folder in (source, base))
    if base is not None and mine.is_file() and not (others.is_file() and mine.read_bytes() == others.read_bytes()):
        check_tokenizer(source, base)
    link(source, output)


def assemble(
    model: Path, output: Path, pipeline: str, *, clip: Path, processor: Path, donor: Path | None, tower: str, keeps: bool
) -> list[str]:
    """Write a LLaVA in original names as a folder that transformers loads, and return notes on its parts.

    Its vision tower is that of `clip`, or of `donor` if `tower` is `donor`; a model that `keeps` its own tower has the one in its
    files, or else that of `clip`. In pipeline `llava_next`, `image_newline` is its own or that of `donor`.
    """
    from nan_merge.layouts import llava_conversion

    source = llava_conversion.open_source(model)
    own = keeps and bool(source.tower)
    notes = [f"it keeps its own tower, which {llava_conversion.compare(source.tower, llava_conversion.open_source(clip))}"] * own
    taken = None if own else donor if tower == "donor" and not keeps else clip
    lacks = pipeline == "llava_next" and llava_conversion.NEWLINE not in source.entries
    made = llava_conversion.convert(
        model, output, LAYOUTS[pipeline], tower=taken, newline=donor if lacks else None, base=processor
    )
    return notes + made + [f"its tower is that of {taken}"] * (taken is not None)
