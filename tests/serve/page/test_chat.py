"""Writing to the model and reading its answer, in a real browser."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Page, expect

from tests.serve.page.conftest import answers, ask, bodies, started
from tests.serve.page_stub import Listening, Stub, model

pytestmark = pytest.mark.slow


def test_a_question_is_answered(page: Page, stub: Stub) -> None:
    stub.plan("Paris ", "is **it**", ".")
    ask(page, "Which city?")
    expect(bodies(page)).to_have_text(["Which city?", "Paris is it."])
    expect(page.locator(".assistant strong")).to_have_text("it")
    expect(page.get_by_label("Your message")).to_have_value("")
    expect(page.get_by_label("Your message")).to_be_focused()
    assert stub.bodies[0]["messages"] == [{"role": "user", "content": "Which city?"}]
    assert stub.bodies[0]["model"] == "sft"
    assert stub.bodies[0]["temperature"] == 0.6


def test_an_answer_appears_while_it_is_written(page: Page, stub: Stub) -> None:
    answer = stub.plan("One ", "two ", "three.", wait_after=2)
    ask(page)
    expect(answers(page)).to_have_text("One two")
    expect(page.get_by_role("log")).to_have_attribute("aria-busy", "true")
    answer.go.set()
    expect(answers(page)).to_have_text("One two three.")
    expect(page.get_by_role("log")).to_have_attribute("aria-busy", "false")


def test_no_token_is_lost_where_the_network_splits_events(page: Page) -> None:
    """Byte by byte: within a character, within `data:`, and between the carriage return and the line feed."""
    words = ["Grüße ", "aus ", "München ", "🎈", "!"]
    events = [f"data: {json.dumps({'text': word}, ensure_ascii=False)}\r\n\r\n" for word in words]
    read = page.evaluate(
        """async (bytes) => {
            const { stream } = await import('./static/api.js');
            const body = new ReadableStream({
                start(controller) {
                    for (const byte of bytes) controller.enqueue(new Uint8Array([byte]));
                    controller.close();
                },
            });
            globalThis.fetch = async () => new Response(body);
            const texts = [];
            for await (const item of stream('api/generate', {})) texts.push(item.text);
            return texts;
        }""",
        list("".join([*events, ": a comment\n\n", "data: [DONE]\n\n"]).encode()),
    )
    assert read == words


def test_stop_ends_the_request_on_the_server(page: Page, stub: Stub) -> None:
    answer = stub.plan("One ", "two ", "three.", wait_after=2)
    ask(page)
    expect(answers(page)).to_have_text("One two")
    page.get_by_role("button", name="Stop", exact=True).click()
    assert answer.left.wait(10)
    expect(page.locator(".assistant .foot")).to_contain_text("Stopped")
    expect(answers(page)).to_have_text("One two")
    page.get_by_role("button", name="Continue").click()
    expect(answers(page)).to_have_text("One two You said: Hello.")
    assert stub.bodies[1]["reply_ids"] == [0, 1]


def test_escape_in_another_field_leaves_the_answer_alone(page: Page, stub: Stub) -> None:
    answer = stub.plan("One ", "two.", wait_after=1)
    ask(page)
    expect(answers(page)).to_have_text("One")
    page.get_by_role("button", name="Edit").click()
    page.keyboard.press("Escape")
    expect(page.get_by_label("Edit your message")).to_have_count(0)
    page.get_by_label("Search conversations").press("Escape")
    answer.go.set()
    expect(answers(page)).to_have_text("One two.")
    expect(page.locator(".assistant .foot")).not_to_contain_text("Stopped")


def test_tool_calls_are_cards_and_return_to_the_server_where_they_stood(page: Page, stub: Stub) -> None:
    call, output = {"text": "47*36", "part": "python"}, {"text": "1692", "part": "output", "forced": True}
    stub.plan("🎈: ", call, output, "It is 1692.")
    ask(page)
    expect(page.locator(".tool .tool-code")).to_have_text("47*36")
    expect(page.locator(".tool samp")).to_have_text("1692")
    stub.plan("Yes.")
    ask(page, "Sure?")
    expect(answers(page).last).to_have_text("Yes.")
    tool = {"type": "python", "arguments": "47*36", "offset": 3, "output": "1692"}
    assert stub.bodies[1]["messages"][1] == {
        "role": "assistant",
        "content": "🎈: It is 1692.",
        "executed_tools": [tool],
    }


def test_an_output_cut_off_is_no_result(page: Page, stub: Stub) -> None:
    call, output = {"text": "47*36", "part": "python"}, {"text": "16", "part": "output", "forced": True}
    stub.plan(call, output, finished="length")
    ask(page)
    expect(page.locator(".tool samp")).to_have_text("16 …")
    ask(page, "Sure?")
    expect(answers(page).last).to_have_text("You said: Sure?.")
    assert stub.bodies[1]["messages"][1]["executed_tools"] == [
        {"type": "python", "arguments": "47*36", "offset": 0}
    ]


def test_an_output_cut_off_is_whole_when_it_is_continued(page: Page, stub: Stub) -> None:
    call, output = {"text": "47*36", "part": "python"}, {"text": "16", "part": "output", "forced": True}
    end = {"part": "output", "forced": True, "special": "<|output_end|>"}
    stub.plan(call, output, finished="length")
    ask(page)
    stub.plan({**output, "text": "92"}, finished="length")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator(".tool samp")).to_have_text("1692 …")
    stub.plan(end, finished="length")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator(".tool samp")).to_have_text("1692")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
    ask(page, "Sure?")
    expect(answers(page).last).to_have_text("You said: Sure?.")
    assert stub.bodies[3]["messages"][1]["executed_tools"][0]["output"] == "1692"


def test_the_footer_counts_tokens_and_the_gauge_the_context(page: Page, stub: Stub) -> None:
    stub.plan("a", "b", "c")
    ask(page)
    expect(page.locator(".assistant .figures")).to_contain_text("3 tokens")
    expect(page.locator("#gauge-text")).to_have_text("15 of 256 tokens")
    expect(page.get_by_role("meter")).to_have_attribute("aria-valuenow", "15")


def test_copying(page: Page, stub: Stub) -> None:
    stub.plan("Text\n\n```python\nprint(1)\n```\n")
    ask(page)
    read = "navigator.clipboard.readText()"
    page.locator(".assistant .code").get_by_role("button", name="Copy").click()
    expect(page.locator("#announcer")).to_have_text("Copied")
    assert page.evaluate(read) == "print(1)"
    page.locator(".assistant .foot").get_by_role("button", name="Copy").click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()).startsWith('Text')")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"status": 429, "headers": {"Retry-After": "3"}}, "The server is busy. Try again in 3 s."),
        ({"status": 400, "code": "context_length_exceeded"}, "longer than this model can read"),
        ({"status": 404, "code": "model_not_found"}, "does not have that model"),
        ({"status": 401, "code": "invalid_api_key"}, "wants its API key"),
        ({"status": 503}, "loading a model or shutting down"),
        ({"status": 500}, "refused by the test"),
        ({"error_after": 0}, "the model broke"),
    ],
)
def test_errors_say_what_to_do_and_can_be_retried(page: Page, stub: Stub, how: dict, says: str) -> None:
    stub.plan("x", **how)
    ask(page)
    expect(page.get_by_role("alert")).to_contain_text(says)
    stub.plan("Now it works.")
    page.get_by_role("button", name="Retry").click()
    expect(answers(page)).to_have_text("Now it works.")
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(answers(page)).to_have_count(1)


def test_a_question_that_was_refused_does_not_spoil_the_next_one(page: Page, stub: Stub) -> None:
    ask(page, "Q1")
    expect(answers(page)).to_have_text(["You said: Q1."])
    stub.plan("x", status=400, code="context_length_exceeded")
    ask(page, "far too long")
    expect(page.get_by_role("alert")).to_be_visible()
    ask(page, "Q3")
    expect(answers(page).last).to_have_text("You said: Q3.")
    assert [message["content"] for message in stub.bodies[-1]["messages"]] == ["Q1", "You said: Q1.", "Q3"]


def test_a_connection_cut_midway_keeps_the_words_and_continues(page: Page, stub: Stub) -> None:
    answer = stub.plan("Half an ", "answer", wait_after=2, cut_after=2)
    ask(page)
    expect(answers(page)).to_have_text("Half an answer")
    answer.go.set()
    expect(page.get_by_role("alert")).to_contain_text("connection was lost")
    expect(answers(page)).to_have_text("Half an answer")
    stub.plan(" and the rest.")
    page.get_by_role("button", name="Continue").click()
    expect(answers(page)).to_have_text("Half an answer and the rest.")
    assert stub.bodies[1]["reply_ids"] == [0, 1]


def test_settings_start_from_the_servers_and_are_kept(page: Page, stub: Stub) -> None:
    page.get_by_role("button", name="Settings").click()
    number = page.get_by_role("spinbutton", name="Temperature")
    expect(number).to_have_value("0.6")
    expect(page.get_by_role("spinbutton", name="Longest answer")).to_have_value("128")
    page.get_by_role("slider", name="Temperature").fill("1.5")
    expect(number).to_have_value("1.5")
    page.get_by_role("spinbutton", name="Top-k").fill("7")
    expect(page.get_by_role("slider", name="Top-k")).to_have_value("7")
    page.get_by_role("spinbutton", name="Seed").fill("42")
    page.get_by_role("textbox", name="System prompt").fill("Be brief.")
    page.keyboard.press("Escape")
    ask(page)
    expect(answers(page)).to_have_text("You said: Hello.")
    body = stub.bodies[0]
    assert (body["temperature"], body["top_k"], body["seed"]) == (1.5, 7, 42)
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    page.reload()
    page.get_by_role("button", name="Settings").click()
    expect(number).to_have_value("1.5")
    expect(page.get_by_role("textbox", name="System prompt")).to_have_value("Be brief.")
    page.get_by_role("button", name="Back to the server’s defaults").click()
    expect(number).to_have_value("0.6")


@pytest.mark.parametrize(
    ("name", "field", "typed", "sent"),
    [
        ("Top-k", "top_k", "7.6", 8),
        ("Longest answer", "max_tokens", "99999", 200),
        ("Longest answer", "max_tokens", "0.2", 1),
        ("Temperature", "temperature", "0.33", 0.35),
        ("Repetition penalty", "repetition_penalty", "1.08", 1.08),
    ],
)
def test_a_setting_is_one_that_the_server_takes(
    page: Page, stub: Stub, name: str, field: str, typed: str, sent: float
) -> None:
    page.get_by_role("button", name="Settings").click()
    number = page.get_by_role("spinbutton", name=name)
    number.fill(typed)
    number.blur()
    expect(number).to_have_value(str(sent))
    page.keyboard.press("Escape")
    ask(page)
    expect(answers(page)).to_have_text("You said: Hello.")
    assert stub.bodies[0][field] == sent


def test_the_chosen_model_is_described(context, stub: Stub, server: Listening) -> None:
    larger = model("large", "chat", [100])
    larger["nanochat"]["parameters"] = 1_500_000_000
    stub.models.append(larger)
    page = context.new_page()
    page.goto(server.url)
    expect(page.locator("#about")).to_contain_text("2.9 million")
    page.get_by_label("Model").select_option("large")
    expect(page.locator("#about")).to_contain_text("1.5 billion")


def test_a_tab_keeps_its_model(context, stub: Stub, server: Listening) -> None:
    stub.models = [model("sft", "chat", [100]), model("rl", "chat", [5])]
    page, other = context.new_page(), context.new_page()
    for tab in (page, other):
        tab.goto(server.url)
        started(tab)
    other.get_by_label("Model").select_option("rl")
    page.bring_to_front()
    with page.expect_response("**/v1/models"):
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_load_state("networkidle")
    ask(page)
    expect(answers(page)).to_have_text("You said: Hello.")
    assert stub.bodies[0]["model"] == "sft"
    page.reload()
    started(page)
    expect(page.get_by_label("Model")).to_have_value("rl")  # what was chosen last


def test_the_reader_may_scroll_up_while_the_answer_grows(page: Page, stub: Stub) -> None:
    lines = [f"Line {i}.\n\n" for i in range(80)]
    answer = stub.plan(*lines, *lines, "The end.", wait_after=80)
    ask(page)
    expect(answers(page)).to_contain_text("Line 79.")
    log = page.locator("#log")
    at_end = "log.scrollHeight - log.clientHeight - log.scrollTop < 4"  # an element's id is a global name
    page.wait_for_function(at_end)  # followed so far
    log.hover()
    page.mouse.wheel(0, -60)  # one notch is enough
    latest = page.get_by_role("button", name="Jump to latest")
    expect(latest).to_be_visible()
    place = log.evaluate("log => log.scrollTop")
    answer.go.set()
    expect(answers(page)).to_contain_text("The end.")
    assert log.evaluate("log => log.scrollTop") == place
    latest.click()
    page.wait_for_function(at_end)
    expect(latest).to_be_hidden()


def test_enter_within_an_input_method_does_not_send(page: Page, stub: Stub) -> None:
    field = page.get_by_label("Your message")
    field.fill("にほん")
    press = """(field, how) => field.dispatchEvent(
        new KeyboardEvent('keydown', {key: 'Enter', bubbles: true, cancelable: true, ...how}))"""
    for composing in ({"isComposing": True}, {"keyCode": 229}):
        assert field.evaluate(press, composing), "the field keeps the key"
    field.press("Shift+Enter")
    expect(field).to_have_value("にほん\n")
    assert stub.bodies == []
    field.press("Enter")
    expect(bodies(page).first).to_have_text("にほん")


def test_a_draft_survives_a_reload(page: Page) -> None:
    page.get_by_label("Your message").fill("half a thought")
    page.reload()
    expect(page.get_by_label("Your message")).to_have_value("half a thought")


def test_no_chat_model_says_what_to_run(context, stub: Stub, server: Listening) -> None:
    stub.models = stub.models[1:]
    page = context.new_page()
    page.goto(server.url)
    expect(page.locator("#notice")).to_contain_text("nanochat sft")
