"""The terminal chat apart from its input: a session, what is shown of it, and its file."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from nanochat.cli.chat_display import Interrupted, note, show_answers, show_ends, show_exchange
from nanochat.cli.chat_files import LAST, save_chat
from nanochat.cli.chat_session import ChatSession, ChatTurn
from nanochat.cli.chat_terminal import interrupts
from nanochat.console import warn
from nanochat.errors import EnvironmentFault
from nanochat.runtime import Runtime


class ChatApp:
    """What commands act on.

    Attributes:
        session: the conversation.
        runtime: where models are loaded, and the paths of saved chats.
        verbose: show tokens, speed and context after each answer.
        kept: whether the conversation is saved after each answer.
        turns: every question asked, in order, also those undone later.
        saved_as: the file that holds this conversation and no other, which `/save` may replace.
        done: whether to quit.
    """

    def __init__(self, session: ChatSession, runtime: Runtime, *, verbose: bool = False, kept: bool = False):
        self.session, self.runtime = session, runtime
        self.verbose, self.kept = verbose, kept
        self.turns: list[ChatTurn] = []
        self.saved_as: Path | None = None
        self.done = False

    def answer(self, question: str, *, again: bool = False) -> None:
        """Answer a question and show it; Ctrl-C stops the answer and keeps what was said.

        Args: again: replace the last turn.
        Raises ValueError if the question is empty or too long.
        """
        self._answer(question, interrupts, again=again)

    def answer_once(self, question: str) -> None:
        """`answer`, but Ctrl-C raises KeyboardInterrupt as in any command."""
        self._answer(question, lambda: nullcontext(lambda: False))

    def _answer(
        self,
        question: str,
        watch: Callable[[], AbstractContextManager[Interrupted]],
        *,
        again: bool = False,
    ) -> None:
        with self.session.asking(question, again=again) as generations, watch() as interrupted:
            show_answers(generations, interrupted)
        if not any(generation.events for generation in generations):
            note("(stopped before the first token: the question is dropped)")
            return
        show_ends(generations, verbose=self.verbose)
        first, *others = (generation.reply() for generation in generations)
        compared = others[0] if others else None
        self.turns.append(ChatTurn(**vars(first), prompt=question, compared=compared))
        self.keep()

    def keep(self) -> None:
        """Save the conversation for `--continue`, unless it is empty."""
        if not self.kept:
            return
        try:
            save_chat(self.runtime.paths.chat(LAST), self.session.messages)
        except EnvironmentFault as fault:
            self.kept = False
            warn(f"this chat is not saved for --continue: {fault}")

    def recall(self) -> None:
        """Show the last turn of a conversation that was taken up."""
        if self.session.main.exchanges:
            show_exchange(self.session.main.exchanges[-1])
