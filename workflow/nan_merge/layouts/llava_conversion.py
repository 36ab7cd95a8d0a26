"""Convert LLaVA checkpoints between the original names and those of transformers; no number changes.

One map a layout leads from the common name of a tensor (`renames.common`) to that of the layout, whatever layout it had.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.checkpoints.companions import copy_companions
from nan_merge.checkpoints.safetensors_file import RowSlice, Tensor
from nan_merge.core.blocks import WORK_UNIT, spans
from nan_merge.core.errors import UserError
from nan_merge.core.text import read_mapping
from nan_merge.layouts import canonical, clip_configs, clip_folders, llava_configs
from nan_merge.layouts.llava_parts import BESIDE_LAYERS, CLASS, PATCHES, TABLES, check_model, check_tower
from nan_merge.layouts.names import count_phrase, is_buffer, join_first
from nan_merge.layouts.quantisation import refuse_quantised
from nan_merge.layouts.renames import Rules, common, renamed
from nan_merge.layouts.views import MeanRows
from nan_merge.layouts.vision_language import IMAGE_TOKEN, SIZES, processor_notes, sizes_of_pictures

TOWER, NEWLINE = "model.vision_tower.", "model.image_newline"  # common names
CLIP = "clip_vision_model"
KNOWN = re.compile(
    r"model\.(language_model\.(layers|embed_tokens|norm)\.|vision_tower\.|multi_modal_projector\.linear_[12]\.|image_newline$)"
    r"|lm_head\."
)
HUB: Rules = (  # as transformers before 5 and the hub have them; 5 reads them too
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^model\.vision_tower\.", "vision_tower.vision_model."),
    (r"^model\.(?=multi_modal_projector|image_newline)", ""),
)
LAYOUTS: Mapping[str, Rules] = {
    "llava": (
        (r"^model\.language_model\.", "model."),
        (r"^model\.vision_tower\.", "model.vision_tower.vision_tower.vision_model."),
        (r"^model\.multi_modal_projector\.linear_1\.", "model.mm_projector.0."),
        (r"^model\.multi_modal_projector\.linear_2\.", "model.mm_projector.2."),
    ),
    "llava-hf": HUB,
    "llava-next-hf": HUB,
}


@dataclass(frozen=True)
class Source:
    """A LLaVA, or a CLIP that gives one its tower: tensors by common name, config.json, the part of it about the tower."""

    folder: Path
    entries: Mapping[str, Tensor]
    config: Mapping[str, Any]
    vision: Mapping[str, Any]  # {} if config.json does not tell
    files: tuple[str, ...] = ()  # with weights

    @property
    def tower(self) -> dict[str, Tensor]:
        """The tensors of the tower by their names behind `vision_model.`, {} without one."""
        return {name.removeprefix(TOWER): tensor for name, tensor in self.entries.items() if name.startswith(TOWER)}


def convert(
    source: Path, output: Path, layout: str, *, tower: Path | None = None, newline: Path | None = None, base: Path | None = None
) -> list[str]:
    """Write a LLaVA of any layout in another one of LAYOUTS and return notes for the user.

    `tower` is a CLIP or a LLaVA that gives the vision tower, `newline` a LLaVA-Next that gives `image_newline`; without them
    the model keeps its own. `base` is a published folder of the layout: tokenizer, processor and chat template are those in
    it, or else those of the model. An original model gets rows for a picture and for padding behind its vocabulary: mean
    rows, to a multiple of 64. On the way back the rows from that of the picture on are dropped.
    DIFFERS: published conversions draw these rows at random; the logit of a mean row is the mean logit, never the greatest.
    Raises UserError for what is no LLaVA with a projector of two layers, and for a tower that is lacking or does not fit.
    """
    model = open_source(source)
    check_model(source, model.entries, model.config)
    donor = open_source(tower) if tower else model
    notes = [f"the tower of {source} {compare(model.tower, donor)}, which is taken"] if tower and model.tower else []
    entries = {name: tensor for name, tensor in model.entries.items() if not name.startswith(TOWER)}
    entries |= {f"{TOWER}{name}": tensor for name, tensor in donor.tower.items()}
    published = read_mapping(base / "config.json").get("vision_config", {}) if base and (base / "config.json").is_file() else {}
    vision = _vision(model, donor, layout, published)
    giver = open_source(newline) if newline else model
    _set_newline(model, giver, layout, entries, notes)
    record = _resize(model, vision, layout, entries)
    if layout == "llava-next-hf":
        record |= {SIZES: record.get(SIZES) or giver.config.get(SIZES) or sizes_of_pictures(base or source)}
    named = {renamed(LAYOUTS[layout], name): tensor for name, tensor in entries.items()}
    kept = (*model.files, "config.json")
    canonical.write(
        canonical.SourceModel(source, named, record), output, add=lambda folder: copy_companions(base or source, folder, kept)
    )
    return notes + processor_notes(output, record, "Give a published folder of this layout with --base")


def open_source(folder: Path) -> Source:
    """Open a LLaVA of any layout, or a CLIP of transformers; raise UserError for anything else."""
    record = read_mapping(folder / "config.json")
    kind = record.get("model_type")
    if kind in ("clip", "clip_vision_model"):
        clip = clip_folders.of_transformers(folder)
        names = {name: name.removeprefix(clip_folders.STEM) for name in clip.entries if name.startswith(clip_folders.STEM)}
        vision = {**clip_configs.network(_part(folder, record, "vision_config", record)), "model_type": CLIP}
        return Source(folder, {f"{TOWER}{new}": clip.entries[old] for old, new in names.items()}, record, vision)
    if not llava_configs.is_original(record):
        if kind not in ("llava", "llava_next"):
            raise UserError(f"{folder}/config.json: model_type is {kind!r}; expected a LLaVA, original or of transformers")
        _part(folder, record, "text_config", None)
    for key, values in (
        ("mm_vision_select_feature", llava_configs.FEATURES),
        ("vision_feature_select_strategy", llava_configs.STRATEGIES),
    ):
        if record.get(key, next(iter(values))) not in [*values]:
            raise UserError(f"{folder}/config.json: {key} is {record[key]!r}; expected {' or '.join(map(repr, values))}")
    checkpoint = refuse_quantised(Checkpoint(folder), str(folder), [])
    entries = {common(name): tensor for name, tensor in checkpoint.entries.items() if not is_buffer(name, tensor)}
    if unknown := [name for name in entries if not KNOWN.match(name)]:
        raise UserError(
            f"{folder}: {count_phrase(len(unknown), 'tensor')} of no LLaVA with a projector of two layers (mlp2x_gelu):"
            f" {join_first(unknown)}; expected a LLaVA from 1.5 on, or LLaVA-Next"
        )
    return Source(folder, entries, record, _part(folder, record, "vision_config", {}), tuple(checkpoint.shards))


def _part(folder: Path, record: Mapping[str, Any], key: str, otherwise: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the config of a part of a model, or `otherwise`; UserError for what is no config."""
    part = record.get(key, otherwise)
    if not isinstance(part, Mapping):
        raise UserError(f"{folder}/config.json: `{key}` is {part!r}; expected the config of a part, `{{...}}`")
    return part


def compare(tower: Mapping[str, Tensor], other: Source) -> str:
    """Say in what a tower differs from that of another model, whose numbers are rounded to the types of the tower first."""
    expected, place = other.tower, other.folder
    if {n: t.shape for n, t in tower.items()} != {n: t.shape for n, t in expected.items()}:
        return f"has other sizes than that of {place}"
    distance, moved = canonical.BaseDistance(), 0
    for name, tensor in tower.items():
        before = distance.tau_squared
        for start, stop in spans(tensor.size, WORK_UNIT):
            stored = tensor.block(start, stop)
            distance.add(name, stored, expected[name].block(start, stop).astype(stored.dtype))
        moved += distance.tau_squared > before or name in distance.not_finite
    if not moved:
        return f"equals that of {place}"
    share = math.sqrt(distance.tau_squared / (distance.base_squared or 1))
    return f"differs from that of {place} in {moved} of {count_phrase(len(tower), 'tensor')}, by {share:.2g} of its norm"


def _vision(model: Source, donor: Source, layout: str, published: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the config of the tower, {} for an original model without one; raise UserError for one that does not fit.

    What the donor does not tell is that of `published`, if its sizes are those of the tower, or else what the shapes tell.
    """
    tower = donor.tower
    if PATCHES not in tower:
        if layout == "llava" and llava_configs.is_original(model.config) and not tower:
            return {}
        named = model.config.get("mm_vision_tower", "the CLIP that it was trained with")
        raise UserError(f"{donor.folder}: has no vision tower; give {named}, or a LLaVA with a tower, with --tower")
    layers = model.config.get("vision_feature_layer", -2)
    width, expected = tower[PATCHES].shape[0], model.entries[BESIDE_LAYERS[0]].shape[1]
    if width * (len(layers) if isinstance(layers, list) else 1) != expected:
        raise UserError(
            f"{donor.folder}: its tower gives {width} numbers for a patch, the projector of {model.folder} takes {expected};"
            " expected the tower that the model was trained with. Give it with --tower"
        )
    if donor.vision.get("model_type", CLIP) != CLIP or CLASS not in tower:
        raise UserError(f"{donor.folder}: its tower is no ViT of CLIP, the only one of original LLaVAs; give one with --tower")
    check_tower(donor.folder, tower, donor.vision)
    told = donor.vision or llava_configs.vision_of(tower, {**clip_configs.VISION, **published}, donor.folder)
    vision = {**clip_configs.VISION, "model_type": CLIP, **told}
    sizes = llava_configs.sizes_of(tower)
    if odd := [f"`{key}` is {vision[key]}, and {size} in the tensors" for key, size in sizes.items() if vision[key] != size]:
        raise UserError(f"{donor.folder}/config.json: {join_first(odd)} of the tower; expected config.json of the same model")
    return vision


def _set_newline(model: Source, donor: Source, layout: str, entries: dict[str, Tensor], notes: list[str]) -> None:
    """Set or leave out `image_newline` as the layout has it."""
    if layout == "llava-hf" and entries.pop(NEWLINE, None) is not None:
        notes.append("left out `image_newline`, which llava-hf does not have; --to llava-next-hf keeps it")
    elif donor is not model and NEWLINE in donor.entries:
        entries[NEWLINE] = donor.entries[NEWLINE]
        notes.append(f"`image_newline` is that of {donor.folder}")
    if layout == "llava-next-hf" and NEWLINE not in entries:
        raise UserError(f"{donor.folder}: has no `image_newline`; give a LLaVA-Next with --newline, or choose --to llava-hf")


def _resize(model: Source, vision: Mapping[str, Any], layout: str, entries: dict[str, Tensor]) -> dict[str, Any]:
    """Give the tables of tokens the rows of the layout and return the config.json that goes with them."""
    original, rows = llava_configs.is_original(model.config), entries[TABLES[0]].shape[0]
    if original and layout == "llava":
        return dict(model.config)
    if not original and layout != "llava":
        return {**model.config, **llava_configs.KINDS[layout], "vision_config": dict(vision)}
    if original:
        new, record = llava_configs.padded(rows), llava_configs.to_transformers(model.config, vision, layout, rows)
    else:
        key = next((key for key in IMAGE_TOKEN if key in model.config), "")
        new = model.config.get(key, rows)
        if not isinstance(new, int) or not 0 <= rows - new <= llava_configs.PADDED + 1:
            raise UserError(
                f"{model.folder}/config.json: `{key}` is {new} of {rows} tokens; expected it behind the vocabulary of"
                " the language model, as in conversions of original LLaVAs: tokens behind it would be lost"
            )
        record = llava_configs.to_original(model.folder / "config.json", model.config, vision, new)
    for name in (name for name in TABLES if name in entries):
        table = entries[name]
        shape, whole = (new, *table.shape[1:]), RowSlice(table.dtype, table.shape, table)
        entries[name] = MeanRows(table.dtype, shape, whole) if original else RowSlice(table.dtype, shape, table)
    return record
