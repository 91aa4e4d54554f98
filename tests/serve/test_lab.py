"""The page's endpoints: probabilities equal a direct forward, answers equal the command line's."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.checkpoint import store
from nanochat.checkpoint.loading import load_model
from nanochat.cli.chat import ChatConfig
from nanochat.cli.chat import run as run_chat
from nanochat.infer.request import Event, Request
from nanochat.infer.sampler import CHAT_SAMPLING, SamplingParams, TokenLogprobs
from nanochat.infer.tools import DEFAULT_TOOLS
from nanochat.metrics import open_metrics
from nanochat.paths import Paths
from nanochat.processes import Processes
from nanochat.runtime import Runtime
from nanochat.serve import prompts
from nanochat.serve.lab import TokenEvents, score_tokens, windows
from nanochat.serve.trainings import Trainings
from nanochat.tokenizer.chat_format import render
from nanochat.tokenizer.special import ASSISTANT_END, BOS, OUTPUT_END, OUTPUT_START, PYTHON_END, PYTHON_START
from tests.conftest import made_up_meta
from tests.serve.conftest import BASE, CHAT, CONTEXT, Running, train_row

USER = {"role": "user", "content": "hi"}


@pytest.fixture(scope="module")
def loaded(served_base: Path) -> Any:
    runtime = Runtime(Processes(), torch.device("cpu"), torch.float32, Paths(served_base))
    return load_model(CHAT, runtime)


@torch.inference_mode()
def logprobs_after(loaded: Any, ids: list[int]) -> torch.Tensor:
    return loaded.model.logits(loaded.model(torch.tensor([ids]))[0, -1]).log_softmax(-1)


def test_every_token_has_the_probability_of_a_direct_forward(server: Running, loaded: Any) -> None:
    prompt, *tokens = server.post(
        "/api/generate", messages=[USER], max_tokens=12, top_logprobs=4, seed=5
    ).events
    assert prompt["seed"] == 5
    ids = [token["id"] for token in prompt["prompt"]]
    assert [token["special"] for token in prompt["prompt"]][-1] == "<|assistant_start|>"
    assert len(tokens) == 12
    for token in tokens:
        direct = logprobs_after(loaded, ids)
        assert token["logprob"] == pytest.approx(direct[token["id"]].item(), abs=1e-4)
        assert len(token["top"]) == 4
        for rival in token["top"]:
            assert rival["logprob"] == pytest.approx(direct[rival["id"]].item(), abs=1e-4)
        ids.append(token["id"])
    assert [token["finished"] for token in tokens] == [None] * 11 + ["length"]


def test_an_answer_continues_after_a_rival(server: Running) -> None:
    _, *tokens = server.post("/api/generate", messages=[USER], max_tokens=6, temperature=0).events
    ids = [token["id"] for token in tokens]
    _, *rest = server.post(
        "/api/generate", messages=[USER], reply_ids=ids[:3], max_tokens=3, temperature=0
    ).events
    assert [token["id"] for token in rest] == ids[3:]
    rival = next(top["id"] for top in tokens[2]["top"] if top["id"] != ids[2])
    opening, *other = server.post(
        "/api/generate", messages=[USER], reply_ids=[*ids[:2], rival], max_tokens=3, temperature=0
    ).events
    assert [token["id"] for token in opening["prompt"][-3:]] == [*ids[:2], rival]
    assert [token["id"] for token in other] != ids[3:]


def test_a_call_that_a_rival_changed_is_run(server: Running, loaded: Any) -> None:
    """A rival may be in the middle of a tool call, or end it: what the model then calls is run."""
    special, encode = loaded.tokenizer.special, loaded.tokenizer.encode
    call = [special(PYTHON_START), *encode("6*7")]
    output = [special(OUTPUT_START), *encode("42"), special(OUTPUT_END)]
    opening, *events = server.post(
        "/api/generate", messages=[USER], reply_ids=[*call, special(PYTHON_END)], max_tokens=6
    ).events
    assert [token["id"] for token in opening["prompt"]][-len(call) - 1 :] == [*call, special(PYTHON_END)]
    assert [token["id"] for token in events[:-2]] == output
    assert [token["forced"] for token in events] == [True] * 4 + [False] * 2
    request = Request(
        0, [1, *call], SamplingParams(), loaded.tokenizer, DEFAULT_TOOLS, CONTEXT, reply=len(call)
    )
    events = request.accept(special(PYTHON_END))
    assert [event.token for event in events] == [special(PYTHON_END), *output]
    assert events[0].part == "python"
    _, first, *_ = server.post("/api/generate", messages=[USER], reply_ids=call, max_tokens=1).events
    assert first["part"] == "python"


def test_the_calls_of_a_reply_that_is_too_long_are_not_run(
    server: Running, loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[str] = []
    tools = (replace(DEFAULT_TOOLS[0], run=lambda code: runs.append(code)),)
    monkeypatch.setattr(prompts, "DEFAULT_TOOLS", tools)
    special = loaded.tokenizer.special
    call = [special(PYTHON_START), 49, special(PYTHON_END)]
    for reply in (call * CONTEXT, [*call * CONTEXT, special(ASSISTANT_END)]):
        answered = server.post("/api/generate", messages=[USER], reply_ids=reply)
        assert answered.error["code"] == "context_length_exceeded"
    assert (
        server.post("/api/generate", ids=[1], reply_ids=[*call * 170, 65]).status == 400
    )  # the context exactly
    assert runs == []


@pytest.mark.parametrize("end", [ASSISTANT_END, BOS])
def test_an_answer_that_a_rival_ends_has_no_further_token(server: Running, loaded: Any, end: str) -> None:
    reply = [65, loaded.tokenizer.special(end)]
    answered = server.post("/api/generate", messages=[USER], reply_ids=reply)
    (opening,) = answered.events
    assert [token["id"] for token in opening["prompt"][-2:]] == reply
    assert answered.headers["content-type"].startswith("text/event-stream")


def test_special_rivals_are_named(loaded: Any) -> None:
    end = loaded.tokenizer.special(ASSISTANT_END)
    event = Event(0, 65, False, None, "text", "A", TokenLogprobs(-0.5, ((65, -0.5), (end, -1.0))))
    (token,) = TokenEvents(loaded.tokenizer, [1], 0).chunks({0: [event]})
    assert [(rival["id"], rival["special"]) for rival in token["top"]] == [(65, None), (end, ASSISTANT_END)]


def test_a_character_begun_in_the_reply_is_completed(loaded: Any) -> None:
    begun, rest = "é".encode()
    request = Request(0, [1, begun], SamplingParams(), loaded.tokenizer, (), CONTEXT, reply=1)
    assert request.accept(rest)[0].text == "é"


def test_a_seed_gives_the_command_lines_answer(server: Running, served_base: Path, capsys: Any) -> None:
    runtime = Runtime(Processes(), torch.device("cpu"), torch.float32, Paths(served_base))
    said = run_chat(ChatConfig(CHAT, prompt="hi", seed=9, max_new_tokens=20), runtime).turns[0].answer
    answer = server.chat(seed=9, max_tokens=20).json
    assert answer["choices"][0]["message"]["content"] == said
    _, *tokens = server.post("/api/generate", messages=[USER], seed=9, max_tokens=20).events
    assert "".join(token["text"] for token in tokens) == said


def test_next_gives_the_distribution_before_sampling(server: Running, loaded: Any) -> None:
    ids = [1, 2, 3]
    answer = server.post("/api/next", ids=ids, top=10).json
    direct = logprobs_after(loaded, ids)
    assert [token["id"] for token in answer["tokens"]] == direct.topk(10).indices.tolist()
    values = [token["logprob"] for token in answer["tokens"]]
    assert values == pytest.approx(direct.topk(10).values.tolist(), abs=1e-4)
    spread = [logit - value for logit, value in zip(answer["logits"], values, strict=True)]
    assert spread == pytest.approx(
        [spread[0]] * 10, abs=1e-4
    )  # logits are log-probabilities up to a constant


def test_score_is_the_surprise_of_each_token(server: Running, loaded: Any) -> None:
    text = "héllo"
    answer = server.post("/api/score", text=text).json
    ids = [loaded.tokenizer.bos, *loaded.tokenizer.encode(text)]
    for at, token in enumerate(answer["tokens"], start=1):
        direct = logprobs_after(loaded, ids[:at])[ids[at]].item()
        assert token["logprob"] == pytest.approx(direct, abs=1e-4)
        assert token["bits"] == pytest.approx(-direct / math.log(2), abs=1e-3)
        assert len(token["top"]) == 5
    assert bytes(byte for token in answer["tokens"] for byte in token["bytes"]).decode() == text
    total = sum(token["bits"] for token in answer["tokens"])
    assert answer["bits_per_byte"] == pytest.approx(total / len(text.encode()))


def test_a_long_text_is_scored_in_windows(loaded: Any) -> None:
    ids = [
        loaded.tokenizer.bos,
        *torch.randint(256, (150,), generator=torch.Generator().manual_seed(0)).tolist(),
    ]
    with torch.inference_mode():
        whole = score_tokens(loaded.model, ids, 0)
        pieces = list(windows(len(ids), 32))
        scored = [
            s for start, stop, fresh in pieces for s in score_tokens(loaded.model, ids[start:stop], fresh)
        ]
    assert len(whole) == len(scored) == 150
    assert [s.logprob for s in scored[:32]] == pytest.approx([s.logprob for s in whole[:32]], abs=1e-4)
    for start, stop, fresh in pieces:
        assert stop - start <= 33
        assert fresh == (16 if start else 0)
        for at in range(start + fresh + 1, stop):
            direct = logprobs_after(loaded, ids[start:at])[ids[at]].item()
            assert scored[at - 1].logprob == pytest.approx(direct, abs=1e-4)


def test_tokens_show_the_stream_and_its_mask(server: Running, loaded: Any) -> None:
    messages = [
        USER,
        {
            "role": "assistant",
            "content": "so 2!",
            "executed_tools": [{"type": "python", "arguments": "1+1", "output": "2", "offset": 3}],
        },
    ]
    tokens = server.post("/api/tokens", messages=messages).json["tokens"]
    parts = [
        {"type": "text", "text": "so "},
        {"type": "python", "text": "1+1"},
        {"type": "python_output", "text": "2"},
        {"type": "text", "text": "2!"},
    ]
    ids, mask = render(loaded.tokenizer, {"messages": [USER, {"role": "assistant", "content": parts}]})
    assert [token["id"] for token in tokens] == ids
    assert [token["supervised"] for token in tokens] == [bool(m) for m in mask]
    roles = "".join((token["role"] or "-")[0] for token in tokens)
    assert roles == "-" + "u" * 4 + "a" * 4 + "p" * 5 + "o" * 3 + "a" * 3
    text = server.post("/api/tokens", text="ab", model=BASE).json["tokens"]
    assert [token["supervised"] for token in text] == [False, True, True]


def test_info_has_the_servers_defaults(server: Running) -> None:
    info = server.ask("GET", "/api/info").json
    assert info["default_model"] == CHAT
    assert info["defaults"]["temperature"] == CHAT_SAMPLING.temperature
    assert info["limits"]["context"] == CONTEXT


def test_what_tokenizers_and_recipes_log_is_no_training(server: Running, served_base: Path) -> None:
    for name in ("tokenizer", "recipe"):
        with open_metrics(
            served_base / "runs" / name / "metrics.jsonl",
            name,
            wandb_run=None,
            config={},
            enabled=True,
            resume=False,
        ) as metrics:
            metrics.log(train_row(1))
        assert server.ask("GET", f"/api/runs/{name}/metrics").error
    runs = {run["run"] for run in server.ask("GET", "/api/runs").json}
    assert BASE in runs
    assert runs.isdisjoint({"tokenizer", "recipe"})


def test_a_trainings_metrics_are_read_as_they_grow(server: Running, served_base: Path) -> None:
    runs = {run["run"]: run for run in server.ask("GET", "/api/runs").json}
    assert runs[BASE]["stage"] == "pretrain"
    assert runs[BASE]["steps"] == 3
    assert runs[BASE]["finished"] is False
    first = server.ask("GET", f"/api/runs/{BASE}/metrics").json
    assert [row["step"] for row in first["rows"]] == [1, 2, 3]
    path = Paths(served_base).metrics(BASE)
    with open_metrics(path, "pretrain", wandb_run=None, config=None, enabled=True, resume=True) as metrics:
        metrics.log(train_row(4))
    with path.open("ab") as file:
        file.write(b'not json\n{"kind": "train", "half a line')
    following = server.ask("GET", f"/api/runs/{BASE}/metrics?after={first['next']}").json
    assert [row["step"] for row in following["rows"]] == [4]
    again = server.ask("GET", f"/api/runs/{BASE}/metrics?after={following['next']}").json
    assert again == {"rows": [], "next": following["next"], "started": first["started"]}
    for wrong in ("/api/runs/nope/metrics", "/api/runs/..%2fx/metrics", f"/api/runs/{BASE}/metrics?after=x"):
        assert server.ask("GET", wrong).error


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/api/generate", {}, "messages"),
        ("/api/generate", {"ids": []}, "ids"),
        ("/api/generate", {"ids": [99999]}, "ids"),
        ("/api/generate", {"text": "x", "reply_ids": [-1]}, "reply_ids"),
        ("/api/generate", {"text": "x", "top_logprobs": 21}, "top_logprobs"),
        ("/api/next", {"ids": []}, "ids"),
        ("/api/next", {"ids": [1] * (CONTEXT + 1)}, "ids"),
        ("/api/next", {"ids": [1], "top": 0}, "top"),
        ("/api/score", {"text": ""}, "text"),
        ("/api/score", {"text": "x" * 9000}, "text"),
        ("/api/tokens", {}, "messages"),
        ("/api/tokens", {"text": "x" * 9000}, "text"),
        ("/api/tokens", {"messages": [{"role": "user", "content": "x" * 9000}]}, "messages"),
        ("/v1/completions", {"prompt": [[1]] * 9, "n": 2}, "n"),
        ("/tokenize", {}, "prompt"),
    ],
)
def test_a_mistake_names_the_field(server: Running, path: str, fields: dict, param: str) -> None:
    answered = server.post(path, **fields)
    assert answered.status == 400
    assert answered.error["param"] == param


def test_a_longer_training_in_the_place_of_another_is_told(server: Running, served_base: Path) -> None:
    path = Paths(served_base).metrics("again")
    got = []
    for count in (2, 5):
        with open_metrics(path, "sft", wandb_run=None, config={}, enabled=True, resume=False) as metrics:
            for step in range(1, count + 1):
                metrics.log(train_row(step))
        after = got[-1]["next"] if got else 0
        got.append(server.ask("GET", f"/api/runs/again/metrics?after={after}").json)
    assert got[0]["started"] == got[0]["rows"][0]["time"]
    assert got[1]["started"] > got[0]["started"]
    path.unlink()


def test_a_training_set_aside_while_it_is_listed_is_no_fault(tmp_path: Path) -> None:
    trainings = Trainings(Paths(tmp_path))
    assert trainings._summary(Paths(tmp_path).metrics("gone")) is None


def test_only_trainings_are_listed_and_only_whole_checkpoints_finish_them(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    for run in ("recipe", "tokenizer", "torn", "whole"):
        paths.metrics(run).parent.mkdir(parents=True)
        paths.metrics(run).touch()
    total = made_up_meta().plan.total_steps
    for run in ("torn", "whole"):
        store.save(paths.checkpoints(run), made_up_meta(step=total), {})
    store.file_of(paths.checkpoints("torn"), total, "model").unlink()
    listed = {summary["run"]: summary["finished"] for summary in Trainings(paths)._list()}
    assert listed == {"torn": False, "whole": True}
