"""A message names what its reader typed: options on the command line, keys of the config in the workflow, and no false cause."""

import ast
import re

import numpy as np
import pytest
from models import ROOT, family, moved, random_model, save, tensors_of

import nan_merge
from nan_merge.cli import convert
from nan_merge.core.errors import OPTIONS, UserError, advice_for_options
from nan_merge.layouts.unify import unify_layout
from nan_merge.methods.coefficients import norm_law
from nan_merge.standalone.merge_models import OwnModels, run

OF_THE_WORKFLOW = re.compile(
    r"`?\bmerge: \w+:|\bof the (suite|config)\b|\bin the suite\b|config/\w+\.yaml|`(missing|dtype|calibration|device):?[ `]"
)


def lacking(folder):
    base = random_model(0)
    save(folder / "base", base)
    save(folder / "a", {name: tensor for name, tensor in moved(base, 1).items() if name != "logit_scale"})
    save(folder / "b", moved(base, 2))


def half(folder):
    lacking(folder)
    base = random_model(0)
    save(folder / "c", {name: tensor for name, tensor in moved(base, 1).items() if "layer.1" not in name})


def frozen(folder):
    base = random_model(0)
    save(folder / "base", base)
    kept = {name: tensor for name, tensor in base.items() if "layer.0" in name}
    save(folder / "a", {**moved(base, 1), **kept})
    save(folder / "b", moved(base, 2))


def wide(folder):
    base = {"w": np.zeros((2, 40), np.float32)}
    save(folder / "base", base)
    for seed, name in enumerate("ab", 1):
        save(folder / name, {"w": base["w"] + np.float32(seed)})


def huge(folder):
    base = random_model(0, scale=1e6)
    save(folder / "base", base)
    for seed, name in enumerate("ab", 1):
        save(folder / name, moved(base, seed))


MISTAKES = {  # how the models are made, options, the advice on the command line and in Python
    "a tensor is missing": (
        lacking,
        {},
        "with `--exclude '^logit_scale\\b'`; with `--missing base` missing tensors keep",
        "with `exclude=['^logit_scale\\b']`; with `missing=\"base\"` missing tensors keep",
    ),
    "too much is missing": (
        half,
        {"experts": ("c", "b"), "missing": "base"},
        "with `--missing base` at most 5% may stay at the base",
        'with `missing="base"` at most 5% may stay at the base',
    ),
    "what should not move": (
        half,
        {"experts": ("c", "b"), "missing": "base"},
        "exclude what it should not move with `--exclude`",
        "exclude what it should not move with `exclude`",
    ),
    "a policy for missing tensors": (
        None,
        {"missing": "no"},
        "--missing: unknown 'no'; expected error or base",
        "missing: unknown 'no'; expected error or base",
    ),
    "a policy for vocabularies": (
        None,
        {"vocabulary": "no"},
        "--vocabulary: unknown 'no'; expected",
        "vocabulary: unknown 'no'; expected",
    ),
    "a pattern that matches nothing": (
        None,
        {"exclude": ["none"]},
        "--exclude: 'none' matches none of the 9 tensors",
        "exclude: 'none' matches none of the 9 tensors",
    ),
    "a pattern that matches all": (None, {"exclude": [".*"]}, "correct `--exclude` (['.*'])", "correct `exclude` (['.*'])"),
    "a frozen layer": (
        frozen,
        {"method": "task_arithmetic+nan_delta_layer"},
        "leaves nothing of it), which has no inverse; leave it out, or `--set coefficients.<rule>.zero_norm=drop`",
        'leaves nothing of it), which has no inverse; leave it out, or `set={"coefficients.<rule>.zero_norm": "drop"}`',
    ),
    "a wide matrix": (
        wide,
        {"method": "tsv_m", "set": {"combine.tsv.largest": 8}},
        "Leave it out with `--exclude`, or set the hyper-parameters `exclude` or `largest` (40) of the operator with `--set",
        'Leave it out with `exclude`, or set the hyper-parameters `exclude` or `largest` (40) of the operator with `set={"comb',
    ),
    "a copy out of range": (
        huge,
        {"dtype": "float16", "exclude": ["embeddings"]},
        "choose a `--dtype` with a wider range",
        "choose a `dtype` with a wider range",
    ),
    "a merge out of range": (
        huge,
        {"dtype": "float16"},
        "or choose a `--dtype` with a wider range",
        "or choose a `dtype` with a wider range",
    ),
    "a shape of a setting": (
        None,
        {"set": {"trim.density": 1}},
        "--set trim.density=1: expected stage.operator.hyper_parameter=value",
        'set={"trim.density": 1}: expected stage.operator.hyper_parameter=value',
    ),
    "a tuned method": (
        None,
        {"method": "task_arithmetic_tuned"},
        "take --method task_arithmetic --set coefficients.constant.value=<number>",
        'take method="task_arithmetic", set={"coefficients.constant.value": <number>}',
    ),
    "sizes that are not stated": (
        None,
        {"method": "ties+data_size"},
        "--method ties+data_size: needs the number of training examples of each expert: --examples NAME=N ...",
        "method ties+data_size: needs the number of training examples of each expert: examples={NAME: N}",
    ),
    "a device": (
        None,
        {"device": "tpu"},
        "expected cpu, cuda or cuda:N; correct `--device`",
        "expected cpu, cuda or cuda:N; correct `device`",
    ),
    "a type that is none": (
        None,
        {"method": "tsv_m", "compute": "float23"},
        "--compute: unknown 'float23'; did you mean 'float32'?",
        "compute: unknown 'float23'; did you mean 'float32'?",
    ),
    **{
        f"{argument} that is {value!r}, no name": (
            None,
            {"method": "tsv_m", argument: value},
            f"--{argument}: expected one of {choices}",
            f"{argument}: expected one of {choices}",
        )
        for argument, choices, values in (
            ("compute", "'float64', 'float32'; found ", (np.float32, np.dtype("float32"), None, 32, True, ["float32"])),
            ("dtype", "'float16', 'bfloat16', 'float32', 'float64'; found ", (np.float32, 16, ["float32"])),
            ("method", "'pretrained', 'individual', ", (None, 3, ["ties"], {"ties"})),
        )
        for value in values
    },
    "a type that changes nothing": (
        lambda folder: family(folder, experts=2, dtype=np.dtype(float)),
        {"method": "tsv_m", "compute": "float32"},
        "--compute float32: has no effect on these models: what is stored in float64, and coordinates in a space, are computed",
        "compute float32: has no effect on these models: what is stored in float64, and coordinates in a space, are computed",
    ),
}


def made(mistake, folder):
    """Return the models and the options of a mistake."""
    make, options = MISTAKES[mistake][:2]
    (make or (lambda folder: family(folder, experts=2)))(folder)
    experts = {name: str(folder / name) for name in options.get("experts", "ab")}
    return {"method": "task_arithmetic", **options, "base": str(folder / "base"), "experts": experts, "output": folder / "out"}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_message_names_options_to_who_gives_options(mistake, tmp_path):
    given = made(mistake, tmp_path)
    with pytest.raises(UserError) as error:
        run(OwnModels(**given, quiet=True))
    assert MISTAKES[mistake][2] in str(error.value) and not OF_THE_WORKFLOW.search(str(error.value)), error.value


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_message_names_arguments_to_who_calls_from_python(mistake, tmp_path):
    given = made(mistake, tmp_path)
    with pytest.raises(UserError) as error:
        nan_merge.merge(**given, quiet=True)
    assert MISTAKES[mistake][3] in str(error.value) and not re.search(r"--\w|merge:", str(error.value)), error.value
    models = {name: tensors_of(folder) for name, folder in {"base": given["base"], **given["experts"]}.items()}
    options = {key: value for key, value in given.items() if key not in ("base", "experts", "output")}
    with pytest.raises(UserError) as error:
        nan_merge.merge_state_dicts(models.pop("base"), models, **options)
    assert MISTAKES[mistake][3] in str(error.value), error.value


def test_a_folder_that_is_there_is_named_in_the_words_of_who_asks(tmp_path):
    base, experts = family(tmp_path, experts=2)
    given = {"base": base, "experts": experts, "method": "ties", "output": tmp_path / "out", "quiet": True}
    nan_merge.merge(**given)
    with pytest.raises(UserError, match="choose another output, or set overwrite=True to replace it"):
        nan_merge.merge(**given)
    with pytest.raises(UserError, match="experts a=x: the name 'a' is taken"):
        nan_merge.merge(**{**given, "experts": ["a=x", "a=x"]})
    with pytest.raises(UserError, match=r"export_mergekit .*out: is or lies in the output"):
        nan_merge.merge(**given, export_mergekit=tmp_path / "out", overwrite=True)


def test_a_message_names_keys_of_the_config_to_the_workflow(tmp_path):
    lacking(tmp_path)
    with pytest.raises(UserError, match=r"with `merge: exclude: \['\^logit_scale\\b'\]`; with `merge: missing: base`"):
        unify_layout(tmp_path / "base", {"a": tmp_path / "a"})
    with pytest.raises(UserError, match="leave it out of the suite or set `zero_norm: drop`"):
        norm_law(np.array([0.0, 1.0]), 1.0)


def test_a_conversion_names_no_suite(tmp_path):
    family(tmp_path, experts=1)
    with pytest.raises(UserError, match=r"model_type is None; expected 'clip' .*; give the folder of such a model") as error:
        convert.main([str(tmp_path / "base"), "--to", "open_clip", "--output", str(tmp_path / "out")])
    assert not OF_THE_WORKFLOW.search(str(error.value))


def texts():
    """Return every text of the library, with `x` for what is filled in."""
    found = []
    for file in (ROOT / "workflow/nan_merge").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and file.name != "errors.py":
                found.append(node.value)
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values))
    return found


def test_every_advice_in_options_stands_for_a_text_of_the_library():
    known = texts()
    assert [key for key, _ in OPTIONS if not any(re.search(key, text) for text in known)] == []


def test_advice_in_options_is_not_changed_a_second_time():
    message = "exclude these tensors with `merge: exclude:`; with `merge: missing: base`; merge: vocabulary: x; exclude: y"
    with pytest.raises(UserError) as error, advice_for_options(), advice_for_options():
        raise UserError(message)
    assert str(error.value) == "exclude these tensors with `--exclude`; with `--missing base`; --vocabulary: x; exclude: y"
