"""Choose the candidate with the best mean validation accuracy; of equals the one nearest to 0 (rule select_coefficients)."""

from collections import defaultdict
from pathlib import Path
from statistics import fmean

from nan_merge.core.command_line import command_line
from nan_merge.core.files import read_json, write_json
from scripts.arguments import options


def main() -> None:
    """Parse the command line and choose."""
    parser = options(__doc__, "output")
    parser.add_argument("--scores", type=Path, nargs="+", required=True, help="validation scores of all candidates")
    args = parser.parse_args()
    by_value = defaultdict(list)
    for file in args.scores:
        for score in read_json(file)["scores"]:
            by_value[float(score["method"].partition("-")[2])].append(score["value"])
    means = {value: fmean(by_value[value]) for value in sorted(by_value, key=lambda value: (abs(value), value))}
    best = max(means, key=lambda value: means[value])
    write_json(args.output, {"value": best, "means": {f"{value:g}": mean for value, mean in means.items()}})
    print(f"chosen {best:g} of {', '.join(f'{value:g}: {mean:.4f}' for value, mean in means.items())}")


if __name__ == "__main__":
    command_line(main)
