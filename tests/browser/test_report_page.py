"""The report in a real browser: it opens as a mail attachment does, and everything on it can be used."""

from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

GROUND = "getComputedStyle(document.body).backgroundColor"
LIGHT, DARK = "rgb(253, 253, 252)", "rgb(20, 23, 27)"


def _column(page: Page, table: str, column: int) -> list[str]:
    """The texts of a column's visible cells, from top to bottom."""
    cells = page.locator(f"#{table} tbody tr:visible > :nth-child({column})").all_inner_texts()
    return [text.split("\n")[0].strip() for text in cells]


def _numbers(page: Page, table: str, column: int) -> list[float]:
    return [float(text.replace("−", "-")) for text in _column(page, table, column) if text != "–"]


def test_it_opens_from_a_file_without_a_complaint_or_a_request(page: Page, report: Path) -> None:
    page.mouse.wheel(0, 20_000)
    page.wait_for_timeout(100)
    asked = [url for url in page.requests if not url.startswith("data:")]  # type: ignore[attr-defined]
    assert asked == [report.as_uri()]
    assert page.complaints == []  # type: ignore[attr-defined]
    assert page.locator("h1").inner_text().startswith("segformer is better than unet")


def test_a_heading_sorts_up_and_down(page: Page) -> None:
    heading = page.locator("#score-table thead th", has_text="Dice").first
    column = 1 + page.locator("#score-table thead th").all_inner_texts().index(heading.inner_text())
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert _numbers(page, "score-table", column) == sorted(_numbers(page, "score-table", column), reverse=True)
    heading.get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert _numbers(page, "score-table", column) == sorted(_numbers(page, "score-table", column))


def test_what_has_no_value_stays_last(page: Page) -> None:
    spread = page.locator("#cases thead th").count()
    button = page.locator("#cases thead th").last.get_by_role("button")
    for _ in range(2):
        button.click()
        assert set(_column(page, "cases", spread)[-3:]) == {"–"}


def test_filters_leave_the_rows_that_fit_and_say_how_many(page: Page) -> None:
    tools = page.locator('[data-filters="cases"]')
    tools.get_by_label("class").select_option("vessel")
    tools.get_by_label("filter rows").fill("image_1")
    assert set(_column(page, "cases", 2)) == {"vessel"}
    assert tools.locator("output").inner_text() == "10 of 40 rows"
    tools.get_by_label("filter rows").fill("no such case")
    assert tools.locator("output").inner_text() == "0 of 40 rows"


def test_another_metric_fills_the_table_of_cases(page: Page) -> None:
    before = _numbers(page, "cases", 5)
    page.get_by_label("metric").and_(page.locator("#case-metric")).select_option("hd95_mm")
    after = _numbers(page, "cases", 5)
    assert after == pytest.approx([40 * (1 - dice) for dice in before], abs=0.01)
    assert "HD95 (mm)" in page.locator("#cases caption").inner_text()


def test_the_slider_moves_by_keyboard_and_by_dragging(page: Page) -> None:
    figure = page.locator("[data-overlay]").first
    slider, left = figure.get_by_role("slider"), figure.locator('[data-clip="left"]')
    assert left.get_attribute("width") == "320"
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert (slider.input_value(), left.get_attribute("width")) == ("51", "326.4")
    page.keyboard.press("Home")
    assert left.get_attribute("width") == "0"
    assert "0% unet, 100%" in str(slider.get_attribute("aria-valuetext"))
    figure.locator(".stage").scroll_into_view_if_needed()
    box: Any = figure.locator(".stage").bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 50)
    page.mouse.up()
    assert int(slider.input_value()) == pytest.approx(75, abs=1)


def test_the_slider_shows_the_arms_that_are_chosen(page: Page) -> None:
    figure = page.locator("[data-overlay]").first
    figure.get_by_label("right").select_option("vit_random")
    assert figure.locator(".side.right").inner_text().startswith("vit_random · Dice 0.")
    assert figure.locator('[data-layer="right-errors"]').get_attribute("href") == "#o1-2-errors"


def test_layers_are_switched_off(page: Page) -> None:
    errors = page.locator("#overlays .multiples .errors").first
    assert errors.evaluate("e => getComputedStyle(e).display") != "none"
    page.get_by_label("errors", exact=True).uncheck()
    assert errors.evaluate("e => getComputedStyle(e).display") == "none"


def test_the_theme_follows_the_system_until_it_is_chosen(page: Page) -> None:
    assert page.evaluate(GROUND) == LIGHT
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(GROUND) == DARK
    page.get_by_role("radio", name="light").check(force=True)
    assert page.evaluate(GROUND) == LIGHT
    page.emulate_media(color_scheme="light")
    page.get_by_role("radio", name="dark").check(force=True)
    assert page.evaluate(GROUND) == DARK
    page.reload()
    assert page.evaluate(GROUND) == DARK


def test_it_prints_light_with_every_arm_and_without_controls(page: Page, tmp_path: Path) -> None:
    page.emulate_media(color_scheme="dark")
    page.get_by_role("radio", name="dark").check(force=True)
    page.emulate_media(media="print")
    assert page.evaluate(GROUND) == "rgb(255, 255, 255)"
    assert not page.get_by_role("slider").first.is_visible()
    assert page.locator(".multiples li").first.is_visible()
    assert page.locator("#score-table thead th").first.inner_text() == "class"
    written = page.pdf(path=tmp_path / "report.pdf", format="A4", print_background=True)
    assert written.startswith(b"%PDF")


def test_it_fits_a_phone(browser: Browser, report: Path) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740})
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    context.close()


def test_it_reads_without_scripts(browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert not page.locator(".needs-js").first.is_visible()
    assert page.locator("#cases tbody tr").first.is_visible()
    assert page.locator(".multiples li").first.is_visible()
    context.close()


def test_everything_is_reached_by_the_tab_key(page: Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Page, theme: str) -> None:
    page.get_by_role("radio", name=theme).check(force=True)
    page.locator("details").evaluate("element => { element.open = true; }")
    found = Axe().run(page).response["violations"]
    assert [
        (rule["id"], rule["impact"], rule["nodes"][0]["html"])
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ] == []


def test_the_methods_are_copied_or_at_least_selected(page: Page) -> None:
    button = page.get_by_role("button", name="copy the text")
    button.click()
    page.wait_for_function("document.querySelector('[data-copy]').textContent !== 'copy the text'")
    told = page.locator("[data-copy]").first.inner_text()
    assert told == "copied" or "We compared 4 arms" in page.evaluate("getSelection().toString()")
