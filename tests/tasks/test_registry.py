import pytest

from nanochat.paths import default_paths
from nanochat.tasks.registry import SUITES, TASKS, task_names
from nanochat.tasks.task import RIGHT
from nanochat.tokenizer.chat_format import render_prompt
from nanochat.tokenizer.tokenizer import Tokenizer

ITEMS = {
    "arc-easy": 2376,
    "arc-challenge": 1172,
    "mmlu": 14042,
    "gsm8k": 1319,
    "humaneval": 164,
    "spellingbee": 256,
}


def test_names_are_expanded_once_each_and_in_order():
    assert task_names("gsm8k, builtin-letters,gsm8k") == ("gsm8k", "builtin-letters")
    assert task_names("chatcore,mmlu") == SUITES["chatcore"]
    assert set(task_names(",".join((*SUITES, "identity")))) == set(TASKS)


@pytest.mark.parametrize("suite", ["", "arc", "builtin,,mmlu"])
def test_an_unknown_name_is_one_clear_line(suite):
    with pytest.raises(ValueError, match=r"unknown task .*chatcore.*humaneval"):
        task_names(suite)


@pytest.mark.parametrize("name", ITEMS)
def test_every_task_opens_with_real_data(name, shared_data):
    paths = default_paths()
    paths.base.mkdir(parents=True)
    paths.task_data.symlink_to(shared_data / "hub")
    task = TASKS[name]
    items = task.items(paths, "test", 0)
    tokenizer = Tokenizer({bytes([i]): i for i in range(256)}, r"\s+|\S+")
    assert task.name == name
    assert len(items) == ITEMS[name]
    for item in items[:: max(1, len(items) // 50)]:
        assert render_prompt(tokenizer, item.messages)
        if task.kind == "choice":
            assert item.answer in item.choices
            assert all(len(tokenizer.encode(letter)) == 1 for letter in item.choices)
            assert task.check(item, item.answer) == RIGHT
            assert not task.check(
                item, next(letter for letter in item.choices if letter != item.answer)
            ).right
        if task.conversation:
            conversation = task.conversation(item)
            assert render_prompt(tokenizer, conversation["messages"][:-1]) == render_prompt(
                tokenizer, item.messages
            )
            assert task.check(item, _text(conversation["messages"][-1]["content"])) == RIGHT
    assert not any(task.check(item, "").value for item in items[:3])


def _text(content):
    return content if isinstance(content, str) else content[-1]["text"]


@pytest.mark.parametrize("name", ["humaneval", "builtin-facts-novel"])
def test_a_split_that_a_benchmark_does_not_have_is_one_clear_line(name):
    with pytest.raises(ValueError, match=r"^[^\n]* no split 'train'[^\n]*$"):
        TASKS[name].items(default_paths(), "train", 0)
