"""Receive a file over HTTP: redirects, Range requests, the headers that a hub announces a file with, and errors.

The headers of a `Remote`, a token among them, are sent to the origin of its address only, not to the target of a redirect.
No message contains them, nor an address of a redirect, which may be signed.
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
from nan_merge.assets.retry import PermanentError, TransientError, status_error, with_retries
from nan_merge.core.progress import bar

if TYPE_CHECKING:
    from requests import Response, Session

READ_SIZE = 1 << 16  # bytes
REDIRECTS = 10
DIGEST = "[0-9a-f]{64}|[0-9a-f]{40}"


@dataclass(frozen=True)
class Remote:
    """A file at an address; size in bytes, digest and commit (that a hub announces) where they are known.

    `name` is that of messages. `digest` is a SHA-256 (64 hexadecimal digits) or a git blob id (40).
    """

    url: str
    name: str
    size: int | None = None
    digest: str | None = None
    commit: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def receive(remote: Remote, target: Path) -> None:
    """Append to `target` the bytes that it lacks of `remote`, with retries; the size is checked, the digest is not."""
    import requests

    with requests.Session() as session, ExitStack() as stack:
        progress = functools.cache(lambda: stack.enter_context(bar(remote.name, remote.size or 0, "B")))
        session.auth = lambda request: request  # without it, requests takes passwords from ~/.netrc
        with_retries(remote.name, lambda: _attempt(session, remote, target, progress), lambda: size_of(target))


def _attempt(session: Session, remote: Remote, target: Path, progress: Callable[[], Any]) -> None:
    """Make one request and append its content; TransientError if the file is not complete then."""
    start = size_of(target)
    if remote.size is not None and start > remote.size:
        target.unlink()
        start = 0
    if start and start == remote.size:
        return
    with _response(session, remote, start) as response, _translated(response.url):
        if not _continues(response, remote, start):
            target.unlink(missing_ok=True)
            raise TransientError(f"no answer to a request from byte {start:,} on; restarted at the first byte")
        count = start if response.status_code == 206 else 0
        progress().n = progress().initial = count
        with open(target, "ab" if count else "wb") as file:
            while block := response.raw.read1(READ_SIZE, decode_content=True):
                file.write(block)
                count += len(block)
                progress().update(len(block))
                if remote.size is not None and count > remote.size:
                    raise TransientError(f"more than the expected {remote.size:,} bytes", weight=3)
            file.flush()
            os.fsync(file.fileno())
    if remote.size not in (None, count):
        raise TransientError(f"connection closed after {count:,} of {remote.size:,} bytes")


@contextmanager
def _response(session: Session, remote: Remote, start: int) -> Iterator[Response]:
    """Request a file from byte `start` on, follow redirects, and yield the response of status 200, 206 or 416."""
    url, own = remote.url, _origin(remote.url)
    timeout = (retry.RETRY_POLICY.connect_timeout, retry.RETRY_POLICY.read_timeout)
    for _ in range(REDIRECTS):
        headers = {"Accept-Encoding": "identity", **(remote.headers if _origin(url) == own else {})}
        headers |= {"Range": f"bytes={start}-"} if start else {}
        with _translated(url):
            response = session.get(url, headers=headers, stream=True, allow_redirects=False, timeout=timeout)
        with response:
            if response.ok and _origin(url) == own:
                _check_announced(remote, response)
            if not response.is_redirect:
                if response.status_code not in (200, 206, 416):
                    error = status_error(remote.name, response.status_code, response.headers)
                    expired = isinstance(error, PermanentError) and _origin(url) != own  # signed addresses last minutes
                    host, status = urlsplit(url).hostname, response.status_code
                    raise TransientError(f"HTTP status {status} from {host}", weight=2) if expired else error
                yield response
                return
            url = urljoin(url, response.headers["location"])
    raise PermanentError(f"{remote.name}: more than {REDIRECTS} redirects")


def _check_announced(remote: Remote, response: Response) -> None:
    """Compare the headers of a hub with the expected commit, size and digest before any content is received."""
    headers = response.headers
    etag = (headers.get("x-linked-etag") or headers.get("etag", "")).removeprefix("W/").strip('"')
    comparable = re.fullmatch(DIGEST, etag) and len(etag) == len(remote.digest or "")
    announced = {
        "commit": headers.get("x-repo-commit"), "size": headers.get("x-linked-size"), "digest": etag if comparable else None
    }  # fmt: skip
    for key, value in announced.items():
        expected = getattr(remote, key)
        if remote.commit is not None and None not in (value, expected) and value != str(expected):
            raise PermanentError(
                f"{remote.name}: announced {key} {value}, expected {expected}; nothing was fetched: the file or a mirror changed",
                code="Changed",
            )


def _continues(response: Response, remote: Remote, start: int) -> bool:
    """Return whether a response begins at byte `start` or at the first; TransientError for a file of another size."""
    total = None if "content-encoding" in response.headers else response.headers.get("content-length")
    if response.status_code != 200:
        span = re.match(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("content-range", ""))
        if response.status_code != 206 or span is None or int(span[1]) != start:
            return False
        total = span[2].replace("*", "") or None
    if total is not None and remote.size not in (None, int(total)):
        raise TransientError(f"{int(total):,} bytes announced, expected {remote.size:,}", weight=3)
    return True


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Translate the errors of requests and urllib3 into TransientError and PermanentError, with host and reason."""
    from requests import exceptions
    from urllib3.exceptions import HTTPError, TimeoutError

    host = urlsplit(url).hostname
    try:
        yield
    except (exceptions.InvalidURL, exceptions.InvalidSchema, exceptions.MissingSchema):
        raise PermanentError(f"{url}: not an address of a file; expected https://...") from None
    except (exceptions.Timeout, TimeoutError):
        raise TransientError(f"{host} timed out") from None
    except (exceptions.RequestException, HTTPError) as error:
        causes: list[BaseException] = [error]
        while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
            causes.append(cause)
        reason = next((c.strerror for c in causes if isinstance(c, OSError) and c.strerror), type(error).__name__)
        if any(isinstance(cause, (socket.gaierror, ConnectionRefusedError)) for cause in causes):
            raise TransientError(f"{host} cannot be reached ({reason})", weight=2) from None
        raise TransientError(f"connection to {host} lost ({reason})") from None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def size_of(file: Path) -> int:
    """Return the size of a file in bytes, 0 if it does not exist."""
    return file.stat().st_size if file.exists() else 0
