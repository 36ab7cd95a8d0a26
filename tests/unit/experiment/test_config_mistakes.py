"""A mistake in the config is one message: where, what was found, and what was probably meant."""

import shutil

import pytest
import yaml
from models import ROOT
from snakemake.utils import update_config

from experiment.experiment import Experiment
from experiment.parts import ConfigParts
from nan_merge.catalogue.files import check_schema, read_yaml
from nan_merge.core.errors import UserError


@pytest.fixture
def edited(tmp_path):
    """Return a function that changes one key of one config file and reads the experiment again."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "workflow").symlink_to(ROOT / "workflow")

    def change(file, *keys_and_value, methods=()):
        path = tmp_path / "config" / file
        *keys, last, value = keys_and_value
        record = read_yaml(path)
        inner = record
        for key in keys:
            inner = inner[key]
        if value is KeyError:
            del inner[last]
        else:
            inner[last] = value
        path.write_text(yaml.safe_dump(record))
        config = read_yaml(tmp_path / "config/config.yaml")
        return Experiment({**config, "methods": list(methods)} if methods else config, tmp_path)

    return change


BOX = {"low": 0.1, "high": 1.0}
SEARCH = {"search": "tpe", "budget": 5, "space": {"value": BOX}}
GRID = {"hyper_parameter": "value", "grid": [0.1]}
MISTAKES = {
    "an unknown key": (
        ("config.yaml", "metods", []),
        "config/config.yaml: the file: unknown key 'metods'; did you mean 'methods'?",
    ),
    "an unknown method": (
        ("config.yaml", "methods", ["tie"]),
        "config/config.yaml: methods: unknown 'tie'; did you mean 'ties'?",
    ),
    "an unknown suite": (("config.yaml", "suites", ["txt"]), "config/config.yaml: suites: unknown 'txt'; did you mean 'text'?"),
    "an unknown figure": (("config.yaml", "figures", ["lamda"]), "figures: unknown 'lamda'; did you mean 'lambda'?"),
    "a method twice": (
        ("config.yaml", "methods", ["ties", "ties"]),
        "config/config.yaml: methods: 'ties' stands 2 times, as the entries 1 and 2; keep one",
    ),
    "a negative seed": (
        ("config.yaml", "seeds", [-1]),
        "config/config.yaml: seeds.0: expected a whole number of at least 0, found -1",
    ),
    "no methods": (
        ("config.yaml", "methods", KeyError),
        "config/config.yaml: the file: the key 'methods' is missing (methods in the order",
    ),
    "an unknown operator": (
        ("methods.yaml", "ties", "combine", "disjoint_some"),
        "ties.combine: unknown value 'disjoint_some'; did you mean",
    ),
    "an unknown operator with values": (
        ("methods.yaml", "ties", "preprocess", {"trimm": {}}),
        "config/methods.yaml: ties.preprocess: unknown key 'trimm'; did you mean 'trim'?",
    ),
    "an unknown hyper-parameter": (
        ("methods.yaml", "ties", "preprocess", {"trim": {"desnity": 0.1}}),
        "config/methods.yaml: ties.preprocess.trim: unknown key 'desnity'; did you mean 'density'?",
    ),
    "a claim on an unknown method": (
        ("claims.yaml", "claims", "ace_best", "contrasts", [{"methods": ["aze"], "against": "tsv_m"}]),
        "config/claims.yaml: claims: ace_best: contrasts: methods: unknown 'aze'; did you mean 'ace'?",
    ),
    "a claim against an unknown method": (
        ("claims.yaml", "claims", "nan_delta", "contrasts", [{"methods": ["ties+nan_delta"], "against": "{hots}"}]),
        "config/claims.yaml: claims: nan_delta: contrasts: against: unknown '{hots}'; ",
    ),
    "a claim on scores and on norms": (
        ("claims.yaml", "claims", "nan_delta", "measure", {"norm": "weights", "of": "examples"}),
        "config/claims.yaml: claims.nan_delta: expected `contrasts` or else `measure`, found `contrasts` and `measure`",
    ),
    "an unknown stage": (
        ("methods.yaml", "ties", "combin", {}),
        "config/methods.yaml: ties: unknown key 'combin'; did you mean 'combine'?",
    ),
    "a key of an earlier version": (
        ("methods.yaml", "regmean", "evidence", "gram"),
        "config/methods.yaml: regmean: unknown key 'evidence'; it was renamed to 'calibration'",
    ),
    "a value of an earlier version": (
        ("variants.yaml", "nan", "coefficients", {"nan": {"norm_of": "evidence"}}),
        "config/variants.yaml: nan.coefficients.nan.norm_of: unknown value 'evidence'; it was renamed to 'calibration'",
    ),
    "an unknown value": (
        ("variants.yaml", "nan", "coefficients", {"nan": {"norm_of": "weight"}}),
        "nan.coefficients.nan.norm_of: unknown value 'weight'; did you mean 'weights'?",
    ),
    "a density in per cent": (
        ("methods.yaml", "ties", "preprocess", {"trim": {"density": 20}}),
        "ties.preprocess.trim.density: expected a number above 0 and of at most 1 (share of entries kept), found 20",
    ),
    "a density as a text": (
        ("methods.yaml", "ties", "preprocess", {"trim": {"density": "20%"}}),
        "expected a number above 0 and of at most 1 (share of entries kept), found the text '20%'; write 0.2, without quotes",
    ),
    "no regular expression": (
        ("suites/text.yaml", "merge", {"exclude": ["pooler", "("]}),
        "text.yaml: merge.exclude.1: expected a regular expression, found '(': missing ), unterminated subpattern at position 0",
    ),
    "an operator that is a number": (
        ("methods.yaml", "ties", "preprocess", 5),
        "ties.preprocess: expected identity or trim or drop or ... or a mapping (`key: value`), found 5",
    ),
    "an operator in a list": (("methods.yaml", "ties", "preprocess", ["trim"]), " or a mapping (`key: value`), found a list"),
    "a method in capitals": (("config.yaml", "methods", ["TIES"]), "methods: unknown 'TIES'; did you mean 'ties'?"),
    "a method like no other": (("config.yaml", "methods", ["xyzzy"]), "methods: unknown 'xyzzy'; known are: "),
    "an id in capitals": (
        ("methods.yaml", "My-TIES", {"label": "x", "summary": "y"}),
        "the file: expected a text (an id: lower-case letters, digits and _, a letter first), found the text 'My-TIES'",
    ),
    "an id of a task in capitals": (
        ("tasks.yaml", "My-Task", {}),
        "tasks.yaml: the file: expected a text (an id: lower-case letters, digits and _, a letter first), found the text 'My-",
    ),
    "a text in place of a list": (("config.yaml", "methods", "ties"), "methods: expected a list (methods in the order "),
    "a text in place of a list, mended": (("config.yaml", "methods", "ties"), ", found the text 'ties'; write [ties]"),
    "nothing in place of a list": (
        ("config.yaml", "suites", None),
        "suites that are merged and scored, by the names of the files",
    ),
    "a list in place of a mapping": (
        ("suites/text.yaml", "finetune", [{"steps": 3}]),
        "text.yaml: finetune: expected a mapping (`key: value`) (how every expert is fine-tuned from the base), found a list",
    ),
    "a number in place of a text": (
        ("suites/text.yaml", "label", 5),
        "label: expected a text (the name in the report), found 5; write",
    ),
    "keys of two kinds": (
        ("tasks.yaml", "movie", "class_names", "cars"),
        "movie: expected `prompt` or else `class_names` or else `labels` or else `harness`, found `prompt` and `class_names`",
    ),
    "an empty list": (("config.yaml", "seeds", []), "config.yaml: seeds: expected at least 1 of them (fine-tuning seeds; "),
    "a mean and a sum": (
        ("variants.yaml", "nan", "coefficients", {"nan": {"mean": 0.3, "total": 1.0}}),
        "nan.coefficients.nan: the keys ['mean', 'total'] exclude each other; keep one",
    ),
    "a missing value": (
        ("methods.yaml", "ties", "coefficients", {"constant": {}}),
        "ties.coefficients.constant: the key 'value' is missing (the coefficient lambda)",
    ),
    "an unknown parent": (
        ("methods.yaml", "dare", "extends", "task_arithmetics"),
        "dare: extends: unknown 'task_arithmetics'; did you mean",
    ),
    "parents in a circle": (("methods.yaml", "ties", "extends", "ties_mean"), "`extends` is circular"),
    "a host, which is not stated": (("methods.yaml", "ties", "host", "dare"), "config/methods.yaml: ties: unknown key 'host'"),
    "an unknown control": (
        ("methods.yaml", "ties", "controls", ["ties_tune"]),
        "ties: controls: unknown 'ties_tune'; did you mean 'ties_tuned'?",
    ),
    "an unknown tuner": (
        ("methods.yaml", "ties_tuned", "tune", {"hyper_parameter": "value", "as": "task_arithmetic_tune"}),
        "ties_tuned: tune: as: unknown 'task_arithmetic_tune'; did you mean 'task_arithmetic_tuned'?",
    ),
    "a tuner without a grid": (
        ("methods.yaml", "ties_tuned", "tune", {"hyper_parameter": "value", "as": "ties"}),
        "tune: as: 'ties' has no grid of its own; name a method that has one",
    ),
    "a tuner that is not run": (
        ("config.yaml", "methods", ["task_arithmetic_tuned+nan_delta"]),
        "'task_arithmetic_tuned+nan_delta' uses the tuned value of 'task_arithmetic_tuned'; list that one too",
    ),
    "a tuned method without the hyper-parameter": (
        ("methods.yaml", "metagpt", "tune", GRID),
        "metagpt: tune: 'value' has no value in `coefficients`; write one: {operator: {value: 1.0}}",
    ),
    "a tuned operator without values": (
        ("methods.yaml", "magmax", {"label": "x", "summary": "y", "coefficients": "nan", "tune": GRID}),
        "magmax: tune: 'value' has no value in `coefficients`",
    ),
    "a search that is not known": (
        ("methods.yaml", "magmax", "tune", {**SEARCH, "search": "tpee"}),
        "config/methods.yaml: magmax.tune.search: unknown value 'tpee'; did you mean 'tpe'?",
    ),
    "a search without trials": (
        ("methods.yaml", "magmax", "tune", {**SEARCH, "budget": 0}),
        "magmax.tune.budget: expected a whole number of at least 1 (number of trials of sobol, tpe and cma_es), found 0",
    ),
    "a seed that no generator takes": (
        ("methods.yaml", "magmax", "tune", {**SEARCH, "seed": 2**32}),
        "magmax.tune.seed: expected a whole number of at least 0 and of at most 4294967295",
    ),
    "a space that names nothing": (
        ("methods.yaml", "magmax", "tune", {**SEARCH, "space": {}}),
        "magmax.tune.space: expected at least 1 of them (a list of values or a range by hyper-parameter",
    ),
    "a list without values": (
        ("methods.yaml", "magmax", "tune", {"search": "grid", "space": {"value": []}}),
        "magmax.tune.space.value: expected at least 1 of them, found none",
    ),
    "a range without an end": (
        ("methods.yaml", "magmax", "tune", {**SEARCH, "space": {"value": {"low": 0.1}}}),
        "magmax.tune.space.value: the key 'high' is missing (the largest value)",
    ),
    "a search of a hyper-parameter that is not there": (
        ("methods.yaml", "magmax", "tune", {**SEARCH, "space": {"valeu": BOX}}),
        "config/methods.yaml: magmax: tune: space: valeu: no operator of the method has it; did you mean 'value'?",
    ),
    "a value that an operator does not take": (
        ("methods.yaml", "ties", "tune", {"search": "grid", "space": {"density": [0.2, 1.5]}}),
        "ties: tune: space: trial.preprocess.trim.density: expected a number above 0 and of at most 1 (share of entries kept)",
    ),
    "a range that an operator does not take": (
        ("methods.yaml", "ties", "tune", {**SEARCH, "space": {"density": {"low": -0.1, "high": 0.5}}}),
        "ties: tune: space: trial.preprocess.trim.density: expected a number above 0",
    ),
    "a grid and a search": (
        ("methods.yaml", "magmax", "tune", {**GRID, **SEARCH}),
        "magmax.tune: expected `hyper_parameter` and `grid` or else `hyper_parameter` and `as` or else `multiples` or else",
    ),
    "a search and a scan": (
        ("methods.yaml", "ties_elections", "tune", SEARCH),
        "ties_elections: the keys ['tune', 'scan'] exclude each other; keep one",
    ),
    "a number for each expert where there is one": (
        ("methods.yaml", "magmax", "tune", {**SEARCH, "space": {"value": {**BOX, "each": "expert"}}}),
        "magmax: tune: space: trial.coefficients.constant.value: expected a number (the coefficient lambda), found a mapping",
    ),
    "a search of a merge for each task": (
        ("config.yaml", "methods", ["emr", "emr+searched"]),
        "'emr+searched' merges for one task at a time, and candidates are one merge for all; leave it out",
    ),
    "a search of a control that is not run": (
        ("config.yaml", "methods", ["ties+searched+uniform"]),
        "'ties+searched+uniform' uses the tuned value of 'ties+searched'; list that one too",
    ),
    "two values of one id": (
        ("methods.yaml", "magmax", "tune", {"hyper_parameter": "value", "grid": [0.1, 0.1000000001]}),
        "config/methods.yaml: magmax: tune: two values have one id, which has six digits; leave one out",
        "magmax",
    ),
    "multiples of a method": (
        ("methods.yaml", "magmax", "tune", {"multiples": [1.0, 2.0]}),
        "config/methods.yaml: magmax: tune: multiples: for a variant without coefficients; write `hyper_parameter` and `grid`",
    ),
    "multiples of new coefficients": (
        ("variants.yaml", "nan_delta", "tune", {"multiples": [1.0, 2.0]}),
        "tune: multiples: for a variant without coefficients",
        "ties+nan_delta",
    ),
    "a variant of another search alone": (
        ("variants.yaml", "tuned", "tune", SEARCH),
        "tuned: tune: a variant without coefficients has `multiples` of the method's scale alone; found budget, search, space",
        "ties+tuned",
    ),
    "multiples that are pruned": (
        ("variants.yaml", "tuned", "tune", {"multiples": [1.0, 2.0], "prune": True}),
        "tuned: tune: a variant without coefficients has `multiples` of the method's scale alone; found multiples, prune",
        "ties+tuned",
    ),
    "a choice of another that is pruned": (
        ("methods.yaml", "ties_tuned", "tune", {"hyper_parameter": "value", "as": "task_arithmetic_tuned", "prune": True}),
        "ties_tuned: tune: prune: not with `as`, by which 'task_arithmetic_tuned' chooses; remove it",
    ),
    "a density that varies over a model of which a share is kept": (
        ("methods.yaml", "ties", "preprocess", {"trim": {"density": [0.1, 0.3]}}),
        "config/methods.yaml: ties: preprocess: trim: a density that varies over tensors has no share of the model; set `sc",
    ),
    "such a density in a space": (
        (
            *("methods.yaml", "ties"),
            {
                **{"label": "x", "summary": "y", "data": "validation", "combine": {"disjoint_sum": {}}},
                "preprocess": {"trim": {"density": [0.1, 0.3], "scope": "tensor"}},
                "tune": {"search": "grid", "space": {"scope": ["tensor", "model"]}},
            },
        ),
        "config/methods.yaml: ties: tune: space: preprocess.trim.scope: model: preprocess: trim: a density that varies",
    ),
    "draws of a control without a seed": (
        ("variants.yaml", "uniform", "draws", 3),
        "'ties+nan+uniform': draws: `control: uniform_matched` and `preprocess: trim` draw nothing; name an operator with a seed",
        "ties+nan+uniform",
    ),
    "a grid and a scan": (
        ("methods.yaml", "ties_elections", "tune", GRID),
        "ties_elections: the keys ['tune', 'scan'] exclude each other; keep one",
    ),
    "a name that a member of a scan has": (
        ("methods.yaml", "ties_elections", "scan", {"combine": {"disjoint_sum": {"elect": ["weighted", "weighted"]}}}),
        "ties_elections.scan.combine.disjoint_sum.elect",
    ),
    "a scan of another stage": (
        ("methods.yaml", "ties_elections", "scan", {"combined": {"disjoint_sum": {"elect": ["weighted"]}}}),
        "ties_elections.scan: unknown key 'combined'; did you mean 'combine'?",
    ),
    "a scan of another operator": (
        ("methods.yaml", "ties_elections", "scan", {"combine": {"disjoint_mean": {"elect": ["weighted"]}}}),
        "ties_elections: scan: combine: 'disjoint_mean' is not the operator of this method; expected 'disjoint_sum'",
    ),
    "a scan of another hyper-parameter": (
        ("variants.yaml", "nan_scan", "scan", {"coefficients": {"nan": {"exponents": [1.0]}}}),
        "nan_scan.scan.coefficients.nan: unknown key 'exponents'; did you mean 'exponent'?",
    ),
    "a scan of another value": (
        ("variants.yaml", "nan_scan", "scan", {"coefficients": {"nan": {"norm_of": ["weights", "deltas"]}}}),
        "nan_scan.scan.coefficients.nan.norm_of.1: unknown value 'deltas'",
    ),
    "a scan of one value": (
        ("variants.yaml", "nan_scan", "scan", {"coefficients": {"nan": {"exponent": 1.0}}}),
        "nan_scan.scan.coefficients.nan.exponent: expected a list, found 1.0; write [1.0]",
    ),
    "a scan of a sum beside a mean": (
        ("variants.yaml", "nan_scan", "scan", {"coefficients": {"nan": {"total": [1.0]}}}),
        "'ties+nan_scan': scan: coefficients: the keys ['mean', 'total'] exclude each other; keep one",
        "ties+nan_scan",
    ),
    "an old id": (
        ("config.yaml", "methods", ["ties", "ties_nan_delta"]),
        "config/config.yaml: methods: 'ties_nan_delta' is now called 'ties+nan_delta'",
    ),
    "a variant that the host does not take": (
        ("config.yaml", "methods", ["adamerging_task+nan"]),
        "methods: 'adamerging_task+nan': adamerging_task does not take the variant 'nan': its coefficients are learned",
    ),
    "coefficients and a control": (
        ("variants.yaml", "permuted", "coefficients", {"nan": {}}),
        "config/variants.yaml: permuted: the keys ['coefficients', 'control'] exclude each other; keep one",
    ),
    "coefficients and a space": (
        ("variants.yaml", "core", "coefficients", {"nan": {}}),
        "config/variants.yaml: core: the keys ['coefficients', 'space'] exclude each other; keep one",
    ),
    "a table of no method": (
        ("tables.yaml", "tables", "main", "methods", ["permutted", "ties*"]),
        "config/tables.yaml: tables: main: methods, without: unknown 'permutted'; known are: ",
    ),
    "calibration that no operator needs": (
        ("methods.yaml", "dare_ties", "calibration", "gram"),
        "dare_ties: calibration: is of kind gram, but no operator of the method needs calibration statistics; remove it",
    ),
    "coefficients over norms of calibration that is not named": (
        ("methods.yaml", "dare_ties", "coefficients", {"constant": {"value": 0.3, "over": "calibration"}}),
        "dare_ties: calibration: is missing, but `over: calibration` needs kind fisher or gram; name an entry",
    ),
    "norms of calibration that is not named": (
        ("methods.yaml", "dare_ties", "coefficients", {"nan": {"norm_of": "calibration"}}),
        "dare_ties: calibration: is missing, but `norm_of: calibration` needs kind fisher or gram; name an entry",
    ),
    "an unknown task": (
        ("suites/text.yaml", "tasks", ["news20", "reuters"]),
        "text.yaml: tasks: unknown 'reuters'; did you mean 'reuters8'?",
    ),
    "an unknown group member": (("suites/text.yaml", "groups", {"a": ["amazon"]}), "groups, premise: unknown 'amazon'"),
    "an unknown family": (
        ("suites/text.yaml", "family", "text_encoders"),
        "family: unknown 'text_encoders'; did you mean 'text_encoder'?",
    ),
    "an unknown asset": (
        ("suites/text.yaml", "base", "minilm"),
        "text.yaml: base, text_tower, tokenizer, experts: unknown 'minilm'; did you mean 'minilm_l6'?",
    ),
    "an unknown asset of a task": (
        ("tasks.yaml", "movie", "assets", ["vader"]),
        "tasks.yaml: movie: assets: unknown 'vader'; known are: bigbench, blue_marble, ",
    ),
    "an unknown key of a suite": (
        ("suites/text.yaml", "finetune", "learnrate", 1.0),
        "config/suites/text.yaml: finetune: unknown key 'learnrate'; did you mean 'learning_rate'?",
    ),
    "an unknown kind of asset": (
        ("assets.yaml", "minilm_l6", "kind", "pypy"),
        "minilm_l6.kind: unknown value 'pypy'; did you mean 'pypi'?",
    ),
    "a float that YAML reads as a string": (
        ("suites/text.yaml", "finetune", "learning_rate", "1e-3"),
        "expected a number above 0 (peak learning rate of AdamW: 10 % warm-up, then cosine), found the text '1e-3'; "
        "write 0.001, without quotes",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_what_was_meant(mistake, edited):
    """Where a method is named, the fault shows once it is run."""
    change, message, *methods = MISTAKES[mistake]
    with pytest.raises(UserError) as error:
        edited(*change, methods=methods)
    assert message in str(error.value)


def test_a_validation_split_with_fewer_examples_than_folds_of_a_search_is_refused(edited):
    edited("tasks.yaml", "movie", "splits", "validation", 4, methods=["ties_tuned"])
    edited("config.yaml", "tables", ["main", "search"], methods=["ties"])
    with pytest.raises(UserError) as error:
        edited("config.yaml", "tables", ["main", "search"], methods=["ties_tuned"])
    assert str(error.value) == (
        "config/tasks.yaml: movie: splits: validation: found 4; expected 5 or more, since the search of 'ties_tuned' is"
        " cross-validated over 5 folds of the examples of 'movie'; enlarge the split"
    )
    with pytest.raises(UserError, match=r"config/suites/text.yaml: splits: validation: found 3; expected 5 or more"):
        edited("suites/text.yaml", "splits", {"validation": 3}, methods=["ties_tuned"])
    edited("tasks.yaml", "movie", "splits", "validation", 5, methods=["ties"])
    edited("suites/text.yaml", "splits", {"validation": 5}, methods=["ties_tuned"])


FOLDERS = {
    "./base": "models: mine: base: there is no folder './base' in /",
    "base": "models: mine: base: there is no folder 'base' in /",
    "/absent/of/me": "models: mine: base: there is no folder '/absent/of/me'; expected the folder of a model, or a hub id",
    "~/absent": "models: mine: base: there is no folder '~/absent'; expected",
    "models/of/mine": "there is no folder 'models/of/mine' in /",
}


@pytest.mark.parametrize("place", FOLDERS)
def test_a_folder_of_a_model_that_is_not_there_is_refused(place):
    config = {"suites": [], "seeds": [0], "methods": ["ties"], "tables": [], "figures": []}
    models = {"mine": {"base": "owner/base@refs/pr/1", "experts": {"a": "owner/a"}}}
    Experiment({**config, "models": models}, ROOT)
    models["mine"]["base"] = place
    with pytest.raises(UserError) as error:
        Experiment({**config, "models": models}, ROOT)
    assert FOLDERS[place] in str(error.value)


def test_a_long_list_of_known_names_is_cut(edited):
    with pytest.raises(UserError) as error:
        edited("config.yaml", "methods", ["xyzzy"])
    assert len(str(error.value)) < 300 and str(error.value).endswith("more; `nan-merge methods` lists all")


PARTS = ConfigParts(
    {
        "config/config.yaml": {"methods": ["ties"], "models": {"a": {"base": "o/b"}}},
        "own.yaml": {"methods": ["TIES"], "models": {"b": {}}},
        "--config": {"seeds": "x"},
    }
)


@pytest.mark.parametrize(
    "place, expected",
    {
        (): "--config",
        ("methods", 0): "own.yaml",
        ("seeds",): "--config",
        ("models", "a", "base"): "config/config.yaml",
        ("models", "b", "base"): "config/config.yaml",
        ("figures",): "config/config.yaml",
    }.items(),
)
def test_the_last_part_that_sets_a_value_is_named(place, expected):
    assert PARTS.file(place) == expected


def test_parts_are_merged_as_snakemake_does():
    config = {}
    for part in PARTS.parts.values():
        update_config(config, part)
    assert PARTS.merged() == config


def test_a_file_of_an_earlier_version_is_not_ignored(edited, tmp_path):
    (tmp_path / "config/calibration.yaml").rename(tmp_path / "config/evidence.yaml")
    with pytest.raises(UserError, match=r"^config/evidence\.yaml: this file was renamed to config/calibration\.yaml; move your"):
        edited("config.yaml", "seeds", [0])


def test_a_renamed_key_is_named_before_the_key_that_is_then_missing():
    costs = read_yaml(ROOT / "config/costs.yaml")
    costs["evidence"] = costs.pop("calibration")
    with pytest.raises(UserError, match="unknown key 'evidence'; it was renamed to 'calibration'"):
        check_schema(costs, ROOT / "workflow/schemas/costs.schema.yaml", "config/costs.yaml")


def test_yaml_reads_a_bare_1e_3_as_a_string(tmp_path):
    (tmp_path / "x.yaml").write_text("a: 1e-3\nb: 1.0e-3\n")
    assert read_yaml(tmp_path / "x.yaml") == {"a": "1e-3", "b": 0.001}


SYNTAX = {
    "a key twice": ("a: 1\nb: 2\na: 3\n", "x.yaml: the key 'a' stands twice in one mapping, in lines 1 and 3; keep one"),
    "a key twice within": ("a:\n- {b: 1, b: 1}\n", "x.yaml: the key 'b' stands twice in one mapping, in lines 2 and 2"),
    "a tab": ("a:\n\tb: 1\n", "x.yaml: not valid YAML: line 2, column 1: 'b: 1': "),
    "a tab, mended": ("a:\n\tb: 1\n", "the line is indented with a tab; indent with spaces"),
    "a missing colon": (
        "a\nb: 2\n",
        "line 2, column 2: 'b: 2': mapping values are not allowed in this context; a key above lacks",
    ),
    "a list that does not end": ("a: [1, 2\nb: 3\n", "line 2, column 2: 'b: 3': "),
    "an unpaired quote": ("a: 'x\n", "x.yaml: not valid YAML: line 2, column 1: '': found unexpected end of stream; every key"),
    "another encoding": ("a: \udce4\n", "x.yaml: cannot be read as a text in UTF-8"),
}


@pytest.mark.parametrize("fault", SYNTAX)
def test_a_fault_of_syntax_is_told_with_its_line(fault, tmp_path):
    text, message = SYNTAX[fault]
    (tmp_path / "x.yaml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError) as error:
        read_yaml(tmp_path / "x.yaml")
    assert message in str(error.value)


def test_an_alias_is_no_key_twice(tmp_path):
    (tmp_path / "x.yaml").write_text("a: &a {b: 1, c: 2}\nd: {<<: *a, b: 3}\ne: [*a, *a]\n")
    assert read_yaml(tmp_path / "x.yaml")["d"] == {"b": 3, "c": 2}


@pytest.mark.parametrize("file, found", {"a.yaml": "is empty", "b.yaml": "holds no keys at its top level"}.items())
def test_an_overlay_without_keys_is_named(file, found, tmp_path):
    (tmp_path / file).write_text({"a.yaml": "# nothing\n", "b.yaml": "- ties\n"}[file])
    with pytest.raises(UserError, match=f"{file}: the file {found}; expected lines such as"):
        ConfigParts.read(ROOT, [tmp_path / file], {})


@pytest.mark.parametrize("file", sorted((ROOT / "workflow/schemas").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_comma_in_a_description_of_a_schema_is_quoted(file):
    """`{description: a, b}` is a description `a` and a key `b` without a value."""
    assert ": null" not in yaml.safe_dump(read_yaml(file)).replace("type: null", "")


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "x.yaml").write_text("a: [1\nb: 2\n")
    with pytest.raises(UserError, match=r"(?s)x.yaml: not valid YAML: .*line 2"):
        read_yaml(tmp_path / "x.yaml")
    with pytest.raises(UserError, match=r"absent.yaml: there is no such file"):
        read_yaml(tmp_path / "absent.yaml")
    with pytest.raises(
        UserError, match=r"^here: the file: expected a mapping \(`key: value`\), found a list; write `key: value`, "
    ):
        check_schema([], ROOT / "workflow/schemas/config.schema.yaml", "here")
