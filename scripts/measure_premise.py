"""Measure one run of the premise experiment: norms and validation accuracy of its checkpoint (rule measure_premise)."""

import math

from nan_merge.core.command_line import command_line
from nan_merge.core.files import write_json
from nan_merge.data.dataset import Dataset
from nan_merge.engine.measure import norms
from nan_merge.layouts.unify import unify_layout
from nan_merge.models.classification import embed
from nan_merge.models.heads import Head, predict
from nan_merge.models.registry import find_family
from scripts.arguments import LAYOUT, options, parse_with_spec


def main() -> None:
    """Parse the command line and measure."""
    parser = options(__doc__, "family", "base", "checkpoint", "dataset", "head", "output")
    args = parse_with_spec(parser, run="suite, task, protocol, examples, steps, seed", layout=LAYOUT)
    models = unify_layout(args.base, {args.checkpoint.name: args.checkpoint}, **args.layout)
    tensors = norms(models)["tensors"].values()
    squares = {key: math.fsum(tensor[key][0] for tensor in tensors) for key in ("weights", "task_vector")}
    data, module = Dataset(args.dataset), find_family(args.family)
    inputs, labels = data.inputs("validation"), data.labels("validation")
    embeddings = embed(module.load(args.checkpoint), inputs, module.batches(inputs, 64))
    hits = predict(embeddings, Head.read(args.head)) == labels
    measured = {f"norm_{key}": math.sqrt(square) for key, square in squares.items()}
    write_json(args.output, {**args.run, **measured, "accuracy": float(hits.mean())})


if __name__ == "__main__":
    command_line(main)
