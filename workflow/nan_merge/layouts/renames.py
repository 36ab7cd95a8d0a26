"""Match the names of a model or an adapter with those of the base: prefixes, wrappers, layouts of several library versions."""

from __future__ import annotations

import functools
import importlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from nan_merge.layouts.names import count_phrase

Rules = tuple[tuple[str, str], ...]  # (regular expression, replacement), applied one after the other
Rename = Callable[[str], str]

WRAPPERS: Rules = ((r"(^|(?<=\.))((_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+", ""),)
GENERAL: Rules = (
    *WRAPPERS,
    (r"\.gamma$", ".weight"),  # normalisation layers of TensorFlow
    (r"\.beta$", ".bias"),
    (r"\.weight_g$", ".parametrizations.weight.original0"),  # weight and spectral normalisation before torch 2
    (r"\.weight_v$", ".parametrizations.weight.original1"),
    (r"\.weight_orig$", ".parametrizations.weight.original"),
)
PARTS = (
    "visual|vision_tower|vision_model|image_tower|video_tower|audio_tower|multi_modal_projector|image_newline"
    "|vision_embed_tokens|embed_vision|mlp1"
)
VISION_LANGUAGE: Rules = (  # LLaVA, Qwen-VL and relatives: original names, the hub's before and after transformers 4.52
    (r"^thinker\.", ""),
    (r"^model\.vision_tower\.vision_tower\.", "model.vision_tower."),
    (r"^model\.mm_projector\.0\.", "model.multi_modal_projector.linear_1."),
    (r"^model\.mm_projector\.2\.", "model.multi_modal_projector.linear_2."),
    (rf"^({PARTS})(?=\.|$)", r"model.\1"),
    (r"^(model\.)?language_model\.lm_head\.", "lm_head."),
    (r"^(model\.)?language_model\.(model\.)*", "model.language_model."),
    (r"^model\.(?=(layers|embed_tokens|norm)\.)", "model.language_model."),
    (r"^model\.vision_tower\.vision_model\.", "model.vision_tower."),
)
LAYOUTS: tuple[Rules, ...] = (GENERAL, GENERAL + VISION_LANGUAGE)  # each gives all spellings of a tensor one name


def match_names(
    names: Collection[str],
    wanted: Collection[str],
    record: Mapping[str, Any] | None = None,
    optional: Callable[[str], bool] = lambda name: False,
) -> tuple[str, dict[str, str]]:
    """Map `names` to names in `wanted`: (note for the user, {old: new}).

    One prefix is tried first, then each of the LAYOUTS together with a prefix. If names that are not `optional` are still
    left over on both sides, the renamings of transformers for a model with the config.json `record` are tried too.
    """
    best, here, there = match_prefix(names, wanted), set(names), set(wanted)
    for rename in _renames(record):
        reached = {best[1].get(name, name) for name in here}
        if all(map(optional, reached - there)) or all(map(optional, there - reached)):
            break
        found = _match_renamed(names, wanted, rename)
        if len({found[1].get(name, name) for name in here} & there) > len(reached & there):
            best = found
    return best


def _renames(record: Mapping[str, Any] | None) -> Iterator[Rename]:
    """Yield the functions that give all spellings of a tensor one name, the cheapest first."""
    for rules in LAYOUTS:
        yield functools.partial(renamed, rules)
    library = _of_transformers(json.dumps(_kinds(record), sort_keys=True)) if record and record.get("architectures") else None
    if library is not None:
        yield lambda name: library(renamed(GENERAL, name))


def in_memory(record: Mapping[str, Any]) -> Rename:
    """Return the function that gives a stored name its name in the memory of transformers; it changes nothing without that."""
    return (_of_transformers(json.dumps(_kinds(record), sort_keys=True)) if record.get("architectures") else None) or str


def common(name: str) -> str:
    """Return the one name of all spellings of a tensor of a vision-language model: that in the memory of transformers 5."""
    return renamed(LAYOUTS[-1], name)


def unwrapped(name: str) -> str:
    """Return a name without the wrappers of torch."""
    return renamed(WRAPPERS, name)


def renamed(rules: Rules, name: str) -> str:
    """Return a name after all rules."""
    for pattern, new in rules:
        name = re.sub(pattern, new, name)
    return name


def _match_renamed(names: Iterable[str], wanted: Iterable[str], rename: Rename) -> tuple[str, dict[str, str]]:
    """Match renamed names, with a prefix: as `match_names`."""
    here, there = _by_renamed(names, rename), _by_renamed(wanted, rename)
    note, prefixed = match_prefix(here, there)
    pairs = {old: there[prefixed.get(name, name)] for name, old in here.items() if prefixed.get(name, name) in there}
    new = {old: other for old, other in pairs.items() if old != other}
    if not new:
        return "", {}
    old, other = next(((o, n) for o, n in new.items() if not o.endswith(n) and not n.endswith(o)), next(iter(new.items())))
    done = f"{count_phrase(len(new), 'name')} of another layout matched those of the base, such as '{old}' for '{other}'"
    return (f"{done}; {note}" if note else done), new


def _by_renamed(names: Iterable[str], rename: Rename) -> dict[str, str]:
    """Return {new name: name}; names that would become equal keep theirs."""
    new = {name: rename(name) for name in names}
    counts = Counter(new.values())
    return {other if counts[other] == 1 else name: name for name, other in new.items()}


def _kinds(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what says of which kinds a model and its parts are, without the sizes, names and options of a config.json."""
    kinds = {key: record[key] for key in ("architectures", "model_type") if key in record}
    return kinds | {key: _kinds(part) for key, part in record.items() if key.endswith("_config") and isinstance(part, Mapping)}


@functools.cache
def _of_transformers(record: str) -> Rename | None:
    """Return the function that gives a stored name its name in memory, from transformers; None if the library has none.

    `record` is the text of the `_kinds` of a config.json: a model of these kinds and of the library's own sizes is built,
    without memory for its weights, since sizes and names that others wrote could take long or fetch and run something. The
    library is imported here, on request, because it takes seconds.
    """
    try:
        torch, transformers, mapping = (
            importlib.import_module(name) for name in ("torch", "transformers", "transformers.conversion_mapping")
        )
        content = json.loads(record)
        kind = getattr(transformers, content["architectures"][0])
        if not issubclass(kind, transformers.PreTrainedModel) or "timm" in record:  # timm fetches a network that it is told
            return None
        with torch.device("meta"):
            model = kind(kind.config_class.from_dict(content))
        changes = [each for each in mapping.get_model_conversion_mapping(model) if isinstance(each, mapping.WeightRenaming)]
    except Exception:  # not installed, another version, an unknown model: names that do not match are reported all the same
        return None
    return lambda name: functools.reduce(lambda done, change: change.rename_source_key(done)[0], changes, name)


def match_prefix(names: Collection[str], wanted: Collection[str]) -> tuple[str, dict[str, str]]:
    """Find the prefix that maps `names` to `wanted` when added or stripped: (note for the user, {old: new}).

    Names that are already in `wanted` stay. The result is ("", {}) if no prefix maps more than half of the names, or if
    two prefixes map equally many.
    """
    lacking, unmatched = set(wanted) - set(names), [name for name in names if name not in wanted]
    endings = defaultdict(list)
    for name in lacking:
        for prefix in _prefixes(name):
            endings[name.removeprefix(prefix)].append(prefix)
    votes: Counter[tuple[str, str]] = Counter()
    for name in unmatched:
        votes.update(("added to", prefix) for prefix in endings[name])
        votes.update(("stripped from", prefix) for prefix in _prefixes(name) if name.removeprefix(prefix) in lacking)
    most = max(votes.values(), default=0)
    leading = [change for change, count in votes.items() if count == most]
    if 2 * most <= min(len(names), len(wanted)) or len(leading) > 1:
        return "", {}
    done, prefix = leading[0]
    new = {name: prefix + name if done == "added to" else name.removeprefix(prefix) for name in unmatched}
    new = {name: other for name, other in new.items() if other in lacking}
    return f"the prefix '{prefix}' was {done} {count_phrase(len(new), 'name')}", new


def _prefixes(name: str) -> list[str]:
    return [name[: i + 1] for i, letter in enumerate(name) if letter == "."]
