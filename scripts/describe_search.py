"""Write the trace of a search, its cost in trials, and a cross-validated average of its choice (rule describe_search)."""

from pathlib import Path

from nan_merge.core.command_line import command_line
from nan_merge.core.files import write_json
from nan_merge.selection.choice import FOLDS, best, cross_validated, points_of, read_answers, trace
from nan_merge.selection.scores import cost, pruned_trials, validation_scores
from scripts.arguments import POINTS, options, parse_with_spec


def main() -> None:
    """Parse the command line and describe."""
    parser = options(__doc__, "suite", "method", "seed", "output")
    parser.add_argument("--scores", type=Path, nargs="+", required=True, help="validation scores; predictions lie beside them")
    parser.add_argument("--trials", type=Path, nargs="*", default=[], help="points of trials")
    keys = {"search": "how points are chosen", "prune": "whether trials may be stopped", "metrics": "of the tasks"}
    args = parse_with_spec(parser, points=POINTS, **keys)
    points, pruned = points_of(args.points, args.trials), pruned_trials(args.scores)
    records = trace(validation_scores(args.scores), points, pruned)
    averages = {record["candidate"]: record["average"] for record in records if "average" in record}
    chosen = best(averages, points)
    files = {name: [file.with_suffix(".npz") for file in args.scores if name in file.parts] for name in averages}
    apart = cross_validated({name: read_answers(found) for name, found in files.items()}, args.metrics, points)
    about = {
        "suite": args.suite,
        "method": args.method,
        "seed": args.seed,
        "search": args.search,
        "trials": len(records),
        **({"cost": cost(args.scores)} if args.prune else {}),
        "chosen": chosen,
        "point": points[chosen],
        "best": averages[chosen],
        "cross_validated": apart["average"],
        "optimism": averages[chosen] - apart["average"],
        "folds": {"count": FOLDS, "chosen": apart["folds"]},
    }
    write_json(args.output, {**about, "trace": records})
    print(f"{args.method}: best of {len(records)} {averages[chosen]:.4f}, cross-validated {apart['average']:.4f}")


if __name__ == "__main__":
    command_line(main)
