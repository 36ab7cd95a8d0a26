"""Turn measured norms into the coefficient table of one method (rule estimate_coefficients)."""

from pathlib import Path

from nan_merge.calibration.sums import with_calibration
from nan_merge.core.command_line import command_line, parse_named_folders
from nan_merge.core.files import read_json, write_json
from nan_merge.methods.recipe import bind, operator_in
from nan_merge.methods.search_space import put
from scripts.arguments import options, parse_with_spec


def main() -> None:
    """Parse the command line and estimate."""
    parser = options(__doc__, "suite", "method", "seed", "output")
    parser.add_argument("--measures", type=Path, required=True)
    parser.add_argument("--selected", type=Path, help="the choice on validation of a tuned method, or the point of a trial")
    parser.add_argument("--calibration", nargs="+", default=[], metavar="NAME=FOLDER", help="for `norm_of: calibration`")
    parser.add_argument("--datasets", type=Path, nargs="*", default=[], help="data sets, for training-set sizes")
    args = parse_with_spec(
        parser, method_spec="stages coefficients, control and tune of the method", examples="training-set sizes by expert"
    )
    tune = args.method_spec.pop("tune", None)
    record = {"suite": args.suite, "method": args.method, "seed": args.seed}
    if args.selected:
        choice = read_json(args.selected)
        record["chosen"] = choice["value"] if "value" in choice else choice["point"]
        rule = operator_in(args.method_spec, "coefficients", args.method)[0]
        point = {f"coefficients.{rule}.{tune['hyper_parameter']}": choice["value"]} if "value" in choice else choice["point"]
        args.method_spec = put(args.method_spec, {path: value for path, value in point.items() if of_stages(path)})
    measures = with_calibration(read_json(args.measures), parse_named_folders(args.calibration))
    sizes = args.examples | {folder.name: read_json(folder / "dataset.json")["splits"]["train"] for folder in args.datasets}
    if sizes:
        measures["examples"] = [sizes[expert] for expert in measures["experts"]]
        record["examples"] = sizes
    table = bind(args.method_spec, args.method).estimate(measures)
    write_json(args.output, {**record, **table.record(), "method_spec": args.method_spec})


def of_stages(path: str) -> bool:
    """Return whether a hyper-parameter is one of those that make coefficients; those of other stages are for the merge."""
    return path.startswith(("coefficients.", "control."))


if __name__ == "__main__":
    command_line(main)
