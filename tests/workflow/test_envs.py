"""The conda environments: the versions of requirements.txt, everything that their rules import, and one for every rule.

No conda channel is needed: what cannot be tried here is only that a channel has the packages.
"""

from __future__ import annotations

import ast
import os
import re
import stat
import sys
from pathlib import Path

import pytest
import tiny
from project import Project

from nan_merge.core.code_digest import Code

ROOT = tiny.ROOT
ON_CONDA = {"pytorch": "torch", "python-xxhash": "xxhash"}  # packages that have another name on conda-forge
IMPORTED_AS = {"yaml": "pyyaml", "PIL": "pillow", "open_clip": "open-clip-torch", "fontTools": "fonttools"}
PULLED_IN = {"markupsafe": "jinja2", "urllib3": "requests"}  # by a package that is named
OTHERS = {  # what the wheel of vLLM asks for, and with what OpenCompass imports
    "vllm": {"vllm": "0.33.0", "torch": "2.14.0", "torchvision": "0.29.0", "transformers": "5.20.0", "numba": "0.65.0"},
    "opencompass": {
        "opencompass": "0.5.4", "torch": "2.13.0", "transformers": "4.49.0", "datasets": "3.6.0", "numpy": "1.26.4",
        "pyarrow": "20.0.0", "pandas": "2.3.3", "huggingface-hub": "0.36.0",
    },
}  # fmt: skip
ENVIRONMENTS = sorted((ROOT / "envs").glob("*.yaml"))


def pinned() -> dict[str, str]:
    files = ("requirements.txt", "requirements-language.txt")
    lines = (line.split("#")[0].strip() for file in files for line in (ROOT / file).read_text().splitlines())
    return {normal(name): version for name, version in (line.split("==") for line in lines if line)}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named(environment: Path) -> dict[str, str]:
    """Return the packages of an environment with their versions, what is installed after it among them."""
    lines = [line for line in tiny.read_yaml(environment)["dependencies"] if line not in ("pip", "python=3.11")]
    after = environment.with_suffix(".post-deploy.sh")
    lines += re.findall(r"[\w-]+==[\w.]+", after.read_text()) if after.exists() else []
    pairs = [re.split("==?", line) for line in lines]
    return {normal(ON_CONDA.get(name, name)): version for name, version in pairs}


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda path: path.stem)
def test_an_environment_has_the_pinned_versions(environment):
    versions = named(environment)
    assert versions
    assert versions == {**{name: pinned().get(name) for name in versions}, **OTHERS.get(environment.stem, {})}


def test_every_requirement_is_pinned_once():
    files = ("requirements.txt", "requirements-language.txt")
    lines = [line.split("#")[0].strip() for file in files for line in (ROOT / file).read_text().splitlines()]
    names = [normal(line.split("==")[0]) for line in lines if line]
    assert all("==" in line for line in lines if line)
    assert len(names) == len(set(names))


# ---- what rules import --------------------------------------------------------------------------------------------


def of_rules() -> dict[str, set[str]]:
    """Return the modules that start in each environment: the scripts of its rules, with families, readers and calibration."""
    modules: dict[str, set[str]] = {}
    of_family = {"text": ["text_encoder"], "clip": ["image_encoder", "clip", "open_clip", "convnet"]}
    of_family["causal_lm"] = ["sequence_classification", "causal_lm"]
    readers = {"text": ["texts"], "clip": ["images", "hub_images"], "causal_lm": ["glue"]}
    kinds = [f"nan_merge.calibration.{file.stem}" for file in (ROOT / "workflow/nan_merge/calibration").glob("[a-z]*.py")]
    for file in sorted((ROOT / "workflow/rules").glob("*.smk")):
        for text in re.split(r"\n\s*rule ", file.read_text(encoding="utf-8"))[1:]:
            script = re.search(r"python -m (scripts\.\w+)", text)
            name = re.search(r'conda:\s+(?:environment_file\("(\w+)"\)|environment\w*\n)', text)
            if not script or not name:
                continue
            if name[1]:
                modules.setdefault(name[1], set()).add(script[1])
                continue
            if script[1] == "scripts.evaluate_benchmark":  # of language models only
                modules["causal_lm"].add(script[1])
                modules["vllm"] = {script[1], "nan_merge.models.families.causal_lm"}
                continue
            for environment, families in of_family.items():
                more = [f"nan_merge.models.families.{family}" for family in families] + kinds
                more += [f"nan_merge.data.{reader}" for reader in readers[environment]]
                modules.setdefault(environment, set()).update({script[1], *more})
    return modules


def imported(modules: set[str]) -> set[str]:
    """Return the packages that modules, and the modules of the project that they import, import anywhere."""
    names: set[str] = set()
    code = Code(ROOT)
    for module in code.closure(modules):
        for node in ast.walk(ast.parse(code.file(module).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    own = {"merging", "scripts", *(path.stem for path in (ROOT / "workflow").iterdir())}
    return {normal(IMPORTED_AS.get(n, PULLED_IN.get(n, n))) for n in names - own - sys.stdlib_module_names - {"pip"}}


@pytest.mark.parametrize("name", sorted(path.stem for path in ENVIRONMENTS))
def test_an_environment_has_all_that_its_rules_import(name):
    wanted = imported(of_rules()[name])
    assert wanted and wanted <= named(ROOT / f"envs/{name}.yaml").keys()


# ---- which environment a rule gets --------------------------------------------------------------------------------

CONDA = """#!/bin/sh
case "$*" in
*--version*) echo conda 25.1.1 ;;
*info*) echo '{"conda_version": "25.1.1", "conda_prefix": "/none", "root_prefix": "/none", "platform": "linux-64"}' ;;
*config*) echo '{"get": {"channel_priority": "strict"}}' ;;
esac
"""


def environments_of(project: Project, tmp_path: Path, *words: str) -> set[str]:
    """Return the environments that `--sdm conda` would make, by a conda that only says that it is there."""
    conda = tmp_path / "conda/conda"
    conda.parent.mkdir(exist_ok=True)
    conda.write_text(CONDA)
    conda.chmod(conda.stat().st_mode | stat.S_IXUSR)
    path = f"{conda.parent}:{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    text = project.run("--dry-run", "--sdm", "conda", *words, PATH=path).text
    return set(re.findall(r"Conda environment \S*envs/(\w+)\.yaml will be created", text))


def test_rules_that_run_models_get_the_environment_of_their_family(fresh, tmp_path):
    assert environments_of(fresh, tmp_path) == {"workflow", "text", "merge", "report"}
    real = Project(tiny.copy_code(tmp_path / "real"))
    vision = ("--configfile", "config/vision.yaml")
    assert environments_of(real, tmp_path, *vision) == {"workflow", "clip", "merge", "report"}
    for overlay in ("ace_language", "nan_table2"):
        language = ("--configfile", f"config/papers/{overlay}.yaml")
        assert environments_of(real, tmp_path, *language) == {"workflow", "causal_lm", "merge", "report"}
    by_vllm = tmp_path / "by_vllm.yaml"
    scoring = {"device": "cuda", "precision": "float16", "backend": "vllm"}
    tiny.write_yaml(by_vllm, {"scoring": scoring, "cross_check": ["pretrained"]})
    found = environments_of(real, tmp_path, "--configfile", "config/papers/nan_table2.yaml", str(by_vllm))
    assert found == {"workflow", "causal_lm", "vllm", "opencompass", "merge", "report"}
    assert {path.stem for path in ENVIRONMENTS} == found | {"text", "clip", "search"}
