"""Retrieval: a sentence encoder embeds queries and documents, and documents are ranked for each query by their similarity."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from nan_merge.core.errors import UserError
from nan_merge.data.retrieval import Collection, read
from nan_merge.models.harness.answers import Sample
from nan_merge.models.harness.tasks import OFFLINE, Benchmark

DEPTH = 10  # ranks that count
QUERIES = 64  # that are compared with all documents at once


def load_tasks(benchmark: Benchmark, scratch: Path) -> dict[str, Collection]:
    """Return the collection of a benchmark by its id; UserError, with the task, for data of another form."""
    try:
        return {benchmark.id: read(benchmark.data, **benchmark.harness["retrieval"])}
    except UserError as error:
        raise UserError(f"{benchmark.where}: {error}") from None


def load_model(folder: Path, device: str, dtype: str, settings: Mapping[str, Any], pictures: bool = False) -> Any:
    """Load a model with its modules by sentence-transformers; UserError where it is not installed or cannot load the folder."""
    os.environ.update(OFFLINE)
    try:
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed, which retrieval needs: `make language` (the extra `language`),"
            " or run with `--sdm conda`"
        ) from None
    torch.set_num_threads(1)
    try:
        model = SentenceTransformer(
            str(folder), device=device, local_files_only=True, trust_remote_code=False, model_kwargs={"dtype": dtype}
        )
    except (OSError, ValueError, RuntimeError, LookupError, ImportError, TypeError, AttributeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[:1]
        raise UserError(f"{folder}: sentence-transformers cannot load this model: {''.join(first)}; prepare it again") from None
    return model.eval()


def run_task(model: Any, task: Collection, benchmark: Benchmark, settings: Mapping[str, Any], batch_size: int) -> list[Sample]:
    """Return one record a query: the DCG at 10 (`answer`), the best that there is (`target`), recall and ranking.

    Prompts for queries and documents and the similarity are those of the model. With `skip_same_id` a document with the id of a
    query is left out for it, as in BEIR. Raises UserError for embeddings that are not finite.
    """
    how = {"batch_size": batch_size, "convert_to_tensor": True, "show_progress_bar": False}
    queries, names = [*task.queries][: settings.get("limit")], [*task.documents]
    documents = model.encode_document([*task.documents.values()], **how)
    asked = model.encode_query([task.queries[name] for name in queries], **how)
    for kind, found in (("documents", documents), ("queries", asked)):
        if strange := int((~torch.isfinite(found)).any(dim=1).sum()):
            raise UserError(
                f"{benchmark.id}: {strange} of {len(found)} embeddings of {kind} are NaN or infinite; expected finite numbers:"
                " the model holds such numbers, or `scoring: precision:` is too narrow. Try float32, or leave this model out"
            )
    same = benchmark.harness["retrieval"].get("skip_same_id", False)
    places = {name: place for place, name in enumerate(names)}
    ties = np.empty(len(names), np.int64)  # trec_eval puts the greater id first
    ties[sorted(range(len(names)), key=names.__getitem__, reverse=True)] = np.arange(len(names))
    samples = []
    for first in range(0, len(queries), QUERIES):
        block = model.similarity(asked[first : first + QUERIES], documents).float().cpu().numpy()
        for number, (query, scores) in enumerate(zip(queries[first : first + QUERIES], block, strict=True), first):
            if same and query in places:
                scores[places[query]] = -np.inf
            ranking = [(names[place], float(scores[place])) for place in ranked(scores, ties) if np.isfinite(scores[place])]
            samples.append({"task": benchmark.id, "doc_id": number, "query": query, **measured(ranking, task.judged[query])})
    return samples


def ranked(scores: NDArray, ties: NDArray, depth: int = DEPTH) -> NDArray:
    """Return the places of the `depth` highest of the scores (N,), the highest first; of equals the one with the lower `ties`."""
    depth = min(depth, len(scores))
    least = np.partition(scores, -depth)[-depth]
    among = np.flatnonzero(scores >= least)
    return among[np.lexsort((ties[among], -scores[among]))][:depth]


def measured(ranking: Sequence[tuple[str, float]], judged: Mapping[str, int]) -> dict[str, Any]:
    """Return the DCG of a ranking, that of the best one, and the recall, of the documents `judged` for a query.

    DCG = sum over ranks i of score_i / log2(i + 1), with the scores of the judgements as gains, not 2^score - 1 (Järvelin and
    Kekäläinen 2002; trec_eval, `ndcg_cut`). Recall is the share of all documents with a score above 0 that are in the ranking.
    """
    gains = [max(0, judged.get(name, 0)) for name, _ in ranking]
    best = sorted((score for score in judged.values() if score > 0), reverse=True)
    attained, ideal = (_dcg(each[:DEPTH]) for each in (gains, best))
    recall = sum(gain > 0 for gain in gains) / len(best)
    return {"target": repr(ideal), "answer": repr(attained), "recall": recall, "output": [list(each) for each in ranking]}


def _dcg(gains: Sequence[int]) -> float:
    return float(sum(gain / np.log2(rank + 1) for rank, gain in enumerate(gains, 1)))


def more_scores(benchmark: Benchmark, samples: Iterable[Sample]) -> list[dict[str, Any]]:
    """Return the mean recall at 10 over the queries, with its standard error."""
    recalls = np.array([sample["recall"] for sample in samples])
    error = float(recalls.std(ddof=1) / np.sqrt(len(recalls))) if len(recalls) > 1 else 0.0
    return [{"metric": f"recall_at_{DEPTH}", "value": float(recalls.mean()), "stderr": error}]


def identity(benchmark: Benchmark) -> dict[str, Any]:
    """Return what answers depend on besides model, data and settings: how to retrieve, and the version of the library."""
    return {"retrieval": benchmark.harness["retrieval"], "sentence_transformers": version("sentence-transformers")}
