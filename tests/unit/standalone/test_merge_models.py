"""One command turns models that a user has, in folders or on a hub, into a model that transformers loads."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from hub import Hub, point_to
from layout_models import factors, write_adapter
from models import ROOT, distinct, every_method, family, moved, random_model, same_bytes, save, tensors_of
from tokenizers import Tokenizer, models, pre_tokenizers

from nan_merge.assets import retry
from nan_merge.catalogue.methods import REFERENCES
from nan_merge.cli import merge as command
from nan_merge.core import disk
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json, sha256
from nan_merge.core.progress import Passes
from nan_merge.standalone import documented_merge
from nan_merge.standalone.documented_merge import compose
from nan_merge.standalone.merge_models import Settings
from nan_merge.standalone.sources import files, find, named, short_names

OPERATORS = ["[PAD]", *"abcdefghijklmnopqrstuvwxyz"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "workflow")}
SMALL = {"vocab_size": len(OPERATORS)}
ARCHITECTURES = {
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            **SMALL, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1
        )
    ),
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**SMALL, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    ),
}
SHARD = "/model-00002-of-00002.safetensors"
PREPROCESSOR = {"do_resize": True, "size": 4}
ABOUT = "---\nlicense: mit\npipeline_tag: text-generation\n---\n# a base\n"


def build(folder, architecture, **how):
    """Save a base and two experts of one architecture as transformers does, the base with all that goes with a model."""
    torch.manual_seed(0)
    base = ARCHITECTURES[architecture]()
    base.generation_config.max_new_tokens = 7
    base.save_pretrained(folder / "base", **how)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(OPERATORS)}, unk_token="[PAD]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]").save_pretrained(folder / "base")
    (folder / "base/preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    (folder / "base/README.md").write_text(ABOUT)
    for seed, name in enumerate("ab", start=1):
        torch.manual_seed(seed)
        expert = ARCHITECTURES[architecture]()
        expert.load_state_dict({n: t + 0.02 * torch.randn_like(t) for n, t in base.state_dict().items()})
        expert.save_pretrained(folder / name, **how)
        (folder / name / "README.md").write_text(ABOUT)
    return base


def words(folder, *more, experts=("a", "b"), method="task_arithmetic", output="out"):
    """Return a command line over the models of a folder."""
    given = [word for name in experts for word in ("--expert", str(folder / name))]
    return ["--base", str(folder / "base"), *given, "--method", method, "--output", str(folder / output), "--threads", "2", *more]


def merge(folder, *more, **given):
    """Merge and return the tensors of the output."""
    command.main(words(folder, *more, **given))
    return tensors_of(folder / given.get("output", "out"))


# The output is a model that people can use.


@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "8KB"}], ids=["one file", "shards"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_transformers_loads_the_merge_and_it_computes_the_sum(architecture, shards, tmp_path):
    base = build(tmp_path, architecture, **shards)
    merge(tmp_path, "--set", "coefficients.constant.value=0.5")
    assert (len(list((tmp_path / "out").glob("*.safetensors"))) > 1) == bool(shards)
    found, told = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(told.values()), told
    experts = [transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in "ab"]
    for name, tensor in base.state_dict().items():
        expected = tensor + sum(0.5 * (expert[name] - tensor) for expert in experts)
        torch.testing.assert_close(found.state_dict()[name], expected, atol=1e-6, rtol=1e-6)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("c a b")["input_ids"] == [3, 1, 2]
    assert found.generate(torch.tensor([[1, 2]]), do_sample=False).shape[1] <= 2 + 7
    assert transformers.GenerationConfig.from_pretrained(tmp_path / "out").max_new_tokens == 7
    assert read_json(tmp_path / "out/preprocessor_config.json") == PREPROCESSOR


def test_the_output_says_in_which_type_whole_tensors_were_computed(tmp_path):
    family(tmp_path, experts=2)
    float64 = merge(tmp_path, method="tsv_m")
    float32 = merge(tmp_path, "--compute", "float32", "--overwrite", method="tsv_m")
    assert float32.keys() == float64.keys() and not same_bytes(float32, float64)
    assert read_json(tmp_path / "out/provenance.json")["compute"] == "float32"
    assert "\ncompute: float32\n" in (tmp_path / "out/README.md").read_text()
    merge(tmp_path, "--overwrite", method="ties")
    assert "compute" not in read_json(tmp_path / "out/provenance.json")


def test_documents_of_models_in_float64_say_so_whatever_type_a_config_asks_for(tmp_path):
    family(tmp_path, experts=2, dtype=np.dtype(float))
    own, places = Settings(method="tsv_m"), {name: find(str(tmp_path / name)) for name in ("base", "a", "b")}
    models = own.unified(tmp_path / "base", {name: tmp_path / name for name in "ab"})
    request = replace(own.request(models, own.assumed(models), dict), compute=np.dtype(np.float32))
    about = {"name": "out", "method": "tsv_m", "method_spec": own.method_spec}
    record = compose(request, places, about, tmp_path / "out")
    assert record["compute"] == "float64" and "--compute" not in record["command"]


def test_the_output_says_where_it_comes_from(tmp_path):
    build(tmp_path, "llama")
    merge(tmp_path, method="task_arithmetic+nan_delta")
    card = huggingface_hub.ModelCard.load(tmp_path / "out/README.md")
    assert (card.data.license, card.data.pipeline_tag, card.data.base_model) == ("mit", "text-generation", ["base", "a", "b"])
    record = read_json(tmp_path / "out/provenance.json")
    assert record["coefficients"]["experts"] == ["a", "b"]
    assert sum(record["coefficients"]["rows"]["model"]) == pytest.approx(0.6)
    assert record["inputs"]["a"]["files"]["model.safetensors"]["size"] == (tmp_path / "a/model.safetensors").stat().st_size
    assert len({model["xxh3_128"] for model in record["inputs"].values()}) == 3
    shutil.move(tmp_path / "out", tmp_path / "first")
    again = record["command"].replace("\\\n", "").split()
    assert again[:2] == ["nan-merge", "merge"]
    command.main(again[2:])
    assert str(tmp_path) not in (tmp_path / "out/README.md").read_text()
    for file in (tmp_path / "first").iterdir():
        assert file.read_bytes() == (tmp_path / "out" / file.name).read_bytes(), file.name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_dtype_is_that_of_weights_and_config(dtype, tmp_path):
    build(tmp_path, "llama")
    found = merge(tmp_path, "--dtype", dtype)
    assert {str(tensor.dtype) for tensor in found.values()} == {dtype}
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype == getattr(torch, dtype)


# The command does what it says.


def distinct_methods():
    """Return the records of the methods that merge, without scans."""
    return {m: r for m, r in every_method().items() if m not in REFERENCES and m in distinct()}


MORE = {
    "fisher": "needs data (calibration: fisher), which only a suite has",
    "adamerging_task": "needs data (learn: ",
    "emr": "makes a model for each task, not one",
    "zipit": "--method zipit: it matches the units of networks trained from different random weights",
    "zipit_partial": "the units of experts of one base are in one order already; choose task_arithmetic, ties or",
    "ensemble": "merges nothing (the mean of the logits of all experts",
}


@pytest.mark.parametrize("method", MORE)
def test_a_method_that_needs_more_than_models_says_so(method, tmp_path):
    family(tmp_path)
    with pytest.raises(UserError) as error:
        merge(tmp_path, method=method, experts="abc")
    assert MORE[method] in str(error.value)


def needs_more(record):
    """Return whether a method needs data, a choice on validation, or the name of a task."""
    return any(key in record for key in ("tune", "calibration", "learn")) or not record["static"] or "sizes" in record["data"]


@pytest.mark.parametrize("method", [m for m, r in distinct_methods().items() if not needs_more(r)])
def test_every_shipped_method_merges(method, tmp_path):
    experts = "ab" if "slerp" in method else "abc"
    family(tmp_path, experts=len(experts))
    found = merge(tmp_path, method=method, experts=experts)
    assert found.keys() == tensors_of(tmp_path / "base").keys()
    assert not same_bytes(found, tensors_of(tmp_path / "base"))


def test_set_overrides_a_hyper_parameter_and_puts_in_another_operator(tmp_path):
    family(tmp_path)
    more = ["--set", "coefficients.given.values={b: 0.3, a: 0.5}", "--set", "combine=disjoint_sum"]
    more += ["--set", "preprocess.trim.density=1e-1", "--set", "preprocess.trim.scope=tensor"]
    merge(tmp_path, *more)
    record = read_json(tmp_path / "out/provenance.json")
    assert record["method_spec"] == {
        "coefficients": {"given": {"values": {"b": 0.3, "a": 0.5}}},
        "combine": "disjoint_sum",
        "preprocess": {"trim": {"density": 0.1, "scope": "tensor"}},
    }
    assert record["coefficients"]["rows"] == {"model": [0.5, 0.3]}


def test_a_label_stays_short_where_many_settings_are_changed(tmp_path):
    family(tmp_path)

    def label(*settings):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        merge(tmp_path, *(word for setting in settings for word in ("--set", setting)), method="ties")
        return read_json(tmp_path / "out/provenance.json")["label"]

    assert label("preprocess.trim.density=0.1").endswith(", changed by preprocess.trim.density=0.1")
    values = "coefficients.given.values={a: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], b: [0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]}"
    assert label(values).endswith(", changed by coefficients.given.values")
    assert "0.7" in (tmp_path / "out/README.md").read_text(), "the recipe has the values"
    several = ["preprocess.trim.density=0.1", "preprocess.trim.scope=tensor", "combine.disjoint_sum.elect=unweighted"]
    assert label(*several).endswith("trim.density, preprocess.trim.scope, combine.disjoint_sum.elect")
    assert label(*several, "coefficients.constant.value=0.25").endswith(", changed by 4 settings")


def test_coefficients_and_time_are_printed(tmp_path, capsys):
    family(tmp_path)
    merge(tmp_path, "--set", "coefficients.constant.value=0.25")
    printed = capsys.readouterr().out
    assert "coefficients of task_arithmetic:\n          a     b\nmodel  0.25  0.25\n" in printed
    assert f"{tmp_path / 'out'}: written in " in printed


def test_many_rows_are_printed_in_short(tmp_path, capsys):
    base = {f"layers.{i}.weight": np.ones(i + 1, np.float32) for i in range(20)}
    for seed, name in enumerate(("base", "a", "b")):
        save(tmp_path / name, {n: t + seed for n, t in base.items()})
    merge(tmp_path, method="task_arithmetic+nan_delta_layer")
    printed = capsys.readouterr().out
    assert "layers.14" in printed
    assert "layers.2 " not in printed
    assert "... 12 more layers, all in provenance.json\n" in printed
    assert "mean of 20      0.4  0.2\n" in printed


def test_excluded_tensors_stay_at_the_base(tmp_path):
    base, _ = family(tmp_path)
    found = merge(tmp_path, "--exclude", "embeddings", "bias$", "--exclude", "scale")
    origin = tensors_of(base)
    changed = {name for name in origin if found[name].tobytes() != origin[name].tobytes()}
    assert changed == {"encoder.layer.0.dense.weight", "encoder.layer.1.dense.weight", "encoder.layer.1.norm.weight"}


def test_seed_and_names_decide_what_is_dropped_threads_do_not(tmp_path):
    family(tmp_path)
    dare = {"method": "dare"}
    first = merge(tmp_path, **dare)
    assert same_bytes(first, merge(tmp_path, "--threads", "1", output="threads", **dare))
    assert not same_bytes(first, merge(tmp_path, "--seed", "1", output="seed", **dare))


def test_an_adapter_is_an_expert_like_any_other(tmp_path, capsys):
    base, _ = family(tmp_path, experts=1)
    module, half = "encoder.layer.0.dense", ["--set", "coefficients.constant.value=0.5"]
    low = factors(module, 13, 7)
    write_adapter(tmp_path / "lora", low)
    found = merge(tmp_path, *half, "--export-mergekit", str(tmp_path / "m.yml"), experts=("a", "lora"))
    theta, expert = (tensors_of(folder)[f"{module}.weight"].astype(np.float64) for folder in (base, tmp_path / "a"))
    step = 3 / 2 * low[f"{module}.lora_B.weight"] @ low[f"{module}.lora_A.weight"]
    assert found[f"{module}.weight"] == pytest.approx(theta + 0.5 * (expert - theta) + 0.5 * step, abs=1e-6)
    assert f"- model: {base}+{tmp_path / 'lora'}\n" in (tmp_path / "m.yml").read_text()
    record = read_json(tmp_path / "out/provenance.json")
    assert set(record["inputs"]["lora"]["files"]) == {"adapter_model.safetensors", "adapter_config.json"}
    (note,) = record["notes"]
    assert f"note: {note}" in capsys.readouterr().err
    assert f"- {note}\n" in (tmp_path / "out/README.md").read_text()


def test_norms_are_measured_only_where_they_matter(tmp_path):
    family(tmp_path)
    merge(tmp_path)
    assert read_json(tmp_path / "out/provenance.json")["coefficients"]["norms"] == {}
    merge(tmp_path, method="task_arithmetic+nan", output="nan")
    assert read_json(tmp_path / "nan/provenance.json")["coefficients"]["norms"]["model"]


def test_a_merge_of_safetensors_never_loads_torch(tmp_path):
    family(tmp_path)
    program = f"""
import sys
from nan_merge.cli import merge as command
command.main({words(tmp_path, "--set", "preprocess.trim.density=0.1", method="ties+nan")!r})
print(*sorted({{"torch", "pandas", "transformers", "huggingface_hub", "snakemake"}} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
    assert "merge: 100%" in done.stderr


@pytest.mark.parametrize("terminal", [True, False], ids=["a terminal", "a log"])
def test_progress_is_a_bar_with_rate_on_a_terminal_and_lines_in_a_log(terminal, monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", stream)
    with Passes(4_000_000) as progress:
        progress.begin("norms")
        threads = [threading.Thread(target=lambda: [progress(1000) for _ in range(1000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    text = stream.getvalue()
    assert ("\r" in text) == terminal
    assert re.search(r"norms: 100%.*4\.00M/4\.00M \[\d\d:\d\d<00:00, .*B/s\]", text)


# Names.


def test_experts_are_named_by_hand_or_by_their_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("run1/last", "run2/last", "lr=0.1", "base"):
        Path(folder).mkdir(parents=True)
    found = named(["run1/last", "run2/last/", "lr=0.1", "math=owner/model@v1", "owner/code", "base"])
    assert found == {
        "math": "owner/model@v1",
        "last": "run1/last",
        "last-2": "run2/last/",
        "lr-0.1": "lr=0.1",
        "code": "owner/code",
        "base-2": "base",
    }
    for taken in (["a=x/y", "a=x/z"], ["base=x/y"]):
        with pytest.raises(UserError, match="is taken; choose another"):
            named(taken)
    assert short_names(["o/a@main", "p/a"]) == ["a", "a-2"]


# Mistakes end with one message, before anything is written.


MISTAKES = {
    "an unknown method": (["--method", "tise"], "--method: unknown 'tise'; did you mean 'ties'?"),
    "a reference": (["--method", "individual"], "--method individual: merges nothing"),
    "a tuned method": (
        ["--method", "task_arithmetic_tuned"],
        "by an evaluation, which only a suite has; take --method task_arithmetic --set coefficients.constant.value=<number>",
    ),
    "a method tuned as another": (
        ["--method", "task_arithmetic_tuned+nan_delta"],
        "--method task_arithmetic+nan_delta --set coefficients.nan.mean=<number>",
    ),
    "no value": (["--set", "preprocess.trim.density"], "expected stage.operator.hyper_parameter=value, such as"),
    "half a path": (["--set", "trim.density=0.1"], "expected stage.operator.hyper_parameter=value, such as"),
    "a stage": (["--set", "preproces.trim.density=0.1"], "no stage 'preproces'; did you mean 'preprocess'?"),
    "an operator": (["--set", "preprocess.trin.density=0.1"], "preprocess has no operator 'trin'; did you mean 'trim'?"),
    "a hyper-parameter": (["--set", "preprocess.trim.densty=0.1"], "not 'densty'; did you mean 'density'?"),
    "a value out of range": (
        ["--set", "preprocess.trim.density=2"],
        "--set: method.preprocess.trim.density: expected a number above 0 and of at most 1",
    ),
    "a word for a number": (["--set", "coefficients.constant.value=much"], "--set: method.coefficients"),
    "coefficients of other experts": (
        ["--set", "coefficients.given.values={a: 1, c: 2}"],
        "coefficients: given: values: expected a coefficient for each of a, b; found a, c",
    ),
    "the rule of a variant": (
        ["--method", "ties+nan_delta", "--set", "coefficients.constant.value=0.5"],
        "--set coefficients: replaces what 'ties+nan_delta' puts on ties; name the method ties to set its coefficients",
    ),
    "the space of a variant": (
        ["--method", "ties+core+nan_delta", "--set", "space=full"],
        "--set space: replaces what 'ties+core+nan_delta' puts on ties; name the method ties to set its space",
    ),
    "no regular expression in a method": (
        ["--method", "wudi", "--set", "combine.wudi.exclude=("],
        "--set: method.combine.wudi.exclude: expected a regular expression (regular expression of the names of matrices that are"
        " treated as other tensors), found '(': missing ), unterminated subpattern at position 0",
    ),
    "sizes that are not stated": (
        ["--method", "ties+data_size"],
        "--method ties+data_size: needs the number of training examples of each expert: --examples NAME=N",
    ),
    "a shuffle that two experts do not have": (
        ["--method", "ties+nan_delta+permuted_2"],
        "--method ties+nan_delta+permuted_2: 2 experts have no more shuffles than 1",
    ),
    "no regular expression": (["--exclude", "("], "--exclude (: no regular expression"),
    "no such folder": (["--expert", "nowhere"], "nowhere: no such folder here, and no hub id either (`owner/name`"),
    "a file": (["--expert", str(ROOT / "README.md")], "README.md: is a file; expected the folder of a model"),
    "a device": (["--device", "abacus"], "device 'abacus': expected cpu, cuda or cuda:N"),
    "a type that changes nothing": (
        ["--compute", "float32"],
        "--compute float32: has no effect on task_arithmetic, which takes tensors piece by piece, in float32 for models",
    ),
    "a hyper-parameter without its path": (
        ["--set", "value=0.5"],
        "--set value: no stage 'value'; known are: ",
    ),
    "a draw that there is not": (
        ["--method", "ties+nan_delta+permuted_9"],
        "--method: unknown 'ties+nan_delta+permuted_9'; ties+nan_delta+permuted has ties+nan_delta+permuted_1, ",
    ),
    "a variant without a host, which was a method once": (
        ["--method", "permuted"],
        "--method: 'permuted': permuted is a variant; put it on a host",
    ),
    "threads that change nothing": (
        ["--blas-threads", "2"],
        "--blas-threads 2: has no effect on task_arithmetic, which takes tensors piece by piece; leave it out",
    ),
    "more threads than the matrix library has": (
        ["--method", "tsv_m", "--blas-threads", "65"],
        "--blas-threads 65: expected a whole number from 1 to 64",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_says_what_is_wrong_and_writes_nothing(mistake, tmp_path):
    family(tmp_path, experts=2)
    more, message = MISTAKES[mistake]
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError) as error:
        command.main([*words(tmp_path), *more])
    assert message in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


def test_no_expert_is_refused_and_one_is_warned_of(tmp_path, capsys):
    family(tmp_path)
    with pytest.raises(SystemExit):
        command.main(words(tmp_path, experts=()))
    assert "--expert" in capsys.readouterr().err
    merge(tmp_path, experts="a")
    assert "warning: one expert only" in capsys.readouterr().err


def test_the_same_model_twice_is_refused(tmp_path):
    family(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match="'a-2' and 'a' are the same model"):
        merge(tmp_path, experts=("a", "again"))


def test_only_an_older_merge_is_overwritten_and_only_when_asked(tmp_path):
    family(tmp_path)
    merge(tmp_path)
    with pytest.raises(UserError, match="out: exists already; choose another --output, or add --overwrite"):
        merge(tmp_path)
    first = tensors_of(tmp_path / "out")
    assert not same_bytes(first, merge(tmp_path, "--overwrite", method="ties"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_text("a cat")
    with pytest.raises(
        UserError, match=r"photos: exists already, and is no merged model as it was written \(it has no provenance.json\)"
    ):
        merge(tmp_path, "--overwrite", output="photos")
    assert (tmp_path / "photos/cat.jpg").exists()


def test_an_input_is_never_overwritten(tmp_path):
    family(tmp_path)
    merge(tmp_path, output="first")
    for output in (tmp_path / "first", tmp_path / "base"):
        (output / "provenance.json").touch()
        with pytest.raises(UserError, match=r"would replace or lie in the input|is no merged model as it was written"):
            merge(tmp_path, "--overwrite", "--expert", str(tmp_path / "first"), output=output.name)
    with pytest.raises(UserError, match="would replace or lie in the input 'base'"):
        command.main(["--base", str(tmp_path / "base"), *words(tmp_path)[2:-4], "--output", str(tmp_path), "--overwrite"])


def test_a_disk_that_is_too_small_is_found_before_the_merge(tmp_path, isolated):
    family(tmp_path)
    (tmp_path / "disk").mkdir()
    shell = f'mount -t tmpfs -o size=1m none {tmp_path / "disk"} && exec "$@"'
    before = (*isolated("--mount"), "sh", "-c", shell, "sh")
    command = [sys.executable, "-m", "nan_merge.cli", "merge", *words(tmp_path, output="disk/far/out")]
    done = subprocess.run([*before, *command], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "disk/far/out: the merged model needs 16.78 MB, the disk has 1.04 MB free; free some, choose another" in done.stderr
    assert "Traceback" not in done.stderr


# Models of a hub.


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on the loopback with the models of `family`, and an empty cache."""
    with Hub() as server:
        point_to(server.url, monkeypatch)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(retry, "RETRY_POLICY", retry.RetryPolicy(first_wait=0.001, longest_wait=0.002, read_timeout=5))
        yield server


def published(hub, folder, repo="owner/model", **how):
    """Put one model with more than its share of files on the hub and return the commit."""
    if not folder.exists():
        save(folder, random_model(0), shards=2)
        (folder / "pytorch_model.bin").write_bytes(b"the same as a pickle")
        (folder / "consolidated.safetensors").write_bytes(b"the same for another program")
        (folder / "modeling.py").write_text("raise SystemExit('code was run')")
        (folder / "onnx").mkdir()
        (folder / "onnx/model.safetensors").write_bytes(b"another model")
        (folder / "tokenizer.json").write_text("{}")
        (folder / "README.md").write_text(ABOUT)
    return hub.put(repo, folder, **how)


def test_a_hub_id_is_fetched_once_without_code_and_pinned(hub, tmp_path):
    commit = published(hub, tmp_path / "model")
    source = find("owner/model")
    assert (source.repo, source.commit, source.pinned) == ("owner/model", commit, f"owner/model@{commit}")
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    there = sorted(file.name for file in source.folder.iterdir())
    assert there == sorted(["README.md", "config.json", "model.safetensors.index.json", "tokenizer.json", *shards])
    known = {name: about["sha256"] for name, about in files(source.folder).items() if "sha256" in about}
    assert known == {name: sha256(tmp_path / "model" / name) for name in shards}
    hub.forget()
    assert find("owner/model").folder == source.folder
    assert not [request for request in hub.requests if "/storage/" in request.path or "/resolve/" in request.path]


def test_a_revision_is_a_branch_or_a_commit(hub, tmp_path):
    first = published(hub, tmp_path / "model")
    (tmp_path / "model/config.json").write_text('{"hidden_size": 9}')
    second = published(hub, tmp_path / "model", branch="new")
    for revision, commit in {"main": first, "new": second, first: first, second: second}.items():
        assert find(f"owner/model@{revision}").commit == commit


def test_pickles_are_taken_where_there_is_nothing_better(hub, tmp_path):
    for name, content in {"config.json": "{}", "pytorch_model.bin": "x", "training_args.bin": "x"}.items():
        (tmp_path / "old").mkdir(exist_ok=True)
        (tmp_path / "old" / name).write_text(content)
    hub.put("owner/old", tmp_path / "old")
    assert sorted(file.name for file in find("owner/old").folder.iterdir()) == ["config.json", "pytorch_model.bin"]


def test_a_local_folder_goes_before_the_hub(hub, tmp_path, monkeypatch):
    published(hub, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    Path("owner/model").mkdir(parents=True)
    source = find("owner/model")
    assert (source.folder, source.repo) == (Path("owner/model"), None)
    assert hub.requests == []


def test_models_of_the_hub_merge_and_the_card_names_them(hub, tmp_path):
    base = random_model(0)
    for seed, name in enumerate(("base", "code", "math")):
        folder = save(tmp_path / name, moved(base, seed))
        (folder / "README.md").write_text(ABOUT)
        hub.put(f"owner/{name}", folder)
    given = ["--base", "owner/base", "--expert", "owner/code", "--expert", "m=owner/math@main", "--method", "ties"]
    command.main([*given, "--output", str(tmp_path / "out")])
    card = huggingface_hub.ModelCard.load(tmp_path / "out/README.md")
    assert card.data.base_model == ["owner/base", "owner/code", "owner/math"]
    commit = hub.repositories["models", "owner/math"].branches["main"]
    assert f"--expert m=owner/math@{commit}" in card.text
    record = read_json(tmp_path / "out/provenance.json")["inputs"]["m"]
    assert (record["hub"], record["commit"]) == ("owner/math", commit)
    assert record["files"]["model.safetensors"]["sha256"] == sha256(tmp_path / "math/model.safetensors")


def test_what_keeps_the_hub_from_answering_is_said_with_a_way_out(hub, tmp_path, monkeypatch):
    published(hub, tmp_path / "model")
    published(hub, tmp_path / "model", "owner/gated", gated=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/config.json").write_text("{}")
    hub.put("owner/empty", tmp_path / "empty")

    def refused(given, *parts):
        with pytest.raises(UserError) as error:
            find(given)
        assert not [part for part in (given, *parts) if part not in str(error.value)], error.value

    refused("owner/none", f"no such model at {hub.url}: correct `owner/name`", "or, if it is private, log in with")
    refused("owner/model@v9", "HTTP status 404 (RevisionNotFound); correct the revision", f"{hub.url}/owner/model/commits")
    refused("owner/gated", "access is restricted: accept the terms at", "set HF_TOKEN")
    refused("owner/empty", "has no weights; expected one of model.safetensors.index.json, model.safetensors")
    refused("owner/a--b", "not an id of a hub: ")
    lie = hub.fail("lie", SHARD, times=None, size=7)
    refused("owner/model", f"{SHARD[1:]}: announced size 7, expected", "run again later")
    hub.faults.remove(lie)
    hub.fail("status", times=None)
    refused("owner/model", "HTTP status 503; given up")
    point_to("http://127.0.0.1:9", monkeypatch)
    refused(
        "owner/model",
        "http://127.0.0.1:9 cannot be reached",
        "no such folder here, and not complete in the cache",
        "hf download owner/model",
        "HF_HOME",
    )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refused(
        "owner/model", "HF_HUB_OFFLINE is set", "no such folder here, and not complete in the cache", "hf download owner/model"
    )


@pytest.mark.parametrize("trouble", ["down", "offline"])
def test_without_the_hub_the_cache_is_taken(trouble, hub, tmp_path, monkeypatch):
    commit = published(hub, tmp_path / "model")
    find("owner/model")
    if trouble == "down":
        hub.fail("status", times=None)
    else:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert find("owner/model").commit == commit
    assert find(f"owner/model@{commit}").commit == commit


def test_an_incomplete_download_is_resumed_and_not_taken_offline(hub, tmp_path, monkeypatch):
    published(hub, tmp_path / "model")
    fault = hub.fail("close", f"/storage/.*{SHARD}", at=500, times=None)
    with pytest.raises(UserError, match="given up, run again to resume"):
        find("owner/model")
    assert fault.hits == retry.RETRY_POLICY.attempts
    with monkeypatch.context() as patch, pytest.raises(UserError, match="not complete in the cache"):
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        find("owner/model")
    hub.forget()
    assert same_bytes(tensors_of(find("owner/model").folder), tensors_of(tmp_path / "model"))
    assert hub.ranges("/storage/") == ["bytes=500-"], "what was received is kept"


def test_a_download_by_the_client_of_the_hub_is_taken_and_verified(hub, tmp_path, monkeypatch):
    commit = published(hub, tmp_path / "model")
    hub.fail("corrupt", f"/storage/.*{SHARD}", at=9)
    folder = huggingface_hub.snapshot_download("owner/model")  # its client does not compare digests
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert find("owner/model").folder == Path(folder)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    hub.forget()
    source = find("owner/model")
    assert (source.folder, source.commit) == (Path(folder), commit)
    assert len(hub.ranges("/resolve/")) == len(hub.ranges(f"/storage/.*{SHARD}")) == 1, "only the damaged file is fetched"
    assert same_bytes(tensors_of(source.folder), tensors_of(tmp_path / "model"))
    assert huggingface_hub.snapshot_download("owner/model", local_files_only=True) == folder


def test_a_damaged_index_of_the_cache_is_fetched_again(hub, tmp_path):
    published(hub, tmp_path / "model")
    hub.fail("corrupt", "index.json", method="GET", at=0)
    folder = huggingface_hub.snapshot_download("owner/model")
    assert (Path(folder) / "model.safetensors.index.json").read_text()[0] != "{"
    assert same_bytes(tensors_of(find("owner/model").folder), tensors_of(tmp_path / "model"))


def test_the_client_of_the_hub_takes_what_was_fetched(hub, tmp_path):
    published(hub, tmp_path / "model")
    folder = find("owner/model").folder
    hub.forget()
    assert huggingface_hub.snapshot_download("owner/model", allow_patterns="model*.safetensors") == str(folder)
    assert hub.ranges("/storage/") == []
    (repository,) = huggingface_hub.scan_cache_dir(tmp_path / "cache").repos
    assert {file.file_name for revision in repository.revisions for file in revision.files} == {f.name for f in folder.iterdir()}
    assert not huggingface_hub.scan_cache_dir(tmp_path / "cache").warnings


def test_the_token_of_a_login_opens_gated_models_and_goes_nowhere_else(hub, tmp_path, monkeypatch, capfd):
    published(hub, tmp_path / "model", gated=True)
    hub.tokens.add("hf_secret")
    (tmp_path / "token").write_text("hf_secret")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    find("owner/model")
    assert {r.authorization for r in hub.requests if r.origin == "hub"} == {"Bearer hf_secret"}
    assert {r.authorization for r in hub.requests if r.origin == "storage"} == {None}
    assert "secret" not in "".join(capfd.readouterr())
    (tmp_path / "token").write_text("hf_secret_of_another_hub")
    with pytest.raises(UserError) as error:
        find("owner/model@main")
    assert "secret" not in str(error.value)


def test_a_disk_without_room_is_found_before_the_download(hub, tmp_path, monkeypatch):
    published(hub, tmp_path / "model")
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: SimpleNamespace(free=16_778_000))
    with pytest.raises(
        UserError, match=r"the download of owner/model needs 16.78 MB, the disk has 16.78 MB free; .* set HF_HOME"
    ):
        find("owner/model")
    assert hub.ranges("/storage/") == []


def test_a_shared_cache_without_write_access_is_read(hub, tmp_path, isolated):
    published(hub, tmp_path / "model")
    folder = huggingface_hub.snapshot_download("owner/model")
    hub.forget()
    cache = tmp_path / "cache"
    shell = f'mount --bind {cache} {cache} && mount -o remount,ro,bind {cache} && exec "$@"'
    code = "from nan_merge.standalone.sources import find; print(find('owner/model').folder)"
    command = [*isolated("--mount"), "sh", "-c", shell, "sh", sys.executable, "-c", code]
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "PYTHONPATH": str(ROOT / "workflow")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == folder, done.stderr
    assert hub.ranges("/storage/") == []


def test_more_threads_of_the_matrix_library_than_processors_are_noted(tmp_path, capsys, monkeypatch):
    family(tmp_path, experts=2)
    monkeypatch.setattr(documented_merge, "available_processors", lambda: 1)
    merge(tmp_path, "--blas-threads", "2", method="tsv_m")
    assert "note: --blas-threads 2 takes several times as long with fewer processors, here 1" in capsys.readouterr().err
    assert read_json(tmp_path / "out/provenance.json")["blas_threads"] == 2
