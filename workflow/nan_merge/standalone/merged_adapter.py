"""Write a merge of adapters as an adapter folder of PEFT, which `PeftModel.from_pretrained` loads onto the base."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nan_merge.checkpoints.checkpoint import write_tensors
from nan_merge.checkpoints.safetensors_file import DTYPES
from nan_merge.checkpoints.writer import digest
from nan_merge.core.atomic import atomic_write
from nan_merge.core.errors import UserError
from nan_merge.core.files import write_json
from nan_merge.core.progress import Progress, no_progress
from nan_merge.engine.devices import CPU, Device
from nan_merge.engine.low_rank import LowRankMerge, Plan, merge_low_rank, plan, sample
from nan_merge.engine.request import MergeRequest
from nan_merge.layouts.adapter_configs import CONFIG, is_saved, lora_config
from nan_merge.layouts.adapters import PREFIX, WEIGHTS
from nan_merge.layouts.names import HEAD, count_phrase, join_first
from nan_merge.layouts.unify import Models
from nan_merge.methods.recipe import Recipe

ALIKE = ("task_type", "ensure_weight_tying")  # keys of adapter_config.json that experts must agree in


@dataclass(frozen=True)
class MergedAdapter:
    """An adapter that a merge goes to: of rank `rank`, or of the sum of the experts' ranks; `place` is what names the base.

    Raises UserError, when it is made, for experts that are no adapters or have what an adapter of a merge cannot hold, and for
    what `plan` refuses.
    """

    models: Models
    recipe: Recipe
    rank: int | None
    place: Mapping[str, str | None]  # keys of adapter_config.json

    def __post_init__(self) -> None:
        """Check what headers and configs tell."""
        for name, expert in self.models.experts.items():
            if expert.adapter is None:
                raise UserError(
                    f"--output-adapter: expert '{name}' ({expert.folder}) is a whole model; expected LoRA adapters only. Leave"
                    " the option out, or make an adapter of it first: nan-merge extract-adapter"
                )
            if expert.adapter.record.get("trainable_token_indices"):
                raise UserError(
                    f"--output-adapter: expert '{name}' ({expert.folder}) trains single rows of an embedding"
                    " (`trainable_token_indices`), which the adapter of a merge cannot hold; leave the option out"
                )
        _ = self.plan, self.alike

    @property
    def plan(self) -> Plan:
        """What the adapter holds."""
        return plan(self.models, self.recipe, self.rank)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the experts store whole in `modules_to_save` and the adapter does not hold."""
        if not self._left:
            return ()
        absent = [own for name, own in self._left.items() if name not in self.models.base.entries]
        reason = "the base lacks" if absent else "`exclude` leaves at the base"
        return (
            f"--output-adapter: left out {count_phrase(len(self._left), 'tensor')} of the experts' `modules_to_save` that"
            f" {reason}: {join_first(absent or [*self._left.values()])}. PEFT takes what the model has there",
        )

    @cached_property
    def _left(self) -> dict[str, str]:
        """The tensors of the experts' `modules_to_save` that are not merged: adapters' names by the base's."""
        adapters, merged = [expert.adapter for expert in self.models.experts.values()], {*self.models.merged}
        saved = {name: own for each in adapters for name, own in each.names.items() if is_saved(own, each.record)}
        return {name: own for name, own in sorted(saved.items()) if name not in merged}

    @property
    def alike(self) -> dict[str, Any]:
        """The keys of adapter_config.json that the experts have in common; UserError where they must agree and do not."""
        records = self._records
        tied = {bool(record.get("ensure_weight_tying")) for record in records}
        if len(tied) > 1:
            raise UserError(
                f"--output-adapter: some experts have `ensure_weight_tying` in their {CONFIG}, others do not; expected all or"
                " none. Leave the option out"
            )
        first, *others = records
        alike = {key: first[key] for key in ALIKE if all(record.get(key) == first.get(key) for record in others) and key in first}
        return {key: value for key, value in alike.items() if value is not None}

    def write(
        self,
        request: MergeRequest,
        output: Path,
        *,
        threads: int = 1,
        device: Device = CPU,
        progress: Progress = no_progress,
        finish: Callable[..., object] = lambda *about: None,
    ) -> None:
        """Write the merge into the folder `output`, whole or not at all; the arguments are those of `engine.merge.merge`.

        `finish` gets a fourth argument, the entries of provenance.json on the adapter: number of modules, ranks and error.
        """
        chosen = self.plan
        merged, digests = merge_low_rank(request, chosen, threads=threads, device=device, progress=progress)
        ranks = [factors.b.shape[1] for factors in merged.factors.values()]
        about = {"modules": len(ranks), "ranks": [min(ranks), max(ranks)], "whole": len(merged.whole), "error": merged.error()}
        with atomic_write(output) as part:
            part.mkdir()
            config, tensors = self._contents(merged)
            write_json(part / CONFIG, config)
            write_tensors(part / WEIGHTS[0], tensors)
            finish(part, digests, {WEIGHTS[0]: digest(part / WEIGHTS[0])}, {"adapter": about})

    def _contents(self, merged: LowRankMerge) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return adapter_config.json and the tensors under PEFT's names: factors in float32, others in the base's types."""
        tensors: dict[str, np.ndarray] = {}
        ranks: dict[str, int] = {}
        turned = False
        for name in (name for name in self.models.merged if name in merged.factors):
            like, found = sample(self.models, name), merged.factors[name]
            rank = ranks[like.module] = found.b.shape[1]
            turned |= like.transposed and not like.embedding
            shapes = {"A": (rank, *like.a.shape[1:]), "B": (len(found.b), rank, *like.b.shape[2:])}
            for side, values in (("A", found.a), ("B", found.b)):
                key = f"lora_embedding_{side}" if like.embedding else f"lora_{side}.weight"
                tensors[f"{PREFIX}{like.module}.{key}"] = values.reshape(shapes[side]).astype(np.float32)
            for head in self._tied_heads() if like.embedding else ():
                ranks[head] = rank
                turns = {"A": found.b.T, "B": found.a.T}
                tensors |= {f"{PREFIX}{head}.lora_{side}.weight": v.astype(np.float32) for side, v in turns.items()}
        whole = {self._key(name, ranks): name for name in self.models.merged if name in merged.whole}
        for key, name in whole.items():
            tensors[PREFIX + key] = merged.whole[name].astype(DTYPES[self.models.base.entries[name].dtype])
        config = self._config(ranks, [*whole])
        for name, key in self._left.items():  # PEFT asks for whole modules
            if is_saved(key, config) and name in self.models.base.entries:
                tensors[PREFIX + key] = self.models.base.read(name)
        return {**config, "fan_in_fan_out": turned}, tensors

    @property
    def _records(self) -> list[Mapping[str, Any]]:
        return [expert.adapter.record for expert in self.models.experts.values()]

    def _tied_heads(self) -> set[str]:
        """Return the modules of heads that the experts tie to the embedding (`ensure_weight_tying`): PEFT stores them too."""
        if not self.alike.get("ensure_weight_tying"):
            return set()
        places = ((place, own) for expert in self.models.experts.values() for place, own in expert.adapter.names.items())
        return {
            own.removesuffix(".weight") for place, own in places if place not in self.models.base.entries and HEAD.search(own)
        }

    def _key(self, name: str, ranks: Mapping[str, int]) -> str:
        """Return the adapters' name of a whole tensor of the base; beside factors it is inside of `base_layer`."""
        names = (expert.adapter.names for expert in self.models.experts.values())
        module, _, leaf = next(known[name] for known in names if name in known).rpartition(".")
        return f"{module}.base_layer.{leaf}" if module in ranks else f"{module}.{leaf}"

    def _config(self, ranks: Mapping[str, int], whole: Sequence[str]) -> dict[str, Any]:
        """Return adapter_config.json for modules of these ranks, and for whole tensors under the adapters' names."""
        given = {name for record in self._records for name in record.get("modules_to_save") or ()}
        saved = sorted(name for name in given if any(is_saved(key, {"modules_to_save": [name]}) for key in whole))
        alike = {key: value for key, value in self.alike.items() if {*saved} == given or key != "task_type"}  # asks for a head
        beside = any(key.endswith("bias") and not is_saved(key, {"modules_to_save": saved}) for key in whole)
        return lora_config(ranks, **self.place, **alike, modules_to_save=saved or None, bias="all" if beside else "none")
