"""Read JSON and YAML that others wrote, with limits on size, depth and expansion.

Every failure of a parser is a UserError with the file and, where there is one, the line.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nan_merge.core.errors import UserError

JSON_BYTES = 1 << 28  # of one file
YAML_BYTES = 16 << 20  # of one file
FRONT_MATTER_BYTES = 1 << 20  # of the start of a README.md
DEPTH = 200  # nested lists and mappings; far below the recursion limit of the readers and writers that follow
NODES = 1_000_000  # of a YAML document whose aliases are written out
DIGITS = 100  # of a number in YAML: some forms take quadratic time


def read_json(path: Path | str) -> Any:
    """Read one JSON file in UTF-8, with or without a byte order mark; raise a UserError with its path for any fault."""
    return parse_json(_content(path, JSON_BYTES, "JSON"), path)


def is_given(path: Path) -> bool:
    """Return whether a file of a model is there; raise UserError for what has its name and is no file, such as a broken link."""
    if path.is_file() or not os.path.lexists(path):
        return path.is_file()
    kind = "a folder" if path.is_dir() else "a link that leads nowhere" if not os.path.exists(path) else "a pipe or a device"
    raise UserError(f"{path}: is {kind}; expected a file; put the file there, or fetch the model again")


def read_mapping(path: Path | str) -> dict[str, Any]:
    """Read one JSON file that holds an object; raise a UserError with its path for any other content."""
    if not is_given(Path(path)):
        raise UserError(f"{path}: there is no such file")
    record = read_json(path)
    if not isinstance(record, dict):
        raise UserError(f"{path}: holds {_kind(record)}; expected a JSON object, `{{...}}`; correct it, or fetch it again")
    return record


def parse_json(content: bytes | str, where: Path | str) -> Any:
    """Return the value of a JSON text; a fault is a UserError that begins with `where`."""
    try:
        value = json.loads(content.decode("utf-8-sig") if isinstance(content, bytes) else content)
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not valid JSON ({error}); expected UTF-8; save it in this encoding") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON ({error}); correct it, or make or fetch it again") from None
    level = [value]
    for _ in range(DEPTH + 1):
        level = [inner for each in level for inner in _items(each) if isinstance(inner, dict | list)]
        if not level:
            return value
    raise UserError(f"{where}: not valid JSON (nested deeper than {DEPTH} levels); make or fetch it again")


def _items(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def read_yaml(path: Path) -> Any:
    """Read one YAML file, an empty one as {}; UserError for an unreadable one with the line, and for a key that stands twice."""
    value = parse_yaml(_content(path, YAML_BYTES, "YAML"), path, unique=True)
    return {} if value is None else value


def read_yaml_documents(path: Path) -> list[Any]:
    """Read the documents of one YAML file that are not empty; UserErrors as those of `read_yaml`."""
    return [value for value in _parsed(_content(path, YAML_BYTES, "YAML"), path, unique=True, many=True) if value is not None]


def parse_yaml(content: bytes | str, where: Path | str, unique: bool = False) -> Any:
    """Return the value of one YAML document, None for an empty one; a date stays a text.

    With `unique` a key that stands twice in one mapping is an error. A fault is a UserError that begins with `where`.
    """
    return next(iter(_parsed(content, where, unique)), None)


def _parsed(content: bytes | str, where: Path | str, unique: bool, many: bool = False) -> list[Any]:
    """Return the documents of a YAML text; without `many` a second one is an error."""
    import yaml

    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: cannot be read as a text in UTF-8: {error}; save it in this encoding") from None
    loader = None
    try:
        _check_expansion(text, where)
        loader = _yaml_loader()(text)
        nodes = [] if many else [loader.get_single_node()]
        while many and loader.check_node():
            nodes.append(loader.get_node())
        nodes = [node for node in nodes if node is not None]
        for node in nodes if unique else ():
            _check_keys(node, where)
        return [loader.construct_document(node) for node in nodes]
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid YAML: {_syntax(error, text)}") from None
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:  # of a scalar
        line = f"line {loader.line}: " if loader is not None and loader.line else ""
        raise UserError(f"{where}: not valid YAML: {line}{error}; put the value in quotes, or correct it") from None


def front_matter(path: Path) -> dict[str, Any]:
    """Return the YAML front matter of a README.md, {} for a file without one; a UserError if it cannot be read.

    Only the first FRONT_MATTER_BYTES are read.
    """
    if not path.is_file():
        return {}
    with open(path, "rb") as file:
        text = file.read(FRONT_MATTER_BYTES).decode("utf-8-sig", errors="replace")
    found = re.match(r"---[^\S\n]*\r?\n(?:(.*?)\r?\n)?---", text, re.DOTALL)
    record = parse_yaml(found[1] or "", path) if found else None
    return record if isinstance(record, dict) else {}


def _content(path: Path | str, most: int, kind: str) -> bytes:
    """Return the bytes of a file of at most `most` bytes."""
    try:
        with open(path, "rb") as file:
            content = file.read(most + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; expected a {kind} file") from None
    if len(content) > most:
        raise UserError(f"{path}: is longer than {most:,} bytes, the most that is read of a {kind} file; fetch it again")
    return content


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", type(None): "null", bool: "true or false"}.get(type(value), "a number")


@functools.cache
def _yaml_loader() -> Any:
    """Return the safe loader, in C where it is there, that leaves dates as texts and knows the line of the value at hand."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        line = 0

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            self.line = node.start_mark.line + 1
            if node.tag.endswith((":int", ":float")) and len(node.value) > DIGITS:
                raise ValueError(f"a number of {len(node.value):,} characters, of at most {DIGITS}")
            return super().construct_object(node, deep)

    resolvers = Loader.yaml_implicit_resolvers.items()
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if not tag.endswith(":timestamp")] for first, known in resolvers
    }
    return Loader


def _check_expansion(text: str, where: Path | str) -> None:
    """Raise a UserError for a document that is nested too deeply, or whose aliases expand to too much or to themselves.

    The events are read one by one without recursion: the composer in C would overflow the stack of the process.
    """
    import yaml

    open_nodes: list[tuple[str | None, int]] = []  # anchor, and values before it
    sizes, total = dict[str | None, int](), 0  # values below each anchor; values so far
    for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in (anchor for anchor, _ in open_nodes):
                raise UserError(
                    f"{where}: line {line}: the alias '*{event.anchor}' stands inside what it refers to; write it out"
                )
            total += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            sizes[anchor] = total - before
        for count, most, unit in ((len(open_nodes), DEPTH, "levels of nesting"), (total, NODES, "values, aliases written out")):
            if count > most:
                raise UserError(f"{where}: not valid YAML: line {line}: more than {most:,} {unit}; shorten it")


def _check_keys(root: Any, where: Path | str) -> None:
    """Raise a UserError for a key that stands twice in one mapping: YAML would silently take the last."""
    import yaml

    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if not isinstance(node, yaml.CollectionNode) or id(node) in seen:
            continue
        seen.add(id(node))
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value if isinstance(node, yaml.MappingNode) else []:
            name, line = (key.tag, str(key.value) if isinstance(key, yaml.ScalarNode) else str(id(key))), key.start_mark.line + 1
            if name in lines:
                both = f"in lines {lines[name]} and {line}"
                raise UserError(f"{where}: the key '{key.value}' stands twice in one mapping, {both}; keep one")
            lines[name] = line
            waiting.append(value)
        waiting += node.value if isinstance(node, yaml.SequenceNode) else []


def _syntax(error: Exception, text: str) -> str:
    """Explain a syntax error: the line, what stands there, and the usual cause."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None:
        return str(error)
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    cause = "every key needs a colon and a space after it, lists and quotes their end, and all entries of one mapping one indent"
    if "\t" in line[: len(line) - len(line.lstrip())]:
        cause = "the line is indented with a tab; indent with spaces"
    elif "mapping values are not allowed" in str(problem):
        cause = "a key above lacks its colon, the indent is too deep, or a text with ': ' needs quotes"
    return f"line {mark.line + 1}, column {mark.column + 1}: {line.strip()[:200]!r}: {problem}; {cause}"
