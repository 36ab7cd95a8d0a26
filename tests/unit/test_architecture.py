"""Packages import what their docstrings list, and nothing above themselves."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from models import ROOT

WORKFLOW = ROOT / "workflow"
LIBRARY = WORKFLOW / "nan_merge"
PACKAGES = sorted(folder.name for folder in LIBRARY.iterdir() if (folder / "__init__.py").exists())
MODULES = {".".join(path.relative_to(LIBRARY).with_suffix("").parts): path for path in sorted(LIBRARY.rglob("*.py"))}
MODEL_LIBRARIES = {"transformers", "open_clip", "torchvision", "timm", "lm_eval", "datasets"}
NOT_FOR_THE_LIBRARY = {"snakemake", "scripts", "experiment", "planning", "archiving", "cluster", "argparse"}
TORCH = {"models", "calibration"}  # elsewhere only modules that load it on request: devices and the reader of pickles
ON_REQUEST = {"core.cuda", "engine.devices", "checkpoints.pickles"}


def imported(path: Path) -> set[str]:
    """Return everything that a file imports anywhere, by full name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level and node.module, f"{path}: relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def listed(package: str) -> set[str]:
    """Return the packages that the docstring of a package allows it to import."""
    doc = ast.get_docstring(ast.parse((LIBRARY / package / "__init__.py").read_text(encoding="utf-8"))) or ""
    line = re.search(r"^Imports: (.+)\.$", doc, flags=re.MULTILINE)
    assert line, f"{package}/__init__.py has no line `Imports: ...`"
    return set() if line[1].startswith("nothing") else set(line[1].split(", "))


def used(package: str) -> set[str]:
    """Return the other packages of the library that the modules of a package import."""
    names = {name for module, path in MODULES.items() if module.split(".")[0] == package for name in imported(path)}
    return {name.split(".")[1] for name in names if name.startswith("nan_merge.")} - {package}


def rows() -> dict[str, int]:
    """Return the row of every package in the drawing of nan_merge/__init__.py, the lowest first."""
    doc = ast.get_docstring(ast.parse((LIBRARY / "__init__.py").read_text(encoding="utf-8"))) or ""
    drawn = [re.split(r" {2,}", line.strip()) for line in doc.splitlines() if line.startswith("    ")]
    return {name: row for row, line in enumerate(reversed(drawn)) for name in line if name in PACKAGES}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_what_its_docstring_lists(package):
    assert used(package) == listed(package)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_lower_rows_of_the_drawing(package):
    assert rows().keys() == set(PACKAGES)
    assert all(rows()[other] < rows()[package] for other in listed(package))


def test_only_packages_lie_in_the_library_and_no_code_in_their_init():
    assert [path.name for path in LIBRARY.glob("*.py")] == ["__init__.py"]
    for init in [path for path in WORKFLOW.rglob("__init__.py") if path != LIBRARY / "__init__.py"]:  # the Python API
        (doc,) = ast.parse(init.read_text(encoding="utf-8")).body
        assert isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant), f"{init} holds code"


def test_no_modules_import_each_other():
    graph = {}
    for path in [*WORKFLOW.rglob("*.py"), *(ROOT / "scripts").glob("*.py")]:
        top = ROOT if path.is_relative_to(ROOT / "scripts") else WORKFLOW
        graph[".".join(path.relative_to(top).with_suffix("").parts)] = imported(path)
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("module", MODULES)
def test_the_library_knows_neither_snakemake_nor_the_config_and_loads_torch_only_for_models(module):
    packages = {name.split(".")[0] for name in imported(MODULES[module])}
    assert not packages & (NOT_FOR_THE_LIBRARY - ({"argparse"} if module.startswith("cli.") else set()))
    if module.split(".")[0] not in TORCH and module not in ON_REQUEST:
        assert "torch" not in packages
    if not module.startswith("models.families."):
        reads = {"datasets"} if module.startswith("models.tasks.") else set()  # lm_eval loads these
        assert not packages & (MODEL_LIBRARIES - ({"lm_eval", "datasets"} if module.startswith("models.harness.") else reads))


PLANNING = {"torch", "matplotlib", "snakemake", "numba", "scipy"}
MERGING = {"torch", "matplotlib", "snakemake"}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("experiment.experiment", PLANNING),
        (
            "nan_merge.layouts.clip_conversion, nan_merge.models.families.clip, nan_merge.models.families.open_clip",
            MODEL_LIBRARIES,
        ),
        *((f"nan_merge.{m}", MERGING) for m in ("engine.merge", "engine.measure", "layouts.unify")),
    ],
)
def test_a_dry_run_and_a_merge_never_load_torch_and_families_load_their_library_at_use(module, heavy):
    code = f"import sys, {module}; print(*sorted({heavy!r} & sys.modules.keys()))"
    run = [sys.executable, "-c", code]
    loaded = subprocess.run(run, env={"PYTHONPATH": str(WORKFLOW)}, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
