"""Conversations stay: over reloads, tabs, restarts of the server, deletion by mistake, and in files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from nanochat.conversations.sources import open_jsonl
from tests.serve.page.conftest import answers, ask, bodies, started
from tests.serve.page_stub import Listening, Stub

pytestmark = pytest.mark.slow


def titles(page: Page):
    return page.locator("#history .open > span:first-child")


def new_chat(page: Page, question: str) -> None:
    page.get_by_role("button", name="New chat", exact=True).click()
    ask(page, question)
    expect(answers(page)).to_have_text(f"You said: {question}.")


def test_a_reload_in_the_middle_of_an_answer_keeps_what_was_said(page: Page, stub: Stub) -> None:
    answer = stub.plan("Half ", "of it", " never said", wait_after=2)
    ask(page)
    expect(answers(page)).to_have_text("Half of it")
    page.reload()
    assert answer.left.wait(10)
    expect(answers(page)).to_have_text("Half of it")
    expect(page.locator(".assistant .foot")).to_contain_text("Interrupted")
    page.locator("#model option").first.wait_for(state="attached")
    stub.plan(" and the rest.")
    page.get_by_role("button", name="Continue").click()
    expect(answers(page)).to_have_text("Half of it and the rest.")
    assert stub.bodies[1]["reply_ids"] == [0, 1]


def test_a_server_that_is_gone_and_back(page: Page, stub: Stub, server: Listening) -> None:
    stub.plan("Half of", " it", wait_after=1)
    ask(page, "Q1")
    expect(answers(page)).to_have_text("Half of")
    server.stop()
    expect(page.get_by_text("The server does not answer. Trying again")).to_be_visible()
    expect(answers(page)).to_have_text("Half of")
    again = Listening(stub.app(), server.port)
    try:
        expect(page.get_by_text("The server does not answer. Trying again")).to_be_hidden()
        stub.plan(" it.")
        page.get_by_role("button", name="Continue").click()
        expect(answers(page)).to_have_text("Half of it.")
    finally:
        again.stop()


def test_asking_a_server_that_is_gone_loses_nothing(page: Page, stub: Stub, server: Listening) -> None:
    server.stop()
    ask(page, "Are you there?")
    expect(page.get_by_role("alert")).to_contain_text("Is “nanochat serve” still running?")
    again = Listening(stub.app(), server.port)
    try:
        page.get_by_role("button", name="Retry").click()
        expect(bodies(page)).to_have_text(["Are you there?", "You said: Are you there?."])
    finally:
        again.stop()


def test_two_tabs_do_not_lose_each_others_messages(context: BrowserContext, page: Page, stub: Stub) -> None:
    ask(page, "Q1")
    expect(answers(page)).to_contain_text("You said: ")
    other = context.new_page()
    other.goto(page.url)
    started(other)
    expect(bodies(other)).to_have_text(["Q1", "You said: Q1."])
    slow = stub.plan("from the ", "first tab", wait_after=1)
    ask(page, "Q2")
    expect(answers(other).last).to_have_text("from the")  # the other tab sees it grow
    new_chat(other, "In the second tab")
    slow.go.set()
    expect(answers(page).last).to_have_text("from the first tab")
    for tab in (page, other):
        expect(titles(tab)).to_have_text(["In the second tab", "Q1"])
        tab.reload()
        expect(titles(tab)).to_have_text(["In the second tab", "Q1"])
    expect(bodies(page)).to_have_text(["Q1", "You said: Q1.", "Q2", "from the first tab"])


def test_both_tabs_answering_in_one_conversation_become_two_versions(
    context: BrowserContext, page: Page, stub: Stub
) -> None:
    ask(page, "Q1")
    expect(answers(page)).to_contain_text("You said: ")
    other = context.new_page()
    other.goto(page.url)
    started(other)
    slow = stub.plan("one", wait_after=0)
    ask(page, "From one")
    expect(other.get_by_text("From one")).to_be_visible()
    copy = page.locator(".assistant").first.get_by_role("button", name="Copy")
    copy.focus()
    other.get_by_role("button", name="Regenerate").first.click()
    expect(answers(other)).to_have_text(["You said: Q1."])
    expect(page.locator(".assistant .branches")).to_have_text("1/2")  # told, but not moved
    expect(copy).to_be_focused()
    slow.go.set()
    expect(bodies(page)).to_have_text(["Q1", "You said: Q1.", "From one", "one"])
    expect(other.locator(".assistant .branches")).to_have_text("2/2")
    other.get_by_role("button", name="Previous version").click()
    expect(bodies(other)).to_have_text(["Q1", "You said: Q1.", "From one", "one"])


def test_two_writers_at_the_same_time_both_count(page: Page) -> None:
    told = page.evaluate(
        """async () => {
            const { Store } = await import('./static/store.js');
            const one = await Store.open();
            const { id } = await one.create({ title: 'before' });
            const other = await Store.open();
            await Promise.all([
                one.patch(id, { title: 'after', chosen: { a: 1 } }),
                other.patch(id, { system: 'Be brief.', chosen: { b: 2 } }),
            ]);
            const later = await Store.open();
            const { title, system, chosen } = later.conversations.get(id);
            return [title, system, chosen];
        }"""
    )
    assert told == ["after", "Be brief.", {"a": 1, "b": 2}]


def test_search_rename_and_delete_with_undo(page: Page) -> None:
    for question in ("Apples", "Pears", "Cherries"):
        new_chat(page, question)
    expect(titles(page)).to_have_text(["Cherries", "Pears", "Apples"])
    page.get_by_label("Search conversations").fill("said: PEARS")  # in the texts too
    expect(titles(page)).to_have_text(["Pears"])
    page.locator("#history li").hover()
    page.get_by_role("button", name="Rename “Pears”").click()
    page.get_by_label("New title").fill("Fruit")
    page.keyboard.press("Enter")
    expect(titles(page)).to_have_text(["Fruit"])
    page.get_by_label("Search conversations").fill("")
    page.get_by_role("button", name="Delete “Fruit”").focus()
    page.keyboard.press("Enter")
    expect(titles(page)).to_have_text(["Cherries", "Apples"])
    expect(page.locator("#history li").last.get_by_role("button").first).to_be_focused()
    page.get_by_role("button", name="Undo").click()
    expect(titles(page)).to_have_text(["Cherries", "Fruit", "Apples"])
    expect(answers(page)).to_have_text("You said: Pears.")
    page.get_by_role("button", name="Delete “Apples”").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Dismiss").click()
    page.reload()
    expect(titles(page)).to_have_text(["Cherries", "Fruit"])


def test_a_slow_click_on_the_history_counts_while_an_answer_grows(page: Page, stub: Stub) -> None:
    new_chat(page, "Apples")
    page.get_by_role("button", name="New chat", exact=True).click()
    stub.plan(*["word "] * 2000, every_s=0.02)
    ask(page, "Pears")
    expect(answers(page)).to_contain_text("word")
    page.get_by_role("button", name="Apples", exact=True).hover()
    page.mouse.down()
    page.wait_for_timeout(100)
    page.mouse.up()
    expect(answers(page)).to_have_text("You said: Apples.")


def test_a_history_that_is_not_kept_is_said(context: BrowserContext, server: Listening) -> None:
    page = context.new_page()
    page.add_init_script(
        "indexedDB.open = () => { throw new DOMException('It is insecure', 'SecurityError') }"
    )
    page.goto(server.url)
    started(page)
    warning = page.get_by_text("The history is not kept: It is insecure")
    expect(warning).to_be_visible()
    ask(page, "Q1")
    expect(answers(page)).to_have_text("You said: Q1.")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # asks the server again
    page.wait_for_load_state("networkidle")
    expect(warning).to_be_visible()


def test_a_page_works_where_storage_is_blocked(context: BrowserContext, server: Listening) -> None:
    page = context.new_page()
    page.add_init_script(
        """for (const name of ['localStorage', 'sessionStorage'])
            Object.defineProperty(window, name, { get() { throw new DOMException('no', 'SecurityError') } })"""
    )
    page.goto(server.url)
    started(page)
    ask(page, "Q1")
    expect(answers(page)).to_have_text("You said: Q1.")
    page.get_by_role("button", name="Theme: as the system").click()
    expect(page.get_by_role("button", name="Theme: light")).to_be_visible()
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("API key").fill("secret")
    page.get_by_role("button", name="Close").click()
    with page.expect_request("**/api/generate") as asked:
        ask(page, "Q2")
    assert asked.value.headers["authorization"] == "Bearer secret"
    page.goto(f"{server.url}lab")
    started(page)


LEFT = """async () => {
    const { done, openDatabase } = await import('./static/database.js');
    const database = await openDatabase();
    const all = (name) => done(database.transaction(name).objectStore(name).getAll());
    return [(await all('conversations')).length, (await all('messages')).length];
}"""


def test_what_one_tab_deletes_the_other_stops_writing(
    context: BrowserContext, page: Page, stub: Stub
) -> None:
    answer = stub.plan("secret ", "words", wait_after=1)
    ask(page, "Q1")
    expect(answers(page)).to_have_text("secret")
    other = context.new_page()
    other.goto(page.url)
    started(other)
    other.get_by_role("button", name="Delete “Q1”").press("Enter")
    other.get_by_role("button", name="Dismiss").click()
    assert answer.left.wait(10)
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
    assert page.evaluate(LEFT) == [0, 0]


def test_messages_without_their_conversation_are_removed(page: Page) -> None:
    ask(page, "Q1")
    expect(answers(page)).to_have_text("You said: Q1.")
    page.evaluate(
        """async () => {
            const { committed, openDatabase } = await import('./static/database.js');
            const transaction = (await openDatabase()).transaction('messages', 'readwrite');
            transaction.objectStore('messages').put({ id: 'x', conversation: 'purged', parent: null, content: '?' });
            await committed(transaction);
        }"""
    )
    assert page.evaluate(LEFT) == [1, 3]
    page.reload()
    started(page)
    assert page.evaluate(LEFT) == [1, 2]


def test_a_write_for_a_purged_conversation_is_not_kept(page: Page) -> None:
    """Also where the tab that writes has not heard of it yet."""
    left = page.evaluate(
        """async () => {
            const { Store } = await import('./static/store.js');
            const one = await Store.open();
            const { id } = await one.create({});
            const message = await one.addMessage(id, null, { role: 'user', content: 'secret' });
            const other = await Store.open();
            await Promise.all([other.purge(id), one.putMessage(message)]);
            while (one.conversations.has(id)) await new Promise((later) => setTimeout(later, 5));
            await one.putMessage(message);
            one.show(message);
            await one.patch(id, { title: 'again' });
            return [one.conversations.size, one.messages.size];
        }"""
    )
    assert left == [0, 0]
    assert page.evaluate(LEFT) == [0, 0]


def test_everything_is_exported_in_the_form_that_fine_tuning_reads(
    page: Page, stub: Stub, tmp_path: Path, context: BrowserContext
) -> None:
    call, output = {"text": "2+2", "part": "python"}, {"text": "4", "part": "output", "forced": True}
    stub.plan(call, output, "It is 4.")
    ask(page, "What is 2+2?")
    expect(answers(page)).to_contain_text("It is 4.")
    stub.plan("Four.")
    page.get_by_role("button", name="Regenerate").click()
    expect(answers(page)).to_contain_text("Four.")
    page.get_by_role("button", name="Previous version").click()
    expect(answers(page)).to_contain_text("It is 4.")
    new_chat(page, "Hi")
    stub.plan("cut ", "short", wait_after=1)
    ask(page, "Go on")
    expect(answers(page).last).to_have_text("cut")
    page.keyboard.press("Escape")
    expect(page.locator(".assistant .foot").last).to_contain_text("Stopped")
    with page.expect_download() as started_download:
        page.get_by_role("button", name="Export").click()
    file = tmp_path / "chats.jsonl"
    started_download.value.save_as(file)

    parts = [
        {"type": "python", "text": "2+2"},
        {"type": "python_output", "text": "4"},
        {"type": "text", "text": "It is 4."},
    ]
    read = [c for split in ("train", "val") for c in open_jsonl(file, split).conversations]
    contents = [[m["content"] for m in c["messages"]] for c in read]
    assert len(contents) == 2
    assert ["What is 2+2?", parts] in contents
    assert ["Hi", "You said: Hi."] in contents  # without the answer that was cut short
    assert open_jsonl(file, "train").dropped == {}

    fresh = context.browser.new_context()
    other = fresh.new_page()
    other.goto(page.url.split("#")[0])
    started(other)
    file.write_text(file.read_text() + 'nonsense\n{"messages": []}\n' + _training_line())
    other.set_input_files("#file", file)
    expect(other.locator(".toast")).to_contain_text(
        "Imported 3 conversations; 2 lines left out (line 3: not JSON)"
    )
    expect(titles(other)).to_have_count(3)
    other.get_by_role("button", name="What is 2+2?", exact=True).click()
    expect(other.locator(".assistant .branches")).to_have_text("1/2")
    expect(answers(other)).to_contain_text("It is 4.")
    other.set_input_files("#file", file)
    expect(other.locator(".toast").last).to_contain_text("2 already here")
    fresh.close()


def _training_line() -> str:
    roles = ("system", "user", "assistant")
    messages = [{"role": role, "content": f"the {role}"} for role in roles]
    return json.dumps({"messages": messages}) + "\n"
