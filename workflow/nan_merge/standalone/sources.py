"""Find the folder of a model: a local folder, or `owner/name[@revision]` of a hub in the cache of Hugging Face.

The files that are fetched: weights (safetensors before pickles), what is copied beside them (`companions`), the model card.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nan_merge.assets.hub import Repository
from nan_merge.assets.retry import PermanentError, log
from nan_merge.assets.store import ensure, missing, place
from nan_merge.checkpoints import checkpoint
from nan_merge.checkpoints.companions import Companions, is_inside, module_files
from nan_merge.core.atomic import atomic_write, recover
from nan_merge.core.disk import check_space
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json
from nan_merge.layouts import adapters

HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[^@\s]+))?", re.ASCII)
NAME = re.compile(r"[^\W_][\w.-]*")  # of an expert
LONGEST = 200  # characters of a path in a message
WEIGHTS = (*checkpoint.WEIGHTS, *adapters.WEIGHTS)  # the first of these that a model has; an index names its shards
CONFIGS = ("config.json", "adapter_config.json")
DOCUMENTS = ("README.md", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt", "USE_POLICY.md")


@dataclass(frozen=True)
class Source:
    """A model as the user named it (`given`) and its folder; `repo` and `commit` for a model of the hub.

    `name` is that of a merge whose folder is called otherwise.
    """

    given: str
    folder: Path
    repo: str | None = None
    commit: str | None = None
    name: str | None = None

    @classmethod
    def of(cls, folder: Path) -> Source:
        """Return the source of a folder; of the hub if source.json in it says so and its files are those of the cache."""
        return _fetched(folder) or cls(str(folder), folder)

    @property
    def pinned(self) -> str:
        """The path as given, or the hub id with its commit."""
        return f"{self.repo}@{self.commit}" if self.repo else self.given

    @property
    def title(self) -> str:
        """The hub id, the name of a merge, or the name of the folder as given."""
        return self.repo or self.name or local(self.given).resolve().name


def _fetched(folder: Path) -> Source | None:
    """Return the source that source.json of a folder names, if weights and configs are the files of that commit in the cache."""
    if not (folder / "source.json").is_file():
        return None
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    record = read_json(folder / "source.json")
    if not isinstance(record, dict):
        return None
    given, repo, commit = (str(record.get(key)) for key in ("given", "repo", "commit"))
    if not (re.fullmatch("[0-9a-f]{40}", commit) and HUB_ID.fullmatch(repo)):
        return None
    snapshot = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type="model"), "snapshots", commit)
    names = _weights_and_configs(folder)
    same = all((snapshot / name).resolve() == (folder / name).resolve() for name in names)
    return Source(given, folder, repo, commit) if names and same else None


def local(given: str) -> Path:
    """Return the path that a text names, `~` expanded but not `./~`; UserError for one that no file system takes."""
    path = Path(os.path.expanduser(given))
    try:
        path.resolve().exists()
    except (OSError, ValueError) as error:
        raise UserError(f"{given[:LONGEST]}: names no folder ({error}); correct the path") from None
    return path


def find(given: str) -> Source:
    """Return the source of a folder, taken as it is, or of a hub id, which is downloaded.

    Raises UserError for anything else, and for a download that fails.
    """
    folder = local(given)
    recover(folder)
    if folder.is_dir():
        return Source(given, folder)
    if folder.exists():
        raise UserError(f"{given}: is a file; expected the folder of a model")
    match = HUB_ID.fullmatch(given)
    if match is None or not is_inside(match["revision"] or "main"):
        raise UserError(
            f"{given}: no such folder here, and no hub id either (`owner/name`, with a branch, tag or commit"
            " `owner/name@revision`); correct the path or the id"
        )
    repository = Repository(match["repo"], revision=match["revision"], login=True)
    try:
        folder = download(repository)
    except PermanentError as error:
        raise UserError(f"{error}; {repository.correction(error)}") from None
    return Source(given, folder, repository.id, folder.name)


def short_names(models: Sequence[str], taken: Iterable[str] = ("base",)) -> list[str]:
    """Return a unique name for each folder or hub id: its last part, with -2, -3, ... if taken.

    Letters that no name has become `-`, so that `named` reads back what is written here: `my model` is `my-model`.
    """
    taken, names = {*taken}, []
    for model in models:
        stem = Path(model.partition("@")[0] if HUB_ID.fullmatch(model) else local(model).resolve()).name
        stem = re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", stem)).lstrip("-_.").rstrip("-") or "model"
        tries = [stem, *(f"{stem}-{number}" for number in range(2, len(taken) + 3))]
        names.append(next(name for name in tries if name not in taken))
        taken.add(names[-1])
    return names


def named(
    models: Mapping[str, str | Path] | Iterable[str | Path], option: str = "--expert", taken: Sequence[str] = ("base",)
) -> dict[str, str]:
    """Name every model: {name: folder or hub id}; of `NAME=model` the stated name, else that of `short_names`.

    Raises UserError, which names the option, for a name that is taken, or has other characters than letters, digits, `_`, `.`
    and `-`.
    """
    stated = isinstance(models, Mapping)
    written = [f"{name}={model}" for name, model in models.items()] if isinstance(models, Mapping) else [*map(str, models)]
    found: dict[str, str] = {}
    rest = []
    for text in written:
        match = None if not stated and local(text).exists() else re.fullmatch(rf"({NAME.pattern})=(.+)", text, re.DOTALL)
        if match is not None and match[1] in (*taken, *found):
            raise UserError(f"{option} {text}: the name '{match[1]}' is taken; choose another")
        if match is not None:
            found[match[1]] = match[2]
        elif stated:
            raise UserError(f"experts: {text}: expected a name of letters, digits, `_`, `.` and `-`, and a folder or hub id")
        else:
            rest.append(text)
    return {**found, **dict(zip(short_names(rest, (*taken, *found)), rest, strict=True))}


def weight_files(names: Iterable[str], index: Callable[[str], Any]) -> list[str]:
    """Return the files among `names` with the weights of a model, its index first; `index` reads an index as JSON."""
    names = set(names)
    for name in WEIGHTS:
        if name in names:
            return [name, *(_shards(name, index(name)) if name.endswith(".json") else [])]
    return []


def _shards(name: str, record: Any) -> list[str]:
    places = record.get("weight_map") if isinstance(record, dict) else None
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise UserError(f"{name}: no index of shards; expected `weight_map`, a file for each tensor; fetch it again")
    return sorted({*places.values()})


def _weights_and_configs(folder: Path) -> list[str]:
    names = {file.name for file in folder.iterdir() if file.is_file()}
    wanted = weight_files(names, lambda name: read_json(folder / name))
    parts = module_files(folder, (checkpoint.SINGLE, checkpoint.PICKLE))
    return [*(name for name in (*wanted, *CONFIGS) if name in names), *parts]


def files(folder: Path, cached: bool = True) -> dict[str, dict[str, Any]]:
    """Return the size of the files with weights or config; with `cached`, SHA-256 of those in the cache of Hugging Face."""
    return {name: _file(folder / name, cached) for name in _weights_and_configs(folder)}


def _file(path: Path, cached: bool) -> dict[str, Any]:
    blob = path.resolve()  # the cache of Hugging Face names large files by their SHA-256
    named = cached and blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name)
    return {"size": path.stat().st_size, **({"sha256": blob.name} if named else {})}


def download(repository: Repository) -> Path:
    """Fetch one revision of a model of the hub into the cache of Hugging Face and return its folder, named by its commit.

    Files in the cache are verified once and not fetched again. Without a network, with HF_HUB_OFFLINE, and while the hub is
    down, a complete revision of the cache is taken. Raises UserError.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    cached = _cached(repository)
    try:
        commit, remotes = repository.files(attempts=1 if cached else None)
    except PermanentError:
        raise
    except UserError as error:
        if cached is None:
            lacking = f"no such folder here, and not complete in the cache {constants.HF_HUB_CACHE}"
            way_out = f"run `hf download {repository.id}` where there is a network and copy its cache (HF_HOME)"
            raise UserError(f"{error}; {lacking}; or {way_out}") from None
        log(f"{error}; the folder of the cache is taken: {cached}")
        return cached
    cache = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repository.id, repo_type=repository.type))
    blobs = {name: cache / "blobs" / str(remote.digest) for name, remote in remotes.items()}

    def index(name: str) -> Any:
        ensure(remotes[name], blobs[name])
        return read_json(blobs[name])

    names = _wanted(f"{repository.id}@{commit}", remotes, index)
    needed, way_out = sum(missing(remotes[n], blobs[n]) for n in names), "free some, or set HF_HOME to a folder with more room"
    check_space(cache, needed, f"the download of {repository.id}", way_out)
    for name in names:
        ensure(remotes[name], blobs[name])
    folder = cache / "snapshots" / commit
    for name in reversed(names):  # the weights last: with them, the folder counts as complete
        place(blobs[name], folder / name, symbolic=True)
    reference = cache / "refs" / (repository.revision or "main")
    if commit != repository.revision and not (reference.is_file() and reference.read_text() == commit):
        with atomic_write(reference) as part:
            part.write_text(commit)
    return folder


def _wanted(where: str, names: Iterable[str], index: Callable[[str], Any]) -> list[str]:
    """Return the files of a repository that make its model, its weights first."""

    def read(name: str) -> Any:
        try:
            return index(name)
        except UserError:  # it is fetched as it is
            return {}

    names = [name for name in names if is_inside(name)]
    root = [name for name in names if "/" not in name]
    weights = weight_files(root, index)
    if not weights:
        raise UserError(f"{where}: has no weights; expected one of {', '.join(WEIGHTS)}")
    lacking = sorted(set(weights) - set(root))
    if lacking:
        raise UserError(f"{where}: {weights[0]} names the shard {lacking[0]!r}, which does not exist; tell its owner")
    copied = {*DOCUMENTS, *CONFIGS, *Companions(frozenset(names), read, frozenset(weights)).copied}
    return [*weights, *(name for name in names if name in copied and name not in weights)]


def _cached(repository: Repository) -> Path | None:
    """Return the folder of a revision in the cache of Hugging Face if all its weights are there."""
    from huggingface_hub import errors, snapshot_download

    local: Any = {"allow_patterns": list(CONFIGS), "local_files_only": True}
    try:
        folder = Path(snapshot_download(repository.id, revision=repository.revision, **local))
        names = {file.name for file in folder.iterdir() if file.exists()}
        weights = weight_files(names, lambda name: read_json(folder / name))
    except (errors.LocalEntryNotFoundError, errors.HFValidationError, UserError):  # the last: a damaged index
        return None
    return folder if weights and names.issuperset(weights) else None
