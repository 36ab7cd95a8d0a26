"""Read and make adapter_config.json of the PEFT library: which adapters can be folded, and the rank and alpha of each module."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json
from nan_merge.core.patterns import end_matches

CONFIG = "adapter_config.json"
PATTERNS = {"r": "rank_pattern", "lora_alpha": "alpha_pattern"}  # keys of other values for some modules
LARGEST = 1e30  # of a rank or an alpha
PLAIN_INITIALISATIONS = (None, True, False, "gaussian", "orthogonal", "eva", "mica")  # other initialisations also change the base
REFUSED = {  # keys of adapter_config.json for which the folded weight is not W + s B A
    "use_qalora": "QALoRA pools the inputs",
    "use_bdlora": "block-diagonal factors are no matrices",
    "kasa_config": "KaSA has a diagonal between the factors",
    "arrow_config": "Arrow chooses among adapters for every token",
    "monteclora_config": "MonteCLoRA samples its factors",
    "alora_invocation_tokens": "activated LoRA is active only after certain tokens",
    "layer_replication": "the base lacks the replicated layers",
    "target_parameters": "adapters of bare parameters are not folded",
}


def configuration(folder: Path) -> dict[str, Any]:
    """Read adapter_config.json; raise UserError for anything that is not W + s B A, with or without the norms of DoRA."""
    file = folder / CONFIG
    record = read_json(file)
    kind = record.get("peft_type") if isinstance(record, dict) else None
    if kind != "LORA":
        raise UserError(f"{file}: `peft_type` is {kind}; expected LORA. Fold it into its base with PEFT (merge_and_unload) first")
    for key, reason in REFUSED.items():
        if record.get(key):
            raise UserError(f"{file}: `{key}` is set: {reason}. Fold it into its base with PEFT (merge_and_unload) first")
    start = record.get("init_lora_weights")
    if start not in PLAIN_INITIALISATIONS:
        raise UserError(
            f"{file}: `init_lora_weights` is {start}, which changes the base's weights too; save the adapter with PEFT's"
            " `path_initial_model_for_weight_conversion`, or fold it into its base first"
        )
    saved = record.get("modules_to_save") or []
    if not isinstance(saved, list) or not all(isinstance(module, str) for module in saved):
        raise UserError(f"{file}: `modules_to_save` is {saved!r}; expected a list of names")
    return record


def lora_config(ranks: Mapping[str, int], **others: Any) -> dict[str, Any]:
    """Return an adapter_config.json for modules of these ranks; alpha is the rank, so that the factors count as they are."""
    rank = Counter(ranks.values()).most_common(1)[0][0]
    patterns = {f"^{re.escape(module)}": other for module, other in ranks.items() if other != rank}
    return {
        "peft_type": "LORA", "r": rank, "lora_alpha": rank, "rank_pattern": patterns, "alpha_pattern": patterns,
        "target_modules": sorted(ranks), "lora_dropout": 0.0, "inference_mode": True, **others,
    }  # fmt: skip


def values(file: Path, record: Mapping[str, Any], key: str, modules: Sequence[str]) -> dict[str, float]:
    """Return the rank or alpha of each module: that of the first pattern that matches its end, as in PEFT, or of `key`.

    Raises UserError for a value that is no number above 0, and for a regular expression that is none or takes too long.
    """
    kind = PATTERNS[key]
    patterns = record.get(kind) or {}
    if not isinstance(patterns, dict):
        raise UserError(f"{file}: `{kind}` is {patterns!r}; expected a number for each pattern")
    default = 8 if record.get(key) is None else record[key]
    for name, number in {key: default, **{f"{kind}: {pattern}": number for pattern, number in patterns.items()}}.items():
        if not isinstance(number, int | float) or not 0 < number < LARGEST:
            raise UserError(f"{file}: `{name}` is {number!r}; expected a number above 0")
    matched = end_matches([*patterns], modules, f"{file}: `{kind}`")
    return {module: next((n for pattern, n in patterns.items() if module in matched[pattern]), default) for module in modules}


def is_saved(name: str, record: Mapping[str, Any]) -> bool:
    """Return whether a whole tensor belongs to a module of `modules_to_save`, such as a new head."""
    modules = [name[:i] for i, letter in enumerate(name) if letter == "."]
    return any(f".{module}".endswith(f".{saved}") for module in modules for saved in record.get("modules_to_save") or ())


def new_rows(file: Path, record: Mapping[str, Any], module: str, stored: int, rows: int) -> tuple[int, ...]:
    """Return the rows of a table that `trainable_token_indices` replaces by the `stored` ones, in their order.

    Raises UserError for anything but as many different rows of the table of `rows` rows.
    """
    given = record.get("trainable_token_indices")
    if isinstance(given, Mapping):
        given = next((places for name, places in given.items() if f".{module}".endswith(f".{name}")), None)
    numbers = given if isinstance(given, list) and all(type(number) is int for number in given) else []
    if len({*numbers}) != stored or not all(0 <= number < rows for number in numbers):
        raise UserError(
            f"{file}: `trainable_token_indices` is {str(given)[:200]} for '{module}'; expected {stored} different rows from 0 to"
            f" {rows - 1}, since its weights hold as many. Take the config that was saved with them"
        )
    return tuple(numbers)
