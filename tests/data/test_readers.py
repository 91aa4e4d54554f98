import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from nanochat.data import readers
from nanochat.data.readers import MAX_TEXT_CHARS, Counts, format_of, read_documents


def read(path: Path, column: str = "text") -> tuple[list[str], Counts]:
    counts = Counts()
    documents = list(read_documents(path, column, counts))
    assert counts.documents == len(documents)
    assert counts.characters == sum(map(len, documents))
    return documents, counts


COMPRESSIONS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


@pytest.mark.parametrize("ending", COMPRESSIONS)
@pytest.mark.parametrize("kind", [".txt", ".md", ".jsonl"])
def test_reads_text_formats_compressed_or_not(tmp_path: Path, kind: str, ending: str) -> None:
    text = "Grüße, 世界 🙂\nline two"
    raw = (json.dumps({"text": text}) + "\n" if kind == ".jsonl" else text).encode()
    path = tmp_path / f"file{kind}{ending}"
    path.write_bytes(COMPRESSIONS[ending](raw))
    assert read(path)[0] == [text]


def test_reads_several_zstd_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.zst"
    path.write_bytes(zstandard.compress(b"one ") + zstandard.compress(b"two"))
    assert read(path)[0] == ["one two"]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())]
)
def test_reads_parquet_text_of_every_type(tmp_path: Path, kind: pa.DataType) -> None:
    values = ["first", None, "", "  \n", "first", "zweiter Text, größer"]
    column = pa.array(values, pa.string()).cast(kind)
    pq.write_table(pa.table({"text": column, "other": list(range(6))}), tmp_path / "a.parquet")
    documents, counts = read(tmp_path / "a.parquet")
    assert documents == ["first", "first", "zweiter Text, größer"]
    assert counts.empty == 3


def test_mends_invalid_utf8_and_counts_it(tmp_path: Path) -> None:
    latin1 = "ein schöner Tag".encode("latin-1")
    mended = "ein sch\ufffdner Tag"
    (tmp_path / "a.txt").write_bytes(latin1)
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "' + latin1 + b'"}\n{"text": "fine"}\n')
    broken = pa.array([latin1, b"fine"], pa.binary())
    string_view = pa.Array.from_buffers(pa.string(), 2, broken.buffers())
    pq.write_table(pa.table({"text": string_view}), tmp_path / "c.parquet")
    assert read(tmp_path / "a.txt") == ([mended], Counts(1, len(mended), invalid=1))
    for name in ("b.jsonl", "c.parquet"):
        documents, counts = read(tmp_path / name)
        assert documents == [mended, "fine"]
        assert counts.invalid == 1


def test_a_lone_surrogate_of_json_becomes_encodable(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "half \\ud83d and whole \\ud83d\\ude42"}\n')
    documents, counts = read(tmp_path / "a.jsonl")
    assert documents == ["half \ufffd and whole 🙂"]
    assert counts.invalid == 1


def test_byte_order_marks_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "hello"}\n')
    assert read(tmp_path / "a.txt")[0] == read(tmp_path / "b.jsonl")[0] == ["hello"]


def test_empty_files_and_documents_are_dropped_and_counted(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "blank.md").write_bytes(b" \n\t\n")
    (tmp_path / "lines.jsonl").write_text('{"text": ""}\n\n{"text": null}\n{"text": "x"}\n')
    assert read(tmp_path / "empty.txt") == ([], Counts(empty=1))
    assert read(tmp_path / "blank.md") == ([], Counts(empty=1))
    assert read(tmp_path / "lines.jsonl") == (["x"], Counts(1, 1, empty=2))


def test_lines_that_are_no_objects_are_skipped_once_the_column_is_known(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"text": "a"}\n{"text": 3}\n[1]\nnot json\n{"other": "x"}\n{"text": "b"}\n'
    )
    documents, counts = read(tmp_path / "a.jsonl")
    assert documents == ["a", "b"]
    assert counts.malformed == 4


def test_other_columns(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "a", "text": "no"}\n')
    assert read(tmp_path / "a.jsonl", "body")[0] == ["a"]


@given(
    words=st.lists(st.text(st.characters(codec="utf-8"), max_size=30), max_size=60),
    separators=st.lists(st.sampled_from([" ", "\n", "\n\n", "\r\n\r\n", ""]), min_size=60, max_size=60),
)
def test_parts_of_a_long_text_are_bounded_and_add_up_to_it(words: list[str], separators: list[str]) -> None:
    limit = 40
    text = "".join(word + separator for word, separator in zip(words, separators, strict=False))
    counts = Counts()
    parts = list(readers._cleaned(text, limit, counts))
    assert all(len(part) <= limit for part in parts)
    blank_free = "".join(text.split())
    assert "".join("".join(parts).split()) == blank_free
    assert counts.documents == len(parts)


def test_a_long_text_file_is_cut_at_blank_lines(tmp_path: Path) -> None:
    paragraph = "A sentence of some length, again and again. " * 40 + "\n\n"
    text = paragraph * 1000  # several chunks of reading
    (tmp_path / "a.txt").write_text(text, newline="")
    documents, counts = read(tmp_path / "a.txt")
    assert "".join(documents) == text
    assert all(len(document) <= MAX_TEXT_CHARS and document.endswith("\n\n") for document in documents)
    assert min(map(len, documents[:-1])) > MAX_TEXT_CHARS / 2
    assert counts.cut == 0  # of a text file that is no mending


def test_a_text_without_any_blank_is_cut_all_the_same(tmp_path: Path) -> None:
    text = "ab🙂" * 2_000_000
    (tmp_path / "a.txt").write_text(text)
    assert "".join(read(tmp_path / "a.txt")[0]) == text


def test_a_huge_row_is_cut_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_DOCUMENT_CHARS", 100)
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"text": "word " * 50}) + "\n" + json.dumps({"text": "short"})
    )
    documents, counts = read(tmp_path / "a.jsonl")
    assert "".join(documents) == "word " * 50 + "short"
    assert max(map(len, documents)) <= 100
    assert counts.cut == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"not parquet at all", "no readable parquet"),
        ("a.txt.gz", gzip.compress(b"text" * 1000, mtime=0)[:-9], "damaged"),
        ("a.txt.zst", b"no frame", "damaged"),
        ("a.jsonl", b'{"body": "x"}\n', "line 1.*--text-column"),
        ("a.jsonl", b"[1, 2]\n", "line 1"),
        ("a.csv", b"x", "unknown format"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        read(tmp_path / name)
    assert "\n" not in str(raised.value)
    assert name in str(raised.value)


def test_a_parquet_without_the_column_names_those_it_has(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["x"], "size": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"no column 'text'.*'body', 'size'.*--text-column"):
        read(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="holds int64, not text"):
        read(tmp_path / "a.parquet", "size")


def test_formats_by_name() -> None:
    expected = {
        "a.txt": ".txt", "a.MD": ".md", "a.b.jsonl": ".jsonl", "a.jsonl.gz": ".jsonl", "a.md.zst": ".md",
        "a.parquet": ".parquet", "a.parquet.gz": None, "a.gz": None, "a": None, ".txt": None, "a.json": None,
    }  # fmt: skip
    assert {name: format_of(Path(name)) for name in expected} == expected
