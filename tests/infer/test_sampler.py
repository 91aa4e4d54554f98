"""Sampling: draws follow the softmax, truncation keeps the right tokens, and rows are independent."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanochat.infer.sampler import SamplingParams, adjust, logprobs_of, sample, truncate, uniform

PARAMS = [
    SamplingParams(temperature=0),
    SamplingParams(),
    SamplingParams(temperature=0.3),
    SamplingParams(top_k=5),
    SamplingParams(top_k=40, top_p=0.8, temperature=1.7),
    SamplingParams(top_p=0.5),
    SamplingParams(min_p=0.1),
    SamplingParams(top_k=12, min_p=0.02, temperature=2.0),
]


def random_logits(rows: int, vocab: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"min_p": -0.1}, "min_p"),
        ({"min_p": 1.1}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"repetition_penalty": math.nan}, "repetition_penalty"),
        ({"logit_bias": ((-1, 1.0),)}, "logit_bias"),
        ({"logit_bias": ((1, 101.0),)}, "logit_bias"),
        ({"logit_bias": ((1, math.nan),)}, "logit_bias"),
        ({"logprobs": -1}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"stop": "END"}, "stop"),
        ({"stop": ("",)}, "stop"),
    ],
)
def test_values_out_of_range_are_refused_by_name(values, word):
    with pytest.raises(ValueError, match=word):
        SamplingParams(**values)


def test_uniform_numbers_are_uniform_and_differ_between_seeds():
    numbers = [uniform(seed, index) for seed in range(20) for index in range(500)]
    assert len(set(numbers)) > 9_980  # of 2^24 values 10,000 draws repeat about three
    counts = torch.histc(torch.tensor(numbers), bins=50, min=0, max=1)
    assert ((counts - 200).square() / 200).sum() < 86  # chi-square, 49 degrees, p = 0.001
    assert all(0 <= number < 1 and number == torch.tensor(number).item() for number in numbers)


def test_draws_follow_the_softmax():
    logits = random_logits(1, 12, seed=1, scale=1.0)
    n = 20_000
    params = SamplingParams(temperature=0.8)
    tokens = sample(logits.expand(n, -1), [params] * n, [uniform(7, i) for i in range(n)])
    expected = torch.softmax(logits[0] / 0.8, -1) * n
    counts = torch.bincount(tokens, minlength=12)
    assert ((counts - expected).square() / expected).sum() < 31.3  # chi-square, 11 degrees, p = 0.001


def test_truncated_draws_follow_the_renormalised_softmax():
    logits = random_logits(1, 200, seed=2, scale=2.0)
    n = 20_000
    tokens = sample(logits.expand(n, -1), [SamplingParams(top_k=8)] * n, [uniform(3, i) for i in range(n)])
    best = logits[0].topk(8)
    expected = torch.softmax(best.values, -1) * n
    counts = torch.bincount(tokens, minlength=200)
    assert counts[best.indices].sum() == n
    assert ((counts[best.indices] - expected).square() / expected).sum() < 24.3  # 7 degrees, p = 0.001


@given(st.integers(0, 1000), st.lists(st.sampled_from(PARAMS), min_size=1, max_size=8))
def test_a_row_gets_the_same_token_in_any_batch(seed, params):
    logits = random_logits(len(params), 97, seed)
    uniforms = [uniform(seed, row) for row in range(len(params))]
    together = sample(logits, params, uniforms).tolist()
    alone = [sample(logits[i : i + 1], [p], [uniforms[i]]).item() for i, p in enumerate(params)]
    assert together == alone


def test_greedy_takes_the_likeliest_and_so_does_any_temperature_near_zero():
    logits = random_logits(4, 300)
    for params in (SamplingParams(temperature=0), SamplingParams(temperature=1e-40), SamplingParams(top_k=1)):
        assert sample(logits, [params] * 4, [0.999] * 4).tolist() == logits.argmax(-1).tolist()


@given(
    st.lists(st.integers(-12, 12), min_size=1, max_size=40),
    st.one_of(st.none(), st.integers(1, 50)),
    st.floats(0.01, 1.0),
)
def test_truncation_keeps_the_top_k_and_of_them_the_nucleus(values, top_k, top_p):
    logits = torch.tensor([values]) / 4.0
    kept = truncate(logits, [SamplingParams(top_k=top_k, top_p=top_p)])[0].isfinite()

    order = sorted(values, reverse=True)
    k = min(top_k or len(values), len(values))
    weights = [math.exp(v / 4) for v in order[:k]]
    before = [sum(weights[:i]) / sum(weights) for i in range(k)]
    if any(abs(share - top_p) < 1e-5 for share in before):  # too close for fp32 to tell
        return
    size = sum(share < top_p or top_p == 1 for share in before)
    threshold = order[size - 1]
    assert kept.tolist() == [value >= threshold for value in values]


def test_each_row_is_truncated_by_its_own_limits():
    logits = random_logits(3, 50)
    kept = truncate(logits, [SamplingParams(top_k=k) for k in (3, None, 10)]).isfinite().sum(-1)
    assert kept.tolist() == [3, 50, 10]


@given(st.floats(0.0, 1.0), st.integers(0, 100))
def test_min_p_keeps_what_is_likely_enough_relative_to_the_best(min_p, seed):
    logits = random_logits(1, 60, seed)
    shares = torch.softmax(logits[0], -1) / torch.softmax(logits[0], -1).max()
    if (shares - min_p).abs().min() < 1e-5:  # too close for fp32 to tell
        return
    kept = truncate(logits, [SamplingParams(min_p=min_p)])[0].isfinite()
    assert kept.tolist() == (shares >= min_p).tolist()


def test_candidates_tied_with_the_last_are_drawn_from_too():
    logits = torch.tensor([[1.0, 0.0, 1.0, 1.0, -1.0]])
    drawn = {sample(logits, [SamplingParams(top_k=2)], [uniform(0, i)]).item() for i in range(50)}
    assert drawn == {0, 2, 3}


def test_a_repetition_penalty_and_a_bias_change_only_their_tokens_and_rows():
    logits = torch.tensor([[2.0, -2.0, 4.0], [2.0, -2.0, 4.0], [2.0, -2.0, 4.0]])
    before = logits.clone()
    params = [
        SamplingParams(),
        SamplingParams(repetition_penalty=2.0),
        SamplingParams(logit_bias=((2, -9.0),)),
    ]
    adjusted = adjust(logits, params, [[0, 1], [0, 1, 1], [0, 1]])
    assert adjusted.tolist() == [[2.0, -2.0, 4.0], [1.0, -4.0, 4.0], [2.0, -2.0, -5.0]]
    assert torch.equal(logits, before)
    assert adjust(logits, params[:1] * 3, [[], [], []]) is logits


def test_logprobs_are_those_of_the_model_for_the_rows_that_ask():
    logits = random_logits(3, 30)
    params = [SamplingParams(logprobs=2, temperature=0.1), SamplingParams(), SamplingParams(logprobs=0)]
    first, none, bare = logprobs_of(logits, [5, 6, 7], params)
    expected = torch.log_softmax(logits, -1)
    assert none is None
    assert first is not None
    assert bare is not None
    assert first.logprob == pytest.approx(expected[0, 5].item())
    assert [token for token, _ in first.top] == expected[0].topk(2).indices.tolist()
    assert [value for _, value in first.top] == pytest.approx(expected[0].topk(2).values.tolist())
    assert (bare.logprob, bare.top) == (pytest.approx(expected[2, 7].item()), ())


@pytest.mark.parametrize("draw", [0.0, 0.5, 1 - 2**-24])
def test_a_token_without_probability_is_never_drawn(draw):
    logits = torch.full((1, 9), -math.inf)
    logits[0, 4:6] = 1.0
    assert sample(logits, [SamplingParams()], [draw]).item() in (4, 5)


def test_broken_logits_give_a_token_of_the_vocabulary():
    tokens = sample(torch.full((2, 9), math.nan), [SamplingParams(), SamplingParams(top_p=0.5)], [0.9, 0.1])
    assert all(0 <= token < 9 for token in tokens.tolist())
