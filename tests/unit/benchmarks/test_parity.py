"""What the comparison with public implementations stands on: the models, the sentences, the jobs, the table. No peers."""

import json

import numpy as np
import pytest
import torch
import transformers
from models import ROOT

from benchmarks.parity import comparisons, draws, findings, import_models, imports, models, run, table
from benchmarks.parity.run import Comparison
from nan_merge.core.errors import UserError
from nan_merge.methods.context import DRAWS, TensorContext
from nan_merge.methods.recipe import bind

FACTS = {
    "date": "2026-01-01",
    "versions": {"numpy": "2.4.6"},
    "peers": {name: {name: "1.0", "torch": "2.0"} for name in table.PEERS},
}
SAME = Comparison("mergekit", "linear", "weight_averaging", each={"weight": 1.0}, base=None)


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return models.make("GPT-2", tmp_path_factory.mktemp("parity") / "models")


@pytest.mark.parametrize("name", models.FAMILIES)
def test_a_family_has_the_tensors_that_transformers_makes_of_its_config(name):
    record = models.FAMILIES[name].config()
    (architecture,) = record["architectures"]
    network = getattr(transformers, architecture)
    with torch.device("meta"):
        made = network(network.config_class(**record)).state_dict()
    tied = {"lm_head.weight"} if name == "GPT-2" else set()
    assert {key: tuple(tensor.shape) for key, tensor in made.items() if key not in tied} == models.tensors(name)


def test_models_are_small_and_the_same_every_time(family, tmp_path):
    again = models.make("GPT-2", tmp_path / "again")
    for one, other in zip((family.base, *family.experts), (again.base, *again.experts), strict=True):
        assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert sum(tensor.size for tensor in models.read(family.base).values()) < 2_000_000
    assert 0 < family.largest() < 0.1


def test_calibration_belongs_to_the_weights_and_is_positive(family):
    base = models.read(family.base)
    fisher, gram = (models.read(family.calibration(kind)[1]) for kind in ("fisher", "gram"))
    assert {name: each.shape for name, each in fisher.items()} == {name: each.shape for name, each in base.items()}
    assert all((each >= 0).all() for each in fisher.values())
    assert gram["transformer.h.0.mlp.c_fc.weight"].shape == (40, 40)  # stored as (in, out)
    assert gram["transformer.h.0.mlp.c_proj.weight"].shape == (160, 160)
    assert len(gram) == 8
    assert all(np.linalg.eigvalsh(each).min() > 0 for each in gram.values())


@pytest.mark.parametrize("compared", comparisons.COMPARISONS, ids=lambda each: f"{each.peer}-{each.method}-{each.families[0]}")
def test_every_comparison_names_a_method_that_there_is_and_can_be_handed_over(compared, family, tmp_path):
    bind(compared.method_spec(), compared.ours)
    job = run.JOBS[compared.peer](compared, family, "float64", tmp_path / "out")
    assert json.loads(json.dumps(job)) == job
    assert compared.within is not None or compared.note
    assert {*compared.families} <= {*models.FAMILIES}


def test_ours_merges_the_family_in_both_precisions(family, tmp_path):
    found = run.ours(SAME, family, tmp_path)
    expected = {name: 0 for name in models.read(family.base)}
    for expert in family.experts:
        expected = {name: expected[name] + tensor / 3 for name, tensor in models.read(expert).items()}
    assert run.distance(found["float64"], expected) < 1e-15
    assert 1e-9 < run.distance(found["float32"], expected) < 2e-7


def test_the_shared_draws_are_ours_with_the_key_0(monkeypatch):
    monkeypatch.setattr(TensorContext, "key", lambda context, draw=0: 0)
    shared = draws.uniform((300, 7)).numpy()
    assert (TensorContext("w").draws(np.zeros((300, 7))) == shared * DRAWS).all()
    assert shared.min() < 0.01 and shared.max() > 0.99 and abs(shared.mean() - 0.5) < 0.02


def test_experts_may_be_adapters(tmp_path):
    family = models.make(models.LORA, tmp_path / "models")
    assert [(each / "adapter_config.json").is_file() for each in family.experts] == [True] * 3
    base, merged = models.read(family.base), run.ours(SAME, family, tmp_path / "ours")["float64"]
    moved = {name for name in base if not np.array_equal(base[name], merged[name])}
    assert moved == {name for name in base if name.endswith(("q_proj.weight", "v_proj.weight"))}
    assert family.largest() / 3 < max(np.abs(merged[name] - base[name]).max() for name in moved) < family.largest()


def test_distance_is_the_largest_difference_and_never_nan():
    left, right = {"a": np.zeros(3), "b": np.zeros(2)}, {"a": np.array([0, 1, -2.0]), "b": np.array([np.nan, 0])}
    assert run.distance(left, right) == np.inf
    assert run.distance(left, right, apart="b") == 2
    with pytest.raises(UserError, match="1 tensors differ in name or shape between the two programs, such as 'b'"):
        run.distance(left, {"a": left["a"]})


def test_a_table_says_what_agrees_what_differs_on_purpose_and_what_should_not():
    apart = Comparison("fusion-bench", "iso_cts", "iso_cts", "stored otherwise", within=None)
    near = Comparison("fusion-bench", "fisher", "fisher", change=("combine.fisher.floor=1e-7",), settings={"floor": 1e-7})
    rows = [
        table.row(compared.record, "CLIP", {"float32": 1e-7, "float64": error}, 0.02)
        for compared, error in ((SAME, 1e-17), (apart, 0.01), (near, 1e-9))
    ]
    assert [each["agrees"] for each in rows] == [True, None, False]
    assert table.faults(rows) == ["fusion-bench fisher and fisher on CLIP (5.0e-08)"]
    text = table.table({"facts": FACTS, "rows": rows, "found": findings.FOUND})
    assert "| `linear` weight: 1.0 | `weight_averaging` | CLIP | 1.0e-07 | 5.0e-06 | 1.0e-17 | 5.0e-16 | ✓ |  |" in text
    assert "| `iso_cts` | `iso_cts` | CLIP | 1.0e-07 | 5.0e-06 | 1.0e-02 | 5.0e-01 | – | [1] |" in text
    assert "| ✗ | [2] |" in text
    assert "[1] Stored otherwise.\n" in text
    assert "[2] Here `--set combine.fisher.floor=1e-7`.\n" in text


def test_the_recorded_table_is_of_these_comparisons():
    recorded = json.loads((ROOT / "benchmarks/results/parity.json").read_text())
    expected = [(each.peer, each.method, each.ours, name) for each in comparisons.COMPARISONS for name in each.families]
    assert [(each["peer"], each["method"], each["ours"], each["family"]) for each in recorded["rows"]] == expected
    assert table.table(recorded) == (ROOT / "benchmarks/results/parity.md").read_text()
    assert not table.faults(recorded["rows"])


def test_the_recorded_table_of_files_is_of_these_files_and_all_agree():
    recorded = json.loads((ROOT / "benchmarks/results/imports.json").read_text())
    assert [each["file"] for each in recorded["rows"]] == sorted(file.name for file in imports.FILES.glob("*.yml"))
    assert imports.table(recorded) == (ROOT / "benchmarks/results/imports.md").read_text()
    assert all(each["agrees"] for each in recorded["rows"])


def test_the_models_of_the_files_load_in_the_library_that_mergekit_reads_them_with(tmp_path):
    import_models.make(tmp_path / "models")
    for name, rows in (("base", 128), ("longer", 130), ("shorter", 120)):
        network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "models" / name)
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "models" / name)
        assert network.get_input_embeddings().weight.shape[0] == len(tokenizer) == rows
    assert tokenizer("word7 word119")["input_ids"] == [7, 119]
    assert (tmp_path / "models/adapter/adapter_config.json").is_file()
