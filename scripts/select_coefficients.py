"""Choose the candidate with the best average over tasks on validation, but for pruned trials (rule select_coefficients)."""

from pathlib import Path
from statistics import fmean

from nan_merge.core.command_line import command_line
from nan_merge.core.files import write_json
from nan_merge.selection.choice import best, points_of
from nan_merge.selection.scores import complete_trials
from scripts.arguments import POINTS, options, parse_with_spec


def main() -> None:
    """Parse the command line and choose."""
    parser = options(__doc__, "output")
    parser.add_argument("--scores", type=Path, nargs="+", required=True, help="validation scores of all candidates")
    parser.add_argument("--trials", type=Path, nargs="*", default=[], help="points of trials")
    args = parse_with_spec(parser, points=POINTS, by_value="whether one number of the coefficients is chosen from a grid")
    points = points_of(args.points, args.trials)
    averages = {name: fmean(by_task.values()) for name, by_task in complete_trials(args.scores).items()}
    chosen = best(averages, points)
    if args.by_value:
        values = {name: float(next(iter(point.values()))) for name, point in points.items()}
        ranked = sorted(averages, key=lambda name: (abs(values[name]), values[name]))
        record = {"value": values[chosen], "means": {f"{values[name]:g}": averages[name] for name in ranked}}
    else:
        record = {"candidate": chosen, "point": points[chosen], "averages": averages}
    write_json(args.output, record)
    print(f"chosen {chosen} of {', '.join(f'{name}: {average:.4f}' for name, average in averages.items())}")


if __name__ == "__main__":
    command_line(main)
