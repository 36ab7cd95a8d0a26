"""Find the folder of a model: a local folder as it is, a hub id `owner/name[@revision]` by download. No torch.

What is fetched is data: weights (safetensors before pickles), configs, tokenizer files, the model card; no code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nan_merge.checkpoints import checkpoint
from nan_merge.core.digests import sha256
from nan_merge.core.disk import check_space
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json
from nan_merge.layouts import adapters

HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[^@\s]+))?", re.ASCII)
WEIGHTS = (*checkpoint.WEIGHTS, *adapters.WEIGHTS)  # the first of these that a model has; an index names its shards
DOCUMENTS = ("README.md", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt", "USE_POLICY.md")


@dataclass(frozen=True)
class Source:
    """A model as the user named it, and the folder where it lies; `repo` and `commit` for a model of the hub."""

    given: str
    folder: Path
    repo: str | None = None
    commit: str | None = None

    @classmethod
    def of(cls, folder: Path) -> Source:
        """Return the source of a folder that may have been fetched from the hub (it then holds source.json)."""
        if (folder / "source.json").is_file():
            return cls(**read_json(folder / "source.json"), folder=folder)
        return cls(str(folder), folder)

    @property
    def pinned(self) -> str:
        """The name under which the same bytes are found again: the path as given, or the hub id with its commit."""
        return f"{self.repo}@{self.commit}" if self.repo else self.given

    @property
    def title(self) -> str:
        """The hub id, or the name of the folder."""
        return self.repo or self.folder.resolve().name


def find(given: str) -> Source:
    """Return the folder of a model; an existing folder is taken as it is, a hub id is downloaded.

    Raises UserError for something that is neither, and for everything that keeps the hub from answering.
    """
    folder = Path(given).expanduser()
    if folder.is_dir():
        return Source(given, folder)
    if folder.exists():
        raise UserError(f"{given}: is a file; expected the folder of a model")
    match = HUB_ID.fullmatch(given)
    if match is None:
        raise UserError(
            f"{given}: no such folder here, and no hub id either (`owner/name`, with a branch, tag or commit"
            " `owner/name@revision`); correct the path or the id"
        )
    folder = download(match["repo"], match["revision"])
    return Source(given, folder, match["repo"], folder.name)


def short_names(models: Sequence[str], taken: Iterable[str] = ()) -> list[str]:
    """Return a name for each folder or hub id: its last part, with -2, -3, ... where that is taken; never `base`."""
    taken, names = {"base", *taken}, []
    for model in models:
        stem = Path(model.partition("@")[0] if HUB_ID.fullmatch(model) else Path(model).expanduser().resolve()).name
        tries = [stem, *(f"{stem}-{number}" for number in range(2, len(taken) + 3))]
        names.append(next(name for name in tries if name not in taken))
        taken.add(names[-1])
    return names


def weight_files(names: Iterable[str], index: Callable[[str], Any]) -> list[str]:
    """Return the files among `names` that hold the weights of a model, its index first; none: [].

    `index` reads the index of that name as JSON.
    """
    names = set(names)
    for name in WEIGHTS:
        if name in names:
            shards = set(index(name).get("weight_map", {}).values()) if name.endswith(".json") else set()
            return [name, *sorted(shards)]
    return []


def files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size, and SHA-256 where the hub's cache knows it, of the files of a folder that hold weights or config."""
    there = {file.name for file in folder.iterdir() if file.is_file()}
    wanted = weight_files(there, lambda name: read_json(folder / name))
    wanted += [name for name in ("config.json", "adapter_config.json") if name in there]
    return {name: _file(folder / name) for name in wanted if name in there}


def _file(path: Path) -> dict[str, Any]:
    blob = path.resolve()  # in the cache of the hub, large files lie under their SHA-256
    known = {"sha256": blob.name} if re.fullmatch("[0-9a-f]{64}", blob.name) else {}
    return {"size": path.stat().st_size, **known}


def download(repo: str, revision: str | None = None) -> Path:
    """Bring one revision of a model of the hub into the hub's cache and return its folder, which is named by its commit.

    Without a network, or if the hub is down, what the cache holds of it is taken. The SHA-256 of every large file that
    is fetched is checked (the hub's own client does not). Raises UserError with the way out.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    with _explained(repo, revision):
        try:
            found = HfApi().model_info(repo, revision=revision, files_metadata=True)
        except Exception as error:
            if not _nobody_answers(error):
                raise
            return _cached(repo, revision, error)
        there = {file.rfilename: file for file in found.siblings or []}
        wanted = _wanted(repo, str(found.sha), list(there))
        fresh = [name for name in wanted if not _in_cache(repo, str(found.sha), name)]
        needed, way_out = sum(there[name].size or 0 for name in fresh), "free some, or set HF_HOME to a folder with more room"
        check_space(Path(constants.HF_HUB_CACHE), needed, f"the download of {repo}", way_out)
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=wanted))  # notes the branch for offline use
    if folder.name != found.sha:
        raise UserError(f"{repo}: changed from {found.sha} to {folder.name} while it was fetched; run again")
    for name in fresh:
        large = there[name].lfs
        if large is not None:
            _verify(folder / name, large.sha256, repo)
    return folder


def _wanted(repo: str, commit: str, names: Iterable[str]) -> list[str]:
    """Return the files at the root of a repository that make its model."""
    from huggingface_hub import hf_hub_download

    names = [name for name in names if "/" not in name]
    weights = weight_files(names, lambda name: read_json(hf_hub_download(repo, name, revision=commit)))
    if not weights:
        raise UserError(f"{repo}@{commit}: holds no weights; expected one of {', '.join(WEIGHTS)}")
    lacking = sorted(set(weights) - set(names))
    if lacking:
        raise UserError(f"{repo}@{commit}: {weights[0]} names the shard {lacking[0]!r}, which is not there; tell its owner")
    others = [n for n in names if n in DOCUMENTS or (n.endswith(checkpoint.COMPANIONS) and not n.endswith(".index.json"))]
    return [*weights, *others]


def _in_cache(repo: str, commit: str, name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repo, name, revision=commit), str)


def _verify(file: Path, expected: str, repo: str) -> None:
    found = sha256(file)
    if found != expected:
        file.resolve().unlink()
        file.unlink(missing_ok=True)
        raise UserError(f"{repo}: {file.name} arrived damaged: sha256 {found}, expected {expected}; run again to fetch it anew")


def _cached(repo: str, revision: str | None, error: Exception) -> Path:
    """Return what the cache holds of a revision; if that is nothing, raise the error that sent us here."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    configs = ["config.json", "adapter_config.json"]
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=configs, local_files_only=True))
    except LocalEntryNotFoundError:
        raise error from None


def _nobody_answers(error: Exception) -> bool:
    """Say whether an error means: offline, no connection (httpx, under the name that the client imports it), or 5xx."""
    response = getattr(error, "response", None)
    if response is not None:
        return response.status_code >= 500
    return isinstance(error, ConnectionError) or type(error).__module__.startswith("httpx")


@contextmanager
def _explained(repo: str, revision: str | None) -> Iterator[None]:
    """Turn the errors of the hub's client into UserErrors that say what to do."""
    from huggingface_hub import constants, errors

    hub, what = constants.ENDPOINT, f"{repo}@{revision}" if revision else repo
    log_in = "log in with `hf auth login` or set HF_TOKEN"
    elsewhere = f"run `hf download {repo}` where there is a network and take its cache along (HF_HOME)"
    try:
        yield
    except errors.GatedRepoError:
        raise UserError(f"{what}: access is restricted; accept its terms at {hub}/{repo}, then {log_in}") from None
    except errors.RepositoryNotFoundError:
        found = f"no such folder here and no such model at {hub}"
        raise UserError(f"{what}: {found}; correct the path or the id, or, if it is private, {log_in}") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{what}: {repo} has no branch, tag or commit '{revision}'; see {hub}/{repo}/commits") from None
    except errors.HFValidationError as error:
        raise UserError(f"{what}: no such folder here, and no hub id: {error}") from None
    except errors.HfHubHTTPError as error:
        code = error.response.status_code
        way_out = f"the token is refused; {log_in}" if code in (401, 403) else "try again later"
        raise UserError(f"{what}: {hub} answers {code}; {way_out}") from None
    except errors.OfflineModeIsEnabled:
        reason = f"HF_HUB_OFFLINE is set, and it is not in the cache {constants.HF_HUB_CACHE}"
        raise UserError(f"{what}: no such folder here; {reason}; unset that, or {elsewhere}") from None
    except Exception as error:
        if not _nobody_answers(error) and not isinstance(error, errors.LocalEntryNotFoundError):
            raise
        reason = f"{hub} cannot be reached or broke off ({str(error) or type(error).__name__})"
        raise UserError(f"{what}: no such folder here; {reason}; check path and network, or {elsewhere}") from None
