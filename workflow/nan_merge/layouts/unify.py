"""Unify the layout of a base and its experts lazily: afterwards every expert has the base's names and shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.checkpoints.companions import companion_notes
from nan_merge.core.blocks import WORK_UNIT, spans
from nan_merge.core.errors import UserError
from nan_merge.layouts.adapters import fold_adapter, is_adapter
from nan_merge.layouts.mismatch import check_match, fill_missing
from nan_merge.layouts.modules import module_note
from nan_merge.layouts.names import LANGUAGE_MODELS, architectures, config, count_phrase, is_buffer, join_first
from nan_merge.layouts.network import check_network
from nan_merge.layouts.quantisation import refuse_gguf, refuse_quantised, without_labels
from nan_merge.layouts.renames import match_names
from nan_merge.layouts.ties import tie
from nan_merge.layouts.views import equal, view
from nan_merge.layouts.vision_language import processor_notes
from nan_merge.layouts.vocabulary import unify_rows

WITHOUT_PICTURES = "The base is merged all the same; add the files that were published with it"
Chunk = tuple[str, int, int]  # tensor, start, stop


@dataclass(frozen=True)
class Models:
    """A base and its experts, sorted by name, in one layout.

    `merged` are the names of merged tensors in the base's order; every expert has them with the base's shapes. All other
    tensors of the base are copied. `config` are changed keys of config.json (None: removed). `notes` describe the changes
    for the user.
    """

    base: Checkpoint
    experts: dict[str, Checkpoint]
    merged: tuple[str, ...]
    config: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def all(self) -> list[Checkpoint]:
        """The base and the experts."""
        return [self.base, *self.experts.values()]

    def chunks(self, names: Iterable[str]) -> list[Chunk]:
        """Return (tensor, start, stop) of the named tensors of the base, cut into work units of one thread."""
        return [(name, *span) for name in names for span in spans(self.base.entries[name].size, WORK_UNIT)]

    def units(self, names: Iterable[str], whole: bool) -> list[list[Chunk]]:
        """Return the units of work on the named tensors: single chunks, or all chunks of a `whole` tensor."""
        return [self.chunks([name]) for name in names] if whole else [[chunk] for chunk in self.chunks(names)]

    def memory(self, name: str) -> int:
        """Return the approximate memory of a whole tensor of all models in float64, in bytes."""
        return 8 * len(self.all) * self.base.entries[name].size


def unify_layout(
    base: Path | str | Checkpoint, experts: Mapping[str, Path | Checkpoint], exclude: Sequence[str] = (), *,
    vocabulary: str = "truncate", missing: str = "error",
) -> Models:  # fmt: skip
    """Open a base and its experts by name, whole models or LoRA adapters, in the layout of the base; open ones are taken.

    Tensors that match one of the regular expressions `exclude` keep the values of the base. `vocabulary` is the policy for
    vocabularies of different sizes: `truncate` or `pad_mean`. `missing` is the policy for tensors that an expert lacks:
    `error`, or `base` for the values of the base. Raises UserError for a model that does not fit the layout of the base.
    """
    if not experts:
        raise UserError("there are no experts to merge; expected at least one fine-tuned model of the base")
    notes: list[str] = []
    origin = _base(base, notes)
    in_memory = origin.config is not None or not origin.folder.is_dir()
    companions = [] if in_memory else companion_notes(origin.folder, origin.shards)
    companions += [] if in_memory else processor_notes(origin.folder, config(origin), WITHOUT_PICTURES)
    patterns = _patterns(origin, exclude)
    models = {name: _expert(name, experts[name], origin, patterns, notes) for name in sorted(experts)}
    notes += [note for name, model in models.items() for note in module_note(name, model.folder, origin.folder)]
    changes = without_labels(config(origin))
    origin, models, untied = tie(_changed(origin, changes), models, notes)
    origin = _changed(origin, untied)
    _refuse_half(origin, models)
    names = _mergeable(origin, patterns)
    origin, models, resized = unify_rows(origin, models, names, vocabulary, notes)
    models = {name: fill_missing(name, model, origin, names, missing, notes) for name, model in models.items()}
    check_match(origin, models, names, patterns)
    return Models(origin, models, tuple(names), {**changes, **untied, **resized}, (*notes, *companions))


def _changed(model: Checkpoint, changes: Mapping[str, Any]) -> Checkpoint:
    """Return a model whose config.json has the changes."""
    other = view(model, model.entries)
    other.config = {**config(model), **changes} if changes else model.config
    return other


def check_distinct(models: Models) -> None:
    """Raise a UserError for an expert whose merged tensors all equal the base's; reading stops at the first difference."""
    for name, expert in models.experts.items():
        if all(equal(expert.entries[tensor], models.base.entries[tensor]) for tensor in models.merged):
            raise UserError(
                f"expert '{name}' ({expert.folder}) equals the base {models.base.folder} in all {len(models.merged)} merged"
                " tensors, so it has nothing to merge; expected a fine-tuned model. Give the fine-tuned one, or leave it out"
            )


def _base(given: Path | str | Checkpoint, notes: list[str]) -> Checkpoint:
    """Open the base; raise UserError for an adapter or a quantised model."""
    if not isinstance(given, Checkpoint) and is_adapter(Path(given)):
        raise UserError(f"{given}: is a LoRA adapter; the base must be a whole model, the one that it was trained on")
    return _whole(given, "base", notes)


def _expert(
    name: str, given: Path | Checkpoint, base: Checkpoint, exclude: Sequence[re.Pattern[str]], notes: list[str]
) -> Checkpoint:
    """Open an expert, a whole model or an adapter, under the names of the base."""
    if not isinstance(given, Checkpoint) and is_adapter(Path(given)):
        model, done = fold_adapter(Path(given), base)
        notes.append(f"expert '{name}': {done}")
        return model
    model = _whole(given, f"expert '{name}'", notes)
    _same_architecture(name, model, base)
    check_network(name, model, base, notes, exclude)
    buffers = {n for each in (model, base) for n, tensor in each.entries.items() if is_buffer(n, tensor)}
    done, new = match_names(model.names, base.names, config(base), buffers.__contains__)
    if done:
        notes.append(f"expert '{name}': {done}")
    return view(model, {new.get(old, old): tensor for old, tensor in model.entries.items()})


def _whole(given: Path | str | Checkpoint, who: str, notes: list[str]) -> Checkpoint:
    """Open a whole model; note what its index names in vain, and raise UserError for a quantised one."""
    if not isinstance(given, Checkpoint):
        refuse_gguf(Path(given), who)
        given = Checkpoint(given)
    if given.lacking:
        count = count_phrase(len(given.lacking), "tensor")
        notes.append(f"{who}: its index names {count} that no weight file of it has: {join_first(given.lacking)}")
    return refuse_quantised(given, who, notes)


def _refuse_half(base: Checkpoint, experts: Mapping[str, Checkpoint]) -> None:
    """Raise UserError for a base without tensors that its index names and an expert has."""
    lost = [name for name in base.lacking if any(name in model.entries for model in experts.values())]
    if lost:
        raise UserError(
            f"{base.folder}: its index names {count_phrase(len(lost), 'tensor')} that no weight file of it has, but the experts"
            f" do: {join_first(lost)}. The base is incomplete; take the files that were published with its index"
        )


def _same_architecture(name: str, model: Checkpoint, base: Checkpoint) -> None:
    """Raise UserError if both config.json name model types, nested ones included, and share none."""
    kinds, expected = (architectures(config(each)) for each in (model, base))
    if kinds and expected and not kinds & _with_language(expected) and not _with_language(kinds) & expected:
        raise UserError(
            f"expert '{name}' ({model.folder}) is a model of type {' / '.join(sorted(kinds))}, the base {base.folder} of type"
            f" {' / '.join(sorted(expected))}; expected experts fine-tuned from this base. If they are the same network under"
            " two names, correct `model_type` in one config.json"
        )


def _with_language(kinds: set[str]) -> set[str]:
    """Return model types and those of language models inside them, of which alone an expert may consist."""
    return kinds | {LANGUAGE_MODELS[kind] for kind in kinds & LANGUAGE_MODELS.keys()}


def _patterns(base: Checkpoint, exclude: Sequence[str]) -> list[re.Pattern[str]]:
    """Compile the patterns of `exclude`; raise UserError for one that is invalid or matches no tensor of the base."""
    patterns = []
    for text in exclude:
        try:
            patterns.append(re.compile(text))
        except re.error as error:
            raise UserError(f"exclude: {text!r} is no regular expression ({error}); correct it") from None
        if not any(map(patterns[-1].search, base.names)):
            found = f"the {count_phrase(len(base.names), 'tensor')} of the base {base.folder}: {join_first(base.names)}"
            raise UserError(f"exclude: {text!r} matches none of {found}. Correct the pattern, or remove it")
    return patterns


def _mergeable(base: Checkpoint, patterns: Sequence[re.Pattern[str]]) -> list[str]:
    """Return the merged names in the base's order: floating-point tensors that are neither buffers nor excluded."""
    floats = [name for name, tensor in base.entries.items() if tensor.is_float and not is_buffer(name, tensor)]
    names = [name for name in floats if not any(pattern.search(name) for pattern in patterns)]
    if not names:
        shown = [pattern.pattern for pattern in patterns]
        raise UserError(f"{base.folder}: no tensor is left to merge; correct `exclude` ({shown}), which matches all of them")
    return names
