"""Writing to the model and reading its answer, in a real browser."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.slow


def ask(page, text: str = "Hello") -> None:
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def answers(page):
    return page.locator(".message.assistant")


def test_a_question_is_answered(page, stub) -> None:
    stub.plan("Paris ", "is **it**", ".")
    ask(page, "Which city?")
    expect(answers(page).locator(".body")).to_have_text("Paris is it.")
    expect(page.locator(".message.user .body")).to_have_text("Which city?")
    expect(page.get_by_label("Your message")).to_have_value("")
    expect(page.get_by_label("Your message")).to_be_focused()
    assert stub.bodies[0]["messages"] == [{"role": "user", "content": "Which city?"}]
    assert stub.bodies[0]["model"] == "sft"
