"""Every mistake gives one clear line and the right exit status, and leaves no partial files."""

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.checkpoint import store
from nanochat.cli.main import main
from nanochat.paths import default_paths
from nanochat.text.dataset_tokenizer import tokenizer_folder
from nanochat.tokenizer.bpe import train_tokenizer

pytestmark = pytest.mark.slow

TEXT = [
    f"The {i}th of many documents tells of {i} boats and {i * 7} nets in harbour {i % 9}." for i in range(300)
]
TINY = (
    *("pretrain", "--depth=1", "--max-seq-len=32", "--head-dim=32", "--total-batch-size=256"),
    *("--num-iterations=2", "--eval-bytes=2000", "--compile=off", "--device=cpu"),
)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for i, text in enumerate(TEXT):
        (folder / f"{i}.txt").write_text(text)
    train_tokenizer(TEXT, 320, max_chars=10**6).save(tokenizer_folder(str(folder), default_paths()))
    return folder


def complaint(capsys: pytest.CaptureFixture, arguments: list[str], status: int) -> str:
    """The last line that a failing command prints."""
    capsys.readouterr()
    assert main(arguments) == status
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("nanochat: error: ")
    assert sum(line.startswith("nanochat: error: ") for line in lines) == 1
    return lines[-1]


def left_behind() -> list[Path]:
    return [
        path for path in default_paths().base.rglob("*") if "checkpoints" in path.parts and path.is_file()
    ]


def test_unknown_dataset(corpus: Path, capsys: pytest.CaptureFixture) -> None:
    line = complaint(capsys, [*TINY, "--dataset=no-such"], 2)
    assert "no-such" in line
    assert "fineweb-edu" in line


def test_empty_folder(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in complaint(capsys, [*TINY, f"--dataset={tmp_path / 'empty'}"], 2)


def test_parquet_without_the_column(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pq.write_table(pa.table({"content": TEXT}), tmp_path / "wrong.parquet")
    flags = [f"--dataset={tmp_path / 'wrong.parquet'}", f"--tokenizer={corpus}"]
    line = complaint(capsys, [*TINY, *flags], 2)
    assert "--text-column" in line
    assert "content" in line


@pytest.mark.parametrize(
    ("flag", "word"),
    [
        ("--depth=0", "--depth"),
        ("--total-batch-size=100", "--total-batch-size"),
        ("--device-batch-size=0", "--device-batch-size"),
        ("--head-dim=7", "head_dim"),
        ("--window-pattern=XY", "window_pattern"),
        ("--vocab-size=999", "tokenizer train"),
        ("--fp8", "--fp8"),
    ],
)
def test_sizes_that_cannot_be(corpus: Path, capsys: pytest.CaptureFixture, flag: str, word: str) -> None:
    assert word in complaint(capsys, [*TINY, f"--dataset={corpus}", flag], 2)
    assert not left_behind()


def test_missing_tokenizer(corpus: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.rmtree(default_paths().tokenizers)
    assert "nanochat tokenizer train" in complaint(capsys, [*TINY, f"--dataset={corpus}"], 2)


def test_missing_model(capsys: pytest.CaptureFixture) -> None:
    for verb in (["sft"], ["eval", "base"], ["eval", "chat"], ["chat", "-p", "hello"]):
        assert "nanochat run quickstart" in complaint(capsys, [*verb, "--device=cpu"], 2)


def test_checkpoints_of_other_shapes_torn_ones_and_prompts_too_long(
    corpus: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main([*TINY, f"--dataset={corpus}"]) == 0
    before = sorted(left_behind())
    assert "--resume auto" in complaint(capsys, [*TINY, f"--dataset={corpus}"], 2)
    assert "--model-tag" in complaint(capsys, [*TINY, f"--dataset={corpus}", "--resume=auto", "--depth=2"], 2)
    chat = ["chat", "--model-tag=baserun", "--device=cpu", "-p"]
    assert "shorten" in complaint(capsys, [*chat, "many words " * 50], 2)
    assert sorted(left_behind()) == before

    model = store.file_of(default_paths().checkpoints("baserun"), 2, "model")
    model.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    assert "is complete: restore" in complaint(capsys, [*TINY, f"--dataset={corpus}", "--resume=auto"], 1)
    assert "is complete: restore" in complaint(capsys, [*chat, "hello"], 1)


def test_a_place_that_cannot_be_written(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    checkpoints = default_paths().base / "checkpoints"
    checkpoints.write_text("a file where a folder should be")
    assert "checkpoints" in complaint(capsys, [*TINY, f"--dataset={corpus}"], 1)


def test_a_full_disk(corpus: Path) -> None:
    """A limit on file sizes stands in for the disk: the token cache fits, a checkpoint does not."""
    done = subprocess.run(
        [sys.executable, "-m", "nanochat", *TINY, f"--dataset={corpus}"],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000)),
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("nanochat: error: ")
    assert "Traceback" not in done.stderr
    assert not [path for path in left_behind() if path.name.startswith("step_")]
