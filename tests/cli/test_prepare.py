"""Mistakes in `data prepare`, without Daft; tests/prepare has the rest."""

import sys
from pathlib import Path

import pytest

from nanochat.cli.main import main
from nanochat.cli.prepare import PrepareConfig, run_prepare
from nanochat.errors import EnvironmentFault
from nanochat.paths import Paths
from nanochat.prepare.quality import RULES


@pytest.fixture
def config(tmp_path: Path) -> PrepareConfig:
    (tmp_path / "a.txt").write_text("some text")
    return PrepareConfig(source=str(tmp_path / "a.txt"), out=tmp_path / "out")


def test_without_daft_one_line_says_what_to_install(
    config: PrepareConfig, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "daft", None)
    with pytest.raises(EnvironmentFault, match=r"^data prepare needs Daft[^\n]+'\.\[prepare\]'`[^\n]*$"):
        run_prepare(config, paths)
    assert not config.out.exists()


def test_an_unknown_rule_is_named(config: PrepareConfig, paths: Paths) -> None:
    wrong = PrepareConfig(source=config.source, out=config.out, skip=("words", "wrods"))
    with pytest.raises(ValueError, match=r"^--skip wrods: no such rule; there are words, .*near-duplicates$"):
        run_prepare(wrong, paths)


def test_the_help_names_every_rule(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["data", "prepare", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"({', '.join(RULES)})" in shown
