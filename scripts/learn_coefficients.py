"""Learn the coefficients of a method on unlabelled test inputs of all tasks (rule learn_coefficients)."""

import numpy as np

from nan_merge.calibration.adamerging import DifferentiableMerge, learn
from nan_merge.calibration.kinds import bound
from nan_merge.core.command_line import command_line, parse_named_folders
from nan_merge.core.files import read_json, write_json
from nan_merge.core.progress import steps
from nan_merge.core.versions import versions
from nan_merge.data.dataset import Dataset
from nan_merge.engine.request import Contexts
from nan_merge.layouts.unify import unify_layout
from nan_merge.methods.recipe import bind
from nan_merge.models.classification import Forward
from nan_merge.models.heads import Head
from nan_merge.models.registry import find_family
from nan_merge.models.training import Task
from scripts.arguments import LAYOUT, options, parse_with_spec

NO_LABELS = np.empty(0, np.int64)


def main() -> None:
    """Parse the command line and learn."""
    parser = options(
        __doc__,
        "family",
        "base",
        "experts",
        "datasets",
        "heads",
        "logit-scale",
        "thresholds",
        "suite",
        "method",
        "device",
        "output",
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parse_with_spec(
        parser,
        method_spec="stages preprocess, combine, postprocess of the method",
        settings="`learn:` of the method",
        layout=LAYOUT,
    )
    forward = Forward(args.device)
    thresholds = read_json(args.thresholds)["thresholds"] if args.thresholds else {}
    models = unify_layout(args.base, parse_named_folders(args.experts), **args.layout)
    contexts = Contexts(models, thresholds, args.seed)
    merge = DifferentiableMerge(bind(args.method_spec, args.method), contexts, device=args.device)
    tasks = [
        Task(Dataset(folder).inputs("test"), NO_LABELS, Head.read(head), args.logit_scale)
        for folder, head in zip(args.datasets, args.heads, strict=True)
    ]
    run = bound(learn, args.settings, f"method '{args.method}': learn")
    show = steps(f"learn {args.method}", run.keywords["steps"])
    encoder = find_family(args.family).load(args.base)
    forward.place(encoder)
    learned = run(encoder, merge, tasks, args.seed, show)
    record = {"suite": args.suite, "method": args.method, "seed": args.seed, "method_spec": {}}
    record |= {"learn": run.keywords, "logit_scale": args.logit_scale, **forward.elsewhere()}
    write_json(args.output, {**record, **learned.record(), "versions": versions()})


if __name__ == "__main__":
    command_line(main)
