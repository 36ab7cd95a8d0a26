"""Repositories of a hub: commit, sizes, digests and addresses of files, asked of huggingface_hub; corrections of a refusal."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nan_merge.assets import retry
from nan_merge.assets.archives import Selection
from nan_merge.assets.http import Remote
from nan_merge.assets.retry import (
    NoHost,
    PermanentError,
    TransientError,
    resolution_failed,
    status_error,
    with_retries,
    within,
)
from nan_merge.assets.store import ensure
from nan_merge.core.errors import UserError
from nan_merge.core.files import sha256


@dataclass(frozen=True)
class Repository:
    """A repository of a hub at a branch, tag or commit (None: the branch main).

    The token is HF_TOKEN of the environment; with `login` also that of `hf auth login`.
    """

    id: str
    type: str = "model"
    revision: str | None = None
    login: bool = False

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Repository:
        """Return the repository of an asset spec."""
        return cls(spec["repo"], spec.get("type", "model"), spec.get("revision"))

    @property
    def path(self) -> str:
        """The path of its page below the address of the hub."""
        return self.id if self.type == "model" else f"{self.type}s/{self.id}"

    def __str__(self) -> str:
        """Return `owner/name@revision`, with the type of the repository before it if that is not a model."""
        return f"{self.path}@{self.revision or 'main'}"

    def remote(self, path: str, commit: str, size: int, digest: str) -> Remote:
        """Return one file of a commit."""
        from huggingface_hub import hf_hub_url

        url = hf_hub_url(self.id, path, repo_type=self.type, revision=commit)
        return Remote(url, f"{self.id}: {path}", size, digest, commit, headers=self._headers())

    def files(self, attempts: int | None = None) -> tuple[str, dict[str, Remote]]:
        """Return the commit of the revision and its files by path; large ones have a SHA-256, small ones a git blob id.

        Raises PermanentError for a refusal, UserError for a hub that cannot be reached in `attempts` attempts.
        """
        info = with_retries(str(self), self._info, attempts=attempts)
        files = {file.rfilename: (file.size, file.lfs.sha256 if file.lfs else file.blob_id) for file in info.siblings or []}
        for path, (size, digest) in files.items():
            if type(size) is not int or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", str(digest)):
                raise PermanentError(f"{self}: the listing has no size or no digest of {path!r}", "Listing")
        if not re.fullmatch("[0-9a-f]{40}", str(info.sha)):
            raise PermanentError(f"{self}: the listing has no commit", "Listing")
        return info.sha, {path: self.remote(path, info.sha, *file) for path, file in files.items()}

    def _info(self) -> Any:
        from huggingface_hub import HfApi, constants, errors

        try:
            api = HfApi(token=self._token())
            timeout = retry.RETRY_POLICY.read_timeout
            options: Any = {"repo_type": self.type, "revision": self.revision, "files_metadata": True, "timeout": timeout}
            return within(lambda: api.repo_info(self.id, **options))
        except errors.HfHubHTTPError as error:
            code = "RepoNotFound" if isinstance(error, errors.RepositoryNotFoundError) else ""
            raise status_error(str(self), error.response.status_code, error.response.headers, code) from None
        except errors.HFValidationError as error:
            raise PermanentError(f"not an id of a hub: {error}", "RepoNotFound") from None
        except errors.OfflineModeIsEnabled:
            raise UserError(f"{self}: no request to {constants.ENDPOINT}, since HF_HUB_OFFLINE is set (unset it)") from None
        except TransientError:
            raise
        except (ValueError, TypeError, LookupError, AttributeError) as error:  # of a listing that is none
            raise PermanentError(f"{self}: the answer is no listing of a hub ({type(error).__name__})", "Listing") from None
        except Exception as error:
            if not type(error).__module__.startswith("httpx"):  # its name differs between versions of huggingface_hub
                raise
            if unresolved := resolution_failed(error):
                raise NoHost(str(urlsplit(constants.ENDPOINT).hostname), unresolved) from None
            reason = f"{constants.ENDPOINT} cannot be reached, or the connection was lost ({type(error).__name__})"
            raise TransientError(reason, weight=2) from None

    def _token(self) -> str | bool | None:
        token = os.environ.get("HF_TOKEN", "").strip()
        if not re.fullmatch(r"[\x21-\x7e]*", token):  # it would be no line of a request, or two
            raise UserError("HF_TOKEN holds a space, a line break or another character that no token has; set it again")
        return None if self.login else token or False

    def _headers(self) -> dict[str, str]:
        from huggingface_hub.utils import build_hf_headers

        return build_hf_headers(token=self._token())

    def correction(self, error: PermanentError, lock: str = "") -> str:
        """Return how to correct a refusal of the hub; `lock` is the command that locks a changed asset spec."""
        from huggingface_hub import constants

        page = f"{constants.ENDPOINT}/{self.path}"
        log_in = "log in with `hf auth login` or set HF_TOKEN" if self.login else "set HF_TOKEN"
        repo, rest, renew = "`owner/name`", "the revision or the names of files", ""
        if lock:
            repo, rest = "`repo:` in config/assets.yaml", "`revision:` or `members:` in config/assets.yaml"
            renew = f", then run: {lock}"
        if error.code in ("401", "403"):
            sent = any(key.lower() == "authorization" for key in self._headers())
            return "the token is not accepted: correct or unset HF_TOKEN" if sent else f"{log_in} to a token with read access"
        changed = f"correct {rest} ({page}/commits lists them){renew}"
        return {
            "GatedRepo": f"access is restricted: accept the terms at {page}, then {log_in} to a token of that account",
            "RepoNotFound": f"no such {self.type} at {constants.ENDPOINT}: correct {repo}, or, if it is private, {log_in}",
            "RevisionNotFound": changed,
            "EntryNotFound": changed,
            "Listing": f"check HF_ENDPOINT ({constants.ENDPOINT}) and proxies on the way to it",
            "Changed": f"if the change is meant, run: {lock}" if lock else "run again later",
        }.get(error.code, f"open {page} in a browser to see whether it still exists")


def pin(spec: Mapping[str, Any], scratch: Path) -> dict[str, Any]:
    """Return the lock of an asset spec: the commit of its revision, size and SHA-256 of its files.

    Small files, of which a hub knows no SHA-256, are downloaded into `scratch` for that.
    """
    repository = Repository.of(spec)
    commit, remotes = repository.files()
    selection = Selection(spec, f"{repository} ({commit})")
    paths = [path for path in sorted(remotes) if selection.name(path) is not None]
    selection.check(f"correct `root:` or `members:` in config/assets.yaml; found: {', '.join(sorted(remotes)) or 'no files'}")
    return {"of": str(repository), "commit": commit, "files": {path: _pinned(remotes[path], scratch) for path in paths}}


def _pinned(remote: Remote, scratch: Path) -> dict[str, Any]:
    digest = str(remote.digest)
    if len(digest) != 64:
        ensure(remote, scratch / digest)
        digest = sha256(scratch / digest)
    return {"size": remote.size, "sha256": digest}
