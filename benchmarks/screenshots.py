"""Pictures for the READMEs: the page on a desktop, on a phone and in the dark, and a report; look at each of them.

    python -m benchmarks.screenshots

Writes docs/report.png and docs/screenshots/*.png from the example pictures and the embedded checkpoint. Needs
chromium, a Chinese font (fonts-noto-cjk) and the packages gradio and playwright.
"""

import pathlib
import shutil
import tempfile

from playwright.sync_api import sync_playwright

from benchmarks.measuring import ROOT
from modeling_anomalygpt.cli import main as anomalygpt
from spaces_app.app import launch_app

MILLISECONDS = 60_000
DESKTOP = {"viewport": {"width": 1360, "height": 1200}}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}


def photograph_page(browser, address: str) -> None:
    """On a desktop, on a phone in Chinese, in the dark."""
    page = opened(browser, address, **DESKTOP)
    run_example(page, 1)  # the crack
    page.locator("#regions tr[data-region]").first.click()
    page.locator("#region-box img").first.wait_for(timeout=MILLISECONDS)
    for question in ("Where is the anomaly?", "异常在哪里？"):
        ask(page, question)
    photograph(page, "screenshots/space_desktop.png", full_page=True)
    page = opened(browser, address, locale="zh-CN", **PHONE)
    run_example(page, 1)
    page.evaluate("document.querySelector('#verdict').scrollIntoView(); window.scrollBy(0, -12)")
    photograph(page, "screenshots/space_phone.png")
    page = opened(browser, address, color_scheme="dark", **DESKTOP)
    run_example(page, 4)  # the thread on the zipper
    page.get_by_role("tab", name="Picture | map").click()
    ask(page, "Highlight the anomalies")
    page.locator("#chatbot [data-testid=bot] img").last.wait_for(timeout=MILLISECONDS)
    photograph(page, "screenshots/space_dark.png", full_page=True)


def photograph_report(browser) -> None:
    """The report of `make demo`."""
    with tempfile.TemporaryDirectory() as folder:
        query, good = (f"examples/capsules/{part}" for part in ("query", "good"))
        if anomalygpt(["inspect", query, "--references", good, "--category", "capsules", "--output", folder]):
            raise SystemExit("The example pictures could not be inspected.")
        address = pathlib.Path(folder, "report.html").as_uri()
        page = opened(browser, address, viewport={"width": 1200, "height": 1330})
        page.locator(".card").first.wait_for(timeout=MILLISECONDS)
        photograph(page, "report.png")


def opened(browser, address: str, **context):
    page = browser.new_context(**context).new_page()
    page.goto(address, wait_until="domcontentloaded")
    return page


def run_example(page, number: int) -> None:
    page.locator("#verdict .ag-idle").wait_for(timeout=MILLISECONDS)
    page.wait_for_timeout(1500)  # the visitor's language arrives after the page
    page.locator("#examples .thumbnail-item, #examples .thumbnail-lg").nth(number).click()
    page.locator("#verdict .ag-reasons").wait_for(timeout=MILLISECONDS)
    page.locator("#regions td").first.wait_for(timeout=MILLISECONDS)


def ask(page, question: str) -> None:
    bots = page.locator("#chatbot [data-testid=bot]")
    before = bots.count()
    page.locator("#message textarea").fill(question)
    page.locator("#message textarea").press("Enter")
    bots.nth(before).wait_for(timeout=MILLISECONDS)
    page.wait_for_timeout(2500)  # the answer grows


def photograph(page, name: str, full_page: bool = False) -> None:
    page.wait_for_timeout(1500)  # pictures are decoded, panels have unfolded
    page.screenshot(path=ROOT / "docs" / name, full_page=full_page)
    page.context.close()


def main() -> None:
    blocks, address = launch_app(prevent_thread_lock=True, quiet=True)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        photograph_page(browser, address)
        photograph_report(browser)
        browser.close()
    blocks.close(verbose=False)


if __name__ == "__main__":
    main()
