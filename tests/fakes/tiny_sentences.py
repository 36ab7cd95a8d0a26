"""Sentence encoders of the library sentence-transformers in small, and data of retrieval in the layout of BEIR.

models/tiny/sentences           the base: BERT of two layers, pooling, a dense layer, normalisation
models/tiny/sentences_<name>    experts, trained on pairs of queries and documents
datasets/tiny/<task>            corpus.jsonl, queries.jsonl, qrels/test.jsonl
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
SIDES = ("ask", "tell")  # a word of a query, and the word of a document that means the same: ask7, tell7
MEANINGS = 60
WORDS = [f"{side}{number}" for side in SIDES for number in range(MEANINGS)] + ["title", "the", "of"]


def tokenizer() -> Any:
    """Return a tokenizer of words between `[CLS]` and `[SEP]`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: at for at, word in enumerate([*SPECIAL, *WORDS])}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", model_max_length=32
    )


def network(folder: Path, seed: int = 0) -> Path:
    """Save a random BERT of two layers with its tokenizer, as a folder of transformers."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.2,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def encoder(folder: Path, pooling: str = "mean", dense: int | None = 24, seed: int = 0) -> Any:
    """Return a model of the library around the network of a folder: pooling, a dense layer of so many outputs, normalisation."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    torch.manual_seed(seed)
    parts: list[Any] = [Transformer(str(folder)), Pooling(32, pooling_mode=pooling)]
    parts += [Dense(32, dense)] if dense else []
    return SentenceTransformer(modules=[*parts, Normalize()], device="cpu")


def collection(folder: Path, seed: int, documents: int = 80, queries: int = 40, two_grades: bool = False) -> Path:
    """Write documents of twelve words, and queries for six meanings of one; with `two_grades` another has four of these."""
    draw = torch.Generator().manual_seed(seed)
    meanings = [torch.randperm(MEANINGS, generator=draw)[:12].tolist() for _ in range(documents)]
    for at in range(queries if two_grades else 0):
        meanings[at + queries][:4] = meanings[at][:4]
    (folder / "qrels").mkdir(parents=True)
    texts = [{"_id": f"d{at}", "title": "title" if at % 3 else "", "text": _text("tell", of)} for at, of in enumerate(meanings)]
    asked, judged = [], []
    for at in range(queries):
        asked.append({"_id": f"q{at}", "text": _text("ask", meanings[at][:6])})
        judged.append({"query-id": f"q{at}", "corpus-id": f"d{at}", "score": 2.0 if two_grades else 1})
        judged += [{"query-id": f"q{at}", "corpus-id": f"d{at + queries}", "score": 1.0}] if two_grades else []
        judged += [{"query-id": f"q{at}", "corpus-id": f"d{(at + 1) % documents}", "score": 0}]
    asked.append({"_id": "other", "text": "of another split"})
    for name, rows in {"corpus.jsonl": texts, "queries.jsonl": asked, "qrels/test.jsonl": judged}.items():
        lines(folder / name, rows)
    return folder


def lines(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as lines of JSON."""
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def train(model: Any, meanings: range, steps: int = 100, seed: int = 0) -> Any:
    """Fine-tune a copy to bring queries of some meanings to documents of the same, by the other pairs of the batch."""
    torch.set_num_threads(1)
    model = copy.deepcopy(model)
    draw = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(steps):
        drawn = [[meanings[int(i)] for i in torch.randperm(len(meanings), generator=draw)[:6]] for _ in range(16)]
        one, two = (_embedded(model, [_text(side, of) for of in drawn]) for side in SIDES)
        optimiser.zero_grad()
        cross_entropy(20 * one @ two.T, torch.arange(16)).backward()
        optimiser.step()
    return model.eval()


def _text(side: str, meanings: Sequence[int]) -> str:
    return " ".join(f"{side}{number}" for number in meanings)


def _embedded(model: Any, texts: Sequence[str]) -> torch.Tensor:
    return model(model.preprocess(list(texts)))["sentence_embedding"]  # type: ignore[no-any-return]


EXPERTS = {"low": range(0, 40), "high": range(20, 60)}  # the meanings that an expert was trained on


def build(root: Path, **how: Any) -> dict[str, Any]:
    """Publish base, experts and two collections below `root`; return the models by name."""
    base = encoder(network(root / "network"), **how)
    base = train(base, range(MEANINGS), steps=60, seed=9)
    found = {"base": base, **{name: train(base, meanings, seed=at) for at, (name, meanings) in enumerate(EXPERTS.items())}}
    for name, model in found.items():
        model.save_pretrained(str(root / f"models/tiny/sentences{'' if name == 'base' else f'_{name}'}"), create_model_card=False)
    collection(root / "datasets/tiny/scifact", 1)
    collection(root / "datasets/tiny/nfcorpus", 2, two_grades=True)
    return found
