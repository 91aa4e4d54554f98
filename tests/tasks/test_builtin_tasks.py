"""Checks of builtin answers, and the tasks themselves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.paths import default_paths
from nanochat.tasks.builtin_tasks import (
    BUILTIN_TASKS,
    MISSPELLED,
    check_fact,
    check_named_choice,
    check_spelling,
)
from nanochat.tasks.checks import contains_phrase, first_number, is_choice, is_number, last_number, names_only
from nanochat.tasks.task import RIGHT, WELL_FORMED, Score, user_item


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


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("The capital is Paris.", RIGHT),
        ("The capital is Paris or Rome.", Score(WELL_FORMED, "also names Rome")),
        ("The capital is Rome.", Score(WELL_FORMED, "names Rome")),
        ("I do not know.", Score(0.0, "names none of the candidates")),
    ],
)
def test_a_fact_is_right_if_no_second_candidate_is_named(text, score):
    assert names_only(text, ("Paris",), ("Rome", "Berlin")) == score


def test_a_candidate_within_the_answer_is_not_a_second_one():
    assert names_only("It lies in North America.", ("North America",), ("America", "Asia")) == RIGHT
    assert names_only("The opposite of without is with.", ("with",), ("in", "out")) == RIGHT


def test_common_words_are_candidates_only_where_they_can_be_meant():
    assert names_only("In chemistry gold is Au.", ("Au",), ("In", "He")) == RIGHT
    assert names_only("The symbol of helium is He.", ("He",), ("Au",)) == RIGHT
    assert names_only("He is the symbol of helium.", ("He",), ("Au",)) == RIGHT


def fact_item(answer, subject, also=(), others=()):
    return user_item("q", answer, meta={"subject": subject, "also": also, "others": others})


@pytest.mark.parametrize(
    ("item", "text", "right"),
    [
        (fact_item("the Netherlands", "Amsterdam", others=("the Philippines",)), "Netherlands.", True),
        (fact_item("the Netherlands", "Amsterdam", others=("the Philippines",)), "Philippines.", False),
        (fact_item("Mexico", "Mexico City", others=("Cuba",)), "Mexico City.", False),
        (fact_item("Mexico", "Mexico City", others=("Cuba",)), "Mexico City is the capital of Mexico.", True),
        (fact_item("brown", "coffee", ("black",), ("red",)), "Coffee is black.", True),
        (fact_item("brown", "coffee", ("black",), ("red",)), "Coffee is black or red.", False),
    ],
)
def test_every_true_answer_to_a_fact_is_right(item, text, right):
    assert check_fact(item, text).right == right


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
def test_the_last_number_decides(n):
    assert is_number(last_number(f"1 + 1 = {n}."), str(n)) == RIGHT
    wrong = is_number(last_number(f"The sum is {n + 1}."), str(n))
    assert wrong == Score(WELL_FORMED, f"the number is {n + 1}")
    assert is_number(last_number("I do not know."), str(n)) == Score(0.0, "no number")


@pytest.mark.parametrize(("text", "number"), [("It occurs 3 times in 5.", 3), ("007", 7), ("none", None)])
def test_first_number(text, number):
    assert first_number(text) == number


def test_numbers_beyond_every_limit_are_wrong_and_no_error():
    digits = "9" * 5000
    assert not is_number(first_number(digits), "3").right
    assert not is_number(last_number(digits), "3").right


@pytest.mark.parametrize(
    ("text", "score"),
    [
        (" B\n", RIGHT),
        ("A", Score(WELL_FORMED, "another option")),
        ("E", Score(0.0, "not an option")),
        ("B.", Score(0.0, "not an option")),
    ],
)
def test_a_choice_is_the_letter_alone(text, score):
    assert is_choice(user_item("q", "B", tuple("ABCD")), text) == score


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Paris B", RIGHT),
        ("The capital of France is Paris B.", RIGHT),
        ("Jupiter B is the largest planet.", RIGHT),
        ("The symbol of carbon is C B.", RIGHT),
        ("B", RIGHT),
        ("B. Paris", RIGHT),
        ("(B)", RIGHT),
        ("B) Paris", RIGHT),
        ("A. O", Score(WELL_FORMED, "another option")),
        ("Rome A", Score(WELL_FORMED, "another option")),
        ("A giraffe eats leaves.", Score(0.0, "not an option")),
        ("B Paris", Score(0.0, "not an option")),
        (".", Score(0.0, "not an option")),
    ],
)
def test_the_letter_of_a_named_choice_comes_after_its_option(text, score):
    assert check_named_choice(user_item("q", "B", tuple("ABCD")), text) == score


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"harbour" is spelled h-a-r-b-o-u-r.', 1.0),
        ('"harbour" is spelled h-a-r-b-o-r.', MISSPELLED * 5 / 7),
        ("H-A-R-B-O-U-R", 1.0),
        ("h-a-r-b-o-u-r-s", MISSPELLED * 7 / 8),
        ("x-h-a-r-b-o-u-r", 0.0),
        ("harbour", 0.0),
        ("", 0.0),
    ],
)
def test_a_spelling_earns_the_share_of_its_right_beginning(text, value):
    score = check_spelling(user_item("q", "h-a-r-b-o-u-r"), text)
    assert score.value == pytest.approx(value)
    assert score.right == (value == 1.0)


@pytest.mark.parametrize("task", BUILTIN_TASKS, ids=lambda task: task.name)
def test_task(task):
    items = task.items(default_paths(), "test", 0)
    assert task.kind == "generate"
    assert task.baseline == (0.25 if task.name == "builtin-choice" else 0.0)
    assert len(items) >= 150
    for item in items:
        turns = len(item.messages) // 2
        assert [message["role"] for message in item.messages] == [*("user", "assistant") * turns, "user"]
        assert turns == 0 or task.name in ("builtin-follow-ups", "builtin-origin")
        assert task.check(item, "").value == 0
        assert not task.check(item, "I do not know.").right or task.name == "builtin-refusal"


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("task", BUILTIN_TASKS, ids=lambda task: task.name)
def test_the_reply_that_training_teaches_is_right(task, split):
    if task.conversation is None:
        pytest.skip("no training data")
    for item in task.items(default_paths(), split, 0)[:250]:
        *asked, reply = task.conversation(item)["messages"]
        assert tuple(asked) == item.messages
        content = reply["content"]
        text = content if isinstance(content, str) else content[-1]["text"]
        assert task.check(item, text) == RIGHT, (item, text)


def prompts(task, split, seed=0):
    return [item.messages[0]["content"] for item in task.items(default_paths(), split, seed)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["arithmetic", "letters", "facts"])
def test_no_training_item_is_a_test_item_and_every_seed_has_its_own(name):
    [task] = [task for task in BUILTIN_TASKS if task.name == f"builtin-{name}"]
    train = prompts(task, "train")
    assert train == prompts(task, "train")
    assert train != prompts(task, "train", seed=1)
    assert not {*train, *prompts(task, "train", seed=1)} & {*prompts(task, "test"), *prompts(task, "val")}
    assert prompts(task, "test") == prompts(task, "test", seed=1)
