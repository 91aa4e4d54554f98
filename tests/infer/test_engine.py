"""The engine by equivalence: cached, batched and rearranged, it equals the plain model one token at a time."""

from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from nanochat.infer.cache import KVCache
from nanochat.infer.engine import Engine
from nanochat.infer.request import Completion, Request
from nanochat.infer.sampler import SamplingParams, sample
from nanochat.infer.tools import DEFAULT_TOOLS
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
    model: GPT, tokenizer, ids: list[int], params: SamplingParams, tools=DEFAULT_TOOLS
) -> Completion:
    """The reference: the whole sequence through the model for every token, without cache or batch."""
    request = Request(0, ids, params, tokenizer, tools, model.config.max_seq_len)
    while True:
        logits = model.logits(model(torch.tensor([request.tokens]))[:, -1])
        if request.accept(sample(logits, [params], [request.uniform()]).item()).finished:
            return request.completion()


class Caller(GPT):
    """A model biased towards short sums in tool calls."""

    urges: ClassVar = {
        **dict.fromkeys(b"1234+*", 6.0),
        SPECIALS[PYTHON_START]: 7.0,
        SPECIALS[PYTHON_END]: 7.5,
    }

    def logits(self, hidden):
        logits = super().logits(hidden) * 0.5
        for token, urge in self.urges.items():
            logits[..., token] += urge
        return logits


def test_cached_logits_equal_uncached_ones_token_by_token(any_model):
    model = any_model
    lengths = (1, 7, 16, 33)
    rows = [prompt(length) + prompt(12, seed=9) for length in lengths]
    cache = KVCache.empty(model.config, len(rows), 64, torch.device("cpu"), torch.float32)
    longest = max(lengths)
    ids = torch.tensor([row[:n] + [0] * (longest - n) for row, n in zip(rows, lengths, strict=True)])
    positions = torch.tensor([[*range(n), *[-1] * (longest - n)] for n in lengths])
    with torch.inference_mode():
        expected = [model.logits(model(torch.tensor([row])))[0] for row in rows]
        logits = model.logits(model(ids, positions, cache))
        for row, n in enumerate(lengths):
            torch.testing.assert_close(logits[row, :n], expected[row][:n], atol=1e-4, rtol=1e-4)
        for step in range(12):
            ids = torch.tensor([[row[n + step]] for row, n in zip(rows, lengths, strict=True)])
            positions = torch.tensor([[n + step] for n in lengths])
            logits = model.logits(model(ids, positions, cache))[:, 0]
            for row, n in enumerate(lengths):
                torch.testing.assert_close(logits[row], expected[row][n + step], atol=1e-4, rtol=1e-4)


def test_a_full_engine_equals_the_plain_model(any_model, tokenizer):
    """Eight requests of all kinds through three rows: prefill in batches, rows reused and moved."""
    model = any_model
    prompts, each = [prompt(n) for n in LENGTHS], [params(i) for i in range(len(LENGTHS))]
    engine = Engine(model, tokenizer, max_rows=3, prefill_tokens=100)
    expected = [answer_plainly(model, tokenizer, ids, p) for ids, p in zip(prompts, each, strict=True)]
    assert engine.generate(prompts, each) == expected
    assert not engine.busy
    assert engine.generate(prompts[::-1], each[::-1]) == expected[::-1]


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
        assert tokens[index] == answer_plainly(model, tokenizer, prompt(length), params(index)).ids


def test_tool_outputs_are_forced_verbatim_in_every_row(new_model, whole_config, tokenizer):
    model = new_model(whole_config, Caller)
    each = [SamplingParams(seed=seed, max_new_tokens=50) for seed in range(12)]
    prompts = [prompt(1 + seed % 5) for seed in range(12)]
    completions = Engine(model, tokenizer, max_rows=4).generate(prompts, each)
    outputs = set()
    for completion, ids, p in zip(completions, prompts, each, strict=True):
        assert completion == answer_plainly(model, tokenizer, ids, p)
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
    engine = Engine(model, tokenizer, max_seq_len=32)
    for ids in (prompt(32), prompt(50)):
        with pytest.raises(ValueError, match="prompt and answer together may have 32"):
            engine.submit(ids, SamplingParams())
        with pytest.raises(ValueError, match="shorten"):
            engine.stream(ids, SamplingParams())
    with pytest.raises(ValueError, match="shorten"):
        engine.generate([prompt(3), prompt(32)], SamplingParams())
    assert not engine.busy
    assert len(engine.generate([prompt(31)], SamplingParams())[0].ids) == 1


def test_impossible_engine_settings_are_refused(new_model, whole_config, model, tokenizer):
    with pytest.raises(ValueError, match="tokenizer"):
        Engine(new_model(replace(whole_config, vocab_size=300)), tokenizer)
    with pytest.raises(ValueError, match="context of 64"):
        Engine(model, tokenizer, max_seq_len=65)
    with pytest.raises(ValueError, match="row"):
        Engine(model, tokenizer, max_rows=0)
    with pytest.raises(ValueError, match="2 prompts"):
        Engine(model, tokenizer).generate([prompt(3), prompt(4)], [SamplingParams()])


def test_an_idle_engine_does_nothing(model, tokenizer):
    engine = Engine(model, tokenizer)
    assert engine.step() == []
    assert engine.generate([], SamplingParams()) == []
