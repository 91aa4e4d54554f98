"""The compiled decoder equals the training model, and a token's result does not depend on the rest of the batch."""

import ctypes
import itertools
import math
import multiprocessing
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nanochat.infer import native_library
from nanochat.infer.cache import RowCache
from nanochat.infer.decoder import Decoder, Span
from nanochat.infer.decoders import Decoders
from nanochat.infer.engine import Engine
from nanochat.infer.frozen import WeightsName
from nanochat.infer.native_decoder import NativeDecoder, declare
from nanochat.infer.native_library import NativeLibrary
from nanochat.infer.request import Event
from nanochat.infer.sampler import SamplingParams, sample
from nanochat.infer.scheduler import PrefillLimit
from nanochat.infer.torch_decoder import TorchDecoder
from nanochat.model.backend import REFERENCE
from nanochat.model.gpt import GPT
from nanochat.native.library import compiler, library_path
from tests.conftest import REPOSITORY
from tests.infer.test_decoder import CHANGES, assert_close, on, plainly, sequences_of
from tests.infer.test_engine import CALLING, SPECIALS, arrive_at_random, params, prompt, random_requests

pytestmark = [
    pytest.mark.slow,  # the first test waits for the compiler
    pytest.mark.skipif(compiler() is None, reason="no C++ compiler"),
]
SLOTS = 64
NO_SPECIALS = tuple((token, -100.0) for token in SPECIALS.values())
SOURCE = REPOSITORY / "nanochat/infer/decode.cpp"
SIZES = {
    **{name: change for name, change in CHANGES.items() if name != "other sizes"},
    "wide heads": {"head_dim": 80},
}


@pytest.fixture(scope="session")
def code_cache(request) -> Path:
    """Kept between sessions, like the user's."""
    return request.config.cache.mkdir("code_cache")


@pytest.fixture(scope="session")
def library(code_cache):
    loaded = compiling(code_cache).get()
    assert loaded is not None
    return loaded


@pytest.fixture
def decode(library):
    def make(
        model: GPT, weights: WeightsName = "fp32", rows: int = 6, dtype=torch.float32, library=library
    ) -> NativeDecoder:
        cache = RowCache(model.config, rows, SLOTS, torch.device("cpu"), dtype)
        for tensor in (*cache.k_RKSD, *cache.v_RKSD):
            tensor.fill_(1e3)  # what free rows hold must not matter
        return NativeDecoder(model, cache, library, weights)

    return make


@pytest.fixture
def large_config(whole_config):
    return replace(whole_config, head_dim=16, n_embd=48)


def span(ids: list[int], row: int, start: int, stop: int) -> Span:
    return Span(row, start, ids[start:stop], ids[start - 1] if start else 0)


def logits(decoder: NativeDecoder, spans: list[Span]) -> Iterator[torch.Tensor]:
    lengths = [len(one.tokens) for one in spans]
    yield from decoder.logits(decoder.hidden_of(spans, range(sum(lengths)))).split(lengths)


@pytest.mark.parametrize("change", SIZES)
def test_prompts_and_single_tokens_equal_the_training_model(new_model, large_config, decode, change):
    model = new_model(replace(large_config, **SIZES[change]))
    decoder = decode(model)
    sequences = sequences_of(5, 20, 64)
    expected = [plainly(model, ids) for ids in sequences]
    prompts = [span(ids, row, 0, len(ids) - 2) for row, ids in enumerate(sequences)]
    for at, actual in enumerate(logits(decoder, prompts)):
        assert_close(actual, expected[at][:-2])
    for back in (2, 1):
        step = [span(ids, row, len(ids) - back, len(ids) - back + 1) for row, ids in enumerate(sequences)]
        for at, actual in enumerate(logits(decoder, step)):
            assert_close(actual[0], expected[at][-back])


@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8"])
def test_a_token_has_the_same_bits_in_every_batch(new_model, large_config, decode, weights):
    """Alone, in pieces, beside others, in another row: for batches on both sides of every tile size."""
    model = new_model(large_config)
    decoder = decode(model, weights)
    sequences = sequences_of(*[40] * 6)
    alone = [next(logits(decoder, [span(sequences[0], 5, at, at + 1)])) for at in range(40)]
    chooser = random.Random(0)
    reached = [0] * 6
    while min(reached) < 40:
        unfinished = [row for row in range(6) if reached[row] < 40]
        chosen = chooser.sample(unfinished, chooser.randint(1, len(unfinished)))
        spans = [
            span(sequences[row], row, reached[row], min(40, reached[row] + chooser.randint(1, 9)))
            for row in chosen
        ]
        for one, actual in zip(spans, logits(decoder, spans), strict=True):
            if one.row == 0:
                assert torch.equal(actual, torch.cat(alone[one.start : one.stop]))
            reached[one.row] = one.stop


@pytest.fixture(scope="session")
def library_of_three_threads(library, code_cache, tmp_path_factory):
    """A copy, because a library starts its threads once."""
    path = tmp_path_factory.mktemp("copy") / "decode.so"
    shutil.copy(library_path(SOURCE, code_cache, str(compiler())), path)
    copy = ctypes.CDLL(str(path))
    declare(copy)
    copy.start(3)
    return copy


def in_random_pieces(decoder: NativeDecoder, seed: int) -> Iterator[torch.Tensor]:
    """The hidden states and logits of six sequences of 40 tokens, of which a step runs some."""
    sequences, reached, chooser = sequences_of(*[40] * 6), [0] * 6, random.Random(seed)
    while min(reached) < 40:
        unfinished = [row for row in range(6) if reached[row] < 40]
        chosen = sorted(chooser.sample(unfinished, chooser.randint(1, len(unfinished))))
        most = chooser.choice((1, 9))
        stops = {row: min(40, reached[row] + chooser.randint(1, most)) for row in chosen}
        decoder.wake()
        spans = [span(sequences[row], row, reached[row], stops[row]) for row in chosen]
        yield decoder.run(spans)
        yield from logits(decoder, spans)
        for row in chosen:
            reached[row] = stops[row]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_number_of_threads_changes_no_bit(
    new_model, large_config, decode, library_of_three_threads, dtype
):
    model = new_model(large_config)
    one = decode(model, "bf16", dtype=dtype)
    three = decode(model, "bf16", dtype=dtype, library=library_of_three_threads)
    assert all(map(torch.equal, in_random_pieces(one, 3), in_random_pieces(three, 3)))


@pytest.mark.parametrize("head_dim", [16, 48, 80])
def test_a_bf16_cache_rounds_and_gives_the_same_bits_in_every_batch(
    new_model, large_config, decode, head_dim
):
    model = new_model(replace(large_config, head_dim=head_dim))
    ids = sequences_of(40, 40)
    rounded, whole = decode(model, dtype=torch.bfloat16), decode(model)
    alone = torch.cat([next(logits(rounded, [span(ids[0], 5, at, at + 1)])) for at in range(40)])
    beside = [span(ids[0], 1, 0, 40), span(ids[1], 2, 0, 40)]
    assert torch.equal(next(logits(rounded, beside)), alone)
    error = (alone - next(logits(whole, beside))).abs()
    assert 0 < error.mean() < 0.02


@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_rounded_weights_equal_pytorch_with_the_same_rounding(new_model, large_config, decode, weights):
    model = new_model(large_config)
    spans = [span(ids, row, 0, 30) for row, ids in enumerate(sequences_of(30, 30))]
    cache = RowCache(model.config, 6, SLOTS, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        emulated = TorchDecoder(model, cache, weights)
        native = decode(model, weights)
        actual, expected = native.logits(native.run(spans)), emulated.logits(emulated.run(spans))
        exact = decode(model)
        cost = (actual - exact.logits(exact.run(spans))).abs()
    assert cost.max() > 1e-3
    if weights == "int8":
        assert_close(actual, expected)
    else:  # a difference in the last bit may round an input to the other side
        assert (actual - expected).abs().mean() < cost.mean() / 4


@pytest.mark.parametrize("vocab_size", [265, 64, 17])
def test_tokens_are_chosen_as_in_pytorch(new_model, large_config, decode, vocab_size):
    """With every kind of truncation, beside each other, also where logits are equal."""
    decoder = decode(new_model(large_config))
    generator, chooser = torch.Generator().manual_seed(vocab_size), random.Random(vocab_size)
    for step in range(200):
        logits_NV = torch.randn(5, 3 * vocab_size, generator=generator)[:, :vocab_size] * chooser.choice(
            (1, 5)
        )
        if step % 2:
            logits_NV = logits_NV.round()
        params = [
            SamplingParams(
                temperature=chooser.choice((0.0, 0.3, 1.0, 2.0)),
                top_k=chooser.choice((1, 2, 7, 50, 300)),
                top_p=chooser.choice((1.0, 0.9, 0.3)),
                min_p=chooser.choice((0.0, 0.0, 0.1, 1.0)),
            )
            for _ in range(5)
        ]
        uniforms = [chooser.random() for _ in range(5)]
        expected = sample(logits_NV, params, uniforms)
        for row, p in enumerate(params):
            if p.greedy:  # of equal logits, ours takes the first and PyTorch any
                expected[row] = int((logits_NV[row] == logits_NV[row].max()).nonzero()[0])
        assert decoder.choose(logits_NV, params, uniforms).tolist() == expected.tolist()


@pytest.mark.parametrize("vocab_size", [17, 265, 4099])
def test_draws_from_all_tokens_invert_the_distribution(new_model, large_config, decode, vocab_size):
    decoder = decode(new_model(large_config))
    generator = torch.Generator().manual_seed(vocab_size)
    logits_NV = 3 * torch.randn(64, vocab_size + 5, generator=generator)[:, :vocab_size]
    logits_NV[:, 3:9] = -math.inf
    uniforms = [0.0, *torch.rand(62, generator=generator).tolist(), 1 - 2**-24]
    for temperature in (0.3, 1.0, 2.0):
        params = [SamplingParams(temperature)] * 64
        cumulated_NV = (logits_NV.double() / temperature).softmax(dim=-1).cumsum(dim=-1)
        for row, token in enumerate(decoder.choose(logits_NV, params, uniforms).tolist()):
            assert logits_NV[row, token] > -math.inf
            assert uniforms[row] < cumulated_NV[row, token] + 1e-5
            assert token == 0 or cumulated_NV[row, token - 1] < uniforms[row] + 1e-5


def test_the_last_tokens_are_drawn_only_if_they_have_probability(new_model, large_config, decode):
    logits_NV = torch.full((2, 1000), -math.inf)
    logits_NV[:, 4:6] = 1.0
    drawn = decode(new_model(large_config)).choose(logits_NV, [SamplingParams()] * 2, [0.0, 1 - 2**-24])
    assert drawn.tolist() == [4, 5]


def test_only_rows_that_need_it_are_drawn_by_pytorch(new_model, large_config, decode, monkeypatch):
    """Otherwise a row's token would depend, by the last bit of a sum, on what the others ask for."""
    logits_NV = torch.randn(6, 265, generator=torch.Generator().manual_seed(0)).round()
    params = [SamplingParams(top_p=p, top_k=k) for p, k in itertools.product((1.0, 0.9), (None, 20, 600))]
    drawn: list[SamplingParams] = []

    def recorded(logits_NV, params, uniforms):
        drawn.extend(params)
        return sample(logits_NV, params, uniforms)

    monkeypatch.setattr("nanochat.infer.native_decoder.sample", recorded)
    decoder = decode(new_model(large_config))
    chosen = decoder.choose(logits_NV, params, [0.1, 0.3, 0.4, 0.6, 0.7, 0.9])
    assert drawn == [params[at] for at in (2, 3, 5)]
    assert chosen.tolist() == sample(logits_NV, params, [0.1, 0.3, 0.4, 0.6, 0.7, 0.9]).tolist()


@pytest.mark.parametrize("vocab_size", [17, 4096])
def test_sums_of_probabilities_equal_those_of_pytorch(new_model, large_config, decode, vocab_size):
    logits_NV = 9 * torch.randn(3, vocab_size + 3, generator=torch.Generator().manual_seed(0))[:, 1:-2]
    assert_close(decode(new_model(large_config)).log_sums(logits_NV), logits_NV.logsumexp(dim=-1))


def test_an_engine_may_change_decoders_between_any_two_steps(
    new_model, large_config, library, code_cache, tokenizer, monkeypatch
):
    """What one decoder has written to the cache, the other can read."""
    monkeypatch.setattr("nanochat.infer.decoders._WORTHWHILE_PARAMETERS", 0)
    model = on(new_model(large_config), replace(REFERENCE, code_cache=code_cache))
    greedy = SamplingParams(temperature=0, max_new_tokens=20)
    prompts = sequences_of(5, 17, 30)
    expected = Engine(new_model(large_config), tokenizer, tools=None).generate(prompts, greedy)
    engine = Engine(model, tokenizer, tools=None)
    assert isinstance(engine._decoders.best(), NativeDecoder)
    either: list[Decoder] = [engine._decoders.best(), TorchDecoder(model, engine._cache)]
    chooser = random.Random(1)
    monkeypatch.setattr(Decoders, "best", lambda self: chooser.choice(either))
    assert [c.ids for c in engine.generate(prompts, greedy)] == [c.ids for c in expected]


@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8"])
def test_requests_in_company_have_the_tokens_and_probabilities_of_lone_ones(
    new_model, large_config, library, code_cache, tokenizer, monkeypatch, weights
):
    """Bit for bit: arriving, sharing prefixes, in pieces and cancelled at random."""
    monkeypatch.setattr("nanochat.infer.decoders._WORTHWHILE_PARAMETERS", 0)
    model = on(new_model(large_config), replace(REFERENCE, code_cache=code_cache))
    chance = random.Random(2)
    requests = random_requests(chance, 200)
    engine = Engine(model, tokenizer, max_rows=5, prefill=PrefillLimit(24, 7), weights=weights)
    answers, cancelled = arrive_at_random(engine, requests, chance)
    assert isinstance(engine._decoders.best(), NativeDecoder)
    assert len(cancelled) > 10
    for index, ((ids, own), events) in enumerate(zip(requests, answers, strict=True)):
        lone = Engine(model, tokenizer, max_rows=1, weights=weights).generate([ids], own)[0]
        complete = len(events) if index in cancelled else len(lone.ids)
        assert [event.token for event in events] == lone.ids[:complete]
        assert [event.logprobs for event in events] == lone.logprobs[:complete]


def test_tokens_decoded_ahead_are_those_of_single_steps(
    new_model, large_config, library, code_cache, tokenizer, monkeypatch
):
    """Bit for bit, with biases, tool calls, stop strings and log-probabilities, in several groups of rows."""
    monkeypatch.setattr("nanochat.infer.decoders._WORTHWHILE_PARAMETERS", 0)
    model = on(new_model(large_config), replace(REFERENCE, code_cache=code_cache))
    kinds = [{}, {"logprobs": 0}, {**CALLING, "logprobs": 0}, {"stop": ("e",)}]
    requests = [
        (prompt(1 + at % 9, seed=at), params(at, max_new_tokens=1 + at % 23, **kinds[at // 4 % 4]))
        for at in range(60)
    ]
    for top_k in (None, 20):  # a nucleus needs a top-k to be decoded ahead
        each = [
            (ids, replace(p, top_k=top_k or p.top_k, top_p=p.top_p if top_k else 1.0)) for ids, p in requests
        ]
        stepping, patient, ahead = (Engine(model, tokenizer, max_rows=20) for _ in range(3))
        ids, events = events_of(stepping, each, budget_s=0)
        _, together = events_of(patient, each, budget_s=1e9)
        for at in ids:
            assert [event._replace(text="") for event in together[at]] == [
                event._replace(text="") for event in events[at]
            ]
            assert "".join(event.text for event in together[at]) == "".join(
                event.text for event in events[at]
            )
        with monkeypatch.context() as patch:
            patch.setattr(NativeDecoder, "choose", counted := Counted(NativeDecoder.choose))
            completions = ahead.generate(*zip(*each, strict=True))
        assert counted.rows < sum(len(each.ids) for each in completions) / 4, "a token at a time"
        for at, completion in zip(ids, completions, strict=True):
            assert completion.ids == [event.token for event in events[at]]
            assert completion.logprobs == [event.logprobs for event in events[at]]
            assert completion.text == "".join(event.text for event in events[at] if event.part == "text")
            assert completion.finish_reason == events[at][-1].finished


def events_of(engine, requests, budget_s):
    """The ids of requests that run together, and the events of each."""
    ids = [engine.submit(*one) for one in requests]
    events: dict[int, list[Event]] = {at: [] for at in ids}
    while engine.busy:
        for event in engine.step(budget_s):
            events[event.request_id].append(event)
    return ids, events


def test_patience_decodes_several_tokens_and_lets_prompts_take_turns(
    new_model, large_config, library, code_cache, tokenizer, monkeypatch
):
    """And a request whose tokens decode.cpp cannot choose makes all decode single tokens, beside small pieces."""
    monkeypatch.setattr("nanochat.infer.decoders._WORTHWHILE_PARAMETERS", 0)
    model = on(new_model(large_config), replace(REFERENCE, code_cache=code_cache))
    endless = params(0, max_new_tokens=58, temperature=0.0, logit_bias=NO_SPECIALS)
    engine = Engine(model, tokenizer, max_rows=4, prefill=PrefillLimit(12, 4))
    first = engine.submit(prompt(5), endless)
    assert [len(engine.step(1e9)) for _ in range(4)] == [1, 1, 16, 16], (
        "one is measured, then several at once"
    )
    assert len(engine.step()) == len(engine.step(1e-9)) == 1
    engine.submit(prompt(30, seed=1), endless)
    taken = [engine.step(1e9) for _ in range(5)]
    assert [[event.request_id == first for event in events] for events in taken] == [
        [],
        [True] * 16,
        [],
        [True] * 6,
        [False],
    ]
    engine.submit(prompt(9, seed=2), replace(endless, repetition_penalty=1.1))
    assert [len(engine.step(1e9)) for _ in range(4)] == [16, 1, 2, 2]
    late = engine.submit(prompt(12, seed=3), endless)
    begun = [late in {event.request_id for event in engine.step(1e9)} for _ in range(3)]
    assert begun == [False, False, True]


def test_rows_are_moved_by_as_many_threads_as_the_decoder_leaves(
    new_model, large_config, library, code_cache, tokenizer, monkeypatch
):
    """On a busy machine, PyTorch's threads wait long for each other."""
    monkeypatch.setattr("nanochat.infer.decoders._WORTHWHILE_PARAMETERS", 0)
    threads = []
    monkeypatch.setattr(RowCache, "copy", lambda *_: threads.append(torch.get_num_threads()))
    model = on(new_model(large_config), replace(REFERENCE, code_cache=code_cache))
    engine = Engine(model, tokenizer, max_rows=3)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        lengths = [2, 9, 5]
        engine.generate([prompt(20)] * 3, [params(0, max_new_tokens=most) for most in lengths])
    finally:
        torch.set_num_threads(before)
    assert set(threads) == {1}


class Counted:
    """A method, and for how many rows it was called."""

    def __init__(self, method):
        self._method, self.rows = method, 0

    def __get__(self, decoder, owner):
        def call(logits_NV, *rest):
            self.rows += len(logits_NV)
            return self._method(decoder, logits_NV, *rest)

        return call


def test_a_forked_process_goes_on_without_its_threads(new_model, large_config, decode):
    """Threads stay in the parent, and nobody waits for them."""
    decoder = decode(new_model(large_config))
    spans = [span(sequences_of(30)[0], 0, 0, 30)]
    expected = torch.cat([*logits(decoder, spans)])

    def repeat() -> None:
        assert torch.equal(torch.cat([*logits(decoder, spans)]), expected)

    child = multiprocessing.get_context("fork").Process(target=repeat)
    child.start()
    child.join(timeout=60)
    assert child.exitcode == 0


def compiling(directory: Path) -> NativeLibrary:
    """The directory's library after its compiler has ended."""
    library = NativeLibrary(directory)
    library.wait()
    return library


def test_a_failing_compiler_costs_one_line(tmp_path, monkeypatch, capsys):
    failing = tmp_path / "compiler"
    failing.write_text("#!/bin/sh\necho no space left >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setenv("CXX", str(failing))
    library = compiling(tmp_path / "code")
    assert library.get() is None
    library.start(delay_s=0)  # as every further engine does
    assert not library.pending
    assert library.get() is None
    (line,) = capsys.readouterr().err.strip().splitlines()
    log = next((tmp_path / "code").glob("*.log"))
    assert "the compiler failed" in line
    assert str(log) in line
    assert log.read_text() == "no space left\n"
    assert not list((tmp_path / "code").glob("*.tmp"))


def test_without_a_compiler_nothing_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CXX", str(tmp_path / "absent"))
    assert compiling(tmp_path / "code").get() is None
    assert not capsys.readouterr().err


def test_a_folder_that_cannot_be_written_costs_one_line(tmp_path, capsys):
    (tmp_path / "code").touch()
    library = NativeLibrary(tmp_path / "code")
    library.start()
    assert not library.pending
    assert library.get() is None
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "the compiler cannot be started" in line
    assert str(tmp_path / "code") in line


def test_a_library_of_other_results_costs_one_line(tmp_path, monkeypatch, capsys, library, code_cache):
    path = library_path(SOURCE, tmp_path, str(compiler()))
    shutil.copy(library_path(SOURCE, code_cache, str(compiler())), path)
    monkeypatch.setattr(
        "nanochat.infer.native_library._TRIALS",
        [(weights, dtype, 0.0) for weights, dtype, _ in native_library._TRIALS],
    )
    assert compiling(tmp_path).get() is None
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert str(path) in line
    assert "delete it" in line


def test_a_damaged_library_is_compiled_again(tmp_path, capsys):
    library_path(SOURCE, tmp_path, str(compiler())).write_bytes(b"\0" * 4096)
    assert compiling(tmp_path).get() is not None
    assert not capsys.readouterr().err


def test_a_process_that_ends_at_once_leaves_the_library_for_the_next(tmp_path):
    code = f"from nanochat.infer.native_library import *; NativeLibrary(Path({str(tmp_path)!r})).start()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    path = library_path(SOURCE, tmp_path, str(compiler()))
    deadline = time.monotonic() + 300
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert compiling(tmp_path).get() is not None


@pytest.mark.parametrize("change", SIZES)
def test_the_hidden_states_of_some_tokens_are_those_among_all(new_model, large_config, decode, change):
    """And their last layer's keys and values are there for the tokens that follow."""
    model = new_model(replace(large_config, **SIZES[change]))
    ids = [7 * at % 80 for at in range(40)]
    whole, some = decode(model), decode(model)
    spans = [span(ids, 0, 0, 20), span(ids, 1, 0, 9), span(ids, 2, 0, 1)]
    wanted = [0, 3, 19, 20, 28]
    expected = whole.hidden_of(spans, range(30))
    assert torch.equal(some.hidden_of(spans, wanted), expected[wanted])
    following = [span(ids, 0, 20, 40), span(ids, 1, 9, 12)]
    for one, other in zip(logits(whole, following), logits(some, following), strict=True):
        assert torch.equal(one, other)
