"""Write the report: one self-contained HTML file. Checks come from `checks`, numbers from `statistics`."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from nan_merge.core.atomic import atomic_write
from nan_merge.core.errors import UserError
from nan_merge.core.escape import visible
from nan_merge.core.files import read_json
from nan_merge.core.versions import recorded_versions
from nan_merge.reporting.answer import NAN_GROUPS, answer, question
from nan_merge.reporting.checks import checks
from nan_merge.reporting.compare_view import comparison_data, pairs_csv
from nan_merge.reporting.examples import ROOM, examples_of, read_examples
from nan_merge.reporting.finding import UNTESTABLE
from nan_merge.reporting.formats import count, number_of
from nan_merge.reporting.page_files import download, downloads, figure_of, table_of
from nan_merge.reporting.paired_difference import FLIPS, RESAMPLES
from nan_merge.reporting.paired_tests import read_answers
from nan_merge.reporting.pairs import all_pairs, are_all, standings
from nan_merge.reporting.paper_claims import as_checks
from nan_merge.reporting.recipe import recipe
from nan_merge.reporting.results_view import chart, results
from nan_merge.reporting.statistics import POWER, best_merge
from nan_merge.reporting.study import ACCURACY, Study
from nan_merge.reporting.table_parts import owner_notes

FOLDER = Path(__file__).parent
ARXIV = re.compile(r"\d{4}\.\d{4,5}(, \d{4}\.\d{4,5})*")


def write_report(
    studies: Sequence[Study],
    methods: Sequence[dict[str, Any]],
    tables: Sequence[Path | str],
    figures: Sequence[Path | str],
    provenance: dict[str, Any],
    output: Path | str,
    published: Sequence[Path | str] = (),
    predictions: Sequence[Path | str] = (),
    examples: Sequence[Path | str] = (),
    data: Sequence[Path | str] = (),
    claims: dict[str, Any] | None = None,
) -> None:
    """Write all suites as one page, with a section for each study.

    `tables` and `figures` are files named `..._{suite}.md` and `..._{suite}.svg`; `published` are printed tables (.md) with
    the measured numbers of all suites. `predictions` are score files with .npz files beside them; without them no two methods are
    compared, and no versions of packages are known. `examples` are test examples, a file a suite, and `data` tables
    to download. `claims` of papers are config/claims.yaml with the contrasts of the run.
    """
    shown = {suffix: _by_suite(studies, files, suffix) for suffix, files in ((".md", tables), (".svg", figures))}
    answers, given = read_answers(predictions)[0], read_examples(examples)
    sections = [
        {
            **_measured(study, answers, given.get(study.suite["id"], {}), ROOM // len(studies)),
            "checks": checks(study),
            "merges": best_merge(study)[1],
            "choices": study.choices(),
            "owner_notes": owner_notes(study),
            "figures": [figure_of(file) for file in shown[".svg"][study.suite["id"]]],
            "tables": [table_of(file) for file in shown[".md"][study.suite["id"]]],
        }
        for study in studies
    ]
    script = Markup((FOLDER / "report.js").read_text(encoding="utf-8"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    page = environment.get_template("report.html.j2").render(
        style=Markup((FOLDER / "report.css").read_text(encoding="utf-8")),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        question=question(any(method.get("group") in NAN_GROUPS for method in methods)),
        sections=sections,
        claims=as_checks(studies, claims) if claims else [],
        untestable=UNTESTABLE,
        published=[table_of(Path(file)) for file in published],
        data=downloads([Path(file) for file in data]),
        downloads=downloads,
        recipe=recipe,
        methods=methods,
        ids={method["id"] for method in methods},
        learned=_learned(studies),
        provenance={"versions": recorded_versions(map(read_json, predictions)), **provenance},
        arxiv=ARXIV.fullmatch,
        count=count,
        number_of=number_of,
        flips=FLIPS,
        resamples=RESAMPLES,
        power=POWER,
        leaves=_leaves,
        grouped=any(study.grouped for study in studies),
        sampled=any(study.samples_seeds for study in studies),
        generated=any(study.generated for study in studies),
        others=any(study.measure != ACCURACY for study in studies),
    )
    with atomic_write(Path(output)) as part:
        part.write_text(page, encoding="utf-8")


def _measured(study: Study, answers: dict, examples: dict[str, Any], room: int) -> dict[str, Any]:
    """Return what the section of a suite shows of its numbers, `room` characters of examples among it."""
    standing, pairs = standings(study, answers), all_pairs(study, answers)
    given = examples_of(study, answers, examples, room)
    data = json.dumps(comparison_data(study, pairs, given), ensure_ascii=False, separators=(",", ":"))
    return {
        "study": study,
        "title": study.suite.get("label") or study.suite["id"],
        "standings": standing,
        "answer": answer(study, standing),
        "results": results(study, standing),
        "chart": chart(study, standing),
        "pairs": pairs,
        "every_pair": are_all(study),
        "examples": given,
        "data": Markup(data.replace("<", "\\u003c")),
        "pairs_csv": download(f"pairs_{study.suite['id']}.csv", pairs_csv(study, pairs)),
    }


def _shown(value: Any) -> Any:
    """Return what a page can hold of a text; markup is made from such texts already."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _learned(studies: Sequence[Study]) -> list[str]:
    """Return the labels of the methods that used test inputs without their labels, in any suite."""
    used = [method for study in studies for method in study.methods if "skipped" not in method]
    return list(dict.fromkeys(m.get("label", m["id"]) for m in used if "unlabelled test" in m.get("data", "")))


def _by_suite(studies: Sequence[Study], files: Sequence[Path | str], suffix: str) -> dict[str, list[Path]]:
    names = sorted((study.suite["id"] for study in studies), key=len, reverse=True)
    found: dict[str, list[Path]] = {name: [] for name in names}
    for file in map(Path, files):
        suite = next((name for name in names if file.stem.endswith(f"_{name}")), None)
        if suite is None:
            raise UserError(f"{file}: belongs to no suite of the report; expected a name that ends in one of {names}")
        if file.suffix == suffix:
            found[suite].append(file)
    return found


def _leaves(value: Any, path: str = "") -> list[tuple[str, str]]:
    """Return a nested record as pairs of dotted name and text, in its order."""
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, f"{path}.{key}" if path else str(key))]
    if isinstance(value, list) and all(isinstance(inner, dict) and "id" in inner for inner in value):
        return [
            (f"{path}.{inner['id']}", "; ".join(f"{key} {of}" for key, of in inner.items() if key != "id" and of))
            for inner in value
        ]
    if isinstance(value, list):
        return [(path, ", ".join(map(str, value)))]
    return [(path, str(value))]
