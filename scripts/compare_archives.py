"""Show two archives side by side: settings that differ, average accuracies with paired tests, scores, coefficients and norms."""

import json
from pathlib import Path
from typing import Any

from nan_merge.cli.parser import command_parser
from nan_merge.core.command_line import command_line

COLUMNS = ("suite", "method", "task", "metric", "seed")  # of a score
SHOWN = 30  # entries of a list


def main() -> None:
    """Parse the command line and compare; exit code 0 whatever differs."""
    parser = command_parser("compare", __doc__, "nan-merge compare A.zip B.zip", "nan-merge compare [--json] A.zip B.zip")
    parser.add_argument("archives", type=Path, nargs=2, metavar="FILE.zip", help="what nan-merge archive has written")
    parser.add_argument("--json", action="store_true", default=False, help="print JSON")
    args = parser.parse_args()
    found = compared(*args.archives)
    print(json.dumps(found, indent=1, ensure_ascii=False) if args.json else "\n".join(text(found)))


def compared(a: Path, b: Path) -> dict[str, Any]:
    """Return the differences of two archives; the imports take a second, which `--help` does not wait for."""
    from nan_merge.archive import compare
    from nan_merge.archive.container import opened

    with opened(a) as one, opened(b) as two:
        for archive in (one, two):
            compare.refuse_incomplete(archive)
        scores = [compare.scores(archive) for archive in (one, two)]
        keys = sorted({*scores[0], *scores[1]})
        return {
            "archives": {
                side: {
                    "file": str(each.file),
                    **{key: each.manifest.get(key) for key in ("date", "commit", "versions", "partial")},
                }
                for side, each in (("A", one), ("B", two))
            },
            "settings": [{"key": key, "A": first, "B": second} for key, first, second in compare.settings(one, two)],
            "averages": [row._asdict() for row in compare.averages(one, two)],
            "scores": [
                {**dict(zip(COLUMNS, key, strict=True)), "A": scores[0].get(key), "B": scores[1].get(key)} for key in keys
            ],
            "files": [{"file": name, "difference": how} for name, how in compare.others(one, two)],
        }


def text(found: dict[str, Any]) -> list[str]:
    """Return the differences as lines."""
    from nan_merge.reporting.formats import interval, p_value, percent

    sides = [
        f"{side}: {e['file']}, run of {e['date']}, commit {e['commit'] or 'unknown'}" for side, e in found["archives"].items()
    ]
    settings = [f"  {each['key']}: {_short(each['A'])} | {_short(each['B'])}" for each in found["settings"]]
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
    scores = [
        f"  {', '.join(str(each[key]) for key in COLUMNS)}: {_short(each['A'])} | {_short(each['B'])}"
        for each in found["scores"]
        if each["A"] != each["B"]
    ]
    files = [f"  {each['file']}: {each['difference']}" for each in found["files"]]
    return [
        *sides,
        *_listed("settings that differ, A | B", settings),
        "average accuracy in % over the tasks of both:",
        *("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows),
        *_listed(f"scores that differ, of {len(found['scores'])}, A | B", scores),
        *_listed("coefficients, norms and other measurements that differ", files),
    ]


def _listed(title: str, lines: list[str]) -> list[str]:
    more = [f"  and {len(lines) - SHOWN} more (--json lists all)"] if len(lines) > SHOWN else []
    return [f"{title}: {len(lines)}", *lines[:SHOWN], *more]


def _short(value: Any) -> str:
    shown = "-" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    return shown if len(shown) <= 60 else shown[:60] + " ..."


if __name__ == "__main__":
    command_line(main)
