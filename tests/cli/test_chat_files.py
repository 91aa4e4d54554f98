"""Saved chats are SFT data: what is written is read by the source of jsonl conversations, and renders alike."""

import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.cli.chat_files import chat_path, load_chat, save_chat, saved_chats
from nanochat.conversations.sources import open_jsonl
from nanochat.errors import EnvironmentFault
from nanochat.paths import Paths
from nanochat.tokenizer.chat_format import render

TOOL_CHAT = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "1+1?\nQuick!\u2028"},
    {
        "role": "assistant",
        "content": [
            {"type": "python", "text": "1+1"},
            {"type": "python_output", "text": "2"},
            {"type": "text", "text": "Two. ×"},
        ],
    },
    {"role": "user", "content": "Thanks"},
    {"role": "assistant", "content": "Welcome."},
]


def test_a_saved_chat_is_training_data(tmp_path: Path, tokenizer):
    path = tmp_path / "chats" / "sums.jsonl"
    assert save_chat(path, TOOL_CHAT) == 2
    source = open_jsonl(path, "train")
    assert [conversation["messages"] for conversation in source.conversations] == [TOOL_CHAT]
    assert source.dropped == {}
    assert render(tokenizer, source.conversations[0]) == render(tokenizer, {"messages": TOOL_CHAT})
    assert load_chat(path) == TOOL_CHAT
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


texts = st.text(st.characters(codec="utf-8"), max_size=20)


@given(st.lists(st.tuples(texts, texts), max_size=4))
def test_only_turns_that_training_refuses_are_left_out(tmp_path_factory, turns):
    path = tmp_path_factory.mktemp("chats") / "any.jsonl"
    roles = ("user", "assistant")
    messages = [
        {"role": role, "content": text} for turn in turns for role, text in zip(roles, turn, strict=True)
    ]
    kept = [turn for turn in turns if turn[0].strip() and turn[1].strip()]
    assert save_chat(path, messages) == len(kept)
    assert path.exists() == bool(kept)
    if kept:
        assert [message["content"] for message in load_chat(path)] == [text for turn in kept for text in turn]


def test_a_name_is_below_the_chats_and_a_path_is_a_path(tmp_path: Path):
    paths = Paths(tmp_path)
    assert chat_path("boats", paths) == tmp_path / "chats/boats.jsonl"
    assert chat_path("elsewhere/boats.jsonl", paths) == Path("elsewhere/boats.jsonl")
    with pytest.raises(ValueError, match="not a valid folder name"):
        chat_path("../boats", paths)
    assert saved_chats(paths) == []
    save_chat(paths.chat("b"), TOOL_CHAT)
    save_chat(paths.chat("a"), TOOL_CHAT)
    assert saved_chats(paths) == ["a", "b"]


def test_an_earlier_file_survives_a_failed_save(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.jsonl"
    save_chat(path, TOOL_CHAT)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(EnvironmentFault, match="free some space"):
        save_chat(path, TOOL_CHAT[1:3])
    assert load_chat(path) == TOOL_CHAT
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", ["", "nonsense", json.dumps({"messages": TOOL_CHAT[1:2]})])
def test_a_file_that_is_no_chat_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match="no conversation in"):
        load_chat(path)
