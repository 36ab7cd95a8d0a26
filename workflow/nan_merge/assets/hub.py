"""Repositories of a hub: what a revision holds, where its files lie, and why the hub refuses them. No torch.

The token comes from the environment alone (HF_TOKEN), not from the cache of `hf auth login`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nan_merge.assets import retry
from nan_merge.assets.archives import Selection
from nan_merge.assets.http import Remote, receive
from nan_merge.assets.retry import PermanentError, TransientError, failure, with_retries
from nan_merge.core.errors import UserError

AssetSpec = Mapping[str, Any]


def wanted(spec: AssetSpec) -> str:
    """Return what a spec asks for, `owner/name@revision`, with the kind of repository if that is not a model."""
    kind = "" if spec.get("type", "model") == "model" else f"{spec['type']}s/"
    return f"{kind}{spec['repo']}@{spec.get('revision', 'main')}"


def remote(spec: AssetSpec, path: str, pinned: Mapping[str, Any]) -> Remote:
    """Return one file of the locked commit of a repository."""
    return _remote(spec, path, pinned["commit"], **pinned["files"][path])


def pin(spec: AssetSpec, scratch: Path) -> dict[str, Any]:
    """Look up the commit of a revision and size and SHA-256 of the files that the spec asks for.

    One request names commit, sizes and the SHA-256 of large files. Small ones have a git blob id only; they are
    downloaded into `scratch`, compared with it and hashed.
    """
    about = with_retries(wanted(spec), lambda: _about(spec))
    there = {file.rfilename: file for file in about.siblings or []}
    selection = Selection(spec, f"{wanted(spec)} ({about.sha})")
    names = [name for name in sorted(there) if selection.name(name) is not None]
    selection.check(f"correct `root:` or `members:` in config/assets.yaml; there are: {', '.join(sorted(there)) or 'no files'}")
    files = {}
    for name in names:
        large = there[name].lfs
        if large is not None:
            files[name] = {"size": large.size, "sha256": large.sha256}
        else:
            files[name] = _small(_remote(spec, name, about.sha, there[name].size), there[name].blob_id, scratch / "file")
    return {"of": wanted(spec), "commit": about.sha, "files": files}


def way_out(asset: str, spec: AssetSpec, error: PermanentError) -> str:
    """Say what a user can do about a refusal of the hub."""
    from huggingface_hub import constants

    lock = f"run: python -m scripts.update_lock {asset}"
    if error.code == "GatedRepo":
        page = f"{constants.ENDPOINT}/{wanted(spec).partition('@')[0]}"
        return f"access is restricted: accept the terms at {page}, then set HF_TOKEN to a token of that account"
    if error.code == "RepoNotFound":
        return (
            f"{constants.ENDPOINT} shows no such {spec.get('type', 'model')}: correct `repo:`, or, if it is private, set HF_TOKEN"
        )
    if error.code in ("RevisionNotFound", "EntryNotFound"):
        return f"correct `revision:` or `members:` in config/assets.yaml, then {lock}"
    if error.status in (401, 403):
        return (
            "the token in HF_TOKEN is not accepted: correct or unset it"
            if _token()
            else "set HF_TOKEN to a token that may read it"
        )
    return f"if the change is meant, {lock}" if error.status == 0 else "see whether it is there in a browser"


def _small(small: Remote, blob_id: str, file: Path) -> dict[str, Any]:
    """Download a file that is known by its git blob id and return its size and SHA-256."""
    receive(small, file)
    content = file.read_bytes()
    file.unlink()
    found = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if found != blob_id:
        raise UserError(f"{small.what}: arrived damaged: git blob id: expected {blob_id}, found {found}; run again")
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _remote(spec: AssetSpec, path: str, commit: str, size: int | None, sha256: str | None = None) -> Remote:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(spec["repo"], path, repo_type=spec.get("type", "model"), revision=commit)
    return Remote(url, f"{spec['repo']}: {path}", size, sha256, commit, build_hf_headers(token=_token()))


def _about(spec: AssetSpec) -> Any:
    """Ask the hub what a revision is."""
    from huggingface_hub import HfApi, constants, errors

    asked = {"repo_type": spec.get("type", "model"), "revision": spec.get("revision"), "timeout": retry.RETRY_POLICY.read}
    try:
        return HfApi(token=_token()).repo_info(spec["repo"], files_metadata=True, **asked)
    except errors.HfHubHTTPError as error:
        raise failure(wanted(spec), error.response.status_code, error.response.headers) from None
    except errors.HFValidationError as error:
        raise UserError(f"{error}; correct `repo:` in config/assets.yaml") from None
    except errors.OfflineModeIsEnabled:
        raise UserError(f"HF_HUB_OFFLINE is set, so {constants.ENDPOINT} is not asked; unset it") from None
    except Exception as error:
        if not type(error).__module__.startswith("httpx"):  # under the name that the client imports it
            raise
        raise TransientError(f"{constants.ENDPOINT} cannot be reached or broke off ({type(error).__name__})", weight=2) from None


def _token() -> str | bool:
    return os.environ.get("HF_TOKEN", "").strip() or False
