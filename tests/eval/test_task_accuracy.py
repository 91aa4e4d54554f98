import threading
from dataclasses import replace

import pytest
import torch

from nanochat.errors import EnvironmentFault
from nanochat.eval.intervals import Interval, accuracy_interval
from nanochat.eval.result_cache import ResultCache, task_records
from nanochat.eval.task_accuracy import Sampling, evaluate_task, final_text
from nanochat.eval.task_result import KEPT_FAILURES, TaskResult
from nanochat.infer.request import Completion
from nanochat.infer.sampler import SamplingParams
from nanochat.tasks.checks import is_choice
from nanochat.tasks.task import RIGHT, Score, Task, user_item
from nanochat.tokenizer.chat_format import render_prompt

QUESTIONS = [f"Which bird is number {n}? " * (1 + 2 * (n % 4)) for n in range(23)]


def choice_task():
    letters = ("A", "B", "C", "D")
    items = [user_item(q, letters[n % 4], letters[: 3 + n % 2]) for n, q in enumerate(QUESTIONS)]
    return Task("birds", "choice", 0.25, 1, held(items), is_choice), items


def generate_task(answers=None):
    items = [user_item(q[:20], (answers or QUESTIONS)[n]) for n, q in enumerate(QUESTIONS)]
    return Task("talk", "generate", 0.0, 8, held(items), same), items


def held(items):
    return lambda paths, split, seed: items


def same(item, text):
    return RIGHT if text == item.answer else Score(0.5, "another text")


def plain_choice(model, tokenizer, item):
    """One item, the whole logits, the last position."""
    ids = render_prompt(tokenizer, item.messages)
    context = model.config.max_seq_len
    if len(ids) > context:
        ids = [tokenizer.bos, *ids[-context + 1 :]]
    with torch.no_grad():
        logits = model.logits(model(torch.tensor([ids])))[0, -1]
    return max(item.choices, key=lambda letter: logits[tokenizer.encode(letter)[0]])


@pytest.mark.parametrize("batch_tokens", [1, 150, 10_000])
def test_choice_equals_one_item_at_a_time(model, tokenizer, subject, runtime, kept, batch_tokens):
    task, items = choice_task()
    result = evaluate_task(subject, task, items, runtime, kept, batch_tokens=batch_tokens)
    plain = [plain_choice(model, tokenizer, item) for item in items]
    right = [answer == item.answer for answer, item in zip(plain, items, strict=True)]
    assert 0 < sum(right) < len(right)
    assert result.accuracy == sum(right) / len(right)
    assert result.n == len(QUESTIONS)
    assert result.interval == accuracy_interval(sum(right), len(right))
    assert result.too_long == sum(
        len(render_prompt(tokenizer, item.messages)) > model.config.max_seq_len for item in items
    )
    assert result.too_long > 0
    wrong = [(item, answer) for item, answer, ok in zip(items, plain, right, strict=True) if not ok]
    assert [(f.prompt, f.expected, f.answer, f.reason) for f in result.failures] == [
        (item.messages[0]["content"], item.answer, answer, "another option")
        for item, answer in wrong[:KEPT_FAILURES]
    ]


def test_generate_checks_what_the_engine_answers(tokenizer, subject, runtime, kept):
    params = SamplingParams(temperature=0.0, max_new_tokens=8)
    answers = []
    for item in generate_task()[1]:
        [completion] = subject.engine.generate([render_prompt(tokenizer, item.messages)], params)
        answers.append(final_text(tokenizer, completion))
    answers[4] = answers[9] = "something else"
    result = evaluate_task(subject, *generate_task(answers), runtime, kept)
    assert result.accuracy == (len(QUESTIONS) - 2) / len(QUESTIONS)
    assert [(f.expected, f.reason) for f in result.failures] == [("something else", "another text")] * 2


def test_several_samples_give_pass_at_k(subject, tokenizer, runtime, kept, tmp_path):
    """Right are the answers with an even number of letters."""
    seen = []

    def check(item, text):
        seen.append(text)
        return RIGHT if len(text) % 2 == 0 else Score(0.0, "odd")

    task, items = generate_task()
    task = replace(task, check=check)
    sampling = Sampling(num_samples=3, temperature=1.0)
    result = evaluate_task(subject, task, items, runtime, kept, sampling=sampling)
    groups = [seen[at : at + 3] for at in range(0, len(seen), 3)]
    assert len(groups) == len(items)
    assert any(len(set(group)) > 1 for group in groups)
    right = [[len(text) % 2 == 0 for text in group] for group in groups]
    assert list(result.pass_at) == [1, 2, 3]
    assert result.pass_at[1] == pytest.approx(sum(map(sum, right)) / (3 * len(items)))
    assert result.pass_at[3] == pytest.approx(sum(map(any, right)) / len(items))
    assert result.accuracy == sum(group[0] for group in right) / len(items)
    other = ResultCache(tmp_path / "other", 0, "", runtime.processes, {})
    again = evaluate_task(
        subject,
        task,
        items,
        runtime,
        other,
        sampling=sampling,
    )
    assert again == result
    with pytest.raises(ValueError, match="--temperature"):
        Sampling(num_samples=2)


def test_a_prompt_without_room_for_an_answer_is_wrong_and_counted(tokenizer, subject, runtime, kept):
    items = [user_item("word " * 99, "a")]
    task = Task(
        "long", "generate", 0.0, 8, held(items), lambda item, text: RIGHT if text else Score(0.0, "no text")
    )
    result = evaluate_task(subject, task, items, runtime, kept)
    assert (result.accuracy, result.too_long) == (0.0, 1)


@pytest.mark.parametrize("make", [choice_task, generate_task])
def test_the_shares_of_two_processes_make_the_whole(subject, runtime, members, kept, tmp_path, make):
    evaluate_task(subject, *make(), runtime, kept)
    [(_, _, whole)] = task_records(tmp_path, 0, "0" * 64)
    runtimes, exchanged = members(2)
    for member in runtimes:
        alone = ResultCache(tmp_path / "other", 0, "0" * 64, member.processes, {})
        evaluate_task(subject, *make(), member, alone)
    shares = [value for value in exchanged if isinstance(value, list)]
    assert len(shares) == 2
    rows = sorted((row for share in shares for row in share), key=lambda row: row.index)
    for row, other in zip(rows, whole.rows, strict=True):
        assert replace(row, scores=()) == replace(other, scores=())
        assert row.scores == pytest.approx(other.scores, abs=1e-5)


def test_programs_are_judged_in_parallel_and_stay_in_order(subject, runtime, kept, monkeypatch):
    """The check passes only when three are under way."""
    monkeypatch.setattr("nanochat.hardware.usable_cores", lambda: 3)
    together = threading.Barrier(3)

    def check(item, text):
        together.wait(timeout=60)
        return Score(0.0, item.answer)

    task, items = generate_task()
    task = replace(task, check=check, unsafe_check=check)
    evaluate_task(subject, task, items[:21], runtime, kept)
    [(_, _, record)] = task_records(kept.folder.parent.parent, 0, "0" * 64)
    assert [(row.index, row.reason) for row in record.rows] == list(enumerate(QUESTIONS[:21]))


def test_a_judge_that_is_refused_isolation_gives_no_score(subject, runtime, kept):
    def refuse(item, text):
        raise EnvironmentFault("programs cannot be isolated here")

    task, items = generate_task()
    task = replace(task, check=refuse, unsafe_check=refuse)
    with pytest.raises(EnvironmentFault, match="cannot be isolated"):
        evaluate_task(subject, task, items, runtime, kept)
    assert list(task_records(kept.folder.parent.parent, 0, "0" * 64)) == []


def test_a_limit_takes_items_at_even_distances(tokenizer, subject, runtime, kept):
    seen = []

    def check(item, text):
        seen.append(item.messages[0]["content"])
        return RIGHT

    items = choice_task()[1][:20]
    task = Task("birds", "choice", 0.25, 1, held(items), check)
    result = evaluate_task(subject, task, items, runtime, kept, max_items=5)
    assert (result.n, result.accuracy) == (5, 1.0)
    assert seen == QUESTIONS[:20:4]


def test_the_answer_is_what_follows_the_last_tool_output(tokenizer):
    def ids(*parts):
        tokens = []
        for part in parts:
            tokens += [tokenizer.special(part)] if part.startswith("<|") else tokenizer.encode(part)
        return Completion(tokens, [False] * len(tokens), "stop", "", [None] * len(tokens))

    call = ("<|python_start|>", "1+1", "<|python_end|>", "<|output_start|>", "2", "<|output_end|>")
    assert final_text(tokenizer, ids("It is ", "12", "<|assistant_end|>")) == "It is 12"
    assert final_text(tokenizer, ids("So ", *call, "it is 2.", "<|assistant_end|>")) == "it is 2."
    assert final_text(tokenizer, ids(*call, "and ", *call, "end")) == "end"
    assert final_text(tokenizer, ids(*call, "<|assistant_end|>")) == ""
    assert final_text(tokenizer, ids("So ", "<|python_start|>", "1+1")) == "So "


def test_each_part_of_a_task_is_scored_apart(subject, runtime, kept):
    task, items = choice_task()
    items = [replace(item, meta={"subject": "ab"[n % 3 == 0]}) for n, item in enumerate(items)]
    task = replace(task, part=lambda item: item.meta["subject"])
    result = evaluate_task(subject, task, items, runtime, kept)
    [(_, _, record)] = task_records(kept.folder.parent.parent, 0, "0" * 64)
    for part in result.parts:
        answers = [row.right for row in record.rows if items[row.index].meta["subject"] == part.name]
        assert (part.n, part.accuracy) == (len(answers), sum(answers) / len(answers))
        assert part.interval == accuracy_interval(sum(answers), len(answers))
    assert [(part.name, part.n) for part in result.parts] == [("a", 15), ("b", 8)]


def test_centred():
    unsure = Interval(0.0, 1.0)
    assert TaskResult("t", 0.25, unsure, 4, 0.25, 0, ()).centred == 0
    assert TaskResult("t", 1.0, unsure, 4, 0.25, 0, ()).centred == 1
