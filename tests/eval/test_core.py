import csv
import json
import random
import shutil

import pytest
import torch
import torch.nn.functional as F
import yaml

from nanochat.eval.bundle import CORE_TASKS, load_bundle
from nanochat.eval.core import PromptRow, centred, evaluate_core, prompts, rows, score_rows

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


def plain_accuracy(model, tokenizer, directory, entry, n, context):
    """The definition in plain code, item by item and option by option."""
    path = directory / "eval_data" / entry["dataset_uri"]
    items = [json.loads(line) for line in path.open(encoding="utf-8")]
    random.Random(1337).shuffle(items)
    between = entry.get("continuation_delimiter", " ")
    kind = entry["icl_task_type"]

    def render(item, option):
        if kind == "multiple_choice":
            return item["query"] + between + item["choices"][option]
        if kind == "schema":
            return item["context_options"][option] + between + item["continuation"]
        return item["context"].strip() + between + item["continuation"]

    def encode(text):
        return [tokenizer.bos, *tokenizer.encode(text)]

    def losses(ids, start):
        """Per-token nats of ids[start:] and whether each is the argmax, after cutting from the left."""
        scored = len(ids) - start
        ids = ids[-context:]
        with torch.no_grad():
            logits = model.logits(model(torch.tensor([ids[:-1]])))[0]
        targets = torch.tensor(ids[1:])
        nats = F.cross_entropy(logits, targets, reduction="none")[-scored:]
        return nats, (logits.argmax(-1) == targets)[-scored:]

    right = 0
    for index, item in enumerate(items[:n]):
        others = [other for i, other in enumerate(items) if i != index]
        shots = random.Random(1234 + index).sample(others, entry["num_fewshot"][0])
        before = "".join(render(shot, shot.get("gold")) + "\n\n" for shot in shots)
        if kind == "language_modeling":
            ids = encode(before + render(item, None))
            stem = encode((before + item["context"].strip() + between).rstrip())
            assert ids[: len(stem)] == stem
            right += bool(losses(ids, len(stem))[1].all())
            continue
        options = range(len(item["choices" if kind == "multiple_choice" else "context_options"]))
        texts = [encode(before + render(item, option)) for option in options]
        side = 1 if kind == "multiple_choice" else -1
        shared = next(
            i
            for i, column in enumerate(zip(*(text[::side] for text in texts), strict=False))
            if len(set(column)) > 1
        )
        starts = [shared if side == 1 else len(text) - shared for text in texts]
        means = [losses(text, start)[0].mean() for text, start in zip(texts, starts, strict=True)]
        right += means.index(min(means)) == item["gold"]
    return right / n


def entries(directory):
    return {entry["label"]: entry for entry in yaml.safe_load((directory / "core.yaml").open())["icl_tasks"]}


@pytest.mark.parametrize("batch_tokens", [1, 200, 100_000])
def test_equals_the_plain_definition(model, tokenizer, subject, runtime, kept, bundle, batch_tokens):
    result = evaluate_core(subject, bundle, runtime, kept, batch_tokens=batch_tokens)
    assert [task.label for task in result.tasks] == ["arc_easy", "winograd", "lambada_openai"]
    for task in result.tasks:
        plain = plain_accuracy(model, tokenizer, bundle, entries(bundle)[task.label], task.n, 64)
        assert task.accuracy == plain
        assert task.n == len(BIRDS)
        assert task.baseline == BUNDLE[task.label][1] / 100
        assert task.centred == centred(plain, task.baseline)
    assert result.core == pytest.approx(sum(task.centred for task in result.tasks) / 3)
    assert result.partial
    assert set(result.missing) == set(CORE_TASKS) - {"arc_easy", "winograd", "lambada_openai"}


@pytest.mark.slow
def test_equals_the_plain_definition_on_the_real_bundle(model, tokenizer, runtime, shared_data):
    """Real questions, most of them far longer than this model's context."""
    directory = shared_data / "eval_bundle"
    result = evaluate_core(model, tokenizer, directory, runtime, max_per_task=6, batch_tokens=2000)
    assert {task.label for task in result.tasks} | set(result.missing) == set(CORE_TASKS)
    for task in result.tasks:
        assert task.n == 6
        plain = plain_accuracy(model, tokenizer, directory, entries(directory)[task.label], 6, 64)
        assert task.accuracy == plain, task.label


def test_the_shares_of_two_processes_make_the_whole(model, tokenizer, runtime, members, bundle):
    whole = evaluate_core(model, tokenizer, bundle, runtime)
    runtimes, rights = members(2)
    for member in runtimes:
        evaluate_core(model, tokenizer, bundle, member)
    for first, second, task in zip(rights[:3], rights[3:], whole.tasks, strict=True):
        assert first + second == round(task.accuracy * task.n)


def test_a_capped_run_asks_the_first_prompts_of_the_whole_run(bundle):
    task = load_bundle(bundle)[0]
    for index in range(len(task.items)):
        shots = prompts(task, index)[0].split("\n\n")[:-1]
        assert len(shots) == 2
        assert not any(task.items[index]["query"] in shot for shot in shots)


def test_too_long_a_prompt_loses_its_beginning_and_keeps_its_span(tokenizer, bundle):
    task = load_bundle(bundle)[0]
    for whole, short in zip(rows(task, 0, tokenizer, 10_000), rows(task, 0, tokenizer, 16), strict=True):
        assert len(short.ids) == 16
        assert short.ids == whole.ids[-16:]
        assert short.ids[short.start : short.end] == whole.ids[whole.start : whole.end]


def test_a_continuation_longer_than_the_context_still_scores(model, tokenizer, runtime, bundle):
    task = load_bundle(bundle)[2]
    [row] = rows(task, 0, tokenizer, 2)
    assert (row.start, row.end) == (1, 2)
    [(nats, _)] = score_rows(model, [row], runtime.device, 100)
    assert nats > 0


def test_only_a_wholly_greedy_continuation_is_a_hit(model, tokenizer, runtime):
    batch, expected = [], []
    for length in (3, 9, 20):
        ids = list(range(40, 40 + length))
        for _ in range(4):
            with torch.no_grad():
                ids.append(model.logits(model(torch.tensor([ids]))[0, -1]).argmax().item())
        batch += [PromptRow(ids, length, length + 4), PromptRow([*ids[:-1], ids[-1] ^ 1], length, length + 4)]
        batch += [PromptRow([*ids[:-1], ids[-1] ^ 1], length, length + 3)]
        expected += [True, False, True]
    scores = score_rows(model, batch, runtime.device, 40)
    assert [hit for _, hit in scores] == expected
    for row, (nats, _) in zip(batch, scores, strict=True):
        with torch.no_grad():
            logits = model.logits(model(torch.tensor([row.ids]))[0])
        plain = F.cross_entropy(
            logits[row.start - 1 : row.end - 1], torch.tensor(row.ids[row.start : row.end])
        )
        assert nats == pytest.approx(plain.item(), rel=1e-5)


def test_equal_choices_do_not_break_the_mean(model, tokenizer, runtime, bundle):
    path = bundle / "eval_data" / "arc_easy.jsonl"
    same = [{"query": f"q{n}", "choices": ["owl", "owl", "owls"], "gold": 0} for n in range(3)]
    path.write_text("".join(json.dumps(item) + "\n" for item in same))
    for row in rows(load_bundle(bundle)[0], 0, tokenizer, 64):
        assert row.start < row.end


@pytest.mark.parametrize("missing", ["core.yaml", "eval_meta_data.csv", "eval_data", None])
def test_what_is_no_bundle_is_one_clear_line(model, tokenizer, runtime, bundle, missing):
    if missing is None:
        shutil.rmtree(bundle)
    elif missing == "eval_data":
        shutil.rmtree(bundle / missing)
    else:
        (bundle / missing).unlink()
    with pytest.raises(ValueError, match="CORE bundle in"):
        evaluate_core(model, tokenizer, bundle, runtime)
