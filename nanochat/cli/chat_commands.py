"""The commands of the terminal chat: one table for dispatch, help and completion."""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from nanochat.cli.chat_app import ChatApp
from nanochat.cli.chat_display import note, show_probabilities
from nanochat.cli.chat_files import LAST, chat_path, is_one_chat, load_chat, save_chat, saved_chats
from nanochat.cli.chat_models import known_models, open_speaker
from nanochat.cli.chat_session import Side
from nanochat.cli.chat_settings import changed, check_name, setting_names, settings
from nanochat.cli.chat_terminal import edit
from nanochat.console import say, warn
from nanochat.errors import EnvironmentFault, first_line

_OFF = "off"
_ASSIGNMENT = re.compile(r"(\w+)(?:\s*=\s*|\s+|$)(.*)", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """`run(app, argument)`; the argument is what follows the name, stripped. Raises ValueError for a bad one."""

    arguments: str
    help: str
    run: Callable[[ChatApp, str], None]
    choices: Callable[[ChatApp], Iterable[str]] = lambda _: ()
    """The words that may follow the name."""


def handle(app: ChatApp, text: str) -> None:
    """Run a command or answer a question; a mistake or a fault costs one line. `//` begins a question with a slash."""
    try:
        if text.startswith("//") or not text.startswith("/"):
            app.answer(text.removeprefix("/"))
        else:
            name, _, argument = text.partition(" ")
            _command(name).run(app, argument.strip())
    except BrokenPipeError:  # the reader of our answers is gone
        raise
    except (ValueError, EnvironmentFault, OSError) as error:
        warn(first_line(error))


def _command(name: str) -> Command:
    """Raises ValueError, with the nearest name, for an unknown one."""
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        guess = f"did you mean {near[0]}?" if near else "/help lists them"
        raise ValueError(f"unknown command {name}: {guess} (// begins a message with a slash)")
    return COMMANDS[name]


def complete(app: ChatApp, line: str) -> Iterable[str]:
    """The words that may stand in place of the line's last word."""
    *before, word = line.split(" ")
    choices: Iterable[str] = ()
    if not before:
        choices = COMMANDS if word else ()
    elif len(before) == 1 and before[0] in COMMANDS:
        choices = COMMANDS[before[0]].choices(app)
    return [choice for choice in choices if choice.startswith(word)]


# --- the conversation --------------------------------------------------------------------------------------------


def _new(app: ChatApp, _: str) -> None:
    app.session.forget()
    app.saved_as = None
    note("(a new conversation)")


def _undo(app: ChatApp, _: str) -> None:
    question = app.session.undo()
    app.keep()
    note(f"(removed: {question})")


def _regenerate(app: ChatApp, _: str) -> None:
    question = app.session.last_question
    if question is None:
        raise ValueError("nothing has been asked yet")
    params = app.session.params
    if params.greedy or params.seed is not None:
        fixed = "temperature is 0" if params.greedy else f"seed is {params.seed}"
        note(f"({fixed}: the answer changes only if something else did)")
    app.answer(question, again=True)


def _edit(app: ChatApp, _: str) -> None:
    """Edit the last question and ask it again, or write a first one."""
    last = app.session.last_question
    text = edit(last or "")
    if not text.strip() or text == last:
        note("(unchanged: nothing is asked; /regenerate asks again)" if text else "(empty: nothing is asked)")
        return
    note(f"> {text}")
    app.answer(text, again=last is not None)


def _system(app: ChatApp, text: str) -> None:
    if text:
        app.session.set_system("" if text == _OFF else text)
        app.keep()
    say(f"system prompt: {app.session.system or 'none'}")


def _save(app: ChatApp, name: str) -> None:
    if name in ("", LAST):
        raise ValueError(
            f"give a name; {LAST!r} is rewritten after each answer" if name else "give a name: /save NAME"
        )
    path = chat_path(name, app.runtime.paths)
    if path.exists() and path != app.saved_as:
        raise ValueError(f"{name} exists already and is not this chat alone: choose another name")
    turns = save_chat(path, app.session.messages)
    if not turns:
        raise ValueError("nothing to save yet")
    app.saved_as = path
    note(f"({_turns(turns)} in {path})")


def _load(app: ChatApp, name: str) -> None:
    if not name:
        known = ", ".join(saved_chats(app.runtime.paths)) or "none yet"
        raise ValueError(f"give a name: /load NAME; there are: {known}")
    path = chat_path(name, app.runtime.paths)
    if not path.is_file():
        raise ValueError(
            f"no chat {name!r}; there are: {', '.join(saved_chats(app.runtime.paths)) or 'none yet'}"
        )
    app.session.load(load_chat(path))
    app.saved_as = path if path != app.runtime.paths.chat(LAST) and is_one_chat(path) else None
    app.recall()
    note(f"({_turns(len(app.session.main.exchanges))} from {path})")


def _turns(count: int) -> str:
    return f"{count} turn{'' if count == 1 else 's'}"


# --- models and parameters ---------------------------------------------------------------------------------------


def _model(app: ChatApp, model: str) -> None:
    if model:
        app.session.change_model(open_speaker(model, app.runtime, app.session.main.speaker.weights))
    else:
        for run, steps in known_models(app.runtime.paths):
            say(f"  {run}: {', '.join(f'@{step}' for step in steps)}")
    say(f"model: {_model_line(app)}")


def _model_line(app: ChatApp) -> str:
    return " and ".join(f"{side.speaker.label}, {_context_line(app, side)}" for side in app.session.sides)


def _context_line(app: ChatApp, side: Side) -> str:
    used, context = app.session.context_tokens(side), side.speaker.engine.max_seq_len
    return f"context {used} of {context}{', some turns will be left out' if used > context else ''}"


def _set(app: ChatApp, argument: str) -> None:
    if not argument:
        _say_settings(app)
        return
    found = _ASSIGNMENT.fullmatch(argument)
    name, value = found.groups() if found else (argument, "")
    check_name(name)
    if value:
        app.session.params = changed(app.session.params, name, value)
    say(f"{name} {dict(settings(app.session.params))[name]}")


def _say_settings(app: ChatApp) -> None:
    for name, value in settings(app.session.params):
        say(f"  {name} {value}")


def _show(app: ChatApp, _: str) -> None:
    say(f"model: {_model_line(app)}, on {app.runtime.device}")
    say(f"system prompt: {app.session.system or 'none'}")
    say(f"turns: {len(app.session.main.exchanges)}")
    _say_settings(app)


def _probs(app: ChatApp, _: str) -> None:
    answered = [side.last for side in app.session.sides if side.last is not None and side.last.events]
    if not answered:
        raise ValueError("no answer to show: ask something first")
    for generation in answered:
        if all(event.logprobs is None for event in generation.events):
            raise ValueError("no probabilities were kept: /set logprobs 5, then ask again")
        show_probabilities(generation)


def _verbose(app: ChatApp, _: str) -> None:
    app.verbose = not app.verbose
    say(f"verbose {'on' if app.verbose else 'off'}")


# --- the chat itself ---------------------------------------------------------------------------------------------


def _help(_app: ChatApp, _: str) -> None:
    for name, command in COMMANDS.items():
        say(f"  {f'{name} {command.arguments}'.rstrip():22} {command.help}")
    say('  """                    begins and ends several lines (or paste, Alt-Enter)')
    say("  Ctrl-C                 stops the answer, or clears the line")


def _quit(app: ChatApp, _: str) -> None:
    app.done = True


def _model_names(app: ChatApp) -> Iterator[str]:
    for run, steps in known_models(app.runtime.paths):
        yield run
        yield from (f"{run}@{step}" for step in steps)


COMMANDS: dict[str, Command] = {
    "/regenerate": Command("", "answer the last question again", _regenerate),
    "/undo": Command("", "remove the last question and answer", _undo),
    "/edit": Command("", "edit the last question in $EDITOR and ask it again", _edit),
    "/new": Command("", "start a new conversation", _new),
    "/system": Command(
        "[TEXT]", "show or change the system prompt; off removes it", _system, lambda _: [_OFF]
    ),
    "/set": Command("[NAME [VALUE]]", "show or change sampling parameters", _set, lambda _: setting_names()),
    "/show": Command("", "show model, context, system prompt and parameters", _show),
    "/probs": Command("", "show the last answer's tokens and their rivals", _probs),
    "/verbose": Command("", "show speed and context after each answer, or not", _verbose),
    "/model": Command("[RUN[@STEP]]", "list the models, or continue with another", _model, _model_names),
    "/save": Command("NAME", "save the conversation; it is valid SFT data", _save),
    "/load": Command("NAME", "load a saved conversation", _load, lambda app: saved_chats(app.runtime.paths)),
    "/help": Command("", "show this list", _help),
    "/quit": Command("", "quit (or Ctrl-D)", _quit),
}
