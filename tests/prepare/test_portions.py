import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nanochat.prepare import portions
from nanochat.prepare.portions import READ, WRITTEN, Portion, divide, read_portion, write_portion
from nanochat.text.readers import read_documents


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setattr(portions, "_BATCH_CHARACTERS", 100)
    made = [tmp_path / f"{index}.jsonl" for index in range(5)]
    for index, path in enumerate(made):
        lines = [json.dumps({"text": f"file {index}, document {line}"}) for line in range(10)]
        path.write_text("\n".join([*lines, json.dumps({"text": ""})]))
    return made


def rows(portion: Portion) -> list[dict]:
    return pa.Table.from_batches(read_portion(portion, "text"), schema=READ).to_pylist()


def test_keys_number_the_documents_in_the_order_of_input(files: list[Path]) -> None:
    whole = Portion(0, 0, tuple(files))
    split = [Portion(0, 0, tuple(files[:2])), Portion(1, 2, tuple(files[2:]))]
    found = rows(whole)
    assert [row["text"] for row in found] == [text for path in files for text in read_documents(path)]
    keys = [row["key"] for row in found]
    assert keys == sorted(set(keys))
    assert [row for portion in split for row in rows(portion)] == found
    assert [key for portion in split for key in portion.keys(np.array(keys))] == keys


def test_portions_hold_every_file_once_in_order(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for most in (1, 2 * files[0].stat().st_size, 1 << 30):
        monkeypatch.setattr(portions, "_PORTION_BYTES", most)
        for least in (1, 64):
            monkeypatch.setattr(portions, "_PORTIONS", least)
            divided = divide(files, "text")
            assert [path for portion in divided for path in portion.files] == files
            assert [files[portion.first] for portion in divided] == [portion.files[0] for portion in divided]
    assert len(divided) == len(files)


def test_what_is_not_dropped_is_written_in_order(files: list[Path], tmp_path: Path) -> None:
    portion = Portion(3, 7, tuple(files))
    found = rows(portion)
    dropped = found[::3]
    np.save(tmp_path / "dropped.npy", np.array([row["key"] for row in dropped]))
    kept = tmp_path / "kept.parquet"
    [batch] = write_portion(portion, "text", tmp_path / "dropped.npy", kept)
    [row] = batch.to_pylist()
    texts = [row["text"] for row in found if row not in dropped]
    assert batch.schema == WRITTEN
    assert list(read_documents(kept)) == texts
    assert (row["portion"], row["kept"], row["kept_bytes"]) == (3, len(texts), len("".join(texts)))
    assert json.loads(row["counts"])["documents"] == 50
    assert json.loads(row["counts"])["empty"] == 5


def test_a_damaged_file_ends_a_portion_with_a_line(files: list[Path], tmp_path: Path) -> None:
    (damaged := tmp_path / "damaged.parquet").write_bytes(b"PAR1 no more")
    portion = Portion(0, 0, (files[0], damaged))
    assert [row["fault"] for row in rows(portion)][-1].startswith(f"{damaged} is damaged")
    np.save(tmp_path / "dropped.npy", np.empty(0, np.int64))
    [batch] = write_portion(portion, "text", tmp_path / "dropped.npy", tmp_path / "kept.parquet")
    assert "is damaged" in batch.to_pylist()[0]["fault"]
    assert not (tmp_path / "kept.parquet").exists()
