import json
from dataclasses import asdict
from pathlib import Path

import pytest

from nanochat.config import to_json
from nanochat.data.datasets import documents, open_dataset
from nanochat.data.stages import InfoConfig, PackConfig, TokensConfig, run_info, run_pack, run_tokens
from nanochat.paths import Paths
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
    tokenizer.save(paths.tokenizers)
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


@pytest.mark.parametrize("bad", [{"shard_mb": 0}, {"val_fraction": 1.0}, {"val_fraction": 0}, {"seed": -1}])
def test_pack_refuses_settings_that_cannot_be(source: Path, paths: Paths, tmp_path: Path, bad: dict) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        run_pack(PackConfig(str(source), tmp_path / "out", **bad), paths)
    assert not (tmp_path / "out").exists()


def test_pack_of_nothing(paths: Paths, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown dataset"):
        run_pack(PackConfig("nowhere", tmp_path / "out"), paths)
