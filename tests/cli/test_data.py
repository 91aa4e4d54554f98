import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.cli import data
from nanochat.cli.data import InfoConfig, PackConfig, TokensConfig, run_info, run_pack, run_tokens
from nanochat.config import to_json
from nanochat.paths import Paths
from nanochat.text.dataset_tokenizer import tokenizer_folder
from nanochat.text.datasets import documents, open_dataset
from nanochat.tokenizer.tokenizer import Tokenizer


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "own.jsonl"
    lines = [json.dumps({"body": f"Text {number}: ä"}) for number in range(500)]
    path.write_text("\n".join([*lines, json.dumps({"body": ""}), "no json"]))
    return path


def test_info_counts_both_splits(source: Path, paths: Paths) -> None:
    result = run_info(InfoConfig(dataset=str(source), text_column="body", val_fraction=0.2), paths)
    assert result.train.counts.documents + result.val.counts.documents == 500
    assert (result.train.counts.empty, result.train.counts.malformed) == (1, 1)
    assert result.train.counts.characters == sum(
        len(text)
        for text in documents(open_dataset(str(source), paths, text_column="body", val_fraction=0.2), "train")
    )
    assert "20.00%" in result.validation
    json.dumps(to_json(result))


def test_pack_then_tokens(source: Path, paths: Paths, tokenizer: Tokenizer, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    packed = run_pack(
        PackConfig(str(source), out, text_column="body", shard_mb=0.002, val_fraction=0.1), paths
    )
    assert packed.train_shards > 2
    assert packed.counts.documents == 500
    tokenizer.save(tokenizer_folder(str(out), paths))
    result = run_tokens(TokensConfig(dataset=str(out), workers=2), paths)
    train = list(documents(open_dataset(str(out), paths), "train"))
    assert result.shards == packed.train_shards
    assert result.counts.documents == len(train)
    assert result.tokens == sum(len(text.encode()) + 1 for text in train)
    assert result.directory == paths.tokens("shards", tokenizer.hash)
    again = run_tokens(TokensConfig(dataset=str(out)), paths)
    assert {**asdict(again), "seconds": 0} == {**asdict(result), "seconds": 0}


def test_tokens_without_a_tokenizer_names_the_verb(source: Path, paths: Paths) -> None:
    with pytest.raises(ValueError, match="nanochat tokenizer train"):
        run_tokens(TokensConfig(dataset=str(source)), paths)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"shard_mb": 0}, "^--shard-mb must be .*, not 0$"),
        ({"shard_mb": float("inf")}, "^--shard-mb must be .*, not inf$"),
        ({"val_fraction": 2.0}, "^--val-fraction must be above 0 and below 1, not 2$"),
        ({"val_fraction": 0}, "^--val-fraction must be above 0 and below 1, not 0$"),
        ({"seed": -1}, "^--seed must be at least 0, not -1$"),
    ],
)
def test_pack_names_a_setting_that_cannot_be(
    source: Path, paths: Paths, tmp_path: Path, bad: dict, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        run_pack(PackConfig(str(source), tmp_path / "out", **bad), paths)
    assert not (tmp_path / "out").exists()


def test_pack_of_nothing(paths: Paths, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file or folder 'nowhere'"):
        run_pack(PackConfig("nowhere", tmp_path / "out"), paths)


def test_pack_refuses_a_folder_that_a_rerun_would_read_from(paths: Paths, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text(f"the text of {name}")
    inside = PackConfig(str(folder), folder / "packed")
    with pytest.raises(ValueError, match="overlap: choose a folder outside the source"):
        run_pack(inside, paths)
    assert not inside.out.exists()
    run_pack(PackConfig(str(folder / "*.txt"), inside.out), paths)
    shards = [path.read_bytes() for path in sorted(inside.out.glob("shard_*"))]
    with pytest.raises(ValueError, match="overlap"):
        run_pack(PackConfig(str(folder / "**" / "*.*"), inside.out), paths)
    assert [path.read_bytes() for path in sorted(inside.out.glob("shard_*"))] == shards


def test_pack_finds_a_wrong_column_before_it_begins(paths: Paths, tmp_path: Path) -> None:
    for number, column in enumerate(("text", "body")):
        pq.write_table(pa.table({column: ["one", "two"]}), tmp_path / f"{number}.parquet")
    with pytest.raises(ValueError, match=r"1\.parquet has no column 'text'"):
        run_pack(PackConfig(str(tmp_path / "*.parquet"), tmp_path / "out"), paths)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["plain", "größer 世界 🙂"])
def test_info_measures_its_progress_in_bytes_of_the_split(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    shown = []

    @contextmanager
    def watch(description: str, total: float, unit: str) -> Iterator[SimpleNamespace]:
        seen: list[float] = []
        yield SimpleNamespace(update=seen.append)
        shown.append((seen[-1], total))

    monkeypatch.setattr(data, "progress", watch)
    monkeypatch.setattr(data, "_TELL_EVERY", 1)
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": f"{number} " + text * 50}, ensure_ascii=False) for number in range(2000)]
    path.write_text("\n".join(lines), encoding="utf-8")
    run_info(InfoConfig(dataset=str(path), val_fraction=0.2), paths)
    assert [read / total for read, total in shown] == [pytest.approx(1, abs=0.15)] * 2
