"""ARC, MMLU, GSM8K, HumanEval and SpellingBee on rows of their schema."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.builtin.holdout import held_out_letter
from nanochat.paths import default_paths
from nanochat.tasks.arc import arc_challenge
from nanochat.tasks.gsm8k import check_answer, gsm8k
from nanochat.tasks.humaneval import humaneval, passes, solution
from nanochat.tasks.mmlu import mmlu
from nanochat.tasks.spellingbee import spellingbee
from nanochat.tasks.task import user_item


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
    first, second = arc_challenge(default_paths()).items
    assert (first.answer, first.choices) == ("E", tuple("ABCDE"))
    assert (second.answer, second.choices) == ("B", tuple("ABC"))
    assert second.messages[0]["content"] == "q\nA. a\nB. b\nC. c\nAnswer with the letter."


def test_mmlu():
    write_hub(
        "cais/mmlu/all/test", [{"question": "q", "subject": "law", "choices": list("wxyz"), "answer": 3}]
    )
    task = mmlu(default_paths())
    [item] = task.items
    assert (item.answer, item.choices, item.meta["subject"]) == ("D", tuple("ABCD"), "law")
    assert task.baseline == 0.25


def test_gsm8k_reads_the_answer():
    write_hub("openai/gsm8k/main/test", [{"question": "q", "answer": "6*2=<<6*2=12>>12\n#### 1,200"}])
    [item] = gsm8k(default_paths()).items
    assert item.answer == "1,200"


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("12 eggs.\n#### 1200", True),
        ("#### 1,200", True),
        ("####$1200.00 a day", True),
        ("#### 1200.5", False),
        ("#### -1200", False),
        ("it is 1200", False),
        ("####", False),
        ("#### 7 #### 1200", False),
        ("", False),
    ],
)
def test_gsm8k_check(text, right):
    assert check_answer(user_item("q", "1,200"), text) == right


PROMPT = "import math\n\n\ndef half(x):\n    return x // 2\n\n\ndef area(r: float) -> float:\n    '''Of a circle.'''\n"
TEST = "def check(f):\n    assert abs(f(1) - math.pi) < 1e-6\n"
BODY = "    return math.pi * r * r\n"


@pytest.fixture
def circle():
    row = {"task_id": "t", "prompt": PROMPT, "canonical_solution": BODY, "test": TEST, "entry_point": "area"}
    write_hub("openai/openai_humaneval/openai_humaneval/test", [row])
    [item] = humaneval(default_paths()).items
    return item


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (BODY, True),
        (f"```python\n{PROMPT}{BODY}```\nThat is all.", True),
        ("Here it is:\n```\ndef area(r):\n    return half(2 * math.pi * r * r) + math.pi % 1\n```", True),
        ("def area(r):\n    return math.pi * r * r", True),
        ("```python\ndef area(r):\n    return math.pi * r ** 2", True),
        ("    return 3 * r\n", False),
        ("    import sys; sys.exit(0)\n", False),
        ("    print('passed', flush=True); import os; os._exit(0)\n", False),
        ("I cannot do that.", False),
        ("", False),
    ],
)
def test_humaneval_runs_what_the_reply_means(circle, text, right):
    assert passes(circle, text) == right


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
    task = humaneval(paths)
    assert all(passes(item, item.answer) for item in task.items)


def test_spellingbee_asks_for_held_out_pairs():
    task, again = spellingbee(default_paths()), spellingbee(default_paths())
    assert task.items == again.items
    for item in task.items:
        word, letter = item.meta["word"], item.meta["letter"]
        assert held_out_letter(word, letter)
        assert word in item.messages[0]["content"]
        count = word.count(letter)
        assert item.answer == str(count)
        assert task.check(item, f'The letter {letter} occurs {count} times in "{word}".')
        assert not task.check(item, f"It occurs {count + 1} times.")
