"""The page in a real browser, which is the system's Chromium without a window."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deploy_kit.report.gather import gather
from deploy_kit.report.page import DASH, render
from deploy_kit.report.read import Source
from tests.report.support import (
    BOARD,
    entry_of,
    lab,
    measurement_of,
    record_of_cell,
    result_of,
    sha_of,
    spec_of,
)
from tests.report.test_page import hostile

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = Path("/usr/bin/chromium")

THIRD = BOARD.model_copy(update={"spec": "adb:A1"})

pytestmark = [
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}: apt install chromium"),
    pytest.mark.xdist_group("chromium"),
]


@dataclass
class Opened:
    """A page in the browser, with what it complained about and asked for."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def rows(self, table: str = "#cell-table") -> list[str]:
        """The first column of the rows that are to be seen."""
        return self.page.eval_on_selector_all(
            f"{table} tbody tr:not([hidden])", "rows => rows.map(row => row.cells[0].innerText.trim())"
        )

    def column(self, name: str, table: str = "#cell-table") -> list[str]:
        return self.page.eval_on_selector_all(
            f"{table} tbody tr:not([hidden]) td[data-label='{name}']", "all => all.map(each => each.innerText.trim())"
        )

    @property
    def fragment(self) -> str:
        return self.page.evaluate("location.hash")

    @property
    def overflows(self) -> bool:
        return self.page.evaluate("document.documentElement.scrollWidth > innerWidth")


Open = Callable[..., Opened]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield chromium
        chromium.close()


def two_setups(*, later: bool = False) -> list[Source]:
    """Two cells that two devices measured, so that the order of their latencies differs; later a third has more."""
    entries = []
    for model, phone, board in (("first", 3.0, 40.0), ("second", 5.0, 20.0)):
        result = result_of(spec_of(model), sha_of(model), accuracy={"right": 80, "total": 100})
        record = record_of_cell(result)
        timings = [measurement_of(record, phone, energy_mj=7.0), measurement_of(record, board, device=BOARD)]
        extra = [measurement_of(record, 1.0, device=THIRD)] if later else []
        entries.append(entry_of(result, measurements=[*extra, *timings]))
    if later:
        result = result_of(spec_of("third"))
        entries.append(entry_of(result, measurements=[measurement_of(record_of_cell(result), device=THIRD)]))
    return [Source("s", "store", entries=entries)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pages")
    pages = {"lab": lab(4), "hostile": hostile(), "setups": two_setups(), "later": two_setups(later=True)}
    for name, sources in pages.items():
        (made / f"{name}.html").write_text(render(gather(sources, "deploykit report")), encoding="utf-8")
    return made


@pytest.fixture
def opened(browser: Any, folder: Path) -> Iterator[Open]:
    """Open a page; at the end it must not have complained, or asked for anything but itself."""
    contexts, all_opened = [], []

    def go(name: str = "lab", fragment: str = "", width: int = 1280, **options: Any) -> Opened:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        found = Opened(context.new_page())
        all_opened.append(found)
        found.page.on("console", lambda message: found.complaints.append(message.text))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.goto(f"file://{folder}/{name}.html{fragment}")
        return found

    yield go
    for each in all_opened:
        assert each.complaints == []
        assert all(request.startswith(f"file://{folder}/") for request in each.requests)
        assert len(each.requests) == len(
            [request for request in each.requests if request.split("#")[0].endswith(".html")]
        )
    for context in contexts:
        context.close()


VIEWS = ("overview", "cells", "measurements", "plots", "pareto", "history", "sources")


@pytest.mark.parametrize("width", [1280, 400])
def test_every_view_opens_and_none_is_wider_than_the_screen(width: int, opened: Open) -> None:
    found = opened(width=width)
    assert found.page.eval_on_selector("#matrix tbody th", "head => head.clientWidth > 80")
    for view in VIEWS:
        found.page.click(f"nav a[href='#{view}']")
        assert found.page.is_visible(f"#{view}")
        assert [each for each in VIEWS if found.page.is_visible(f"#{each}")] == [view]
        assert not found.overflows, view


def test_filters_leave_what_they_say_everywhere_and_survive_a_reload(opened: Open) -> None:
    found = opened(fragment="#view=cells")
    assert len(found.rows()) == 60
    found.page.select_option("[name=target]", "onnx")
    found.page.select_option("[name=precision]", "fp16")
    assert (set(found.column("Target")), set(found.column("Precision"))) == ({"onnx"}, {"fp16"})
    assert found.page.inner_text("#count") == f"{len(found.rows())} of 60 cells"
    found.page.click("nav a[href='#overview']")
    assert found.page.eval_on_selector_all("#matrix a:not([hidden])", "all => all.length") == 4
    found.page.wait_for_function("location.hash.includes('fp16')")
    found.page.reload()
    assert found.page.input_value("[name=target]") == "onnx"
    found.page.click("nav a[href='#cells']")
    assert len(found.rows()) == 4
    found.page.click("#filters button[type=reset]")
    assert len(found.rows()) == 60


def test_text_finds_models_and_the_reasons_of_failures(opened: Open) -> None:
    found = opened(fragment="#view=cells")
    found.page.fill("[name=q]", "unsupported operator torchscript-lite")
    assert len(found.rows()) == 1
    assert "export failed" in found.column("Outcome")[0]
    found.page.fill("[name=q]", "nothing is called so")
    assert found.rows() == []
    assert found.page.is_visible(".none-left")
    found.page.click("[data-reset]")
    assert len(found.rows()) == 60


def test_outcomes_and_devices_can_be_chosen(opened: Open) -> None:
    found = opened(fragment="#view=cells")
    found.page.select_option("[name=outcome]", "mismatch")
    assert ["mismatch" in each for each in found.column("Outcome")] == [True] * 3
    found.page.select_option("[name=outcome]", "")
    found.page.select_option("[name=device]", "ios:00008110")
    assert set(found.column("Target")) == {"coreml"}


def test_columns_sort_both_ways_by_value_and_what_is_unknown_comes_last(opened: Open) -> None:
    found = opened(fragment="#view=cells")

    def shown() -> list[float | None]:
        return [None if text.startswith(DASH) else float(text.split()[0]) for text in found.column("Latency, ms")]

    head = found.page.locator("#cell-table th", has_text="Latency")
    head.locator("button").click()
    ascending = shown()
    known = [value for value in ascending if value is not None]
    assert known == sorted(known)
    assert len(known) > 40
    assert ascending[len(known) :] == [None] * (60 - len(known))
    assert head.get_attribute("aria-sort") == "ascending"
    head.locator("button").press("Enter")
    assert shown() == [*sorted(known, reverse=True), *ascending[len(known) :]]
    assert head.get_attribute("aria-sort") == "descending"
    found.page.locator("#cell-table th button", has_text="Model").click()
    assert found.rows() == sorted(found.rows())
    assert head.get_attribute("aria-sort") is None


def test_a_link_to_a_cell_opens_it_survives_a_reload_and_goes_back(opened: Open) -> None:
    found = opened(fragment="#view=cells")
    found.page.click("#cell-table tbody tr:nth-child(3) a")
    drawer = found.page.locator("#drawer")
    assert drawer.is_visible()
    name = found.page.inner_text("#drawer h3")
    assert found.fragment.startswith(f"#cell={name}/")
    assert found.page.locator("#drawer h4", has_text="How to reproduce").count() == 1
    found.page.reload()
    assert drawer.is_visible()
    assert found.page.inner_text("#drawer h3") == name
    found.page.keyboard.press("Escape")
    assert not drawer.is_visible()
    found.page.wait_for_function("location.hash === '#view=cells'")
    found.page.go_back()
    assert drawer.is_visible()
    found.page.click("#close")
    assert not drawer.is_visible()


def test_a_deep_link_opens_from_outside_and_one_that_leads_nowhere_harms_nothing(opened: Open) -> None:
    found = opened(fragment="#cell=levit_xxs/onnx/fp32")
    assert found.page.inner_text("#drawer h3") == "levit_xxs"
    assert found.page.evaluate("document.querySelector('#drawer h3').getBoundingClientRect().top > 0")
    lost = opened(fragment="#cell=none/of/these%ZZ&view=nowhere&__proto__=x")
    assert lost.page.is_visible("#overview")
    assert not lost.page.is_visible("#drawer")


@pytest.mark.parametrize("setup", ["99", "1", "constructor", "__proto__", "ssh:gone, 1 thread"])
def test_an_address_with_a_setup_that_is_none_shows_the_first(setup: str, opened: Open) -> None:
    found = opened("setups", f"#view=cells&setup={setup}")
    assert found.column("Latency, ms") == ["3.00", "5.00"]
    assert found.page.input_value("[name=setup]") == "adb:R5CT10, 1 thread"


def test_a_link_to_a_setup_shows_the_same_one_when_others_were_measured_too(opened: Open, folder: Path) -> None:
    found = opened("setups", "#view=cells")
    for setup in ("ssh:pi@board, 1 thread", "adb:R5CT10, 1 thread"):
        found.page.select_option("[name=setup]", setup)
        found.page.wait_for_function("setup => decodeURIComponent(location.hash).includes(setup)", arg=setup)
        latencies, link = found.column("Latency, ms"), found.fragment
        assert opened("later", link).column("Latency, ms") == [*latencies, DASH]


def test_going_back_from_a_cell_finds_what_was_typed_just_before(opened: Open) -> None:
    found = opened(fragment="#view=cells")
    found.page.evaluate(
        """() => {
            const field = document.querySelector("[name=q]");
            field.value = "levit";
            field.dispatchEvent(new Event("input", { bubbles: true }));
            document.querySelector("#cell-table tbody tr:not([hidden]) a").click();
        }"""
    )
    assert "cell=" in found.fragment
    found.page.go_back()
    assert not found.page.locator("#drawer").is_visible()
    assert found.page.input_value("[name=q]") == "levit"
    assert 0 < len(found.rows()) < 60


def test_the_plot_of_runs_has_how_many_cells_work_in_each(opened: Open) -> None:
    found = opened(fragment="#view=history")
    works = found.column("Work", "#runs")
    cells = found.column("Cells", "#runs")
    titles = found.page.eval_on_selector_all("#history-outcomes title", "all => all.map(each => each.textContent)")
    assert [title.split("\n")[1] for title in reversed(titles)] == [f"{a} of {b} work" for a, b in zip(works, cells)]
    assert len(titles) > 1


def test_the_keyboard_is_enough(opened: Open) -> None:
    found = opened(fragment="#view=cells")
    found.page.focus("#cell-table tbody tr:first-child a")
    found.page.keyboard.press("Enter")
    assert found.page.is_visible("#drawer")
    assert found.page.evaluate("document.querySelector('#drawer').contains(document.activeElement)")
    found.page.keyboard.press("Escape")
    assert found.page.evaluate(
        "document.activeElement === document.querySelector('#cell-table tbody tr:first-child a')"
    )


def test_colours_follow_the_system_and_the_switch(opened: Open) -> None:
    def ground(found: Opened) -> int:
        colour = found.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    assert ground(opened(color_scheme="light")) > 600
    found = opened(color_scheme="dark")
    assert ground(found) < 100
    found.page.click("#theme")
    assert found.page.inner_text("#theme") == "Theme: light"
    assert ground(found) > 600
    found.page.reload()
    assert ground(found) > 600
    found.page.click("#theme")
    assert ground(found) < 100


def test_plots_have_a_mark_for_each_figure_and_follow_the_filters(opened: Open) -> None:
    found = opened(fragment="#view=plots")
    marks = "#plot-size .point"
    with_size = [
        text
        for text in found.page.eval_on_selector_all(
            "#cell-table td[data-label='Size']", "all => all.map(each => each.textContent)"
        )
        if text != DASH
    ]
    assert found.page.locator(marks).count() == len(with_size)
    for plot in ("latency", "size", "error"):
        assert "logarithmic" in found.page.text_content(f"#plot-{plot} svg")
        assert found.page.locator(f"#plot-{plot} text[text-anchor=middle]").count() >= 3
    found.page.select_option("[name=target]", "onnx")
    assert 0 < found.page.locator(marks).count() <= 12
    found.page.locator(marks).first.hover()
    assert "/onnx/" in found.page.inner_text("#tip")
    found.page.locator(marks).first.click()
    assert found.page.is_visible("#drawer")


def test_a_pareto_has_what_is_valid_and_nothing_else(opened: Open) -> None:
    found = opened(fragment="#view=pareto")
    rows = found.rows("[data-pareto] table")
    assert found.page.locator("#pareto-latency .point").count() == len(rows) > 10
    invalid = {
        row.split("\t")[0]
        for row in found.page.eval_on_selector_all(
            "#measurements tbody tr",
            "rows => rows.map(row => row.cells[0].textContent + '\\t' + row.cells[9].textContent)",
        )
        if "not valid" in row
    }
    assert invalid
    assert not invalid & set(rows)


def test_the_setup_decides_which_latency_is_shown(opened: Open) -> None:
    found = opened("setups", "#view=cells")
    assert found.column("Latency, ms") == ["3.00", "5.00"]
    found.page.select_option("[name=setup]", "ssh:pi@board, 1 thread")
    assert found.column("Latency, ms") == ["40.0", "20.0"]
    assert found.column("Energy, mJ") == [DASH, DASH]
    found.page.click("nav a[href='#pareto']")
    assert found.page.locator("[data-pareto]:visible h3").inner_text() == "ssh:pi@board, 1 thread"
    assert found.page.locator("#pareto-latency .point").count() == 2
    assert "Absent" in found.page.inner_text("#pareto-energy")


def test_without_a_script_everything_can_be_read_and_links_lead_to_cells(opened: Open) -> None:
    found = opened(java_script_enabled=False)
    for view in ("overview", "cells", "measurements", "pareto", "history", "details"):
        assert found.page.locator(f"#{view} h2").is_visible()
    assert not found.page.locator("#filters").is_visible()
    cell = found.page.locator("#details article").first
    assert not cell.is_visible()
    found.page.locator("#matrix a").first.click()
    assert found.page.locator("#details article:visible").count() == 1


def test_without_a_script_it_is_no_wider_than_a_phone(browser: Any, folder: Path) -> None:
    context = browser.new_context(viewport={"width": 400, "height": 900}, java_script_enabled=False)
    page = context.new_page()
    page.goto(f"file://{folder}/lab.html")
    box = page.locator("main").bounding_box()
    assert box["x"] + box["width"] <= 400
    context.close()


def test_what_others_wrote_runs_nothing(opened: Open) -> None:
    found = opened("hostile", "#view=cells")
    assert len(found.rows()) == 2
    found.page.click("#cell-table tbody tr:first-child a")
    assert "</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;" in found.page.inner_text("#drawer")
    found.page.reload()
    assert found.page.is_visible("#drawer")
    found.page.click("#close")
    for view in VIEWS:
        found.page.click(f"nav a[href='#{view}']")
    assert found.page.evaluate("document.querySelectorAll('img').length") == 0


@pytest.mark.slow
def test_hundreds_of_cells_stay_quick(opened: Open, folder: Path) -> None:
    (folder / "large.html").write_text(render(gather(lab(40), "deploykit report")), encoding="utf-8")
    found = opened("large", "#view=cells")
    took = found.page.evaluate(
        """() => {
            const begin = performance.now();
            const field = document.querySelector("[name=q]");
            field.value = "levit";
            field.dispatchEvent(new Event("input", { bubbles: true }));
            document.body.offsetHeight;
            return performance.now() - begin;
        }"""
    )
    assert took < 1500
    assert (
        found.page.evaluate("performance.timing.domContentLoadedEventEnd - performance.timing.navigationStart") < 10_000
    )
