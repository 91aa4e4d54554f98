"""Checks of builtin answers, and the tasks themselves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.builtin import conversations
from nanochat.paths import default_paths
from nanochat.tasks.builtin_tasks import BUILTIN_TASKS
from nanochat.tasks.task import answer_contains, contains_phrase, ends_in_number, exact, last_number


@pytest.mark.parametrize(
    ("text", "phrase", "found"),
    [
        ("The capital of France is Paris.", "Paris", True),
        ("Paris is the capital.", "Paris", True),
        ("The Parisian way.", "Paris", False),
        ("A bee lives in hives.", "in hives", True),
        ("In hives.", "in hives", True),
        ("in spring", "In", False),
        ("It is 42.", "42", True),
        ("It is 142.", "42", False),
        ("forty-seven", "seven", False),
    ],
)
def test_contains_phrase(text, phrase, found):
    assert contains_phrase(text, phrase) == found


def test_answer_contains_refuses_a_second_candidate():
    assert answer_contains("The capital is Paris.", "Paris", ("Rome", "Berlin"))
    assert not answer_contains("The capital is Paris or Rome.", "Paris", ("Rome", "Berlin"))
    assert not answer_contains("The capital is Rome.", "Paris", ("Rome", "Berlin"))
    assert answer_contains("It lies in North America.", "North America", ("America", "Asia"))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("347 + 52 = 399.", 399),
        ("52 - 347 = -295.", -295),
        ("The answer is 1,024.", 1024),
        ("12.50", 12.5),
        ("347-52", 52),
        ("none", None),
    ],
)
def test_last_number(text, number):
    assert last_number(text) == number


@given(st.integers(-(10**6), 10**6))
def test_ends_in_number(n):
    assert ends_in_number(f"1 + 1 = {n}.", str(n))
    assert not ends_in_number(f"The sum is {n + 1}.", str(n))


def test_exact():
    assert exact(" B\n", "B")
    assert not exact("A", "B")


@pytest.mark.parametrize("name", BUILTIN_TASKS)
def test_task(name):
    task = BUILTIN_TASKS[name](default_paths())
    assert task.name == name
    assert task.kind == ("choice" if name == "builtin-choice" else "generate")
    assert task.baseline == (0.25 if task.kind == "choice" else 0.0)
    assert len(task.items) >= 150
    for item in task.items:
        assert [message["role"] for message in item.messages] == ["user"]
        assert not task.check(item, "")
        assert not task.check(item, "I do not know.") or name == "builtin-refusal"


def test_the_answers_of_the_validation_conversations_pass_the_checks():
    """The reply that training teaches is right by the task's own check, for whatever it asks."""
    replies = {}
    for conversation in conversations("small", 0, "val"):
        for user, reply in zip(*[iter(conversation["messages"])] * 2, strict=True):
            content = reply["content"]
            text = content if isinstance(content, str) else content[-1]["text"]
            replies[user["content"]] = text
    checked = 0
    for task in (make(default_paths()) for make in BUILTIN_TASKS.values()):
        for item in task.items:
            text = replies.get(item.messages[0]["content"])
            if text is not None:
                assert task.check(item, text), (item, text)
                checked += 1
    assert checked > 20
