from dataclasses import replace

import pytest

from nanochat.cli.main import main
from nanochat.eval.chat_model import EvalChatConfig, run
from nanochat.eval.compare import CompareConfig, run_compare
from nanochat.eval.intervals import Pairs, difference_interval, mcnemar
from nanochat.eval.result_cache import ItemRow, ResultCache, TaskRecord
from tests.eval.conftest import random_model, save

CONFIG = EvalChatConfig(model_tag="tiny", suite="builtin-choice", max_items=40)


def answers(runtime, model, tokenizer, run_name, rights, *, data="a" * 64, first=0, **settings):
    """A checkpoint that gave these answers."""
    directory = runtime.paths.checkpoints(run_name)
    if not directory.is_dir():
        save(run_name, model, tokenizer, {})
    from nanochat.checkpoint import store

    weights = store.load_meta(directory, 7).files["model"].sha256
    rows = tuple(ItemRow(first + at, "x", "y", right, (float(right),)) for at, right in enumerate(rights))
    kept = ResultCache(directory, 7, weights, runtime.processes, {}, fresh=True)
    kept.get_or_compute(
        "birds", data, {"items": len(rights), **settings}, TaskRecord, lambda: TaskRecord(0.25, rows)
    )
    return run_name


@pytest.fixture
def keep(runtime, model, tokenizer):
    return lambda *arguments, **options: answers(runtime, model, tokenizer, *arguments, **options)


def test_a_checkpoint_against_itself_is_noise(checkpoint, runtime, capsys):
    run(CONFIG, runtime)
    result = run_compare(CompareConfig("tiny", "tiny@7"), runtime.paths)
    assert result.verdict == "noise"
    [task] = result.tasks
    assert (task.name, task.n, task.difference, task.p, task.verdict) == ("builtin-choice", 40, 0, 1, "noise")
    assert "noise" in capsys.readouterr().err


def test_items_are_paired_by_their_place(keep, runtime):
    """The second run answered items 10 to 69, the first 0 to 59."""
    keep("weak", [n % 3 == 0 for n in range(60)])
    keep("strong", [n % 3 == 0 or n % 2 == 0 for n in range(10, 70)], first=10)
    result = run_compare(CompareConfig("weak", "strong"), runtime.paths)
    both = range(10, 60)
    pairs = Pairs(0, sum(n % 3 != 0 and n % 2 == 0 for n in both), 0)
    pairs = replace(pairs, same=50 - pairs.only_second)
    [task] = result.tasks
    assert (task.n, task.difference, task.p) == (50, pairs.difference, mcnemar(pairs))
    assert task.interval == difference_interval(pairs)
    assert (task.verdict, result.verdict) == ("better", "better")
    assert run_compare(CompareConfig("strong", "weak"), runtime.paths).verdict == "worse"
    assert result.mean_difference == pytest.approx(pairs.difference / 0.75)


def test_few_differing_answers_are_noise_also_in_the_mean(keep, runtime, capsys):
    """Four of 250, all on one side: the interval excludes 0, but a coin falls so one time in eight."""
    keep("one", [False] * 250)
    keep("other", [n < 4 for n in range(250)])
    result = run_compare(CompareConfig("one", "other"), runtime.paths)
    assert result.interval.low > 0
    assert result.p == pytest.approx(0.125, abs=0.02)
    assert (result.tasks[0].verdict, result.verdict) == ("noise", "noise")
    assert f"{result.p:.2g}" in capsys.readouterr().err


def test_the_records_with_most_items_in_common_are_compared(keep, runtime):
    keep("one", [True] * 8)
    keep("one", [False] * 80)
    keep("two", [True] * 50)
    assert run_compare(CompareConfig("one", "two"), runtime.paths).tasks[0].n == 50


def test_other_data_or_other_weights_are_not_compared(keep, runtime, tokenizer, capsys):
    keep("one", [True] * 9)
    keep("two", [True] * 9, data="b" * 64)
    with pytest.raises(ValueError, match=r"^no answers of one@7 and two@7 to the same items: run `[^\n]+$"):
        run_compare(CompareConfig("one", "two"), runtime.paths)
    keep("sampled", [True] * 9, temperature=1.0)
    with pytest.raises(ValueError, match="no answers"):
        run_compare(CompareConfig("one", "sampled"), runtime.paths)
    keep("three", [True] * 9)
    save("three", random_model(tokenizer, 64, seed=9), tokenizer, {})
    with pytest.raises(ValueError, match="no answers"):
        run_compare(CompareConfig("one", "three"), runtime.paths)


@pytest.mark.parametrize(
    ("name", "line"), [("nothing", "nothing"), ("tiny@x", "number of a step"), ("tiny@3", "3")]
)
def test_mistakes_are_one_clear_line(checkpoint, capsys, name, line):
    assert main(["eval", "compare", "tiny", name]) != 0
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert line in said
