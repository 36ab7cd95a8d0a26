"""The floors that merging/__init__.py draws are the floors of the imports."""

import ast
import re
import subprocess
import sys

import pytest
from models import ROOT

import merging

LIBRARY = ROOT / "workflow" / "merging"
MODELS = {"transformers", "open_clip", "torchvision", "timm", "lm_eval", "datasets"}


def floors():
    """Read the drawing: a floor by module, `data/*` for a folder."""
    found = {}
    for line in merging.__doc__.splitlines():
        if floor := re.match(r" +(\d)  (.*)", line):
            words = re.split(r" {2,}", floor.group(2))
            names = [word for word in words if re.fullmatch(r"[a-z_]+(/(\*|<\w+>))?", word)]
            found |= {name.split("/")[0]: int(floor.group(1)) for name in names}
    return found


def modules():
    """Return the names of all modules of the library, `data.texts` for merging/data/texts.py."""
    return {".".join(path.relative_to(LIBRARY).with_suffix("").parts): path for path in sorted(LIBRARY.rglob("*.py"))}


def imported(path):
    """Return everything that a file imports anywhere, by full name."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def below(path):
    """Return the modules of the library that a file imports."""
    names = {name.removeprefix("merging.") for name in imported(path) if name.startswith("merging.")}
    return (names | {f"{name}.__init__" for name in names}) & modules().keys()


def floor(module):
    return floors()[module.split(".")[0]]


MODULES = [name for name in modules() if name != "__init__"]


def test_the_drawing_names_every_module_and_nothing_else():
    assert set(floors()) == {name.split(".")[0] for name in MODULES} | {"scripts"}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_no_higher_floor(module):
    higher = {other for other in below(modules()[module]) if floor(other) > floor(module)}
    assert not higher, f"{module} (floor {floor(module)}) imports {higher}"


def test_no_imports_go_round_in_a_circle():
    waiting = {name: below(path) - {name} for name, path in modules().items()}
    while free := [name for name, others in waiting.items() if not others & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert not waiting, f"these import each other: {sorted(waiting)}"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_neither_snakemake_nor_its_elders(module):
    packages = {name.split(".")[0] for name in imported(modules()[module])}
    assert not packages & {"snakemake", "scripts", "experiment", "argparse"}
    if floor(module) < 5 and module not in ("devices", "pickles"):  # these load it on request only
        assert "torch" not in packages
    if not module.startswith("evaluate."):
        assert not packages & MODELS


def test_the_config_reader_stands_on_the_ground_floor():
    assert {floor(name) for name in below(ROOT / "workflow/experiment.py")} == {0}


@pytest.mark.parametrize("module", ["experiment", "merging.engine", "merging.measure", "merging.recipe", "merging.layouts"])
def test_a_dry_run_and_a_merge_never_load_torch(module):
    heavy = {"torch", "pandas", "matplotlib", "snakemake"} | ({"numba", "scipy"} if module == "experiment" else set())
    code = f"import sys, {module}; print(*sorted({heavy!r} & sys.modules.keys()))"
    run = [sys.executable, "-c", code]
    loaded = subprocess.run(run, env={"PYTHONPATH": str(ROOT / "workflow")}, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
