"""Fine-tune a causal language model on the answers to prompts, which it will be scored with."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nan_merge.models.training import KEYS, check, index_batches, optimise, trained

IGNORED = -100  # label of a position whose prediction does not count
Pair = tuple[str, str]  # a prompt, and the answer as it follows the prompt


def finetune(
    model: Any, tokenizer: Any, tasks: Sequence[Sequence[Pair]], settings: Mapping[str, Any], seed: int,
    progress: Callable[[int, float], None] | None = None,
) -> list[float]:  # fmt: skip
    """Train a model in place on the mean cross-entropy of the tokens of answers; return every step's loss.

    The examples of a batch come from the tasks in turn, from each in random order. `settings` are those of `training.finetune`
    without `logit_scale`. The same seed gives the same bytes on any number of cores; a GPU rounds differently.
    """
    check(settings, [key for key in KEYS if key != "logit_scale"], "finetune")
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    order = _in_turn([index_batches(len(pairs), 1, [seed, number]) for number, pairs in enumerate(tasks)], tasks)

    def loss() -> Tensor:
        return answer_loss(model, tokenizer, list(itertools.islice(order, settings["batch_size"])))

    model.train()
    losses = optimise(trained(model, settings["frozen"]), loss, settings, progress)
    model.eval()
    return losses


def _in_turn(orders: Sequence[Iterator[Any]], tasks: Sequence[Sequence[Pair]]) -> Iterator[Pair]:
    for number in itertools.cycle(range(len(tasks))):
        yield tasks[number][int(next(orders[number])[0])]


def answer_loss(model: Any, tokenizer: Any, pairs: Sequence[Pair]) -> Tensor:
    """Return the mean cross-entropy of the tokens of the answers, given prompts and the tokens before.

    Prompts are padded on the left, so that logits are computed for the last tokens only. An answer begins where the tokens of
    prompt and answer together are longer than those of the prompt, as in lm_eval.
    """
    whole = [tokenizer(prompt + answer)["input_ids"] for prompt, answer in pairs]
    asked = [len(tokenizer(prompt)["input_ids"]) for prompt, _ in pairs]
    width, longest = max(map(len, whole)), max(len(ids) - head for ids, head in zip(whole, asked, strict=True))
    ids = torch.zeros((len(pairs), width), dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, (tokens, head) in enumerate(zip(whole, asked, strict=True)):
        ids[row, width - len(tokens) :] = torch.tensor(tokens)
        mask[row, width - len(tokens) :] = 1
        labels[row, width - len(tokens) + head :] = torch.tensor(tokens[head:])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    ids, mask, positions, labels = (each.to(model.device) for each in (ids, mask, positions, labels[:, width - longest :]))
    given = model(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=longest + 1, use_cache=False)
    return F.cross_entropy(given.logits[:, :-1].flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED)
