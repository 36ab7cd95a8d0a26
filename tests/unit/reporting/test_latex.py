"""Every table compiles as LaTeX, with the two packages that the page on results names, and shows every character."""

import re
import shutil
import subprocess

import pytest
from fabricated_run import FabricatedRun, quick
from models import ROOT, shipped
from test_odd_labels import LABELS

from nan_merge.catalogue.files import read_yaml
from nan_merge.reporting.formats import Table, write
from nan_merge.reporting.published.tables import render_published

DEBIAN = "apt-get install texlive-latex-recommended"
GREEK = "".join(letter for letter in map(chr, [*range(0x391, 0x3AA), *range(0x3B1, 0x3CA)]) if letter.isalpha())
OF_OTHER_LANGUAGES = ("Ångström, façade, señor, Straße, øre, Łódź, čeština, ığ", GREEK, "≈ ≠ → ∞ § 10² ± 3 × 5 – 7 …")
PREAMBLE = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"


@pytest.fixture(scope="module")
def compile_all():
    """Return a function that puts tables into one document and returns what TeX says of it."""
    if not shutil.which("pdflatex") or not subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True, check=False).stdout:
        pytest.skip(f"no TeX with booktabs on this machine; Debian has it: {DEBIAN}")

    def run(folder, files):
        inputs = "".join(
            rf"\input{{{shutil.copy(file, folder / f'{number}.tex').name}}}\clearpage" for number, file in enumerate(files)
        )
        (folder / "paper.tex").write_text(f"{PREAMBLE}{inputs}\\end{{document}}", encoding="utf-8")
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=300, check=False)
        log = (folder / "paper.log").read_text(encoding="utf-8", errors="replace")
        assert done.returncode == 0, "\n".join(re.findall(r"^(?:!|l\.).*", log, re.M)) or log[-2000:]
        pages = re.search(r"Output written on paper\.pdf \((\d+) pages?", log)
        assert pages and int(pages[1]) >= len(files) and (folder / "paper.pdf").read_bytes().startswith(b"%PDF-")
        return log

    return run


def faults(log):
    """What TeX left out without an error."""
    return re.findall(r"Missing character.*|LaTeX Warning: (?!Text page|Float too large|.*undefined references).*", log)


def test_the_tables_of_a_run_compile(default_run, compile_all, tmp_path):
    files = sorted(default_run.folder.glob("tables/*.tex"))
    assert len(files) == len(default_run.experiment.config["tables"])
    assert faults(compile_all(tmp_path, files)) == []


def test_the_tables_of_every_kind_and_method_compile(compile_all, tmp_path):
    tables = list(shipped().reports["tables"])
    with quick():
        run = FabricatedRun(tmp_path, {**read_yaml(ROOT / "config/study/every_method.yaml"), "tables": tables}, tasks=6)
        run.report()
    files = sorted(tmp_path.glob("tables/*.tex"))
    assert len(files) == len(tables) and faults(compile_all(tmp_path, files)) == []


def test_the_printed_tables_compile(compile_all, tmp_path):
    for name, record in shipped().reports["published"].items():
        render_published({"id": name, **record}, ROOT / "config/published.tsv", [], tmp_path / name)
    assert faults(compile_all(tmp_path, sorted(tmp_path.glob("*.tex")))) == []


def test_labels_of_any_characters_compile(compile_all, tmp_path):
    for index, label in enumerate([*LABELS.values(), *OF_OTHER_LANGUAGES]):
        table = Table(f"T {label}", ["method", label], text=(0, 1), notes=[f"N {label}"])
        table.add([label, "1.0"], {"method": label})
        table.add([f"*{label}", f"[{label}"], {"method": label})
        write(table, tmp_path / f"label{index}")
    assert faults(compile_all(tmp_path, sorted(tmp_path.glob("*.tex")))) == []
