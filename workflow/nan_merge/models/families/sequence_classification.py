"""Classifiers of texts by the transformers library: GPT-2 and RoBERTa. The body is merged, every expert keeps its head.

The canonical checkpoint is the body under the names of a classifier: `transformer.*` of GPT2ForSequenceClassification,
`roberta.*` of RobertaForSequenceClassification. Heads of language models, poolers and classifiers are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nan_merge.checkpoints.checkpoint import Checkpoint
from nan_merge.core.errors import UserError
from nan_merge.core.text import read_mapping
from nan_merge.data.dataset import PADDING
from nan_merge.layouts import canonical
from nan_merge.layouts.canonical import MAX_RELATIVE_DISTANCE
from nan_merge.layouts.names import join_first
from nan_merge.layouts.network import check_network
from nan_merge.models.classification import as_floats, load_tensors
from nan_merge.models.heads import LAYERS, ROWS
from nan_merge.models.prompts import by_length

__all__ = ["Encoder", "batches", "extract_head", "load", "prepare"]


@dataclass(frozen=True)
class Kind:
    """What differs between the classifiers of the library, by the model type of config.json."""

    network: str  # class of the body
    without: Mapping[str, Any]  # its arguments, which leave out what no classifier uses
    stem: str  # its name in the classifier
    head: Mapping[str, str]  # tensor of a head file -> tensor of the classifier
    pooled: Callable[[Tensor], Tensor]  # (B, width) bool, where a token is -> the position that the head reads, (B,)


def _last(is_token: Tensor) -> Tensor:
    return (is_token.sum(1) - 1).clamp_min(0)


def _first(is_token: Tensor) -> Tensor:
    return is_token.sum(1) * 0


KINDS = {
    "gpt2": Kind("GPT2Model", {}, "transformer", {ROWS: "score.weight"}, _last),
    "roberta": Kind(
        "RobertaModel",
        {"add_pooling_layer": False},
        "roberta",
        {f"{layer}.{kind}": f"classifier.{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")},
        _first,
    ),
}


class Encoder(nn.Module):
    """Encode rows of token ids, padded by PADDING on the right; parameters have canonical names."""

    def __init__(self, kind: Kind, config: Mapping[str, Any]) -> None:
        """Build the body without values."""
        import transformers
        from transformers.initialization import no_init_weights

        super().__init__()
        self.kind, network = kind, getattr(transformers, kind.network)
        plain = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
        with no_init_weights():
            self.add_module(kind.stem, network(network.config_class.from_dict(plain), **kind.without))

    @property
    def body(self) -> Any:
        """The model of transformers."""
        return getattr(self, self.kind.stem)

    def forward(self, inputs: np.ndarray) -> Tensor:
        """Return the state of the token that the head reads, as it is: (B, d) of rows (B, length).

        This is the last token of GPT-2, and `<s>` of RoBERTa. A batch is cut to its longest row.
        """
        is_token = torch.from_numpy(self.filled(inputs)).to(self.body.device)
        tokens = torch.from_numpy(inputs[:, : is_token.shape[1]].astype(np.int64)).to(self.body.device)
        tokens = tokens.masked_fill(~is_token, 0)  # any id: padding is on the right, and masked
        hidden = self.body(input_ids=tokens, attention_mask=is_token.long()).last_hidden_state
        return hidden[torch.arange(len(hidden), device=hidden.device), self.kind.pooled(is_token)]

    def filled(self, inputs: np.ndarray) -> np.ndarray:
        """Return the mask of tokens, cut to the longest row of the batch: (B, width) bool."""
        is_token = inputs != PADDING
        return np.ascontiguousarray(is_token[:, : max(1, int(is_token.sum(1).max()))])


def batches(inputs: np.ndarray, size: int) -> list[np.ndarray]:
    """Return index batches of rows of similar length."""
    return by_length(inputs, size, PADDING)


def load(folder: Path) -> Encoder:
    """Load a checkpoint folder as float32; raise UserError for another architecture and tensors that do not fit its config."""
    torch.set_num_threads(1)
    config = read_mapping(folder / "config.json")
    encoder = Encoder(_kind(folder, config), config)
    tensors = {name: torch.from_numpy(array) for name, array in as_floats(Checkpoint(folder).entries).items()}
    load_tensors(encoder, folder, tensors)
    return encoder


def prepare(source: Path, output: Path, base: Path | None = None, max_relative_distance: float = MAX_RELATIVE_DISTANCE) -> None:
    """Write the body of a model under canonical names, with `base` that of an expert fine-tuned from it.

    Raises UserError for another architecture, a missing tensor, an expert of another base (distance above
    `max_relative_distance`) or network, and NaN and infinities.
    """
    model = _body(source)
    if base is None:
        return canonical.write(model, output)
    origin = _body(base)
    check_network(source.name, Checkpoint(source), Checkpoint(base), [])
    canonical.write(canonical.match_base(model, origin), output, origin, max_relative_distance)


def extract_head(source: Path) -> dict[str, np.ndarray]:
    """Return the tensors of the head of a fetched classifier, by their names in a head file, float32.

    Raises UserError for another architecture, and for a model without a head.
    """
    stored = Checkpoint(source).entries
    names = _kind(source, read_mapping(source / "config.json")).head
    if missing := [name for name in names.values() if name not in stored]:
        raise UserError(
            f"{source}: no tensor '{missing[0]}'; expected a classifier with its head (`head: expert` of the suite); a language"
            " model has none. Correct `experts:` of the suite"
        )
    return as_floats({name: stored[origin] for name, origin in names.items()})


def _kind(folder: Path, config: Mapping[str, Any]) -> Kind:
    found = config.get("model_type")
    if found not in KINDS:
        raise UserError(
            f"{folder}/config.json: model_type is {found!r}; family sequence_classification has {', '.join(KINDS)}; correct"
            " `base:` or `experts:` of the suite, or choose another `family:`"
        )
    return KINDS[found]


def _body(folder: Path) -> canonical.SourceModel:
    """Open the body of a model, with or without the stem in its names; other tensors are left out."""
    config = read_mapping(folder / "config.json")
    kind = _kind(folder, config)
    stem = f"{kind.stem}."
    stored = {stem + name.removeprefix(stem): tensor for name, tensor in Checkpoint(folder).entries.items()}
    wanted = list(Encoder(kind, config).state_dict())
    if missing := [name for name in wanted if name not in stored]:
        raise UserError(
            f"{folder}: {len(missing)} of {len(wanted)} tensors are missing: {join_first(missing)}; expected the body that its"
            " config.json describes; fetch the model again, or correct `base:` or `experts:` of the suite"
        )
    return canonical.SourceModel(folder, {name: stored[name] for name in wanted}, config)
