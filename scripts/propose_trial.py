"""Choose the point of one trial of a search, from validation scores of the rounds before it (rule propose_trial)."""

from pathlib import Path
from statistics import fmean

from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json, write_json
from nan_merge.methods.search_space import Search
from nan_merge.selection.sampling import Outcome, propose
from nan_merge.selection.scores import pruned_trials, validation_scores
from scripts.arguments import options, parse_with_spec


def main() -> None:
    """Parse the command line and propose."""
    parser = options(__doc__, "output")
    parser.add_argument("--trials", type=Path, nargs="*", default=[], help="points of the trials of earlier rounds, in order")
    parser.add_argument("--scores", type=Path, nargs="*", default=[], help="their validation scores, in order")
    args = parse_with_spec(parser, search="kind, space, seed and batch", number="of the trial, from 1", experts="their names")
    search = Search.of(args.search)
    pruned = pruned_trials(args.scores)
    outcomes = [
        Outcome(fmean(by_task.values()), len(by_task) if name in pruned else 0)
        for name, by_task in validation_scores(args.scores).items()
    ]
    points = propose(search, args.number, args.experts, outcomes)
    for file, point in zip(args.trials, points, strict=False):
        if (found := read_json(file)["point"]) != point:
            raise UserError(
                f"{file}: expected the point {point}, found {found}: another version of Optuna made it; remove the files of the"
                f" trials of this method below results/trials, and let them be made again"
            )
    write_json(args.output, {"number": args.number, "point": points[-1]})
    print(f"trial {args.number}: {points[-1]}")


if __name__ == "__main__":
    command_line(main)
