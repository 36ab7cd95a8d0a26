"""The report in a real browser: from disk, with and without its script, wide and narrow, light and dark, on paper."""

import csv
import io
import re
import shutil
from pathlib import Path

import pytest
from fabricated_run import EXAMPLES, ROOT, FabricatedRun, quick

from nan_merge.catalogue.files import read_yaml
from nan_merge.reporting import paired_tests

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -r requirements.txt")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

NAMES = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = (375, 900, 1400)
RESULTS, CHART, COMPARE = "#text table.results", "#text .chart ol", "#text .compare"


@pytest.fixture(scope="module")
def run(default_run):
    return default_run


@pytest.fixture(scope="module")
def pictured(tmp_path_factory):
    """A finished run of the image suite with drawn answers to noise."""
    with quick():
        made = FabricatedRun(
            tmp_path_factory.mktemp("pictured"), {**read_yaml(ROOT / "config/vision.yaml"), "methods": ["ties", "dare"]}, tasks=8
        )
        made.report()
    return made


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        path = next(filter(None, map(shutil.which, NAMES)), started.chromium.executable_path)
        if not Path(path).exists():
            pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed; run `playwright install chromium`")
        opened = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser, run):
    """Return a function that opens the report; what the browser complains of or asks for is in `page.told` and `page.asked`."""
    contexts = []

    def open_report(width=1400, of=run, **settings):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **settings))
        page = contexts[-1].new_page()
        page.told, page.asked = [], []
        page.on("console", lambda message: page.told.append(message.text))
        page.on("pageerror", lambda error: page.told.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto((of.folder / "report.html").as_uri())
        return page

    yield open_report
    for context in contexts:
        context.close()


@pytest.fixture
def page(opened):
    return opened()


def column(page, name):
    """The numbers of a column of the table of results from top to bottom, None for an empty cell."""
    names = page.locator(f"{RESULTS} thead th").all_inner_texts()
    at = next(index for index, text in enumerate(names) if text.startswith(name))
    cells = page.locator(f"{RESULTS} tbody tr").evaluate_all("(rows, at) => rows.map((row) => row.cells[at].dataset.number)", at)
    return [float(cell) if cell else None for cell in cells]


def shown(page, rows):
    return [row.get_attribute("data-method") for row in page.locator(rows).all() if row.is_visible()]


def methods(run):
    return [method["id"] for method in run.studies[0].methods]


def test_the_page_asks_for_nothing_and_complains_of_nothing(page, run):
    page.select_option(f"{COMPARE} [name=one]", "3")
    page.click(f"{RESULTS} thead th:has-text('Average') button")
    assert page.told == [] and page.asked == [(run.folder / "report.html").as_uri()]


def test_no_script_but_that_of_the_page_runs(page):
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.foreign = 1'}))")
    assert page.evaluate("window.foreign") is None and any("Content Security Policy" in text for text in page.told)


def test_a_table_is_sorted_by_the_numbers_of_a_column(page):
    values = column(page, "Average")
    button = page.locator(f"{RESULTS} thead th:has-text('Average') button")
    button.click()
    assert column(page, "Average") == sorted(values, reverse=True) != values
    assert button.locator("..").get_attribute("aria-sort") == "descending"
    assert shown(page, f"{CHART} li") == shown(page, f"{RESULTS} tbody tr"), "the chart follows"
    button.press("Enter")
    assert column(page, "Average") == sorted(values)
    button.press("Space")
    assert column(page, "Average") == values and page.locator("[aria-sort]").count() == 0


def test_an_empty_cell_is_last_in_both_directions(page):
    button = page.locator(f"{RESULTS} thead th:has-text('Normalised') button")
    page.locator(f"{RESULTS} tbody tr").nth(3).evaluate("(row) => { row.cells[row.cells.length - 1].dataset.number = ''; }")
    for _ in range(2):
        button.click()
        assert column(page, "Normalised")[-1] is None


def test_rows_are_shown_by_group_by_words_and_one_by_one(page, run):
    groups = {method["id"]: method.get("group") for method in run.studies[0].methods}
    page.uncheck("#text form.filter [value=nan]")
    expected = [name for name in groups if groups[name] != "nan"]
    assert shown(page, f"{RESULTS} tbody tr") == shown(page, f"{CHART} li") == expected
    page.fill("#text form.filter [name=words]", "TIES λ")
    assert shown(page, f"{RESULTS} tbody tr") == ["ties"]
    assert page.locator("#text form.filter output").inner_text() == f"1 of {len(groups)} methods shown"
    page.click("#text form.filter [type=reset]")
    page.click(f"{CHART} li[data-method=ties] button")
    page.locator("li[data-method=ties]").wait_for(state="hidden")
    assert shown(page, f"{RESULTS} tbody tr") == shown(page, f"{CHART} li") == [name for name in groups if name != "ties"]
    page.click("#text form.filter [type=reset]")
    page.locator("li[data-method=ties]").wait_for(state="visible")
    assert shown(page, f"{CHART} li") == list(groups)


def compared(page, one, other, run, kind="gained"):
    """The rows of the comparison of two methods and the examples below it."""
    names = methods(run)
    page.select_option(f"{COMPARE} [name=one]", str(names.index(one)))
    page.select_option(f"{COMPARE} [name=other]", str(names.index(other)))
    page.select_option(f"{COMPARE} [name=kind]", kind)
    read = "(rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent))"
    rows = page.locator(f"{COMPARE} table.numbers tbody tr").evaluate_all(read)
    return rows, page.locator(f"{COMPARE} table.example tbody tr").evaluate_all(read)


def answers(run, method, task):
    found = paired_tests.read_answers([run.folder / f"scores/text/{method}/seed0/all.json"])[0]
    return found["text", method, task, 0]


def test_two_methods_are_compared_task_by_task_with_their_examples(page, run):
    tasks = [task["id"] for task in run.studies[0].tasks]
    rows, _ = compared(page, "ties", "tsv_m", run)
    assert len(rows) == 1 + len(tasks) and rows[0][0] == "Average"
    for row in rows[1:]:
        task = next(task for task in run.studies[0].tasks if task["label"] == row[0])["id"]
        a, b = (answers(run, method, task) for method in ("ties", "tsv_m"))
        right, wrong = a.prediction == a.label, b.prediction == b.label
        points = 100 * (right.mean() - wrong.mean())
        assert float(row[1].replace("−", "-")) == pytest.approx(points, abs=0.05)
        counts = [(right & ~wrong).sum(), (~right & wrong).sum(), (a.prediction != b.prediction).sum(), len(right)]
        assert row[3:7] == [str(count) for count in counts]
    for kind, cell in (("gained", 3), ("lost", 4)):
        rows, examples = compared(page, "ties", "tsv_m", run, kind)
        assert len(examples) == int(rows[0][cell]) > 0
        for label, text, right, first, second in examples:
            task = next(task for task in run.studies[0].tasks if task["label"] == label)["id"]
            index = int(text.removeprefix(f"{task} </script><b>"))
            a, b = (answers(run, method, task) for method in ("ties", "tsv_m"))
            assert [right, first, second] == [str(given) for given in (a.label[index], a.prediction[index], b.prediction[index])]
            assert (first if kind == "gained" else second) == right != (second if kind == "gained" else first)


def test_images_on_which_two_methods_differ_are_shown(opened, pictured):
    page = opened(of=pictured)
    page.select_option("#vision [name=kind]", "gained")
    pictures = page.locator("#vision table.example img")
    assert pictures.count() > 0
    tasks = [task["label"] for task in pictured.studies[0].tasks]
    for picture in pictures.all():
        index, task = re.fullmatch(r"Image (\d+) of (.+)", picture.get_attribute("alt")).groups()
        assert (
            int(index) < EXAMPLES
            and task in tasks
            and picture.evaluate("(img) => img.decode().then(() => img.naturalWidth)") == 48
        )
    assert page.told == [] and len([address for address in page.asked if not address.startswith("data:")]) == 1
    assert [each["id"] for each in axe.Axe().run(page).response["violations"] if each["impact"] in ("serious", "critical")] == []
    assert (pictured.folder / "report.html").stat().st_size < 3_000_000


def test_the_other_direction_has_the_opposite_numbers(page, run):
    (one, *_), _ = compared(page, "individual", "ties", run)
    page.click(f"{COMPARE} form button")
    (other, *_), _ = compared(page, "ties", "individual", run)
    turned = {"+": "−", "−": "+"}
    assert other[1] == turned.get(one[1][0], one[1][0]) + one[1][1:] and one[1] != other[1]
    assert other[3:5] == one[4:2:-1] and other[5:] == one[5:]


def test_a_planned_comparison_has_the_numbers_of_the_table(page, run):
    planned = next(
        row for row in run.studies[0].comparisons if row["kind"] == "host" and row["task"] == "average" and row["changed"]
    )
    (row, *_), _ = compared(page, planned["method"], planned["against"], run)
    low, high = (f"{100 * float(planned[name]):+.1f}".replace("-", "−").replace("+0.0", "0.0") for name in ("low", "high"))
    assert row[2] == f"[{low}, {high}]".replace("−0.0", "0.0") and row[7] != ""


def test_files_are_downloaded_as_they_are_on_disk(page, run):
    for name in ("scores.tsv", "comparisons.tsv", "main_text.csv", "pairs_text.csv"):
        with page.expect_download() as started:
            page.click(f"a[download='{name}']")
        text = Path(started.value.path()).read_text(encoding="utf-8")
        if name != "pairs_text.csv":
            assert text == next(run.folder.rglob(name)).read_text(encoding="utf-8")
        else:
            rows = list(csv.DictReader(io.StringIO(text)))
            assert {row["task"] for row in rows} == {"average", *(task["id"] for task in run.studies[0].tasks)}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_stands_in_the_way_of_a_screen_reader_or_a_weak_eye(opened, scheme):
    page = opened(color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    found = axe.Axe().run(page).response["violations"]
    serious = {each["id"]: each["nodes"][0]["html"][:200] for each in found if each["impact"] in ("serious", "critical")}
    assert serious == {}


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_does_not_scroll_sideways(opened, width):
    page = opened(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_everything_but_the_tools_is_there_without_a_script(opened, run):
    page = opened(java_script_enabled=False)
    assert shown(page, f"{RESULTS} tbody tr") == shown(page, f"{CHART} li") == methods(run)
    assert page.locator("form:visible, .chart button:visible").count() == 0
    assert page.locator("table.numbers caption:has-text('Paired comparisons')").is_visible()


def test_the_page_prints_with_every_claim_open(page):
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = false; })")
    page.emulate_media(media="print")
    closed = page.locator("details.check:not([open])")
    assert closed.count() > 0 and all(part.locator("ul").is_visible() for part in closed.all())
    assert page.locator("form:visible").count() == 0
    assert page.pdf(format="A4").startswith(b"%PDF-")


def test_the_page_is_small(run):
    assert (run.folder / "report.html").stat().st_size < 3_000_000
