"""One Chromium for all tests of the page; each test has its own profile, console and requests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.serve.conftest import Running, serving
from tests.serve.page_stub import Listening, Stub

REQUIRED = os.environ.get("NANOCHAT_REQUIRE_BROWSER") == "1"
PATIENCE_MS = 60_000
"""A busy machine is no failure."""
# Modules that import Playwright can't be collected without it.
collect_ignore_glob = [] if REQUIRED or find_spec("playwright") else ["test_*.py"]
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
        from playwright.sync_api import expect, sync_playwright
    except ImportError:
        _absent("playwright is not installed (runs/setup.sh --dev)")
    with sync_playwright() as playwright:
        expect.set_options(timeout=PATIENCE_MS)
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


@contextmanager
def profile(browser, port: int, **options: Any) -> Iterator:
    """A fresh profile. At the end: no error in the console, no request to another host."""
    options = {"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce", **options}
    context = browser.new_context(**options)
    context.set_default_timeout(PATIENCE_MS)
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
    assert hosts - {"", f"127.0.0.1:{port}"} == set()


@pytest.fixture
def context(browser, server: Listening) -> Iterator:
    with profile(browser, server.port) as context:
        yield context


@pytest.fixture
def page(context, server: Listening):
    """The chat page, on the stub."""
    page = context.new_page()
    page.goto(server.url)
    started(page)
    return page


@pytest.fixture(scope="session")
def real_server(served_base: Path) -> Iterator[Running]:
    """The real server with tiny models of random weights."""
    with serving(served_base) as running:
        running.worker()
        yield running


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core."""
    spec = find_spec("axe_playwright_python")
    if spec is None or spec.origin is None:
        _absent("axe-playwright-python is not installed (runs/setup.sh --dev)")
    return (Path(spec.origin).parent / "axe.min.js").read_text()


def violations(page, axe: str) -> list:
    """What axe-core finds, as (rule, elements)."""
    page.evaluate(axe)
    found = page.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
    return [(each["id"], [node["html"][:120] for node in each["nodes"]]) for each in found]


def overflow(page) -> int:
    """Pixels by which the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


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
