"""Both pages on the real server, with tiny models of random weights: what is shown is what the API says."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page, expect

from nanochat.infer.sampler import SamplingParams, truncate
from nanochat.metrics import open_metrics
from nanochat.paths import Paths
from tests.serve.conftest import BASE, CHAT, Running, train_row
from tests.serve.page.conftest import answers, ask, overflow, profile, started, violations

pytestmark = pytest.mark.slow


@pytest.fixture
def chat(browser, real_server: Running) -> Iterator[Page]:
    with profile(browser, real_server.port) as context:
        page = context.new_page()
        page.goto(real_server.url)
        started(page)
        yield page


@pytest.fixture
def lab(browser, real_server: Running) -> Iterator[Page]:
    with profile(browser, real_server.port) as context:
        page = context.new_page()
        page.goto(f"{real_server.url}/lab")
        started(page)
        expect(page.locator("#training select option")).not_to_have_count(0)
        yield page


def _said(server: Running, **fields: object) -> list[dict]:
    """The tokens of an answer, straight from the API."""
    events = server.post("/api/generate", **fields).events
    return [event for event in events if "prompt" not in event]


def _run(page: Page, tool: str, button: str, **values: str) -> None:
    for name, value in values.items():
        page.locator(tool).get_by_label(name, exact=True).fill(value)
    page.locator(tool).get_by_role("button", name=button, exact=True).click()


def test_a_conversation_with_the_real_server(chat: Page, real_server: Running) -> None:
    chat.get_by_role("button", name="Settings").click()
    chat.get_by_role("spinbutton", name="Seed").fill("3")
    chat.get_by_role("spinbutton", name="Longest answer").fill("24")
    chat.keyboard.press("Escape")
    ask(chat, "Hello")
    expect(chat.locator(".assistant .figures")).to_contain_text("24 tokens")
    expect(chat.locator(".assistant .foot")).to_contain_text("Reached the longest answer")
    chat.get_by_role("button", name="Continue").click()
    expect(chat.locator(".assistant .figures")).to_contain_text("48 tokens")
    chat.get_by_role("button", name="Regenerate").click()
    expect(chat.locator(".branches")).to_have_text("2/2")
    expect(chat.locator(".assistant .figures")).to_contain_text("24 tokens")
    ask(chat, "More")
    expect(chat.locator(".assistant .figures").nth(1)).to_contain_text("24 tokens")
    used = re.fullmatch(r"(\d+) of 512 tokens", chat.locator("#gauge-text").inner_text())
    assert int(used[1]) > 48


def test_a_server_with_a_key_asks_for_it(browser, new_server) -> None:
    with new_server(api_key="secret") as server, profile(browser, server.port) as context:
        page = context.new_page()
        page.goto(server.url)
        expect(page.locator("#notice")).to_have_text(
            "This server wants its API key. Enter it in the settings."
        )
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("API key").fill("secret")
        page.keyboard.press("Tab")
        page.keyboard.press("Escape")
        expect(page.locator("#notice")).to_be_hidden()
        ask(page, "Hello")
        expect(page.locator(".assistant .figures")).to_contain_text("token")


def test_stop_frees_the_row(chat: Page, real_server: Running) -> None:
    ask(chat, "Hello")
    chat.get_by_role("button", name="Stop", exact=True).click()
    expect(chat.get_by_role("button", name="Send", exact=True)).to_be_visible()
    chat.wait_for_function(
        """async () => {
            const text = await (await fetch('metrics')).text();
            return /^vllm:num_requests_running.* 0(\\.0)?$/m.test(text);
        }"""
    )


def test_probabilities_and_rivals_are_the_models_own(lab: Page, real_server: Running) -> None:
    _run(lab, "#odds", "Run", Prompt="Hi", Temperature="1", Seed="5", Tokens="8")
    tokens = lab.locator("#odds .strip .token")
    expect(tokens).to_have_count(8)
    tokens.nth(3).hover()
    shown = lab.locator("#odds .bars .share").all_inner_texts()
    sampling = {"temperature": 1, "seed": 5, "max_tokens": 8, "top_k": 0, "top_p": 1, "top_logprobs": 10}
    messages = [{"role": "user", "content": "Hi"}]
    said = _said(real_server, model=CHAT, messages=messages, **sampling)
    assert shown[:10] == [_percent(math.exp(rival["logprob"])) for rival in said[3]["top"]]
    own = lab.locator("#odds .panel h3 .share").inner_text()
    assert own == _percent(math.exp(said[3]["logprob"]))
    heats = tokens.evaluate_all(
        "nodes => nodes.map((node) => parseInt(node.style.getPropertyValue('--heat')))"
    )
    assert heats == [pytest.approx(85 * (1 - math.exp(token["logprob"])), abs=1) for token in said]


def _percent(p: float) -> str:
    return "100 %" if p >= 0.9995 else "< 0.1 %" if p < 0.001 else f"{p * 100:.1f} %"


def test_one_click_continues_from_a_rival(lab: Page, real_server: Running) -> None:
    _run(lab, "#odds", "Run", Prompt="Hi", Temperature="1", Seed="5", Tokens="8")
    tokens = lab.locator("#odds .strip .token")
    expect(tokens).to_have_count(8)
    first = tokens.all_inner_texts()
    tokens.nth(2).click()
    rival = lab.locator("#odds .bars button").first
    with lab.expect_request("**/api/generate") as asked:
        rival.click()
    body = asked.value.post_data_json
    expect(tokens).to_have_count(3 + 8)
    second = tokens.all_inner_texts()
    assert second[:2] == first[:2]
    assert second[2] != first[2]
    said = _said(real_server, **body)
    assert len(body["reply_ids"]) == 3
    assert len(said) == 8
    lab.get_by_role("button", name="First answer").click()
    assert tokens.all_inner_texts() == first


def test_a_strip_is_one_tab_stop_and_arrows_move(lab: Page) -> None:
    _run(lab, "#odds", "Run", Prompt="Hi", Tokens="5")
    tokens = lab.locator("#odds .strip .token")
    expect(tokens).to_have_count(5)
    tokens.first.focus()
    lab.keyboard.press("ArrowRight")
    expect(tokens.nth(1)).to_be_focused()
    expect(lab.locator("#odds .panel")).to_contain_text("Token 2")
    lab.keyboard.press("End")
    expect(tokens.nth(4)).to_be_focused()
    assert lab.locator("#odds .strip [tabindex='0']").count() == 1


def test_checkpoints_side_by_side_say_what_the_api_says(lab: Page, real_server: Running) -> None:
    tool = lab.locator("#compare")
    tool.get_by_label("Model 1").select_option(f"{CHAT}@1")
    tool.get_by_label("Model 2").select_option(BASE)
    with lab.expect_request("**/api/generate") as asked:
        _run(lab, "#compare", "Compare", Prompt="Hi", Temperature="0.7", Seed="9", Tokens="12")
    assert (
        asked.value.post_data_json["top_logprobs"] > 0
    )  # each token has its own text, with which it is compared
    expect(tool.get_by_role("button", name="Compare")).to_be_visible()
    sampling = {"temperature": 0.7, "seed": 9, "max_tokens": 12, "top_logprobs": 0}
    chat = _said(real_server, model=f"{CHAT}@1", messages=[{"role": "user", "content": "Hi"}], **sampling)
    base = _said(real_server, model=BASE, text="Hi", **sampling)
    for side, said in zip(tool.locator(".said").all(), (chat, base), strict=True):
        expected = "".join(token["text"] for token in said if not token["special"])
        lab.wait_for_function(
            "([node, text]) => node.textContent === text", arg=[side.element_handle(), expected]
        )


def test_the_token_stream_shows_special_tokens_and_masks(lab: Page, real_server: Running) -> None:
    _run(lab, "#stream", "Run", Message="Hi")
    expect(lab.locator("#stream .hint")).to_contain_text("trained on")
    texts = lab.locator("#stream .strip .token").all_inner_texts()
    assert texts[:3] == ["<|bos|>", "<|user_start|>", "H"]
    assert texts[4:6] == ["<|user_end|>", "<|assistant_start|>"]
    marked = lab.locator("#stream .strip .token").evaluate_all(
        "nodes => nodes.map((node) => node.classList.contains('supervised'))"
    )
    assert marked[:6] == [False] * 6
    assert all(marked[6:])
    lab.locator("#stream .strip .token").nth(2).hover()
    expect(lab.locator("#stream .hint")).to_contain_text("part of the user’s message; not trained on")


@pytest.mark.parametrize(
    "setting", [(1.0, 0, 1.0), (0.5, 3, 1.0), (1.7, 0, 0.4), (0.8, 20, 0.7), (0.0, 0, 1.0)]
)
def test_reshaping_is_what_the_engine_does(lab: Page, setting: tuple[float, int, float]) -> None:
    temperature, top_k, top_p = setting
    logits = torch.randn(60, generator=torch.Generator().manual_seed(1)).mul(3).sort(descending=True).values
    shown = lab.evaluate(
        """async ([logits, temperature, topK, topP]) => {
            const { reshaped } = await import('./static/lab_reshape.js');
            return reshaped(logits, { temperature, topK, topP });
        }""",
        [logits.tolist(), temperature, top_k, top_p],
    )
    params = SamplingParams(temperature=temperature, top_k=top_k or None, top_p=top_p)
    scaled = (logits - logits[0])[None] / max(temperature, 1e-6)
    torch.testing.assert_close(
        torch.tensor(shown, dtype=torch.float32), truncate(scaled, [params]).softmax(-1)[0], atol=1e-5, rtol=0
    )


def test_sliders_reshape_a_chosen_position(lab: Page) -> None:
    _run(lab, "#odds", "Run", Prompt="Hi", Tokens="5")
    expect(lab.locator("#odds .strip .token")).to_have_count(5)
    lab.locator("#odds .strip .token").nth(2).click()
    lab.get_by_role("button", name="Reshape this choice").click()
    bars = lab.locator("#reshape .bars li")
    expect(lab.locator("#reshape h3")).to_contain_text("Instead of")
    expect(bars).to_have_count(12)
    lab.locator("#reshape").get_by_label("Top-k").fill("3")
    expect(lab.locator("#reshape .bars li.cut")).to_have_count(9)
    lab.locator("#reshape").get_by_label("Temperature").fill("0")
    expect(bars.first.locator(".share")).to_have_text("100 %")


def test_a_training_is_followed_live(lab: Page, served_base: Path) -> None:
    lab.locator("#training select").select_option(BASE)
    facts = lab.locator("#training .figure")
    expect(facts).to_contain_text("Step 3 of 3")
    facts.scroll_into_view_if_needed()  # one that nobody sees is not asked for
    path = Paths(served_base).metrics(BASE)
    before = path.read_bytes()
    options = {"wandb_run": None, "config": None, "enabled": True, "resume": True}
    with open_metrics(path, "pretrain", **options) as metrics:
        try:
            for step in (4, 5):
                metrics.log(train_row(step))
                expect(facts).to_contain_text(f"Step {step} of 3")
            chart = lab.get_by_role("img", name=re.compile("Training loss"))
            expect(chart).to_have_attribute("aria-label", "Training loss: 4.000 at step 1, 0.000 at step 5")
        finally:
            path.write_bytes(before)


def test_the_surprise_of_a_text(lab: Page, real_server: Running) -> None:
    _run(lab, "#surprise", "Score", Text="abc é")
    scored = real_server.post("/api/score", model=CHAT, text="abc é").json
    expect(lab.locator("#surprise .figure b")).to_have_text(f"{scored['bits_per_byte']:.3f} bits per byte")
    tokens = lab.locator("#surprise .strip .token")
    expect(tokens).to_have_count(len(scored["tokens"]))
    tokens.nth(1).hover()
    expect(lab.locator("#surprise .panel h3 .share")).to_have_text(f"{scored['tokens'][1]['bits']:.1f} bits")


def test_tokens_after_a_line_end_are_still_the_right_ones(lab: Page, real_server: Running) -> None:
    _run(lab, "#surprise", "Score", Text="a\nbc")
    tokens = lab.locator("#surprise .strip .token")
    expect(tokens).to_have_text(["a", "↵", "b", "c"])
    tokens.nth(3).hover()
    expect(lab.locator("#surprise .panel h3")).to_contain_text("“c”")
    tokens.nth(3).focus()
    lab.keyboard.press("ArrowLeft")
    expect(lab.locator("#surprise .panel h3")).to_contain_text("“b”")


def test_a_mistake_in_a_tool_is_said_beside_it(lab: Page) -> None:
    _run(lab, "#surprise", "Score", Text="")
    expect(lab.locator("#surprise").get_by_role("alert")).to_contain_text("text is empty")


SCREENS = [(theme, width) for theme in ("light", "dark") for width in (360, 1280)]


@pytest.mark.parametrize(("theme", "width"), SCREENS)
def test_the_lab_has_no_violation_and_fits(lab: Page, axe: str, theme: str, width: int) -> None:
    lab.set_viewport_size({"width": width, "height": 740})
    lab.emulate_media(color_scheme=theme)
    _run(lab, "#odds", "Run", Tokens="6")
    expect(lab.locator("#odds .strip .token")).to_have_count(6)
    lab.locator("#odds .strip .token").nth(2).click()
    _run(lab, "#compare", "Compare", Tokens="6")
    _run(lab, "#stream", "Run", Message="Hi")
    _run(lab, "#reshape", "Look")
    _run(lab, "#surprise", "Score")
    lab.mouse.move(0, 0)  # a token that comes to lie under it would be described instead of the whole
    for ready in (
        "#stream .hint:has-text('trained on')",
        "#reshape .bars li >> nth=0",
        "#surprise .figure b",
    ):
        expect(lab.locator(ready)).to_be_visible(timeout=30_000)
    expect(lab.locator("#compare").get_by_role("button", name="Compare")).to_be_visible()
    assert violations(lab, axe) == []
    assert overflow(lab) <= 0


def test_the_chat_and_the_lab_lead_to_each_other(chat: Page, real_server: Running) -> None:
    chat.get_by_role("link", name="Lab").click()
    expect(chat.get_by_role("heading", name="nanochat lab")).to_be_visible()
    chat.get_by_role("link", name="Chat").click()
    expect(chat.get_by_label("Your message")).to_be_visible()


def test_nothing_goes_through_a_proxy_by_absolute_addresses(lab: Page) -> None:
    """Every address in the files is relative, so that both pages work below a prefix."""
    addresses = lab.evaluate(
        "[...document.querySelectorAll('[src], [href]')].map((n) => n.getAttribute('src') ?? n.getAttribute('href'))"
    )
    assert [address for address in addresses if address.startswith("/") or "://" in address] == []


def test_the_conversation_survives_a_page_that_changes_models(chat: Page) -> None:
    chat.get_by_label("Model").select_option(f"{CHAT}@1")
    ask(chat, "Hello")
    expect(answers(chat)).not_to_be_empty()
    chat.keyboard.press("Escape")
    chat.reload()
    expect(chat.get_by_label("Model")).to_have_value(f"{CHAT}@1")
    expect(answers(chat)).not_to_be_empty()
