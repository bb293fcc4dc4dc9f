"""The Space in a real browser: what a visitor does, in Debian's chromium, on the embedded checkpoint."""

import json
import pathlib
import re
import shutil
import time

import pytest

pytest.importorskip("gradio", reason="the Space needs gradio: pip install 'anomalygpt[demo]'")
pytest.importorskip("playwright", reason="browser tests need playwright: pip install playwright")

from playwright.sync_api import expect, sync_playwright

from modeling_anomalygpt.checkpoints import EMBEDDED_CHECKPOINT
from spaces_app import app as app_module
from spaces_app import engine as engine_module

CHROMIUM = shutil.which("chromium")
EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
GOOD = [str(EXAMPLES / "capsules" / "good" / f"good_{number}.jpg") for number in (1, 2)]
QUERY = EXAMPLES / "capsules" / "query"
SECONDS = 60_000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="browser tests need chromium: apt-get install chromium"),
    pytest.mark.skipif(
        not (EMBEDDED_CHECKPOINT / "model.safetensors").exists(), reason="needs the embedded checkpoint"
    ),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("served")))
        blocks, address = app_module.launch_app(prevent_thread_lock=True, quiet=True)
        yield address
        blocks.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Visitor:
    """A visitor with a browser context of their own; remembers what a page must not do."""

    def __init__(self, browser, address, **context):
        self.context = browser.new_context(**({"viewport": {"width": 1300, "height": 1200}} | context))
        self.page = self.context.new_page()
        self.complaints = []
        self.page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((address, "data:", "blob:"))
                else self.complaints.append(f"external request {request.url}")
            ),
        )
        self.page.on("pageerror", lambda error: self.complaints.append(f"script error {error}"))
        self.page.on(
            "console", lambda message: self.complaints.append(message.text) if message.type == "error" else None
        )
        self.page.goto(address, wait_until="domcontentloaded")
        expect(self.page.locator("#inspect")).to_be_visible(timeout=SECONDS)
        expect(self.page.locator("#verdict .ag-idle")).to_be_visible(timeout=SECONDS)

    def upload(self, picture, references=()):
        self.page.set_input_files("#picture input[type=file]", str(picture))
        expect(self.page.locator("#picture img")).to_be_visible(timeout=SECONDS)
        if references:
            self.references(references)

    def references(self, paths):
        self.page.set_input_files("#references input[type=file]", [str(path) for path in paths])
        self.count_references(len(paths))

    def count_references(self, count):
        thumbnails = self.page.locator("#references .thumbnail-item, #references .thumbnail-lg")
        expect(thumbnails).to_have_count(count, timeout=SECONDS)

    def example(self, number):
        self.page.locator("#examples .thumbnail-item, #examples .thumbnail-lg").nth(number).click()

    def inspect(self):
        self.page.locator("#inspect").click()

    def see(self, selector, text=None):
        found = self.page.locator(selector).last
        expect(found).to_be_visible(timeout=SECONDS)
        if text is not None:
            expect(found).to_contain_text(text, timeout=SECONDS)
        return found

    def ask(self, question):
        box = self.page.locator("#message textarea")
        box.fill(question)
        box.press("Enter")


@pytest.fixture
def visit(browser, address):
    visitors = []

    def arrive(**context):
        visitors.append(Visitor(browser, address, **context))
        return visitors[-1]

    yield arrive
    for visitor in visitors:
        visitor.context.close()
    for visitor in visitors:
        assert not visitor.complaints


def test_a_visitor_uploads_inspects_asks_and_clicks_a_region(visit):
    visitor = visit()
    visitor.upload(QUERY / "part_6_crack.jpg", GOOD)
    visitor.inspect()
    visitor.see("#verdict .ag-anomalous")
    visitor.see("#regions td", None)
    visitor.see("#chatbot [data-testid=bot]")
    bots = visitor.page.locator("#chatbot [data-testid=bot]")
    before = bots.count()
    visitor.ask("异常在哪里？")
    expect(bots).to_have_count(before + 1, timeout=SECONDS)
    expect(bots.last).to_contain_text("右下", timeout=SECONDS)
    visitor.ask("Highlight the anomalies")
    visitor.see("#chatbot [data-testid=bot] img")
    # A click into the picture, where the crack is (its region's middle is near x 364, y 350 of 448).
    box = visitor.page.locator("#overlay img.mask").first.bounding_box()
    scale = min(box["width"], box["height"]) / 448
    visitor.page.locator("#overlay").scroll_into_view_if_needed()
    box = visitor.page.locator("#overlay img.mask").first.bounding_box()
    x, y = (box[a] + box[s] / 2 + (at - 224) * scale for a, s, at in (("x", "width", 364), ("y", "height", 347)))
    visitor.page.mouse.click(x, y)
    visitor.see("#region-card", "bottom right")
    visitor.see("#region-box img")


def test_an_example_runs_with_one_click_and_a_row_opens_its_region(visit):
    visitor = visit()
    visitor.example(0)
    visitor.see("#verdict .ag-anomalous")
    visitor.see("#regions tr[data-region]").click()
    visitor.see("#region-card")
    visitor.count_references(4)


def test_what_goes_wrong_is_said_in_words(visit, tmp_path):
    visitor = visit()
    visitor.inspect()
    visitor.see("#verdict .ag-error", "no picture to inspect yet")
    visitor.ask("Where is it?")
    visitor.see("#chatbot [data-testid=bot]", "Inspect a picture first")
    bad = tmp_path / "torn <i>.png"
    bad.write_bytes((QUERY / "part_1_good.jpg").read_bytes()[:500])
    visitor.page.set_input_files("#picture input[type=file]", str(bad))
    visitor.page.wait_for_timeout(1000)
    visitor.inspect()
    visitor.see("#verdict .ag-error", "cannot be used")
    expect(visitor.page.locator("#verdict i:not(.ag-dot)")).to_have_count(0)
    expect(visitor.page.locator("#inspect")).to_be_enabled(timeout=SECONDS)
    visitor.complaints = [one for one in visitor.complaints if "Failed to load resource" not in one]


def test_markup_stays_text_and_a_question_during_the_inspection_waits_for_it(visit):
    visitor = visit()
    visitor.upload(QUERY / "part_1_good.jpg", GOOD)
    box = visitor.page.locator("#category input")
    box.fill("<img src=x onerror=document.title='stolen'>")
    box.press("Enter")
    visitor.inspect()
    visitor.see("#verdict .ag-busy")
    visitor.ask("<img src=x onerror=document.title='stolen'> Where is it?")
    visitor.see("#chatbot [data-testid=user]", "<img src=x")
    visitor.see("#chatbot [data-testid=bot]")
    expect(visitor.page.locator("#chatbot")).not_to_contain_text("Inspect a picture first")
    assert visitor.page.title() == "AnomalyGPT"


def test_two_visitors_at_once_see_their_own_results(visit):
    one, two = visit(), visit(locale="zh-CN")
    two.see("#verdict h3", "尚未检测")
    one.upload(QUERY / "part_6_crack.jpg", GOOD)
    two.upload(EXAMPLES / "zipper" / "query" / "part_1_good.jpg", [EXAMPLES / "zipper" / "good" / "good_1.jpg"])
    one.inspect()
    two.inspect()
    one.see("#verdict .ag-anomalous", "bottom right")
    two.see("#verdict .ag-card:not(.ag-busy):not(.ag-idle)")
    expect(two.page.locator("#verdict")).not_to_contain_text("bottom right")
    one.ask("Where is the anomaly?")
    two.ask("异常在哪里？")
    one.see("#chatbot [data-testid=user]", "Where is the anomaly?")
    two.see("#chatbot [data-testid=user]", "异常在哪里？")
    expect(one.page.locator("#chatbot")).not_to_contain_text("异常在哪里")


def test_two_clicks_on_a_known_length_give_millimetres(visit):
    visitor = visit()
    visitor.upload(QUERY / "part_6_crack.jpg", GOOD)
    visitor.page.locator("#scale button").first.click()
    picture = visitor.see("#scale-picture img")
    for share in (0.25, 0.75):
        picture.click(
            position={"x": picture.bounding_box()["width"] * share, "y": picture.bounding_box()["height"] / 2}
        )
        visitor.page.wait_for_timeout(1500)
        picture = visitor.see("#scale-picture img")
    visitor.see("#scale-none", "mm per pixel")
    visitor.inspect()
    visitor.see("#regions th:nth-child(3)", "mm")


def test_only_what_is_painted_on_a_good_picture_counts(visit):
    visitor = visit()
    visitor.upload(QUERY / "part_6_crack.jpg", GOOD)
    visitor.page.locator("#region-fold button").first.click()
    visitor.page.wait_for_timeout(4000)
    box = visitor.see("#region-editor").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 4
    visitor.page.mouse.move(x - 60, y)
    visitor.page.mouse.down()
    visitor.page.mouse.move(x + 60, y, steps=10)
    visitor.page.mouse.up()
    visitor.inspect()
    visitor.see("#verdict .ag-card:not(.ag-busy):not(.ag-idle)")
    expect(visitor.page.locator("#verdict")).not_to_contain_text("bottom right")  # where the crack is
    visitor.page.locator("#region-find").click()
    visitor.see("#region-note", "% of the picture would count")
    visitor.page.wait_for_timeout(2000)
    visitor.inspect()
    visitor.see("#verdict .ag-busy")
    visitor.see("#verdict .ag-anomalous", "bottom right")
    # Gradio's editor says so when it takes a new picture while it draws.
    visitor.complaints = [one for one in visitor.complaints if "No draw texture found" not in one]


def test_many_pictures_give_a_table_and_downloads(visit):
    visitor = visit()
    visitor.references(GOOD)
    visitor.page.get_by_role("tab", name="Many pictures").click()
    visitor.page.set_input_files(
        "#batch-files input[type=file]", [str(path) for path in sorted(QUERY.glob("*.jpg"))[:3]]
    )
    expect(visitor.page.locator("#batch-files")).to_contain_text("part_3", timeout=SECONDS)
    visitor.page.locator("#batch-run").click()
    visitor.see("#batch-empty", "3 pictures:")
    for name in ("results.json", "results.csv", "report.html"):
        stem = name.split(".")[0]
        expect(visitor.page.locator("#downloads")).to_contain_text(stem, timeout=SECONDS)
    visitor.page.locator("#batch-table").get_by_text("part_2_missing_part.jpg").last.click()
    visitor.see("#batch-picture img")


def test_stopping_many_pictures_keeps_what_is_done(visit, tmp_path, monkeypatch):
    whole = engine_module.inspect_batch

    def slowly(*arguments):
        for results in whole(*arguments):
            yield results
            time.sleep(0.2)

    monkeypatch.setattr(engine_module, "inspect_batch", slowly)  # there must be time to press the button
    for number in range(20):
        shutil.copyfile(QUERY / "part_6_crack.jpg", tmp_path / f"piece_{number:02d}.jpg")
    visitor = visit()
    visitor.references(GOOD)
    visitor.page.get_by_role("tab", name="Many pictures").click()
    visitor.page.set_input_files("#batch-files input[type=file]", [str(path) for path in sorted(tmp_path.iterdir())])
    expect(visitor.page.locator("#batch-files")).to_contain_text("piece_19", timeout=SECONDS)
    visitor.page.locator("#batch-run").click()
    expect(visitor.page.locator("#batch-table")).to_contain_text("piece_00", timeout=SECONDS)
    visitor.page.locator("#batch-stop").click()
    told = re.compile(r"Stopped after (\d+) of 20")
    done = int(told.search(visitor.see("#batch-empty", "Stopped after").inner_text())[1])
    assert 0 < done < 20
    expect(visitor.page.locator("#downloads")).to_contain_text("report", timeout=SECONDS)
    visitor.page.wait_for_timeout(1500)  # nothing goes on behind the visitor's back
    assert int(told.search(visitor.see("#batch-empty").inner_text())[1]) == done


def test_the_page_fits_a_phone_and_turns_dark(visit):
    visitor = visit(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True, locale="zh-CN")
    visitor.example(1)
    visitor.see("#verdict .ag-anomalous")
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 391
    dark = visitor.page.evaluate("document.body.classList.contains('dark')")
    visitor.page.locator("#theme").click()
    assert visitor.page.evaluate("document.body.classList.contains('dark')") is not dark


def test_another_language_holds_for_the_whole_page_and_for_screen_readers(visit):
    visitor = visit(locale="zh-CN")
    language, told = visitor.page.locator("#language"), "document.documentElement.lang"
    visitor.inspect()
    visitor.see("#verdict .ag-error", "图片")
    assert visitor.page.evaluate(told) == "zh"
    language.get_by_text("English").click()
    expect(visitor.page.locator("#inspect")).to_contain_text("Inspect", timeout=SECONDS)
    visitor.see("#verdict .ag-error")  # not the welcome of a page where nothing was tried
    assert visitor.page.evaluate(told) == "en"
    visitor.example(0)
    visitor.see("#verdict .ag-anomalous")
    language.get_by_text("中文").click()
    visitor.see("#verdict .ag-anomalous", "异常")
    expect(visitor.page.locator("#regions")).to_contain_text(re.compile("[上下左右中]"), timeout=SECONDS)


def test_every_tab_of_a_local_page_with_a_shift_fits_a_phone(browser, tmp_path):
    rows = [
        {"image": f"{number}.png", "verdict": "anomalous", "pred_score": 2.5, "time": f"2026-03-29T06:0{number}:00"}
        for number in range(1, 6)
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    blocks, address = app_module.launch_app(results=tmp_path, prevent_thread_lock=True, quiet=True)
    visitor = Visitor(browser, address, viewport={"width": 390, "height": 844}, has_touch=True)
    try:
        for name in ("Many pictures", "Shift", "How it works"):
            tab = visitor.page.get_by_role("tab", name=name)
            if not tab.is_visible():
                visitor.page.locator(".overflow-menu > button").click()
                tab = visitor.page.locator(".overflow-dropdown button", has_text=name)
            tab.click()
            visitor.page.wait_for_timeout(1500)
            assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 391, name
    finally:
        visitor.context.close()
        blocks.close(verbose=False)
