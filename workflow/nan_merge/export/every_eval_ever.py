"""A scored model as a record of Every Eval Ever (github.com/evaleval/every_eval_ever, eval.schema.json, version 0.3.0).

Its files lie as the collection has them: data/<suite>/<developer>/<model>/<uuid>.json. Answers to single examples, which it
keeps beside, are not exported.
"""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nan_merge.core.files import canonical, write_json
from nan_merge.export.scored_models import ScoredModel, ScoredTask
from nan_merge.reporting.statistics import BASE, LEVEL
from nan_merge.reporting.study import ACCURACY, CORRELATIONS, METRIC_NAMES

VERSION = "0.3.0"
LOCAL = "local"  # the developer of a model that has no name on the hub
STAGES = ("space", "preprocess", "coefficients", "control", "combine", "postprocess")


def write(model: ScoredModel, name: str, organisation: str, folder: Path) -> Path:
    """Write the record of a model, which is called `owner/name`, below a folder and return its file.

    The name of the file is a UUID of version 4 in form, and a digest of the record in content: same record, same name.
    """
    record = as_record(model, name, organisation)
    digest = hashlib.sha256(canonical(record).encode()).digest()
    file = folder / "data" / model.suite["id"] / name / f"{uuid.UUID(bytes=digest[:16], version=4)}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, record)
    return file


def name_of(model: ScoredModel) -> str:
    """Return the name of a model that was given none: the hub id of the base itself, else `local/<suite>-<method>-seed<n>`."""
    if model.method["id"] == BASE and model.suite["base"]:
        return str(model.suite["base"])
    return f"{LOCAL}/{model.suite['id']}-{model.method['id']}-seed{model.seed}"


def as_record(model: ScoredModel, name: str, organisation: str) -> dict[str, Any]:
    """Return the record. Its two times are the one when the last score was written: no other is known, and none is `now`."""
    developer, _, _ = name.partition("/")
    return {
        "schema_version": VERSION,
        "evaluation_id": f"{model.suite['id']}-seed{model.seed}/{name}/{model.time}",
        "evaluation_timestamp": str(model.time),
        "retrieved_timestamp": str(model.time),
        "source_metadata": {
            "source_name": "NAN-Merge",
            "source_type": "evaluation_run",
            "source_organization_name": organisation,
            "evaluator_relationship": _relationship(model.method),
        },
        "eval_library": _library(model),
        "model_info": {
            "name": str(model.method.get("label", model.method["id"])),
            "id": name,
            **({} if developer == LOCAL else {"developer": developer}),
            "additional_details": {
                "deployment_type": "self_deployed",
                "model_availability": "unknown",
                "suite": model.suite["id"],
                "method": model.method["id"],
                "method_spec": canonical({stage: model.method[stage] for stage in STAGES if stage in model.method}),
                "seed": str(model.seed),
                "xxh3_128": " ".join(model.digests),
                **_collection(model.suite),
            },
        },
        "evaluation_results": [_result(model, task) for task in model.tasks],
    }


def _relationship(method: Mapping[str, Any]) -> str:
    """Return who scored, as seen from the model: who merges scores here, the base is of others, experts may be of either."""
    if method.get("group") != "reference":
        return "first_party"
    return "third_party" if method["id"] == BASE else "other"


def _collection(suite: Mapping[str, Any]) -> dict[str, str]:
    return {"collection": str(suite["collection"]["id"])} if suite.get("collection") else {}


def _library(model: ScoredModel) -> dict[str, Any]:
    """Return what scored: lm_eval for benchmarks, else this project, whose version is that of its code in the provenance."""
    job = model.jobs[0]
    versions = job.get("versions", {})
    name = "lm_eval" if all(task.record["harness"] for task in model.tasks) else "nan-merge"
    details = {key: str(job[key]) for key in ("family", "dtype", "device", "batch_size") if key in job}
    return {
        "name": name,
        "version": versions.get(name, "unknown"),
        "additional_details": {**details, "versions": canonical(versions)},
    }


def _result(model: ScoredModel, task: ScoredTask) -> dict[str, Any]:
    metric, error = task.score.metric, task.score.error
    of_error, of_interval = ("analytic", "Wilson") if metric == ACCURACY else ("bootstrap", "normal")
    known = {} if math.isnan(error) else {"standard_error": {"value": error, "method": of_error}}
    limits = {"lower": task.estimate.low, "upper": task.estimate.high, "confidence_level": LEVEL, "method": of_interval}
    return {
        "evaluation_result_id": f"{task.record['id']}.{metric}",
        "evaluation_name": f"{model.suite['id']}.{task.record['id']}",
        "source_data": _source(task),
        "metric_config": {
            "evaluation_description": str(task.record["label"]),
            "metric_id": metric if metric == ACCURACY else f"nan-merge.{metric}",
            "metric_name": METRIC_NAMES.get(metric, metric),
            "metric_unit": "proportion" if metric == ACCURACY else "points",
            "lower_is_better": False,
            "score_type": "continuous",
            "min_score": -1 if metric in CORRELATIONS else 0,
            "max_score": 1,
        },
        "score_details": {
            "score": task.score.value,
            "uncertainty": {**known, "confidence_interval": limits, "num_samples": task.score.n},
        },
    }


def _source(task: ScoredTask) -> dict[str, Any]:
    data, details = task.record["data"], {"source": str(task.record["source"])}
    if not data:
        return {"dataset_name": str(task.record["label"]), "source_type": "other", "additional_details": details}
    more = {key: data[key] for key in ("config", "commit") if key in data}
    split = {"hf_split": data["split"]} if "split" in data else {}
    source = {"dataset_name": str(task.record["label"]), "source_type": "hf_dataset", "hf_repo": data["repo"], **split}
    return {**source, "samples_number": task.score.n, "additional_details": {**details, **more}}
