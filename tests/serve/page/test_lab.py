"""The lab with answers that a test decides."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.serve.page.conftest import started
from tests.serve.page_stub import Listening, Stub

pytestmark = pytest.mark.slow


def test_another_training_in_the_place_of_one_starts_its_curve_anew(
    context, stub: Stub, server: Listening
) -> None:
    def rows(steps: int, loss: float) -> list[dict]:
        shared = {"kind": "train", "total_steps": 5, "tokens": 64, "tok_per_s": 1.0, "loss": loss}
        return [{**shared, "step": step} for step in range(1, steps + 1)]

    stub.runs = [{"run": "sft", "stage": "sft", "steps": 3, "finished": False, "updated": 1.0}]
    stub.rows = rows(3, 9.0)
    page = context.new_page()
    page.goto(f"{server.url}lab")
    chart = page.locator("#training").get_by_role("img")
    expect(chart).to_have_attribute("aria-label", "Training loss: 9.000 at step 1, 9.000 at step 3")
    page.locator("#training").scroll_into_view_if_needed()  # one that nobody sees is not asked for
    stub.rows, stub.started = rows(5, 1.0), 2.0
    expect(chart).to_have_attribute("aria-label", "Training loss: 1.000 at step 1, 1.000 at step 5")


def test_a_call_that_a_rival_ends_shows_its_end_and_its_output(
    context, stub: Stub, server: Listening
) -> None:
    end = {"id": 99, "text": "", "special": "<|python_end|>", "logprob": -2.0}
    stub.plan("6*7", {"text": "+", "top": [end]}, "1")
    output = {"text": "42", "part": "output", "forced": True, "logprob": None}
    stub.plan(output, "Done.")
    page = context.new_page()
    page.goto(f"{server.url}lab")
    started(page)
    page.locator("#odds").get_by_role("button", name="Run").click()
    tokens = page.locator("#odds .strip .token")
    expect(tokens).to_have_count(3)
    tokens.nth(1).click()
    page.locator("#odds .bars button").click()
    expect(tokens).to_have_text(["6*7", "<|python_end|>", "42", "Done."])
    assert stub.bodies[1]["reply_ids"] == [0, 99]
    tokens.nth(2).hover()
    expect(page.locator("#odds .panel")).to_contain_text("Forced by the tool’s output")
