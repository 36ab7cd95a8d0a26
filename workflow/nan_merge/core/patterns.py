"""Match regular expressions that others wrote: some take a time that doubles with every character."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Annotated

from nan_merge.core.errors import UserError

Regex = Annotated[str, re.compile]  # in an annotation: a text that is a regular expression
SECONDS = 20.0  # for all expressions together
LINEAR = re.compile(r"([\w.^$-]|\\\W)*")  # an expression without repetition, choice and group, as a plain name is
CHILD = """
import json, re, sys
patterns, names = json.loads(sys.stdin.read())
for pattern in patterns:
    try:
        re.compile(pattern)
        end = re.compile(rf"(.*\\.)?({pattern})$")
    except Exception as error:
        print(json.dumps(str(error) or type(error).__name__))
    else:
        print(json.dumps([bool(end.match(name)) for name in names]))
"""


def end_matches(patterns: Sequence[str], names: Sequence[str], where: str) -> dict[str, set[str]]:
    """Return the names that end, from their start or a point on, with what each regular expression matches.

    Those that may take long are matched by a process of their own. Raises UserError, which begins with `where`, for
    one that is no regular expression, and for those that have not ended after SECONDS.
    """
    quick = [pattern for pattern in patterns if LINEAR.fullmatch(pattern)]
    slow = [pattern for pattern in patterns if pattern not in quick]
    found = {pattern: {name for name in names if re.match(rf"(.*\.)?({pattern})$", name)} for pattern in quick}
    if slow:
        for pattern, answer in zip(slow, _ask_child(slow, names, where), strict=True):
            if isinstance(answer, str):
                raise UserError(f"{where}: {pattern!r} is no regular expression ({answer})")
            found[pattern] = {name for name, is_match in zip(names, answer, strict=True) if is_match}
    return found


def _ask_child(patterns: Sequence[str], names: Sequence[str], where: str) -> list[str | list[bool]]:
    """Return for each pattern the answer to each name, or the text of its error."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", CHILD], input=json.dumps([patterns, names]), capture_output=True, text=True,
            timeout=SECONDS, check=True,
        )  # fmt: skip
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        shown = ", ".join(repr(pattern[:100]) for pattern in patterns[:3])
        raise UserError(
            f"{where}: its regular expressions ({shown}) take more than {SECONDS:.0f} s for {len(names)} names; write the names"
            " out in their place"
        ) from None
    return [json.loads(line) for line in done.stdout.splitlines()]
