"""Editing and regenerating: every version stays, and the reader moves between them."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.serve.page.conftest import answers, ask, bodies
from tests.serve.page_stub import Stub

pytestmark = pytest.mark.slow

# A transaction that never ends, so that the page's own writes wait until the page closes and are then dropped.
BUSY_DATABASE = """() => new Promise((resolve) => {
  indexedDB.open("nanochat").onsuccess = ({ target }) => {
    const names = ["conversations", "messages"];
    const store = target.result.transaction(names, "readwrite").objectStore("messages");
    const again = () => { resolve(); store.count().onsuccess = again; };
    store.count().onsuccess = again;
  };
})"""


def test_regenerating_adds_a_version(page: Page, stub: Stub) -> None:
    stub.plan("First.")
    ask(page)
    expect(answers(page)).to_have_text("First.")
    stub.plan("Second.")
    page.get_by_role("button", name="Regenerate").click()
    expect(answers(page)).to_have_text("Second.")
    expect(page.locator(".branches")).to_have_text("2/2")
    page.get_by_role("button", name="Previous version").click()
    expect(answers(page)).to_have_text("First.")
    expect(page.locator(".branches")).to_have_text("1/2")
    expect(page.get_by_role("button", name="Previous version")).to_be_disabled()
    page.get_by_role("button", name="Next version").click()
    expect(answers(page)).to_have_text("Second.")
    assert stub.bodies[0]["messages"] == stub.bodies[1]["messages"]


def test_editing_keeps_the_old_question_with_everything_after_it(page: Page, stub: Stub) -> None:
    stub.plan("A1")
    ask(page, "Q1")
    expect(answers(page)).to_have_text(["A1"])
    stub.plan("A2")
    ask(page, "Q2")
    expect(answers(page)).to_have_text(["A1", "A2"])
    page.locator(".user").first.hover()
    page.locator(".user").first.get_by_role("button", name="Edit").click()
    editor = page.get_by_label("Edit your message")
    expect(editor).to_be_focused()
    editor.fill("Q1 again")
    stub.plan("A3")
    editor.press("Enter")
    expect(bodies(page)).to_have_text(["Q1 again", "A3"])
    assert stub.bodies[-1]["messages"] == [{"role": "user", "content": "Q1 again"}]
    previous = page.locator(".user").get_by_role("button", name="Previous version")
    previous.focus()
    previous.press("Enter")
    expect(bodies(page)).to_have_text(["Q1", "A1", "Q2", "A2"])
    following = page.locator(".user").first.get_by_role("button", name="Next version")
    page.locator(".user").first.get_by_role("button", name="Next version").press("Enter")
    expect(bodies(page)).to_have_text(["Q1 again", "A3"])
    expect(following).to_be_disabled()
    expect(page.locator(".message.user")).to_be_focused()  # its arrow has nothing more to offer


def test_the_chosen_version_is_what_the_model_reads_and_what_a_reload_shows(page: Page, stub: Stub) -> None:
    stub.plan("First.")
    ask(page, "Q1")
    expect(answers(page)).to_have_text("First.")
    stub.plan("Second.")
    page.get_by_role("button", name="Regenerate").click()
    expect(answers(page)).to_have_text("Second.")
    page.get_by_role("button", name="Previous version").click()
    expect(answers(page)).to_have_text("First.")
    page.reload()
    expect(answers(page)).to_have_text("First.")
    page.locator("#model option").first.wait_for(state="attached")
    ask(page, "Q2")
    expect(answers(page).last).to_have_text("You said: Q2.")
    texts = [message["content"] for message in stub.bodies[-1]["messages"]]
    assert texts == ["Q1", "First.", "Q2"]


def test_a_choice_that_the_database_had_no_time_to_save_survives_a_reload(page: Page, stub: Stub) -> None:
    stub.plan("First.")
    ask(page, "Q1")
    expect(answers(page)).to_have_text("First.")
    stub.plan("Second.")
    page.get_by_role("button", name="Regenerate").click()
    expect(answers(page)).to_have_text("Second.")
    page.evaluate(BUSY_DATABASE)
    page.get_by_role("button", name="Previous version").click()
    expect(answers(page)).to_have_text("First.")
    page.reload()
    expect(answers(page)).to_have_text("First.")


def test_escape_leaves_an_edit_without_a_trace(page: Page, stub: Stub) -> None:
    ask(page, "Q1")
    expect(answers(page)).to_contain_text("You said: ")
    page.get_by_label("Your message").press("ArrowUp")
    editor = page.get_by_label("Edit your message")
    editor.fill("something else")
    editor.press("Escape")
    expect(bodies(page)).to_have_text(["Q1", "You said: Q1."])
    expect(page.get_by_role("button", name="Edit", exact=True)).to_be_focused()
    assert len(stub.bodies) == 1


def test_an_edit_during_an_answer_is_not_lost(page: Page, stub: Stub) -> None:
    answer = stub.plan("a", "b", wait_after=1)
    ask(page, "Q1")
    expect(answers(page)).to_have_text("a")
    page.get_by_label("Your message").press("ArrowUp")
    editor = page.get_by_label("Edit your message")
    editor.fill("Q1, better")
    editor.press("Enter")
    expect(page.get_by_text("Stop the answer that is being written first.")).to_be_visible()
    expect(editor).to_have_value("Q1, better")
    answer.go.set()
    expect(answers(page)).to_have_text("ab")
    editor.press("Enter")
    expect(bodies(page)).to_have_text(["Q1, better", "You said: Q1, better."])
