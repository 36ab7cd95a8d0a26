"""Measure merges and scoring on a GPU: beside the host and plain loops of torch, with the parts of the time. One command:

    python -m benchmarks.gpu

What the minutes do not suffice for is named and left out. `--device torch` takes the same steps with torch on the host.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from benchmarks import plain
from benchmarks.cases import Case, add_options, facts, made, models, positive, tiny
from benchmarks.evaluation import loop
from benchmarks.evaluation.models import VISION
from benchmarks.evaluation.processes import Bench, make
from benchmarks.harness import flush, in_turn
from benchmarks.methods import without_data
from benchmarks.shapes import MODELS
from benchmarks.tables import describe, grid, machine, save
from nan_merge.checkpoints.writer import Writer
from nan_merge.core.command_line import command_line
from nan_merge.core.errors import UserError
from nan_merge.core.parallel import available_processors
from nan_merge.core.progress import Passes
from nan_merge.engine.devices import CPU, Torch, device
from nan_merge.engine.merge import merge, stream
from nan_merge.engine.request import MergeRequest
from nan_merge.models.harness.backends import load_model
from nan_merge.standalone.merge_models import Settings

PARTS = ("read", "to the device", "compute", "to the host", "write")
FIRST = ("task_arithmetic", "ties", "tsv_m", "iso_c", "cart", "actmat", "ace")  # the others follow in the order of the catalogue
CONTINUATION = 8  # tokens of an answer of the language model


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, measure until the time is over, and write the results."""
    args = arguments().parse_args(argv)
    device(args.device)  # or the error
    until, scoring = time.monotonic() + 60 * args.minutes, set(args.scoring)
    results: dict[str, Any] = {"facts": facts(args.folder), "device": named(args.device), "cases": [], "scoring": [], "left": []}
    results["facts"]["versions"]["torch"] = torch.__version__
    for size, experts, layers in args.models:
        if time.monotonic() > until:
            results["left"] += [f"{method} on {experts} × {size}" for method in args.methods or methods_for(experts)]
            continue
        with models(size, experts, args.folder, layers=layers, keep=args.keep) as case:
            results["cases"].append({**case.record(), "runs": []})
            with made(tiny(case)) as small:
                measured(small, "task_arithmetic", args.device)  # the libraries of the device are loaded
            for method in args.methods or methods_for(experts):
                if time.monotonic() > until:
                    results["left"].append(f"{method} on {experts} × {size}")
                    continue
                results["cases"][-1]["runs"].append({"method": method, **measured(case, method, args.device)})
                save(args.output / "gpu", results, gpu_table(results))
            if "language" in scoring and time.monotonic() < until:
                results["scoring"] += language(case, args.device, args.examples)
                scoring.remove("language")
    if "images" in scoring and time.monotonic() < until:
        results["scoring"] += images(args.folder, args.clip, args.device, args.examples)
        scoring.remove("images")
    results["left"] += [f"scoring of {name}" for name in sorted(scoring)]
    save(args.output / "gpu", results, gpu_table(results))


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser("benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", default="cuda", help="cuda, cuda:N or torch (%(default)s)")
    add("--models", nargs="+", type=shape, default=[("1B", 3, None), ("7B", 2, 8)], metavar="SIZE=EXPERTS[/LAYERS]",
        help="1B=3 7B=2/8 by default")  # fmt: skip
    add("--methods", nargs="+", help="ids (default: all that need no data)")
    add("--scoring", nargs="*", choices=["images", "language"], default=["images", "language"])
    add("--clip", choices=VISION, default="ViT-B-32")
    add("--examples", type=positive, default=4096, help="that are scored (%(default)s)")
    add("--minutes", type=float, default=7.0, help="after which nothing new begins (%(default)s)")
    add_options(parser)
    return parser


def shape(text: str) -> tuple[str, int, int | None]:
    """Read SIZE=EXPERTS[/LAYERS]; without LAYERS the models have all that the disk holds."""
    size, _, number = text.partition("=")
    experts, _, layers = number.partition("/")
    if size not in MODELS:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(MODELS)} before the =, found {size!r}")
    return size, positive(experts), positive(layers) if layers else None


def methods_for(experts: int) -> list[str]:
    """Return all methods that need no data, those first of which most is asked."""
    return [*FIRST, *(method for method in without_data(experts) if method not in FIRST)]


def named(name: str) -> str:
    """Return the name of a device for people."""
    return torch.cuda.get_device_name(name) if name.startswith("cuda") else "torch on the host"


def wait(name: str) -> None:
    """Wait until the device has done what it was given."""
    if name.startswith("cuda"):
        torch.cuda.synchronize(name)


@dataclass(frozen=True)
class Timed(Torch):
    """A device that adds up the seconds of copies and of what is computed between them, in one thread."""

    seconds: Counter[str] = field(default_factory=Counter)
    since: list[float] = field(default_factory=lambda: [0.0])

    def add(self, part: str, start: float) -> None:
        """Add the time since `start`, with what the device still does."""
        wait(self.name)
        self.since[0] = time.perf_counter()
        self.seconds[part] += self.since[0] - start

    def to_device(self, values: np.ndarray) -> Any:
        """Move an array to the device, as a copy."""
        start = time.perf_counter()
        moved = super().to_device(values)
        self.add("to the device", start)
        return moved

    def to_host(self, values: Any) -> np.ndarray:
        """Move a tensor back to the host, as an array."""
        self.add("compute", self.since[0])
        start = self.since[0]
        moved = super().to_host(values)
        self.add("to the host", start)
        return moved


def measured(case: Case, method: str, name: str) -> dict[str, Any]:
    """Return the seconds of a merge to durable files: on the device, by the host, by plain torch, and its parts on one thread."""
    threads = available_processors()
    try:
        chosen = Settings(method=method, threads=threads, quiet=True)
        opened = chosen.unified(case.base, {folder.name: folder for folder in case.experts})
        with Passes(0, quiet=True) as progress:
            cuts = chosen.thresholds(opened, progress)
            request = chosen.request(opened, chosen.table(opened, cuts, progress), cuts)
        found: dict[str, Any] = {"device": once(case, lambda: merge(request, case.output, threads=threads, device=device(name)))}
        found["parts"] = parts(case, request, name)
        if not request.recipe.whole:  # the others take the host half an hour
            found["host"] = once(case, lambda: merge(request, case.output, threads=threads, device=CPU))
        if method in plain.METHODS:
            found["plain"] = once(case, lambda: plain_loop(case, method, name))
    except (UserError, RuntimeError, np.linalg.LinAlgError) as error:  # torch's errors, of memory too, are RuntimeErrors
        return {"error": str(error).strip().split("\n")[0]}
    print(f"{method}: {found}", flush=True)
    return found


def once(case: Case, work: Callable[[], Any]) -> float:
    """Return the seconds until the output of the work is on the disk, and remove it."""
    start = time.perf_counter()
    try:
        work()
        flush(case.output)
        return time.perf_counter() - start
    finally:
        shutil.rmtree(case.output, ignore_errors=True)


def parts(case: Case, request: MergeRequest, name: str) -> dict[str, float]:
    """Return the seconds of the parts of a merge on one thread, where nothing is done side by side."""
    timed, shapes = Timed(device(name).name), request.models.base.entries

    def work() -> None:
        case.output.mkdir()
        writer = Writer(case.output, request.models.base.shards, {n: (request.types[n], e.shape) for n, e in shapes.items()})

        def write(tensor: str, first: int, stored: np.ndarray) -> None:
            start = time.perf_counter()
            writer.write(tensor, first, stored)
            timed.seconds["write"] += time.perf_counter() - start

        start = time.perf_counter()
        stream(request, write, device=timed)
        timed.seconds["read"] = time.perf_counter() - start - sum(timed.seconds.values())
        start = time.perf_counter()
        writer.close()
        flush(case.output)
        timed.seconds["write"] += time.perf_counter() - start

    once(case, work)
    return {part: timed.seconds[part] for part in PARTS}


def plain_loop(case: Case, method: str, name: str) -> None:
    """Merge by the paper's formula, tensor by tensor in float32, and save; tensors that are no matrices are averaged."""
    place, merged = device(name).name, {}
    opened: dict[str, list[Any]] = {}  # the base's file with a tensor, and the experts'
    for file in (safe_open(path, "pt") for path in case.files):
        for tensor in sorted(file.keys()):
            opened.setdefault(tensor, []).append(file)
    for tensor, files in opened.items():
        stored = [file.get_tensor(tensor).to(place) for file in files]
        base, *experts = (each.float() for each in stored)
        taus = [expert - base for expert in experts]
        tau = plain.METHODS[method](taus) if base.ndim == 2 else torch.stack(taus).mean(0)
        merged[tensor] = (base + tau).to(stored[0].dtype).cpu()
    case.output.mkdir()
    save_file(merged, case.output / "model.safetensors")


def images(folder: Path, size: str, name: str, examples: int) -> Iterator[dict[str, Any]]:
    """Yield the seconds of a CLIP on its own and in the loop of an evaluation, by precision and round."""
    bench = Bench(folder.resolve() / "gpu-images", threads=available_processors())
    try:
        make(bench, size, [examples])
        for precision in ("float32", "bfloat16"):
            found = loop.measure(
                bench.model, bench.data(examples), bench.head, min(256, examples), precision, 3, device(name).name
            )
            parts_of = {"network": "forward", "loop": "loop"}
            for each in (each for each in found if each["part"] in parts_of):
                of = {"model": f"CLIP {size}", "precision": precision, "examples": each["images"]}
                yield {**of, "part": parts_of[each["part"]], "round": each["round"], "wall": each["wall"]}
    finally:
        shutil.rmtree(bench.folder, ignore_errors=True)


def language(case: Case, name: str, examples: int) -> Iterator[dict[str, Any]]:
    """Yield the seconds of a language model on its own and in the harness, by round: likelihoods of answers to prompts."""
    words = Tokenizer(WordLevel({f"w{number}": number for number in range(case.model.config()["vocab_size"])}, "w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", eos_token="w2").save_pretrained(case.base)
    model = load_model(case.base, device(name).name, "bfloat16", {})
    model.batch_size_per_gpu = 32
    rng = np.random.default_rng(0)
    texts = [
        rng.integers(3, len(words.get_vocab()), length).tolist() for length in np.sort(rng.integers(32, 128, examples))[::-1]
    ]
    requests = [(("", str(number)), text, text[:CONTINUATION]) for number, text in enumerate(texts)]
    rows = [text + text[: CONTINUATION - 1] for text in texts]
    batches = [rows[first : first + 32] for first in range(0, examples, 32)]
    ready = [torch.tensor([row + [0] * (len(batch[0]) - len(row)) for row in batch]).to(model.device) for batch in batches]

    def forward() -> None:
        with torch.inference_mode():
            for batch in ready:
                model.model(batch)
        wait(name)

    work = {"forward": forward, "loop": lambda: model._loglikelihood_tokens(requests, disable_tqdm=True)}
    for each in in_turn(work, 3):
        about = {"model": f"LLaMA shape, {case.size}", "precision": "bfloat16", "examples": examples}
        yield {**about, "part": each["part"], "round": each["round"], "wall": each["wall"]}


def gpu_table(results: dict[str, Any]) -> str:
    """Return the page of the results."""
    lines = ["# Merges and scoring on a GPU", "", f"{machine(results['facts'])} Device: {results['device']}.", ""]
    for case in results["cases"]:
        lines += [f"## {describe(case)}", "", "Seconds to durable files; the parts are those of one thread.", ""]
        lines += [*grid(["method", "device", "host", "plain torch", *PARTS], [row(run) for run in case["runs"]]), ""]
    if results["scoring"]:
        lines += ["## Scoring", "", "The least wall time of the rounds.", "", *speeds(results["scoring"]), ""]
    lines += [f"Left out, since the time was over: {', '.join(results['left'])}.", ""] if results["left"] else []
    return "\n".join(lines)


def row(run: dict[str, Any]) -> list[str]:
    """Return the cells of one merge."""
    if "error" in run:
        return [f"`{run['method']}`", run["error"], *[""] * (2 + len(PARTS))]
    whole = [f"{run[key]:.1f}" if key in run else "–" for key in ("device", "host", "plain")]
    return [f"`{run['method']}`", *whole, *(f"{run['parts'][part]:.1f}" for part in PARTS)]


def speeds(rounds: Sequence[dict[str, Any]]) -> list[str]:
    """Return the table of what scoring takes beside its forward passes."""
    rows = []
    for key in dict.fromkeys((each["model"], each["precision"], each["examples"]) for each in rounds):
        own = [each for each in rounds if (each["model"], each["precision"], each["examples"]) == key]
        forward, whole = (min(each["wall"] for each in own if each["part"] == part) for part in ("forward", "loop"))
        rates = [f"{key[2] / seconds:,.1f}" for seconds in (forward, whole)]
        rows.append([key[0], key[1], *rates, f"{forward / whole:.3f}"])
    return grid(["model", "precision", "forward, examples/s", "loop, examples/s", "speed of the forward passes"], rows, 2)


if __name__ == "__main__":
    command_line(main)
