"""The engine by equivalence: cached, batched and rearranged, it equals the plain model one token at a time."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from nanochat.infer.engine import Engine
from nanochat.infer.request import Completion, Event, Request
from nanochat.infer.sampler import SamplingParams, adjust, logprobs_of, sample
from nanochat.infer.scheduler import PrefillLimit
from nanochat.infer.tools import DEFAULT_TOOLS
from nanochat.infer.torch_decoder import TorchDecoder
from nanochat.model.gpt import GPT
from nanochat.sandbox import calculator
from nanochat.tokenizer.special import OUTPUT_END, OUTPUT_START, PYTHON_END, PYTHON_START, SPECIAL_TOKENS

SPECIALS = {name: 256 + at for at, name in enumerate(SPECIAL_TOKENS)}
LENGTHS = (1, 5, 16, 17, 40, 3, 63, 24)  # around the window of 16, and up to the last place of the context
CHANGES = {
    "whole": {},
    "plain": {
        "n_kv_head": 4,
        "window_pattern": "L",
        "value_embeddings": False,
        "residual_scales": False,
        "smear": False,
        "backout": False,
    },
    "only-windows": {"window_pattern": "S", "n_kv_head": 1},
    "no-smear": {"smear": False},
}


@pytest.fixture(params=CHANGES)
def any_model(request, new_model, whole_config) -> GPT:
    return new_model(replace(whole_config, **CHANGES[request.param]))


def prompt(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(1000 * seed + length)
    return torch.randint(0, 256, (length,), generator=generator).tolist()


def params(index: int, **changes) -> SamplingParams:
    """Greedy, unrestricted and truncated sampling in turn, each with its own seed and length."""
    kinds = (
        {"temperature": 0.0},
        {"temperature": 1.0},
        {"temperature": 1.5, "top_k": 20},
        {"temperature": 0.7, "top_p": 0.9},
    )
    return SamplingParams(**{**kinds[index % 4], "seed": index, "max_new_tokens": 5 + 3 * index, **changes})


@torch.inference_mode()
def answer_plainly(
    model: GPT, tokenizer, ids: list[int], params: SamplingParams, guess: Sequence[int] = ()
) -> Completion:
    """The reference: the whole sequence through the training model for every token, without cache or batch.

    `guess`: the answer, if known. While it is right, one run of the model gives the logits of all its tokens.
    """
    request = Request(0, ids, params, tokenizer, DEFAULT_TOOLS, model.config.max_seq_len)
    run = [*ids, *guess]
    logits_TV = model.logits(model(torch.tensor([run])))[0]
    while not request.finished:
        known = len(request.tokens)
        if request.tokens != run[:known]:
            run = list(request.tokens)
            logits_TV = model.logits(model(torch.tensor([run])))[0]
        logits = logits_TV[known - 1 : known]
        token = sample(adjust(logits, [params], [request.tokens]), [params], [request.uniforms()[0]]).item()
        request.accept(token, logprobs_of(logits, [token], [params])[0])
    return request.completion()


# A strong bias towards short sums in tool calls.
URGES = {**dict.fromkeys(b"1234+*", 12.0), SPECIALS[PYTHON_START]: 14.0, SPECIALS[PYTHON_END]: 15.0}
CALLING = {"temperature": 2.0, "logit_bias": tuple(URGES.items())}


def test_a_full_engine_equals_the_plain_model(any_model, tokenizer):
    """Eight requests of all kinds through three rows: prefill in batches, rows reused and moved."""
    model = any_model
    prompts, each = [prompt(n) for n in LENGTHS], [params(i) for i in range(len(LENGTHS))]
    engine = Engine(model, tokenizer, max_rows=3, prefill=PrefillLimit(100, 100))
    completions = engine.generate(prompts, each)
    for completion, ids, p in zip(completions, prompts, each, strict=True):
        assert completion == answer_plainly(model, tokenizer, ids, p, completion.ids)
    assert not engine.busy
    assert engine.generate(prompts[::-1], each[::-1]) == completions[::-1]


def test_requests_that_arrive_in_the_middle_change_nothing(model, tokenizer):
    engine = Engine(model, tokenizer, max_rows=4)
    arrivals = {0: [0, 1], 3: [2], 4: [3, 4, 5], 20: [6, 7]}
    tokens: dict[int, list[int]] = {}
    index_of: dict[int, int] = {}
    step = 0
    while engine.busy or step <= max(arrivals):
        for index in arrivals.get(step, ()):
            index_of[engine.submit(prompt(LENGTHS[index]), params(index))] = index
        for event in engine.step():
            tokens.setdefault(index_of[event.request_id], []).append(event.token)
        step += 1
    for index, length in enumerate(LENGTHS):
        expected = answer_plainly(model, tokenizer, prompt(length), params(index), tokens[index])
        assert tokens[index] == expected.ids


def test_tool_outputs_are_forced_verbatim_in_every_row(model, tokenizer):
    each = [SamplingParams(seed=seed, max_new_tokens=50, **CALLING) for seed in range(12)]
    prompts = [prompt(1 + seed % 5) for seed in range(12)]
    completions = Engine(model, tokenizer, max_rows=4).generate(prompts, each)
    outputs = set()
    for completion, ids, p in zip(completions, prompts, each, strict=True):
        assert completion == answer_plainly(model, tokenizer, ids, p, completion.ids)
        expected: list[int] = []
        call: list[int] | None = None
        for token, forced in zip(completion.ids, completion.forced_mask, strict=True):
            assert forced == bool(expected)
            if forced:
                assert token == expected.pop(0)
            elif token == SPECIALS[PYTHON_START]:
                call = []
            elif token == SPECIALS[PYTHON_END] and call is not None:
                output = calculator.evaluate(tokenizer.decode(call)) or "error"
                outputs.add(output)
                expected = [SPECIALS[OUTPUT_START], *tokenizer.encode(output), SPECIALS[OUTPUT_END]]
                call = None
            elif call is not None:
                call.append(token)
    assert "error" in outputs
    assert len(outputs) > 3


def test_cancelled_requests_leave_the_others_undisturbed(model, tokenizer):
    engine = Engine(model, tokenizer, max_rows=3)
    ids = [engine.submit(prompt(LENGTHS[i]), params(i, max_new_tokens=20)) for i in range(5)]
    seen: dict[int, list[int]] = {i: [] for i in ids}
    for step in range(100):
        for event in engine.step():
            seen[event.request_id].append(event.token)
        if step == 4:
            engine.cancel(ids[0])
            engine.cancel(ids[4])
            engine.cancel(12345)
    assert not engine.busy
    assert (len(seen[ids[0]]), seen[ids[4]]) == (5, [])
    for i in (1, 2, 3):
        expected = answer_plainly(model, tokenizer, prompt(LENGTHS[i]), params(i, max_new_tokens=20))
        assert seen[ids[i]] == expected.ids


def random_requests(chance: random.Random, count: int) -> list[tuple[list[int], SamplingParams]]:
    """Prompts, of which two fifths begin like an earlier one, and parameters of every kind."""
    kinds = [{"min_p": 0.05}, {"repetition_penalty": 1.3}, {"logprobs": 3}, CALLING, {}]
    requests: list[tuple[list[int], SamplingParams]] = []
    for at in range(count):
        earlier = requests and chance.random() < 0.4
        base = chance.choice(requests)[0][: chance.randint(1, 60)] if earlier else []
        ids = (base + prompt(chance.randint(1, 12), seed=at))[:63]
        requests.append((ids, params(at, max_new_tokens=chance.randint(1, 12), **chance.choice(kinds))))
    return requests


def arrive_at_random(
    engine: Engine, requests: Sequence[tuple[list[int], SamplingParams]], chance: random.Random
) -> tuple[list[list[Event]], set[int]]:
    """(each request's events, which requests were cancelled before their end)."""
    answers: list[list[Event]] = [[] for _ in requests]
    index_of: dict[int, int] = {}
    cancelled: set[int] = set()
    while len(index_of) < len(requests) or engine.busy:
        for ids, p in requests[len(index_of) :][: chance.randint(0, 2)]:
            index_of[engine.submit(ids, p)] = len(index_of)
        for event in engine.step():
            answers[index_of[event.request_id]].append(event)
        if index_of and chance.random() < 0.2:
            request_id = chance.choice(list(index_of)[-8:])
            engine.cancel(request_id)
            if not any(event.finished for event in answers[index_of[request_id]]):
                cancelled.add(index_of[request_id])
    return answers, cancelled


@pytest.mark.slow
def test_requests_that_arrive_share_prefixes_and_are_cancelled_at_random_equal_lone_ones(model, tokenizer):
    chance = random.Random(0)
    requests = random_requests(chance, 200)
    engine = Engine(model, tokenizer, max_rows=5, prefill=PrefillLimit(24, 24))
    answers, cancelled = arrive_at_random(engine, requests, chance)
    assert len(cancelled) > 10
    for index, ((ids, p), events) in enumerate(zip(requests, answers, strict=True)):
        expected = answer_plainly(model, tokenizer, ids, p, [event.token for event in events])
        complete = len(events) if index in cancelled else len(expected.ids)
        assert [event.token for event in events] == expected.ids[:complete]
        for event, plain in zip(events, expected.logprobs, strict=False):
            assert (event.logprobs is None) == (plain is None)
            if event.logprobs and plain:
                assert event.logprobs.logprob == pytest.approx(plain.logprob, abs=1e-4)
                assert [token for token, _ in event.logprobs.top] == [token for token, _ in plain.top]


@pytest.fixture
def tokens_run(monkeypatch) -> list[int]:
    """How many tokens each call of a decoder runs."""
    counts: list[int] = []
    hidden = TorchDecoder.hidden

    def counting(self, ids_NT, previous_NT, positions_NT, *where):
        counts.append(int((positions_NT >= 0).sum()))
        return hidden(self, ids_NT, previous_NT, positions_NT, *where)

    monkeypatch.setattr(TorchDecoder, "hidden", counting)
    return counts


def test_samples_of_one_prompt_run_it_once(model, tokenizer, tokens_run):
    each = [SamplingParams(seed=seed, max_new_tokens=1) for seed in range(8)]
    Engine(model, tokenizer, max_rows=8).generate([prompt(40)] * 8, each)
    assert sum(tokens_run) == 40 + 7  # the others run only their last token, for its logits


def test_the_next_turn_of_a_chat_runs_only_what_is_new_until_the_weights_change(model, tokenizer, tokens_run):
    engine = Engine(model, tokenizer, max_rows=1)
    first = engine.generate([prompt(20)], params(0, max_new_tokens=9))[0]
    second = prompt(20) + first.ids + prompt(4, seed=6)
    tokens_run.clear()
    resumed = engine.generate([second], params(0, max_new_tokens=5))[0]
    assert tokens_run[0] == 1 + 4  # the last token of the first answer had not been run
    assert resumed == answer_plainly(model, tokenizer, second, params(0, max_new_tokens=5))
    engine.reload(model)
    tokens_run.clear()
    engine.generate([second], params(0, max_new_tokens=1))
    assert tokens_run == [len(second)]


def test_reloaded_weights_answer_as_a_new_engine_does(new_model, whole_config, model, tokenizer):
    changed = new_model(whole_config)
    with torch.no_grad():
        changed.head.weight.mul_(-1)
    engine = Engine(model, tokenizer)
    before = engine.generate([prompt(9)], params(0))
    engine.reload(changed)
    after = engine.generate([prompt(9)], params(0))
    assert after == [answer_plainly(changed, tokenizer, prompt(9), params(0))]
    assert after != before


def test_a_long_prompt_does_not_delay_running_requests(model, tokenizer):
    engine = Engine(model, tokenizer, max_rows=2, prefill=PrefillLimit(8, 8))
    running = engine.submit(prompt(3), SamplingParams(temperature=0.0, max_new_tokens=40))
    engine.step()
    engine.submit(prompt(50), SamplingParams(temperature=0.0, max_new_tokens=2))
    for _ in range(6):  # 48 tokens, 8 at a time
        assert [event.request_id for event in engine.step()] == [running]
    assert len(engine.step()) == 2


def test_requests_beyond_the_rows_wait(model, tokenizer):
    engine = Engine(model, tokenizer, max_rows=2)
    ids = [engine.submit(prompt(3, seed=i), SamplingParams(max_new_tokens=4, seed=i)) for i in range(3)]
    assert [event.request_id for event in engine.step()] == ids[:2]
    answered = {event.request_id for _ in range(20) for event in engine.step()}
    assert ids[2] in answered
    assert not engine.busy


def test_an_answer_at_the_end_of_the_context_stops_with_length(model, tokenizer):
    bias = tuple((token, -100.0) for token in SPECIALS.values())
    unending = SamplingParams(temperature=0.0, max_new_tokens=1000, logit_bias=bias)
    for length in (1, 40, 63):
        completion = Engine(model, tokenizer).generate([prompt(length)], unending)[0]
        assert (len(completion.ids), completion.finish_reason) == (64 - length, "length")
        assert completion == answer_plainly(model, tokenizer, prompt(length), unending, completion.ids)


def test_stream_equals_generate_and_can_be_closed(model, tokenizer):
    engine = Engine(model, tokenizer, max_rows=2)
    p = params(1, max_new_tokens=12)
    expected = engine.generate([prompt(9)], p)[0]
    events = list(engine.stream(prompt(9), p))
    assert [event.token for event in events] == expected.ids
    assert "".join(event.text for event in events) == expected.text
    stream = engine.stream(prompt(9), p)
    next(stream)
    assert engine.busy
    stream.close()
    assert not engine.busy
    assert engine.generate([prompt(9)], p) == [expected]


def test_a_prompt_as_long_as_the_context_is_refused_before_anything_runs(model, tokenizer):
    engine = Engine(model, tokenizer)
    for ids in (prompt(64), prompt(99)):
        with pytest.raises(ValueError, match="prompt and answer together may have 64"):
            engine.submit(ids, SamplingParams())
        with pytest.raises(ValueError, match="shorten"):
            engine.stream(ids, SamplingParams())
    with pytest.raises(ValueError, match="shorten"):
        engine.generate([prompt(3), prompt(64)], SamplingParams())
    assert not engine.busy
    assert len(engine.generate([prompt(63)], SamplingParams())[0].ids) == 1


def test_impossible_engine_settings_are_refused(new_model, whole_config, model, tokenizer):
    with pytest.raises(ValueError, match="tokenizer"):
        Engine(new_model(replace(whole_config, vocab_size=300)), tokenizer)
    with pytest.raises(ValueError, match="row"):
        Engine(model, tokenizer, max_rows=0)
    with pytest.raises(ValueError, match="2 prompts"):
        Engine(model, tokenizer).generate([prompt(3), prompt(4)], [SamplingParams()])


def test_an_idle_engine_does_nothing(model, tokenizer):
    engine = Engine(model, tokenizer)
    assert engine.step() == []
    assert engine.generate([], SamplingParams()) == []
