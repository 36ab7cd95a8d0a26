"""Find what would tell where and by whom a run was made: names of host and user, absolute paths, tokens."""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

SYSTEM = r"(?:dev|proc|sys|etc|bin|sbin|lib\w*|usr/(?:bin|lib\w*|share))/"  # below these a path is the same on many machines
PATH = re.compile(rf"(?<![\w.~:/<>)\]*-])/(?!{SYSTEM})[\w.+@~-]+(?:/[\w.+@~-]+)+")
TOKENS = {  # by the shape that their issuers give them
    "token of Hugging Face": r"\bhf_[A-Za-z0-9]{20,}",
    "token of GitHub": r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{40,})",
    "token of GitLab": r"\bglpat-[\w-]{20,}",
    "token of OpenAI or Anthropic": r"\bsk-[A-Za-z0-9_-]{20,}",
    "token of Weights & Biases": r"(?i)\bwandb[\w ]*key\W+[0-9a-f]{40}\b",
    "key of Amazon": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "token of Slack": r"\bxox[abprs]-[\w-]{10,}",
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "password in an address": r"\b[a-z][a-z0-9+.-]*://[^\s/:@\"']+:[^\s/@\"']+@",
    "header of a login": r"(?i)\bauthorization\W{1,4}(?:bearer|basic)\s+\S{8,}",
}
SECRET = re.compile(r"(?i)token|secret|passw|api_?key|credential")  # in the name of a variable of the environment
COMMON = {"localhost", "root", "user", "admin", "ubuntu", "debian", "runner", "jovyan", "nobody", "host", "local", "docker"}
SHORTEST = 3  # letters of a name that is looked for


class Trace(NamedTuple):
    """What was found in a text: the number of the line, the kind, and the words themselves."""

    line: int
    kind: str
    text: str


class Traces:
    """The patterns of this machine, user and environment.

    ASSUME: a name that is a word of the run itself, such as a host `text`, tells nothing, and is not looked for; nor are the
    names that many machines share (COMMON).
    """

    def __init__(self, folders: Iterable[Path], words: str = "", environment: Mapping[str, str] = os.environ) -> None:
        """Collect names and secrets; `folders` are those of the run and the checkout, `words` is a text of the run."""
        known = {word.casefold() for word in re.findall(r"\w+", words)} | COMMON
        names = {name for name in _names(environment) if len(name) >= SHORTEST and name.casefold() not in known}
        secrets = {v for k, v in environment.items() if SECRET.search(k) and len(v) >= 8 and "/" not in v}
        places = {str(folder) for folder in (*folders, Path.home()) if len(folder.parts) > 1}
        self._patterns = {
            "secret of the environment": _any_of(secrets, "{}"),
            **{kind: re.compile(pattern) for kind, pattern in TOKENS.items()},
            "absolute path": re.compile("|".join(filter(None, (_alternatives(places), PATH.pattern)))),
            "name of the host or the user": _any_of(names, r"(?<![A-Za-z0-9])(?:{})(?![A-Za-z0-9])"),
        }

    def find(self, text: str) -> Iterator[Trace]:
        """Yield what a text holds of them."""
        for kind, pattern in self._patterns.items():
            for found in pattern.finditer(text) if pattern else ():
                yield Trace(text.count("\n", 0, found.start()) + 1, kind, found[0])

    def removed(self, text: str) -> str:
        """Return a text with a mark in place of each of them."""
        for kind, pattern in self._patterns.items():
            if pattern:
                text = pattern.sub(f"<{kind}>", text)
        return text


def _names(environment: Mapping[str, str]) -> set[str]:
    host = socket.gethostname()
    names = {
        host,
        host.partition(".")[0],
        *(environment.get(key, "") for key in ("HOSTNAME", "USER", "LOGNAME", "SLURMD_NODENAME")),
    }
    with suppress(KeyError, OSError):  # a user without an entry
        names.add(getpass.getuser())
    return {name for name in names if name}


def _alternatives(texts: Iterable[str]) -> str:
    return "|".join(re.escape(text) for text in sorted(texts, key=lambda text: (-len(text), text)))


def _any_of(texts: Iterable[str], frame: str) -> re.Pattern[str] | None:
    found = _alternatives(texts)
    return re.compile(frame.format(found), re.IGNORECASE) if found else None
