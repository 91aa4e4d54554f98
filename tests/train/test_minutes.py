"""The dial for minutes: the choice is monotone and in time, and its estimate counts what a run does."""

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.checkpoint import store
from nanochat.eval import bpb
from nanochat.model.cost import horizon_parameters
from nanochat.paths import default_paths
from nanochat.runtime import open_runtime
from nanochat.scaling import Dial, RunPlan, make_plan
from nanochat.train import hooks, plan, session, step
from nanochat.train.minutes import (
    RESERVE,
    SMALLEST_DEPTH,
    Costs,
    Estimate,
    Measurement,
    MinutesChoice,
    check_minutes,
    choose,
    estimate,
    resumed,
    scaled,
    settle,
)
from nanochat.train.options import PretrainOptions
from nanochat.train.pretrain import PretrainConfig, run
from nanochat.train.session import TrainingResult
from nanochat.train.timing import measure_costs

OPTIONS = PretrainOptions()


@cache
def _smallest() -> RunPlan:
    return make_plan(Dial(SMALLEST_DEPTH), 2048, "cpu")


def full_plan(depth: int) -> RunPlan:
    """A plan as `make_plan` would make it, roughly: its time grows with the sixth power of the depth."""
    if depth > 6:
        raise ValueError("as if the memory were too small")
    small = _smallest()
    growth = (depth / SMALLEST_DEPTH) ** 3
    steps = round(growth * small.total_steps)
    return replace(small, depth=depth, total_steps=steps, flops_per_token=growth * small.flops_per_token)


def planned(dial: Dial) -> RunPlan:
    """`make_plan` for this test."""
    assert dial.depth is not None
    whole = full_plan(dial.depth)
    return replace(whole, total_steps=dial.num_iterations or whole.total_steps)


def machine(flops: float) -> list[Measurement]:
    """What was measured at depths 2 and 4 on a machine of these FLOP/s."""

    def costs(of: RunPlan) -> Costs:
        token_s = of.flops_per_token / flops
        return Costs(token_s, of.batch_tokens * token_s, 150_000 * token_s / 3, 1e9 / flops, 1e8 / flops)

    return [Measurement(full_plan(depth), costs(full_plan(depth))) for depth in (2, 4)]


def chosen(minutes: float, flops: float, depth: int | None = None, **options: float) -> MinutesChoice:
    asked = Dial(depth=depth, minutes=minutes)
    return choose(asked, planned, machine(flops), replace(OPTIONS, **options), start_s=3.0)


MINUTES, FLOPS = st.floats(0.3, 600), st.floats(1e10, 1e12)
RHYTHM = st.fixed_dictionaries(
    {
        "eval_every": st.sampled_from([0, 10, 250]),
        "eval_share": st.sampled_from([0.1, 1.0]),
        "save_every": st.sampled_from([0, 100]),
        "save_minutes": st.sampled_from([0.0, 1.0]),
    }
)


@settings(max_examples=30, deadline=None)
@given(minutes=MINUTES, more=st.floats(1, 3), flops=FLOPS, faster=st.floats(1, 3), rhythm=RHYTHM)
def test_more_time_and_a_faster_machine_buy_at_least_as_much(
    minutes: float, more: float, flops: float, faster: float, rhythm: dict[str, float]
) -> None:
    for depth in (None, 3):
        one = chosen(minutes, flops, depth, **rhythm)
        for better in (
            chosen(minutes * more, flops, depth, **rhythm),
            chosen(minutes, flops * faster, depth, **rhythm),
        ):
            assert better.plan.depth >= one.plan.depth
            if better.plan.depth == one.plan.depth:
                assert better.plan.total_steps >= one.plan.total_steps


@settings(max_examples=30, deadline=None)
@given(minutes=MINUTES, flops=FLOPS, rhythm=RHYTHM)
def test_the_estimate_fills_the_minutes_and_never_exceeds_them(
    minutes: float, flops: float, rhythm: dict[str, float]
) -> None:
    one = chosen(minutes, flops, **rhythm)
    planned_s = 60 * minutes * (1 - RESERVE)
    assert one.estimate.total_s <= planned_s or one.plan.total_steps == 1
    another_step = estimate(one.costs, one.plan.total_steps + 1, replace(OPTIONS, **rhythm), 3.0)
    assert another_step.total_s > planned_s


def test_the_depth_is_the_largest_whose_whole_horizon_fits() -> None:
    depths = {minutes: chosen(minutes, 1e11) for minutes in (1, 20, 120, 480)}
    assert depths[1].plan.depth == SMALLEST_DEPTH
    assert depths[1].plan.total_steps < full_plan(SMALLEST_DEPTH).total_steps
    assert (depths[20].plan.depth, depths[120].plan.depth, depths[480].plan.depth) == (2, 3, 4)
    for one in depths.values():
        if one.plan.depth > SMALLEST_DEPTH:
            assert one.plan.total_steps >= full_plan(one.plan.depth).total_steps
    assert chosen(1, 1e11, depth=5).plan.depth == 5


@pytest.mark.parametrize(("ratio", "depths"), [(None, (2, 2, 3)), (12, (2, 2, 2)), (0.5, (2, 3, 4))])
def test_a_cpu_needs_few_tokens_per_parameter_for_a_deeper_model(ratio: float | None, depths: tuple) -> None:
    """On the machine of docs/log.md, where a d3 is the better buy from between 5 and 10 minutes on."""
    plan_of = partial(make_plan, vocab_size=8192, device="cpu")
    measured = []
    for depth, speed in ((2, 24_000), (3, 13_000), (4, 8_000)):
        of = plan_of(Dial(depth))
        measured.append(Measurement(of, Costs(1.0, of.batch_tokens / speed, 5.0, 0.1, 0.1)))
    dials = [Dial(minutes=minutes, target_param_data_ratio=ratio) for minutes in (2, 5, 10)]
    assert depths == tuple(choose(dial, plan_of, measured, OPTIONS, 10.0).plan.depth for dial in dials)


@pytest.mark.parametrize("depth", [2, 3])
def test_the_batch_is_that_of_the_tokens_that_fit(depth: int) -> None:
    plan_of = partial(make_plan, vocab_size=2048, device="cpu")
    smallest = plan_of(Dial(depth))
    measured = [Measurement(smallest, Costs(1.0, 0.2, 5.0, 0.1, 0.1))]
    batches = []
    for minutes in (1, 4, 20, 120):
        dial = Dial(depth=depth, minutes=minutes)
        plan = choose(dial, plan_of, measured, OPTIONS, start_s=3.0).plan
        ratio = plan.tokens / horizon_parameters(plan.model)
        assert plan.batch_tokens == plan_of(Dial(depth, target_param_data_ratio=ratio)).batch_tokens
        batches.append(plan.batch_tokens)
        saved: Any = SimpleNamespace(model=plan.model, config={"minutes": minutes}, plan=plan)
        assert plan_of(resumed(dial, saved)) == plan
    assert batches[0] < batches[-1]
    assert batches == sorted(batches)
    asked = Dial(depth=depth, minutes=1, total_batch_size=512)
    assert choose(asked, plan_of, measured, OPTIONS, start_s=3.0).plan.batch_tokens == 512


def test_the_choice_is_always_a_measured_depth() -> None:
    """Also if the machine is far from what was assumed, or small models reach less of its peak."""
    for assumed in (1e9, 1e14):
        measured: list[int] = []

        def measure(of: RunPlan, measured: list[int] = measured) -> Costs:
            measured.append(of.depth)
            step_s = of.batch_tokens * of.flops_per_token / (4e10 * of.depth)
            return Costs(0.1, step_s, 10 * step_s, 0.1, 0.1)

        choice = settle(Dial(minutes=30), planned, measure, OPTIONS, assumed_flops=assumed, age_s=lambda: 2.0)
        assert choice.plan.depth == measured[-1] or choice.plan.depth in measured
        assert choice.costs == measure(choice.plan)
        assert len(measured) <= 6


@pytest.mark.parametrize("assumed", [1e10, 1e11, 1e12, 1e13])
def test_the_choice_is_measured_with_its_own_batch(assumed: float) -> None:
    """Small steps make fewer tokens per second."""
    plan_of = partial(make_plan, vocab_size=8192, device="cpu")

    def measure(of: RunPlan) -> Costs:
        return Costs(0.1, of.batch_tokens / (10_000 + of.batch_tokens), 1.0, 0.1, 0.1)

    for minutes in (1, 3, 10):
        dial = Dial(depth=3, minutes=minutes)
        choice = settle(dial, plan_of, measure, OPTIONS, assumed_flops=assumed, age_s=lambda: 2.0)
        assert choice.costs == measure(choice.plan)
    small, large = (plan_of(Dial(3, total_batch_size=tokens)) for tokens in (2048, 8192))
    measured = [Measurement(of, measure(of)) for of in (small, large)]
    for of in (small, large):
        assert scaled(measured, of) == scaled(measured[::-1], of) == measure(of)


def test_minutes_without_time_to_train_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--minutes 0.1 leaves no time .* about 0.18 minutes"):
        settle(
            Dial(minutes=0.1),
            planned,
            lambda _: Costs(1, 1, 3, 1, 1),
            OPTIONS,
            assumed_flops=1e11,
            age_s=lambda: 4.0,
        )


def test_minutes_and_steps_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="leave out --num-iterations"):
        check_minutes(Dial(minutes=5, num_iterations=10))


ASSUMED_FLOPS = 1e11  # of products, so that the first candidate is the choice
COSTS = Costs(first_step_s=2.0, step_s=1.0, evaluation_s=3.0, save_s=0.5, samples_s=0.25)


class Stopwatch:
    """A clock that only work advances, by what COSTS says of it. Measuring is done, and then COSTS returned."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.now = 4.0
        self.measured = 0
        patch.setattr(plan, "measure_costs", self._measure)
        patch.setattr(plan, "_process_clock", lambda: self.read)
        patch.setattr(plan.hardware, "measure_gemm_flops", lambda _: ASSUMED_FLOPS)
        self.compiled = False
        library = SimpleNamespace(wait=lambda: setattr(self, "compiled", True), start=lambda **_: None)
        patch.setattr("nanochat.train.pretrain.native_library", lambda _: library)
        patch.setattr(hooks, "time", SimpleNamespace(monotonic=self.read))
        patch.setattr(session, "Evaluate", partial(hooks.Evaluate, clock=self.read))
        for owner, name, cost_s in (
            (step, "accumulate_gradients", COSTS.step_s),
            (bpb, "score", COSTS.evaluation_s),
            (store, "save", COSTS.save_s),
            (hooks, "sample", COSTS.samples_s),
        ):
            patch.setattr(owner, name, self._after(cost_s, getattr(owner, name)))

    def read(self) -> float:
        return self.now

    def _measure(self, *arguments, **named) -> Costs:
        assert self.compiled, "a compiler would run beside what is measured"
        now = self.now
        measured = measure_costs(*arguments, **named)
        assert all(seconds >= 0 for seconds in asdict(measured).values())
        assert measured.step_s > 0
        self.now = now
        self.measured += 1
        return COSTS

    def _after(self, cost_s: float, work: Callable) -> Callable:
        def wrapped(*arguments, **named):
            self.now += cost_s
            return work(*arguments, **named)

        return wrapped


def pretrain(config: PretrainConfig) -> TrainingResult:
    with open_runtime("cpu") as here:
        return run(config, here)


@pytest.mark.slow
@pytest.mark.parametrize(
    "rhythm",
    [
        {"eval_every": 9, "sample_every": 20, "save_every": 15},
        {"eval_every": 2, "eval_share": 0.3, "save_minutes": 0.5},
    ],
)
def test_a_run_takes_what_was_estimated_and_is_one_of_its_depth_and_steps(
    tiny: PretrainConfig, monkeypatch: pytest.MonkeyPatch, rhythm: dict
) -> None:
    asked = replace(tiny, minutes=0.7, num_iterations=None, **rhythm)
    with monkeypatch.context() as patch:
        watch = Stopwatch(patch)
        result = pretrain(asked)
    plain = replace(asked, minutes=None, num_iterations=result.step, model_tag="plain")
    assert pretrain(plain).finished
    metas = [store.load_meta(default_paths().checkpoints(tag), result.step) for tag in ("baserun", "plain")]
    assert metas[0].files == metas[1].files
    assert (metas[0].config["minutes"], metas[0].plan) == (0.7, metas[1].plan)
    assert not list(default_paths().base.glob("measuring-*"))
    assert (result.finished, watch.measured) == (True, 1)
    took, estimated = watch.now + COSTS.first_step_s, estimate(COSTS, result.step, asked, 4.0).total_s
    assert 0.85 * 42 < took <= 42
    assert took == pytest.approx(estimated, abs=COSTS.save_s)


@pytest.mark.slow
def test_a_resumed_run_keeps_its_steps_and_measures_nothing(
    tiny: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replace(tiny, minutes=0.3, num_iterations=None, save_every=4)
    with monkeypatch.context() as patch:
        Stopwatch(patch)
        steps = pretrain(asked).step
    store.remove(default_paths().checkpoints("baserun"), steps)
    monkeypatch.setattr(plan, "measure_costs", lambda *_, **__: pytest.fail("measured again"))
    result = pretrain(replace(asked, resume="auto"))
    assert (result.finished, result.step) == (True, steps)
    for other in (2, None):
        with pytest.raises(ValueError, match=rf"--minutes was 0.3 and is now {other}"):
            pretrain(replace(asked, resume="auto", minutes=other))


@pytest.mark.parametrize(
    ("vocab_size", "device", "training_s", "advised"),
    [
        (32_768, "cpu", 500.0, True),
        (8_192, "cpu", 500.0, False),
        (32_768, "cpu", 36_000.0, False),
        (32_768, "cuda", 500.0, False),
    ],
)
def test_minutes_of_a_cpu_are_too_short_for_a_large_vocabulary(
    capsys: pytest.CaptureFixture, vocab_size: int, device: str, training_s: float, advised: bool
) -> None:
    chosen = make_plan(Dial(2), vocab_size, device)
    costs = Costs(1.0, 1.0, 1.0, 1.0, 1.0)
    plan.describe_plan(chosen, MinutesChoice(chosen, costs, Estimate(1.0, training_s, 1.0, 1.0, 1.0)))
    assert ("nanochat tokenizer train --vocab-size 8192" in capsys.readouterr().err) == advised
