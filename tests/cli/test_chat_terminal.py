"""Reading messages: lines, fences, pipes, the history file. (tests/cli/test_chat.py has a real terminal.)"""

import os
import signal
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.cli.chat_terminal import (
    _open_history,
    closed,
    fenced,
    interrupts,
    piped_text,
    read_messages,
    shorten_history,
)


@pytest.mark.parametrize(
    ("lines", "messages"),
    [
        (["one", " two ", "", "three"], ["one", "two", "three"]),
        (['"""one', "", '  two"""', "three"], ["one\n\n  two", "three"]),
        (['"""', "one", '"""', "two"], ["one", "two"]),
        (['"""one"""'], ["one"]),
        (['"""', "never", "closed"], ["never\nclosed"]),
        (['"""/etc/hosts', '"""'], ["//etc/hosts"]),
        (['a """ b'], ['a """ b']),
        (['"""', '"""', "x"], ["", "x"]),
        (['"""one\ntwo"""'], ["one\ntwo"]),
    ],
)
def test_lines_and_fences_are_messages(lines, messages):
    assert list(fenced(lines)) == messages


lines_of_text = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters='\r\n"/'), max_size=9).map(str.rstrip), min_size=1
).filter(lambda lines: any(lines))


@pytest.mark.slow
@given(lines_of_text)
def test_any_text_between_fences_is_one_message(lines):
    text = "\n".join(lines)
    assert list(fenced(['"""', *lines, '"""'])) == [text.strip("\n")]
    assert closed(f'"""{text}"""')
    assert not closed(f'"""{text}')


def stdin_of(monkeypatch, file) -> None:
    monkeypatch.setattr("sys.stdin", file)


def test_text_of_pipes_and_files_is_read(monkeypatch, tmp_path: Path):
    path = tmp_path / "text"
    path.write_bytes(b"\none\n\ntwo \xff\n")
    with open(path, encoding="utf-8") as file:
        stdin_of(monkeypatch, file)
        assert piped_text() == "one\n\ntwo \ufffd"
    reading, writing = os.pipe()
    os.write(writing, b"piped\n")
    os.close(writing)
    with os.fdopen(reading) as file:
        stdin_of(monkeypatch, file)
        assert piped_text() == "piped"


def test_devices_terminals_and_closed_stdin_are_not_read(monkeypatch):
    master, terminal = os.openpty()
    with open("/dev/zero") as zero, os.fdopen(terminal) as file, os.fdopen(master):
        for each in (zero, file, None):
            stdin_of(monkeypatch, each)
            assert piped_text() == ""
    stdin_of(monkeypatch, file)
    assert file.closed
    assert piped_text() == ""
    stdin_of(monkeypatch, None)
    assert list(read_messages(Path("unused"), lambda _: ())) == []


def test_the_history_is_private_and_survives(tmp_path: Path):
    path = tmp_path / "chats" / "history"
    _open_history(path).append_string("first\nline")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    again = _open_history(path)
    again.append_string("no character: \udcff")  # as terminals may send
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(again.load_history_strings()) == ["no character: ?", "first\nline"]


def test_a_long_history_loses_its_oldest_entries(tmp_path: Path):
    path = tmp_path / "history"
    history = _open_history(path)
    for n in range(50):
        history.append_string(f"entry {n}\nwith two lines")
    shorten_history(path, most_bytes=path.stat().st_size)
    assert len(list(_open_history(path).load_history_strings())) == 50
    shorten_history(path, most_bytes=1000)
    assert path.stat().st_size <= 500
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    kept = list(_open_history(path).load_history_strings())
    assert kept == [f"entry {n}\nwith two lines" for n in range(49, 49 - len(kept), -1)]
    assert len(kept) > 3


def test_without_a_place_for_the_history_the_chat_works(tmp_path: Path, capsys):
    (tmp_path / "file").write_text("")
    history = _open_history(tmp_path / "file" / "history")
    assert "typed lines are not kept" in capsys.readouterr().err
    history.append_string("x")
    path = tmp_path / "chats" / "history"
    kept = _open_history(path)
    path.unlink()
    path.mkdir()
    kept.append_string("x")
    assert kept.get_strings() == ["x"]


def test_the_first_ctrl_c_is_recorded_and_the_second_raises():
    before = signal.getsignal(signal.SIGINT)
    with interrupts() as interrupted:
        assert not interrupted()
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
