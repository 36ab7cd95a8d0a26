"""Show two archives side by side: settings that differ, average accuracies with paired tests, scores, coefficients and norms."""

import json
from pathlib import Path
from typing import Any

from nan_merge.cli.parser import command_parser
from nan_merge.core.command_line import command_line

COLUMNS = ("suite", "method", "task", "metric", "seed")  # of a score
SHOWN = 30  # entries of a list
FILES = "coefficients, norms and other measurements that differ"


def main() -> None:
    """Parse the command line and compare; exit code 0 whatever differs."""
    parser = command_parser("compare", __doc__, "nan-merge compare A.zip B.zip", "nan-merge compare [--json] A.zip B.zip")
    parser.add_argument("archives", type=Path, nargs=2, metavar="FILE.zip", help="what nan-merge archive has written")
    parser.add_argument("--json", action="store_true", default=False, help="print JSON")
    args = parser.parse_args()
    found = compared(*args.archives)
    print(json.dumps(found, indent=1, ensure_ascii=False) if args.json else "\n".join(text(found)))


def compared(a: Path, b: Path) -> dict[str, Any]:
    """Return the differences of two archives; the imports take a second, which `--help` does not wait for.

    Where one of them has tables alone, these are compared, and digests; settings and single scores are None.
    """
    from nan_merge.archive import compare
    from nan_merge.archive.container import WHOLE, opened

    with opened(a) as one, opened(b) as two:
        for archive in (one, two):
            compare.refuse_incomplete(archive)
        archives = {
            side: {"file": str(each.file), **{key: each.manifest.get(key) for key in ("date", "commit", "versions", "partial")}}
            for side, each in (("A", one), ("B", two))
        }
        if WHOLE in {*one.files, *two.files}:
            return {
                "archives": archives,
                "settings": None,
                "averages": [row._asdict() for row in compare.tabled(one, two)],
                "scores": None,
                "files": _files(compare.digests(one, two)),
            }
        scores = [compare.scores(archive) for archive in (one, two)]
        keys = sorted({*scores[0], *scores[1]})
        return {
            "archives": archives,
            "settings": [{"key": key, "A": first, "B": second} for key, first, second in compare.settings(one, two)],
            "averages": [row._asdict() for row in compare.averages(one, two)],
            "scores": [
                {**dict(zip(COLUMNS, key, strict=True)), "A": scores[0].get(key), "B": scores[1].get(key)} for key in keys
            ],
            "files": _files(compare.others(one, two)),
        }


def _files(found: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"file": name, "difference": how} for name, how in found]


def text(found: dict[str, Any]) -> list[str]:
    """Return the differences as lines."""
    from nan_merge.reporting.formats import interval, p_value, percent

    sides = [
        f"{side}: {e['file']}, run of {e['date']}, commit {e['commit'] or 'unknown'}" for side, e in found["archives"].items()
    ]
    rows = [("suite", "method", "tasks", "A", "B", "B less A [95 %]", "p", "changed")]
    for each in found["averages"]:
        difference = percent(each["b"] - each["a"], signed=True)
        limits = interval(each["low"], each["high"], signed=True) or "not paired"
        changed = "" if each["changed"] is None else f"{each['changed']} of {each['n']}"
        numbers = (
            str(each["tasks"]),
            percent(each["a"]),
            percent(each["b"]),
            f"{difference} {limits}",
            p_value(each["p"]),
            changed,
        )
        rows.append((each["suite"], each["method"], *numbers))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    none = "average accuracy: not compared, since the runs have no method on a task of one suite in common"
    files = [f"  {each['file']}: {each['difference']}" for each in found["files"]]
    return [
        *sides,
        *_settings(found["settings"]),
        *(["average accuracy in % over the tasks of both:", *table] if found["averages"] else [none]),
        *_scores(found["scores"]),
        *_listed(FILES if found["scores"] is not None else f"predictions, {FILES}, of those in both", files),
    ]


def _settings(found: list[dict[str, Any]] | None) -> list[str]:
    if found is None:
        return ["settings and single scores: not compared, since an archive of tables and digests alone has none"]
    return _listed("settings that differ, A | B", [f"  {e['key']}: {_short(e['A'])} | {_short(e['B'])}" for e in found])


def _scores(found: list[dict[str, Any]] | None) -> list[str]:
    if found is None:
        return []
    differ = [each for each in found if each["A"] != each["B"]]
    lines = [f"  {', '.join(str(each[key]) for key in COLUMNS)}: {_short(each['A'])} | {_short(each['B'])}" for each in differ]
    return _listed(f"scores that differ, of {len(found)}, A | B", lines)


def _listed(title: str, lines: list[str]) -> list[str]:
    more = [f"  and {len(lines) - SHOWN} more (--json lists all)"] if len(lines) > SHOWN else []
    return [f"{title}: {len(lines)}", *lines[:SHOWN], *more]


def _short(value: Any) -> str:
    shown = "-" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    return shown if len(shown) <= 60 else shown[:60] + " ..."


if __name__ == "__main__":
    command_line(main)
