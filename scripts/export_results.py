"""Write the scores of a finished run for the model hub, Every Eval Ever or a leaderboard. Nothing is uploaded."""

import argparse
import os
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from experiment.finished_run import FinishedRun
from nan_merge.cli.parser import command_parser
from nan_merge.core.atomic import atomic_write
from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError, tell
from nan_merge.export import every_eval_ever, hub, leaderboard
from nan_merge.export.scored_models import ScoredModel, is_one_model, scored_model
from nan_merge.reporting.study import Study, studies

EXAMPLE = "nan-merge export --to hub --suite text --method ties+nan_delta --output card"
OPTIONS = {"hub": ("seed", "model"), "every-eval-ever": ("seed", "model", "organisation"), "leaderboard": ()}  # of a format


def main() -> None:
    """Parse the command line and write."""
    args = arguments().parse_args()
    if os.path.lexists(args.output):
        raise UserError(f"{args.output}: exists already; choose another --output")
    given = [name for name in ("seed", "model", "organisation") if getattr(args, name) is not None]
    if unfit := [f"--{name}" for name in given if name not in OPTIONS[args.to]]:
        raise UserError(f"{', '.join(unfit)}: has no meaning with --to {args.to}; leave it out")
    run = FinishedRun(args.directory / "results")
    pairs = list(run.wanted(args.suite, args.method))
    found = {suite: studies([run.suite_record(suite)], [], run.scores)[0] for suite in dict.fromkeys(suite for suite, _ in pairs)}
    {"hub": to_hub, "every-eval-ever": to_every_eval_ever, "leaderboard": to_leaderboard}[args.to](args, run, pairs, found)
    print(f"{args.output}: written")


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser("export", __doc__, EXAMPLE, "nan-merge export --to FORMAT --output PATH [options]")
    add = parser.add_argument
    formats = "hub (README.md and .eval_results of one merge), every-eval-ever (a JSON file a model), leaderboard (CSV)"
    add("--to", choices=tuple(OPTIONS), required=True, metavar="FORMAT", help=formats)
    add("--output", type=Path, required=True, metavar="PATH", help="new folder, or the new CSV file")
    add("--suite", default=None, metavar="ID", help="of the run (default: all; for hub the only one)")
    add("--method", default=None, metavar="ID", help="scored on the suite (default: all; for hub, name one)")
    add("--seed", type=int, default=None, metavar="N", help="of the run; for hub, where the run has several")
    add("--model", type=hub_id, default=None, metavar="OWNER/NAME", help="name of the one exported model on the hub")
    add("--organisation", default=None, metavar="NAME", help="who scored, for every-eval-ever")
    add("--directory", type=Path, default=Path(), metavar="FOLDER", help="the folder that Snakemake ran in")
    return parser


def hub_id(text: str) -> str:
    """Read the name of a repository of the hub."""
    try:
        validate_repo_id(text)
    except HFValidationError:
        text = ""
    if "/" not in text:
        raise argparse.ArgumentTypeError("expected OWNER/NAME, as the hub allows it")
    return text


def to_hub(args: argparse.Namespace, run: FinishedRun, pairs: list[tuple[str, str]], found: dict[str, Study]) -> None:
    """Write the model card of one merge with its scores, and its results by data set of the hub."""
    (suite, method), *others = pairs
    if others or not args.method:
        missing = "--method" if not args.method else "--suite"
        raise UserError(f"--to hub: writes the scores of one merge; name it with {missing}")
    if run.method_record(method)["group"] == "reference" or not is_one_model(run.method_record(method)):
        raise UserError(f"--method {method}: is no merge that is one model, so it has no model card; choose a merge")
    seeds = found[suite].seeds
    seed = seeds[0] if args.seed is None and len(seeds) == 1 else args.seed
    if seed not in seeds:
        raise UserError(f"--seed: the run has the seeds {', '.join(map(str, seeds))}; name one of them")
    card, folder, is_kept = run.card(suite, method, seed)
    if elsewhere := hub.write(model_of(run, found, suite, method, seed), card, args.output, args.model):
        tell(f"note: without an entry in .eval_results, since their data are not one data set of the hub: {', '.join(elsewhere)}")
    if not is_kept:
        place = folder.relative_to(args.directory)
        tell(f"note: the merge itself was removed; to make it again: snakemake --cores all -- {place}")


def to_every_eval_ever(args: argparse.Namespace, run: FinishedRun, pairs: list[tuple[str, str]], found: dict[str, Study]) -> None:
    """Write one record a model and seed; methods that are not one model are named and left out."""
    models = [
        model_of(run, found, suite, method, seed)
        for suite, method in pairs
        if is_one_model(run.method_record(method))
        for seed in found[suite].seeds
        if args.seed in (None, seed)
    ]
    if left := [method for _, method in pairs if not is_one_model(run.method_record(method))]:
        tell(f"note: left out, since it is not one model for all tasks: {', '.join(left)}")
    if not models or (args.model and len(models) > 1):
        raise UserError(f"--to every-eval-ever: {len(models)} models were chosen; choose with --suite, --method and --seed")
    with atomic_write(args.output) as part:
        for model in models:
            every_eval_ever.write(model, args.model or every_eval_ever.name_of(model), args.organisation or "not stated", part)


def to_leaderboard(args: argparse.Namespace, run: FinishedRun, pairs: list[tuple[str, str]], found: dict[str, Study]) -> None:
    """Write one row a method."""
    rows = []
    for suite, method in pairs:
        jobs = [job for seed in found[suite].seeds for job in run.provenance(suite, method, seed)]
        rows.append(leaderboard.row(found[suite], run.method_record(method), jobs))
    leaderboard.write(rows, args.output)


def model_of(run: FinishedRun, found: dict[str, Study], suite: str, method: str, seed: int) -> ScoredModel:
    """Return one model with its scores."""
    return scored_model(found[suite], run.method_record(method), seed, run.provenance(suite, method, seed))


if __name__ == "__main__":
    command_line(main)
