"""The terminal chat: only answers on stdout, several turns, tools shown, and no input that crashes it."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest
import torch

from nanochat.checkpoint import store
from nanochat.checkpoint.loading import TOKENIZER_DIR, LoadedModel
from nanochat.cli import chat as module
from nanochat.cli import chat_models
from nanochat.cli.chat import ChatConfig, run
from nanochat.cli.chat_app import ChatApp
from nanochat.cli.chat_files import load_chat, save_chat
from nanochat.cli.chat_session import ChatSession
from nanochat.cli.main import main
from nanochat.config import json_line
from nanochat.infer.sampler import SamplingParams
from nanochat.model.backend import REFERENCE
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.paths import Paths
from nanochat.tokenizer.chat_format import render_prompt
from nanochat.tokenizer.special import SPECIAL_TOKENS
from tests.cli.conftest import CONTEXT
from tests.conftest import made_up_meta

STEPS = {"sft": 7, "base": 3}
METAS = {"sft": made_up_meta(stage="sft"), "base": made_up_meta(stage="pretrain")}


@pytest.fixture
def start(model, tokenizer, runtime, monkeypatch):
    """Runs the chat with the given lines on stdin."""

    def start(*lines: str, stdin: io.TextIOBase | None = None, **config):
        monkeypatch.setattr(
            chat_models,
            "load_model",
            lambda run, *_: LoadedModel(model, tokenizer, METAS[run], STEPS[run], Path()),
        )
        monkeypatch.setattr("sys.stdin", stdin or io.StringIO("".join(f"{line}\n" for line in lines)))
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


def test_a_base_model_warns_that_it_only_continues_text(start, say, capsys):
    say("Hello!")
    start(prompt="Hi", model_tag="base")
    out, err = capsys.readouterr()
    assert out == "Hello!\n"
    hint = "fine-tune it with nanochat sft --from-tag base"
    warning = "warning: base is a base model: it continues text and was not trained to answer"
    assert err == f"{warning}; {hint}\n"


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
    assert "there is no model yet: `nanochat run quickstart`" in err


def test_text_on_stdin_is_joined_to_the_question(start, say, script, tokenizer, tmp_path, monkeypatch):
    path = tmp_path / "boats.txt"
    path.write_text("Boats.\n\nMany boats.\n")
    for prompt, question in (
        ("Summarise:", "Summarise:\n\nBoats.\n\nMany boats."),
        ("", "Boats.\n\nMany boats."),
    ):
        say("Boats!")
        with open(path) as file:
            assert start(prompt=prompt, stdin=file).turns[0].prompt == question
        assert script.prompts[-1] == render_prompt(tokenizer, [{"role": "user", "content": question}])
    path.write_text("\n")
    with open(path) as file, pytest.raises(ValueError, match="the prompt is empty"):
        start(prompt=" ", stdin=file)


def test_two_models_answer_one_question(start, say, script, capsys):
    say("Left.")
    say("Right.")
    result = start(prompt="Which?", compare="base")
    assert capsys.readouterr().out == "[sft@7]\nLeft.\n[base@3]\nRight.\n"
    (turn,) = json.loads(json_line(result))["turns"]
    assert (turn["prompt"], turn["model_tag"], turn["answer"]) == ("Which?", "sft", "Left.")
    assert (turn["compared"]["model_tag"], turn["compared"]["step"], turn["compared"]["answer"]) == (
        "base",
        3,
        "Right.",
    )
    assert turn["seed"] == turn["compared"]["seed"]


def test_continue_takes_up_the_last_conversation(start, say, script, tokenizer, runtime, capsys):
    last = runtime.paths.chat("last")
    with pytest.raises(ValueError, match="no conversation to continue"):
        start(prompt="And?", continue_=True)
    earlier = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    save_chat(last, earlier)
    for text in ("Alone.", "More."):
        say(text)
    start(prompt="Without it")
    assert load_chat(last) == earlier
    result = start(prompt="And?", continue_=True)
    assert len(result.turns) == 1
    assert script.prompts[-1] == render_prompt(tokenizer, [*earlier, {"role": "user", "content": "And?"}])
    assert [message["content"] for message in load_chat(last)] == ["Hi", "Hello!", "And?", "More."]
    say("Yes.")
    start(prompt="Sure?", continue_=True, system="Be short.")
    assert load_chat(last)[0] == {"role": "system", "content": "Be short."}


def test_at_a_terminal_an_interrupted_command_does_not_quit(speaker, runtime, monkeypatch, capsys):
    handled = []

    def interrupted(_app, text: str) -> None:
        handled.append(text)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "handle", interrupted)
    monkeypatch.setattr(module, "read_messages", lambda *_: iter(["/model big", "hello"]))
    app = ChatApp(ChatSession([speaker], SamplingParams()), runtime)
    module._converse(app, at_terminal=True)
    assert handled == ["/model big", "hello"]
    assert "sft, step 7, on cpu" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        module._converse(app, at_terminal=False)


def test_verbose_is_a_line_after_the_answer(start, say, capsys):
    say("Yes.")
    start(prompt="?", verbose=True)
    out, err = capsys.readouterr()
    assert out == "Yes.\n"
    assert err.startswith("5 tokens · ")
    assert err.endswith("context 10 of 128\n")


def test_one_question_keeps_no_probabilities_and_a_chat_does(start, say, script):
    say("Yes.")
    say("Yes.")
    start(prompt="?")
    start("?")
    assert [params.logprobs for params in script.params] == [None, 5]


@pytest.mark.slow
def test_one_question_loads_neither_input_nor_data_libraries():
    code = "import sys, nanochat.cli.chat; print({'prompt_toolkit', 'readline', 'pyarrow', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


_CHAT = [sys.executable, "-m", "nanochat", "chat", "--device", "cpu"]


@pytest.mark.slow
def test_a_pipe_is_joined_and_ctrl_c_ends_a_single_question(checkpoint):
    joined = subprocess.run(
        [*_CHAT, "-p", "Summarise:", "--max-new-tokens", "3", "--json"],
        input=b"boats \xff\n",
        capture_output=True,
        check=True,
    )
    assert json.loads(joined.stdout.splitlines()[-1])["turns"][0]["prompt"] == "Summarise:\n\nboats \ufffd"
    endless = subprocess.Popen(
        [*_CHAT, "-p", "Hi", "--max-new-tokens", "8000"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert endless.stdout.read(1)
    endless.send_signal(signal.SIGINT)
    endless.communicate()
    assert endless.returncode == 130


_PROMPT = [r"\x1b\[\?2004h", "> $"]
"""What shows that the terminal reads keys: bracketed paste is switched on, or the plain prompt."""


@contextmanager
def at_terminal(*arguments: str, columns: int = 100, **environment: str) -> Iterator[pexpect.spawn]:
    """A chat at a real terminal, greeted and at its prompt."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    chat = pexpect.spawn(
        _CHAT[0],
        [*_CHAT[1:], *arguments],
        env={**inherited, "TERM": "xterm", **environment},
        dimensions=(24, columns),
        encoding="utf-8",
        codec_errors="replace",
        timeout=60,
    )
    try:
        chat.expect("sft, step 3")
        prompt(chat)
        yield chat
    finally:
        chat.close(force=True)


def prompt(chat: pexpect.spawn) -> None:
    chat.expect(_PROMPT)


def quit_with(chat: pexpect.spawn, keys: str) -> None:
    chat.send(keys)
    chat.expect(pexpect.EOF)
    chat.wait()
    assert chat.exitstatus == 0


def history(base_dir: Path) -> list[str]:
    """The entries of the history file, oldest first."""
    entries = Paths(base_dir).chat_history.read_text().split("\n# ")[1:]
    return ["\n".join(line[1:] for line in entry.splitlines()[1:] if line) for entry in entries]


@pytest.mark.slow
@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_at_a_terminal_ctrl_c_stops_the_answer_and_ctrl_d_quits(checkpoint, base_dir, term):
    with at_terminal("--max-new-tokens", "8000", "--temperature", "0", TERM=term) as chat:
        chat.send("hello\r")
        chat.expect(r"(?s)[^\x1b]{100}")
        chat.send("\x03")
        prompt(chat)
        chat.send("/help\r")
        chat.expect("/regenerate")
        prompt(chat)
        quit_with(chat, "\x04")
    assert [message["role"] for message in load_chat(Paths(base_dir).chat("last"))] == ["user", "assistant"]


@pytest.mark.slow
def test_typing_pasting_and_completing(checkpoint, base_dir):
    with at_terminal("--max-new-tokens", "3") as chat:
        chat.send("never asked\x03")
        chat.send("\x1b[200~pasted\nlines\x1b[201~!\r")
        chat.expect("cut off after 3 tokens")
        prompt(chat)
        chat.send('"""\rin a fence\r"""\r')
        chat.expect("cut off after 3 tokens")
        prompt(chat)
        chat.send("/set temper\t 0\r")
        chat.expect("temperature 0.0")
        prompt(chat)
        os.kill(chat.pid, signal.SIGINT)
        chat.expect("Ctrl-D or /quit")
        chat.send("\x1b[A\r")  # arrow up: the last line again
        chat.expect("temperature 0.0")
        prompt(chat)
        quit_with(chat, "/quit\r")
    assert history(base_dir) == ["pasted\nlines!", '"""\nin a fence\n"""', "/set temperature 0", "/quit"]
    assert Paths(base_dir).chat_history.stat().st_mode & 0o777 == 0o600
    questions = [message["content"] for message in load_chat(Paths(base_dir).chat("last"))[::2]]
    assert questions == ["pasted\nlines!", "in a fence"]
    with at_terminal("--continue", "--max-new-tokens", "3") as chat:
        chat.send("\x1b[A\x1b[A\x1b[A\r")
        chat.expect("cut off after 3 tokens")
        prompt(chat)
        quit_with(chat, "\x04")
    assert len(load_chat(Paths(base_dir).chat("last"))) == 6


@pytest.mark.slow
def test_a_narrow_terminal_and_two_models(checkpoint):
    with at_terminal("--compare", "sft@3", "--max-new-tokens", "9", "--temperature", "0", columns=40) as chat:
        chat.send("hello\r")
        chat.expect(r"(?s)\[sft@3\]\r\n(.+?)\[sft@3\]\r\n")
        chat.expect_exact(chat.match[1])
        prompt(chat)
        quit_with(chat, "\x04")
