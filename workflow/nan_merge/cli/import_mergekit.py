"""`nan-merge import-mergekit`: translate a mergekit config into a command and a method, or merge by it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nan_merge.cli import merge
from nan_merge.cli.parser import command_parser
from nan_merge.core.errors import UserError, tell
from nan_merge.core.escape import yaml_text
from nan_merge.core.shell import line, option

if TYPE_CHECKING:
    from nan_merge.standalone.mergekit_import import MergekitConfig

ABOUT = """Translate a mergekit config: linear, task_arithmetic, ties, dare_linear, dare_ties over whole models.
Without options, print the command that merges and the method; with --output, merge. Of several documents in a file, those
with a `name` are merged first, into OUTPUT-name."""


def main(argv: Sequence[str]) -> None:
    """Parse the command line, and print the translation, or merge where options of a merge are given."""
    parser = command_parser(
        "import-mergekit", ABOUT, "nan-merge import-mergekit FILE --output MERGED", "nan-merge import-mergekit FILE [options]"
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="mergekit config")
    parser.add_argument_group(
        "options of a merge", "--output, --set, --threads, --device, --json, ...: see nan-merge merge --help"
    )
    args, rest = parser.parse_known_args(argv)
    from nan_merge.standalone.mergekit_import import translate

    required = ["--base=", "--expert=", "--method="]  # which the file has
    for given in (word.partition("=")[0] for word in rest):
        if f"{given}=" in required:
            raise UserError(f"{given}: {args.file} has it; change the file, or remove the option")
    options = merge.arguments("import-mergekit")
    chosen = vars(options.parse_args([*required, *rest])) if rest else {}
    merged: dict[str, str] = {}
    for name, content in documents(args.file):
        where = f"{args.file}: {name}" if name else str(args.file)
        request = translate(content, where, merged)
        output = chosen.get("output", "OUTPUT")
        place = f"{output}-{name}" if name else str(output)
        merged |= {name: place} if name else {}
        if rest:
            _merge(request, where, [*rest, f"--output={place}"], quiet="quiet" in chosen)
        else:
            _print(request, where, place, name or args.file.stem)


def documents(file: Path) -> list[tuple[str, Any]]:
    """Return the documents of a file, each with its `name` ("" for none) and without that key, in an order that can be merged.

    The name of a single document is a label. Raises UserError for two documents of one name, for a name that is no part of the
    name of a folder, and for documents that need each other.
    """
    from nan_merge.core.text import read_yaml_documents

    found = read_yaml_documents(file)
    if len(found) < 2:
        return [("", _without_name(found[0]) if found and isinstance(found[0], Mapping) else {})]
    if bad := [content for content in found if not isinstance(content, Mapping)]:
        raise UserError(f"{file}: expected mergekit configs, found a document {bad[0]!r}")
    names = ["" if content.get("name") is None else content["name"] for content in found]
    if wrong := [name for name in names if not isinstance(name, str) or re.search(r"[/\x00-\x1f]", name)]:
        raise UserError(f"{file}: name: expected a text that can be a part of a folder's name, found {wrong[0]!r}; correct it")
    if len({*names}) < len(names):
        raise UserError(f"{file}: {len(names)} documents with the names {names}; expected a `name` of its own in all but one")
    waiting = {name: _without_name(content) for name, content in zip(names, found, strict=True)}
    ordered: list[tuple[str, Any]] = []
    while waiting:
        needs = {name: {text.partition("+")[0] for text in _texts(content)} & waiting.keys() for name, content in waiting.items()}
        ready = next((name for name in sorted(waiting, key=lambda name: not name) if not needs[name] - {""}), None)
        if ready is None:
            raise UserError(f"{file}: the documents {', '.join(waiting)} need each other; expected one that needs none of them")
        ordered.append((ready, waiting.pop(ready)))
    return ordered


def _without_name(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != "name"}


def _texts(content: Any) -> Iterator[str]:
    """Yield all texts in a document."""
    if isinstance(content, Mapping | list):
        for each in content.values() if isinstance(content, Mapping) else content:
            yield from _texts(each)
    elif isinstance(content, str):
        yield content


def _merge(request: MergekitConfig, where: str, options: Sequence[str], quiet: bool) -> None:
    """Find the models, compare them with what the config says of their files, and merge."""
    from nan_merge.standalone.mergekit_files import check
    from nan_merge.standalone.sources import find

    folders = {name: find(model).folder for name, model in {"base": request.base, **request.experts}.items()}
    files = check(request, folders, where)
    _tell(() if quiet else request.notes + files.notes)
    merge.main([*merge_arguments(request, files.chat_template), *options], "import-mergekit")


def _print(request: MergekitConfig, where: str, output: str, name: str) -> None:
    """Print the command and the entry of the catalogue; what depends on files is checked where all models are folders."""
    from nan_merge.standalone.mergekit_files import check
    from nan_merge.standalone.sources import local

    folders = {name: local(model) for name, model in {"base": request.base, **request.experts}.items()}
    unchecked = [key for key in ("layers", "tokenizer", "chat_template") if getattr(request, key)]
    notes, template = list(request.notes), None
    if all(folder.is_dir() for folder in folders.values()):
        files = check(request, folders, where)
        notes, template = [*notes, *files.notes], files.chat_template
    elif unchecked:
        notes.append(f"{', '.join(unchecked)}: depend on files of the models; a merge with --output here compares them")
    _tell(notes)
    print(f"nan-merge merge {line([*merge_arguments(request, template), *option('--output', output)])}\n")
    print("# the same as an entry of config/methods.yaml")
    print(yaml_text(entry(request, name)), end="")


def _tell(notes: Sequence[str]) -> None:
    for note in notes:
        tell(f"note: {note}")


def merge_arguments(request: MergekitConfig, template: str | None = None) -> list[str]:
    """Return the arguments of `nan-merge merge` for a mergekit config; `template` is the chat template of the output."""
    from nan_merge.standalone.method import record

    options = [("--base", request.base), *(("--expert", f"{name}={model}") for name, model in request.experts.items())]
    options += [("--method", request.host)]
    options += [("--set", each) for each in assignments(record(request.host), request.method_spec)]
    options += [("--dtype", request.dtype)] if request.dtype else []
    options += [("--chat-template", template)] if template else []
    return [*itertools.chain(*itertools.starmap(option, options))]


def assignments(host: Mapping[str, Any], method_spec: Mapping[str, Any]) -> list[str]:
    """Return the values of --set that turn the spec of a host into another."""
    from nan_merge.methods.recipe import STAGES, operator_in
    from nan_merge.standalone.method import flow

    values = []
    for stage in STAGES:
        (current, old), (operator, new) = (operator_in(each, stage) for each in (host, method_spec))
        if (current, old) == (operator, new):
            continue
        if new and (operator != current or old.keys() <= new.keys()):
            values += [f"{stage}.{operator}.{key}={flow(value)}" for key, value in new.items()]
        else:
            values.append(f"{stage}={flow({operator: new}) if new else operator}")
    return values


def entry(request: MergekitConfig, name: str) -> dict[str, Any]:
    """Return the mergekit config as an entry of config/methods.yaml."""
    name = name.replace("{", "").replace("}", "")  # in a label they stand for hyper-parameters
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name.lower()).strip("_")
    return {
        f"mergekit_{plain}": {"label": f"mergekit {name}", "summary": f"mergekit's {name}, translated", **request.method_spec}
    }
