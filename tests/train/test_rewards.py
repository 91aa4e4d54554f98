"""Rewards: what each function sees, sums of them, and the user's own file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nanochat.tasks.task import RIGHT, Score, user_item
from nanochat.train.rewards import REWARDS, Attempt, parse_rewards, rewards_digest

CALL = [
    {"type": "python", "text": "1+2"},
    {"type": "python_output", "text": "3"},
    {"type": "text", "text": "It is 3."},
]
GOOD = Attempt(user_item("1+2?", "3"), "It is 3.", CALL, RIGHT, tokens=10, limit=40, ended=True)
WRONG = replace(GOOD, text="", parts=[{"type": "text", "text": "2"}], score=Score(0.1, "2"), ended=False)
REFUSED = replace(GOOD, parts=[{"type": "python", "text": "x"}, {"type": "python_output", "text": "error"}])


@pytest.mark.parametrize(
    ("name", "good", "wrong", "refused"),
    [
        ("answer", 1.0, 0.1, 1.0),
        ("right", 1.0, 0.0, 1.0),
        ("format", 1.0, 0.0, 1.0),
        ("tool", 1.0, 0.0, 0.0),
        ("length", 0.75, 0.75, 0.75),
    ],
)
def test_each_reward(name: str, good: float, wrong: float, refused: float) -> None:
    assert [REWARDS[name](attempt) for attempt in (GOOD, WRONG, REFUSED)] == [good, wrong, refused]


def test_an_output_that_the_model_invented_is_no_call() -> None:
    invented = [{"type": "python_output", "text": "3"}, {"type": "text", "text": "It is 3."}]
    assert REWARDS["tool"](replace(GOOD, parts=invented)) == 0
    assert REWARDS["tool"](replace(GOOD, parts=[*CALL, *invented])) == 0
    assert REWARDS["tool"](replace(GOOD, parts=[*CALL, *CALL])) == 1


def test_a_sum_has_weights() -> None:
    assert parse_rewards("answer + tool*0.5+length*-2").of(GOOD) == {
        "answer": 1.0,
        "tool": 0.5,
        "length": -1.5,
    }


@pytest.mark.parametrize("words", ["", "speed", "answer*", "answer*1.2.3", "answer*x", "answer+answer*2"])
def test_a_sum_that_cannot_be_read_is_one_clear_line(words: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*reward[^\n]*$"):
        parse_rewards(words)


def test_a_users_own_function_is_added_or_alone(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def reward(attempt):\n    return attempt.text.count('3') - attempt.score.value\n")
    assert parse_rewards("answer", str(file)).of(GOOD) == {"answer": 1.0, "own": 0.0}
    assert parse_rewards("", str(file)).of(WRONG) == {"own": -0.1}
    imports = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    found = "@dataclass\nclass Found:\n    n: int\ndef reward(attempt):\n    return Found(2).n\n"
    file.write_text(imports + found)
    assert parse_rewards("", str(file)).of(GOOD) == {"own": 2.0}
    before = rewards_digest("answer", str(file))
    file.write_text("def reward(attempt):\n    return float('nan')\n")
    assert rewards_digest("answer", str(file)) != before
    with pytest.raises(ValueError, match="'own' must return a finite number, not nan"):
        parse_rewards("", str(file)).of(GOOD)
    file.write_text("def reward(attempt):\n    return attempt.meta['letter']\n")
    with pytest.raises(ValueError, match=r"--reward .*mine\.py fails: AttributeError"):
        parse_rewards("", str(file)).of(GOOD)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "is not a Python file"),
        ("x = 1", "must define a function reward"),
        ("1/0", "fails: ZeroDivision"),
    ],
)
def test_a_file_that_is_no_reward_is_one_clear_line(tmp_path: Path, text: str | None, reason: str) -> None:
    file = tmp_path / "mine.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=reason):
        parse_rewards("answer", str(file))
