"""`pip install .` into an empty environment gives `nan-merge` and the Python API, in any folder, without torch and snakemake.

What it merges are the bytes that the checkout merges. An editable installation, as `make` makes it, finds its checkout.
"""

import json
import os
import re
import shutil
import subprocess
import tomllib
import venv

import pytest
import tiny
import torch
import transformers
from layout_models import factors, write_adapter
from models import ROOT, same_bytes, tensors_of
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from nan_merge import merge

INDEX = pytest.mark.demo  # of packages: asked once
SMALL = {"vocab_size": 27}
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
ARCHITECTURES = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, **SIZES)),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SMALL, **SIZES)),
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**SMALL, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    ),
}
QUERY = "model.layers.0.self_attn.q_proj"
FILES = ("pyproject.toml", "README.md", "LICENSE", "NOTICE.md")


def environment(folder, *arguments):
    """Make an environment from nothing, install a copy of the checkout into it, and return the folder of its programs."""
    checkout = tiny.copy_code(folder / "checkout")
    for name in FILES:
        shutil.copy2(ROOT / name, checkout / name)
    venv.create(folder / "venv", with_pip=True)
    programs = folder / "venv/bin"
    pip = [programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(pip, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return programs


def call(*words, folder, **variables):
    """Run a program without anything of the checkout under test."""
    mine = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run([*map(str, words)], cwd=folder, env={**mine, **variables}, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """The programs of an empty environment after `pip install .`; the copy of the checkout is gone."""
    folder = tmp_path_factory.mktemp("wheel")
    found = environment(folder, ".")
    shutil.rmtree(folder / "checkout")
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base, an expert and another one of every architecture, a LoRA adapter, and the base in a cache of the hub."""
    folder = tmp_path_factory.mktemp("models")
    for name, make in ARCHITECTURES.items():
        torch.manual_seed(0)
        base = make()
        base.save_pretrained(folder / name / "base")
        for seed, expert in enumerate("ab", start=1):
            torch.manual_seed(seed)
            model = make()
            model.load_state_dict({n: t + 0.02 * torch.randn_like(t) for n, t in base.state_dict().items()})
            model.save_pretrained(folder / name / expert)
    write_adapter(folder / "llama/lora", factors(QUERY, 16, 16))
    cached = folder / f"cache/models--owner--base/snapshots/{'c' * 40}"
    (cached.parents[1] / "refs").mkdir(parents=True)
    (cached.parents[1] / "refs/main").write_text("c" * 40)
    cached.mkdir(parents=True)
    for file in (folder / "llama/base").iterdir():
        blob = cached.parents[1] / "blobs" / file.name
        blob.parent.mkdir(exist_ok=True)
        shutil.copy2(file, blob)
        (cached / file.name).symlink_to(blob)
    return folder


@INDEX
@pytest.mark.parametrize("method", ["ties+nan_delta", "weight_averaging"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_command_merges_in_another_folder_as_the_checkout_does(architecture, method, programs, models, tmp_path):
    folder = models / architecture
    words = ["--base", "base", "--expert", "x=a", "--expert", "b", "--method", method, "--output", tmp_path / "out"]
    done = call(programs / "nan-merge", "merge", *words, folder=folder)
    assert done.returncode == 0, done.stderr
    experts = {"x": folder / "a", "b": folder / "b"}
    merge(base=folder / "base", experts=experts, method=method, output=tmp_path / "here", quiet=True)
    assert same_bytes(tensors_of(tmp_path / "out"), tensors_of(tmp_path / "here"))
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")


@INDEX
@pytest.mark.parametrize("base", ["owner/base", "snapshot"])
def test_a_cache_of_the_hub_and_a_lora_folder_are_models(base, programs, models, tmp_path):
    given = models / f"cache/models--owner--base/snapshots/{'c' * 40}" if base == "snapshot" else base
    words = [
        "--base",
        given,
        "--expert",
        "llama/a",
        "--expert",
        "llama/lora",
        "--method",
        "ties+nan_delta",
        "--output",
        tmp_path / "out",
    ]
    done = call(
        programs / "nan-merge", "merge", *words, "--json", folder=models, HF_HUB_CACHE=str(models / "cache"), HF_HUB_OFFLINE="1"
    )
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)["coefficients"]) == ["a", "lora"]
    experts = [models / "llama/a", models / "llama/lora"]
    merge(base=models / "llama/base", experts=experts, method="ties+nan_delta", output=tmp_path / "here", quiet=True)
    assert same_bytes(tensors_of(tmp_path / "out"), tensors_of(tmp_path / "here"))


@INDEX
def test_the_python_api_needs_no_torch(programs, models, tmp_path):
    program = (
        "import numpy as np, nan_merge\n"
        f"out = {str(tmp_path / 'out')!r}\n"
        "found = nan_merge.merge(base='base', experts=['a', 'b'], method='tsv_m', output=out, quiet=True)\n"
        "print(*found.coefficients)\n"
        "base = {'w': np.zeros((3, 2), np.float32)}\n"
        "print(nan_merge.merge_state_dicts(base, {'a': {'w': base['w'] + 1}}, 'weight_averaging')['w'].sum())\n"
    )
    done = call(programs / "python", "-c", program, folder=models / "gpt2")
    assert done.stdout == "a b\n6.0\n", done.stderr
    assert call(programs / "python", "-c", "import torch", folder=tmp_path).returncode == 1
    assert call(programs / "python", "-c", "import snakemake", folder=tmp_path).returncode == 1


@INDEX
def test_what_is_not_installed_is_said_with_the_way_to_get_it(programs, models, tmp_path):
    words = ["--base", "base", "--expert", "a", "--method", "ties", "--output", tmp_path / "out"]
    done = call(programs / "nan-merge", "merge", *words, "--device", "cuda", folder=models / "llama")
    assert done.returncode == 1 and "run: pip install torch" in done.stderr and "Traceback" not in done.stderr
    done = call(programs / "nan-merge", "plan", folder=tmp_path)
    assert done.returncode == 1 and "git clone" in done.stderr and "Traceback" not in done.stderr
    done = call(programs / "nan-merge", "plan", folder=ROOT)
    assert done.returncode == 1 and "needs snakemake" in done.stderr and f"pip install '{ROOT}[workflow]'" in done.stderr
    done = call(programs / "nan-merge", "--version", folder=tmp_path)
    assert done.stdout == f"nan-merge {project()['version']}\n"


@INDEX
def test_an_editable_installation_finds_its_checkout_from_anywhere(tmp_path):
    programs = environment(tmp_path, "--no-deps", "--editable", ".")
    done = call(programs / "nan-merge", "clean", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "0 partial files or folders\n"), done.stderr
    done = call(programs / "nan-merge", "status", folder=tmp_path)
    assert done.returncode == 1 and f"{tmp_path / 'checkout'}/.snakemake/log holds no log" in done.stderr


# ---- pyproject.toml ---------------------------------------------------------------------------------------------------


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements():
    return [
        Requirement(line) for lines in (project()["dependencies"], *project()["optional-dependencies"].values()) for line in lines
    ]


def test_what_the_package_needs_is_pinned_within_its_bounds():
    files = ((ROOT / name).read_text() for name in ("requirements.txt", "requirements-language.txt"))
    lines = re.findall(r"^([\w.-]+)==([\w.]+)", "".join(files), re.MULTILINE)
    pins = {canonicalize_name(name): Version(version) for name, version in lines}
    for requirement in requirements():
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement
