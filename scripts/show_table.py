"""Print a table of accuracies as aligned text: method, average and 95 % interval. Nothing is computed."""

import argparse
import csv
from pathlib import Path

from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError
from nan_merge.reporting.formats import interval, percent


def main() -> None:
    """Parse the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path, help="CSV file of a table of kind `accuracy`, as results/tables/main_text.csv")
    print(text(parser.parse_args().table))


def text(file: Path) -> str:
    """Return the table as lines of equal width; a range over draws is written with `to`, an absent number as a dash."""
    if not file.is_file():
        raise UserError(f"{file}: there is no such table; run `make demo`, or name a table of results/tables")
    with open(file, encoding="utf-8", newline="") as lines:
        records = list(csv.DictReader(lines))
    if not records or "average_low" not in records[0]:
        raise UserError(f"{file}: has no column `average_low`; expected a table of kind `accuracy`")
    cells = [("Method", "Average in %", "95 % interval"), *(_row(record) for record in records)]
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    return "\n".join(f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}" for row in cells)


def _row(record: dict[str, str]) -> tuple[str, str, str]:
    value, low, high = (float(text) if (text := record[name]) else None for name in ("average", "average_low", "average_high"))
    limits = f"{percent(low)} to {percent(high)}" if record["draws"] else interval(low, high)
    return record["label"] or record["method"], percent(value) or "-", limits or "-"


if __name__ == "__main__":
    command_line(main)
