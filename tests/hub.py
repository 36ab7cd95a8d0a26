"""A model hub on the loopback, so that the genuine client of `huggingface_hub` runs without a network.

It speaks the part of the protocol that a download needs. Large files (weights) are served by a redirect to a second
host name with their SHA-256 as etag, all others directly with their git blob id, like on the real hub.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin")
ERRORS = {"RepoNotFound": 401, "GatedRepo": 403, "RevisionNotFound": 404, "EntryNotFound": 404}


@dataclass(frozen=True)
class Blob:
    """The content of one file, with the identifiers that the hub gives it."""

    data: bytes
    large: bool

    @property
    def git(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.git


@dataclass
class Repository:
    """A model: its commits, the commit of each branch, and whether its terms must be accepted first."""

    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False


class Hub:
    """A hub that serves while it is open; `down` makes it answer 503, `damage` changes a byte of files of that name."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.down = False
        self.damage: str | None = None
        self._servers = [_Server(("127.0.0.1", 0), _Handler) for _ in range(2)]
        for server in self._servers:
            server.hub = self

    @property
    def url(self) -> str:
        """What HF_ENDPOINT should be."""
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def storage(self) -> str:
        """The origin of large files; the client tells it from the hub by its host name."""
        return f"http://localhost:{self._servers[1].server_port}"

    def put(self, repo: str, folder: Path, branch: str = "main", gated: bool = False) -> str:
        """Commit the files of a folder to a branch and return the commit."""
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        blobs = {name: Blob((folder / name).read_bytes(), name.endswith(LARGE)) for name in names}
        listing = "\n".join(f"{blob.git} {name}" for name, blob in blobs.items())
        commit = hashlib.sha1(f"{repo}\n{listing}".encode()).hexdigest()
        there = self.repositories.setdefault(repo, Repository())
        there.commits[commit], there.branches[branch], there.gated = blobs, commit, gated
        return commit

    def __enter__(self) -> Hub:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        if hub.down:
            self._answer(503, b"")
        elif match := re.fullmatch("/storage/([0-9a-f]{64})/(.+)", path):
            blobs = (blob for repo in hub.repositories.values() for files in repo.commits.values() for blob in files.values())
            blob = next(blob for blob in blobs if blob.sha256 == match[1])
            self._content(blob, match[2])
        elif match := re.fullmatch("/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            self._listing(match[1], match[2] or "revision", match[3] or "main")
        elif match := re.fullmatch("/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(*match.groups())
        else:
            self._answer(404, b"")

    def _commit(self, name: str, revision: str) -> tuple[Repository, str] | None:
        repo = self.server.hub.repositories.get(name)
        if repo is None:
            return self._error("RepoNotFound")
        commit = revision if revision in repo.commits else repo.branches.get(revision)
        return (repo, commit) if commit else self._error("RevisionNotFound")

    def _listing(self, name: str, kind: str, revision: str) -> None:
        if found := self._commit(name, revision):
            repo, commit = found
            entries = [_entry(path, blob) for path, blob in repo.commits[commit].items()]
            siblings = [{"rfilename": e["path"], "size": e["size"], "blobId": e["oid"], **_sha256(e)} for e in entries]
            about: Any = {"id": name, "sha": commit, "siblings": siblings}
            self._answer(200, json.dumps(entries if kind == "tree" else about).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str, revision: str, path: str) -> None:
        if found := self._commit(name, revision):
            repo, commit = found
            blob = repo.commits[commit].get(path)
            if repo.gated and "Authorization" not in self.headers:
                self._error("GatedRepo")
            elif blob is None:
                self._error("EntryNotFound", {"X-Repo-Commit": commit})
            elif not blob.large:
                self._content(blob, path, {"X-Repo-Commit": commit})
            else:
                place = f"{self.server.hub.storage}/storage/{blob.sha256}/{path}"
                linked = {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data)), "Location": place}
                self._answer(302, b"", {"X-Repo-Commit": commit, **linked})

    def _content(self, blob: Blob, path: str, headers: dict[str, str] | None = None) -> None:
        data = blob.data
        if path == self.server.hub.damage:
            data = data[:-1] + bytes([data[-1] ^ 1])
        self._answer(200, data, {"ETag": f'"{blob.etag}"', **(headers or {})})

    def _error(self, code: str, headers: dict[str, str] | None = None) -> None:
        self._answer(ERRORS[code], b"{}", {"X-Error-Code": code, "X-Error-Message": code, **(headers or {})})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _entry(path: str, blob: Blob) -> dict[str, Any]:
    large = {"lfs": {"oid": blob.sha256, "size": len(blob.data), "pointerSize": 134}} if blob.large else {}
    return {"type": "file", "oid": blob.git, "size": len(blob.data), "path": path, **large}


def _sha256(entry: dict[str, Any]) -> dict[str, Any]:
    return {"lfs": {**entry["lfs"], "sha256": entry["lfs"]["oid"]}} if "lfs" in entry else {}
