"""Stages without flags work one after another; paths hold from every folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nanochat.checkpoint import store
from nanochat.cli.main import main
from nanochat.paths import Paths

pytestmark = pytest.mark.slow

# The sizes alone, so that a test takes seconds; which dataset, tokenizer and run is left to the defaults.
TINY = ("--depth=1", "--total-batch-size=1024", "--compile=off", "--eval-bytes=2000")
TINY_SFT = ("--eval-conversations=4", "--compile=off")


def test_stages_without_flags_follow_one_another_offline(base_dir: Path, monkeypatch, capfd) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["tokenizer", "train"]) == 0
    assert main(["pretrain", *TINY, "--num-iterations=3"]) == 0
    assert main(["sft", *TINY_SFT, "--num-iterations=2"]) == 0
    shown = capfd.readouterr().err
    assert shown.count("dataset builtin: no dataset has been downloaded from the hub") == 2
    assert main(["chat", "-p", "Who are you?", "--max-new-tokens=4"]) == 0
    assert main(["tokenizer", "eval"]) == 0
    assert main(["data", "tokens"]) == 0
    assert main(["data", "info"]) == 0
    assert main(["eval", "base", "--max-bytes=2000"]) == 0
    assert "builtin-small-s0" in capfd.readouterr().err


def test_a_relative_path_names_the_same_text_from_every_folder(
    base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def nanochat(folder: Path, *words: str) -> str:
        """Run a command in a folder; what it printed."""
        monkeypatch.chdir(folder)
        status, printed = main(words), capfd.readouterr().err
        assert status == 0, printed
        return printed

    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere" / "deeper"
    for folder in (here / "texts", here / "held-out", elsewhere):
        folder.mkdir(parents=True)
    for i in range(60):
        (here / "texts" / f"{i}.txt").write_text(
            f"In harbour {i} there are {i * 7} boats and {i % 9} nets. " * 4
        )
    (here / "held-out" / "val.txt").write_text("In harbour 99 there are 3 boats.")
    chats = [{"role": "user", "content": "Boats?"}, {"role": "assistant", "content": "Three."}]
    (here / "chats.jsonl").write_text(f"{json.dumps({'messages': chats})}\n" * 40)

    def text(prefix: str) -> tuple[str, ...]:
        return f"--dataset={prefix}texts", f"--val-path={prefix}held-out"

    def pretrain(prefix: str) -> tuple[str, ...]:
        sizes = ("--max-seq-len=32", "--num-iterations=4", "--save-every=2", "--resume=auto")
        return "pretrain", *text(prefix), *TINY, *sizes

    def sft(prefix: str) -> tuple[str, ...]:
        return (
            "sft",
            f"--mixture={prefix}chats.jsonl*2",
            *TINY_SFT,
            "--num-iterations=4",
            "--save-every=2",
            "--resume=auto",
        )

    away = f"..{os.sep}..{os.sep}here{os.sep}"
    nanochat(here, "tokenizer", "train", *text(""), "--vocab-size=300")
    for tag, command in (("baserun", pretrain), ("sft", sft)):
        nanochat(here, *command(""))
        directory = Paths(base_dir).checkpoints(tag)
        store.remove(directory, 4)
        assert f"resuming {tag} at step 2 of 4" in nanochat(elsewhere, *command(away))
        assert store.latest(directory) == 4
    assert "texts" in nanochat(elsewhere, "eval", "base", "--max-bytes=2000")
    nanochat(elsewhere, "report", "generate")
