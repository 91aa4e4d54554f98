from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice, pairwise
from typing import get_args

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat.batches import token_files
from nanochat.batches.loader import Loader, pretrain_loader, sft_loader
from nanochat.batches.packing import Policy
from nanochat.batches.position import DataPosition
from nanochat.config import from_json, to_json
from nanochat.conversations.rendering import render_conversations
from nanochat.model.loss import IGNORE
from nanochat.paths import Paths
from nanochat.runtime import Runtime
from nanochat.text.datasets import Dataset, open_dataset
from nanochat.tokenizer.chat_format import render
from nanochat.tokenizer.tokenizer import Tokenizer

MakeRuntime = Callable[..., Runtime]
CONTEXT = 32
CONVERSATIONS = [
    {
        "messages": [
            {"role": "user", "content": f"What is {number}?"},
            {"role": "assistant", "content": "A number. " * (number % 5)},
        ]
    }
    for number in range(60)
]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_files, "BATCH_CHARS", 400)
    monkeypatch.setattr(token_files, "PIECE_BATCHES", 2)


@pytest.fixture
def dataset(make_dataset: Callable[..., Dataset]) -> Dataset:
    return make_dataset(
        *([f"{shard}/{number}: " + "text " * (number % 9) for number in range(40)] for shard in range(3))
    )


@pytest.fixture
def open_loader(
    dataset: Dataset, tokenizer: Tokenizer, runtime: MakeRuntime
) -> Iterator[Callable[..., Loader]]:
    """A loader of one kind: a packing policy, or "sft"."""
    opened: list[Loader] = []

    def make(
        kind: str,
        rank: int = 0,
        world: int = 1,
        rows: int = 6,
        micro_rows: int = 6,
        position: DataPosition | None = None,
        seed: int = 5,
    ):
        shared = {
            "step_rows": rows,
            "micro_rows": micro_rows,
            "max_seq_len": CONTEXT,
            "seed": seed,
            "position": position,
        }
        if kind == "sft":
            loader = sft_loader(
                render_conversations(CONVERSATIONS, tokenizer, CONTEXT),
                tokenizer,
                runtime(rank, world),
                **shared,
            )
        else:
            loader = pretrain_loader(dataset, tokenizer, runtime(rank, world), policy=kind, **shared)
        opened.append(loader)
        return loader

    yield make
    for loader in opened:
        loader.close()


KINDS = [*get_args(Policy), "sft"]


def global_batches(loaders: list[Loader], count: int) -> tuple[torch.Tensor, list[DataPosition]]:
    """Rows (inputs beside targets) of `count` global batches, in order, and the position after each."""
    rows, positions = [], []
    for _ in range(count):
        items = [next(loader) for loader in loaders]
        rows += [
            torch.cat([batch.inputs_BT, batch.targets_BT], dim=1) for batches, _ in items for batch in batches
        ]
        assert all(position == items[0][1] for _, position in items)  # each rank's position can resume all
        positions.append(items[0][1])
    return torch.cat(rows), positions


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_depend_on_the_number_of_processes(kind: str, open_loader: Callable[..., Loader]) -> None:
    alone, _ = global_batches([open_loader(kind)], 8)
    for world, micro_rows in ((2, 6), (3, 6), (4, 1), (5, 6), (6, 1)):
        loaders = [open_loader(kind, rank, world, micro_rows=micro_rows) for rank in range(world)]
        together, _ = global_batches(loaders, 8)
        assert torch.equal(alone, together)


def test_the_last_micro_batch_holds_what_is_left(open_loader: Callable[..., Loader]) -> None:
    shapes = [
        [len(batch.inputs_BT) for batch in next(open_loader("contiguous", rank, 3, 17, micro_rows=4))[0]]
        for rank in range(3)
    ]
    assert shapes == [[4, 1], [4, 2], [4, 2]]
    assert open_loader("contiguous", 0, 3, 17).step_tokens == 17 * CONTEXT


@pytest.mark.slow
@given(
    kind=st.sampled_from(KINDS),
    stop=st.integers(0, 18),
    before=st.sampled_from([1, 2, 4, 6]),
    after=st.sampled_from([1, 2, 4, 6]),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_resumes_at_any_step_on_any_number_of_processes(
    kind: str, stop: int, before: int, after: int, open_loader: Callable[..., Loader]
) -> None:
    rows, positions = global_batches([open_loader(kind, rank, before) for rank in range(before)], 20)
    position = from_json(DataPosition, to_json(positions[stop]))
    loaders = [open_loader(kind, rank, after, micro_rows=2, position=position) for rank in range(after)]
    again, later = global_batches(loaders, 19 - stop)
    assert torch.equal(again, rows[6 * (stop + 1) :])
    assert later == positions[stop + 1 :]


def test_batches_are_contiguous_int64_on_the_device(
    open_loader: Callable[..., Loader], tokenizer: Tokenizer
) -> None:
    [batch], _ = next(open_loader("contiguous"))
    for tensor in (batch.inputs_BT, batch.targets_BT):
        assert tensor.shape == (6, CONTEXT)
        assert tensor.dtype == torch.int64
        assert tensor.is_contiguous()
        assert 0 <= tensor.min()
        assert tensor.max() < tokenizer.vocab_size


def test_contiguous_rows_spell_the_documents(
    open_loader: Callable[..., Loader], dataset: Dataset, tokenizer: Tokenizer
) -> None:
    loader = open_loader("contiguous", rows=1)
    stream: list[int] = []
    while (report := loader.report()).epochs < 1.2:
        stream += next(loader)[0][0].inputs_BT.ravel().tolist()
    assert (report.cropped, report.padded) == (0, 0)
    assert report.used == len(stream)
    starts = [i for i, token in enumerate(stream) if token == tokenizer.bos]
    texts = [tokenizer.decode(stream[a + 1 : b]) for a, b in pairwise(starts)]
    expected = {f"{shard}/{number}: " + "text " * (number % 9) for shard in range(3) for number in range(40)}
    assert set(texts) == expected
    assert set(texts[: len(expected)]) == expected  # an epoch contains every document once


def test_files_added_at_the_end_do_not_disturb_a_resumed_run(
    open_loader: Callable[..., Loader],
    dataset: Dataset,
    make_dataset: Callable[..., Dataset],
    tokenizer: Tokenizer,
    runtime: MakeRuntime,
) -> None:
    rows, positions = global_batches([open_loader("bestfit-crop")], 4)
    more = make_dataset(["a later shard"] * 9, name="more")
    grown = replace(dataset, train=(*dataset.train, *more.train))
    loader = pretrain_loader(
        grown,
        tokenizer,
        runtime(),
        step_rows=6,
        micro_rows=6,
        max_seq_len=CONTEXT,
        seed=5,
        position=positions[1],
    )
    again, _ = global_batches([loader], 2)
    loader.close()
    assert torch.equal(again, rows[12:])


@pytest.mark.parametrize(
    ("change", "message"),
    [({"seed": 6}, "seed was 5 and is now 6"), ({"kind": "bestfit-crop"}, "policy was 'contiguous'")],
)
def test_a_position_of_another_order_is_refused(
    open_loader: Callable[..., Loader], change: dict, message: str
) -> None:
    _, position = next(open_loader("contiguous"))
    with pytest.raises(ValueError, match=message):
        open_loader(**{"kind": "contiguous", "position": position, **change})


def test_a_position_of_other_text_is_refused(
    open_loader: Callable[..., Loader],
    make_dataset: Callable[..., Dataset],
    tokenizer: Tokenizer,
    runtime: MakeRuntime,
) -> None:
    _, position = next(open_loader("bestfit-crop"))
    other = make_dataset(["other"] * 9, ["text"] * 9, ["here"] * 9, name="other")
    with pytest.raises(ValueError, match="cannot resume the data stream: data was"):
        pretrain_loader(
            other,
            tokenizer,
            runtime(),
            step_rows=6,
            micro_rows=6,
            max_seq_len=CONTEXT,
            seed=5,
            position=position,
        )


def test_an_empty_dataset_raises_at_the_first_batch_and_at_every_later_one(
    make_dataset: Callable[..., Dataset], tokenizer: Tokenizer, runtime: MakeRuntime
) -> None:
    empty = make_dataset(["", " "])
    loader = pretrain_loader(
        empty, tokenizer, runtime(), step_rows=1, micro_rows=1, max_seq_len=CONTEXT, seed=0
    )
    for _ in range(2):
        with pytest.raises(ValueError, match="no document"):
            next(loader)
    loader.close()


def test_less_text_than_a_row_is_repeated_or_padded(
    make_dataset: Callable[..., Dataset], tokenizer: Tokenizer, runtime: MakeRuntime
) -> None:
    tiny = make_dataset(["abc"])
    for policy in get_args(Policy):
        loader = pretrain_loader(
            tiny, tokenizer, runtime(), step_rows=2, micro_rows=2, max_seq_len=9, policy=policy, seed=0
        )
        [batch], _ = next(loader)
        assert batch.inputs_BT.shape == (2, 9)
        assert (batch.targets_BT != IGNORE).any(dim=1).all()
        loader.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_reach_every_gpu_as_they_were_made(
    open_loader: Callable[..., Loader], dataset: Dataset, tokenizer: Tokenizer, runtime: MakeRuntime
) -> None:
    for number in range(torch.cuda.device_count()):
        device = torch.device("cuda", number)
        there = replace(runtime(), device=device)
        loader = pretrain_loader(
            dataset,
            tokenizer,
            there,
            step_rows=6,
            micro_rows=6,
            max_seq_len=CONTEXT,
            seed=5,
            policy="contiguous",
        )
        on_gpu = [next(loader)[0][0] for _ in range(20)]  # more than are prefetched: pinned memory is reused
        for batch, ([expected], _) in zip(on_gpu, open_loader("contiguous"), strict=False):
            assert batch.inputs_BT.device == batch.targets_BT.device == device
            assert torch.equal(batch.inputs_BT.cpu(), expected.inputs_BT)
            assert torch.equal(batch.targets_BT.cpu(), expected.targets_BT)
        loader.close()


def test_a_loader_can_be_closed_at_any_time(open_loader: Callable[..., Loader]) -> None:
    for kind in KINDS:
        open_loader(kind).close()  # before the first batch
        loader = open_loader(kind)
        next(loader)
        loader.close()
        loader.close()
        assert not loader._thread.is_alive()


def test_sft_targets_are_what_the_assistant_writes(
    open_loader: Callable[..., Loader], tokenizer: Tokenizer
) -> None:
    loader = open_loader("sft", rows=1)
    assert loader.rows_per_epoch is not None
    supervised: list[int] = []
    for [batch], _ in islice(loader, loader.rows_per_epoch):
        assert (batch.inputs_BT[:, 0] == tokenizer.bos).all()
        assert (batch.targets_BT != IGNORE).any(dim=1).all()
        supervised += batch.targets_BT[batch.targets_BT != IGNORE].tolist()
    expected: list[int] = []
    for conversation in CONVERSATIONS:
        ids, mask = render(tokenizer, conversation)
        expected += [t for t, learn in list(zip(ids, mask, strict=True))[: CONTEXT + 1] if learn]
    assert sorted(supervised) == sorted(expected)
    assert loader.report().epochs == 1


def test_sft_passes_over_what_teaches_nothing_and_says_so(
    tokenizer: Tokenizer, runtime: MakeRuntime, capsys: pytest.CaptureFixture[str]
) -> None:
    long_question = {
        "messages": [{"role": "user", "content": "?" * 99}, {"role": "assistant", "content": "!"}],
    }
    settings = {"step_rows": 1, "micro_rows": 1, "max_seq_len": CONTEXT, "seed": 0}
    loader = sft_loader(
        render_conversations([*CONVERSATIONS, long_question], tokenizer, CONTEXT),
        tokenizer,
        runtime(),
        **settings,
    )
    same = sft_loader(
        render_conversations(CONVERSATIONS, tokenizer, CONTEXT), tokenizer, runtime(), **settings
    )
    assert loader.rows_per_epoch == same.rows_per_epoch
    loader.close()
    same.close()
    with pytest.raises(ValueError, match="no conversation has anything to learn within 32 tokens"):
        sft_loader(
            render_conversations([long_question], tokenizer, CONTEXT), tokenizer, runtime(), **settings
        )


def test_sft_at_a_short_context_still_has_a_target_in_every_row(
    tokenizer: Tokenizer, runtime: MakeRuntime
) -> None:
    loader = sft_loader(
        render_conversations(CONVERSATIONS, tokenizer, 18),
        tokenizer,
        runtime(),
        step_rows=4,
        micro_rows=4,
        max_seq_len=18,
        seed=0,
    )
    assert loader.rows_per_epoch is not None
    for [batch], _ in islice(loader, -(-loader.rows_per_epoch // 4)):
        assert (batch.targets_BT != IGNORE).any(dim=1).all()
    loader.close()


@pytest.mark.slow
def test_the_first_batch_of_builtin(paths: Paths, tokenizer: Tokenizer, runtime: MakeRuntime) -> None:
    dataset = open_dataset("builtin", paths)
    loader = pretrain_loader(dataset, tokenizer, runtime(), step_rows=2, micro_rows=2, max_seq_len=64, seed=0)
    [batch], _ = next(loader)
    assert tokenizer.bos in batch.inputs_BT
    loader.close()
