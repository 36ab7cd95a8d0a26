"""Find the files of each split and the label names of a fetched hub data set; compare these with the classes of a task.

The rules are those of the `datasets` library (load_dataset on a local folder): `configs` in the header of README.md, else
names of folders and files. The library itself requires all splits of the card, and only the wanted ones are fetched; a
test compares the results.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nan_merge.core.errors import UserError
from nan_merge.core.text import front_matter

SUFFIXES = (".parquet", ".tar")
KEYWORDS = {
    "train": {"train", "training"},
    "validation": {"validation", "valid", "dev", "val"},
    "test": {"test", "testing", "eval", "evaluation"},
}


def card(folder: Path) -> dict[str, Any]:
    """Return the YAML header of README.md, empty if missing."""
    return front_matter(folder / "README.md")


@contextmanager
def _form(folder: Path) -> Iterator[None]:
    """Turn the error of a header whose values are of another kind than those of data sets into a UserError."""
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, NotImplementedError) as error:
        file = folder / "README.md"
        raise UserError(
            f"{file}: `configs` or `dataset_info` of its header has another form than in the data sets of a hub"
            f" ({str(error)[:200] or type(error).__name__}); fetch the data set again, or correct its README.md"
        ) from None


def split_files(folder: Path, split: str, config: str | None = None) -> list[Path]:
    """Return the shards of one split of a fetched data set, sorted by path.

    Raises UserError for an unknown configuration, an unknown split, a split without files and missing shards.
    """
    with _form(folder):
        base, patterns = _configuration(folder, config)
        found = {name: {f for p in globs for f in _found(base, p) if f.is_file()} for name, globs in (patterns or {}).items()}
    splits = _conventional(base) if patterns is None else {name: sorted(each) for name, each in found.items()}
    if split not in splits:
        known = ", ".join(map(repr, splits)) or "no split at all"
        raise UserError(f"{folder}: the data set has no split {split!r}, only {known}; correct `arguments: origin:`")
    files = [file for file in splits[split] if file.suffix in SUFFIXES]
    if not files:
        like = f" like {', '.join(patterns[split])} (README.md)" if patterns else ""
        content = f"files {sorted({f.suffix for f in splits[split]})}" if splits[split] else "no file"
        raise UserError(
            f"{folder}: split {split!r} has {content}, expected parquet or tar shards"
            f"{like}; correct `members:` of the asset in config/assets.yaml"
        )
    _complete(folder, files)
    return files


def _found(base: Path, pattern: str) -> Iterable[Path]:
    """Return what a pattern of a card matches in the folder, nothing for a pattern that leads out of it."""
    inner = pattern.lstrip("/")
    return base.glob(inner) if _is_inner(inner) else []


def _is_inner(path: str) -> bool:
    return path != "" and not path.startswith("/") and ".." not in Path(path).parts


def _configuration(folder: Path, config: str | None) -> tuple[Path, dict[str, list[str]] | None]:
    """Return the folder of the wanted configuration and its split -> patterns; None if file names decide."""
    configs = card(folder).get("configs") or []
    if not isinstance(configs, list) or not all(isinstance(entry, dict) for entry in configs):
        raise UserError(f"{folder / 'README.md'}: `configs` of its header is no list of mappings; fetch the data set again")
    entries = {str(entry.get("config_name", "default")): entry for entry in configs}
    if not entries:
        base = folder / config if config else folder
        if not base.is_dir():
            raise UserError(f"{folder}: the data set has no configuration {config!r}; correct `arguments: config:`")
        return base, None
    defaults = [name for name, entry in entries.items() if entry.get("default") or name == "default" or len(entries) == 1]
    name = config or (defaults[0] if defaults else None)
    if name not in entries:
        problem = f"no configuration {config!r}" if config else "several configurations and no default"
        raise UserError(f"{folder / 'README.md'}: {problem}, expected one of {', '.join(entries)}; set `arguments: config:`")
    files = entries[name].get("data_files")
    if files is None:
        place = str(entries[name].get("data_dir") or ".")
        if not _is_inner(place):
            raise UserError(f"{folder / 'README.md'}: `data_dir: {place}` of its header leads out of the data set")
        return folder / place, None
    return folder, _patterns(files)


def _patterns(files: Any) -> dict[str, list[str]]:
    """Convert any form of `data_files` to split -> patterns."""
    if isinstance(files, str) or (isinstance(files, list) and all(isinstance(item, str) for item in files)):
        return {"train": _listed(files)}
    if isinstance(files, dict):
        return {str(split): _listed(paths) for split, paths in files.items()}
    return {str(item["split"]): _listed(item["path"]) for item in files}


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(item) for item in value]


def _conventional(base: Path) -> dict[str, list[Path]]:
    """Return split -> files by name: data/<split>-00000-of-00001, else a keyword in the name of a folder or a file."""
    files = sorted(f for f in base.rglob("*") if f.suffix in SUFFIXES)
    files = [f for f in files if not any(part.startswith((".", "__")) for part in f.relative_to(base).parts)]
    found: dict[str, list[Path]] = {}
    for file in files:
        if file.parent == base / "data" and (shard := re.match(r"(\w+)-\d{5}-of-\d{5}", file.name)):
            found.setdefault(shard[1], []).append(file)
    if found:
        return found
    for names in (lambda f: f.relative_to(base).parent.parts, lambda f: (f.name,)):
        for file in files:
            for split in _named(names(file)):
                found.setdefault(split, []).append(file)
        if found:
            return found
    return {"train": files} if files else {}


def _named(names: Iterable[str]) -> list[str]:
    words = {word for name in names for word in re.split(r"[-._ 0-9]+", name)}
    return [split for split, keywords in KEYWORDS.items() if words & keywords]


def _complete(folder: Path, files: list[Path]) -> None:
    """Raise UserError for missing shards; names like train-00000-of-00013 state their number."""
    present: dict[tuple[str, int], set[int]] = {}
    for file in files:
        if shard := re.fullmatch(r"(.*)-(\d{5})-of-(\d{5}).*", str(file.relative_to(folder))):
            present.setdefault((shard[1], int(shard[3])), set()).add(int(shard[2]))
    for (stem, total), numbers in present.items():
        if missing := sorted(set(range(total)) - numbers):
            raise UserError(
                f"{folder}: {len(missing)} of the {total} shards of {stem} are missing, the first is {stem}-{missing[0]:05d}-of-"
                f"{total:05d}; remove the folder and fetch the asset again, or correct its `members:` in config/assets.yaml"
            )


def label_names(folder: Path, label: str, config: str | None = None) -> dict[str, list[str]]:
    """Return the label names by the file that states them: README.md, and classnames.txt of CLIP Benchmark."""
    with _form(folder):
        stated = _names_of_card(folder, label, config)
    if (file := folder / "classnames.txt").is_file():
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
        stated["classnames.txt"] = [name.strip() for name in lines if name.strip()]
    return stated


def _names_of_card(folder: Path, label: str, config: str | None) -> dict[str, list[str]]:
    """Return {README.md: names of the labels}, {} for a header without them."""
    stated = {}
    infos = card(folder).get("dataset_info") or []
    for info in infos if isinstance(infos, list) else [infos]:
        if len(infos) > 1 and isinstance(infos, list) and info.get("config_name", "default") != (config or "default"):
            continue
        for feature in info.get("features") or []:
            kind = feature.get("dtype") if feature.get("name") == label else None
            names = kind.get("class_label", {}).get("names") if isinstance(kind, dict) else None
            if names:
                keys = sorted(names, key=int) if isinstance(names, dict) else range(len(names))
                stated["README.md"] = [str(names[key]) for key in keys]
    return stated


def check_order(classes: Any, stated: Mapping[str, list[str]], first: int = 0, option: str = "classes") -> dict[str, Any]:
    """Compare a task's classes with label names by the file that states them; return how many were verified and by which files.

    The keys of a mapping must equal the label names. The items of a list are compared without case and punctuation; one
    equal to the name of another label is a wrong order, one equal to no name stays unverified. `first` is the number of the
    first class, `option` the key of the task that holds them. Raises UserError for another number of classes and for a wrong
    order.
    """
    exact = isinstance(classes, Mapping)
    keys = [str(key) for key in classes]
    agreed: set[int] = set()
    for file, names in stated.items():
        names = names[first:]
        if len(names) != len(keys):
            raise UserError(f"{file} names {len(names)} classes, expected {len(keys)} (`{option}:`); is it another data set?")
        ours, theirs = (keys, names) if exact else ([normalise_name(name) for name in each] for each in (keys, names))
        for i, (key, name) in enumerate(zip(ours, theirs, strict=True)):
            if key == name:
                agreed.add(i)
            elif exact or name in ours or key in theirs:
                raise UserError(
                    f"label {i + first} is {names[i]!r} in {file} but {keys[i]!r} in `{option}:`; bring `{option}:` into the"
                    " order of the data set, or every head predicts a wrong class"
                )
    if not agreed:
        print(f"warning: the order of the classes is unverified: the data set states no names like `{option}:`", file=sys.stderr)
    return {"verified": len(agreed), "of": len(keys), "by": sorted(stated)}


def normalise_name(name: str) -> str:
    """Return a name in lower case without underscores and punctuation, for comparison."""
    return " ".join(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", name).casefold())) or name
