"""Pictures of the page for the README, from a running server: the chat on a phone, the lab on a desktop.

    nanochat serve &
    python bench/screenshots.py http://127.0.0.1:8000 docs/images

Needs playwright and Chromium (`apt-get install -y chromium`).
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

QUESTIONS = ("What is the capital of France?", "What is 47 times 36?", "What is the opposite of hot?")
PHONE = {
    "viewport": {"width": 375, "height": 740},
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
}
DESKTOP = {"viewport": {"width": 1280, "height": 1130}}
SEED = "4"


def chat_on_a_phone(browser: Browser, url: str) -> bytes:
    context = browser.new_context(**PHONE, color_scheme="light", reduced_motion="reduce")
    page = _open(context.new_page(), url)
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("spinbutton", name="Seed").fill(SEED)
    page.get_by_role("spinbutton", name="Temperature").fill("0")
    page.keyboard.press("Escape")
    for question in QUESTIONS:
        page.get_by_label("Your message").fill(question)
        page.get_by_role("button", name="Send", exact=True).click()
        expect(page.get_by_role("button", name="Regenerate")).to_have_count(QUESTIONS.index(question) + 1)
    page.locator("#input").evaluate("input => input.blur()")
    return _shot(page)


def lab_on_a_desktop(browser: Browser, url: str) -> bytes:
    context = browser.new_context(**DESKTOP, color_scheme="light", reduced_motion="reduce")
    page = _open(context.new_page(), f"{url}/lab")
    odds, compare = page.locator("#odds"), page.locator("#compare")
    page.locator("#model").select_option("baserun")
    odds.get_by_label("Prompt").fill("Early one morning the fisherman went down to")
    odds.get_by_label("Tokens", exact=True).fill("80")
    odds.get_by_role("button", name="Run").click()
    expect(odds.get_by_role("button", name="Run")).to_be_visible()
    odds.locator(".token").nth(8).click()
    odds.locator(".bars button").nth(1).click()
    expect(odds.get_by_role("button", name="Run")).to_be_visible()
    odds.locator(".token").nth(8).click()
    compare.get_by_label("Seed").fill(SEED)
    compare.get_by_role("button", name="Compare").click()
    expect(compare.get_by_role("button", name="Compare")).to_be_visible()
    expect(page.locator("#training .chart")).not_to_have_count(0)
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    return _shot(page)


def _open(page: Page, url: str) -> Page:
    page.goto(url)
    page.locator("#model option").first.wait_for(state="attached")
    return page


def _shot(page: Page) -> bytes:
    """A PNG of at most 256 colours: flat pages lose nothing and need a third of the bytes."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    small = io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    program = os.environ.get("NANOCHAT_CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        for name, picture in {"chat-phone": chat_on_a_phone, "lab-desktop": lab_on_a_desktop}.items():
            path = arguments.directory / f"{name}.png"
            path.write_bytes(picture(browser, arguments.url.rstrip("/")))
            print(f"{path}: {path.stat().st_size:,} bytes")
        browser.close()


if __name__ == "__main__":
    main()
