import json
import os
from pathlib import Path

import pytest

from nanochat.errors import EnvironmentFault
from nanochat.text.own_files import absolute, find_files


def test_linked_folders_are_read_each_once(tmp_path: Path) -> None:
    for name in ("texts/m/a.txt", "texts/.kept/b.txt", "elsewhere/c.txt", "elsewhere/.d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    for link, target in {"b": "m", "loop": ".", "out": "../elsewhere", "z": ".kept"}.items():
        (tmp_path / "texts" / link).symlink_to(target)
    files = find_files(str(tmp_path / "texts"))
    assert [str(file.relative_to(tmp_path / "texts")) for file in files] == [
        "m/a.txt",
        "out/c.txt",
        "z/b.txt",
    ]


def test_an_unreadable_folder_is_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.chdir(tmp_path)
    for _ in range(20):  # folders that even root cannot open by their path, which is too long
        Path("d" * 250).mkdir()
        os.chdir("d" * 250)
    with pytest.raises(EnvironmentFault, match=r"^cannot read .*: File name too long$"):
        find_files(str(tmp_path))


def test_the_home_of_an_unknown_user_is_one_clear_line() -> None:
    spec = "~no-such-user/a.jsonl"
    assert absolute(spec) == spec
    with pytest.raises(ValueError, match=r"^no file or folder '~no-such-user/a\.jsonl'$"):
        find_files(spec)


def test_a_linked_file_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the hub's cache has them: snapshots/…/train.jsonl links to blobs/<digest>."""
    (tmp_path / "blob").write_text(json.dumps({"text": "a"}))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "train.jsonl").symlink_to(tmp_path / "blob")
    monkeypatch.chdir(tmp_path / "cache")
    assert absolute("../cache/train.jsonl") == str(tmp_path / "cache" / "train.jsonl")
    assert absolute("..") == str(tmp_path)
