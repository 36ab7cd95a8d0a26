"""Bring a file over HTTP: redirects, Range, what a hub announces, and what goes wrong on the way. No torch.

The headers of a `Remote`, a token among them, go to the origin of its address alone, never to where that redirects, and
stand in no message; nor do addresses, which may be signed.
"""

from __future__ import annotations

import functools
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from nan_merge.assets import retry
from nan_merge.assets.retry import PermanentError, TransientError, failure, with_retries
from nan_merge.core.progress import bar

if TYPE_CHECKING:
    from requests import Response, Session

READ_SIZE = 1 << 16  # bytes that are read at once
REDIRECTS = 10


@dataclass(frozen=True)
class Remote:
    """A file somewhere: its address, and what it has to be as far as that is known.

    `what` names it in messages, `commit` is the revision that a hub has to announce, `headers` go to its origin only.
    """

    url: str
    what: str
    size: int | None = None
    sha256: str | None = None
    commit: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def receive(remote: Remote, target: Path) -> None:
    """Append to `target` what it lacks of `remote`, over as many attempts as it takes; only its size is checked."""
    import requests

    with requests.Session() as session, ExitStack() as stack:
        shown = functools.cache(lambda: stack.enter_context(bar(remote.what, remote.size or 0, "B")))  # once something comes
        session.auth = lambda request: request  # else ~/.netrc would speak for the user
        with_retries(remote.what, lambda: _attempt(session, remote, target, shown), lambda: size_of(target))


def _attempt(session: Session, remote: Remote, target: Path, shown: Callable[[], Any]) -> None:
    """Make one request and append what it brings; TransientError if that does not complete the file."""
    there = size_of(target)
    if remote.size is not None and there > remote.size:
        target.unlink()
        there = 0
    if there and there == remote.size:
        return
    with _opened(session, remote, there) as reply, _explained(reply.url):
        count = _start(reply, remote, there)
        if count is None:
            target.unlink(missing_ok=True)
            raise TransientError(f"the server cannot go on at byte {there:,}; from the first byte")
        shown().n = shown().initial = count
        with open(target, "ab" if count else "wb") as file:
            while block := reply.raw.read1(READ_SIZE, decode_content=True):
                file.write(block)
                count += len(block)
                shown().update(len(block))
                if remote.size is not None and count > remote.size:
                    raise TransientError(f"the server sends more than the {remote.size:,} bytes expected", weight=3)
            file.flush()
            os.fsync(file.fileno())
    if remote.size not in (None, count):
        raise TransientError(f"the connection ended after {count:,} of {remote.size:,} bytes")


@contextmanager
def _opened(session: Session, remote: Remote, start: int) -> Iterator[Response]:
    """Ask for a file from byte `start` on, follow redirects, and yield an answer that has content (or 416)."""
    url, own = remote.url, _origin(remote.url)
    for _ in range(REDIRECTS):
        headers = {"Accept-Encoding": "identity", **(remote.headers if _origin(url) == own else {})}
        headers |= {"Range": f"bytes={start}-"} if start else {}
        times = (retry.RETRY_POLICY.connect, retry.RETRY_POLICY.read)
        with _explained(url):
            reply = session.get(url, headers=headers, stream=True, allow_redirects=False, timeout=times)
        with reply:
            if reply.ok and _origin(url) == own:
                _check_announced(remote, reply)
            if not reply.is_redirect:
                if reply.status_code not in (200, 206, 416):
                    error = failure(remote.what, reply.status_code, reply.headers)
                    signed = isinstance(error, PermanentError) and _origin(url) != own  # such an address is valid for minutes
                    raise TransientError(f"{urlsplit(url).hostname} answers {reply.status_code}", weight=2) if signed else error
                yield reply
                return
            url = urljoin(url, reply.headers["location"])
    raise PermanentError(f"{remote.what}: the server redirects more than {REDIRECTS} times")


def _check_announced(remote: Remote, reply: Response) -> None:
    """Compare what a hub says of a file before it sends it; large files have their SHA-256 as etag."""
    etag = (reply.headers.get("x-linked-etag") or reply.headers.get("etag", "")).removeprefix("W/").strip('"')
    digest = etag if re.fullmatch("[0-9a-f]{64}", etag) else None
    said = {"commit": reply.headers.get("x-repo-commit"), "size": reply.headers.get("x-linked-size"), "sha256": digest}
    for key, value in said.items():
        expected = getattr(remote, key)
        if remote.commit is not None and None not in (value, expected) and value != str(expected):
            raise PermanentError(
                f"{remote.what}: the server announces {key} {value}, expected {expected}; nothing was fetched, since the file"
                " or a mirror was changed"
            )


def _start(reply: Response, remote: Remote, there: int) -> int | None:
    """Return the position of the first byte that an answer brings, None if that is neither the one asked for nor the first.

    Raises TransientError if the server's file is of another size.
    """
    encoded = "content-encoding" in reply.headers
    start, total = 0, None if encoded else reply.headers.get("content-length")
    if reply.status_code != 200:
        span = re.match(r"bytes (\d+)-\d+/(\d+|\*)", reply.headers.get("content-range", ""))
        if span is None or int(span[1]) != there:
            return None
        start, total = there, span[2].replace("*", "") or None
    if total is not None and remote.size not in (None, int(total)):
        raise TransientError(f"the server has {int(total):,} bytes, expected {remote.size:,}", weight=3)
    return start


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn what goes wrong on the way into TransientError with host and reason."""
    from requests import exceptions
    from urllib3.exceptions import HTTPError, TimeoutError

    host = urlsplit(url).hostname
    try:
        yield
    except (exceptions.InvalidURL, exceptions.InvalidSchema, exceptions.MissingSchema):
        raise PermanentError(
            f"{url}: no address of a file (expected https://...); correct `url:` in config/assets.yaml"
        ) from None
    except (exceptions.Timeout, TimeoutError):
        raise TransientError(f"{host} keeps silent") from None
    except (exceptions.RequestException, HTTPError) as error:
        causes: list[BaseException] = [error]
        while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
            causes.append(cause)
        known = next((cause for cause in causes if isinstance(cause, OSError) and cause.strerror), None)
        nobody = any(isinstance(cause, (socket.gaierror, ConnectionRefusedError)) for cause in causes)
        reason = known.strerror if known else type(error).__name__
        raise TransientError(
            f"{host} {'cannot be reached' if nobody else 'broke off'} ({reason})", weight=2 if nobody else 1
        ) from None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def size_of(file: Path) -> int:
    """Return the bytes of a file, 0 if there is none."""
    return file.stat().st_size if file.exists() else 0
