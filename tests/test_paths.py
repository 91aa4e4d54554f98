"""Every artefact is below the base directory, and asking for a path creates nothing."""

from pathlib import Path

import pytest

from nanochat.paths import Paths, default_paths, expanded, is_run


def test_the_variable_names_the_base(base_dir: Path):
    assert default_paths().base == base_dir
    assert not base_dir.exists()


@pytest.mark.parametrize("value", ["", None])
def test_without_the_variable_the_cache_of_the_user_is_the_base(
    monkeypatch, tmp_path: Path, value: str | None
):
    monkeypatch.setenv("HOME", str(tmp_path))
    if value is None:
        monkeypatch.delenv("NANOCHAT_BASE_DIR")
    else:
        monkeypatch.setenv("NANOCHAT_BASE_DIR", value)
    assert default_paths().base == tmp_path / ".cache" / "nanochat"


def test_a_relative_base_does_not_move_with_the_working_directory(monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", "here")
    assert default_paths().base == tmp_path / "here"


def test_the_home_of_an_unknown_user_stays_as_it_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert expanded("~/x") == expanded(Path("~/x")) == Path("/home/ada/x")
    assert expanded("~no-such-user/x") == Path("~no-such-user/x")


def test_the_layout():
    paths = Paths(Path("/base"))
    assert paths.data("fineweb-edu") == Path("/base/data/fineweb-edu")
    assert paths.tokens("builtin", "0123abcd") == Path("/base/tokens/builtin-0123abcd")
    assert paths.tokenizers_of("builtin-small-s0") == Path("/base/tokenizers/builtin-small-s0")
    assert paths.checkpoints("baserun") == Path("/base/checkpoints/baserun")
    assert paths.metrics("sft") == Path("/base/runs/sft/metrics.jsonl")
    assert paths.chat("boats") == Path("/base/chats/boats.jsonl")
    assert paths.chat_history == Path("/base/chats/history")
    assert paths.report == Path("/base/report")


@pytest.mark.parametrize("name", ["recipe", "tokenizer"])
def test_a_run_cannot_take_the_metrics_of_others(name: str):
    with pytest.raises(ValueError, match=f"'{name}' is taken: choose another --model-tag"):
        Paths(Path("/base")).checkpoints(name)
    assert not is_run(name)


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "/etc", ".hidden", "a b", "x\n"])
def test_a_name_cannot_lead_elsewhere(name: str):
    paths = Paths(Path("/base"))
    for place in (paths.data, paths.checkpoints, paths.metrics, paths.chat, lambda n: paths.tokens(n, "0")):
        with pytest.raises(ValueError, match="is not a valid folder name"):
            place(name)
    assert not is_run(name)
    assert is_run("a.run_1-b")
