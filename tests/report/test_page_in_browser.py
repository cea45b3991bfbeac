"""The report's page in a real Chromium, opened from the disk: by mouse and keyboard, with hostile names, in bulk."""

from __future__ import annotations

import re
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from made_output import error_row, good_row, judged, make_output, save_photos, tinted

from dmt_ray.report.page import write_report

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
STRENGTHS = (2.0, 4.0, 6.0)
HOSTILE = [
    "<img src=x onerror=window.hacked=1>.png",
    "\"'><script>window.hacked=1</script>.png".replace("/", "\u2044"),
    "\u202egnp.evil.png",
]
NAMES = [*(f"photo-{index:02d}.png" for index in range(17)), *HOSTILE]
ATTACK = "</script></bdi><img src=x onerror=window.hacked=1>"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of twenty photos in three strengths: two of them bad, one with a warning, some with their way."""
    folder = tmp_path_factory.mktemp("report")
    photos = save_photos(folder / "in", NAMES, 320, 240)

    def rows(number, item):
        if number in (4, 17):
            kind = "truncated" if number == 4 else "crash"
            return [error_row(kind, f"It ends early. {ATTACK}", strength=s) for s in STRENGTHS]
        warning = {"warning": f"A caption is lost. {ATTACK}"} if number == 6 else {}
        frames = 4 if number < 2 else 0
        return [
            judged(good_row(tinted(item.uri, s), 3 * number + step, strength=s, frames=frames)) | warning
            for step, s in enumerate(STRENGTHS)
        ]

    make_output(str(folder / "out"), photos, rows, steps=3)
    (folder / "in" / "photo-08.png").unlink()
    write_report(str(folder / "out"))
    return folder / "out" / "report" / "index.html"


@pytest.fixture
def open_page(browser):
    """Open a page in a window of its own; at the end, nothing must have gone wrong in it."""
    contexts, wrong = [], []

    def open_(path, *, width=1280, scheme="light"):
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
        page.goto(str(path) if "://" in str(path) else path.as_uri())
        page.wait_for_selector("#rows [role=row]:nth-child(2) .pair img")
        return page

    yield open_
    for context in contexts:
        assert not context.pages[0].evaluate("'hacked' in window")
        context.close()
    assert wrong == []


def count(page):
    return page.locator("#count").inner_text()


def names(page, number=4):
    return page.locator("#rows .name").all_inner_texts()[:number]


def open_photo(page, name):
    page.fill("#search", name)
    page.locator("#rows [role=row]").first.click()
    page.wait_for_selector("#photo[data-row]")


def share(page):
    return float(page.locator("#stage").evaluate("stage => getComputedStyle(stage).getPropertyValue('--share')")[:-1])


def test_the_slider_moves_by_mouse_and_by_keyboard(report, open_page):
    page = open_page(report)
    open_photo(page, "photo-03")
    stage = page.locator("#stage").bounding_box()
    assert stage["width"] / stage["height"] == pytest.approx(4 / 3, rel=0.01)
    assert share(page) == 50
    middle = stage["y"] + stage["height"] / 2
    page.mouse.move(stage["x"] + stage["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(stage["x"] + stage["width"] * 0.2, middle, steps=4)
    page.mouse.up()
    assert share(page) == pytest.approx(20, abs=1)
    before = page.locator("#before").evaluate("image => getComputedStyle(image).clipPath")
    assert "80%" in before or "calc" in before
    page.mouse.click(stage["x"] + stage["width"] * 0.75, middle)
    assert share(page) == pytest.approx(75, abs=1)
    page.focus("#slider")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert share(page) == pytest.approx(80, abs=1)
    said = f"{share(page):.0f} % input, {100 - share(page):.0f} % result"
    assert page.locator("#slider").get_attribute("aria-valuetext") == said
    page.keyboard.press("Home")
    assert share(page) == 0
    page.keyboard.press("Escape")
    assert not page.locator("#photo").is_visible()
    assert page.evaluate("document.activeElement.id") == "grid"


def test_the_strengths_of_a_photo_stand_side_by_side_and_its_way_is_played(report, open_page):
    page = open_page(report)
    open_photo(page, "photo-01")
    buttons = page.locator("#strengths button")
    assert buttons.all_inner_texts() == ["Strength 2", "Strength 4", "Strength 6"]
    assert page.locator("#strengths img").count() == 4  # the input too
    shown = page.locator("#after").get_attribute("src")
    buttons.nth(2).click()
    assert page.locator("#after").get_attribute("src") != shown
    assert [button.get_attribute("aria-pressed") for button in buttons.all()] == ["false", "false", "true"]
    assert page.locator("#figures thead th").all_inner_texts() == ["Figure", "Strength 2", "Strength 4", "Strength 6"]
    first = page.locator("#frame").get_attribute("src")
    page.focus("#frame-at")
    page.keyboard.press("End")
    assert page.locator("#frame-number").inner_text() == "Step 4 of 4"
    assert page.locator("#frame").get_attribute("src") != first
    page.click("#play")
    playwright.expect(page.locator("#frame-number")).not_to_have_text("Step 4 of 4")
    page.click("#play")
    assert page.locator("#play").inner_text() == "Play"
    page.click("#close")
    open_photo(page, "photo-08")
    assert "photo-08.png" in page.locator("#photo-note").inner_text()
    assert not page.locator("#slider").is_visible()
    assert page.locator("#after").is_visible()


def test_filters_and_sorting(report, open_page):
    page = open_page(report)
    assert count(page) == "60 of 60 rows"
    page.select_option("#status", "error")
    assert count(page) == "6 of 60 rows"
    page.select_option("#status", "warning")
    assert count(page) == "3 of 60 rows"
    page.click("#reset")
    playwright.expect(page.locator("#count")).to_have_text("60 of 60 rows")
    page.locator(".error", has_text="truncated").get_by_role("button").click()
    assert count(page) == "3 of 60 rows"
    assert names(page, 1) == ["photo-04.png"]
    page.click("#reset")
    playwright.expect(page.locator("#count")).to_have_text("60 of 60 rows")
    rows = next(report.parent.glob("rows-*.js")).read_text()
    values = re.search(r'"psnr_to_input":\[(.*?)\]', rows)[1].split(",")
    known = sorted(float(value) for value in values if value != "null")
    page.get_by_role("button", name="PSNR to input").click()
    figure = page.locator("#rows [role=row]").first.locator(".figure").nth(1)
    assert float(figure.inner_text()) == pytest.approx(known[0], rel=1e-3)
    page.get_by_role("button", name="PSNR to input").click()
    assert page.locator("#head [aria-sort=descending]").inner_text().startswith("PSNR to input")
    assert float(page.locator("#rows [role=row]").first.locator(".figure").nth(1).inner_text()) == pytest.approx(
        known[-1], rel=1e-3
    )
    page.focus("#grid")
    page.keyboard.press("End")
    last = page.locator("#rows [aria-selected=true] .badge").first
    playwright.expect(last).to_have_class("badge bad")  # rows without the figure come last
    page.select_option("#sort", "ssim_to_input")
    page.click("#add-range")
    page.locator("#ranges select").select_option("psnr_to_input")
    page.locator("#ranges input").first.fill(str(known[40]))
    assert count(page) == f"{sum(value >= known[40] for value in known)} of 60 rows"
    page.locator("#ranges input").nth(1).fill(str(known[45]))
    assert count(page) == f"{sum(known[40] <= value <= known[45] for value in known)} of 60 rows"
    page.locator("#ranges button").click()
    page.select_option("#verdict", "flipped")
    flipped = rows[rows.index('"flipped":[') :].partition("]")[0].count("true")
    assert count(page) == f"{flipped} of 60 rows"


def test_everything_can_be_done_from_the_keyboard(report, open_page):
    page = open_page(report)
    page.focus("#grid")
    for _ in range(4):
        page.keyboard.press("ArrowDown")
    active = page.locator("#grid").get_attribute("aria-activedescendant")
    assert page.locator(f"#{active}").get_attribute("aria-selected") == "true"
    assert "photo-01.png" in page.locator(f"#{active}").inner_text()
    page.keyboard.press("Enter")
    page.wait_for_selector("#photo[data-row]")
    assert page.locator("#photo-title").inner_text() == "photo-01.png"
    page.focus("#next")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#photo-title")).to_have_text("photo-02.png")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowUp")
    active = page.locator("#grid").get_attribute("aria-activedescendant")
    assert "photo-01.png" in page.locator(f"#{active}").inner_text()
    assert page.get_by_role("row", name=re.compile("photo-01")).count() == 3
    assert page.locator("#grid").get_attribute("aria-rowcount") == "61"


def test_hostile_names_and_messages_are_text(report, open_page):
    page = open_page(report)
    for name in HOSTILE:
        open_photo(page, name)
        assert page.locator("#photo-title").inner_text() == name
        page.click("#close")
    page.fill("#search", "photo-06")
    assert ATTACK in page.locator("#rows .detail").first.inner_text()
    open_photo(page, "photo-04")
    assert ATTACK in page.locator("#facts").inner_text()
    assert "Copy or download the photo again" in page.locator("#facts").inner_text()
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("#errors").inner_text().count(ATTACK) == 2


def test_the_policy_stops_what_would_come_in_all_the_same(report, open_page, browser):
    """A script in the page's own HTML, as if the escaping had failed, does not run."""
    broken = report.parent / "broken.html"
    broken.write_text(report.read_text().replace("<main>", "<main><script>window.hacked=1</script>"))
    context = browser.new_context()
    page = context.new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(broken.as_uri())
    page.wait_for_selector("#rows [role=row]")
    assert not page.evaluate("'hacked' in window")
    assert any("Content Security Policy" in text for text in said)
    context.close()
    broken.unlink()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_nothing_to_object_to(report, open_page, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page(report, scheme=scheme, width=width)
    page.click("#add-range")
    for what in ("page", "photo"):
        if what == "photo":
            page.locator("#rows [role=row]").first.click()
            page.wait_for_selector("#photo[data-row]")
        found = axe.run(page, options={"preload": False})  # it would fetch the style sheet anew
        assert found.response["passes"]
        assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_light_and_dark_follow_the_system_until_one_is_chosen(report, open_page):
    def paper(page):
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light, dark = "rgb(255, 255, 255)", "rgb(20, 23, 26)"
    page = open_page(report)
    assert paper(page) == light
    page.emulate_media(color_scheme="dark")
    assert paper(page) == dark
    page.select_option("#theme", "light")
    assert paper(page) == light
    page.reload()
    assert paper(page) == light
    page.emulate_media(color_scheme="light")
    page.select_option("#theme", "dark")
    assert paper(page) == dark


def test_the_same_page_behind_a_web_server_or_bucket(report, open_page):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(report.parent)))
    server.RequestHandlerClass.func.log_message = lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page = open_page(f"http://127.0.0.1:{server.server_port}/index.html")
        open_photo(page, "photo-03")
        assert page.locator("#before").is_visible()
    finally:
        server.shutdown()


def test_a_copy_without_its_data_says_so(report, browser, tmp_path):
    for path in report.parent.iterdir():
        if not path.name.startswith("rows-"):
            shutil.copy(path, tmp_path)
    context = browser.new_context()
    page = context.new_page()
    page.goto((tmp_path / "index.html").as_uri())
    playwright.expect(page.locator("#count")).to_contain_text("Copy the whole folder")
    context.close()


def test_a_run_that_has_only_begun(browser, tmp_path):
    photos = save_photos(tmp_path / "in", ["a.png"])
    make_output(str(tmp_path / "out"), photos, lambda number, item: [error_row("crash", "x")], only=[])
    write_report(str(tmp_path / "out"))
    context = browser.new_context()
    page = context.new_page()
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((tmp_path / "out" / "report" / "index.html").as_uri())
    playwright.expect(page.locator("#count")).to_have_text("0 of 0 rows")
    assert "0 of 1 shard:" in page.locator("header").inner_text()
    page.focus("#grid")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    assert wrong == []
    context.close()


def test_one_photo_is_counted_as_one(browser, tmp_path):
    photos = save_photos(tmp_path / "in", ["a.png"])
    make_output(str(tmp_path / "out"), photos, lambda number, item: [error_row("crash", "x")])
    written = write_report(str(tmp_path / "out"))
    assert written.sentences()[0].endswith(": 1 row, 1 photo in the list.")
    context = browser.new_context()
    page = context.new_page()
    page.goto((tmp_path / "out" / "report" / "index.html").as_uri())
    playwright.expect(page.locator("#count")).to_have_text("1 of 1 row")
    assert page.locator("#errors .badge").inner_text() == "1 row"
    context.close()


@pytest.mark.slow
def test_ten_thousand_rows_stay_smooth(open_page, tmp_path):
    pictures = [np.full((12, 16, 3), value, np.uint8) for value in (30, 90, 150, 210)]
    made = [good_row(picture, index, strength=2.0 + index) for index, picture in enumerate(pictures)]
    photos = [(f"photo-{index:05d}.png", f"{tmp_path}/gone/{index}.png") for index in range(2500)]
    rows = partial(lambda number, item: [row | {"ssim_to_input": number / 2500} for row in made])
    make_output(str(tmp_path / "out"), photos, rows, steps=4, shard_size=500)
    write_report(str(tmp_path / "out"))
    page = open_page(tmp_path / "out" / "report" / "index.html")
    assert count(page) == "10,000 of 10,000 rows"
    assert page.locator("#grid").get_attribute("aria-rowcount") == "10001"
    most = 0
    for place in range(0, 10_001, 1000):
        scroll = "(grid, share) => { grid.scrollTop = share * grid.scrollHeight; }"
        page.locator("#grid").evaluate(scroll, place / 10_000)
        page.wait_for_timeout(30)
        most = max(most, page.locator("#rows [role=row]").count())
    assert most <= 30
    playwright.expect(page.locator("#rows [role=row]").last.locator(".name")).to_have_text("photo-02499.png")
    playwright.expect(page.locator("#rows [role=row]").last.locator(".pair img")).to_have_count(1)  # no input
    everything = page.evaluate("document.querySelectorAll('*').length")
    assert everything < 1500
    milliseconds = page.evaluate(
        """() => {
            const start = performance.now();
            for (const figure of ["ssim_to_input", "id", "psnr_to_input"]) {
                document.getElementById("sort").value = figure;
                document.getElementById("sort").dispatchEvent(new Event("change"));
            }
            document.getElementById("search").value = "photo-0";
            document.getElementById("search").dispatchEvent(new Event("input", { bubbles: true }));
            return performance.now() - start;
        }"""
    )
    assert milliseconds < 3000
    page.focus("#grid")
    page.keyboard.press("End")
    active = page.locator("#grid").get_attribute("aria-activedescendant")
    playwright.expect(page.locator(f"#{active} .pair img")).to_have_count(1)
    assert page.evaluate("document.querySelectorAll('head script').length") < 10  # loaded ones are removed
