"""Pictures for the READMEs: the page on a desktop, on a phone and in the dark, and a report; look at each of them.

    python -m benchmarks.screenshots

Writes docs/report.png and docs/screenshots/*.png from the example pictures and the embedded checkpoint. Needs chromium
and the packages gradio and playwright.
"""

import argparse
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).parent.parent
EXAMPLES, DOCS = ROOT / "examples", ROOT / "docs"
MILLISECONDS = 60_000


def main(arguments: Sequence[str] | None = None) -> int:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.screenshots", description=__doc__, formatter_class=plain)
    parser.parse_args(arguments)
    from playwright.sync_api import sync_playwright

    from spaces_app.app import launch_app

    blocks, address = launch_app(prevent_thread_lock=True, quiet=True)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        photograph_desktop(browser, address)
        photograph_phone(browser, address)
        photograph_dark(browser, address)
        photograph_report(browser)
        browser.close()
    blocks.close(verbose=False)
    return 0


def photograph_desktop(browser, address: str) -> None:
    """The crack, a clicked region, and a conversation in two languages."""
    page = opened(browser, address, viewport={"width": 1360, "height": 1200})
    run_example(page, 1)
    page.locator("#regions tr[data-region]").first.click()
    page.locator("#region img").first.wait_for(timeout=MILLISECONDS)
    for question in ("Where is the anomaly?", "异常在哪里？"):
        ask(page, question)
    photograph(page, DOCS / "screenshots" / "space_desktop.png", full_page=True)


def photograph_phone(browser, address: str) -> None:
    """The same picture on a phone, in Chinese."""
    phone = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True}
    page = opened(browser, address, has_touch=True, locale="zh-CN", **phone)
    run_example(page, 1)
    page.evaluate("document.querySelector('#verdict').scrollIntoView(); window.scrollBy(0, -12)")
    photograph(page, DOCS / "screenshots" / "space_phone.png")


def photograph_dark(browser, address: str) -> None:
    """The thread on the zipper: picture against map, and the overlay as an answer."""
    page = opened(browser, address, viewport={"width": 1360, "height": 1200}, color_scheme="dark")
    run_example(page, 4)
    page.get_by_role("tab", name="Picture | map").click()
    ask(page, "Highlight the anomalies")
    page.locator("#chatbot [data-testid=bot] img").last.wait_for(timeout=MILLISECONDS)
    photograph(page, DOCS / "screenshots" / "space_dark.png", full_page=True)


def photograph_report(browser) -> None:
    """The report of `make demo`."""
    from modeling_anomalygpt.cli import main as anomalygpt

    with tempfile.TemporaryDirectory() as folder:
        capsules = [str((EXAMPLES / "capsules" / part).relative_to(ROOT)) for part in ("query", "good")]
        inspect = ["inspect", capsules[0], "--references", capsules[1], "--category", "capsules", "--output", folder]
        if anomalygpt(inspect):
            raise RuntimeError("The example pictures could not be inspected.")
        page = opened(browser, pathlib.Path(folder, "report.html").as_uri(), viewport={"width": 1200, "height": 1330})
        page.locator(".card").first.wait_for(timeout=MILLISECONDS)
        photograph(page, DOCS / "report.png")


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


def photograph(page, path: pathlib.Path, full_page: bool = False) -> None:
    page.wait_for_timeout(1500)  # pictures are decoded, panels have unfolded
    page.screenshot(path=path, full_page=full_page)
    page.context.close()


if __name__ == "__main__":
    sys.exit(main())
