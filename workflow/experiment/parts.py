"""The parts of the config: config/config.yaml, the overlays of --configfile, the values of --config, merged in this order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nan_merge.catalogue.files import Place, read_yaml
from nan_merge.core.errors import UserError
from nan_merge.core.text import parse_yaml

CONFIG = "config/config.yaml"


class ConfigParts:
    """The parts of a config by name, in the order in which they overwrite each other, to name the one with a fault."""

    def __init__(self, parts: dict[str, Any]) -> None:
        self.parts = parts

    @classmethod
    def read(cls, root: Path, overlays: Iterable[Path], values: Mapping[str, Any]) -> ConfigParts:
        """Read the files; UserError for one that is not YAML, has a key twice, or is no mapping."""
        files = {CONFIG: root / CONFIG, **{str(_from_here(overlay)): overlay for overlay in overlays}}
        parts = {name: read_yaml(file) for name, file in files.items()}
        for name, part in parts.items():
            if not isinstance(part, dict) or not part:
                found = "is empty" if part == {} else "holds no keys at its top level"
                raise UserError(f"{name}: the file {found}; expected lines such as `methods: [task_arithmetic, ties]`")
        return cls({**parts, "--config": {key: typed(value) for key, value in values.items()}})

    def merged(self) -> dict[str, Any]:
        """Return the config as Snakemake merges it: mappings key by key, all else replaced."""
        config: dict[str, Any] = {}
        for part in self.parts.values():
            config = _merged(config, part)
        return config

    def onto(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return a config that Snakemake merged, with the values of --config as they were meant."""
        return dict(_merged(config, self.parts["--config"]))

    def file(self, place: Place) -> str:
        """Return the last part that sets the value at a place of the config; config/config.yaml if none does."""
        return next((name for name, part in reversed(self.parts.items()) if _sets(part, place)), CONFIG)

    def where(self, *place: Any) -> str:
        """Return the part that sets a value, and the value's keys: `own.yaml: models: mine`."""
        return ": ".join(map(str, (self.file(place), *place)))


def typed(value: Any) -> Any:
    """Return a value of --config with numbers, booleans and nothing in place of their texts, which Snakemake leaves in lists and
    mappings."""
    if isinstance(value, Mapping):
        return {key: typed(each) for key, each in value.items()}
    if isinstance(value, list):
        return [*map(typed, value)]
    if isinstance(value, str):
        with suppress(UserError):
            found = parse_yaml(value, "--config")
            return value if isinstance(found, str | list | dict) else found
    return value


def _from_here(file: Path) -> Path:
    return file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file


def _merged(below: Any, above: Any) -> Any:
    if not isinstance(above, Mapping):
        return above
    kept = below if isinstance(below, Mapping) else {}
    return {**kept, **{key: _merged(kept.get(key, {}), value) for key, value in above.items()}}


def _sets(part: Any, place: Place) -> bool:
    """Return whether a part has a value at a place, or a value that is no mapping on the way there."""
    for key in place:
        if not isinstance(part, Mapping):
            return True
        if key not in part:
            return False
        part = part[key]
    return True
