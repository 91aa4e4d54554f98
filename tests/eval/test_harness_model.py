"""What lm-evaluation-harness asks of a model, without that package: equal to one text at a time."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from nanochat.eval.harness_model import HarnessModel
from nanochat.eval.task_accuracy import final_text
from nanochat.infer.sampler import SamplingParams
from nanochat.tokenizer.chat_format import render_prompt

QUESTION = "Which bird cannot fly?"


def asked(*args):
    return SimpleNamespace(args=args)


def plain(model, ids, start):
    """(log-probability of ids[start:], whether all are the argmax), from the last tokens that fit."""
    ids, start = ids[-model.config.max_seq_len - 1 :], start - max(0, len(ids) - 1 - model.config.max_seq_len)
    with torch.no_grad():
        logits = model.logits(model(torch.tensor([ids[:-1]])))[0, start - 1 :].double()
    wanted = torch.tensor(ids[start:])
    nats = F.cross_entropy(logits, wanted, reduction="sum").item()
    return -nats, bool((logits.argmax(-1) == wanted).all())


@pytest.fixture
def harness(subject):
    return HarnessModel(subject, 200, chat=False)


def test_log_likelihoods_equal_one_text_at_a_time(harness, model, tokenizer):
    pairs = [(f"{QUESTION} Answer:", f" {bird}") for bird in ("the penguin", "a boat", "Köln")]
    pairs += [("", "The harbour"), ("A boat came ", "home"), ("The harbour lies " * 9, "below the town.")]
    pairs += [(pairs[0][0], " the town")]
    found = harness.loglikelihood([asked(*pair) for pair in pairs])
    for (context, continuation), (log_probability, greedy) in zip(pairs, found, strict=True):
        ids = [tokenizer.bos, *tokenizer.encode(context + continuation)]
        expected = plain(model, ids, 1 + len(tokenizer.encode(context.rstrip())))
        assert log_probability == pytest.approx(expected[0], rel=1e-5)
        assert greedy == expected[1]


def test_a_greedy_continuation_is_recognised(harness, model, tokenizer):
    ids = [tokenizer.bos, *tokenizer.encode(QUESTION)]
    with torch.no_grad():
        best = int(model.logits(model(torch.tensor([ids])))[0, -1].argmax())
    text = tokenizer.decode([best])
    if tokenizer.encode(QUESTION + text) == [*ids[1:], best]:
        assert harness.loglikelihood([asked(QUESTION, text)])[0][1]


@pytest.mark.parametrize("repeats", [1, 5, 12])
def test_rolling_counts_every_token_once_in_full_windows(harness, model, tokenizer, repeats):
    """As the harness's documentation says: the last window is as long as the others."""
    text = "The harbour lies below the town. " * repeats
    ids, context = [tokenizer.bos, *tokenizer.encode(text)], model.config.max_seq_len
    total, done = 0.0, 0
    while done < len(ids) - 1:
        end = min(done + context, len(ids) - 1)
        first = max(0, end - context)
        total += plain(model, ids[first : end + 1], done + 1 - first)[0]
        done = end
    assert harness.loglikelihood_rolling([asked(text), asked(text)]) == pytest.approx([total] * 2, rel=1e-5)


def test_answers_end_before_a_stop_string(harness, subject, tokenizer):
    prompt = [tokenizer.bos, *tokenizer.encode(QUESTION)]
    [whole] = subject.engine.generate([prompt], SamplingParams(temperature=0.0, max_new_tokens=12))
    stop = whole.text[3:5]
    settings = {"until": [stop], "max_gen_toks": 12, "do_sample": False, "temperature": 0.7}
    answers = harness.generate_until([asked(QUESTION, settings), asked(QUESTION, {"max_gen_toks": 12})])
    assert answers == [whole.text[: whole.text.find(stop)], whole.text]


def test_a_prompt_without_room_loses_its_beginning(harness):
    [answer] = harness.generate_until([asked("word " * 200, {"max_gen_toks": 10_000})])
    assert isinstance(answer, str)


def test_a_prompt_that_fits_stays_whole_however_long_the_answer_may_be(
    harness, subject, tokenizer, monkeypatch
):
    """The default limit of an answer is a small model's whole context."""
    seen = []
    generate = subject.engine.generate
    monkeypatch.setattr(
        subject.engine, "generate", lambda prompts, params: seen.extend(prompts) or generate(prompts, params)
    )
    context = subject.engine.max_seq_len
    fits = "a b " * (context // 8)
    harness.generate_until([asked(fits, {}), asked("word " * 200, {"max_gen_toks": 10_000})])
    assert seen[0] == [tokenizer.bos, *tokenizer.encode(fits)]
    assert len(seen[0]) > context // 4
    assert len(seen[1]) == context - context // 4


def test_the_chat_format_is_that_of_our_own_tasks(subject, model, tokenizer):
    harness = HarnessModel(subject, 200, chat=True)
    messages = [{"role": "user", "content": "Say <|user_end|> & A."}]
    prompt, ids = harness.apply_chat_template(messages), render_prompt(tokenizer, messages)
    [found] = harness.loglikelihood([asked(prompt, "A")])
    expected = plain(model, [*ids, *tokenizer.encode("A")], len(ids))
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    [answer] = harness.generate_until([asked(prompt, {"max_gen_toks": 6})])
    [completion] = subject.engine.generate([ids], SamplingParams(temperature=0.0, max_new_tokens=6))
    assert answer == final_text(tokenizer, completion)
    begun = harness.apply_chat_template(
        [*messages, {"role": "assistant", "content": "A"}], add_generation_prompt=False
    )
    assert begun == prompt + "A"
