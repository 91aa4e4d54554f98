"""`nanochat data identity`: what it writes, and who reads it."""

import re

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


def test_another_file(config: IdentityConfig, paths: Paths, tmp_path) -> None:
    out = tmp_path / "new" / "me.jsonl"
    run_identity(IdentityConfig(config.persona, out, conversations=4), paths)
    assert len(load_conversations(str(out), paths)) == 3
    assert not paths.identity.exists()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"conversations": 1}, "--conversations must be at least 2"),
        ({"seed": -1}, "--seed"),
        ({"api_base": "http://x/v1"}, "--api-base and --model belong together"),
        ({"model": "x"}, "--api-base and --model belong together"),
    ],
)
def test_mistakes(flags, line: str, paths: Paths) -> None:
    with pytest.raises(ValueError, match=line):
        run_identity(IdentityConfig(**flags), paths)


def test_an_endpoint_that_is_not_there(paths: Paths) -> None:
    with pytest.raises(EnvironmentFault, match=r"^http://127.0.0.1:9/v1/chat/completions does not answer"):
        run_identity(IdentityConfig(api_base="http://127.0.0.1:9/v1", model="x", conversations=2), paths)
