"""Sums of four-digit numbers: held out by combination, and answered by the tool."""

from nanochat.builtin.holdout import held_out_sum
from nanochat.paths import default_paths
from nanochat.tasks.task import RIGHT
from nanochat.tasks.thousands import TEST_ITEMS, THOUSANDS


def combinations(split, count=300):
    items = THOUSANDS.items(default_paths(), split, 1)
    return [(int(item.meta["a"]), item.meta["op"], int(item.meta["b"])) for item in list(items[:count])]


def test_no_combination_of_training_is_tested():
    assert not any(held_out_sum(*combination) for combination in combinations("train"))
    for split in ("val", "test"):
        assert all(held_out_sum(*combination) for combination in combinations(split))


def test_numbers_have_four_digits_and_the_taught_reply_is_right():
    items = THOUSANDS.items(default_paths(), "test", 1)
    assert len(items) == TEST_ITEMS
    for item in items[:50]:
        assert all(1000 <= int(item.meta[name]) <= 9999 for name in ("a", "b"))
        reply = THOUSANDS.conversation(item)["messages"][-1]["content"]
        assert reply[1]["text"] == item.answer
        assert THOUSANDS.check(item, reply[-1]["text"]) == RIGHT


def test_the_test_items_do_not_depend_on_the_seed():
    first, second = (THOUSANDS.items(default_paths(), "test", seed) for seed in (1, 2))
    assert list(first[:20]) == list(second[:20])
    assert combinations("train", 20) != [
        (int(i.meta["a"]), i.meta["op"], int(i.meta["b"]))
        for i in THOUSANDS.items(default_paths(), "train", 2)[:20]
    ]
