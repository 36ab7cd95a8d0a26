"""A mistake in the config is one message: where, what was found, and what was probably meant."""

import shutil

import pytest
import yaml
from models import ROOT

from experiment.experiment import Experiment
from nan_merge.catalogue.files import check_schema, read_yaml
from nan_merge.core.errors import UserError


@pytest.fixture
def edited(tmp_path):
    """Return a function that changes one key of one config file and reads the experiment again."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "workflow").symlink_to(ROOT / "workflow")

    def change(file, *keys_and_value):
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
        return Experiment(read_yaml(tmp_path / "config/config.yaml"), tmp_path)

    return change


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
        "config/config.yaml: methods: ['ties', 'ties'] has non-unique",
    ),
    "a negative seed": (("config.yaml", "seeds", [-1]), "config/config.yaml: seeds.0: -1 is less than the minimum of 0"),
    "no methods": (("config.yaml", "methods", KeyError), "config/config.yaml: the file: 'methods' is a required property"),
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
    "an unknown stage": (
        ("methods.yaml", "ties", "combin", {}),
        "config/methods.yaml: ties: unknown key 'combin'; did you mean 'combine'?",
    ),
    "a key of an earlier version": (
        ("methods.yaml", "regmean", "evidence", "gram"),
        "config/methods.yaml: regmean: unknown key 'evidence'; it was renamed to 'calibration'",
    ),
    "a value of an earlier version": (
        ("methods.yaml", "fisher_nan", "coefficients", {"nan": {"norm_of": "evidence"}}),
        "fisher_nan.coefficients.nan.norm_of: unknown value 'evidence'; it was renamed to 'calibration'",
    ),
    "an unknown value": (
        ("methods.yaml", "ties_nan", "coefficients", {"nan": {"norm_of": "weight"}}),
        "ties_nan.coefficients.nan.norm_of: unknown value 'weight'; did you mean 'weights'?",
    ),
    "a density in per cent": (
        ("methods.yaml", "ties", "preprocess", {"trim": {"density": 20}}),
        "ties.preprocess.trim.density: 20 is greater than the maximum of 1 (expected: share of entries kept)",
    ),
    "a mean and a sum": (
        ("methods.yaml", "ties_nan", "coefficients", {"nan": {"mean": 0.3, "total": 1.0}}),
        "ties_nan.coefficients.nan: the keys ['mean', 'total'] exclude each other; keep one",
    ),
    "a missing value": (
        ("methods.yaml", "ties", "coefficients", {"constant": {}}),
        "ties.coefficients.constant: 'value' is a required",
    ),
    "an unknown parent": (
        ("methods.yaml", "dare", "extends", "task_arithmetics"),
        "dare: extends: unknown 'task_arithmetics'; did you mean",
    ),
    "parents in a circle": (("methods.yaml", "ties", "extends", "ties_mean"), "`extends` is circular"),
    "an unknown host": (("methods.yaml", "ties_nan", "host", "tie"), ": host, controls: unknown 'tie'; did you mean 'ties'?"),
    "an unknown control": (("methods.yaml", "ties_nan", "controls", ["permute"]), "ties_nan: host, controls: unknown 'permute'"),
    "an unknown tuner": (
        ("methods.yaml", "task_arithmetic_nan_tuned", "tune", "as", "task_arithmetic_tune"),
        "task_arithmetic_nan_tuned: tune: as: unknown 'task_arithmetic_tune'; did you mean 'task_arithmetic_tuned'?",
    ),
    "a tuner without a grid": (
        ("methods.yaml", "task_arithmetic_nan_tuned", "tune", "as", "ties_nan"),
        "tune: as: 'ties_nan' has no grid of its own; name a method that has one",
    ),
    "a tuner that is not run": (
        ("config.yaml", "methods", ["task_arithmetic_nan_tuned"]),
        "'task_arithmetic_nan_tuned' uses the tuned value of 'task_arithmetic_tuned'; list that one too",
    ),
    "a tuned method without the hyper-parameter": (
        ("methods.yaml", "ties_nan", "tune", GRID),
        "ties_nan: tune: 'value' has no value in `coefficients`; write one: {operator: {value: 1.0}}",
    ),
    "a tuned operator without values": (
        ("methods.yaml", "dare_ties", {"label": "x", "summary": "y", "coefficients": "nan", "tune": GRID}),
        "dare_ties: tune: 'value' has no value in `coefficients`",
    ),
    "draws of a control without a seed": (
        ("methods.yaml", "uniform_matched", "draws", 3),
        "uniform_matched: draws: `control: uniform_matched` draws nothing; name a control with a seed, as `permuted`",
    ),
    "a host of several methods": (
        ("methods.yaml", "ties_nan", "host", "permuted"),
        ": host, controls: unknown 'permuted'; did you mean 'permuted_",
    ),
    "draws and a grid": (
        ("methods.yaml", "permuted", "tune", {"hyper_parameter": "mean", "grid": [0.1]}),
        "permuted: the keys ['tune', 'draws'] exclude each other; keep one",
    ),
    "a name that a draw has": (
        ("methods.yaml", "permuted_2", {"label": "x", "summary": "y"}),
        "permuted: there are two methods 'permuted_2'; rename one",
    ),
    "a scan of another stage": (
        ("methods.yaml", "nan_scan_ties", "scan", {"combined": {"disjoint_sum": {"elect": ["weighted"]}}}),
        "nan_scan_ties.scan: unknown key 'combined'; did you mean 'combine'?",
    ),
    "a scan of another operator": (
        ("methods.yaml", "nan_scan_ties", "scan", {"combine": {"disjoint_mean": {"elect": ["weighted"]}}}),
        "nan_scan_ties: scan: combine: 'disjoint_mean' is not the operator of this method; expected 'disjoint_sum'",
    ),
    "a scan of another hyper-parameter": (
        ("methods.yaml", "nan_scan_ta", "scan", {"coefficients": {"nan": {"exponents": [1.0]}}}),
        "nan_scan_ta.scan.coefficients.nan: unknown key 'exponents'; did you mean 'exponent'?",
    ),
    "a scan of another value": (
        ("methods.yaml", "nan_scan_ta", "scan", {"coefficients": {"nan": {"norm_of": ["weights", "deltas"]}}}),
        "nan_scan_ta.scan.coefficients.nan.norm_of.1: unknown value 'deltas'",
    ),
    "a scan of one value": (
        ("methods.yaml", "nan_scan_ta", "scan", {"coefficients": {"nan": {"exponent": 1.0}}}),
        "nan_scan_ta.scan.coefficients.nan.exponent: 1.0 is not of type 'array'",
    ),
    "a scan of a sum beside a mean": (
        ("methods.yaml", "nan_scan_ta", "scan", {"coefficients": {"nan": {"total": [1.0]}}}),
        "nan_scan_ta: scan: coefficients: the keys ['mean', 'total'] exclude each other; keep one",
    ),
    "a table of no method": (
        ("tables.yaml", "tables", "main", "methods", ["permutted", "ties*"]),
        "config/tables.yaml: tables: main: methods, without: unknown 'permutted'; did you mean 'permuted'?",
    ),
    "calibration that no operator needs": (
        ("methods.yaml", "dare_ties", "calibration", "gram"),
        "dare_ties: calibration: is of kind gram, but no operator of the method needs calibration statistics; remove it",
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
        "tasks.yaml: movie: assets: unknown 'vader'; known are: blue_marble, ",
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
        "text.yaml: finetune.learning_rate: '1e-3' is not of type 'number'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_what_was_meant(mistake, edited):
    change, message = MISTAKES[mistake]
    with pytest.raises(UserError) as error:
        edited(*change)
    assert message in str(error.value)


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


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "x.yaml").write_text("a: [1\nb: 2\n")
    with pytest.raises(UserError, match=r"(?s)x.yaml: not valid YAML: .*line 2"):
        read_yaml(tmp_path / "x.yaml")
    with pytest.raises(UserError, match=r"absent.yaml: there is no such file"):
        read_yaml(tmp_path / "absent.yaml")
    with pytest.raises(
        UserError, match=r"^here: the file: 'assets' is a required property|^here: the file: .* is not of type 'object'"
    ):
        check_schema([], ROOT / "workflow/schemas/config.schema.yaml", "here")
