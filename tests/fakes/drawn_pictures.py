"""Questions on drawn pictures, and the four benchmarks of Table 3 of NAN with them, laid out as the hub's.

Two kinds of questions can be learned: the colour of a shape, as AI2D asks, and the number of bars, as MathVista asks.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import datasets
from PIL import Image, ImageDraw

from nan_merge.models.tasks.ai2d.score import prompt as ai2d_prompt
from nan_merge.models.tasks.mathvista.score import prompt as mathvista_prompt

SIDE = 32  # pixels
COLOURS = {"red": "#d02020", "green": "#20a040", "blue": "#2040d0", "black": "#101010"}
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


KINDS = {"shapes": shape, "bars": bars, "numbers": lambda rng: bars(rng, "free_form")}


def asked(row: dict[str, Any]) -> str:
    """Return the question of a row, in the prompt of its benchmark."""
    return (mathvista_prompt if "query" in row else ai2d_prompt)(row).removeprefix("<image>")


def picture(row: dict[str, Any]) -> Image.Image:
    """Return the picture of a row."""
    return row.get("decoded_image", row["image"])


def answer(row: dict[str, Any]) -> str:
    """Return what the model is taught to write: a letter, or a number."""
    if row.get("question_type") == "free_form":
        return row["answer"]
    return "ABCD"[int(row["answer"]) - ("query" in row)]


def publish(root: Path, count: int = 20) -> None:
    """Write the four benchmarks below `root`, laid out as repositories of the hub: `count` pictures in two of them."""
    rng = random.Random(9)
    shapes = [shape(rng) for _ in range(count)]
    shapes.append({**shapes[0], "question": "Has the shape which colour ?"})  # on the same picture
    counted = [bars(rng, "free_form" if number % 4 == 3 else "multi_choice") for number in range(count)]
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
