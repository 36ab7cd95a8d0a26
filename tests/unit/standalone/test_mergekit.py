"""mergekit's YAML means here what it means there, both ways; the meaning is written down once more in float64 NumPy."""

import numpy as np
import pytest
import yaml
from models import ROOT, SHAPES, family, merged, tensors_of

from nan_merge.catalogue.files import read_yaml
from nan_merge.catalogue.methods import check_method_spec
from nan_merge.cli import import_mergekit
from nan_merge.cli import merge as command
from nan_merge.core.errors import UserError
from nan_merge.engine.measure import norms
from nan_merge.layouts.unify import unify_layout
from nan_merge.methods.recipe import bind
from nan_merge.standalone.mergekit_export import check_names, export
from nan_merge.standalone.mergekit_import import translate
from nan_merge.standalone.method import assignment, choose
from nan_merge.standalone.sources import named

DEFAULTS = {"ties": {"normalize": True}, "linear": {"normalize": True}}
WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.4}
EQUAL = dict.fromkeys("abc", 1.0)


def setting(value, tensor):
    """Resolve one parameter of mergekit: plain, or the first filter that the tensor's name contains."""
    if not isinstance(value, list):
        return value
    if isinstance(value[0], dict):
        return setting(next(rule["value"] for rule in value if rule.get("filter") is None or rule["filter"] in tensor), tensor)
    layer = tensor.partition("layer.")[2][:1]  # of two layers: t is 0 or 1, and 0 outside
    return np.interp(float(layer or 0), np.linspace(0, 1, len(value)), value)


def kept(delta, density):
    """Return mergekit's magnitude pruning of one tensor: exactly k entries of largest magnitude."""
    mask = np.zeros(delta.size)
    mask[np.argsort(-abs(delta).ravel(), kind="stable")[: max(1, int(density * delta.size))]] = 1
    return delta * mask.reshape(delta.shape)


def mergekit(config, read):
    """Merge the tensors of SHAPES as mergekit 0.1.5 does, in float64; `read` gives the tensors of a model by its place."""
    method, shared = config["merge_method"], {**DEFAULTS.get(config["merge_method"], {}), **config.get("parameters", {})}
    models = {entry["model"]: {**shared, **entry.get("parameters", {})} for entry in config["models"]}
    places = {*models, config.get("base_model")} - {None}
    wide = {place: {name: tensor.astype(np.float64) for name, tensor in read(place).items()} for place in places}
    return {name: one_tensor(method, shared, models, wide, config.get("base_model"), name) for name in SHAPES}


def one_tensor(method, shared, models, wide, base, name):
    weights = {place: setting(given["weight"], name) for place, given in models.items() if method == "linear" or place != base}
    if method == "linear":
        total = sum(weights.values()) if shared["normalize"] else 1.0
        return sum(w * wide[place][name] for place, w in weights.items()) / total
    deltas = {place: wide[place][name] - wide[base][name] for place in weights}
    if method == "ties":
        deltas = {place: kept(delta, setting(models[place].get("density", 1.0), name)) for place, delta in deltas.items()}
    weighted = np.array([weights[place] * delta for place, delta in deltas.items()])
    masks = np.ones_like(weighted)
    if method in ("ties", "dare_ties"):
        masks = np.sign(weighted) == np.where(weighted.sum(axis=0) >= 0, 1, -1)
    total = (weighted * masks).sum(axis=0)
    if shared.get("normalize"):
        divisor = np.tensordot(list(weights.values()), masks, axes=1)
        total = total / np.where(abs(divisor) < 1e-8, 1, divisor)
    return wide[base][name] + setting(shared.get("lambda", 1.0), name) * total


def config(folder, method, weights, base=True, **shared):
    """Return the content of a mergekit file over the models of `family`."""
    models = [{"model": str(folder / name), "parameters": {"weight": weight}} for name, weight in weights.items()]
    return {"merge_method": method, "models": models, "parameters": shared} | (
        {"base_model": str(folder / "base")} if base else {}
    )


def imported(folder, content):
    """Translate, and merge as the method_spec says."""
    request = translate(content, "file.yml")
    check_method_spec(request.method_spec, ROOT, "translated")
    return merged(folder / "out", request.method_spec, request.base, request.experts)


def same(found, expected):
    for name in SHAPES:
        assert found[name] == pytest.approx(expected[name], abs=2e-6), name


SHARED = {
    "linear": ("linear", {"base": 0.2, **WEIGHTS}, {}),
    "linear with weights that sum to one": ("linear", {"base": 0.1, "a": 0.5, "b": 0.3, "c": 0.1}, {"normalize": False}),
    "task arithmetic": ("task_arithmetic", WEIGHTS, {}),
    "task arithmetic with lambda": ("task_arithmetic", WEIGHTS, {"lambda": 0.7}),
    "task arithmetic, normalised": ("task_arithmetic", WEIGHTS, {"normalize": True, "lambda": 0.5}),
    "task arithmetic with a negative weight": ("task_arithmetic", {"a": 0.5, "b": -0.3, "c": 0.1}, {}),
    "task arithmetic where the base has a weight": ("task_arithmetic", {"base": 9.0, **WEIGHTS}, {}),
    "ties without trimming": ("ties", WEIGHTS, {}),
    "ties": ("ties", WEIGHTS, {"density": 0.3}),
    "ties where a tensor keeps one entry": ("ties", WEIGHTS, {"density": 0.01}),
    "ties, equal weights and lambda": ("ties", EQUAL, {"density": 0.3, "lambda": 0.4}),
    "ties, a scaled mean of unequal weights": ("ties", WEIGHTS, {"density": 0.3, "lambda": 0.7}),
    "ties, a density for each layer": ("ties", WEIGHTS, {"density": [0.9, 0.3]}),
    "a gradient": ("task_arithmetic", {"a": [0.1, 0.9], "b": 0.3}, {"lambda": 0.5}),
    "a filter, normalised": (
        "task_arithmetic",
        {"a": [{"filter": "dense", "value": [0.2, 1]}, {"value": 0.1}], "b": 0.3},
        {"normalize": True},
    ),
    "an average with a gradient": ("linear", {"base": 0.2, "a": [0.5, 1.0], "b": 0.3}, {}),
    "ties with filters": ("ties", {"a": [{"filter": "bias", "value": 0.5}, {"value": 0}], "b": [0, 1.0]}, {"density": 0.4}),
    "lambda with a gradient": ("dare_ties", WEIGHTS, {"lambda": [0.2, 0.8]}),
    "ties, a sum": ("ties", WEIGHTS, {"density": 0.3, "normalize": False, "lambda": 0.5}),
    "ties, a sum with a negative weight": ("ties", {"a": 0.5, "b": -0.3}, {"density": 0.5, "normalize": False}),
    "dare_linear that drops nothing": ("dare_linear", WEIGHTS, {"density": 1.0, "normalize": True}),
    "dare_ties that drops nothing": ("dare_ties", WEIGHTS, {"lambda": 0.5, "int8_mask": True}),
}


@pytest.mark.parametrize("case", SHARED)
def test_an_imported_method_merges_as_mergekit_does(case, tmp_path):
    method, weights, shared = SHARED[case]
    family(tmp_path)
    content = config(tmp_path, method, weights, **shared)
    same(imported(tmp_path, content), mergekit(content, tensors_of))


def test_linear_without_a_base_stands_on_its_first_model(tmp_path):
    family(tmp_path)
    content = config(tmp_path, "linear", {"c": 1, "a": 3}, base=False)
    assert translate(content, "f").base == str(tmp_path / "c")
    same(imported(tmp_path, content), mergekit(content, tensors_of))


@pytest.mark.parametrize(("rescale", "factor"), [(True, 1.0), (False, 0.25)])
@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_dare_drops_its_share_and_rescales_what_is_left(method, rescale, factor, tmp_path):
    base, experts = family(tmp_path, experts=1, dtype=np.dtype(np.float64))
    content = config(tmp_path, method, {"a": 0.8}, density=0.25, rescale=rescale)
    request = translate(content, "f")
    assert request.method_spec["preprocess"] == {"drop": {"rate": 0.75}}
    assert "other entries are dropped" in request.notes[0]
    found, theta, expert = imported(tmp_path, content), tensors_of(base), tensors_of(experts["a"])
    name = "encoder.layer.0.dense.weight"
    steps = (found[name] - theta[name]) / (expert[name] - theta[name])
    assert set(np.round(steps.ravel(), 9)) == {0.0, round(0.8 / 0.25 * factor, 9)}
    assert 0.1 < np.count_nonzero(steps) / steps.size < 0.4


def test_parameters_of_a_model_go_before_those_of_all(tmp_path):
    content = config(tmp_path, "task_arithmetic", {"a": "5e-1", "b": 0.3}, weight=0.1)
    content["models"].append({"model": "owner/c@v2"})
    request = translate(content, "f")
    assert request.experts == {"a": str(tmp_path / "a"), "b": str(tmp_path / "b"), "c": "owner/c@v2"}
    assert request.method_spec["coefficients"] == {"given": {"values": {"a": 0.5, "b": 0.3, "c": 0.1}}}


def test_coefficients_follow_the_names_of_their_experts(tmp_path):
    content = config(tmp_path, "task_arithmetic", {"z": 0.1, "a": 0.2})
    request = translate(content, "f")
    assert list(request.experts) == ["a", "z"]
    assert request.method_spec["coefficients"] == {"given": {"values": {"a": 0.2, "z": 0.1}}}


def test_an_adapter_on_the_base_is_an_expert(tmp_path):
    content = {"merge_method": "task_arithmetic", "base_model": "o/base", "models": [{"model": "o/base+o/lora"}]}
    assert translate({**content, "parameters": {"weight": 0.5}}, "f").experts == {"lora": "o/lora"}


def test_the_type_of_the_output_is_mergekit_s(tmp_path):
    content = config(tmp_path, "task_arithmetic", WEIGHTS)
    assert translate(content, "f").dtype is None
    assert translate({**content, "dtype": "bfloat16"}, "f").dtype == "bfloat16"
    assert translate({**content, "dtype": "float32", "out_dtype": "torch.float16"}, "f").dtype == "float16"
    assert "mergekit computes in bfloat16" in translate({**content, "dtype": "bfloat16"}, "f").notes[0]


def changed(**keys):
    return lambda content: content.update(keys)


def weight(value):
    return lambda content: content["models"][0]["parameters"].update(weight=value)


def shared(**keys):
    return lambda content: content["parameters"].update(keys)


def averaged(change):
    return lambda content: (content.update(merge_method="linear"), content["parameters"].update(weight=1), change(content))


LORA = [{"model": "o/x+o/lora", "parameters": {"weight": 1}}]


REFUSED = {
    "slices and models": (changed(slices=[]), "expected either `models` or `slices`"),
    "passthrough": (changed(merge_method="passthrough"), "'passthrough' is not supported: it stacks layers"),
    "a mixture of experts": (changed(gate_mode="hidden"), "`gate_mode`: it is for mergekit-moe"),
    "modules": (changed(modules={}), "`modules` is not supported, since models are merged whole here"),
    "a list of methods": (changed(merge_method=["ties"]), "merge_method: '['ties']' is not supported"),
    "no method": (changed(merge_method=None), "merge_method: 'None' is not supported"),
    "slerp with a gradient": (lambda c: (changed(merge_method="slerp")(c), shared(t=[0, 1])(c)), "'slerp' is not supported"),
    "parameters that are a list": (changed(parameters=[1]), "parameters: expected `name: value` in each line, found [1]"),
    "parameters that are a text": (changed(parameters="weight"), "parameters: expected `name: value` in each line"),
    "a model's parameters that are a list": (lambda c: c["models"][0].update(parameters=["weight"]), "found ['weight']"),
    "models that are a mapping": (changed(models={"model": "a"}), "models: expected a list"),
    "a base that is a number": (changed(base_model=5), "base_model: expected `model: <folder or hub id>`, found 5"),
    "a revision that is a number": (
        changed(base_model={"model": {"path": "o/n", "revision": 5}}),
        "revision: expected a branch, a tag or a commit, in quotes if it is a number; found 5",
    ),
    "an architecture of its own": (
        changed(base_model={"model": "o/n", "override_architecture": "X"}),
        "`override_architecture` is not supported",
    ),
    "a user that does not exist": (
        lambda c: c["models"][0].update(model="~nobody-here/x+y"),
        "its adapter was trained on another",
    ),
    "a weight that is nothing": (weight(None), "parameters.weight: expected a number, found None"),
    "a weight that is not finite": (weight("1e999"), "parameters.weight: expected a number, found '1e999'"),
    "an empty gradient": (weight([]), "parameters.weight: the list is empty"),
    "a gradient of gradients": (weight([[1, 2], 3]), "parameters.weight: expected a number, found [1, 2] within a gradient"),
    "numbers among cases": (weight([1, {"filter": "x", "value": 2}]), "expected `name: value` in each line, found 1"),
    "cases within cases": (
        weight([{"filter": "a", "value": [{"filter": "b", "value": 1}]}]),
        "expected a number, found {'filter'",
    ),
    "a case with another key": (weight([{"filter": "a", "value": 1, "layers": [0, 1]}]), "`layers` is not supported"),
    "a filter that is a list": (weight([{"filter": ["a"], "value": 1}]), "found {'filter': ['a'], 'value': 1}"),
    "a case without a value": (weight([{"filter": "a"}]), "expected `filter: <part of a tensor's name>` and `value: <number>`"),
    "a flag that varies": (
        shared(normalize=[{"filter": "a", "value": True}, {"value": False}]),
        "true for some tensors and false",
    ),
    "a key of the tokenizer": (
        changed(tokenizer={"sorce": "base"}),
        "tokenizer: `sorce` is not supported; did you mean `source`?",
    ),
    "tokens of the tokenizer": (
        changed(tokenizer={"tokens": {"x": {}}}),
        "tokenizer: `tokens` is not supported, since it changes",
    ),
    "padded rows": (changed(tokenizer={"pad_to_multiple_of": 8}), "tokenizer: `pad_to_multiple_of` is not supported"),
    "two tokenizers": (changed(tokenizer={"source": "base"}, tokenizer_source="base"), "and no `tokenizer_source` besides"),
    "the tokenizer of another model": (changed(tokenizer_source="o/n"), "tokenizer_source: 'o/n' is none of the models"),
    "another method": (changed(merge_method="slerp"), "merge_method: 'slerp' is not supported; supported are linear, task_a"),
    "a key of its own": (changed(base_modle="x"), "`base_modle` is not supported; did you mean `base_model`?"),
    "a type": (changed(dtype="int64"), "dtype: 'int64' is not supported; supported are float16, bfloat16, float32, float64"),
    "no base": (lambda content: content.pop("base_model"), "base_model: 'ties' needs one"),
    "an adapter as the base": (changed(base_model="a+b"), "the base 'a+b' is not supported"),
    "an adapter on another model": (changed(models=LORA), "o/x+o/lora: its adapter was trained on another model"),
    "no models": (changed(models=[]), "models: expected a list"),
    "a model without a place": (changed(models=[{"modle": "a"}]), "models[0]: expected `model: <folder or hub id>`"),
    "only the base": (lambda c: c.update(models=[{"model": c["base_model"]}]), "no model besides the base; expected"),
    "a model twice": (lambda c: c["models"].append(c["models"][0]), "is listed twice"),
    "no weight": (lambda c: c["models"][0].pop("parameters"), "has no `weight`, and `parameters` has none for all"),
    "a word as a weight": (weight("much"), "parameters.weight: expected a number, found 'much'"),
    "a word as a flag": (shared(normalize="no"), "parameters.normalize: expected true or false, found 'no'"),
    "a word as lambda": (shared(**{"lambda": "big"}), "parameters.lambda: expected a number, found 'big'"),
    "an unknown parameter": (shared(gamma=0.1), "parameters: `gamma` is not supported"),
    "no density": (shared(density=0), "density: expected a share above 0 and up to 1, found 0"),
    "a rescaled trim": (shared(rescale=True), "parameters.rescale: true is not supported for 'ties'"),
    "a mean with a negative weight": (weight(-1), "weight: a negative one is not supported with `normalize: true`"),
    "an average of a scaled model": (averaged(shared(normalize=False)), "weights that sum to 3"),
    "weights that cancel": (averaged(weight(-2)), "the weights sum to 0"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_what_has_no_counterpart_is_refused_by_its_key(mistake, tmp_path):
    change, message = REFUSED[mistake]
    content = config(tmp_path, "ties", {"a": 1.0, "b": 1.0}, density=0.5)
    change(content)
    with pytest.raises(UserError) as error:
        translate(content, "file.yml")
    assert str(error.value).startswith("file.yml: ")
    assert message in str(error.value)


SOURCES = [{"model": "o/base", "layer_range": [0, 2]}, {"model": "o/a", "layer_range": [0, 2]}]
SLICES = {
    "a text": ("abc", "slices: expected a list of"),
    "nothing": (None, "slices: expected a list of"),
    "no sources": ([{"parameters": {}}], "slices[0]: sources: expected a list of"),
    "a residual weight": ([{"sources": SOURCES, "residual_weight": 1}], "slices[0]: `residual_weight` is not supported"),
    "a range that is a text": (
        [{"sources": [{**SOURCES[0], "layer_range": "0-2"}]}],
        "slices[0]: layer_range: expected the first",
    ),
    "a range of truths": (
        [{"sources": [{**SOURCES[0], "layer_range": [False, 2]}]}],
        "slices[0]: layer_range: expected the first",
    ),
    "layers from the middle": (
        [{"sources": [{**each, "layer_range": [1, 2]} for each in SOURCES]}],
        "the layers of every model from 0",
    ),
    "layers of two models in turn": (
        [{"sources": SOURCES[:1]}, {"sources": SOURCES[1:]}],
        "slices[1]: expected the layers of every",
    ),
    "other layers of one model": ([{"sources": [SOURCES[0], {**SOURCES[1], "layer_range": [0, 1]}]}], "makes another network"),
    "parameters that are a list": ([{"sources": SOURCES, "parameters": [1]}], "slices[0]: parameters: expected `name: value`"),
}


@pytest.mark.parametrize("case", SLICES)
def test_slices_that_are_no_whole_models_are_refused(case):
    slices, message = SLICES[case]
    with pytest.raises(UserError) as error:
        translate({"merge_method": "task_arithmetic", "base_model": "o/base", "slices": slices}, "file.yml")
    assert str(error.value).startswith("file.yml: slices") and message in str(error.value)


def test_a_flag_of_one_slice_is_none_of_the_others():
    parts = [
        {"sources": [{**each, "layer_range": [n, n + 1]} for each in SOURCES], "parameters": {"weight": 0.5}} for n in (0, 1)
    ]
    content = {"merge_method": "task_arithmetic", "base_model": "o/base", "slices": parts}
    parts[0]["parameters"]["normalize"] = True
    with pytest.raises(UserError, match=r"parameters\.normalize: true for some tensors and false for others"):
        translate(content, "f")
    parts[1]["parameters"]["normalize"] = True  # takes precedence over that of all
    spec = translate({**content, "parameters": {"normalize": False}}, "f").method_spec
    assert spec["coefficients"] == {"constant": {"value": 1.0}}


IGNORED = {
    "of another method": ("task_arithmetic", shared(density=0.5), "density: has no effect for 'task_arithmetic' and is ignored"),
    "of a model, of another method": (
        "linear",
        lambda c: c["models"][0]["parameters"].update(density=0.5),
        "density: has no effect for 'linear' and is ignored",
    ),
    "of all, at a model": (
        "ties",
        lambda c: c["models"][0]["parameters"].update({"lambda": 3}),
        "lambda: has no effect at a model, in mergekit too, and is ignored there; write it once, for all",
    ),
    "the type of masks": ("ties", shared(int8_mask=False), "int8_mask: has no effect for 'ties' and is ignored"),
}


@pytest.mark.parametrize("case", IGNORED)
def test_a_parameter_without_effect_is_named(case, tmp_path):
    method, change, note = IGNORED[case]
    content = config(tmp_path, method, WEIGHTS, base=method != "linear")
    plain = translate(content, "f")
    change(content)
    assert set(translate(content, "f").notes) - set(plain.notes) == {note}
    assert translate(content, "f").method_spec == plain.method_spec


@pytest.mark.parametrize("method", ["ties", "dare_ties"])
def test_densities_of_models_are_gradients_and_filters(method, tmp_path):
    family(tmp_path)
    content = config(tmp_path, method, WEIGHTS)
    densities = [[1, 0.3], 0.5, [{"filter": "bias", "value": 1}, {"value": 0.4}]]
    if method == "dare_ties":  # of which only what keeps everything can be compared
        densities = [1.0, [1, 1], [{"filter": "bias", "value": 1}, {"value": 1}]]
    for entry, density in zip(content["models"], densities, strict=True):
        entry["parameters"]["density"] = density
    same(imported(tmp_path, content), mergekit(content, tensors_of))


@pytest.mark.parametrize("case", SHARED)
def test_the_printed_command_says_the_same(case, tmp_path):
    method, weights, parameters = SHARED[case]
    request = translate(config(tmp_path, method, weights, **parameters), "f")
    args = command.arguments().parse_args([*import_mergekit.merge_arguments(request), "--output", "x"])
    _, method_spec = choose(args.method, dict(map(assignment, args.set)))
    assert named(args.expert) == request.experts
    left, right = bind(method_spec), bind(request.method_spec)
    for stage in ("preprocess", "combine"):
        assert (getattr(left, stage).func, getattr(left, stage).keywords) == (
            getattr(right, stage).func,
            getattr(right, stage).keywords,
        )
    zeros = {"experts": list(request.experts), "tensors": {"dense.bias": {"task_vector": [0.0] * len(request.experts)}}}
    assert left.estimate(zeros).rows == right.estimate(zeros).rows


def test_the_script_prints_command_and_method_and_merges_with_an_output(tmp_path, capsys):
    family(tmp_path)
    content = config(tmp_path, "ties", EQUAL, density=0.5, **{"lambda": 0.5})
    (tmp_path / "My Ties.yml").write_text(yaml.safe_dump(content))
    import_mergekit.main([str(tmp_path / "My Ties.yml")])
    printed = capsys.readouterr().out
    command, _, entry = printed.partition("\n\n")
    assert command.startswith("nan-merge merge --base ")
    assert command.endswith("--output OUTPUT")
    (tmp_path / "entry.yaml").write_text(entry)
    ((name, record),) = read_yaml(tmp_path / "entry.yaml").items()
    assert name == "mergekit_my_ties"
    assert record["combine"] == {"disjoint_mean": {}}
    check_method_spec(record, ROOT, "entry")
    import_mergekit.main([str(tmp_path / "My Ties.yml"), "--output", str(tmp_path / "out"), "--dtype", "float16"])
    assert tensors_of(tmp_path / "out")["encoder.layer.0.dense.weight"].dtype == np.float16


# Out: the coefficients of a method_spec as a mergekit config.

NAN = {"nan": {"norm_of": "task_vector", "mean": 0.3}}
OUT = {
    "a weighted sum": {"coefficients": NAN},
    "of layers": {"coefficients": {"nan": {"norm_of": "task_vector", "mean": 0.3, "scope": "layer"}}},
    "of tensors": {"coefficients": {"nan": {"norm_of": "task_vector", "mean": 0.3, "scope": "tensor"}}},
    "elected": {"coefficients": NAN, "combine": "disjoint_sum"},
    "trimmed and elected": {
        "coefficients": NAN, "preprocess": {"trim": {"density": 0.3, "scope": "tensor"}}, "combine": "disjoint_sum",
    },
    "a mean by coefficients": {"coefficients": NAN, "combine": {"disjoint_mean": {"divide_by": "coefficients"}}},
    "a mean by count": {"coefficients": {"constant": {"value": 0.7}}, "combine": {"disjoint_mean": {"elect": "unweighted"}}},
}  # fmt: skip


def exported(base, experts, method_spec, exclude=(), **how):
    models = unify_layout(base, experts, exclude)
    places = {"base": str(base), **{name: str(folder) for name, folder in experts.items()}}
    return export(method_spec, bind(method_spec).estimate(norms(models)), models, places, **how)


@pytest.mark.parametrize("exclude", [(), ("embeddings", r"layer\.1")], ids=["everything", "a part"])
@pytest.mark.parametrize("case", OUT)
def test_an_exported_config_merges_as_the_method_spec_does(case, exclude, tmp_path):
    base, experts = family(tmp_path)
    content = yaml.safe_load(exported(base, experts, OUT[case], exclude))
    found = merged(tmp_path / "out", OUT[case], base, experts, exclude)
    same(found, mergekit(content, tensors_of))


def test_what_mergekit_does_otherwise_stands_in_the_file(tmp_path):
    base, experts = family(tmp_path)
    whole = exported(base, experts, {"preprocess": {"trim": {"density": 0.3}}, "combine": "disjoint_sum"})
    assert "# mergekit keeps the share `density` of each tensor; NAN-Merge kept it of the whole model\n" in whole
    dare = exported(base, experts, {"preprocess": {"drop": {"rate": 0.75}}, "coefficients": {"constant": {"value": 0.5}}})
    assert "# the weights include the factor 1 / (1 - 0.75) of DARE" in dare
    content = yaml.safe_load(dare)
    assert content["models"][0]["parameters"]["weight"] == 2.0
    assert content["parameters"] == {"normalize": False, "density": 0.25, "rescale": False}
    assert content["merge_method"] == "dare_linear"


def test_the_export_computes_in_float32_and_stores_as_the_base_or_as_asked(tmp_path):
    base, experts = family(tmp_path, dtype=np.dtype(np.float16))
    content = yaml.safe_load(exported(base, experts, {}))
    assert (content["dtype"], content["out_dtype"]) == ("float32", "float16")
    assert yaml.safe_load(exported(base, experts, {}, dtype="bfloat16"))["out_dtype"] == "bfloat16"


NOT_OUT = {
    "a mean by count of unequal coefficients": ({"coefficients": NAN, "combine": "disjoint_mean"}, "divides a mean"),
    "a trimmed sum": ({"coefficients": NAN, "preprocess": "trim"}, "no counterpart of 'trim' with 'weighted_sum'"),
    "signs before weighting": ({"coefficients": NAN, "combine": {"disjoint_sum": {"elect": "unweighted"}}}, "after weighting"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_OUT)
def test_what_mergekit_cannot_say_is_refused(case, tmp_path):
    method_spec, message = NOT_OUT[case]
    base, experts = family(tmp_path)
    with pytest.raises(UserError, match=message):
        exported(base, experts, method_spec)


def test_a_path_that_mergekit_would_take_apart_is_refused():
    check_names(["/models/a", "owner/b@main"])
    with pytest.raises(UserError, match=r"/models/c\+\+: mergekit splits a path at '\+' and '@'"):
        check_names(["/models/c++"])
