"""Laws of whole merges, for every shipped method: what the bytes depend on, and what they must not depend on."""

import re
import shutil
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from models import (
    BFLOAT16,
    SHAPES,
    distinct,
    family,
    flat,
    is_whole,
    measures,
    merge_measured,
    merged,
    merger,
    moved,
    random_model,
    same_bytes,
    save,
    tensors_of,
)

from nan_merge.checkpoints import safetensors_file
from nan_merge.core.atomic import exclusive
from nan_merge.core.errors import UserError
from nan_merge.core.files import sha256
from nan_merge.core.parallel import MemoryBudget, parallel_map
from nan_merge.engine import measure, merge
from nan_merge.engine.devices import Device
from nan_merge.engine.request import MergeRequest
from nan_merge.layouts import unify
from nan_merge.methods.combine import COMBINE
from nan_merge.methods.context import whole
from nan_merge.methods.recipe import STAGES, bind

METHODS = distinct()
every_method = pytest.mark.parametrize("method_spec", METHODS.values(), ids=METHODS)
SUM = {"coefficients": {"constant": {"value": 0.3}}}
NAN = {"coefficients": {"nan": {"norm_of": "task_vector", "mean": 0.3}}}
LARGE = (0.1, 0.2, 0.05)  # no task vector vanishes in bfloat16
FLOATS = {"float64": np.dtype("f8"), "float32": np.dtype("f4"), "float16": np.dtype("f2"), "bfloat16": BFLOAT16}
FEW = ("float32", "bfloat16")  # what whole tensors are read from; they are computed in float64 whatever the type
OF_OPERATORS = {  # one method for each choice of operators; rules of coefficients have nothing to do with types and blocks
    str({stage: METHODS[method].get(stage) for stage in ("preprocess", "combine", "postprocess")}): method for method in METHODS
}
BY_TYPE = [(method, name) for method in OF_OPERATORS.values() for name in (FEW if is_whole(METHODS[method]) else FLOATS)]
every_method_and_type = pytest.mark.parametrize(
    ("method_spec", "dtype"), [(METHODS[m], FLOATS[name]) for m, name in BY_TYPE], ids=["-".join(each) for each in BY_TYPE]
)
BY_PIECES = [(method, name) for method, name in BY_TYPE if not is_whole(METHODS[method])]


def digests(folder):
    return {file.name: sha256(file) for file in sorted(folder.iterdir())}


def direction(vector):
    return vector / np.linalg.norm(vector)


@every_method
def test_experts_that_equal_the_base_give_the_base_bit_for_bit(method_spec, tmp_path):
    if method_spec.get("preprocess") == "matched":
        pytest.skip("it moves units of whole networks into the groups that were drawn; test_matching.py has its laws")
    base = random_model(0)
    experts = {name: save(tmp_path / name, base) for name in "abc"}
    factor = 1.5 if "scale_weights" in method_spec.get("postprocess", {}) else 1  # T / 2 times the whole weights, a control
    expected = {name: np.asarray(factor * value, value.dtype) if name in SHAPES else value for name, value in base.items()}
    assert same_bytes(merged(tmp_path / "out", method_spec, save(tmp_path / "base", base), experts), expected)


@every_method
def test_nothing_is_modified_and_neither_repetition_nor_order_nor_shards_of_experts_change_a_byte(method_spec, tmp_path):
    base, experts = family(tmp_path)
    before = [digests(folder) for folder in (base, *experts.values())]
    backwards = dict(reversed([(e, save(tmp_path / "sharded" / e, tensors_of(f), shards=3)) for e, f in experts.items()]))
    assert list(backwards) == ["c", "b", "a"]
    first = merged(tmp_path / "first", method_spec, base, experts)
    assert same_bytes(first, merged(tmp_path / "second", method_spec, base, experts))
    assert same_bytes(first, merged(tmp_path / "backwards", method_spec, base, backwards))
    assert [digests(folder) for folder in (base, *experts.values())] == before


@every_method_and_type
def test_threads_and_block_sizes_change_no_byte(method_spec, dtype, tmp_path, monkeypatch):
    merge = merger(method_spec, *family(tmp_path, dtype=dtype, sizes=LARGE))
    merge(tmp_path / "whole")
    monkeypatch.setattr(unify, "WORK_UNIT", 21)
    for threads, step in ((1, 7), (5, 21)):
        merge(tmp_path / f"{threads}", threads=threads, device=Device(step=step))
        assert same_bytes(tensors_of(tmp_path / f"{threads}"), tensors_of(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("method_spec", "dtype"), [(METHODS[m], FLOATS[name]) for m, name in BY_PIECES], ids=["-".join(each) for each in BY_PIECES]
)
def test_kernels_change_no_byte(method_spec, dtype, tmp_path):
    base, experts = family(tmp_path, dtype=dtype, sizes=LARGE)
    fused, plain = (merged(tmp_path / str(f), method_spec, base, experts, device=Device(fused=f)) for f in (True, False))
    assert same_bytes(fused, plain)


def test_operators_that_see_whole_tensors_see_the_numbers_of_all_pieces(tmp_path, monkeypatch):
    """The same sum as an operator for pieces and as one for whole tensors, which also sees base, shape and calibration."""
    seen = {}

    @whole
    def summed(taus, alpha, context):
        seen[context.tensor] = (context.base.shape, taus.shape, taus.dtype, [e.shape for e in context.calibration], context.depth)
        return COMBINE["weighted_sum"](taus, alpha, context)

    monkeypatch.setitem(STAGES["combine"], "summed", summed)
    models, recipe, *measured = measures(SUM, *family(tmp_path, dtype=np.dtype("f8"), sizes=LARGE))
    merge_measured(models, recipe, *measured, tmp_path / "pieces")
    summing = bind({**SUM, "combine": "summed"})
    merge_measured(models, summing, *measured, tmp_path / "whole", threads=3, calibration=dict(models.experts))
    assert same_bytes(tensors_of(tmp_path / "pieces"), tensors_of(tmp_path / "whole"))
    assert seen.keys() == {name for name in models.merged if models.base.entries[name].size}
    for name, (base, taus, dtype, kinds, depth) in seen.items():
        assert base == (models.base.shape(name) or (1,)) and taus == (3, *base) and dtype == np.float64
        assert kinds == [models.base.shape(name)] * 3
        assert (depth is not None) == (".0." in name or ".1." in name)


def test_a_model_for_each_task_is_that_of_the_named_expert(tmp_path):
    base, experts = family(tmp_path)
    for name, folders in (("straight", experts), ("backwards", dict(reversed(experts.items())))):
        models, recipe, *measured = measures(METHODS["emr"], base, folders)
        for task in "abc":
            merge_measured(models, recipe, *measured, tmp_path / name / task, task=task)
    theta = flat(tensors_of(base))
    for task in "abc":
        found = tensors_of(tmp_path / "straight" / task)
        assert same_bytes(found, tensors_of(tmp_path / "backwards" / task))
        own, made = flat(tensors_of(experts[task])) - theta, flat(found) - theta
        assert (own * made >= 0).all()
        assert 0.9 < abs(made).sum() / abs(own).sum() < 1.001, "as long as its own, but for numbers that are all masked"


def test_calibration_must_be_there_for_every_expert(tmp_path):
    models, recipe, *measured = measures(SUM, *family(tmp_path))
    with pytest.raises(UserError, match=r"calibration: none for the experts \['c'\]"):
        merge_measured(models, recipe, *measured, tmp_path / "out", calibration={e: models.experts[e] for e in "ab"})


@pytest.mark.parametrize("method", METHODS)
def test_a_single_expert_merges(method, tmp_path):
    base, experts = family(tmp_path, experts=1)
    if method.startswith("slerp"):
        with pytest.raises(UserError, match="slerp: 1 experts; expected exactly two"):
            merged(tmp_path / "out", METHODS[method], base, experts)
        return
    update = flat(merged(tmp_path / "out", METHODS[method], base, experts)) - flat(tensors_of(base))
    assert np.isfinite(update).all()
    assert update.any()


def test_nan_of_exponent_zero_is_task_arithmetic_byte_for_byte(tmp_path):
    """Law 5."""
    base, experts = family(tmp_path, experts=4)
    flattened = {"coefficients": {"nan": {"exponent": 0.0, "mean": 0.3}}}
    assert same_bytes(merged(tmp_path / "ta", SUM, base, experts), merged(tmp_path / "nan", flattened, base, experts))


def test_nan_makes_all_task_vectors_equally_long(tmp_path):
    """Law 4."""
    base, experts = family(tmp_path)
    table = bind(NAN).estimate(measure.norms(unify.unify_layout(base, experts)))
    lengths = [c * n for c, n in zip(table.rows["model"], table.norms["model"], strict=True)]
    harmonic = 3 / sum(1 / n for n in table.norms["model"])
    assert lengths == pytest.approx([0.3 * harmonic] * 3, rel=1e-12)


def test_a_longer_task_vector_turns_task_arithmetic_but_not_nan(tmp_path):
    """Law 6."""
    base = random_model(0, np.dtype(np.float64))
    origin = save(tmp_path / "base", base)
    experts = {name: moved(base, t + 1) for t, name in enumerate("abc")}
    longer = {n: base[n] + 10 * (experts["b"][n] - base[n]) if n in SHAPES else base[n] for n in base}
    folders = {name: save(tmp_path / name, model) for name, model in experts.items()}
    stretched = {**folders, "b": save(tmp_path / "stretched", longer)}

    def update(method_spec, name, experts):
        return flat(merged(tmp_path / name, method_spec, origin, experts)) - flat(base)

    straight = direction(update(NAN, "nan", folders)) @ direction(update(NAN, "nan_stretched", stretched))
    turned = direction(update(SUM, "ta", folders)) @ direction(update(SUM, "ta_stretched", stretched))
    assert straight == pytest.approx(1, abs=1e-12)
    assert turned < 0.9


def test_ties_of_one_expert_at_full_density_is_the_expert(tmp_path):
    """Law 7."""
    base, experts = family(tmp_path, experts=1, dtype=np.dtype(np.float64))
    for combine in ("disjoint_sum", "disjoint_mean"):
        ties = {"preprocess": {"trim": {"density": 1.0}}, "coefficients": {"constant": {"value": 1.0}}, "combine": combine}
        assert flat(merged(tmp_path / combine, ties, base, experts)) == pytest.approx(flat(tensors_of(experts["a"])), rel=1e-15)


@pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS)
def test_every_float_type_is_computed_wide_and_rounded_once(dtype, tmp_path):
    base, experts = family(tmp_path, dtype=dtype)
    wide = np.float64 if dtype.itemsize > 2 else np.float32
    theta, models = tensors_of(base), [tensors_of(folder) for folder in experts.values()]
    found = merged(tmp_path / "out", SUM, base, experts)
    for name in SHAPES:
        origin = theta[name].astype(wide)
        update = sum(0.3 * (model[name].astype(wide) - origin) for model in models)
        assert found[name].dtype == dtype
        assert found[name].tobytes() == (origin + update).astype(dtype).tobytes()


def test_output_has_the_layout_of_the_base(tmp_path):
    base, experts = family(tmp_path)
    sharded = save(tmp_path / "sharded", tensors_of(base), shards=3)
    single, found = merged(tmp_path / "single", SUM, base, experts), merged(tmp_path / "out", SUM, sharded, experts)
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == sorted(f.name for f in sharded.iterdir())
    assert list(found) == list(tensors_of(sharded))
    assert same_bytes(found, single)


def test_coefficients_of_other_experts_are_refused(tmp_path):
    base, experts = family(tmp_path, experts=2)
    recipe = bind(SUM)
    table = recipe.estimate(measure.norms(unify.unify_layout(base, {"a": experts["a"]})))
    with pytest.raises(UserError, match=r"coefficients are for the experts \['a'\], the merge has \['a', 'b'\]"):
        merge_measured(unify.unify_layout(base, experts), recipe, table, {}, tmp_path / "out")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_names_model_tensor_and_index(value, tmp_path, monkeypatch):
    monkeypatch.setattr(unify, "WORK_UNIT", 7)
    base, experts = family(tmp_path, experts=2)
    broken = {name: array.copy() for name, array in tensors_of(experts["b"]).items()}
    broken["encoder.layer.0.dense.weight"][2, 3] = value
    experts["b"] = save(tmp_path / "broken", broken)
    with pytest.raises(UserError, match=rf"broken: tensor 'encoder.layer.0.dense.weight' holds {value} at flat index 17"):
        merged(tmp_path / "out", SUM, base, experts)


@pytest.mark.parametrize(("dtype", "size"), [("float16", 3e4), ("float32", 3e38), ("bfloat16", 3e38)])
def test_what_leaves_the_range_of_its_type_is_an_error(dtype, size, tmp_path):
    base = random_model(0, FLOATS[dtype])
    expert = {**base, "logit_scale": np.array(size, np.float32).astype(FLOATS[dtype])}
    origin, experts = save(tmp_path / "base", base), {name: save(tmp_path / name, expert) for name in "ab"}
    table = bind(SUM).estimate({"experts": ["a", "b"], "tensors": {"logit_scale": {"task_vector": [1.0, 1.0]}}})
    recipe = bind({"coefficients": {"constant": {"value": 1.0}}})
    doubled = type(table)(table.experts, "model", {"model": [2.0, 2.0]})
    with pytest.raises(UserError, match=rf"'logit_scale' leaves the range of {dtype} at flat index 0; .*lower the coeff"):
        merge_measured(unify.unify_layout(origin, experts), recipe, doubled, {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["logit_scale", "encoder.layer.0.dense.weight"], ids=["one number", "a matrix"])
def test_a_copy_that_leaves_the_range_of_the_new_type_is_an_error(name, tmp_path):
    """An excluded tensor is converted as a merged one is: no infinity is written for a finite number."""
    start = {key: array.copy() for key, array in random_model(0, FLOATS["float32"]).items()}
    start[name].reshape(-1)[-1] = 7e4
    base = save(tmp_path / "base", start)
    models = unify.unify_layout(base, {"a": save(tmp_path / "a", random_model(1, FLOATS["float32"]))}, [f"^{re.escape(name)}$"])
    table = bind(SUM).estimate(measure.norms(models))
    index = start[name].size - 1
    request = MergeRequest(models, bind(SUM), table, dtype=FLOATS["float16"])
    with pytest.raises(
        UserError, match=rf"the copy of tensor '{name}' leaves the range of float16 at flat index {index}; .*wider"
    ):
        merge.merge(request, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_merge_that_breaks_off_leaves_nothing_or_the_old_result(tmp_path, monkeypatch):
    base, experts = family(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    read, calls = safetensors_file.SafetensorsTensor.block, []

    def fails_late(*place):
        calls.append(place)
        if len(calls) > 12:
            raise RuntimeError("the disk went away")
        return read(*place)

    models = unify.unify_layout(base, experts)
    recipe, table = bind(SUM), bind(SUM).estimate(measure.norms(models))
    monkeypatch.setattr(safetensors_file.SafetensorsTensor, "block", fails_late)
    for threads in (1, 3):
        with pytest.raises(RuntimeError):
            merge_measured(models, recipe, table, {}, tmp_path / "out", threads=threads)
        assert sorted(path.name for path in tmp_path.iterdir()) == before
    shutil.copytree(base, tmp_path / "out")
    with pytest.raises(RuntimeError), exclusive(tmp_path / "out", removable=lambda _: True):
        merge_measured(models, recipe, table, {}, tmp_path / "out")
    assert digests(tmp_path / "out") == digests(base)


# Memory: operators that see whole tensors hold those of all models; threads wait so as not to hold more than the largest.


class Counted(MemoryBudget):
    """A budget that writes down what is held."""

    def __init__(self, total):
        super().__init__(total)
        self.total, self.held, self.seen, self.lock = total, [], [], threading.Lock()

    @contextmanager
    def hold(self, size):
        with super().hold(size):
            with self.lock:
                self.held.append(size)
                self.seen.append(tuple(self.held))
            try:
                yield
            finally:
                with self.lock:
                    self.held.remove(size)


def test_threads_never_hold_more_than_the_budget():
    budget = Counted(100)
    sizes = np.random.default_rng(0).integers(1, 101, 60).tolist()

    def work(size):
        with budget.hold(size):
            time.sleep(0.001)

    parallel_map([*sizes, 100, 0], lambda: work, threads=8)
    assert len(budget.seen) == 62
    assert max(map(sum, budget.seen)) == 100
    assert max(map(len, budget.seen)) > 2, "small ones are held together"
    with budget.hold(100):
        assert budget.held == [100], "everything was given back"


def test_a_thread_that_fails_gives_back_what_it_holds():
    budget = Counted(10)

    def work(fails):
        with budget.hold(10):
            if fails:
                raise RuntimeError("no")

    for _ in range(3):
        with pytest.raises(RuntimeError):
            parallel_map([False, True, False], lambda: work, threads=2)
    with budget.hold(10):
        assert budget.held == [10]


@pytest.mark.parametrize("threads", [1, 2, 6])
def test_whole_tensors_of_all_models_are_held_one_large_or_several_small(threads, tmp_path, monkeypatch):
    budgets = []

    @whole
    def slow(taus, alpha, context):
        time.sleep(0.02)
        return COMBINE["weighted_sum"](taus, alpha, context)

    def counted(total):
        budgets.append(Counted(total))
        return budgets[-1]

    monkeypatch.setitem(STAGES["combine"], "slow", slow)
    monkeypatch.setattr(merge, "MemoryBudget", counted)
    merged(tmp_path / "out", {**SUM, "combine": "slow"}, *family(tmp_path, experts=3), threads=threads)
    (budget,) = budgets
    largest = max(np.prod(shape) for shape in SHAPES.values())
    assert budget.total == 8 * 4 * largest, "float64 of a base and three experts"
    held = sorted(sum(sizes) for sizes in budget.seen)
    assert held[-1] == budget.total
    assert len(budget.seen) == len(SHAPES) - 1, "every tensor but the empty one"
    assert max(map(len, budget.seen)) == 1 if threads == 1 else max(map(len, budget.seen)) > 1
