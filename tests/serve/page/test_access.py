"""For everybody: keyboard, screen readers, narrow screens, zoom, both themes; and light enough to keep open."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.serve.page.conftest import answers, ask, overflow, profile, started, violations
from tests.serve.page_stub import PAGE, Listening, Stub

pytestmark = pytest.mark.slow


SCREENS = [(theme, width) for theme in ("light", "dark") for width in (360, 1280)]


@pytest.mark.parametrize(("theme", "width"), SCREENS)
def test_the_chat_has_no_violation(page: Page, stub: Stub, axe: str, theme: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 740})
    page.emulate_media(color_scheme=theme)
    assert violations(page, axe) == []
    call, output = {"text": "2+2", "part": "python"}, {"text": "4", "part": "output", "forced": True}
    stub.plan(call, output, "## It\n\n- is `4`\n\n```py\nx\n```\n\n|a|b|\n|-|-|\n|1|2|\n\n> [q](https://a.b)")
    ask(page)
    expect(answers(page)).to_contain_text("It")
    stub.plan("x", status=500)
    page.get_by_role("button", name="Regenerate").click()
    expect(page.get_by_role("alert")).to_be_visible()
    assert violations(page, axe) == []
    page.get_by_role("button", name="Previous version").click()
    expect(page.locator(".tool")).to_be_visible()
    assert violations(page, axe) == []
    page.get_by_role("button", name="Settings").click()
    assert violations(page, axe) == []
    page.keyboard.press("Escape")
    if width < 900:
        page.get_by_role("button", name="Conversations").click()
        page.locator("#sidebar").get_by_role("button", name="Export").click(trial=True)
        assert violations(page, axe) == []


def test_a_short_window_begins_with_the_greeting(page: Page, stub: Stub) -> None:
    page.set_viewport_size({"width": 360, "height": 420})
    stub.plan("word " * 400)
    ask(page)
    expect(page.get_by_role("button", name="Regenerate")).to_be_visible()
    page.get_by_role("button", name="Conversations").click()
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_role("heading", name="What would you like to know?")).to_be_in_viewport(ratio=1)
    expect(page.get_by_role("button", name="Jump to latest")).to_be_hidden()


def test_a_phone_shows_the_whole_name_of_the_model(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    shown = "select => select.clientWidth"
    as_wide_as_it_likes = """select => {
        const free = select.cloneNode(true);
        free.style.cssText = "flex: none; position: absolute; width: auto";
        select.after(free);
        const width = free.clientWidth;
        free.remove();
        return width;
    }"""
    model = page.locator("#model")
    assert model.evaluate(shown) >= model.evaluate(as_wide_as_it_likes)


@pytest.mark.parametrize("width", [320, 360, 768, 1280, 2560])
def test_nothing_is_cut_off_at_any_width(page: Page, stub: Stub, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 700})
    stub.plan(f"{'W' * 400}\n\n```py\n{'x' * 400}\n```\n\n|{'a|' * 40}\n|{'-|' * 40}\n")
    ask(page, "M" * 300)
    expect(answers(page).locator(".code")).to_be_visible()
    assert overflow(page) <= 0
    assert page.evaluate("log.scrollWidth - log.clientWidth") <= 0
    for control in ("Settings", "Send"):
        page.get_by_role("button", name=control, exact=True).click(trial=True)
    box = page.locator(".message.assistant").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width


def test_at_twice_the_size_a_laptop_still_shows_log_and_composer(
    browser, server: Listening, stub: Stub
) -> None:
    """Zoom of 200 % on 1280 × 720 is a window of 640 × 360 pixels of CSS."""
    with profile(
        browser, server.port, viewport={"width": 640, "height": 360}, device_scale_factor=2
    ) as context:
        page = context.new_page()
        page.goto(server.url)
        started(page)
        ask(page, "\n".join("line" for _ in range(40)))
        expect(answers(page)).to_contain_text("You said: ")
        page.get_by_label("Your message").fill("\n".join("line" for _ in range(40)))
        assert page.locator("#log").bounding_box()["height"] > 80
        page.get_by_role("button", name="Send", exact=True).click(trial=True)


def test_everything_works_by_keyboard(page: Page, stub: Stub) -> None:
    """Tab order as it is read; no control is out of reach or without a name."""
    ask(page, "Q1")
    expect(answers(page)).to_contain_text("You said: ")
    seen = []
    page.keyboard.press("Tab")
    for _ in range(60):
        name = page.evaluate(
            "(() => { const a = document.activeElement; return a === document.body ? null : "
            "a.getAttribute('aria-label') || a.innerText || a.placeholder || a.tagName; })()"
        )
        if name in seen[-60:-1] and name == seen[0]:
            break
        seen.append(name)
        page.keyboard.press("Tab")
    for control in ("New chat", "Model", "Lab", "Settings", "Messages", "Edit", "Regenerate", "Your message"):
        assert control in seen, seen
    page.get_by_label("Your message").focus()
    answer = stub.plan("a", "b", wait_after=1)
    page.keyboard.type("Q2")
    page.keyboard.press("Enter")
    expect(answers(page).last).to_have_text("a")
    page.keyboard.press("Escape")
    assert answer.left.wait(10)
    expect(page.get_by_label("Your message")).to_be_focused()


def test_the_sidebar_of_a_narrow_screen_holds_the_focus(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    page.get_by_role("button", name="Conversations").press("Enter")
    expect(page.get_by_label("Search conversations")).to_be_focused()
    expect(page.locator("#main")).to_have_attribute("inert", "")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Conversations")).to_be_focused()


def test_the_theme_follows_the_system_until_told_otherwise(page: Page) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="light")
    light = page.evaluate(paper)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(paper)
    assert light != dark
    page.get_by_role("button", name="Theme: as the system").click()
    assert page.evaluate(paper) == light
    page.reload()
    assert page.evaluate(paper) == light
    page.get_by_role("button", name="Theme: light").click()
    assert page.evaluate(paper) == dark


def test_reduced_motion_stops_every_animation(page: Page, stub: Stub) -> None:
    stub.plan("a", wait_after=0)
    ask(page)
    expect(page.locator(".message.waiting")).to_be_visible()
    running = "document.getAnimations().length"
    assert page.evaluate(running) == 0
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate(running) > 0


def test_touch_screens_send_by_the_button(browser, server: Listening, stub: Stub) -> None:
    screen = {"viewport": {"width": 360, "height": 700}, "has_touch": True, "is_mobile": True}
    with profile(browser, server.port, **screen) as context:
        page = context.new_page()
        page.goto(server.url)
        started(page)
        ask(page, "line")
        expect(page.get_by_label("Your message")).to_have_value("line\n")
        page.get_by_role("button", name="Send", exact=True).tap()
        expect(answers(page)).to_have_text("You said: line.")


@pytest.mark.parametrize("entry", ["index.html", "lab.html"])
def test_a_page_loads_less_than_100_kb(entry: str) -> None:
    needed, found = [entry], set()
    while needed:
        name = needed.pop()
        if name not in found:
            found.add(name)
            text = (PAGE / name).read_text()
            needed += re.findall(r'(?:src|href)="static/([^"]+)"', text) + re.findall(
                r'from "./([^"]+)"', text
            )
    assert {"style.css", "theme.js", "dom.js", "api.js", "icon.svg"} <= found
    assert sum((PAGE / name).stat().st_size for name in found) < 100_000


def test_its_files_have_the_size_of_a_module() -> None:
    for path in PAGE.iterdir():
        assert len(path.read_text().splitlines()) <= 300, path.name


@pytest.mark.parametrize(
    "forbidden", ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("]
)
def test_no_script_parses_markup(forbidden: str) -> None:
    assert [path.name for path in PAGE.glob("*.js") if forbidden in path.read_text()] == []


def test_the_context_is_quiet(context: BrowserContext, page: Page) -> None:
    """The fixture itself would report a console error or a request to another host; an idle page makes none."""
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert requests == []
