import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from nanochat.batches import token_files
from nanochat.batches.rows import TokenWindows
from nanochat.batches.token_cache import TokenStore, open_tokens
from nanochat.errors import EnvironmentFault
from nanochat.paths import Paths
from nanochat.text.dataset_tokenizer import tokenizer_folder
from nanochat.text.datasets import Dataset, documents, open_dataset, split_bytes
from nanochat.text.shards import write_shard
from nanochat.tokenizer.tokenizer import Tokenizer, token_dtype

SHARDS = (
    [f"first shard, document {number}: {'x' * (number % 7)}" for number in range(100)],
    [f"zweites Stück, Dokument {number}" for number in range(50)],
    ["validation"],
)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_files, "BATCH_CHARS", 400)
    monkeypatch.setattr(token_files, "PIECE_BATCHES", 3)


@pytest.fixture
def dataset(make_dataset: Callable[..., Dataset]) -> Dataset:
    made = make_dataset(*SHARDS)
    return replace(made, train=made.train[:-1])


def read(store: TokenStore, tokenizer: Tokenizer, pieces: int = 2) -> list[list[str]]:
    """Every document of every shard, decoded. Asserts that each starts with BOS and shards have at least `pieces`."""
    shards = []
    for shard in range(len(store)):
        shards.append([])
        index = 0
        while (piece := store.piece(shard, index)) is not None:
            for begin, end in zip(piece.offsets[:-1], piece.offsets[1:], strict=True):
                bos, *ids = piece.tokens[begin:end].tolist()
                assert bos == tokenizer.bos
                shards[-1].append(tokenizer.decode(ids))
            index += 1
        assert index >= pieces
    return shards


def files(paths: Paths, dataset: Dataset, tokenizer: Tokenizer, ending: str) -> list[Path]:
    return sorted(paths.tokens(dataset.name, tokenizer.hash).glob(f"*{ending}"))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_cache_made_on_demand_holds_every_document(
    dataset: Dataset, tokenizer: Tokenizer, paths: Paths, workers: int
) -> None:
    store = open_tokens(dataset, tokenizer, paths, workers=workers)
    assert not paths.tokens(dataset.name, tokenizer.hash).exists()
    assert read(store, tokenizer) == list(map(list, SHARDS[:-1]))
    info = store.info(0)
    assert info is not None
    assert info.counts.documents == 100
    assert info.tokens == sum(len(text.encode()) + 1 for text in SHARDS[0])
    store.close()


def test_a_cache_made_ahead_is_the_same_and_is_made_once(
    dataset: Dataset, tokenizer: Tokenizer, paths: Paths
) -> None:
    heard: list[float] = []
    store = open_tokens(dataset, tokenizer, paths, workers=2)
    infos = store.make_all(heard.append)
    assert heard == sorted(heard)
    text = sum(len(text.encode()) for shard in SHARDS[:-1] for text in shard)
    assert heard[-1] == split_bytes(dataset, "train") == pytest.approx(text, rel=0.3)

    def written() -> dict:
        made = files(paths, dataset, tokenizer, "")
        return {path: path.stat().st_mtime_ns for path in made if path.suffix != ".lock"}

    before = written()
    again = open_tokens(dataset, tokenizer, paths)
    assert again.make_all() == infos
    assert read(again, tokenizer) == list(map(list, SHARDS[:-1]))
    assert before == written()
    assert not files(paths, dataset, tokenizer, ".tmp")


def test_what_is_held_out_is_not_in_the_cache(tokenizer: Tokenizer, paths: Paths, tmp_path: Path) -> None:
    source = tmp_path / "all.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in SHARDS[0]))
    dataset = open_dataset(str(source), paths, val_fraction=0.3)
    store = open_tokens(dataset, tokenizer, paths)
    store.make_all()
    (cached,) = read(store, tokenizer, pieces=1)
    assert cached == list(documents(dataset, "train"))
    assert len(cached) == 100 - len(list(documents(dataset, "val"))) < 100


@pytest.mark.parametrize(("held_out", "key"), [(0.0, "a4d0bacc7cd257bc"), (0.3, "f10ad93706b303e0")])
def test_existing_caches_stay_valid(
    tokenizer: Tokenizer, paths: Paths, tmp_path: Path, held_out: float, key: str
) -> None:
    source = tmp_path / "all.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in SHARDS[0]))
    dataset = Dataset("own", (source,), (), held_out=held_out)
    open_tokens(dataset, tokenizer, paths).make_all()
    assert [path.name for path in files(paths, dataset, tokenizer, ".json")] == [f"all-{key}.json"]


@pytest.mark.parametrize("damage", ["torn bin", "torn idx", "no bin", "no idx", "empty idx", "torn json"])
def test_damaged_files_are_made_again(
    dataset: Dataset, tokenizer: Tokenizer, paths: Paths, damage: str
) -> None:
    open_tokens(dataset, tokenizer, paths).make_all()
    how, kind = damage.split()
    victim = files(paths, dataset, tokenizer, f".{kind}")[0]
    if how == "no":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[: -3 if how == "torn" else 0])
    store = open_tokens(dataset, tokenizer, paths)
    assert read(store, tokenizer) == list(map(list, SHARDS[:-1]))
    store.close()
    assert open_tokens(dataset, tokenizer, paths).make_all()[0].counts.documents == 100


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_changed_text_is_tokenised_again(
    tokenizer: Tokenizer, paths: Paths, tmp_path: Path, ending: str
) -> None:
    """Also if size and statistics are unchanged."""
    source = tmp_path / f"own.{ending}"
    own = Dataset("own", (source,), ())
    for text in ("a cat sat", "a bat sat"):
        table = pa.table({"text": ["0 smallest", text, "z largest"]})
        if ending == "parquet":
            pq.write_table(table, source, compression="none", use_dictionary=False)
        else:
            source.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
        store = open_tokens(own, tokenizer, paths)
        assert read(store, tokenizer, pieces=1) == [table["text"].to_pylist()]
        store.close()


def test_equal_bytes_in_another_format_are_tokenised_again(
    tokenizer: Tokenizer, paths: Paths, tmp_path: Path
) -> None:
    line = json.dumps({"text": "a cat sat"})
    for name, text in {"a.txt": line, "a.jsonl": "a cat sat"}.items():
        (tmp_path / name).write_text(line)
        store = open_tokens(Dataset("own", (tmp_path / name,), ()), tokenizer, paths)
        assert read(store, tokenizer, pieces=1) == [[text]]
        store.close()


def test_a_name_that_is_not_utf8(tokenizer: Tokenizer, paths: Paths, tmp_path: Path) -> None:
    source = tmp_path / os.fsdecode(b"caf\xe9.txt")
    source.write_text("a cat sat")
    store = open_tokens(Dataset("own", (source,), ()), tokenizer, paths)
    assert read(store, tokenizer, pieces=1) == [["a cat sat"]]
    store.close()


@pytest.mark.parametrize("longest", ["-and-so-on" * 22, "文" * 80], ids=["ASCII", "Chinese"])
def test_small_text_files_share_a_shard(
    tokenizer: Tokenizer, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: str
) -> None:
    names = [f"{number:02d}{longest * (number == 0)}.txt" for number in range(20)]
    for name in names:
        (tmp_path / name).write_text(f"the text of {name}")
    sources = tuple(tmp_path / name for name in names)
    together = open_tokens(Dataset("own", sources, ()), tokenizer, paths)
    assert len(together) == 1
    assert read(together, tokenizer, pieces=1) == [[f"the text of {name}" for name in names]]
    together.close()
    (tmp_path / names[7]).write_text("changed")
    again = open_tokens(Dataset("own", sources, ()), tokenizer, paths)
    assert read(again, tokenizer, pieces=1)[0][7] == "changed"
    again.close()


@given(sizes=st.lists(st.tuples(st.sampled_from(["txt", "md", "jsonl"]), st.integers(0, 9)), max_size=12))
def test_groups_keep_the_order_and_the_bound(
    sizes: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("sizes")
    sources = [folder / f"{number:02d}.{ending}" for number, (ending, _) in enumerate(sizes)]
    for source, (_, size) in zip(sources, sizes, strict=True):
        source.write_bytes(b"x" * size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_files, "GROUP_BYTES", 10)
        groups = list(token_files.grouped(sources))
    assert [source for group in groups for source in group] == sources
    for group in groups:
        if len(group) > 1:
            assert sum(source.stat().st_size for source in group) <= 10
            assert all(source.suffix != ".jsonl" for source in group)
    for one, following in pairwise(groups):  # nothing is left apart that would have fitted
        texts = all(source.suffix != ".jsonl" for source in (*one, following[0]))
        assert not texts or sum(source.stat().st_size for source in (*one, following[0])) > 10


def test_damage_in_the_middle_of_a_file_costs_only_the_rest_of_it(
    dataset: Dataset, tokenizer: Tokenizer, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = [f"document {number}" for number in range(2000)]
    write_shard(dataset.train[0], documents)
    data = bytearray(dataset.train[0].read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)  # within a compressed page
    dataset.train[0].write_bytes(data)
    store = open_tokens(dataset, tokenizer, paths)
    first, second = read(store, tokenizer)
    assert first == documents[: len(first)]
    assert 0 < len(first) < len(documents)
    assert second == SHARDS[1]
    assert f"{dataset.train[0]} is damaged" in " ".join(capsys.readouterr().err.split())
    store.close()
    infos = open_tokens(dataset, tokenizer, paths).make_all()
    assert [info.counts.damaged for info in infos] == [1, 0]


def test_an_interrupted_shard_resumes_after_its_last_piece(
    dataset: Dataset, tokenizer: Tokenizer, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Exception):  # noqa: N818
        pass

    def interrupt(read: float) -> None:
        if read > 2500:
            raise Interrupted

    with pytest.raises(Interrupted):
        open_tokens(dataset, tokenizer, paths).make_all(interrupt)
    finished = {path: path.stat().st_mtime_ns for path in files(paths, dataset, tokenizer, ".bin")}
    assert finished
    assert not files(paths, dataset, tokenizer, ".json")
    store = open_tokens(dataset, tokenizer, paths)
    store.make_all()
    assert read(store, tokenizer) == list(map(list, SHARDS[:-1]))
    assert (
        finished.items()
        <= {p: p.stat().st_mtime_ns for p in files(paths, dataset, tokenizer, ".bin")}.items()
    )


def test_a_shard_made_by_another_process_is_read_as_it_appears(
    dataset: Dataset, tokenizer: Tokenizer, paths: Paths
) -> None:
    waiting = open_tokens(dataset, tokenizer, paths)
    lock = FileLock(waiting._shards[0].lock)
    lock.lock_file  # noqa: B018 - the path exists only once the folder does
    waiting._shards[0].lock.parent.mkdir(parents=True)
    with lock:
        waiting.expect([0, 1], 0)
        assert waiting.piece(1, 0) is not None  # not locked: made here meanwhile
        assert waiting.info(0) is None
        maker = open_tokens(dataset, tokenizer, paths)
        maker._shards[0].make(maker._encoder.map, lambda characters: None)
        assert waiting.piece(0, 0) is not None
    waiting.close()


def test_an_error_of_the_background_thread_reaches_the_reader(
    dataset: Dataset, tokenizer: Tokenizer, paths: Paths
) -> None:
    folder = paths.tokens(dataset.name, tokenizer.hash)
    folder.parent.mkdir(parents=True)
    folder.write_text("a file in the way")
    store = open_tokens(dataset, tokenizer, paths)
    with pytest.raises((EnvironmentFault, NotADirectoryError)):
        store.piece(0, 0)
    store.close()


def test_a_shard_without_documents_has_no_pieces(
    tokenizer: Tokenizer, paths: Paths, make_dataset: Callable[..., Dataset]
) -> None:
    store = open_tokens(make_dataset(["", "  "]), tokenizer, paths)
    assert store.piece(0, 0) is None
    info = store.info(0)
    assert info is not None
    assert (info.pieces, info.tokens, info.counts.empty) == (0, 0, 2)
    assert TokenWindows(store, tokenizer.bos, 8, "contiguous", 0).epochs((0, 0, 0), 0) == 0
    store.close()


def test_a_large_vocabulary_takes_uint32(paths: Paths, make_dataset: Callable[..., Dataset]) -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    ranks |= {
        bytes([first, second]): 256 + 256 * first + second for first in range(256) for second in range(256)
    }
    large = Tokenizer(ranks, r"[\s\S][\s\S]?")
    assert large.bos > np.iinfo(np.uint16).max
    store = open_tokens(make_dataset(["zzyx"]), large, paths)
    piece = store.piece(0, 0)
    assert piece is not None
    assert piece.tokens.dtype == np.uint32
    assert piece.tokens.tolist() == [large.bos, *large.encode("zzyx")]
    store.close()


def test_uint16_holds_vocabularies_up_to_65536() -> None:
    assert token_dtype(65536) == np.uint16
    assert token_dtype(65537) == np.uint32


@pytest.mark.slow
def test_a_shard_of_a_killed_process_is_finished_by_another(
    dataset: Dataset, tokenizer: Tokenizer, paths: Paths
) -> None:
    """Another process makes its first piece and is killed while it holds the shard's lock."""
    script = """
import sys, time
from pathlib import Path
from nanochat.batches import token_files
from nanochat.text.dataset_tokenizer import tokenizer_folder
from nanochat.text.datasets import Dataset
from nanochat.batches.token_cache import open_tokens
from nanochat.paths import Paths
from nanochat.tokenizer.tokenizer import load_tokenizer

token_files.BATCH_CHARS, token_files.PIECE_BATCHES = 400, 3
base, tokenizer, name, *files = sys.argv[1:]
dataset = Dataset(name, tuple(map(Path, files)), ())
store = open_tokens(dataset, load_tokenizer(Path(tokenizer)), Paths(Path(base)))
store.make_all(lambda characters: time.sleep(600) if characters > 1600 else None)
"""
    saved = tokenizer.save(paths.tokenizers)
    arguments = [str(paths.base), str(saved), dataset.name, *map(str, dataset.train)]
    other = subprocess.Popen([sys.executable, "-c", script, *arguments])
    try:
        store = open_tokens(dataset, tokenizer, paths)
        folder = paths.tokens(dataset.name, tokenizer.hash)
        deadline = time.monotonic() + 60
        while not list(folder.glob("*.0000.idx")):
            assert other.poll() is None
            assert time.monotonic() < deadline, "timed out"
            time.sleep(0.01)
        store.expect([0], 0)
        assert store.piece(0, 0) is not None  # read while the other one has the lock
        assert store.info(0) is None
    finally:
        other.kill()
        other.wait()
    assert read(store, tokenizer) == list(map(list, SHARDS[:-1]))
    store.close()


@pytest.mark.slow
def test_an_interrupt_ends_the_wait_for_another_process(
    dataset: Dataset, tokenizer: Tokenizer, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # that process has pieces of the usual size
    source = str(dataset.train[0])
    tokenizer.save(tokenizer_folder(source, paths))
    own = open_dataset(source, paths)
    store = open_tokens(own, tokenizer, paths)
    store._shards[0].lock.parent.mkdir(parents=True)
    command = [sys.executable, "-m", "nanochat", "data", "tokens", "--dataset", source]
    environment = {**os.environ, "NANOCHAT_BASE_DIR": str(paths.base)}
    with (
        FileLock(store._shards[0].lock),
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as waiting,
    ):
        assert waiting.stderr is not None
        lines = iter(waiting.stderr.readline, "")
        assert any("another process is tokenising" in line for line in lines)
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(timeout=30) == 130
    assert store.info(0) is None
