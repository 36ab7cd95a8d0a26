"""The command of a model card, run in a shell beside the same models, makes the same bytes again."""

import math
from pathlib import Path

import pytest
from models import family
from reproduce import command_of, run, words

from nan_merge.cli import merge
from nan_merge.core.shell import line
from nan_merge.standalone.method import assignment, flow, override
from nan_merge.standalone.model_card import command

NAMES = {
    "a space": "my model",
    "an equals sign": "ckpt-lr=2e-5",
    "quotes": 'it\'s "mine"',
    "a substitution": "$(touch PWNED)`touch PWNED`",
    "a variable": "$HOME",
    "an umlaut": "größe",
    "braces": "{a,b}",
    "a leading dash": "-lead",
    "two lines": "a\nb",
    "a tab": "a\tb",
    "a carriage return": "a\r\nb",
    "a control character": "a\x1b[2Jb",
    "another direction": "a\u202eb",
    "a backslash": "a\\nb'\\",
    "a tilde": "~",
    "a comment": "#x",
    "a star": "*",
    "the end of a block": "a```b",
    "a sign and a semicolon": "a+b;c&d|e>f",
    "bytes that are no text": "m\udcfcller",
}
TEMPLATE = "{%- for m in messages -%}\r\n<|{{ m['role'] }}|>\t\"$x\" `y` \\n ```\n{%- endfor -%}\n\n" + "{# long #}" * 1000
SETTINGS = {
    "a small number": ["--set", "coefficients.constant.value=1e-05"],
    "small numbers within": [
        "--set",
        "coefficients.given.values={a: [1e-05, 3e-1], b: [{filter: dense, value: 1E-3}, {value: 0}]}",
    ],
    "densities by expert": ["--set", "preprocess.drop.rate={a: [1e-2, 0.5], b: 0.3}", "--seed", "7"],
    "an operator": ["--set", "combine=disjoint_sum", "--dtype", "bfloat16"],
    "a whole stage": ["--set", "preprocess={trim: {density: [5e-1, 0.9], scope: tensor}}"],
    "patterns": ["--exclude", "^(emb|'\")", "--exclude=-|unused", "--exclude", "layer\\.1.{1,2}norm"],
    "a chat template": ["--chat-template", TEMPLATE],
    "a type of whole tensors": ["--method", "tsv_m", "--compute", "float32"],
    "threads of the matrix library": ["--method", "tsv_m", "--blas-threads", "2"],
}


@pytest.fixture
def models(tmp_path, monkeypatch):
    family(tmp_path, experts=2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def same_again(folder, output="out"):
    """Run the command of the card beside the models, and compare all files."""
    Path(output).rename("first")
    run(command_of((folder / "first/README.md").read_text()), "--threads", "1")
    for file in (file for file in (folder / "first").rglob("*") if file.is_file()):
        assert (folder / output / file.relative_to(folder / "first")).read_bytes() == file.read_bytes(), file.name
    assert not (folder / "PWNED").exists()


def given(base="base", a="a", output="out"):
    """Return the options of a merge of models with these names."""
    return [f"--base={base}", f"--expert=a={a}", "--expert=b=b", "--method=task_arithmetic", f"--output={output}", "--threads=1"]


@pytest.mark.parametrize("case", NAMES)
def test_an_expert_of_any_name(case, models):
    (models / "a").rename(models / NAMES[case])
    merge.main(given(a=f"./{NAMES[case]}"))
    same_again_but_for_the_path(models)


def same_again_but_for_the_path(folder):
    """Compare weights and configs: the record of the second merge names the folder as the card does."""
    Path("out").rename("first")
    run(command_of((folder / "first/README.md").read_text()), "--threads", "1")
    for name in ("model.safetensors", "config.json"):
        assert (folder / "out" / name).read_bytes() == (folder / "first" / name).read_bytes()
    assert not (folder / "PWNED").exists()


@pytest.mark.parametrize("case", [case for case in NAMES if case != "a tilde"])  # which means another folder there
def test_a_base_and_an_output_of_any_name(case, models):
    (models / "base").rename(models / NAMES[case])
    merge.main(given(base=NAMES[case], output=f"{NAMES[case]}-out"))
    same_again(models, f"{NAMES[case]}-out")


@pytest.mark.parametrize("case", SETTINGS)
def test_any_settings(case, models):
    merge.main([*given(), *SETTINGS[case]])
    if case == "a chat template":
        assert (models / "out/chat_template.jinja").read_bytes() == TEMPLATE.encode()
    same_again(models)


SPECS = [
    {"coefficients": {"given": {"values": {"a": [1e-05, 0.3], "b": [{"filter": "x: 'y'", "value": 1e-300}, {"value": 0.0}]}}}},
    {"preprocess": {"drop": {"rate": {"a": 1e-05, "1e5": [0.5, 1e-07], "null": 0.1, "yes": 0.2, "0x1F": 0.3}}}},
    {"coefficients": {"constant": {"value": 1e22}}, "combine": "disjoint_sum", "control": {"permuted": {"seed": 3}}},
    {"preprocess": {"trim": {"density": math.nextafter(0.1, 1), "scope": "tensor"}}},
]


@pytest.mark.parametrize("method_spec", SPECS)
def test_the_command_of_a_tuned_method_holds_its_numbers(method_spec):
    record = {"method": "x_tuned", "method_spec": method_spec, "coefficients": {"chosen": 0.5}}
    given = words(command(record, {"base": "base", "a": "a"}, "out"))
    found = {}
    for value in (given[at + 1] for at, word in enumerate(given) if word == "--set"):
        found = override(found, *assignment(value), "x") if "." in value.partition("=")[0] else found | dict([assignment(value)])
    assert found == method_spec


@pytest.mark.parametrize(
    "value", [1e-05, [1e-05, 2.5e300], {"a": {"b": [-1e-9]}}, "word", "1e", "e5", True, None, [], {"1e5": 1}]
)
def test_a_written_value_is_read_back(value):
    assert assignment(f"a.b.c={flow(value)}") == ("a.b.c", value)


@pytest.mark.parametrize("case", NAMES)
def test_a_shell_reads_the_words_of_a_line(case):
    assert words(line(["nan-merge", NAMES[case], f"--x={NAMES[case]}"])) == [NAMES[case], f"--x={NAMES[case]}"]
