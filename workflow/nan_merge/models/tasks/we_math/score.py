"""We-Math (Qiao et al. 2024): its prompt, the letter that an output chooses, and its four-way scores."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from nan_merge.models.tasks import pictures
from nan_merge.models.tasks.letters import chosen, options_in
from nan_merge.models.tasks.pictures import Document

REQUEST = (
    "Now, we require you to solve a multiple-choice math question. Please briefly describe your thought process and provide the"
    " final answer(option).\nQuestion: {question}\nOption: {option}\nRegarding the format, please answer following the template"
    " below, and be sure to include two <> symbols:\n<Thought process>: <<your thought process>> <Answer>: <<your option>>"
)
OPTION = re.compile(r"([A-H])\s*[.:)、]\s*(.*?)\s*(?=;|\n|$|[,\s]+[A-H]\s*[.:)、]\s)")
WHOLE = "multi"  # the step that is the whole problem


def documents(data: Any) -> Any:
    """Return the documents; the questions on one problem are a group, `2 17`, with the part of each as `_step`, `1` or `multi`.

    DIFFERS: pictures are no groups here, since problems have pictures of their own.
    """
    data = pictures.documents(data, "image_path", "ID", ("question", "option", "answer", "key")).remove_columns("_group")
    if odd := [key for key in data["key"] if not re.fullmatch(r"[23]steps_(1|2|3|multi)", key)]:
        raise ValueError(f"column 'key' has '{odd[0]}'; expected 2steps_1, ..., 3steps_multi")
    problems = [f"{key[0]} {name}" for key, name in zip(data["key"], data["ID"], strict=True)]
    return data.add_column("_group", problems).add_column("_step", [key.partition("_")[2] for key in data["key"]])


def prompt(document: Document) -> str:
    """Return the question with its options."""
    return pictures.asked(REQUEST.format(question=document["question"], option=document["option"]))


def extract(text: str, document: Document) -> str:
    """Return the letter that a text chooses, empty for none.

    DIFFERS: the authors take the first letter behind the last "Answer", which is one of a word or of two letters, too.
    """
    return chosen(text, options_in(document["option"], OPTION))


def score(document: Document, answer: str) -> bool:
    """Return whether an extracted answer is right."""
    return answer == document["answer"]


extracted, process_results = pictures.rules(extract), pictures.exact(score)


def aggregate(samples: Iterable[Mapping[str, Any]]) -> list[dict[str, float | str]]:
    """Return the four-way scores with standard errors, problems being the sample; none where no problem was asked as a whole.

    Of N problems: insufficient knowledge (`ik`: the whole and a step wrong), inadequate generalisation (`ig`: only the whole
    wrong), rote memorisation (`rm`: the whole right, a step wrong; loose: every step wrong), complete mastery (`cm`: else). The
    score is the mean of 1 for mastery and 1/2 for `ig`; `rm` is a share of all problems that were solved as a whole.
    """
    problems: dict[str, dict[str, bool]] = {}
    for sample in samples:
        problems.setdefault(sample["group"], {})[sample["step"]] = bool(sample["right"])
    steps = [(p.pop(WHOLE), [*p.values()]) for name, p in problems.items() if WHOLE in p and len(p) == int(name[0]) + 1]
    if not steps:
        return []
    found = [_mean("ik", [not whole and not all(each) for whole, each in steps])]
    found += [_mean("ig", [not whole and all(each) for whole, each in steps])]
    for mode, mastered in (("strict", all), ("loose", any)):
        solved = [mastered(each) for whole, each in steps if whole]
        credit = [whole * mastered(each) + (not whole and all(each)) / 2 for whole, each in steps]
        found += [_mean(f"cm_{mode}", [whole and mastered(each) for whole, each in steps])]
        found += [_mean(f"rm_{mode}", [not each for each in solved])] if solved else []
        found += [_mean(f"score_{mode}", credit)]
    return found


def _mean(metric: str, values: list[Any]) -> dict[str, float | str]:
    """Return the mean of values of independent problems and its standard error."""
    mean = sum(values) / len(values)
    return {"metric": metric, "value": mean, "stderr": math.sqrt(sum((value - mean) ** 2 for value in values)) / len(values)}
