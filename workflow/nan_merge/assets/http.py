"""Receive a file over HTTP: redirects, Range requests, the headers that a hub announces a file with, and errors.

A token is sent to the origin of a `Remote` only, not to the target of a redirect. No message contains it, nor the address
of a redirect, which may be signed.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from nan_merge.assets import retry
from nan_merge.assets.retry import (
    NoHost,
    Pace,
    PermanentError,
    TransientError,
    resolution_failed,
    status_error,
    with_retries,
    within,
)
from nan_merge.core.progress import bar

if TYPE_CHECKING:
    from requests import Response, Session

READ_SIZE = 1 << 16  # bytes
LARGEST = 1 << 36  # bytes of a file of unknown size


@dataclass(frozen=True)
class Remote:
    """A file at an address; size in bytes, digest and commit (that a hub announces) where they are known.

    `name` is that of messages; `most` limits the bytes of a file of unknown size (default: LARGEST). `digest` is a SHA-256 (64
    hexadecimal digits) or a git blob id (40).
    """

    url: str
    name: str
    size: int | None = None
    digest: str | None = None
    commit: str | None = None
    most: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def receive(remote: Remote, target: Path) -> None:
    """Append to `target` the bytes that it lacks of `remote`, with retries; the size is checked, the digest is not."""
    import requests

    class Session(requests.Session):
        def rebuild_auth(self, request: Any, response: Any) -> None:
            """Send the token to no other origin, and to none the passwords of ~/.netrc, which requests adds here."""
            if self.should_strip_auth(response.request.url, request.url):
                request.headers.pop("Authorization", None)

    with Session() as session, ExitStack() as stack:
        progress = functools.cache(lambda: stack.enter_context(bar(remote.name, remote.size or 0, "B")))
        session.auth = lambda request: request  # no password of ~/.netrc in the first request either
        with_retries(remote.name, lambda: _attempt(session, remote, target, progress), lambda: size_of(target))


def _attempt(session: Session, remote: Remote, target: Path, progress: Callable[[], Any]) -> None:
    """Make one request and append its content; TransientError if the file is not complete then."""
    start = size_of(target)
    if remote.size is not None and start > remote.size:
        target.unlink()
        start = 0
    if start and start == remote.size:
        return
    with _translated(remote.url):
        response = within(
            lambda: session.get(
                remote.url,
                headers={"Accept-Encoding": "identity", **remote.headers, **({"Range": f"bytes={start}-"} if start else {})},
                stream=True,
                timeout=(retry.RETRY_POLICY.connect_timeout, retry.RETRY_POLICY.read_timeout),
                hooks={"response": functools.partial(_check_announced, remote)},
            )
        )
    pace = Pace()
    with response, _translated(response.url):
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
                pace.received(len(block))
                if remote.size is not None and count > remote.size:
                    raise TransientError(f"more than the expected {remote.size:,} bytes", weight=3)
                if remote.size is None and count > (most := remote.most or LARGEST):
                    reason = f"more than {most:,} bytes, the most that is fetched of a file of unknown size"
                    raise PermanentError(f"{remote.name}: {reason}; state `bytes:` if it is larger")
            file.flush()
            os.fsync(file.fileno())
    if remote.size not in (None, count):
        raise TransientError(f"connection closed after {count:,} of {remote.size:,} bytes")


def _check_announced(remote: Remote, response: Response, **_: Any) -> None:
    """Compare the headers of a hub with the expected commit, size and digest before a redirect or any content."""
    if remote.commit is None or not response.ok or _origin(response.url) != _origin(remote.url):
        return
    headers = response.headers
    etag = (headers.get("x-linked-etag") or headers.get("etag", "")).removeprefix("W/").strip('"')
    digest = etag if len(etag) == len(remote.digest or "") else None  # else a digest of another kind
    announced = {"commit": headers.get("x-repo-commit"), "size": headers.get("x-linked-size"), "digest": digest}
    for key, value in announced.items():
        if value is not None and value != str(getattr(remote, key)):
            reason = f"announced {key} {value}, expected {getattr(remote, key)}"
            raise PermanentError(f"{remote.name}: {reason}; nothing was fetched: the file or a mirror changed", "Changed")


def _continues(response: Response, remote: Remote, start: int) -> bool:
    """Return whether a response begins at byte `start` or at the first.

    Raises PermanentError or TransientError for another status than 200, 206 and 416, TransientError for another size.
    """
    status, headers = response.status_code, response.headers
    if status not in (200, 206, 416):
        if _origin(response.url) != _origin(remote.url) and status not in retry.TRANSIENT:  # signed addresses expire
            raise TransientError(f"HTTP status {status} from {urlsplit(response.url).hostname}", weight=2)
        raise status_error(remote.name, status, headers)
    total = None if "content-encoding" in headers else headers.get("content-length")
    if status != 200:
        span = re.match(r"bytes ([0-9]{1,18})-[0-9]+/([0-9]+|\*)", headers.get("content-range", ""))
        if status == 416 or span is None or int(span[1]) != start:
            return False
        total = span[2].replace("*", "") or None
    announced = remote.size if total is None or remote.size is None else whole_number(total)
    if announced != remote.size:
        shown = "no number of bytes" if announced is None else f"{announced:,} bytes"
        raise TransientError(f"{shown} announced, expected {remote.size:,}", weight=3)
    return True


def whole_number(text: str) -> int | None:
    """Return the number that a header holds, None for any other text."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text.strip()) else None


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Translate the errors of requests and urllib3 into TransientError and PermanentError, with host and reason."""
    from requests import exceptions
    from urllib3.exceptions import HTTPError, TimeoutError

    try:
        yield
    except (exceptions.InvalidSchema, exceptions.TooManyRedirects, ValueError):  # InvalidURL is a ValueError, as that of urlsplit
        raise PermanentError(f"{shown_address(url)}: not the address of a file; expected https://...") from None
    except (exceptions.RequestException, HTTPError) as error:
        request = getattr(error, "request", None)  # the one after a redirect
        host = urlsplit(str(request.url) if request else url).hostname
        if unresolved := resolution_failed(error):
            raise NoHost(str(host), unresolved) from None
        if isinstance(error, (exceptions.Timeout, TimeoutError)):
            raise TransientError(f"{host} timed out") from None
        causes: list[BaseException] = [error]
        while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
            causes.append(cause)
        reason = next((c.strerror for c in causes if isinstance(c, OSError) and c.strerror), type(error).__name__)
        if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
            raise TransientError(f"{host} cannot be reached ({reason})", weight=2) from None
        raise TransientError(f"connection to {host} lost ({reason})") from None


def shown_address(url: str) -> str:
    """Return an address for messages: without user, query and fragment, which may hold a secret."""
    try:
        parts = urlsplit(url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:
        return "the address"


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def size_of(file: Path) -> int:
    """Return the size of a file in bytes, 0 if it does not exist."""
    return file.stat().st_size if file.exists() else 0
