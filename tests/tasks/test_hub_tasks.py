"""ARC, MMLU, GSM8K, HumanEval and SpellingBee on rows of their schema."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.builtin.holdout import held_out_letter
from nanochat.paths import default_paths
from nanochat.sandbox.python import check_function
from nanochat.tasks.arc import ARC_CHALLENGE
from nanochat.tasks.gsm8k import GSM8K, UNMARKED, solution_parts
from nanochat.tasks.humaneval import HUMANEVAL, solution
from nanochat.tasks.mmlu import MMLU
from nanochat.tasks.spellingbee import SPELLINGBEE
from nanochat.tasks.task import RIGHT, WELL_FORMED, user_item


def write_hub(folder, rows):
    path = default_paths().task_data / folder / "0000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_arc_letters_its_choices_whatever_their_labels():
    rows = [
        {
            "question": "q",
            "choices": {"text": ["a", "b", "c", "d", "e"], "label": list("ABCDE")},
            "answerKey": "E",
        },
        {"question": "q", "choices": {"text": ["a", "b", "c"], "label": list("123")}, "answerKey": "2"},
    ]
    write_hub("allenai/ai2_arc/ARC-Challenge/test", rows)
    first, second = ARC_CHALLENGE.items(default_paths(), "test", 0)
    assert (first.answer, first.choices) == ("E", tuple("ABCDE"))
    assert (second.answer, second.choices) == ("B", tuple("ABC"))
    assert second.messages[0]["content"] == "q\nA. a\nB. b\nC. c\nAnswer with the letter."


def test_mmlu():
    write_hub(
        "cais/mmlu/all/test", [{"question": "q", "subject": "law", "choices": list("wxyz"), "answer": 3}]
    )
    [item] = MMLU.items(default_paths(), "test", 0)
    assert (item.answer, item.choices, item.meta["subject"]) == ("D", tuple("ABCD"), "law")
    assert item.messages[0]["content"] == "q\nA. w\nB. x\nC. y\nD. z\nAnswer with the letter."
    assert MMLU.conversation(item) == {
        "messages": [item.messages[0], {"role": "assistant", "content": "D"}],
    }


def test_gsm8k_reads_the_answer():
    write_hub("openai/gsm8k/main/test", [{"question": "q", "answer": "6*2=<<6*2=12>>12\n#### 1,200"}])
    [item] = GSM8K.items(default_paths(), "test", 0)
    assert item.answer == "1,200"
    assert GSM8K.conversation(item)["messages"][1]["content"] == [
        {"type": "text", "text": "6*2="},
        {"type": "python", "text": "6*2"},
        {"type": "python_output", "text": "12"},
        {"type": "text", "text": "12\n#### 1,200"},
    ]


def test_the_output_of_a_call_is_what_our_tool_gives():
    parts = solution_parts("<<7/35=.2>>0.2 of it, <<20%=0.2>>20%, <<1=1>>")
    assert [part["text"] for part in parts] == ["7/35", "0.2", "0.2 of it, ", "20%", "0.2", "20%, ", "1", "1"]
    assert solution_parts("no call") == [{"type": "text", "text": "no call"}]


@pytest.mark.parametrize(
    ("text", "value", "reason"),
    [
        ("12 eggs.\n#### 1200", 1.0, ""),
        ("#### 1,200", 1.0, ""),
        ("####$1200.00 a day", 1.0, ""),
        ("#### 1200.5", WELL_FORMED, "the number is 1200.5"),
        ("#### -1200", WELL_FORMED, "the number is -1200"),
        ("#### 7 #### 1200", WELL_FORMED, "the number is 7"),
        ("it is 1200", UNMARKED, "right, but not after ####"),
        ("it is 1200, not 1300", 0.0, "no number after ####"),
        ("####", 0.0, "no number after ####"),
        ("", 0.0, "no number after ####"),
    ],
)
def test_gsm8k_check(text, value, reason):
    score = GSM8K.check(user_item("q", "1,200"), text)
    assert (score.value, score.reason) == (value, reason)


PROMPT = "import math\n\n\ndef half(x):\n    return x // 2\n\n\ndef area(r: float) -> float:\n    '''Of a circle.'''\n"
TEST = "def check(f):\n    assert abs(f(1) - math.pi) < 1e-6\n"
BODY = "    return math.pi * r * r\n"
ENDED = "ProgramEndedError: the program ended, or wrote to the pipe for its answers"


@pytest.fixture
def circle():
    row = {"task_id": "t", "prompt": PROMPT, "canonical_solution": BODY, "test": TEST, "entry_point": "area"}
    write_hub("openai/openai_humaneval/openai_humaneval/test", [row])
    [item] = HUMANEVAL.items(default_paths(), "test", 0)
    return item


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BODY, ""),
        (f"```python\n{PROMPT}{BODY}```\nThat is all.", ""),
        ("Here it is:\n```\ndef area(r):\n    return half(2 * math.pi * r * r) + math.pi % 1\n```", ""),
        ("def area(r):\n    return math.pi * r * r", ""),
        ("```python\ndef area(r):\n    return math.pi * r ** 2", ""),
        (f"```bash\npip install math\n```\n```python\n{PROMPT}{BODY}```", ""),
        (f"```\n```\n```py\n{PROMPT}{BODY}```", ""),
        (f"```Python \n{PROMPT}{BODY}```", ""),
        (f"{BODY}\nif __name__ == '__main__':\n    area(float(input()))\n", ""),
        (f"    print('x' * 70_000)\n{BODY}", ""),
        ("    return 3 * r\n", "AssertionError"),
        ("    return 1 / 0\n", "ZeroDivisionError: division by zero"),
        ("    import sys; sys.exit(0)\n", ENDED),
        ("    import os; os._exit(3)\n", ENDED),
        ("    print('passed', flush=True); import os; os._exit(0)\n", ENDED),
        ("I cannot do that.", "SyntaxError: invalid syntax (program.py, line 10)"),
        ("", "TypeError: unsupported operand type(s) for -: 'NoneType' and 'float'"),
    ],
)
def test_humaneval_runs_what_the_reply_means_and_says_how_it_failed(circle, text, reason):
    score = HUMANEVAL.check(circle, text)
    assert (score.value, score.reason) == (float(not reason), reason)


@pytest.mark.slow
def test_a_program_that_does_not_end_is_timed_out(circle, monkeypatch):
    monkeypatch.setattr("nanochat.tasks.humaneval.check_function", partial(check_function, timeout_s=0.5))
    assert HUMANEVAL.check(circle, "    while True: pass\n").reason == "more than 0.5 s"


def test_a_whole_function_keeps_the_helpers_of_the_prompt(circle):
    program = solution(circle, "def area(r):\n    return half(r)\n")
    assert program.count("def area") == 1
    assert "def half" in program
    assert program.startswith("import math")


@pytest.mark.slow
def test_humaneval_passes_its_own_solutions(shared_data):
    paths = default_paths()
    paths.base.mkdir(parents=True)
    paths.task_data.symlink_to(shared_data / "hub")
    items = HUMANEVAL.items(paths, "test", 0)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        scores = list(pool.map(HUMANEVAL.check, items, (item.answer for item in items)))
    assert len(scores) == 164
    assert all(score == RIGHT for score in scores)


def test_spellingbee_asks_for_held_out_pairs():
    items, again = (SPELLINGBEE.items(default_paths(), "test", seed) for seed in (0, 1))
    assert items == again
    for item in items:
        word, letter = item.meta["word"], item.meta["letter"]
        assert held_out_letter(word, letter)
        assert word in item.messages[0]["content"]
        count = word.count(letter)
        assert item.answer == str(count)
        assert SPELLINGBEE.check(
            item, SPELLINGBEE.conversation(item)["messages"][1]["content"][-1]["text"]
        ).right
        assert not SPELLINGBEE.check(item, f"It occurs {count + 1} times.").right
