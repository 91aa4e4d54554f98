"""The commands: what each does to the conversation, and that every mistake costs one line."""

import json
import os
import sys
from pathlib import Path

import pytest

from nanochat.checkpoint import store
from nanochat.checkpoint.loading import split_step
from nanochat.cli import chat_commands as module
from nanochat.cli.chat_app import ChatApp
from nanochat.cli.chat_commands import COMMANDS, complete, handle
from nanochat.cli.chat_session import ChatSession
from nanochat.errors import EnvironmentFault
from nanochat.infer.sampler import SamplingParams
from tests.conftest import made_up_meta

PARAMS = SamplingParams(temperature=0, max_new_tokens=64, logprobs=3)


@pytest.fixture
def app(speaker, runtime):
    return ChatApp(ChatSession([speaker], PARAMS), runtime)


@pytest.fixture
def type_(app, capsys):
    """Types lines; returns what they print to stderr."""

    def type_(*lines: str) -> str:
        capsys.readouterr()
        for line in lines:
            handle(app, line)
        return capsys.readouterr().err

    return type_


def contents(app: ChatApp) -> list[str]:
    return [message["content"] for message in app.session.messages]


def test_regenerate_answers_again(app, say, type_):
    say("One.")
    say("Another one.")
    said = type_("first", "/regenerate")
    assert contents(app) == ["first", "Another one."]
    assert "temperature is 0" in said
    assert [turn.answer for turn in app.turns] == ["One.", "Another one."]


def test_undo_removes_the_last_turn(app, say, type_):
    say("One.")
    say("Two.")
    assert "(removed: second)" in type_("first", "second", "/undo")
    assert contents(app) == ["first", "One."]


@pytest.fixture
def editor(monkeypatch, tmp_path):
    """An editor that records the text and replaces it."""
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.delenv("VISUAL", raising=False)

    def install(code: str) -> Path:
        seen = tmp_path / "seen"
        script = tmp_path / "the editor.py"
        script.write_text(f"import sys, pathlib\np = pathlib.Path(sys.argv[1])\n{code}")
        script.with_name("keep.py").write_text("")
        monkeypatch.setenv("EDITOR", f"'{sys.executable}' '{script}'")
        monkeypatch.setenv("SEEN", str(seen))
        return seen

    return install


_REPLACE = """
import os
pathlib.Path(os.environ["SEEN"]).write_text(p.read_text())
p.write_text("second,\\nedited\\n")
"""


def test_edit_asks_the_edited_question_instead(app, say, type_, editor):
    say("One.")
    say("Two.")
    say("Better.")
    seen = editor(_REPLACE)
    type_("first", "second", "/edit")
    assert seen.read_text() == "second"
    assert contents(app) == ["first", "One.", "second,\nedited", "Better."]


def test_edit_writes_a_first_question(app, say, type_, editor):
    say("Yes.")
    editor(_REPLACE)
    type_("/edit")
    assert contents(app) == ["second,\nedited", "Yes."]


@pytest.mark.parametrize(
    ("code", "line"),
    [("", "unchanged"), ("p.write_text('')", "empty"), ("sys.exit(3)", "failed with status 3")],
)
def test_an_edit_that_gives_nothing_asks_nothing(app, say, type_, editor, code, line):
    say("One.")
    type_("first")
    editor(code)
    said = type_("/edit")
    assert said.count("\n") == 1
    assert line in said
    assert contents(app) == ["first", "One."]


def test_edit_without_an_editor_or_a_terminal_says_so(type_, editor, monkeypatch):
    monkeypatch.setenv("EDITOR", "/nonexistent/editor")
    assert "cannot start the editor" in type_("/edit")
    monkeypatch.setenv("EDITOR", "'unbalanced")
    assert type_("/edit").count("\n") == 1
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    assert "terminal" in type_("/edit")


def test_system_changes_shows_and_removes(app, type_):
    assert "Be kind." in type_("/system Be kind.")
    assert contents(app) == ["Be kind."]
    assert "Be kind." in type_("/system")
    assert "none" in type_("/system off")
    assert contents(app) == []


def test_set_changes_a_parameter_of_the_next_answer(app, say, script, type_):
    assert type_("/set max_new_tokens 3", "/set temperature=0.5", "/set stop a=b") == (
        "max_new_tokens 3\ntemperature 0.5\nstop a=b\n"
    )
    say("0123456789")
    type_("count")
    assert script.params[-1].temperature == 0.5
    assert script.params[-1].stop == ("a=b",)
    assert app.turns[-1].tokens == 3
    assert type_("/set min_p") == "min_p 0.0\n"
    assert app.session.params.logprobs == 3
    assert "  top_p 1.0\n" in type_("/set")


def test_show_lists_model_context_and_parameters(app, say, type_):
    say("One.")
    type_("first", "/system Be kind.")
    shown = type_("/show")
    assert "sft@7" in shown
    assert "of 128" in shown
    assert "Be kind." in shown
    assert "turns: 1" in shown
    assert "temperature 0\n" in shown


def test_show_says_when_a_conversation_outgrows_the_context(say, type_):
    for n in range(4):
        say("A long answer, " * 3)
        shown = type_(f"question {n}", "/show")
        assert ("left out" in shown) == (n >= 2)


def test_probs_shows_every_token_with_its_rivals_and_marks_forced_ones(say, type_, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    say("A ", ("1+1",), "\n")
    shown = type_("go", "/probs")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line]
    assert [row[0] for row in rows] == [
        *("A", "␣", "<|python_start|>", "1", "+", "1", "<|python_end|>"),
        *("<|output_start|>", "2", "<|output_end|>", r"\n", "<|assistant_end|>"),
    ]
    assert [row[1] for row in rows] == [*["100.0%"] * 7, *["tool"] * 3, *["100.0%"] * 2]
    rivals = [row[2].split() for row in rows]
    assert [len(each) for each in rivals] == [*[2] * 7, *[0] * 3, *[2] * 2]
    assert not any(each.startswith("A=") for each in rivals[0])


def test_probs_without_an_answer_says_so(app, say, type_):
    assert "no answer" in type_("/probs")
    say("One.")
    assert "/set logprobs" in type_("/set logprobs none", "first", "/probs")
    for line in ("/undo", "/new"):
        say("Two.")
        assert "no answer" in type_("second", line, "/probs")


def test_a_saved_chat_is_loaded_again(app, say, type_, runtime):
    say("So ", ("1+1",), "two.")
    said = type_("/system Be short.", "1+1?", "/save sums")
    before = app.session.messages
    assert str(runtime.paths.chat("sums")) in said
    shown = type_("/new", "/system off", "/load sums")
    assert app.session.messages == before
    assert "1+1 = 2" in shown
    assert "1 turn from" in shown


def test_save_replaces_only_its_own_chat(app, say, type_, runtime):
    for text in ("One.", "Two.", "Three.", "Four."):
        say(text)
    type_("first", "/save a", "second")
    assert "2 turns" in type_("/save a")
    assert "already" in type_("/new", "other", "/save a")
    assert "2 turns from" in type_("/load a")
    assert "3 turns" in type_("third", "/save a")


def test_a_file_of_several_conversations_is_loaded_from_but_never_replaced(app, say, type_, tmp_path):
    say("Three.")
    say("Four.")
    turn = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "Two."}]
    line = json.dumps({"messages": turn})
    one, several = tmp_path / "one.jsonl", tmp_path / "several.jsonl"
    one.write_text(f"\n{line}\n\n")
    several.write_text(f"{line}\n" * 3)
    assert "1 turn from" in type_(f"/load {several}")
    assert "choose another name" in type_(f"/save {several}", "more", f"/save {several}")
    assert several.read_text() == f"{line}\n" * 3
    assert "2 turns in" in type_(f"/load {one}", "more", f"/save {one}")


@pytest.mark.parametrize(
    "line", ["/save", "/save last", "/save a/b", "/save empty", "/load", "/load nope", "/undo"]
)
def test_a_mistake_costs_one_line_and_changes_nothing(app, type_, runtime, line):
    said = type_(line)
    assert said.startswith("warning: ")
    assert said.count("\n") == 1
    assert app.session.messages == []
    assert not runtime.paths.chats.exists()


@pytest.mark.parametrize(
    ("line", "guess"), [("/hlep", "did you mean /help?"), ("/zzz x", "/help lists them")]
)
def test_an_unknown_command_gets_a_hint(type_, line, guess):
    assert guess in type_(line)


def test_two_slashes_begin_a_message(app, say, type_):
    say("Yes.")
    type_("//etc is a folder?")
    assert contents(app)[0] == "/etc is a folder?"


def test_another_model_keeps_the_conversation(app, say, type_, monkeypatch, other_speaker):
    say("One.")
    type_("first")
    monkeypatch.setattr(module, "open_speaker", lambda model, *_: other_speaker)
    assert "base@3, context" in type_("/model base@3")
    assert contents(app) == ["first", "One."]
    assert app.session.main.speaker is other_speaker


@pytest.mark.parametrize("error", [ValueError, EnvironmentFault, PermissionError])
def test_a_model_that_cannot_be_loaded_leaves_the_old_one(app, type_, monkeypatch, error, speaker):
    def fail(*_):
        raise error("it is torn\nand more")

    monkeypatch.setattr(module, "open_speaker", fail)
    assert type_("/model base") == "warning: it is torn\n"
    assert app.session.main.speaker is speaker


def test_models_are_listed_with_their_whole_steps(app, type_, runtime):
    for run, step in (("sft", 7), ("base", 3), ("base", 5), ("base", 8)):
        store.save(runtime.paths.checkpoints(run), made_up_meta(step=step), {})
    store.file_of(runtime.paths.checkpoints("base"), 8, "model").unlink()
    said = type_("/model", "/model nope")
    assert "  base: @3, @5\n  sft: @7\n" in said
    assert "no checkpoint of a run 'nope'; there are: base, sft" in said
    assert complete(app, "/model base@") == ["base@3", "base@5"]


def test_a_step_is_split_from_a_run_unless_that_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert split_step("sft@40") == ("sft", 40)
    assert split_step("sft") == ("sft", None)
    assert split_step("sft@") == ("sft@", None)
    (tmp_path / "sft@40").mkdir()
    assert split_step("sft@40") == ("sft@40", None)


def test_completion_offers_what_the_table_has(app, runtime):
    runtime.paths.chats.mkdir(parents=True)
    runtime.paths.chat("boats").write_text("")
    assert complete(app, "/s") == ["/system", "/set", "/show", "/save"]
    assert complete(app, "/set te") == ["temperature"]
    assert complete(app, "/load ") == ["boats"]
    for line in ("", "hello", "/set temperature 0", "/zzz ", "/undo "):
        assert complete(app, line) == []


def test_help_lists_every_command(type_):
    shown = type_("/help")
    assert all(name in shown and command.help in shown for name, command in COMMANDS.items())
    assert all(len(line) < 80 for line in shown.splitlines())


def test_quit_is_done(app, type_):
    type_("/quit")
    assert app.done


def test_verbose_shows_speed_and_context(app, say, type_):
    say("One.")
    shown = type_("/verbose", "first").splitlines()
    assert shown[0] == "verbose on"
    tokens, speed, first, context = shown[1].split(" · ")
    assert (tokens, context) == ("5 tokens", "context 14 of 128")
    assert speed.endswith(" tok/s")
    assert first.startswith("first token after ")
    assert "verbose off" in type_("/verbose")


def test_a_closed_pipe_ends_the_chat(app, monkeypatch):
    def broken(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr(app, "answer", broken)
    with pytest.raises(BrokenPipeError):
        handle(app, "hello")


def test_every_answer_is_kept_for_continue(app, say, type_, runtime):
    last = runtime.paths.chat("last")
    say("One.")
    type_("first")
    assert not last.exists()
    app.kept = True
    say("Two.")
    type_("second")
    assert "Two." in last.read_text()
    say("Three.")
    last.unlink()
    last.mkdir()
    assert type_("third").count("not saved for --continue") == 1
    say("Four.")
    assert "not saved" not in type_("fourth")
    assert os.listdir(last) == []
