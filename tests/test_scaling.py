"""The dial: a golden table of plans by depth, and properties that hold for any depth."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nanochat.recipes.cpu import CPU
from nanochat.recipes.quickstart import QUICKSTART
from nanochat.recipes.recipe import ModelNames, Recipe
from nanochat.scaling import Dial, RunPlan, make_plan, micro_batch_rows

V = 32_768
SPEEDRUN = Dial(26, target_param_data_ratio=8.25, device_batch_size=16)


@dataclass(frozen=True)
class Golden:
    """The expected plan of one depth."""

    width: int
    heads: int
    matrices: int
    batch_tokens: int
    steps: int
    device_rows: int
    accumulation: int
    matrix_rate: float
    embedding_rate: float
    decay: float
    warmup: int


GOLDEN = {
    ("d2", "cpu"): Golden(128, 2, 393_240, 8192, 1344, 16, 2, 0.028284, 0.6, 0.0, 13),
    ("d4", "cpu"): Golden(256, 4, 3_145_824, 16_384, 3072, 16, 4, 0.04, 0.6, 0.0, 31),
    ("d6", "cpu"): Golden(384, 6, 10_617_048, 16_384, 8928, 16, 4, 0.04, 0.48990, 0.0, 89),
    ("d12", "8xGPU"): Golden(768, 6, 84_935_088, 524_288, 2520, 32, 1, 0.02, 0.3, 0.28, 40),
    ("d20", "8xGPU"): Golden(1280, 10, 393_217_200, 1_048_576, 4980, 32, 2, 0.028284, 0.32863, 0.10019, 40),
    ("d26", "8xGPU"): Golden(1664, 13, 863_897_580, 1_048_576, 7226, 16, 4, 0.028284, 0.28823, 0.04747, 40),
}


def make(name: str, machine: str) -> RunPlan:
    depth = int(name[1:])
    if machine == "cpu":
        return make_plan(Dial(depth), 4096, "cpu")
    return make_plan(SPEEDRUN if depth == 26 else Dial(depth), V, "cuda", 8)


@pytest.mark.parametrize(("name", "machine"), GOLDEN)
def test_golden_table(name: str, machine: str) -> None:
    expected, made = GOLDEN[name, machine], make(name, machine)
    actual = Golden(
        width=made.model.n_embd,
        heads=made.model.n_head,
        matrices=made.parameters["matrices"],
        batch_tokens=made.batch_tokens,
        steps=made.total_steps,
        device_rows=made.device_batch_size,
        accumulation=made.accumulation,
        matrix_rate=pytest.approx(made.rates.matrix, rel=1e-4),
        embedding_rate=pytest.approx(made.rates.embedding, rel=1e-4),
        decay=pytest.approx(made.rates.weight_decay, rel=1e-3),
        warmup=made.schedule.warmup_steps,
    )
    assert expected == actual


def test_the_speedrun_is_the_overviews() -> None:
    """d26 at ratio 8.25: about 7.6 B tokens in batches of a million, and it fits GPUs of 80 GB."""
    made = make_plan(SPEEDRUN, V, "cuda", 8, memory_limit=80 * 10**9)
    assert made.model.max_seq_len == 2048
    assert made.tokens == pytest.approx(
        8.25 * (made.parameters["matrices"] + made.parameters["head"]), rel=1e-3
    )


@settings(max_examples=8, deadline=None)
@given(
    depth=st.integers(1, 30),
    device=st.sampled_from(["cpu", "cuda", "mps"]),
    world=st.sampled_from([1, 2, 3, 6, 8]),
    vocab=st.sampled_from([512, 4096, 32_768]),
)
def test_neither_batch_nor_horizon_depend_on_the_number_of_processes(
    depth: int, device: str, world: int, vocab: int
) -> None:
    alone = make_plan(Dial(depth), vocab, device)
    assume(alone.batch_tokens // alone.model.max_seq_len >= world)
    made = make_plan(Dial(depth), vocab, device, world)
    rows, remainder = divmod(made.batch_tokens, made.model.max_seq_len)
    assert remainder == 0
    assert (made.batch_tokens, made.total_steps) == (alone.batch_tokens, alone.total_steps)
    assert made.device_batch_size * (made.accumulation - 1) < -(-rows // world)
    assert made.device_batch_size * made.accumulation >= -(-rows // world)
    assert made.total_steps * made.batch_tokens == made.tokens
    assert made.schedule.total_steps == made.total_steps


def test_little_memory_means_smaller_micro_batches_for_the_same_step() -> None:
    roomy, tight = (
        make_plan(Dial(12), V, "cuda", 1),
        make_plan(Dial(12), V, "cuda", 1, memory_limit=16 * 10**9),
    )
    assert tight.device_batch_size < roomy.device_batch_size
    assert tight.batch_tokens == roomy.batch_tokens
    assert tight.memory_bytes <= 16 * 10**9


@pytest.mark.parametrize(
    ("dial", "words"),
    [
        (Dial(4, total_batch_size=1000), "--total-batch-size"),
        (Dial(4, total_batch_size=128), "--total-batch-size"),
        (Dial(4, head_dim=7), "head_dim"),
    ],
)
def test_what_cannot_divide_is_refused(dial: Dial, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_plan(dial, 4096, "cpu")


def test_more_processes_than_rows_are_refused() -> None:
    assert make_plan(Dial(4, total_batch_size=5 * 256), 4096, "cpu", 5).batch_tokens == 5 * 256
    with pytest.raises(ValueError, match="6 processes cannot share a batch of 5 rows"):
        make_plan(Dial(4, total_batch_size=5 * 256), 4096, "cpu", 6)


@given(share=st.integers(1, 2000), limit=st.integers(1, 64))
def test_micro_batches_are_few_and_equal_where_that_costs_little(share: int, limit: int) -> None:
    rows = micro_batch_rows(share, limit)
    assert 1 <= rows <= limit
    assert share % rows == 0 or -(-share // rows) == -(-share // limit)
    assert 2 * rows >= min(share, limit)


@pytest.mark.parametrize(("share", "limit", "rows"), [(64, 32, 32), (64, 20, 16), (86, 32, 29), (7, 32, 7)])
def test_rows_of_a_micro_batch(share: int, limit: int, rows: int) -> None:
    assert micro_batch_rows(share, limit) == rows


def test_a_depth_beyond_every_machine_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="--depth must be at most 256, not 100,000"):
        Dial(100_000)


@pytest.mark.slow
def test_what_cannot_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="smaller depth"):
        make_plan(Dial(40), V, "cuda", 1, memory_limit=24 * 10**9)


@pytest.mark.parametrize("recipe", [QUICKSTART, CPU])
def test_a_small_recipe_trains_the_same_model_on_every_device(recipe: Recipe) -> None:
    """On a GPU the `hopper` regime gave the quickstart rows of 2,048 tokens and 14 points fewer facts."""
    pretrain = next(stage for stage in recipe.stages(ModelNames(), None) if stage.name == "pretrain")
    assert "--regime=cpu" in pretrain.argv
    here, there = (make_plan(Dial(3, regime="cpu"), 2048, device) for device in ("cpu", "cuda"))
    assert here == make_plan(Dial(3), 2048, "cpu") != make_plan(Dial(3), 2048, "cuda")
    assert replace(there, memory_bytes=here.memory_bytes) == here


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_shape_leaves_parts_out_and_changes_nothing_else(device: str) -> None:
    full, servable, portable = (
        make_plan(Dial(4, shape=shape), 4096, device).model for shape in ("full", "servable", "portable")
    )
    assert full == make_plan(Dial(4), 4096, device).model
    assert servable == replace(full, smear=False)
    switches = dict.fromkeys(("value_embeddings", "residual_scales", "smear", "backout"), False)
    assert portable == replace(full, **switches, window_pattern="L", qk_gain=1.0)


def test_a_shape_without_windows_refuses_them() -> None:
    with pytest.raises(ValueError, match="--shape portable has no windows"):
        make_plan(Dial(4, shape="portable", window_pattern="SL"), 4096, "cpu")
    assert make_plan(Dial(4, shape="portable", window_pattern="L"), 4096, "cpu").model.window_pattern == "L"


def test_a_context_without_room_for_a_chat_and_an_empty_pattern_are_refused() -> None:
    with pytest.raises(ValueError, match="--max-seq-len must be at least 8, not 1"):
        Dial(max_seq_len=1)
    with pytest.raises(ValueError, match="window_pattern is a string of S and L, not ''"):
        make_plan(Dial(4, window_pattern=""), 4096, "cpu")
