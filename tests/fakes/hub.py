"""A model hub on the loopback interface with faults on request, for the tests of genuine clients without a network.

It implements the read-only part of the protocol that downloads need: listings, resolve, Range. As on the real hub, large
files (LFS) have their SHA-256 as etag and are served by a redirect to a second origin; small files have their git blob id
as etag and are served directly.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pytest
from hub_server import Handler, Server
from huggingface_hub import constants

LARGE = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.parquet", "*.zip", "*.tar", "*.gz")
FAULTS = ("status", "refuse", "delay", "drop", "close", "stall", "truncate", "corrupt", "norange", "shift", "unsaid", "lie")


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Direct the clients of this process and of its children to a hub, without a token, as HF_ENDPOINT does at the start."""
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")


@dataclass
class Fault:
    """One kind of fault, the requests that it hits, and how often.

    status    answers with `status` and `headers` instead of the content
    refuse    resets the connection before any answer
    delay     waits `seconds` first, then answers as usual
    drop      announces the full length, sends the body up to byte `at`, then resets the connection (RST)
    close     the same, but ends the connection in the orderly way (FIN), as a proxy would
    stall     the same, after a pause of `seconds`
    truncate  sends the body up to byte `at`, with a Content-Length that agrees
    corrupt   sends the right number of bytes, the byte at position `at` changed
    norange   ignores Range (answers 200 with the whole body)
    shift     answers a Range with the bytes from one further on
    unsaid    leaves Content-Length out, so that the end of the connection is the end of the body
    lie       announces another `etag`, `size` or `commit` in the headers
    """

    kind: str
    match: str = ""  # regular expression, searched in the path of the request
    method: str = ""  # GET or HEAD; either, if empty
    times: int | None = 1  # how many requests it hits; None: all
    skip: int = 0  # how many requests pass before
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    at: int = 0
    seconds: float = 0.0
    etag: str | None = None
    size: int | None = None
    commit: str | None = None
    hits: int = 0

    def __post_init__(self) -> None:
        assert self.kind in FAULTS, f"unknown fault {self.kind!r}; one of {FAULTS}"

    def takes(self, method: str, path: str) -> bool:
        """Return whether the fault hits this request, and count it."""
        if self.method not in ("", method) or not re.search(self.match, path):
            return False
        self.skip, passed = max(self.skip - 1, 0), self.skip > 0
        if passed or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True


@dataclass(frozen=True)
class Blob:
    """The content of one file, with the identifiers that the hub gives it."""

    data: bytes
    large: bool

    @cached_property
    def git(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.git


@dataclass
class Repository:
    """A model or data set: its commits, the commit of each branch, and its access."""

    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def commit(self, revision: str) -> str | None:
        """Return the commit of a branch or commit, None for an unknown revision."""
        return revision if revision in self.commits else self.branches.get(revision)


@dataclass
class Request:
    """One line of the hub's log."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    origin: str  # hub or storage
    status: int | None = None


class Hub:
    """A hub that serves while it is open, on two ports: the hub itself and the storage of large files.

    `tokens` are those that open gated and private repositories.
    """

    def __init__(self, *tokens: str) -> None:
        self.tokens = set(tokens)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.lock = threading.RLock()
        self._servers = [Server(("127.0.0.1", 0), Handler) for _ in ("hub", "storage")]
        for server in self._servers:
            server.hub = self

    @property
    def url(self) -> str:
        """The value for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def storage(self) -> str:
        """The origin of large files; clients tell it from the hub by its host name."""
        return f"http://localhost:{self._servers[1].server_port}"

    def put(
        self, repo: str, content: Path | Mapping[str, bytes], kind: str = "models", branch: str = "main", **access: bool
    ) -> str:
        """Commit the files of a folder, or the bytes of each name, to a branch and return the commit.

        `kind` is models or datasets; `access` has `gated` and `private`, without either everybody may read it.
        """
        if isinstance(content, Path):
            content = {str(p.relative_to(content)): p.read_bytes() for p in sorted(content.rglob("*")) if p.is_file()}
        blobs = {n: Blob(data, any(fnmatch.fnmatch(n, p) for p in LARGE)) for n, data in sorted(content.items())}
        listing = "\n".join(f"{blob.git} {name}" for name, blob in blobs.items())
        commit = hashlib.sha1(f"{kind}/{repo}\n{listing}".encode()).hexdigest()
        with self.lock:
            repository = self.repositories.setdefault((kind, repo), Repository())
            repository.commits[commit], repository.branches[branch] = blobs, commit
            repository.gated, repository.private = access.get("gated", False), access.get("private", False)
        return commit

    def blob(self, sha256: str) -> Blob:
        """Return the content with that SHA-256."""
        with self.lock:
            files = (files for repo in self.repositories.values() for files in repo.commits.values())
            return next(blob for each in files for blob in each.values() if blob.sha256 == sha256)

    def fail(self, kind: str, match: str = "", **options: object) -> Fault:
        """Add a fault and return it."""
        fault = Fault(kind, match, **options)  # type: ignore[arg-type]
        with self.lock:
            self.faults.append(fault)
        return fault

    def forget(self) -> None:
        """Forget all faults and the log."""
        with self.lock:
            self.faults.clear()
            self.requests.clear()

    def ranges(self, match: str) -> list[str | None]:
        """Return the Range of every GET whose path matches, in order."""
        with self.lock:
            return [r.range for r in self.requests if r.method == "GET" and re.search(match, r.path)]

    def __enter__(self) -> Hub:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()
