"""One Chromium for all tests of the page; each test has its own profile, console and requests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.serve.page_stub import Listening, Stub

REQUIRED = os.environ.get("NANOCHAT_REQUIRE_BROWSER") == "1"
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)


def _absent(reason: str) -> None:
    if REQUIRED:
        pytest.fail(f"NANOCHAT_REQUIRE_BROWSER=1, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Debian's Chromium (apt-get install -y chromium)."""
    program = os.environ.get("NANOCHAT_CHROMIUM") or shutil.which("chromium")
    if not program:
        _absent("there is no chromium (apt-get install -y chromium, or NANOCHAT_CHROMIUM)")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _absent("playwright is not installed (runs/setup.sh --dev)")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=list(QUIET))
        yield chromium
        chromium.close()


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
def server(stub: Stub) -> Iterator[Listening]:
    listening = Listening(stub.app())
    yield listening
    for answer in stub.answers:
        answer.go.set()
    listening.stop()


@pytest.fixture
def context(browser, server: Listening) -> Iterator:
    """A fresh profile. At the end: no error in the console, no request to another host."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    context.set_default_timeout(10_000)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    faults: list[str] = []
    hosts: set[str] = set()

    def console(message) -> None:
        refused = message.text.startswith("Failed to load resource")  # what the test's server did
        if message.type == "error" and not refused:
            faults.append(message.text)

    context.on("console", console)
    context.on("weberror", lambda error: faults.append(str(error.error)))
    context.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    yield context
    context.close()
    assert faults == []
    assert hosts - {"", f"127.0.0.1:{server.port}"} == set()


@pytest.fixture
def page(context, server: Listening):
    page = context.new_page()
    page.goto(server.url)
    page.locator("#model option").first.wait_for(state="attached")
    return page


def started(page) -> None:
    """Wait until the page has the server's models."""
    page.locator("#model option").first.wait_for(state="attached")


def ask(page, text: str = "Hello") -> None:
    """Write a message and send it."""
    page.get_by_label("Your message").fill(text)
    page.get_by_label("Your message").press("Enter")


def answers(page):
    """The assistant's texts, in order."""
    return page.locator(".message.assistant .body")


def bodies(page):
    """All texts, in order."""
    return page.locator(".message .body")
