"""A tiny LLaVA that was trained on drawn pictures, and the benchmarks of Table 3 of NAN in the layout of the hub's, drawn, too.

The model learns two kinds of questions: the colour of a shape, as AI2D asks, and the number of bars, as MathVista asks.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import datasets
import torch
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)  # fmt: skip

from nan_merge.models.tasks.ai2d.score import prompt as ai2d_prompt
from nan_merge.models.tasks.mathvista.score import prompt as mathvista_prompt

SIDE, PATCH = 32, 8
PLACES = (SIDE // PATCH) ** 2
COLOURS = {"red": "#d02020", "green": "#20a040", "blue": "#2040d0", "black": "#101010"}
WORDS = "Which colour has the shape ? How many bars are there letter integer A B C D 1 2 3 4 USER: ASSISTANT:"
TEMPLATE = (
    "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }}"
    "{% endif %}{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
HINT = "Hint: Please answer the question and provide the correct option {}\nQuestion: How many bars are there ?"


def shape(rng: random.Random) -> dict[str, Any]:
    """Return a row of AI2D: a coloured shape."""
    picture, colour = Image.new("RGB", (SIDE, SIDE), "white"), rng.randrange(4)
    x, y, draw = rng.randrange(12), rng.randrange(12), ImageDraw.Draw(picture)
    rng.choice([draw.ellipse, draw.rectangle])([x, y, x + 18, y + 18], fill=[*COLOURS.values()][colour])
    return {"question": "Which colour has the shape ?", "options": [*COLOURS], "answer": str(colour), "image": picture}


def bars(rng: random.Random, kind: str = "multi_choice") -> dict[str, Any]:
    """Return a row of MathVista: bars to count, by an option or as a number."""
    picture, number = Image.new("RGB", (SIDE, SIDE), "white"), rng.randrange(1, 5)
    draw = ImageDraw.Draw(picture)
    for place in rng.sample(range(4), number):
        draw.rectangle([place * 8 + 1, SIDE - rng.randrange(18, 30), place * 8 + 6, SIDE - 1], fill="#404080")
    free = kind == "free_form"
    query = HINT.format("integer" if free else "letter") + ("" if free else "\nChoices:\n(A) 1\n(B) 2\n(C) 3\n(D) 4")
    return {
        "question": "How many bars are there ?", "image": "images/1.jpg", "decoded_image": picture,
        "choices": None if free else ["1", "2", "3", "4"], "unit": None, "precision": None, "answer": str(number),
        "question_type": kind, "answer_type": "integer" if free else "text", "metadata": {"source": "drawn"}, "query": query,
    }  # fmt: skip


def processor() -> LlavaProcessor:
    """Return a processor of whole words, pictures of SIDE pixels and a chat template."""
    words = ["<unk>", "<s>", "</s>", "<image>", *dict.fromkeys(WORDS.split())]
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, additional_special_tokens=["<image>"], **special)
    pictures = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    given = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return LlavaProcessor(pictures, tokenizer, chat_template=TEMPLATE, **given)


def untrained(words: int) -> LlavaForConditionalGeneration:
    """Return a LLaVA of 0.6 million parameters."""
    vision = CLIPVisionConfig(hidden_size=96, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4, image_size=SIDE,
                              patch_size=PATCH)  # fmt: skip
    text = LlamaConfig(hidden_size=96, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4, vocab_size=words,
                       max_position_embeddings=2048, bos_token_id=1, eos_token_id=2, pad_token_id=0)  # fmt: skip
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=3, image_seq_length=PLACES)
    )


def train(model: Any, made: LlavaProcessor, steps: int = 60, rate: float = 1e-3) -> None:
    """Train on both kinds of questions, with the loss on the answer and the end only."""
    rng, optimiser = random.Random(1), torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    model.train()
    for _ in range(steps):
        rows = [rng.choice([shape, bars, lambda rng: bars(rng, "free_form")])(rng) for _ in range(24)]
        texts = [f"{asked(row, made)} {answer(row)} </s>" for row in rows]
        pictures = [row.get("decoded_image", row["image"]) for row in rows]
        inputs = made(images=pictures, text=texts, return_tensors="pt", padding=True, padding_side="left")
        labels = inputs["input_ids"].clone()
        labels[:, :-2] = -100
        model(**inputs, labels=labels).loss.backward()
        optimiser.step(), schedule.step(), optimiser.zero_grad()
    model.eval()


def asked(row: dict[str, Any], made: LlavaProcessor) -> str:
    """Return the prompt of a row in the chat template."""
    text = (mathvista_prompt if "query" in row else ai2d_prompt)(row).removeprefix("<image>")
    content = [{"type": "image"}, {"type": "text", "text": text}]
    return made.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def answer(row: dict[str, Any]) -> str:
    """Return what the model is taught to write: a letter, or a number."""
    if row.get("question_type") == "free_form":
        return row["answer"]
    return "ABCD"[int(row["answer"]) - ("query" in row)]


def publish_model(folder: Path) -> None:
    """Train a model and write it with its processor."""
    torch.manual_seed(0)
    made = processor()
    model = untrained(len(made.tokenizer))
    train(model, made)
    model.save_pretrained(folder)
    made.save_pretrained(folder)


def publish_data(root: Path) -> None:
    """Write the four benchmarks below `root`, laid out as repositories of the hub."""
    rng = random.Random(9)
    shapes = [shape(rng) for _ in range(20)]
    shapes.append({**shapes[0], "question": "Has the shape which colour ?"})  # on the same picture
    counted = [bars(rng, "free_form" if number % 4 == 3 else "multi_choice") for number in range(20)]
    _parquet(root / "ai2d/data/test-00000-of-00001.parquet", shapes, "image")
    rows = [{"pid": str(number + 1), **row} for number, row in enumerate(counted)]
    _parquet(root / "mathvista/data/testmini-00000-of-00001-725687bf7a18d64b.parquet", rows, "decoded_image")
    _parquet(root / "wemath/data/testmini-00000-of-00001-adbfe22dcd3558e6.parquet", problems(rng), "image_path")
    _geoqa(root / "geoqa", [shape(rng) for _ in range(6)])


def problems(rng: random.Random) -> list[dict[str, Any]]:
    """Return rows of We-Math: two problems of two steps, and one of three."""
    rows = []
    for name, steps in (("1", 2), ("2", 2), ("1", 3)):
        for step in (*map(str, range(1, steps + 1)), "multi"):
            row = shape(rng)
            rows.append({
                "ID": name, "split": "testmini", "knowledge concept": "Colours", "question": row["question"],
                "option": "A. red; B. green; C. blue; D. black", "answer": answer(row), "image_path": row["image"],
                "key": f"{steps}steps_{step}", "question number": step, "knowledge concept description": "",
            })  # fmt: skip
    return rows


def _geoqa(folder: Path, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True)
    head = "\nFirst perform reasoning, then finally select the question from the choices in the following format: Answer: xxx."
    options = "\n".join(f"{letter}:{colour}" for letter, colour in zip("ABCD", COLOURS, strict=True))
    with ZipFile(folder / "images.zip", "w") as archive:
        for number, row in enumerate(rows):
            row["image"].save(folder / "picture.png")
            archive.write(folder / "picture.png", f"images/test/{number}.png")
    (folder / "picture.png").unlink()
    questions = [
        {"question_id": n, "image": f"test/{n}.png", "text": f"{head}\nQuestion:{row['question']}\nChoices:\n{options}"}
        for n, row in enumerate(rows)
    ]
    answers = [{"question_id": number, "text": answer(row)} for number, row in enumerate(rows)]
    for name, lines in (("test_questions", questions), ("test_answers", answers)):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def _parquet(file: Path, rows: list[dict[str, Any]], picture: str) -> None:
    file.parent.mkdir(parents=True)
    datasets.Dataset.from_list(rows).cast_column(picture, datasets.Image()).to_parquet(str(file))
