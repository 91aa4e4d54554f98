import csv
import json
import random
import shutil

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nanochat.eval.bundle import CORE_TASKS, CoreTask, load_bundle
from nanochat.eval.core import evaluate_core, score_groups
from nanochat.eval.core_prompts import TaskPrompts
from nanochat.eval.intervals import accuracy_interval, centred
from nanochat.eval.prompt_states import PromptRow, PromptStates
from nanochat.eval.result_cache import ResultCache, task_records
from nanochat.tokenizer.bpe import train_tokenizer
from nanochat.tokenizer.patterns import SPLIT_PATTERNS
from tests.eval.conftest import TEXT
from tests.eval.plain_core import PlainCore, prediction, read

BIRDS = ("penguin", "puffin", "heron", "ostrich", "gull", "owl", "crow")
BUNDLE = {
    "arc_easy": (
        {"icl_task_type": "multiple_choice", "num_fewshot": [2], "continuation_delimiter": "\nAnswer: "},
        25.0,
        [
            {"query": f"Question: which is the {n}?", "choices": [bird, "a boat", "12"], "gold": n % 3}
            for n, bird in enumerate(BIRDS)
        ],
    ),
    "winograd": (
        {"icl_task_type": "schema", "num_fewshot": [0]},
        50.0,
        [
            {
                "context_options": [f"The {bird} saw it", f"The old {bird} saw"],
                "continuation": "home.",
                "gold": 1,
            }
            for bird in BIRDS
        ],
    ),
    "lambada_openai": (
        {"icl_task_type": "language_modeling", "num_fewshot": [1]},
        0.0,
        [{"context": f"  A {bird} came home {n} \n", "continuation": "late"} for n, bird in enumerate(BIRDS)],
    ),
    "boolq": ({"icl_task_type": "multiple_choice", "num_fewshot": [0]}, 62.0, None),
}


@pytest.fixture
def bundle(tmp_path):
    """Four tasks; the data of the last is missing."""
    directory = tmp_path / "bundle"
    (directory / "eval_data").mkdir(parents=True)
    listed = []
    for label, (entry, _, items) in BUNDLE.items():
        listed.append({"label": label, "dataset_uri": f"{label}.jsonl", **entry})
        if items:
            lines = "".join(json.dumps(item) + "\n" for item in items)
            (directory / "eval_data" / f"{label}.jsonl").write_text(lines)
    (directory / "core.yaml").write_text(yaml.safe_dump({"icl_tasks": listed}))
    with open(directory / "eval_meta_data.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Eval Task", "Random baseline"])
        writer.writerows([label, baseline] for label, (_, baseline, _) in BUNDLE.items())
    return directory


@pytest.fixture(scope="session")
def tokenizers():
    """One of each split pattern, with tokens of several line ends and blanks."""
    return {
        name: train_tokenizer(
            [TEXT + " a\n\n\n.\n\n  \n4\n\n\nZ -\n\n\n" * 60] * 4, 330, max_chars=10_000, pattern=name
        )
        for name in SPLIT_PATTERNS
    }


def plain_answers(model, tokenizer, directory, label, n, context):
    """(prediction, right) of the first items of a task."""
    plain = PlainCore(directory, tokenizer.bos, tokenizer.encode)
    items, kind = plain.items(label), plain.entries[label]["icl_task_type"]
    answers = []
    for index in range(n):
        readings = [read(model, prompt, context) for prompt in plain.prompts(label, items, index)]
        chosen = prediction(kind, readings)
        if kind == "language_modeling":
            answers.append((tokenizer.decode(chosen), chosen == readings[0][2]))
        else:
            answers.append((str(chosen), chosen == items[index]["gold"]))
    return answers


def kept_answers(directory):
    """By task: the (prediction, right) of its items, in order."""
    return {
        name.removeprefix("core-"): [(row.prediction, row.right) for row in record.rows]
        for name, _, record in task_records(directory, 0, "0" * 64)
    }


@pytest.mark.parametrize("batch_tokens", [1, 200, 100_000])
def test_equals_the_plain_definition(
    model, tokenizer, subject, runtime, kept, bundle, tmp_path, batch_tokens
):
    result = evaluate_core(subject, bundle, runtime, kept, batch_tokens=batch_tokens)
    assert [task.label for task in result.tasks] == ["arc_easy", "winograd", "lambada_openai"]
    for task in result.tasks:
        plain = plain_answers(model, tokenizer, bundle, task.label, len(BIRDS), 64)
        assert kept_answers(tmp_path)[task.label] == plain
        right = sum(answered for _, answered in plain)
        assert (task.n, task.accuracy) == (len(BIRDS), right / len(BIRDS))
        assert task.baseline == BUNDLE[task.label][1] / 100
        assert task.centred == centred(task.accuracy, task.baseline)
        assert task.interval == accuracy_interval(right, task.n)
    assert result.core == pytest.approx(sum(task.centred for task in result.tasks) / 3)
    assert 0 < result.standard_error < 1
    assert result.partial
    assert set(result.missing) == set(CORE_TASKS) - {"arc_easy", "winograd", "lambada_openai"}


def test_the_shares_of_two_processes_make_the_whole(subject, runtime, members, kept, tmp_path, bundle):
    evaluate_core(subject, bundle, runtime, kept)
    runtimes, exchanged = members(2)
    for member in runtimes:
        alone = ResultCache(tmp_path / "other", 0, "0" * 64, member.processes, {})
        evaluate_core(subject, bundle, member, alone)
    shares = [value for value in exchanged if isinstance(value, list)]
    assert len(shares) == 6
    assert [len(share) for share in shares] == [4] * 3 + [3] * 3
    together = [[*a, *b] for a, b in zip(shares[:3], shares[3:], strict=True)]
    whole = kept_answers(tmp_path)
    for rows, label in zip(together, ("arc_easy", "winograd", "lambada_openai"), strict=True):
        rows.sort(key=lambda row: row.index)
        assert [(row.prediction, row.right) for row in rows] == whole[label]


def test_a_capped_run_asks_the_first_prompts_of_the_whole_run(tokenizer, bundle):
    task = load_bundle(bundle)[0]
    asked = TaskPrompts(task, tokenizer, 64)
    for index in range(len(task.items)):
        shots = asked.texts(index)[0].split("\n\n")[:-1]
        assert len(shots) == 2
        assert not any(task.items[index]["query"] in shot for shot in shots)


def test_too_long_a_prompt_loses_its_beginning_and_keeps_its_span(tokenizer, bundle):
    task = load_bundle(bundle)[0]
    both = (TaskPrompts(task, tokenizer, limit).rows(0) for limit in (10_000, 16))
    for whole, short in zip(*both, strict=True):
        assert len(short.ids) == 16
        assert short.ids == whole.ids[-16:]
        assert short.ids[short.start : short.end] == whole.ids[whole.start : whole.end]


@pytest.mark.parametrize("name", SPLIT_PATTERNS)
@given(
    parts=st.lists(st.text(st.sampled_from("aZ4 \n\r\t.,'\u00a0\u2028é한ー\x1c-")), min_size=2, max_size=4)
)
def test_examples_encoded_apart_are_those_of_the_whole_text(tokenizers, name, parts):
    tokenizer = tokenizers[name]
    first, *rest = parts
    items = [{"query": first, "choices": ["."], "gold": 0}] + [
        {"query": part, "choices": ["."], "gold": 0} for part in rest
    ]
    task = CoreTask("odd", "multiple_choice", len(items) - 1, " ", 0.0, items, "0" * 64)
    asked = TaskPrompts(task, tokenizer, 10_000)
    for index in range(len(items)):
        [row], [text] = asked.rows(index), asked.texts(index)
        assert row.ids == [tokenizer.bos, *tokenizer.encode(text)]


def test_a_continuation_longer_than_the_context_still_scores(model, tokenizer, bundle):
    task = load_bundle(bundle)[2]
    [row] = TaskPrompts(task, tokenizer, 2).rows(0)
    assert (row.start, row.end) == (1, 2)
    [[score]] = score_groups(PromptStates(model, 100), [[row]])
    assert score.nats > 0


def test_prompts_are_scored_as_if_alone(model):
    """Items of one to four prompts with prefixes of any length in common, down to none."""
    rng = random.Random(3)
    groups = []
    for n in range(20):
        start = [rng.randrange(250) for _ in range(rng.choice((0, 1, 9, 30)))]
        ends = [[rng.randrange(250) for _ in range(rng.randrange(2, 30))] for _ in range(1 + n % 4)]
        rows = [start + end for end in ends]
        scored = [rng.randrange(max(1, len(start)), len(row)) for row in rows]
        groups.append([PromptRow(row, at, len(row)) for row, at in zip(rows, scored, strict=True)])
    ids = list(range(40, 52))  # one prompt begins another, and is there twice
    groups.append([PromptRow(ids[:8], 5, 8), PromptRow(ids, 9, 12), PromptRow(ids[:8], 5, 8)])
    for batch_tokens in (1, 10_000):
        for group, scores in zip(
            groups, score_groups(PromptStates(model, batch_tokens), groups), strict=True
        ):
            for row, score in zip(group, scores, strict=True):
                nats, greedy, _ = read(model, (row.ids, row.start), 64)
                assert score.nats == pytest.approx(nats, rel=1e-5)
                assert list(score.greedy) == greedy


def test_equal_choices_do_not_break_the_mean(tokenizer, bundle):
    path = bundle / "eval_data" / "arc_easy.jsonl"
    same = [{"query": f"q{n}", "choices": ["owl", "owl", "owls"], "gold": 0} for n in range(3)]
    path.write_text("".join(json.dumps(item) + "\n" for item in same))
    for row in TaskPrompts(load_bundle(bundle)[0], tokenizer, 64).rows(0):
        assert row.start < row.end


@pytest.mark.parametrize("missing", ["core.yaml", "eval_meta_data.csv", "eval_data", None])
def test_what_is_no_bundle_is_one_clear_line(subject, runtime, kept, bundle, missing):
    if missing is None:
        shutil.rmtree(bundle)
    elif missing == "eval_data":
        shutil.rmtree(bundle / missing)
    else:
        (bundle / missing).unlink()
    with pytest.raises(ValueError, match="CORE bundle in"):
        evaluate_core(subject, bundle, runtime, kept)
