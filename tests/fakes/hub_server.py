"""The two servers of the loopback hub, with the responses of huggingface.co or of a fault."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

if TYPE_CHECKING:
    from hub import Blob, Fault, Hub, Repository

LISTING = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+?)(?:/(revision|tree)/([^/]+))?")
FILE = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
STORED = re.compile(r"/storage/([0-9a-f]{64})/.+")
ENDINGS = ("drop", "close", "stall")


class Server(ThreadingHTTPServer):
    """One of the two origins."""

    daemon_threads = True
    hub: Hub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print no error of a connection that a client or a fault closed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Answer one connection."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        from hub import Request

        self.hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        stored = STORED.fullmatch(path)
        range_, token = self.headers.get("Range"), self.headers.get("Authorization")
        self.entry = Request(self.command, self.path, range_, token, "storage" if stored else "hub")
        with self.hub.lock:
            self.hub.requests.append(self.entry)
            self.active = {fault.kind: fault for fault in self.hub.faults if fault.takes(self.command, path)}
        if "refuse" in self.active:
            self._reset()
            return
        if "delay" in self.active:
            time.sleep(self.active["delay"].seconds)
        if "status" in self.active:
            fault = self.active["status"]
            self._error(fault.status, fault.headers.get("X-Error-Code", ""), fault.headers)
        elif stored:
            blob = self.hub.blob(stored[1])
            self._content(blob, {"ETag": f'"{blob.sha256}"'})
        elif match := LISTING.fullmatch(path):
            self._listing(match[1], match[2], match[3] or "revision", match[4] or "main")
        elif match := FILE.fullmatch(path):
            self._file(match[1] or "models", *match.groups()[1:])
        else:
            self._error(404)

    def _open(self, kind: str, name: str, revision: str, content: bool) -> tuple[Repository, str] | None:
        """Return repository and commit of a request, or None after a response with the error."""
        repo = self.hub.repositories.get((kind, name))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        known = token in self.hub.tokens
        if token and not known:
            return self._error(401)
        if repo is None or (repo.private and not known):
            return self._error(404 if known else 401, "RepoNotFound")
        if content and repo.gated and not known:
            return self._error(401, "GatedRepo")
        commit = repo.commit(revision)
        return (repo, commit) if commit else self._error(404, "RevisionNotFound")

    def _listing(self, kind: str, name: str, what: str, revision: str) -> None:
        if found := self._open(kind, name, revision, content=False):
            repo, commit = found
            entries = [_entry(path, blob) for path, blob in repo.commits[commit].items()]
            sizes = "blobs" in parse_qs(urlsplit(self.path).query)
            siblings = [{"rfilename": e["path"], **(_metadata(e) if sizes else {})} for e in entries]
            about: Any = {"id": name, "sha": commit, "siblings": siblings}
            answer = entries if what == "tree" else about
            self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _file(self, kind: str, name: str, revision: str, path: str) -> None:
        found = self._open(kind, name, revision, content=True)
        if found is None:
            return
        repo, commit = found
        blob = repo.commits[commit].get(path)
        lie = self.active.get("lie")
        headers = {"X-Repo-Commit": (lie and lie.commit) or commit, "Accept-Ranges": "bytes"}
        if blob is None:
            self._error(404, "EntryNotFound", headers)
            return
        headers["ETag"] = f'"{(lie and lie.etag) or blob.etag}"'
        if not blob.large:
            self._content(blob, headers)
            return
        size = lie.size if lie and lie.size is not None else len(blob.data)
        place = f"{self.hub.storage}/storage/{blob.sha256}/{quote(path)}?signature=secret"
        linked = {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(size), "Location": place}
        self._send(302, b"Found. Redirecting", {**headers, **linked})

    def _content(self, blob: Blob, headers: dict[str, str]) -> None:
        data, status, start = blob.data, 200, 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if wanted and "norange" not in self.active:
            start = int(wanted[1]) + ("shift" in self.active)
            if start >= len(data):
                self._error(416, headers={"Content-Range": f"bytes */{len(data)}"})
                return
            headers = {**headers, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            data, status = data[start:], 206
        if "corrupt" in self.active:
            at = self.active["corrupt"].at - start
            if 0 <= at < len(data):
                data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        if "truncate" in self.active:
            data = data[: max(self.active["truncate"].at - start, 0)]
        ending = next((self.active[kind] for kind in ENDINGS if kind in self.active), None)
        self._send(status, data, headers, ending, start)

    def _error(self, status: int, code: str = "", headers: Any = None) -> None:
        named = {"X-Error-Code": code, "X-Error-Message": code} if code else {}
        self._send(status, b"{}", {**named, **(headers or {})})

    def _send(self, status: int, body: bytes, headers: dict[str, str], ending: Fault | None = None, start: int = 0) -> None:
        self.entry.status = status
        self.send_response(status)
        length = {"Connection": "close"} if "unsaid" in self.active else {"Content-Length": str(len(body))}
        for name, value in {**headers, **length}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body if ending is None else body[: max(ending.at - start, 0)])
        if ending is not None:
            self.wfile.flush()
            self.close_connection = True
            time.sleep(ending.seconds or 0.05)  # the client reads what was sent before the reset arrives
            if ending.kind == "drop":
                self._reset()

    def _reset(self) -> None:
        """Close the connection with a TCP reset, as a failing server or network does."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.rfile = self.wfile = open(os.devnull, "r+b")  # noqa: SIM115 (the base class flushes and closes it)


def _entry(path: str, blob: Blob) -> dict[str, Any]:
    large = {"lfs": {"oid": blob.sha256, "size": len(blob.data), "pointerSize": 134}} if blob.large else {}
    return {"type": "file", "oid": blob.git, "size": len(blob.data), "path": path, **large}


def _metadata(entry: dict[str, Any]) -> dict[str, Any]:
    large = {"lfs": {**entry["lfs"], "sha256": entry["lfs"]["oid"]}} if "lfs" in entry else {}
    return {"size": entry["size"], "blobId": entry["oid"], **large}
