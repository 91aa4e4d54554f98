"""`nanochat tokenizer train` and `eval` from the command line."""

import json
from pathlib import Path

import pytest

from nanochat.config import to_json
from nanochat.eval.compression import TokenizerEvalConfig
from nanochat.eval.compression import run as run_eval
from nanochat.metrics import read_metrics
from nanochat.metrics_rows import CompressionRow, ConfigRow, DoneRow, TokenizerRow
from nanochat.paths import Paths
from nanochat.text.dataset_tokenizer import find_tokenizer, tokenizer_folder
from nanochat.tokenizer.tokenizer import load_tokenizer
from nanochat.train.vocabulary import TokenizerTrainConfig
from nanochat.train.vocabulary import run as run_train


@pytest.fixture
def paths(base_dir: Path) -> Paths:
    return Paths(base_dir)


@pytest.fixture
def text(tmp_path: Path) -> str:
    folder = tmp_path / "text"
    folder.mkdir()
    rows = [{"text": f"Document {i} tells of the cat and the {i * 7} dogs it met."} for i in range(40)]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "b.jsonl").write_text(json.dumps({"text": "The dogs met the cat."}) + "\n")
    return str(folder)


def test_train_saves_and_logs(paths: Paths, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = TokenizerTrainConfig(dataset=text, vocab_size=300)
    result = run_train(config, paths)
    path = find_tokenizer(text, paths)
    assert path == tokenizer_folder(text, paths) / "tok300.tiktoken"
    tokenizer = load_tokenizer(path)
    assert (result.path, result.hash, result.vocab_size) == (path, tokenizer.hash, 300)
    assert result.documents == 40
    held_out = "The dogs met the cat."
    assert result.bytes_per_token == len(held_out) / len(tokenizer.encode(held_out))
    logged = read_metrics(paths.metrics("tokenizer"))
    assert {entry.stage for entry in logged} == {"tokenizer"}
    settings, trained, done = (entry.row for entry in logged)
    assert settings == ConfigRow(to_json(config))
    assert trained == TokenizerRow(**to_json(result))
    assert isinstance(done, DoneRow)
    assert done.peak_rss_bytes is not None
    assert done.peak_rss_bytes > 2**20
    output = capsys.readouterr()
    assert output.out == ""
    assert tokenizer.hash in output.err


def test_training_again_gives_the_same_tokenizer(paths: Paths, text: str) -> None:
    config = TokenizerTrainConfig(dataset=text, vocab_size=300, split_pattern="marks")
    assert run_train(config, paths).hash == run_train(config, paths).hash
    assert len(read_metrics(paths.metrics("tokenizer"))) == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"vocab_size": 100}, "too small"),
        ({"split_pattern": "x"}, "unknown split pattern 'x'"),
        ({"max_chars": 0}, "--max-chars 0 must lie between"),
        ({"dataset": "nothing-here"}, "unknown dataset 'nothing-here'"),
        ({"vocab_size": 60_000}, "--vocab-size"),
    ],
)
def test_mistakes_leave_nothing_behind(paths: Paths, text: str, wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_train(TokenizerTrainConfig(**{"dataset": text, "vocab_size": 300, **wrong}), paths)
    assert not paths.tokenizers.exists()


def test_settings_are_checked_before_the_dataset_is_touched(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="too small"):
        run_train(TokenizerTrainConfig(dataset="nothing-here", vocab_size=100), paths)
    monkeypatch.setenv("NANOCHAT_TRACK", "nothing")
    for run, config in ((run_train, TokenizerTrainConfig), (run_eval, TokenizerEvalConfig)):
        with pytest.raises(ValueError, match="NANOCHAT_TRACK"):
            run(config(dataset="nothing-here"), paths)


def test_eval_prints_and_logs(
    paths: Paths,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "empty"))
    run_train(TokenizerTrainConfig(dataset=text, vocab_size=300), paths)
    result = run_eval(TokenizerEvalConfig(dataset=text), paths)
    assert result.comparison.bytes["validation text"] == len("The dogs met the cat.")
    assert result.vocab_size == 300
    output = capsys.readouterr()
    assert output.out == ""
    assert "skipped GPT-2 and GPT-4" in output.err
    assert "arithmetic" in output.err
    newest = read_metrics(paths.metrics("tokenizer"))[-1]
    assert newest.stage == "tokenizer-eval"
    assert isinstance(newest.row, CompressionRow)
    assert newest.row.hash == result.hash
    assert to_json(newest.row.tokenizers) == to_json(result.comparison.tokenizers)
    assert newest.row.tokenizers[0].bytes_per_token["Korean"] >= 1


def test_eval_without_a_tokenizer_says_what_to_do(paths: Paths) -> None:
    with pytest.raises(ValueError, match="nanochat tokenizer train"):
        run_eval(TokenizerEvalConfig(), paths)
