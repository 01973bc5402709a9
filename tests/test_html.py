"""The page in a headless Chromium: it loads without a network, sorts, filters and opens transcripts."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic import write_run
from trial import BASE, declare

from analysis import html
from analysis.publish import publish

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("playwright") is None or BROWSER is None,
    reason="needs the package playwright (extra dev) and a chromium on the path (apt-get install chromium)",
)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("html")
    for words, share, text in (("raw", 8, "Tom has"), ("text", 7, "Tom had </script>"), ("blank", 1, "Nobody knows")):
        write_run(root / "runs", [*BASE, f"strategy={words}"], right=lambda k, s=share: k % 10 < s, text=text)  # type: ignore[misc]
    write_run(root / "runs", [*BASE, "strategy=raw", "donor=other"], right=lambda k: k % 10 < 1, text="Tom has")
    publish("trial", root / "runs", root / "published")
    declare(root)
    return html.write([], root / "page.html", root / "published", root / "experiments")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, page_file: Path) -> Iterator[Any]:
    """The page, which must ask for nothing but itself and log no error."""
    wrong: list[str] = []
    opened = browser.new_page()
    opened.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else wrong.append(request.url))
    opened.goto(page_file.as_uri())
    yield opened
    opened.close()
    assert wrong == []


def column(page: Any, table: str, name: str) -> list[str]:
    found = page.locator(f"#table-{table} + .wide table")
    place = found.locator("th").all_inner_texts().index(name)
    return [row.locator("td").nth(place).inner_text() for row in found.locator("tbody tr").all()]


def test_a_column_sorts_by_number_both_ways(page: Any) -> None:
    head = page.locator("#table-trial_chain2 + .wide th", has_text="accuracy")
    shares = lambda: [float(text.split("%")[0]) for text in column(page, "trial_chain2", "accuracy")]  # noqa: E731
    head.click()
    assert shares() == sorted(shares())
    head.click()
    assert shares() == sorted(shares(), reverse=True)
    assert len(shares()) == 4


def test_the_filter_hides_other_rows(page: Any) -> None:
    page.fill("#filter", "shuffled")
    rows = page.locator("#table-trial_chain2 + .wide tbody tr")
    assert [row.is_visible() for row in rows.all()].count(True) == 1
    page.fill("#filter", "")
    assert all(row.is_visible() for row in rows.all())


def test_a_number_of_the_claims_opens_its_transcript_beside_others(page: Any) -> None:
    page.locator("#table-claims + .wide td a").first.click()
    heads = page.locator("#hops th").all_inner_texts()
    assert heads[0] == "turn"
    assert len(heads) == 5
    assert [head.split(" (")[0] for head in heads[1:3]] == ["raw", "text"], "what a saving is of, then what it is against"
    assert page.locator("#hops tbody tr").count() == 2, "a row a turn"
    page.select_option("#problem", "s00003")
    assert "Tom has 3 so #### 3" in page.locator("#hops").inner_text()
    assert "</script>" in page.locator("#hops").inner_text()


def test_the_cell_that_was_opened_comes_first_and_raw_is_beside_it(page: Any) -> None:
    page.locator("#table-trial_chain2 + .wide tbody tr", has_text="text").locator("a").first.click()
    heads = [head.split(" (")[0] for head in page.locator("#hops th").all_inner_texts()[1:]]
    assert heads[:2] == ["text", "raw"]


def test_words_that_differ_from_the_first_are_marked(page: Any) -> None:
    hashes = {label: value for value, label in page.eval_on_selector_all("#cells option", "all => all.map(o => [o.value, o.text])")}
    chosen = [next(v for k, v in hashes.items() if k.startswith(name)) for name in ("text", "blank")]
    page.select_option("#cells", chosen)
    marked = page.locator("#hops tbody tr").first.locator("mark").all_inner_texts()
    first = [head.split(" (")[0] for head in page.locator("#hops th").all_inner_texts()[1:]]
    assert sorted(first) == ["blank", "text"]
    words = {"blank": ["Nobody", "knows"], "text": ["Tom", "had", "</script>"]}[first[1]]
    assert marked == words


def test_figures_are_on_the_page(page: Any) -> None:
    assert page.locator("#figures svg").count() == 1
    assert page.locator("#figures figcaption").count() == 2, "one of them is not drawn, and says what is missing"
    assert "95% intervals" in page.locator("#figures figcaption").first.inner_text()


def test_a_page_of_runs(page_file: Path, tmp_path: Path, browser: Any) -> None:
    out = html.write([page_file.parent / "runs" / "trial"], tmp_path / "x" / "index.html")
    opened = browser.new_page()
    opened.goto(out.as_uri())
    assert opened.locator("#table-compare + .wide tbody tr").count() == 4
    assert opened.locator("#hops td").count() > 4
    opened.close()
