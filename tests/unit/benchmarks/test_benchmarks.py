"""The benchmarks measure what they say: memory of a process and its children, models of real shapes, ratios in a table."""

import itertools
import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from models import ROOT, merged, tensors_of

from benchmarks import cases, layers, memory, merge, methods, norms, pages, programs, scoring, shapes, tables
from benchmarks.evaluation import __main__ as evaluation
from benchmarks.evaluation import models, pictures
from benchmarks.evaluation import table as evaluations
from benchmarks.harness import measure, turn
from nan_merge.checkpoints.checkpoint import Checkpoint, write_checkpoint
from nan_merge.core.errors import UserError
from nan_merge.data.dataset import write_dataset
from nan_merge.models.families import text_encoder

MB = 1_000_000
COMPUTE_TILE = "held = b'x' * 200_000_000; time.sleep(0.6)"
SHARED = "import mmap; held = mmap.mmap(-1, 200_000_000); [held.write(b'x' * 1_000_000) for _ in range(200)]; time.sleep(0.6)"
CHILD = f'import subprocess, sys; subprocess.run([sys.executable, "-c", "import time; {COMPUTE_TILE}"])'


def python(program, output, **how):
    """Measure a line of Python that writes `output`."""
    return measure([sys.executable, "-c", f"import os, time; os.mkdir({str(output)!r}); {program}"], output, **how)


@pytest.mark.parametrize("program", [COMPUTE_TILE, SHARED, CHILD], ids=["private", "shared", "of a child"])
def test_memory_without_a_file_is_counted(program, tmp_path):
    found = python(program, tmp_path / "out")
    assert found.outcome == "ok"
    assert 200 * MB <= found.anonymous < 240 * MB
    assert found.anonymous < found.resident < found.anonymous + 60 * MB
    assert found.seconds >= found.process_seconds > 0.6
    assert found.processor_seconds > 0


def test_a_mapped_file_is_resident_but_not_anonymous(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 100 * MB)
    program = f"import mmap; held = mmap.mmap(os.open({str(tmp_path / 'file')!r}, 0), 0, prot=1); sum(held[::4096])"
    found = python(f"{program}; time.sleep(0.6)", tmp_path / "out")
    assert found.resident > 100 * MB > 2 * found.anonymous


def test_the_output_is_gone_after_a_run(tmp_path):
    assert python(f"open({str(tmp_path / 'out/file')!r}, 'w').write('x')", tmp_path / "out").outcome == "ok"
    assert not (tmp_path / "out").exists()


def test_a_run_that_does_not_end_well_is_told_from_one_that_does(tmp_path):
    output = tmp_path / "out"
    assert python("print('why'); raise SystemExit(3)", output).outcome == "failed: why"
    assert python("raise SystemExit(3)", output).outcome == "failed: exit code 3"
    assert python("os.kill(os.getpid(), 9)", output).outcome == "killed"
    assert python("time.sleep(60)", output, limit=0.5).outcome == "killed (time)"


def test_the_time_of_other_programs_is_told_from_that_of_the_run(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        found = python("time.sleep(1.5)", tmp_path / "out")
    finally:
        other.kill()
        other.wait()
    assert found.processor_seconds < 0.3 < found.others


def test_no_process_is_left_behind(tmp_path):
    program = f"import subprocess; open({str(tmp_path / 'pid')!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid))"
    assert python(program, tmp_path / "out").outcome == "ok"
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not alive(pid):
            return
        time.sleep(0.05)
    raise AssertionError(f"{pid} still runs")


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_every_program_comes_first_once_in_as_many_rounds():
    rounds = [turn("abc", number) for number in range(3)]
    assert sorted(each[0] for each in rounds) == ["a", "b", "c"]
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)


@pytest.mark.parametrize("family", shapes.TINY, ids=lambda family: family.__name__)
@pytest.mark.parametrize("shard_bytes", [shapes.SHARD, 100_000])
def test_made_models_are_checkpoints_of_their_shapes(family, shard_bytes, tmp_path):
    model = shapes.TINY[family]
    base = Checkpoint(shapes.make(tmp_path / "base", model, shard_bytes=shard_bytes))
    expert = Checkpoint(shapes.make(tmp_path / "expert", model, 2, shard_bytes=shard_bytes))
    assert (len(base.shards) > 1) == (shard_bytes == 100_000)
    for checkpoint in (base, expert):
        assert {name: (entry.dtype, entry.shape) for name, entry in checkpoint.entries.items()} == {
            name: (model.dtype, shape) for name, shape in model.tensors().items()
        }
    name = max(base.names, key=lambda each: base.entries[each].size)
    weights, moved = (checkpoint.read(name).astype(np.float64) for checkpoint in (base, expert))
    assert weights.std() == pytest.approx(0.02, rel=0.05)
    assert (moved - weights).std() == pytest.approx(6e-4, rel=0.1)


@pytest.mark.parametrize("family", shapes.TINY, ids=lambda family: family.__name__)
def test_transformers_loads_every_tensor_of_a_made_model(family, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = shapes.TINY[family]
    folder = shapes.make(tmp_path / "model", model)
    auto = getattr(transformers, model.config()["architectures"][0])
    loaded, about = auto.from_pretrained(folder, output_loading_info=True)
    assert not any(about[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.num_parameters() == shapes.parameters(model)


def test_the_large_shapes_have_the_parameters_of_the_models_they_stand_for():
    assert shapes.parameters(shapes.MODELS["1B"]) == 1_100_048_384
    assert shapes.parameters(shapes.MODELS["7B"]) == 6_738_415_616
    assert shapes.parameters(shapes.MODELS["ViT-B-32"]) == 87_456_000
    assert len(shapes.MODELS["ViT-B-32"].tensors()) == 199


@pytest.mark.parametrize("size", shapes.PARTS)
def test_a_part_of_a_model_has_that_part_of_every_side_of_every_matrix(size):
    assert shapes.parameters(shapes.LLAMA_2_13B) == 13_015_864_320
    parts, whole = shapes.PARTS[size], shapes.LLAMA_2_13B.tensors()
    assert {name: tuple(parts * side for side in shape) for name, shape in shapes.MODELS[size].tensors().items()} == whole


def test_a_model_with_holes_reads_as_zeros_and_takes_no_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "TILE", 1 << 12)
    model = shapes.Llama(256, 512, 2, 4, 2, 8192)
    whole, holes = (shapes.make(tmp_path / name, model, holes=name == "holes") for name in ("whole", "holes"))
    files = [(folder / "model.safetensors").stat() for folder in (whole, holes)]
    assert files[0].st_size == files[1].st_size
    assert 512 * files[1].st_blocks < files[1].st_size / 10
    checkpoint = Checkpoint(holes)
    assert checkpoint.read(checkpoint.names[0]).astype(np.float32).any()
    assert not checkpoint.read(checkpoint.names[-1]).astype(np.float32).any()


def test_a_model_is_cut_to_the_layers_that_fit():
    model = shapes.MODELS["7B"]
    small = shapes.cut(model, 4_000_000_000)
    assert shapes.model_bytes(small) <= 4_000_000_000 < shapes.model_bytes(shapes.cut(model, 4_500_000_000))
    assert (small.hidden, small.layers) == (4096, 8)
    assert shapes.cut(model, shapes.model_bytes(model)) == model
    assert shapes.cut(model, 100) is None


@pytest.fixture
def small(monkeypatch):
    """Tiny shapes under names of their own, and no disk that must stay free."""
    monkeypatch.setitem(shapes.MODELS, "L", shapes.TINY[shapes.Llama])
    monkeypatch.setitem(shapes.MODELS, "C", shapes.TINY[shapes.Clip])
    monkeypatch.setattr(cases, "SPARE", 0)
    monkeypatch.setattr(memory, "SPARE", 0)


def test_models_are_removed_in_the_end_and_nothing_else_is(small, tmp_path):
    with pytest.raises(KeyError), cases.models("L", 2, tmp_path) as case:
        assert [file.parent.name for file in case.files] == ["base", "expert_0", "expert_1"]
        assert case.traffic == 4 * shapes.model_bytes(case.model)
        raise KeyError
    assert not case.folder.exists()
    case.folder.mkdir()
    with pytest.raises(UserError, match="is there already"), cases.models("L", 2, tmp_path):
        pass
    assert case.folder.exists()


@pytest.mark.parametrize(("layers", "left"), [(0, 0), (1, 1), (9, 2), (None, 2)])
def test_a_case_has_the_layers_that_are_asked_for(layers, left, small, tmp_path):
    with cases.models("L", 2, tmp_path, layers=layers) as case:
        names = Checkpoint(case.base).names
        assert {"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"} <= set(names)
        assert len(names) == 3 + 9 * left
        assert (case.record()["layers"], case.record()["layers_of_size"]) == (left, 2)


def test_a_disk_without_space_for_one_layer_is_said_so(small, tmp_path, monkeypatch):
    monkeypatch.setattr(cases, "SPARE", 10**15)
    with pytest.raises(UserError, match="no space for 4 models of one layer"), cases.models("L", 2, tmp_path):
        pass


def test_the_floor_writes_the_base_again(tmp_path):
    model = shapes.Llama(128, 300, 3, 4, 2, 33333)  # 17 MB a model: windows that are whole, cut, and of several shards
    folders = [shapes.make(tmp_path / name, model, n, shard_bytes=9_000_000) for n, name in ((None, "base"), (0, "a"), (1, "b"))]
    command = [sys.executable, str(ROOT / "benchmarks/floor.py"), str(tmp_path / "out"), *map(str, folders)]
    subprocess.run(command, check=True)
    for file in folders[0].glob("*.safetensors"):
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def run(program, method, seconds, outcome="ok", number=1):
    return {
        "round": number, "program": program, "method": method, "outcome": outcome, "seconds": seconds,
        "process_seconds": seconds, "processor_seconds": 2 * seconds, "anonymous": 100 * MB, "resident": 2000 * MB,
        "others": seconds / 4,
    }  # fmt: skip


FACTS = {
    "date": "2026-01-01", "processor": "P", "processors": 2, "memory_bytes": 2**34, "file_system": "ext4",
    "system": "Linux 6.1", "load": 0.0, "versions": {"python": "3.11"},
    "peers": {"mergekit": {"mergekit": "0.1.5", "torch": "2.0"}},
}  # fmt: skip


def case(size="1B", layers=22, **more):
    return {
        "size": size, "family": "LLaMA", "type": "bfloat16", "layers": layers, "layers_of_size": shapes.MODELS[size].layers,
        "parameters": 10**9, "bytes": 2 * 10**9, "bytes_of_size": 14 * 10**9, "experts": 3, "holes": False, "cold": False,
        "asked": None, "parts": shapes.PARTS.get(size, 1), "traffic": 10 * 10**9, **more,
    }  # fmt: skip


def rows(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("| ")]


def test_the_table_sets_medians_against_the_peer_and_the_floor():
    runs = [run("ours", "nan", 4.0), run("ours", "nan", 5.0), run("ours", "nan", 9.0), run("floor", "", 2.0)]
    runs += [run("mergekit", "task_arithmetic", 50.0), run("ours", "ties", 6.0), run("mergekit", "ties", 30.0, "killed (memory)")]
    table = rows(tables.merge_table({"facts": FACTS, "cases": [case(runs=runs)]}))[2:]
    assert table == [
        ["read and write", "floor", "1", "2.00", "4.00", "100", "2,000", "", "1.00", "5.00"],
        ["nan", "ours", "3", "5.00 (4.00 – 9.00)", "10.00", "100", "2,000", "0.100", "2.50", "2.00"],
        ["ties", "ours", "1", "6.00", "12.00", "100", "2,000", "", "3.00", "1.67"],
        ["ties", "mergekit", "0 of 1", "killed (memory) after 30 s", "", "100", "2,000", "", "", ""],
        ["task_arithmetic", "mergekit", "1", "50.00", "100.00", "100", "2,000", "", "25.00", "0.20"],
    ]


def test_what_other_programs_took_is_said():
    quiet = {**run("ours", "nan", 4.0), "others": 0.0}
    text = tables.merge_table({"facts": FACTS, "cases": [case(runs=[quiet, run("ours", "nan", 4.0)])]})
    assert "Other programs took 6% of the processor time that was used, at most 11% in a run." in text


def test_whole_models_are_computed_from_a_line_through_few_and_many_layers():
    quiet = {"others": 0.0}
    few = [{**run("ours", "tsv_m", 8.0), **quiet}, {**run("ours", "ace", 5.0), **quiet}, run("fusion-bench", "tsv_m", 9.0)]
    many = [{**run("ours", "tsv_m", 20.0), **quiet}, {**run("ours", "ace", 7.0), "others": 90.0}]
    many.append(run("fusion-bench", "tsv_m", 9.0, "killed (memory)"))
    few, many = case(layers=0, asked=0, runs=few), case(layers=2, asked=2, runs=many)
    both = [case(runs=[]), many, few]  # in any order, beside what was measured whole
    assert rows(layers.layers_table(both))[1:] == [
        ["---", "---", *7 * ["---:"]],
        ["tsv_m", "ours", "8.0 s", "16 s", "6.0 s", "12 s", "140 s", "280 s", "0.1"],
        ["ace", "ours", "–", "10 s", "–", "2.0 s", "–", "54 s", "0.1"],  # beside a program that took most of the processors
    ]
    assert "through the runs with 0 and with 2 layers" in layers.layers_table(both)
    assert layers.layers_table([few, case(runs=[])]) == ""


def test_a_larger_model_is_computed_from_a_part_of_it_for_methods_whose_operations_grow_with_the_cube():
    one, two = ([{**run("ours", "ace", s), "anonymous": 330 * MB}, run("floor", "", 1.0)] for s in (10.0, 11.0))
    found = rows(layers.layers_table([case("13B/4", 1, asked=1, runs=one), case("13B/4", 2, asked=2, runs=two)]))
    assert found[0][-3:] == ["13B: wall", "13B: CPU", "13B: anonymous GB"]
    assert found[2] == ["read and write", "floor", "1.0 s", "2.0 s", "0.0 s", "0.0 s", "1.0 s", "2.0 s", "", "", ""]
    assert found[3] == ["ace", "ours", "9.0 s", "18 s", "1.0 s", "2.0 s", "49 s", "98 s", "52 min", "1.7 h", "3.3"]  # 64 ×, 16 ×


RECORDED = {
    "language": lambda results: tables.merge_table(results) + layers.layers_table(results["cases"]),
    "language_13B": lambda results: tables.merge_table(results) + layers.layers_table(results["cases"]),
    "memory": memory.memory_table,
}


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_table_is_that_of_the_recorded_numbers(name):
    folder = ROOT / "benchmarks/results"
    assert RECORDED[name](json.loads((folder / f"{name}.json").read_text())) == (folder / f"{name}.md").read_text()


def test_the_page_sets_ours_beside_the_peer_and_whole_models_below_each_other():
    runs = [run("ours", "nan", 4.0), run("mergekit", "task_arithmetic", 50.0), {**run("ours", "nan", 5.0), "anonymous": 2 * MB}]
    runs.append(run("floor", "", 2.0))
    peers = {"mergekit": {"mergekit": "0.1.5", "torch": "2.0"}}
    found = rows("\n".join(pages.merges({"facts": {"peers": peers}, "cases": [case(runs=runs)]})))
    assert found[0][:1] == ["3 × 1B bfloat16"] and found[0][3] == "mergekit 0.1.5: wall s"
    assert found[2:] == [["`task_arithmetic+nan_delta`", "4.5", "100", "50.0", "100", "0.09", "2.2"]]
    few, many = ([{**run("ours", "ace", s), "others": 0.0}, run("floor", "", 1.0)] for s in (5.0, 7.0))
    both = [case(layers=0, asked=0, runs=few), case(layers=2, asked=2, runs=many)]
    assert rows("\n".join(pages.wholes({"cases": both})))[2:] == [["3 × 1B", "ace", "ours", "27 s", "54 s", "0.1"]]


def test_sizes_are_compared_by_throughput_and_what_was_cut_is_extrapolated():
    large = case("7B", 8, traffic=20 * 10**9, runs=[run("ours", "task_arithmetic", 10.0)])
    text = tables.merge_table({"facts": FACTS, "cases": [case(runs=[run("ours", "task_arithmetic", 4.0)]), large]})
    assert rows(text)[-1] == ["task_arithmetic", "ours", "2.50", "2.00 (0.80 ×)"]
    assert "7B was cut to 8 of its 32 layers" in text
    assert "3 × 14.0 GB takes 35 s" in text


def test_peers_take_part_in_the_rounds_and_for_the_models_they_know(tmp_path):
    peers = {"mergekit": tmp_path / "bin/python", "fusion-bench": tmp_path / "bin/python"}
    llama, clip = (cases.Case(size, shapes.MODELS[size], 3, tmp_path) for size in ("1B", "ViT-B-32"))
    often = merge.peer_rounds(["3", "ties=1", "dare_ties=0"])
    assert often == {**dict.fromkeys(programs.OURS, 3), "ties": 1, "dare_ties": 0}
    methods = list(programs.ELEMENTWISE)
    found = {(each.name, each.method): each.rounds for each in programs.programs(llama, methods, 5, peers, often)}
    assert found == {
        ("floor", ""): 5,
        **{("ours", method): 5 for method in methods},
        ("mergekit", "task_arithmetic"): 3,
        ("mergekit", "ties"): 1,
    }
    names = {each.name for each in programs.programs(clip, ["ties"], 5, peers, often)}
    assert names == {"floor", "ours", "fusion-bench"}
    matrices = programs.programs(llama, programs.MATRIX, 1, peers, {})
    assert [each.method for each in matrices if each.name not in ("floor", "ours")] == ["tsv_m"]
    with pytest.raises(UserError, match="--peer-rounds tie=1"):
        merge.peer_rounds(["tie=1"])


def test_benchmarks_run_and_tell_nothing_of_this_machine_s_folders(small, tmp_path, capsys):
    where = ["--folder", str(tmp_path / "models"), "--output", str(tmp_path / "results")]
    merge.main(["--size", "C", "--experts", "2", "--methods", "ties", "--rounds", "1", "--cold", *where])
    memory.main(["--sizes", "L", "--experts", "2", "--methods", "nan", *where])
    norms.main(["--size", "L", "--rounds", "2", *where])
    assert sorted(file.name for file in (tmp_path / "results").iterdir()) == [
        f"{name}.{ending}" for name, ending in itertools.product(("memory", "merge", "norms"), ("json", "md"))
    ]
    for file in (tmp_path / "results").iterdir():
        text = file.read_text()
        assert not any(str(place) in text for place in (tmp_path, ROOT, sys.prefix))
    records = [json.loads((tmp_path / f"results/{name}.json").read_text()) for name in ("merge", "memory", "norms")]
    assert [each["outcome"] for found in records[0]["cases"] for each in found["runs"]] == 2 * ["ok"]
    assert [each["outcome"] for each in records[1]["runs"]] == ["ok", "ok"]
    assert all(math.isfinite(s) for seconds in records[2]["case"]["seconds"].values() for s in seconds)
    assert list((tmp_path / "models").iterdir()) == []


def test_matrix_methods_run_on_models_cut_to_several_numbers_of_layers(small, tmp_path, capsys):
    where = ["--folder", str(tmp_path / "models"), "--output", str(tmp_path)]
    some = programs.MATRIX[:2]
    merge.main(["--size", "L", "--experts", "2", "--methods", *some, "--layers", "0", "1", "--rounds", "1", *where])
    record = json.loads((tmp_path / "merge.json").read_text())
    assert [case["layers"] for case in record["cases"]] == [0, 1]
    assert {run["outcome"] for case in record["cases"] for run in case["runs"]} == {"ok"}
    text = (tmp_path / "merge.md").read_text()
    computed = [row[0] for row in rows(text[text.index("2 × L, all layers") :])]
    assert computed == ["method", "---", "read and write", *some]


def test_what_was_measured_is_kept_when_a_benchmark_is_ended(small, tmp_path, monkeypatch, capsys):
    results = [
        measure([sys.executable, "-c", "pass"], tmp_path / "out"),
        measure([sys.executable, "-c", "pass"], tmp_path / "out"),
    ]

    def ended(program, case, **how):
        if case.size != "tiny" and not results:
            raise KeyboardInterrupt
        return results.pop() if case.size != "tiny" else measure([sys.executable, "-c", "pass"], tmp_path / "out")

    monkeypatch.setattr(merge, "run", ended)
    where = ["--folder", str(tmp_path / "models"), "--output", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        merge.main(["--size", "L", "--methods", "ties", "--layers", "0", "1", "2", "--rounds", "1", *where])
    record = json.loads((tmp_path / "merge.json").read_text())
    assert [(case["layers"], len(case["runs"])) for case in record["cases"]] == [(0, 2)]
    assert "cut to 0 of its 2 layers" in (tmp_path / "merge.md").read_text()
    assert list((tmp_path / "models").iterdir()) == []


def evaluated(program, images, seconds):
    parts = {"imports": 1.0, "loading": 2.0, "head": 3.0, "images": 4.0} if program == "fusion-bench" else {}
    return {**run(program, "", seconds), "images": images, "parts": parts}


def test_evaluations_are_set_against_the_peer_and_split_into_a_run_and_an_image():
    times = {"float32": (10.0, 40.0), "fusion-bench": (40.0, 100.0)}
    runs = [evaluated(name, images, s) for name, pair in times.items() for images, s in zip((100, 400), pair, strict=True)]
    rounds = [
        {"round": 1, "part": part, "precision": "float32", "images": 100, "wall": wall, "processor": 2 * wall}
        for part, wall in (("network", 9.5), ("encoder", 9.8), ("loop", 10.0))
    ]
    made = {"head": {"seconds": 30.0, "processor_seconds": 60.0}, "400 images": {"seconds": 40.0, "processor_seconds": 90.0}}
    how = {"facts": FACTS, "size": "ViT-B-32", "threads": 1, "batch": 64, "agreement": {"float32": "4 of 4"}}
    text = evaluations.table({**how, "loop": rounds, "runs": runs, "made": made})
    found = rows(text)
    assert ["float32", "the loop, from the mapped file to predictions", "1", "10.0", "5.0", "0.950", "0.950"] in found
    assert ["400", "float32", "1", "40.00", "80.00", "0.400", "0.400"] in found
    assert ["100", "fusion-bench", "1", "40.00", "80.00", "", ""] in found
    # 0 s and 100 ms an image against 20 s and 200 ms an image; by CPU time everything twice
    assert ["float32", "0.0", "100.0", "0.500", "0.499", "0.0", "200.0", "0.500", "0.499"] in found
    assert ["fusion-bench", "20.0", "200.0", "", "", "40.0", "400.0", "", ""] in found
    assert ["400", "1.0", "2.0", "3.0", "4.0"] in found
    assert "Data set and head of 400 images have paid after 2 evaluations in float32" in text  # 150 s, 120 s saved


def test_pictures_are_real_ones_of_the_size_they_claim_and_all_different(tmp_path):
    import datasets

    file = pictures.make(tmp_path, 5, ["a", "b"])
    found = datasets.load_dataset("parquet", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["label"] for row in found] == [0, 1, 0, 1, 0]
    assert {row["image"].size for row in found} == {pictures.SIDES}
    assert len({row["image"].tobytes() for row in found}) == 5
    assert 50_000 < file.stat().st_size / 5 < 150_000


def test_the_tokenizer_of_a_made_clip_is_openai_s(tmp_path):
    open_clip, transformers = pytest.importorskip("open_clip"), pytest.importorskip("transformers")
    tokens = transformers.CLIPTokenizer.from_pretrained(str(models.make(tmp_path, "tiny")))("a photo of the zigzagged texture.")
    expected = open_clip.tokenize("a photo of the zigzagged texture.")[0]
    assert tokens["input_ids"] == expected[: len(tokens["input_ids"])].tolist()


def test_the_benchmark_of_evaluations_runs(tmp_path, capsys):
    where = ["--folder", str(tmp_path / "models"), "--output", str(tmp_path / "results")]
    how = ["--size", "tiny", "--images", "6", "--precision", "float32", "--batch", "3", "--threads", "1"]
    evaluation.main([*how, "--rounds", "1", "--loop-rounds", "1", *where])
    text = (tmp_path / "results/evaluation.json").read_text()
    assert not any(str(place) in text for place in (tmp_path, ROOT, sys.prefix))
    record = json.loads(text)
    assert [(each["program"], each["outcome"]) for each in record["runs"]] == [("float32", "ok")]
    assert sorted(each["part"] for each in record["loop"]) == ["encoder", "loop", "network"]
    assert record["agreement"] == {"float32": "6 of 6"} and set(record["made"]) == {"model", "head", "6 images"}
    assert list((tmp_path / "models").iterdir()) == []


def test_the_benchmark_of_scoring_sets_the_loop_against_its_forward_passes(tmp_path, capsys):
    draw, config = np.random.default_rng(0), {**tiny.BERT, "vocab_size": 30, "max_position_embeddings": 10}
    with torch.device("meta"):
        shapes_of = {name: tensor.shape for name, tensor in text_encoder.Encoder(config, set()).state_dict().items()}
    weights = {name: draw.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes_of.items()}
    write_checkpoint(tmp_path / "results/checkpoints/own/pretrained", weights, config)
    for task, size in (("a", 70), ("b", 8)):
        tokens = draw.integers(1, 30, (size, 8)).astype(np.uint16)
        write_dataset(tmp_path / "results/datasets/shared" / task, {"classes": ["x"]}, {"test": (tokens, np.zeros(size, int))})
    tiny.write_yaml(tmp_path / "results/run_config.yaml", {"suites": {"own": {"family": "text_encoder", "data": "shared"}}})
    how = ["--results", str(tmp_path / "results"), "--examples", "40", "--rounds", "2", "--output", str(tmp_path / "out")]
    scoring.main(["own", *how])
    record = json.loads((tmp_path / "out/scoring.json").read_text())
    assert sorted((each["part"], each["round"], each["examples"]) for each in record["rounds"]) == [
        (part, number, 48) for part in ("forward", "loop") for number in (1, 2)
    ]
    rounds = [{"suite": "own", "examples": 10, "round": n, "part": part, "wall": wall, "processor": 1.0}
              for part, wall in (("forward", 0.9), ("loop", 1.0)) for n in (1, 2)]  # fmt: skip
    assert rows("\n".join(pages.TABLES["scoring"]({"rounds": rounds})))[2] == ["own", "10", "11.1", "10.0", "0.900", "1.000"]
    with pytest.raises(UserError, match="no prepared tasks of the suite 'other'; run it first"):
        scoring.main(["other", *how])


def test_the_benchmark_of_methods_names_the_slowest_and_what_failed(tmp_path, capsys):
    for number, name in enumerate(["pretrained", "seed0/a", "seed0/b", "seed0/c", "seed0/multitask"]):
        shapes.make(tmp_path / name, shapes.TINY[shapes.Llama], number)
    where = ["--models", str(tmp_path), "--output", str(tmp_path / "results")]
    methods.main([*where, "--methods", "weight_averaging", "slerp"])
    runs = {run["method"]: run for run in json.loads((tmp_path / "results/methods.json").read_text())["runs"]}
    assert runs["weight_averaging"]["outcome"] == "ok" and "slerp merges 2 experts, here are 3" in runs["slerp"]["outcome"]
    table = (tmp_path / "results/methods.md").read_text()
    slowest = max(runs.values(), key=lambda run: run["processor_seconds"])["method"]
    assert f"The slowest is `{slowest}`" in table and "3 experts" in table
    assert {"slerp", "nearswap"} - set(methods.without_data(3)) == {"slerp"} <= set(methods.without_data(2))
    with pytest.raises(UserError, match=r"no experts in seed0; run `make demo` first"):
        methods.main(["--models", str(tmp_path / "seed0"), "--output", str(tmp_path / "results")])


def test_operators_on_matrices_are_compared_with_the_formulas(tmp_path, monkeypatch, capsys):
    matrices = pytest.importorskip("benchmarks.matrices")
    monkeypatch.setitem(shapes.MODELS, "small", shapes.Llama(16, 24, 1, 2, 1, 40))
    matrices.main(["--size", "small", "--rounds", "1", "--output", str(tmp_path)])
    record = json.loads((tmp_path / "matrices.json").read_text())
    assert {tuple(each["shape"]): each["count"] for each in record["shapes"]} == {
        (40, 16): 2, (16, 24): 1, (24, 16): 2, (8, 16): 2, (16, 16): 2
    }  # fmt: skip
    for each in record["shapes"]:
        assert each["methods"].keys() == {"tsv_m", "iso_c", "cart", "actmat", "ace"}
        assert all(cell["differences"].keys() == {"ours float32", "torch"} for cell in each["methods"].values())
        assert all(error < 1e-2 for cell in each["methods"].values() for error in cell["differences"].values()), each
    assert "| `ace` |" in capsys.readouterr().out


def test_the_steps_for_a_gpu_run_on_the_host_and_their_parts_add_up(small, tmp_path, capsys):
    pytest.importorskip("lm_eval")
    from benchmarks import gpu

    where = ["--folder", str(tmp_path / "models"), "--output", str(tmp_path)]
    some = ["--models", "L=2/1", "--methods", "task_arithmetic", "iso_c", "karcher_of_none"]
    gpu.main(["--device", "torch", *some, "--scoring", "language", "images", "--clip", "tiny", "--examples", "40", *where])
    record = json.loads((tmp_path / "gpu.json").read_text())
    (case,) = record["cases"]
    runs = {run["method"]: run for run in case["runs"]}
    assert "unknown" in runs["karcher_of_none"]["error"] and runs["iso_c"].keys() == {"method", "device", "parts", "plain"}
    for name in ("task_arithmetic", "iso_c"):
        assert runs[name]["parts"].keys() == set(gpu.PARTS) and all(seconds > 0 for seconds in runs[name]["parts"].values())
    assert {(each["model"], each["precision"], each["part"]) for each in record["scoring"]} == {
        (model, precision, part)
        for part in ("forward", "loop")
        for model, precision in (("LLaMA shape, L", "bfloat16"), ("CLIP tiny", "float32"), ("CLIP tiny", "bfloat16"))
    }
    assert record["left"] == [] and "torch on the host" in (tmp_path / "gpu.md").read_text()
    gpu.main(["--device", "torch", *some, "--minutes", "0", *where])
    assert json.loads((tmp_path / "gpu.json").read_text())["left"] == [
        *(f"{method} on 2 × L" for method in some[3:]), "scoring of images", "scoring of language"
    ]  # fmt: skip
    assert list((tmp_path / "models").iterdir()) == []


def test_the_plain_loop_on_a_device_merges_as_ours(small, tmp_path):
    pytest.importorskip("lm_eval")
    from benchmarks import gpu

    with cases.models("L", 2, tmp_path) as case:
        gpu.plain_loop(case, "iso_c", "torch")
        plain = tensors_of(case.output)
        shutil.rmtree(case.output)
        ours = merged(case.output, {"coefficients": {"constant": {"value": 1.0}}, "combine": "iso_c"}, case.base,
                      {folder.name: folder for folder in case.experts})  # fmt: skip
    for name, value in ours.items():
        assert np.allclose(plain[name].astype(float), value.astype(float), rtol=1e-2, atol=1e-4), name
