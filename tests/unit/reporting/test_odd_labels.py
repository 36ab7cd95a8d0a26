"""Labels of any characters come out of tables, figures and the report as they were, or as visible escapes."""

import csv
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from nan_merge.reporting.figures import draw_figure
from nan_merge.reporting.formats import BREAK, Table, write
from nan_merge.reporting.page_files import figure_of, table_of
from nan_merge.reporting.report import write_report
from nan_merge.reporting.statistics import INDIVIDUAL
from nan_merge.reporting.study import Score, Study

LABELS = {
    "a formula": r"$\frac{1}$",
    "a lone dollar": "5 $ and \\$6",
    "two dollars": "a $x_ b$ c",
    "a reference": r"\1 \g<0> \d",
    "a backslash": "a\\",
    "a backslash and a bar": "a\\|b",
    "a carriage return": "a\rb",
    "lines of Windows": "a\r\nb",
    "a line separator": "a\u2028b\u2029c\x85d\x0be\x0cf",
    "a control character": "a\x1b[31mb\x00c",
    "half a character": "a\udcfcb",
    "a direction": "a\u202eb",
    "HTML": "<script>alert(1)</script> & </svg> ]]>",
    "an entity": "&lt;b&gt; &#60;",
    "quotes": "\"a\" 'b'",
    "a link": "[x](javascript:alert(1)) ![y](z)",
    "Markdown": "**a** _b_ `c` ~~d~~ | e",
    "LaTeX": r"\input{/etc/passwd} 50 % #1 & {x}~^",
}


def text_of(html):
    return ElementTree.fromstring(f"<p>{html}</p>").itertext()


def study(label):
    tasks = [{"id": name, "label": f"{label} {name}", "train": 10} for name in ("one", "two")]
    methods = [{"id": name, "label": f"{label} {name}", "group": "host"} for name in ("averaging", INDIVIDUAL)]
    scores = [Score("toy", m["id"], t["id"], "accuracy", 0.5, 100, 0) for m in methods for t in tasks]
    return Study({"id": "toy", "label": label, "tasks": tasks, "seeds": [0]}, methods, scores)


def predictions(made, folder):
    """Score files of a study with answers that differ between its methods."""
    for index, method in enumerate(made.methods):
        rows = [score._asdict() for score in made.scores if score.method == method["id"]]
        (folder / f"{index}.json").write_text(json.dumps({"scores": rows}), encoding="utf-8")
        right = np.arange(100) % 2
        parts = {"prediction": np.full(100, index), "label": right}
        np.savez(folder / f"{index}.npz", **{f"{row['task']}.{name}": values for row in rows for name, values in parts.items()})
    return sorted(folder.glob("*.json"))


def shown(label):
    """The label as lines, with the characters escaped that no output can hold."""
    lines = re.split("\r\n|[\r\n\x0b\x0c\x85\u2028\u2029]", label)
    odd = {"\x1b": r"\x1b", "\x00": r"\x00", "\udcfc": r"\udcfc", "\u202e": r"\u202e"}
    return ["".join(odd.get(character, character) for character in line) for line in lines]


@pytest.mark.parametrize("case", LABELS)
def test_a_table_is_read_back_from_markdown_as_it_was(case, tmp_path):
    label = LABELS[case]
    table = Table(f"T {label}", ["method", label], text=(0, 1), notes=[f"N {label}"])
    table.add([label, "1.0"], {"method": label})
    write(table, tmp_path / "t")
    found = table_of(tmp_path / "t.md")
    expected = BREAK.join(shown(label))
    read = lambda cell: "".join(text_of(str(cell).replace("<br>", "<br/>\n")))  # noqa: E731
    assert [[read(cell).strip() for cell in row] for row in found["rows"]] == [[expected.strip(), "1.0"]]
    assert read(found["title"]) == f"T {expected}".strip() and [read(note) for note in found["notes"]] == [
        f"N {expected}".strip()
    ]
    with open(tmp_path / "t.csv", encoding="utf-8", newline="") as lines:
        (row,) = csv.DictReader(lines)
    assert row["method"] == expected


@pytest.mark.parametrize("case", LABELS)
def test_no_character_of_latex_has_a_meaning(case, tmp_path):
    table = Table(LABELS[case], ["method"])
    for _ in range(2):
        table.add([LABELS[case]], {"method": "x"})
    write(table, tmp_path / "t")
    text = (tmp_path / "t.tex").read_text(encoding="utf-8")
    assert text.count("\\end{tabular}") == text.count("\\begin{tabular}")
    cells = text.split("\\midrule\n")[1].split("\\bottomrule")[0]
    allowed = r"\\(textbackslash|textasciitilde|textasciicircum|textbar|begin|end|[\\&%$#_{}])|\$[<>]\$|\{\}|\{\[\}|[{}]|\[t\]|@"
    rest = re.sub(allowed, "", cells)
    assert not set(rest) & set("\\$%#_^~&"), rest
    assert not re.search(r"\\\\\s*[*\[]", cells)
    assert not re.search("[\x00-\x09\x0b-\x1f\x85\u2028\u2029\u202e]", text)


@pytest.mark.parametrize("case", LABELS)
def test_a_figure_is_drawn_and_embedded(case, tmp_path):
    label = LABELS[case]
    draw_figure(study(label), {"id": "f", "kind": "accuracy", "title": f"T {label}"}, tmp_path / "f_toy")
    figure = figure_of(tmp_path / "f_toy.svg")
    one_line = " ".join(shown(label))
    assert " ".join(figure["title"].split()) == " ".join(f"T {one_line}: {one_line}".split())
    svg = ElementTree.fromstring(str(figure["svg"]))
    assert " ".join(svg.get("aria-label").split()) == " ".join(figure["title"].split())
    assert "<script" not in str(figure["svg"])


@pytest.mark.parametrize("case", LABELS)
def test_the_report_is_written_and_holds_no_markup_of_a_label(case, tmp_path):
    label = LABELS[case]
    made = study(label)
    draw_figure(made, {"id": "f", "kind": "accuracy", "title": "T"}, tmp_path / "f_toy")
    provenance, given = {"note": label, "config": {}}, predictions(made, tmp_path)
    write_report([made], made.methods, [], [tmp_path / "f_toy.svg"], provenance, tmp_path / "report.html", predictions=given)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.findall("<script.*?>", page) == ['<script type="application/json">', "<script>"], "those of the page"
    assert page.count("</script>") == 2 and "<b>" not in page
    data = json.loads(page.partition('<script type="application/json">')[2].partition("</script>")[0])
    assert ["\n".join(shown(f"{label} {name}")) for name in ("averaging", INDIVIDUAL)] == data["methods"]


def test_text_is_no_formula_in_a_figure_without_odd_labels(tmp_path):
    """The same bytes with and without formulas: nothing that the figures draw themselves is one."""
    from nan_merge.reporting import figure_style

    draw_figure(study("plain"), {"id": "f", "kind": "accuracy", "title": "T"}, tmp_path / "new")
    figure_style.STYLE.pop("text.parse_math")
    try:
        draw_figure(study("plain"), {"id": "f", "kind": "accuracy", "title": "T"}, tmp_path / "old")
    finally:
        figure_style.STYLE["text.parse_math"] = False
    assert (tmp_path / "new.svg").read_bytes() == (tmp_path / "old.svg").read_bytes()
