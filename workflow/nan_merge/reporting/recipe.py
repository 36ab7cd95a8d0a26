"""How experts were fine-tuned, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nan_merge.reporting.formats import count


def recipe(settings: Mapping[str, Any]) -> list[str]:
    """Say from `finetune:` of a suite how its experts were trained, in sentences: examples, and steps or epochs."""
    batch, sizes, steps = settings["batch_size"], settings.get("sizes"), settings.get("steps")
    length = f"{count(steps)} steps of {batch}" if steps else f"{settings['epochs']:g} epochs in batches of {batch}"
    found = [f"Every expert is fine-tuned for {length} examples{f', {count(steps * batch)} in all' if steps else ''}."]
    if steps and (not sizes or max(sizes) > steps * batch):
        found.append("One with more training examples has not seen all of them, and its norm cannot reflect their number.")
    if sizes:
        rotated = "; they go round the tasks with the fine-tuning seed, so that size is not task" if len({*sizes}) > 1 else ""
        found.append(f"Training sets have {' or '.join(map(count, sizes))} examples{rotated}.")
    if share := settings.get("undertrained"):
        found.append(f"One expert, another one with every seed, takes {100 * share:g} % of the steps only.")
    return found
