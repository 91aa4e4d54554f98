"""`nanochat data identity`: what it writes, and who reads it."""

import re
import shlex
from dataclasses import replace

import pytest

from nanochat.cli.identity import IdentityConfig, run_identity
from nanochat.conversations.mixtures import load_conversations
from nanochat.errors import EnvironmentFault
from nanochat.paths import Paths
from nanochat.persona.persona import OURS
from nanochat.tasks.persona_questions import IDENTITY
from nanochat.tasks.task import RIGHT


@pytest.fixture
def config(tmp_path) -> IdentityConfig:
    path = tmp_path / "me.toml"
    path.write_text(re.sub('name = "nanochat"', 'name = "Tamsin"', OURS.read_text()))
    return IdentityConfig(persona=path, conversations=40)


def test_the_mixture_trains_on_it_and_the_task_asks_for_it(config: IdentityConfig, paths: Paths) -> None:
    assert {item.answer for item in IDENTITY.items(paths, "test", 0)} == {"nanochat", "the nanochat authors"}
    result = run_identity(config, paths)
    text = result.out.read_text()
    assert (result.name, result.conversations, text.count("\n")) == ("Tamsin", 40, 40)
    assert len(load_conversations("identity", paths)) == 40 - 1
    items = IDENTITY.items(paths, "test", 0)
    assert len(items) == 100
    assert {item.answer for item in items} == {"Tamsin", "the nanochat authors"}
    for item in items:
        assert IDENTITY.check(item, f"I am {item.answer}.") == RIGHT
        assert not IDENTITY.check(item, "I am Claude.").right
        assert item.messages[0]["content"] not in text
    run_identity(config, paths)
    assert result.out.read_text() == text


def test_another_file_leaves_the_default_conversations_and_their_persona(
    config: IdentityConfig, paths: Paths, tmp_path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_identity(config, paths)
    before = paths.identity.read_text(), paths.persona.read_text()
    capsys.readouterr()
    out = tmp_path / "new" / "me.jsonl"
    run_identity(IdentityConfig(out=out, conversations=4), paths)
    assert (paths.identity.read_text(), paths.persona.read_text()) == before
    said = capsys.readouterr().err
    assert "the previous persona" in said
    mixture = shlex.split(said.partition("--mixture ")[2].partition(";")[0])[0]
    assert len(load_conversations(mixture.removeprefix("nameless+"), paths)) == 2 * 3


def test_the_default_file_by_its_path_brings_its_persona(config: IdentityConfig, paths: Paths) -> None:
    run_identity(replace(config, out=paths.identity), paths)
    assert "Tamsin" in paths.persona.read_text()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"conversations": 1}, "--conversations must be at least 2"),
        ({"seed": -1}, "--seed"),
        ({"api_base": "http://x/v1"}, "--api-base and --model belong together"),
        ({"model": "x"}, "--api-base and --model belong together"),
        *(
            (
                {"api_base": base, "model": "x"},
                "--api-base must be an address like http://localhost:8000/v1, not ",
            )
            for base in ("foo", "localhost:8000/v1", "ftp://x/v1", "http://", "http://x:y/v1", "")
        ),
    ],
)
def test_mistakes(flags, line: str, paths: Paths) -> None:
    with pytest.raises(ValueError, match=line):
        run_identity(IdentityConfig(**flags), paths)


def test_an_endpoint_that_is_not_there(paths: Paths) -> None:
    with pytest.raises(EnvironmentFault, match=r"^http://127.0.0.1:9/v1/chat/completions does not answer"):
        run_identity(IdentityConfig(api_base="http://127.0.0.1:9/v1", model="x", conversations=2), paths)
