"""Tasks by name, and suites of tasks."""

from __future__ import annotations

from nanochat.tasks.arc import ARC_CHALLENGE, ARC_EASY
from nanochat.tasks.builtin_tasks import BUILTIN_TASKS
from nanochat.tasks.gsm8k import GSM8K
from nanochat.tasks.humaneval import HUMANEVAL
from nanochat.tasks.mmlu import MMLU
from nanochat.tasks.persona_questions import IDENTITY
from nanochat.tasks.spellingbee import SPELLINGBEE
from nanochat.tasks.task import Task
from nanochat.tasks.thousands import THOUSANDS

CHATCORE_TASKS = (ARC_EASY, ARC_CHALLENGE, MMLU, GSM8K, HUMANEVAL, SPELLINGBEE)

OTHER_TASKS = (THOUSANDS, IDENTITY)

TASKS: dict[str, Task] = {task.name: task for task in (*BUILTIN_TASKS, *CHATCORE_TASKS, *OTHER_TASKS)}

SUITES: dict[str, tuple[str, ...]] = {
    "builtin": tuple(task.name for task in BUILTIN_TASKS),
    "chatcore": tuple(task.name for task in CHATCORE_TASKS),
    "reinforcement": (THOUSANDS.name,),
}


def task_names(suite: str) -> tuple[str, ...]:
    """The tasks in a comma-separated list of suites and tasks, without repeats. Raises ValueError if one is unknown."""
    names: dict[str, None] = {}
    for word in suite.split(","):
        word = word.strip()
        if word not in SUITES and word not in TASKS:
            raise ValueError(
                f"unknown task {word!r}: choose suites ({', '.join(SUITES)}) or tasks ({', '.join(TASKS)})"
            )
        names |= dict.fromkeys(SUITES.get(word, (word,)))
    return tuple(names)
