"""Build the tiny project: the real Snakefile, rules and scripts on a suite so small that it runs in a minute.

Three learnable text tasks and a two-layer BERT with random weights, delivered as archives of kind `path` and locked
by the project's own command. No code of the workflow is changed; only files of `config/` differ.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[2]
CODE = ("Snakefile", "workflow", "scripts", "config", "envs", "profiles")  # all that a run reads
METHODS = ["pretrained", "individual", "weight_averaging", "task_arithmetic", "task_arithmetic_tuned", "ties",
           "task_arithmetic+nan_delta", "ties+nan_delta", "task_arithmetic+nan_delta+uniform",
           "task_arithmetic+nan_delta+permuted", "dare"]  # fmt: skip
UNIFORM, PERMUTED = METHODS[-3:-1]
DRAWS = [f"{PERMUTED}_1", f"{PERMUTED}_2"]
RUN = [name for method in METHODS for name in (DRAWS if method == PERMUTED else [method])]  # what METHODS stand for
GRID = [0.3, 0.6]
WORDS = {
    "fruit": {"apple": "apple orchard crisp cider", "banana": "banana yellow peel tropic", "cherry": "cherry red stone pie"},
    "weather": {"negative": "storm hail fog gloom", "positive": "sun warm calm bright"},
    "tools": {"hammer": "hammer nail hit iron", "brush": "brush paint hair coat"},
}
FILLER = ["the", "a", "of", "and", "with", "near", "some", "that", "this", "then", "very", "one", "more", "day", "long", "small"]
TASKS = list(WORDS)
SUITE: dict[str, Any] = {
    "label": "Tiny BERT", "family": "text_encoder", "base": "tiny_bert", "text_tower": "tiny_bert",
    "input": {"tokenizer": "tiny_bert", "length": 12}, "tasks": TASKS,
    "groups": {"all": list(TASKS)},
    "merge": {"exclude": [r"^embeddings\."]},
    "finetune": {"learning_rate": 0.002, "steps": 40, "batch_size": 8, "logit_scale": 10.0, "weight_decay": 0.01,
                 "frozen": [r"^embeddings\."]},
    "premise": {"task": "fruit", "sizes": [16, 64], "steps": 6, "epochs": 1},
}  # fmt: skip
BERT = {"model_type": "bert", "hidden_act": "gelu", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64, "max_position_embeddings": 64, "type_vocab_size": 2, "layer_norm_eps": 1e-12}  # fmt: skip


def build(project: Path) -> Path:
    """Make the project folder with its archives, its config and its lock; nothing is run yet."""
    copy_code(project)
    _write_archives(project / "archives")
    write_yaml(project / "config/assets.yaml", {
        "tiny_bert": {"kind": "path", "path": "archives/tiny_bert.tar", "licence": "none", "source": "random numbers"},
        "tiny_texts": {"kind": "path", "path": "archives/tiny_texts.tar", "root": "texts", "licence": "none",
                       "source": "drawn words"},
    })  # fmt: skip
    for suite in (project / "config/suites").glob("*.yaml"):
        suite.unlink()
    write_yaml(project / "config/suites/tiny.yaml", SUITE)
    write_yaml(project / "config/tasks.yaml", {task: _task(task) for task in TASKS})
    write_yaml(project / "config/config.yaml", {
        "suites": ["tiny"], "seeds": [0], "methods": METHODS,
        "tables": shown("tables"), "figures": shown("figures"),
    })  # fmt: skip
    edit_yaml(project / "config/methods.yaml", lambda methods: methods["task_arithmetic_tuned"]["tune"].update(grid=GRID))
    edit_yaml(project / "config/variants.yaml", _few_draws)
    lock(project)
    return project


def shown(kind: str) -> list[str]:
    """Return tables or figures that are made from every kind of file there is, but those of subsets of the experts."""
    found: dict[str, list[str]] = {}
    for name, record in read_yaml(ROOT / "config/tables.yaml")[kind].items():
        if record["kind"] != "subsets" and not {*record["inputs"]} <= {file for files in found.values() for file in files}:
            found[name] = record["inputs"]
    return list(found)


def copy_code(project: Path) -> Path:
    """Copy of the checkout all that a run reads, and nothing that a run made."""
    project.mkdir(parents=True)
    for name in CODE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, project / name)
    return project


def lock(project: Path, *assets: str) -> None:
    """Write config/assets.lock.json with the project's own command; without names, all assets."""
    if not assets:
        (project / "config/assets.lock.json").write_text("{}\n")
    path = os.pathsep.join([str(project / "workflow"), str(project)])
    subprocess.run([sys.executable, "-m", "scripts.update_lock", *(assets or ["--all"])], cwd=project, check=True,
                   capture_output=True, env={**os.environ, "PYTHONPATH": path})  # fmt: skip


def read_yaml(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def write_yaml(file: Path, value: Any) -> None:
    file.write_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), encoding="utf-8")


def edit_yaml(file: Path, change: Callable[[Any], Any]) -> None:
    """Read a config file, change the value in place, write it back."""
    value = read_yaml(file)
    change(value)
    write_yaml(file, value)


def _few_draws(variants: Any) -> None:
    variants["permuted"]["draws"] = len(DRAWS)
    variants["nan_delta"]["coefficients"]["nan"]["exponent"] = 1.0  # the default, said aloud


def _task(task: str) -> dict[str, Any]:
    of_reader = {
        "fruit": ("texts.tab", {"train": "fruit-train.tab", "test": "fruit-test.tab", "label": "Kind", "text": "Text"}),
        "weather": ("texts.rated", {"file": "weather.txt"}),
        "tools": ("texts.tab", {"file": "tools.tab", "label": "Kind", "text": "Text"}),
    }
    reader, arguments = of_reader[task]
    return {
        "label": task.capitalize(), "reader": reader, "assets": ["tiny_texts"], "arguments": arguments,
        "classes": {key: words.split()[0] for key, words in WORDS[task].items()}, "prompt": "a text about {}",
        "splits": {"train": 200, "validation": 60, "test": 80}, "licence": "none", "source": "drawn words",
    }  # fmt: skip


def _write_archives(folder: Path) -> None:
    folder.mkdir()
    texts = folder / "texts"
    texts.mkdir()
    for split, size in (("train", 300), ("test", 120)):
        _write_tab(texts / f"fruit-{split}.tab", _draw("fruit", size, split))
    _write_tab(texts / "tools.tab", _draw("tools", 460, "all"))
    rated = [
        f"{i}_0\t{(1 if key == 'positive' else -1) * (0.5 + i % 3)}\t{text}\n"
        for i, (key, text) in enumerate(_draw("weather", 460, "all"))
    ]
    (texts / "weather.txt").write_text("".join(rated))
    bert = folder / "bert"
    bert.mkdir()
    _write_bert(bert)
    for name, source, inside in (("tiny_texts", texts, "texts"), ("tiny_bert", bert, "")):
        with tarfile.open(folder / f"{name}.tar", "w") as bundle:
            for file in sorted(source.iterdir()):
                bundle.add(file, f"{inside}/{file.name}".lstrip("/"), filter=_without_time)
        shutil.rmtree(source)


def _without_time(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime = 0  # the same archive, and so the same lock, each time
    return member


def _write_tab(file: Path, rows: list[tuple[str, str]]) -> None:
    header = "Kind\tText\ndiscrete\tstring\nclass\tmeta\n"
    file.write_text(header + "".join(f"{key}\t{text}\n" for key, text in rows))


def _draw(task: str, size: int, split: str) -> list[tuple[str, str]]:
    """Draw texts of filler words with one or two words of their class; now and then one of another class."""
    draw = random.Random(f"{task} {split}")
    rows = []
    for _ in range(size):
        key = draw.choice(list(WORDS[task]))
        own = draw.choices(WORDS[task][key].split(), k=2)
        other = draw.choices(WORDS[task][draw.choice(list(WORDS[task]))].split(), k=1) if draw.random() < 0.4 else []
        words = [*own, *other, *draw.choices(FILLER, k=5)]
        draw.shuffle(words)
        rows.append((key, " ".join(words)))
    return rows


def _write_bert(folder: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    own = {word for task in WORDS.values() for words in task.values() for word in words.split()}
    letters = [mark + chr(97 + i) for mark in ("", "##") for i in range(26)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *sorted(own | {*FILLER, "text", "about"} - {"a"})]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {**BERT, "vocab_size": len(vocabulary)}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    from safetensors.numpy import save_file

    save_file(random_bert(config, 0), folder / "model.safetensors", {"format": "pt"})


def random_bert(config: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    """Return the tensors of a BERT encoder without pooler, under Hugging Face's names."""
    draw = np.random.default_rng(seed)
    width, inner = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], width),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], width),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], width),
        "embeddings.LayerNorm.weight": (width,), "embeddings.LayerNorm.bias": (width,),
    }  # fmt: skip
    for i in range(config["num_hidden_layers"]):
        dense = {**{f"attention.self.{part}": (width, width) for part in ("query", "key", "value")},
                 "attention.output.dense": (width, width), "intermediate.dense": (inner, width),
                 "output.dense": (width, inner)}  # fmt: skip
        for name, shape in dense.items():
            shapes |= {f"encoder.layer.{i}.{name}.weight": shape, f"encoder.layer.{i}.{name}.bias": shape[:1]}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"encoder.layer.{i}.{name}.weight": (width,), f"encoder.layer.{i}.{name}.bias": (width,)}

    def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if "LayerNorm" in name or name.endswith("bias"):
            return np.full(shape, float("LayerNorm.weight" in name), np.float32)
        scale = 1.0 if "word" in name else 0.1 if "embeddings" in name else shape[-1] ** -0.5
        return (scale * draw.standard_normal(shape)).astype(np.float32)

    return {name: values(name, shape) for name, shape in shapes.items()}
