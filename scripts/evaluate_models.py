"""Score language models or sentence encoders, in folders or on the hub, and compare each with one of them on every task.
A task is an entry of config/tasks.yaml with `harness`, or one of lm_eval whose data are local.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiment import entries
from nan_merge.assets.fetch import fetch
from nan_merge.catalogue.files import known_names, read_yaml
from nan_merge.cli.parser import command_parser, folder_by_name, natural, positive
from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError, advice_for_options
from nan_merge.core.files import read_json
from nan_merge.core.names import nearest
from nan_merge.core.scoring import BENCHMARK_BATCH, PRECISIONS
from nan_merge.data.metrics import of_benchmark
from nan_merge.reporting.formats import write
from nan_merge.reporting.model_tables import AVERAGE, models
from nan_merge.reporting.paired_tests import compare_methods
from nan_merge.reporting.study import gather_scores, studies
from nan_merge.standalone.sources import find, named

ROOT = Path(__file__).resolve().parent.parent
SUITE = "own"  # of the score files
EXAMPLE = "nan-merge evaluate MERGED math=A code=B --tasks mmlu,gsm8k"


@advice_for_options()
def main() -> None:
    """Parse the command line, score every model and print the table."""
    args = arguments().parse_args()
    models = named(args.models, "MODEL", ())
    against = args.against or next(iter(models))
    known_names("--against", [against], models)
    given = dict(args.data)
    tasks = list(dict.fromkeys(name for text in args.tasks for name in text.split(",") if name))
    known_names("--data", given, tasks)
    found = {task: _benchmark(task, given.get(task), args.output) for task in tasks}
    if all("retrieval" in harness for _, harness, _ in found.values()):
        given_unread = {"--chat-template": args.chat_template, "--num-fewshot": args.num_fewshot is not None}
        if unread := [option for option, is_given in given_unread.items() if is_given]:
            raise UserError(
                f"{unread[0]}: the tasks are retrieval ({', '.join(tasks)}), whose texts have no prompt; leave it out"
            )
    sources = {name: find(model) for name, model in models.items()}
    from nan_merge.models.benchmark_scores import Scoring, score
    from nan_merge.models.harness.backends import refuse_adapter
    from nan_merge.models.harness.tasks import Benchmark

    for source in sources.values():
        refuse_adapter(source.folder)
    settings = {key: vars(args)[key] for key in ("chat_template", "limit") if vars(args)[key]}
    shots = {} if args.num_fewshot is None else {"num_fewshot": args.num_fewshot}
    benchmarks = [
        Benchmark(task, data, {**harness, **shots}, option, (*more,)) for task, ((data, *more), harness, option) in found.items()
    ]
    scoring = Scoring(
        device=args.device, precision=args.precision, batch_size=args.batch_size, settings=settings, cache=args.output / "answers"
    )
    files = {name: args.output / f"scores/{name}.json" for name in sources}
    for name, source in sources.items():
        score(scoring, [source.folder.resolve()], benchmarks, {"suite": SUITE, "method": name, "seed": 0}, files[name])
    report(files, [_record(task) for task in tasks], against, args.output)


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    usage = "nan-merge evaluate [NAME=]MODEL ... --tasks TASK,... [options]"
    parser = command_parser("evaluate", __doc__, EXAMPLE, usage)
    add = parser.add_argument
    add("models", nargs="+", metavar="[NAME=]MODEL", help="models to score, a row each")
    add("--tasks", action="append", required=True, metavar="TASK,...", help="such as mmlu,gsm8k")
    add("--data", type=folder_by_name, default=[], action="append", metavar="TASK=FOLDER", help="a local data set; repeat")
    add("--against", default=None, metavar="NAME", help="what the others are compared with (default: the first model)")
    add("--output", type=Path, default=Path("evaluation"), metavar="FOLDER", help="default: evaluation")
    add("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    add("--precision", choices=PRECISIONS, default="float32", metavar="TYPE", help=f"of the weights: {', '.join(PRECISIONS)}")
    add("--batch-size", type=positive, default=BENCHMARK_BATCH, metavar="N", help=f"default: {BENCHMARK_BATCH}")
    add("--num-fewshot", type=natural, default=None, metavar="N", help="examples in the prompt (default: those of the task)")
    add("--chat-template", action="store_true", default=False, help="put prompts into the chat template of each model")
    add("--limit", type=positive, default=None, metavar="N", help="only the first N examples of each part of a task, as a trial")
    return parser


def _entries() -> dict[str, Any]:
    return {name: entry for name, entry in read_yaml(ROOT / "config/tasks.yaml").items() if "harness" in entry}


def _record(task: str) -> dict[str, str]:
    """Return id, label and metric of a task, as tables read them."""
    entry = _entries().get(task, {})
    return {"id": task, "label": entry.get("label", task), "metric": of_benchmark(entry.get("harness", {}))}


def _benchmark(task: str, data: Path | None, output: Path) -> tuple[list[Path], Mapping[str, Any], str]:
    """Return folders of data, keys of `harness` and, where task or data are of the command line, the option."""
    if data is not None and not data.is_dir():
        raise UserError(f"--data {task}={data}: there is no such folder; correct the path")
    known = _entries()
    if task in known:
        option = f"--data {task}={data}" if data else ""
        folders = [data] if data else [_fetched(task, asset, output) for asset in known[task]["assets"]]
        return folders, known[task]["harness"], option
    from nan_merge.models.harness.tasks import shipped_task

    shipped = shipped_task(task)
    if shipped is None:
        raise UserError(
            f"--tasks {task}: lm_eval has no task or group of that name, and config/tasks.yaml none; {nearest(task, known)}"
        )
    folder, repository = shipped
    if data is None:
        get = f", as made by `hf download --repo-type dataset {repository} --local-dir FOLDER`" if repository else ""
        raise UserError(
            f"--tasks {task}: the data of this task of lm_eval are not among the assets here; expected"
            f" `--data {task}=FOLDER` with a copy of its data set{get}"
        )
    return [data], {"folder": str(folder), "tasks": [task]}, f"--tasks {task}"


def _fetched(task: str, asset: str, output: Path) -> Path:
    """Return the folder of an asset: that of the workflow, or else of the output, fetched and verified where it is missing."""
    for folder in (ROOT / "results/assets" / asset, output / "data" / asset):
        if (folder / "asset.json").is_file():
            return folder
    spec, lock = entries.assets(ROOT / "config", ROOT / "workflow/schemas")[asset], read_json(ROOT / "config/assets.lock.json")
    try:
        fetch(asset, spec, lock, output / "data" / asset, output / "downloads")
    except UserError as error:
        raise UserError(f"{error}; or give a copy of the data: `--data {task}=FOLDER`") from None
    return output / "data" / asset


def report(files: Mapping[str, Path], tasks: Sequence[Mapping[str, str]], against: str, output: Path) -> None:
    """Write and print the table of all models, with tests against one of them on every task and the average."""
    others = [name for name in files if name != against]
    pairs: list[dict[str, Any]] = [
        {"suite": SUITE, "method": name, "against": against, "kind": "models", **({} if task == AVERAGE else {"task": task})}
        for name in others
        for task in (*(task["id"] for task in tasks), AVERAGE)
    ]
    scores, comparisons = output / "scores.tsv", output / "comparisons.tsv"
    gather_scores([*files.values()], scores)
    compare_methods([*files.values()], pairs, comparisons)
    (study,) = studies(
        [{"id": SUITE, "label": ", ".join(files), "tasks": tasks}], [{"id": name} for name in files], scores, comparisons
    )
    write(models(study, {"title": "Benchmarks"}), output / "table")
    print((output / "table.md").read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    command_line(main)
