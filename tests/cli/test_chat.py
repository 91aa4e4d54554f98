"""The terminal chat: only answers on stdout, several turns, tools shown, and no input that crashes it."""

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nanochat.checkpoint import store
from nanochat.checkpoint.loading import TOKENIZER_DIR, LoadedModel
from nanochat.cli import chat as module
from nanochat.cli.chat import Chat, ChatConfig, run
from nanochat.cli.main import main
from nanochat.infer.decoder import Decoder
from nanochat.infer.engine import Engine
from nanochat.infer.sampler import SamplingParams
from nanochat.model.backend import REFERENCE
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.paths import Paths
from nanochat.processes import Processes
from nanochat.runtime import Runtime
from nanochat.tokenizer.chat_format import render_prompt
from nanochat.tokenizer.patterns import split_pattern
from nanochat.tokenizer.special import ASSISTANT_END, PYTHON_END, PYTHON_START, SPECIAL_TOKENS
from nanochat.tokenizer.tokenizer import Tokenizer
from tests.conftest import made_up_meta

CONTEXT = 128


class Script(list[int]):
    """The tokens that a model generates next regardless of the prompt, and a record of every prompt."""

    def __init__(self) -> None:
        self.prompts: list[list[int]] = []
        self.before_token: Callable[[], None] = lambda: None

    def logits(self, vocab_size: int) -> torch.Tensor:
        self.before_token()
        return torch.nn.functional.one_hot(torch.tensor([self.pop(0)]), vocab_size) * 15.0


@pytest.fixture
def script(monkeypatch) -> Script:
    """Decoders that follow a script instead of their model."""
    script = Script()
    stream = Engine.stream

    def recording(engine, prompt_ids, params):
        script.prompts.append(list(prompt_ids))
        return stream(engine, prompt_ids, params)

    monkeypatch.setattr(Engine, "stream", recording)
    monkeypatch.setattr(Decoder, "logits", lambda decoder, _: script.logits(decoder.config.vocab_size))
    return script


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer({bytes([byte]): byte for byte in range(256)}, split_pattern("default"))


@pytest.fixture
def model(tokenizer):
    config = GPTConfig(
        max_seq_len=CONTEXT,
        vocab_size=tokenizer.vocab_size,
        n_layer=1,
        n_head=1,
        n_kv_head=1,
        head_dim=8,
        n_embd=8,
    )
    model = GPT(config, REFERENCE)
    model.init_weights(0)
    return model


@pytest.fixture
def say(script, tokenizer):
    """Adds an answer to the script: text, or a tuple of the code of a tool call."""

    def add(*pieces: str | tuple[str]) -> None:
        for piece in pieces:
            if isinstance(piece, str):
                script.extend(tokenizer.encode(piece))
            else:
                script.extend(
                    [
                        tokenizer.special(PYTHON_START),
                        *tokenizer.encode(*piece),
                        tokenizer.special(PYTHON_END),
                    ]
                )
        script.append(tokenizer.special(ASSISTANT_END))

    return add


@pytest.fixture
def runtime(base_dir):
    return Runtime(Processes(), torch.device("cpu"), torch.float32, Paths(base_dir))


@pytest.fixture
def start(model, tokenizer, runtime, monkeypatch):
    """Runs the chat with the given lines on stdin."""

    def start(*lines: str, **config):
        monkeypatch.setattr(module, "load_model", lambda *_: LoadedModel(model, tokenizer, {}, 7, Path()))
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return run(ChatConfig(temperature=0.0, **config), runtime)

    return start


def test_a_question_on_the_command_line_prints_only_the_answer(start, say, capsys):
    say("So ", ("12*34",), "it is 408.")
    result = start(prompt="What is 12*34?")
    out, err = capsys.readouterr()
    assert out == "So it is 408.\n"
    assert err == "⚙ 12*34 = 408\n"
    assert (result.model_tag, result.step) == ("sft", 7)
    (turn,) = result.turns
    assert (turn.prompt, turn.answer, turn.finish_reason) == ("What is 12*34?", "So it is 408.", "stop")
    assert turn.parts == [
        {"type": "text", "text": "So "},
        {"type": "python", "text": "12*34"},
        {"type": "python_output", "text": "408"},
        {"type": "text", "text": "it is 408."},
    ]


def test_piped_lines_are_turns_of_one_conversation(start, say, script, tokenizer, capsys):
    say("Hello!")
    say(("1+1",), "Two.")
    say("Bye.")
    result = start("Hi", "", "1+1?", "Good bye", system="Be short.")
    assert capsys.readouterr().out == "Hello!\nTwo.\nBye.\n"
    assert len(result.turns) == 3
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": result.turns[1].parts},
        {"role": "user", "content": "Good bye"},
    ]
    assert script.prompts == [render_prompt(tokenizer, messages[:n]) for n in (2, 4, 6)]


def test_new_forgets_quit_leaves_and_help_lists(start, say, script, tokenizer, capsys):
    say("One.")
    say("Two.")
    start("first", "/new", "second", "/help", "/nonsense at all", "/quit", "third")
    out, err = capsys.readouterr()
    assert out == "One.\nTwo.\n"
    assert script.prompts[1] == render_prompt(tokenizer, [{"role": "user", "content": "second"}])
    assert all(name in err for name in ("/new", "/help", "/quit", "unknown command /nonsense"))


def test_a_chat_longer_than_the_context_continues(start, say, script, capsys):
    for _ in range(30):
        say("An answer.")
    result = start(*[f"question {n}" for n in range(30)], max_new_tokens=20)
    assert [turn.answer for turn in result.turns] == ["An answer."] * 30
    assert max(map(len, script.prompts)) <= CONTEXT - 20
    assert b"question 0" in bytes(token for token in script.prompts[-1] if token < 256)
    assert b"question 29" in bytes(token for token in script.prompts[-1] if token < 256)


def test_a_message_too_long_is_refused_and_the_chat_continues(start, say, capsys):
    say("Fine.")
    result = start("x" * CONTEXT, "short")
    out, err = capsys.readouterr()
    assert out == "Fine.\n"
    assert "shorten" in err
    assert len(result.turns) == 1
    with pytest.raises(ValueError, match="shorten"):
        start(prompt="x" * CONTEXT)


def test_ctrl_c_stops_the_answer_and_not_the_chat(start, say, script, tokenizer, capsys):
    say("0123456789")
    say("Next.")
    rest = tokenizer.encode("3456789")

    def press_once() -> None:
        if script[: len(rest)] == rest:
            os.kill(os.getpid(), signal.SIGINT)
            del script[: len(rest) + 1]
            script.insert(0, tokenizer.encode("!")[0])

    script.before_token = press_once
    before = signal.getsignal(signal.SIGINT)
    result = start("count", "more")
    assert signal.getsignal(signal.SIGINT) is before
    assert [(turn.answer, turn.finish_reason) for turn in result.turns] == [
        ("012!", "interrupted"),
        ("Next.", "stop"),
    ]
    assert b"012!" in bytes(token for token in script.prompts[1] if token < 256)
    assert capsys.readouterr().out == "012!\nNext.\n"


def test_an_answer_stops_at_the_token_limit(start, say):
    say("0123456789")
    assert start(prompt="count", max_new_tokens=4).turns[0].answer == "0123"
    assert start(prompt="count", max_new_tokens=4).turns[0].finish_reason == "length"


def test_control_characters_do_not_reach_the_terminal(monkeypatch, start, say, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    say("a\x1b[31mb\x07c\td\n")
    start(prompt="colour")
    assert capsys.readouterr().out == "a[31mbc\td\n\n"


def test_sampling_is_checked_before_the_model_is_loaded(runtime):
    with pytest.raises(ValueError, match="top_p"):
        run(ChatConfig(model_tag="there is none", top_p=2.0), runtime)


def test_closing_a_reply_keeps_what_was_said(model, tokenizer, say):
    say("0123")
    chat = Chat(Engine(model, tokenizer, max_rows=1), SamplingParams(temperature=0))
    reply = chat.ask("count")
    assert "".join(next(reply).text for _ in range(2)) == "01"
    reply.close()
    assert chat.messages[-1] == {"role": "assistant", "content": [{"type": "text", "text": "01"}]}


@pytest.fixture
def checkpoint(tokenizer, base_dir):
    """A run `sft` on disk: a small random model that never ends its answer."""
    config = GPTConfig(
        max_seq_len=8192,
        vocab_size=tokenizer.vocab_size,
        n_layer=2,
        n_head=2,
        n_kv_head=2,
        head_dim=8,
        n_embd=16,
    )
    model = GPT(config, REFERENCE)
    model.init_weights(0)
    with torch.no_grad():
        model.head.weight[-len(SPECIAL_TOKENS) :] = 0
        model.head.weight[: -len(SPECIAL_TOKENS)] *= 1000
    directory = Paths(base_dir).checkpoints("sft")
    store.save(directory, made_up_meta(config, 3), model.state_dict())
    tokenizer.save(directory / TOKENIZER_DIR)
    return directory


@pytest.mark.slow
def test_the_command_line_answers_from_a_checkpoint(checkpoint, capsys):
    command = ["chat", "-p", "Hi", "--device", "cpu", "--temperature", "0", "--max-new-tokens", "9"]
    assert main(command) == 0
    answer = capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    said, _, result = capsys.readouterr().out.rstrip("\n").rpartition("\n")
    assert said + "\n" == answer
    turn = json.loads(result)["turns"][0]
    assert (turn["prompt"], turn["answer"] + "\n", turn["tokens"]) == ("Hi", answer, 9)
    assert main([*command, "--model-tag", str(checkpoint)]) == 0
    assert capsys.readouterr().out == answer


def test_without_a_model_one_line_says_what_to_run(capsys):
    assert main(["chat", "-p", "Hi", "--device", "cpu"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "nanochat sft" in err


@pytest.mark.slow
def test_at_a_terminal_ctrl_c_stops_the_answer_and_ctrl_d_quits(checkpoint):
    ours, theirs = pty.openpty()
    chat = subprocess.Popen(
        [sys.executable, "-m", "nanochat", "chat", "--device", "cpu", "--max-new-tokens", "4000"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "dumb"},
        start_new_session=True,
    )
    os.close(theirs)
    deadline = time.monotonic() + 120

    def read_until(done) -> str:
        seen = ""
        while not done(seen):
            assert time.monotonic() < deadline, seen
            if select.select([ours], [], [], 1)[0]:
                seen += os.read(ours, 4096).decode(errors="replace")
        return seen

    try:
        greeting = read_until(lambda seen: seen.endswith("> "))
        assert "sft, step 3" in greeting
        os.write(ours, b"hello\n")
        read_until(lambda seen: len(seen) > 100)
        chat.send_signal(signal.SIGINT)
        read_until(lambda seen: seen.endswith("\n> "))
        os.write(ours, b"/help\n")
        assert "/new" in read_until(lambda seen: seen.endswith("\n> "))
        os.write(ours, b"\x04")
        assert chat.wait(timeout=60) == 0
    finally:
        chat.kill()
        chat.wait()
        os.close(ours)
