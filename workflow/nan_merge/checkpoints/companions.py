"""Say which files of a model's folder belong to it besides its weights, copy them, and name those that do not.

One rule holds for a folder on disk and for the listing of a hub. Files are copied as they are: code among them is data,
which nothing here runs.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from nan_merge.core.errors import UserError
from nan_merge.core.files import is_cached, read_json
from nan_merge.core.names import first_of

SUFFIXES = (
    ".json", ".txt", ".model", ".jinja", ".tiktoken", ".spm", ".bpe", ".codes", ".vocab", ".merges", ".yaml", ".yml", ".npz",
)  # fmt: skip
STEMS = ("tokenizer.", "LICENSE", "LICENCE", "NOTICE", "USE_POLICY")  # starts of names with any suffix
WEIGHTS = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".onnx_data", ".gguf", ".ggml", ".tflite", ".ot",
    ".npy", ".pkl", ".pickle", ".joblib", ".xml", ".mlmodel", ".pdparams", ".distcp",
)  # fmt: skip
PROVENANCE = ("asset.json", "source.json", "provenance.json", "adapter_config.json", "trainer_state.json")
UNNAMED = ("README.md", ".gitattributes", ".gitignore", *PROVENANCE)  # of the root: neither copied nor in a note
IGNORED = (".git", ".cache", "__pycache__", ".DS_Store")  # anywhere
MODULES = "modules.json"  # of sentence-transformers: the sub-folders that are parts of the model
CODE_KEYS = ("auto_map", "impl")  # of a config: classes in files of code; `impl` is that of `custom_pipelines`
SECRET_NAME = re.compile(
    r"\.env(\..*)?|\.?netrc|\.?(git-)?credentials.*|\.?((hf|access|auth|api)[_-]?)?token(\.(txt|json|ya?ml))?|stored_tokens"
    r"|id_(rsa|dsa|ecdsa|ed25519).*|.*\.(pem|key|p12|pfx|jks|keystore|kdbx|ovpn)|\.?htpasswd|\.pypirc|\.npmrc|kubeconfig"
    r"|(.*[._-])?(secrets?|passwords?|passwd|api[_-]?keys?|private[_-]key|service[_-]account)([._-].*)?",
    re.IGNORECASE,
)
SECRET_TEXT = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY|\bhf_[A-Za-z0-9]{30,}|\bgh[pousr]_[A-Za-z0-9]{36}|\bgithub_pat_\w{22,}|\bglpat-[\w-]{20}"
    rb"|\bAKIA[0-9A-Z]{16}\b|\bxox[abprs]-\w{10,}|\bAIza[\w-]{35}|\bsk-(proj|ant|svcacct)-[\w-]{20,}"
)
SEARCHED_BYTES = 1 << 20  # larger files are vocabularies
LEVELS, MOST = 8, 10_000  # folders below each other, and files, that are searched
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Companions:
    """The files of a model by their paths in its folder; `weights` are those that are merged.

    `read` returns the content of one file as JSON, {} for one that cannot be read.
    """

    names: frozenset[str]
    read: Callable[[str], Any]
    weights: frozenset[str] = frozenset()

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """The sub-folders that modules.json names, with the `/` at their end."""
        paths = [str(entry.get("path") or "").strip("/") for entry in self._modules]
        return tuple(f"{path}/" for path in paths if path)

    @cached_property
    def code(self) -> dict[str, list[str]]:
        """The classes that the configs name in files of code, by the repository of the files; "" for this one."""
        configs = [name for name in self.names if name.endswith("config.json") and ("/" not in name or self._is_part(name))]
        classes = {each for name in sorted(configs) for each in _below(self.read(name), CODE_KEYS)}
        kinds = {kind for entry in self._modules if isinstance(kind := entry.get("type"), str)}
        classes |= {kind for kind in kinds if not kind.startswith("sentence_transformers.")}
        found: dict[str, list[str]] = {}
        for each in sorted(classes):
            repository, _, kind = each.rpartition("--")
            found.setdefault(repository, []).append(kind)
        return found

    @cached_property
    def copied(self) -> list[str]:
        """The files that belong to the model besides its weights, sorted."""
        return sorted(name for name in self.names if self._belongs(name))

    @cached_property
    def left(self) -> list[str]:
        """The files that do not belong to it, sorted; of a folder without any that does, `folder/` alone."""
        used = {_top(name) for name in self.copied}
        left = [name for name in self.names - self.weights - {*self.copied} if not _unnamed(name)]
        return sorted({name if "/" not in name or _top(name) in used else f"{_top(name)}/" for name in left})

    def notes(self) -> list[str]:
        """Say what is copied without a merge, what code the configs name, and what is not copied."""
        parts = [name for name in self.copied if PurePosixPath(name).suffix in WEIGHTS]
        code = [name for name in self.copied if name.endswith(".py")]
        texts = {
            "weights in sub-folders are those of the base and were not merged": parts,
            "code of the base was copied as data and was not run": code,
            "the configs name code of other repositories, which `trust_remote_code` fetches and runs": sorted(
                {*self.code} - {""}
            ),
            "not copied from the folder of the base": self.left,
        }
        return [f"{text}: {first_of(names)}" for text, names in texts.items() if names]

    @cached_property
    def _modules(self) -> list[Mapping[str, Any]]:
        entries = self.read(MODULES) if MODULES in self.names else []
        return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []

    @cached_property
    def _merged_parts(self) -> set[str]:
        """The sub-folders with weights that are merged: other formats of these there are not the merge's."""
        return {PurePosixPath(name).parent.as_posix() for name in self.weights}

    @cached_property
    def _other_models(self) -> set[str]:
        """The sub-folders with weights that are no part of this model: other formats of it, states of a training run."""
        files = (name for name in self.names if "/" in name and not self._is_part(name))
        return {_top(name) for name in files if PurePosixPath(name).suffix in WEIGHTS}

    def _is_part(self, name: str) -> bool:
        return name.startswith(self.modules)

    def _belongs(self, name: str) -> bool:
        path = PurePosixPath(name)
        if name in self.weights or _unnamed(name) or is_secret(name) or any(part.startswith(".") for part in path.parts):
            return False
        if self._is_part(name):
            return path.suffix not in WEIGHTS or path.parent.as_posix() not in self._merged_parts
        if path.suffix in WEIGHTS or ("/" in name and _top(name) in self._other_models):
            return False
        return path.suffix in SUFFIXES or path.name.startswith(STEMS) or (path.suffix == ".py" and "" in self.code)


def of_folder(folder: Path, weights: Iterable[str] = ()) -> tuple[Companions, list[str]]:
    """Return the companions of a folder, and notes on files that are left out for what they are.

    Left out are secrets, links that lead out of the folder other than into the cache of Hugging Face, and what is no file.
    """
    files, outside, odd = _files(folder)
    names = frozenset(name for name in files if not is_secret(name))

    def read(name: str) -> Any:
        try:
            return read_json(files[name])
        except (UserError, OSError):  # it is copied as it is
            return {}

    found = Companions(names, read, frozenset(weights))
    found = replace(found, names=names - {name for name in found.copied if _holds_secret(files[name])})
    secret = sorted(files.keys() - found.names)
    reasons = {"links that lead out of it": outside, "files that look like secrets": secret, "not searched, or no files": odd}
    return found, [f"not copied from the folder of the base, {why}: {first_of(left)}" for why, left in reasons.items() if left]


def module_files(folder: Path, kinds: Sequence[str]) -> list[str]:
    """Return the weight file, of the first of the `kinds` that is there, of each sub-folder that modules.json names."""
    if not (folder / MODULES).is_file():
        return []
    found, _ = of_folder(folder)
    given = [[f"{module}{kind}" for kind in kinds if f"{module}{kind}" in found.names] for module in found.modules]
    return [files[0] for files in given if files]


def companion_notes(folder: Path, weights: Iterable[str] = ()) -> list[str]:
    """Say what `copy_companions` does not copy, or copies with a reservation."""
    found, notes = of_folder(folder, weights)
    return [*found.notes(), *notes]


def copy_companions(source: Path, target: Path, weights: Iterable[str] = ()) -> None:
    """Copy configs, tokenizer, processor, licences, code and parts in sub-folders; no weights of the root, no provenance.

    The byte order mark of a JSON file, which the readers of models refuse, is left out of the copy.
    """
    for name in of_folder(source, weights)[0].copied:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        with open(source / name, "rb") as old, open(target / name, "wb") as new:
            if not (name.endswith(".json") and old.read(len(BOM)) == BOM):
                old.seek(0)
            shutil.copyfileobj(old, new)


def is_secret(name: str) -> bool:
    """Return whether a path looks like that of a secret."""
    return any(SECRET_NAME.fullmatch(part) for part in PurePosixPath(name).parts)


def is_inside(name: str) -> bool:
    """Return whether a path of a listing stays in its folder."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and not {"\\", "\0"} & {*name}


def _files(folder: Path) -> tuple[dict[str, Path], list[str], list[str]]:
    """Return the files below a folder by name, the links that lead out of it, and what is no file or not searched."""
    root = folder.resolve()
    files: dict[str, Path] = {}
    outside: list[str] = []
    odd: list[str] = []
    waiting, seen = [(folder, "", 0)], {root}
    while waiting:
        place, stem, level = waiting.pop(0)
        for path in sorted(place.iterdir()):
            name = f"{stem}{path.name}"
            if path.name in IGNORED:
                continue
            try:
                real = path.resolve(strict=True)
            except (OSError, RuntimeError):  # it leads nowhere, or to itself
                odd.append(name)
                continue
            if path.is_symlink() and not _may_follow(real, root):
                outside.append(name)
            elif path.is_file() and len(files) < MOST:
                files[name] = path
            elif path.is_dir() and level < LEVELS and len(files) < MOST:
                waiting += [] if real in seen else [(path, f"{name}/", level + 1)]
                seen.add(real)
            else:
                odd.append(name)
    return files, outside, odd


def _may_follow(real: Path, root: Path) -> bool:
    """Return whether a link may lead there: to what is neither hidden nor a secret in the folder, or into a cache."""
    if not real.is_relative_to(root):
        return is_cached(real)
    inner = real.relative_to(root)
    return not is_secret(inner.as_posix()) and not any(part.startswith(".") for part in inner.parts)


def _holds_secret(path: Path) -> bool:
    if path.suffix in WEIGHTS or path.stat().st_size > SEARCHED_BYTES:
        return False
    return SECRET_TEXT.search(path.read_bytes()) is not None


def _unnamed(name: str) -> bool:
    return name in UNNAMED or name.endswith((".part", ".lock", ".stamp")) or ("/" not in name and name.endswith(".index.json"))


def _top(name: str) -> str:
    return name.partition("/")[0]


def _below(value: Any, keys: Sequence[Any]) -> Iterator[str]:
    """Yield the texts that stand below one of the keys, at any depth."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _texts(inner) if key in keys else _below(inner, keys)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(inner)
