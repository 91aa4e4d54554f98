"""Every task by its name, and the suites of them. Data is fetched when a task is opened."""

from __future__ import annotations

from collections.abc import Callable

from nanochat.paths import Paths
from nanochat.tasks.arc import arc_challenge, arc_easy
from nanochat.tasks.builtin_tasks import BUILTIN_TASKS
from nanochat.tasks.gsm8k import gsm8k
from nanochat.tasks.humaneval import humaneval
from nanochat.tasks.mmlu import mmlu
from nanochat.tasks.spellingbee import spellingbee
from nanochat.tasks.task import Task

CHATCORE_TASKS: dict[str, Callable[[Paths], Task]] = {
    "arc-easy": arc_easy,
    "arc-challenge": arc_challenge,
    "mmlu": mmlu,
    "gsm8k": gsm8k,
    "humaneval": humaneval,
    "spellingbee": spellingbee,
}

TASKS: dict[str, Callable[[Paths], Task]] = {**BUILTIN_TASKS, **CHATCORE_TASKS}

SUITES: dict[str, tuple[str, ...]] = {"builtin": tuple(BUILTIN_TASKS), "chatcore": tuple(CHATCORE_TASKS)}


def task_names(suite: str) -> tuple[str, ...]:
    """The names that a comma list of suites and tasks means, each once. Raises ValueError for an unknown one."""
    names: dict[str, None] = {}
    for word in suite.split(","):
        word = word.strip()
        if word not in SUITES and word not in TASKS:
            raise ValueError(
                f"unknown task {word!r}: choose suites ({', '.join(SUITES)}) or tasks ({', '.join(TASKS)})"
            )
        names |= dict.fromkeys(SUITES.get(word, (word,)))
    return tuple(names)
