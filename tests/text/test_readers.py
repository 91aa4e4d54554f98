import gzip
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.errors import EnvironmentFault
from nanochat.text import readers
from nanochat.text.readers import MAX_TEXT_CHARS, Counts, format_of, read_documents, read_with_sources
from tests.conftest import traced


def read(path: Path, column: str = "text") -> tuple[list[str], Counts]:
    counts = Counts()
    documents = list(read_documents(path, column, counts))
    assert counts.documents == len(documents)
    assert counts.characters == sum(map(len, documents))
    return documents, counts


def zstd(raw: bytes) -> bytes:
    return pa.Codec("zstd").compress(raw, asbytes=True)


COMPRESSIONS = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


@pytest.mark.parametrize("ending", COMPRESSIONS)
@pytest.mark.parametrize("kind", [".txt", ".md", ".jsonl"])
def test_reads_text_formats_compressed_or_not(tmp_path: Path, kind: str, ending: str) -> None:
    text = "Grüße, 世界 🙂\nline two"
    raw = (json.dumps({"text": text}) + "\n" if kind == ".jsonl" else text).encode()
    path = tmp_path / f"file{kind}{ending}"
    path.write_bytes(COMPRESSIONS[ending](raw))
    assert read(path)[0] == [text]


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_a_row_s_source_where_it_names_one(tmp_path: Path, ending: str) -> None:
    rows = [{"text": "a", "from": "web"}, {"text": "b", "from": None}, {"text": "c", "from": "books"}]
    path = tmp_path / f"file{ending}"
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = [("a", "web"), ("b", ""), ("c", "books")]
    assert list(read_with_sources(path, "text", "from")) == expected
    assert list(read_with_sources(path, "text", "elsewhere")) == [(text, "") for text, _ in expected]


def test_reads_several_zstd_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.zst"
    path.write_bytes(zstd(b"one ") + zstd(b"two"))
    assert read(path)[0] == ["one two"]


@pytest.mark.parametrize("kind", [".txt", ".jsonl"])
@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_cut_compressed_file_is_damaged_wherever_it_is_cut(tmp_path: Path, kind: str, ending: str) -> None:
    source = random.Random(0)
    raw = "".join(json.dumps({"text": str(source.random())}) + "\n" for _ in range(20_000)).encode()
    first, second = map(COMPRESSIONS[ending], (raw[:400_000], raw[400_000:]))
    path = tmp_path / f"a{kind}{ending}"
    path.write_bytes(first + second)
    read(path)
    for size in (1, len(first) // 2, len(first) - 1, len(first) + 3, len(first + second) - 1):
        path.write_bytes((first + second)[:size])
        with pytest.raises(ValueError, match="damaged"):
            read(path)


def test_a_zstd_file_is_read_as_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.zst"
    path.write_bytes(zstd(b"all the same " * 8_000_000))
    with traced() as peak:
        before = pa.total_allocated_bytes()
        for number, _ in enumerate(read_documents(path)):
            if number % 100 == 0:
                assert pa.total_allocated_bytes() - before < 16 << 20
        assert peak() < 16 << 20


CHECKED = pa.dictionary(pa.int8(), pa.large_string())  # the one type whose UTF-8 Arrow checks on reading
TEXT_TYPES = [
    pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(),
    pa.dictionary(pa.int32(), pa.string()), CHECKED,
    pa.dictionary(pa.int32(), pa.binary()), pa.dictionary(pa.int32(), pa.large_binary()),
]  # fmt: skip


def as_type(values: list[bytes | None], kind: pa.DataType) -> pa.Array:
    """An Arrow array of `kind`, whether or not the bytes are UTF-8."""
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    column = pc.cast(pa.array(values, pa.binary()), options=pc.CastOptions.unsafe(plain))
    return column.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else column


@given(values=st.lists(st.none() | st.text().map(str.encode) | st.binary(), max_size=20))
@pytest.mark.parametrize("kind", TEXT_TYPES, ids=str)
def test_reads_parquet_text_of_every_type(
    tmp_path_factory: pytest.TempPathFactory, kind: pa.DataType, values: list[bytes | None]
) -> None:
    if kind == CHECKED:
        values = [value and value.decode("utf-8", "replace").encode() for value in values]
    path = tmp_path_factory.mktemp("types") / "a.parquet"
    pq.write_table(pa.table({"text": as_type(values, kind), "other": list(range(len(values)))}), path)
    texts = [(value or b"").decode("utf-8", "surrogateescape") for value in values]
    documents, counts = read(path)
    assert documents == [readers._SURROGATES.sub("\ufffd", text) for text in texts if text.strip()]
    assert counts.empty == len(texts) - len(documents)
    assert counts.invalid == sum(readers._SURROGATES.search(text) is not None for text in texts)


def test_replaces_invalid_utf8_and_counts_it(tmp_path: Path) -> None:
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


def test_byte_order_marks_are_removed(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("place", range(5))
def test_lines_without_text_are_skipped_anywhere_in_a_file(tmp_path: Path, place: int) -> None:
    bad = ['{"text": 3}', "[1]", "not json", '{"other": "x"}']
    (tmp_path / "a.jsonl").write_text(
        "\n".join([*bad[:place], '{"text": "a"}', *bad[place:], '{"text": "b"}'])
    )
    documents, counts = read(tmp_path / "a.jsonl")
    assert documents == ["a", "b"]
    assert counts.malformed == 4


def test_a_wrong_column_is_reported_after_a_thousand_lines(tmp_path: Path) -> None:
    good, bad = '{"text": "a"}\n', '{"body": "a"}\n'
    (tmp_path / "a.jsonl").write_text("\n" + 999 * bad + good + 2000 * bad)
    documents, counts = read(tmp_path / "a.jsonl")
    assert documents == ["a"]
    assert counts.malformed == 2999
    (tmp_path / "a.jsonl").write_text("\n" + 1000 * bad + good)
    with pytest.raises(ValueError, match=r"line 2 is not a JSON object with .* 'text'; .*--text-column"):
        read(tmp_path / "a.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("ending", COMPRESSIONS)
def test_a_line_too_long_is_malformed_and_not_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(readers, "MAX_LINE_BYTES", 1 << 20)
    line = json.dumps({"text": "x" * (50 << 20)})
    fits = json.dumps({"text": "y" * 1_000_000})
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(COMPRESSIONS[ending](f"{fits}\n{line}\n{fits}\n{line}".encode()))
    counts = Counts()
    with traced() as peak:
        assert [len(document) for document in read_documents(path, counts=counts)] == [1_000_000] * 2
        assert peak() < 16 << 20
    assert counts.malformed == 2


def test_other_columns(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "a", "text": "no"}\n')
    assert read(tmp_path / "a.jsonl", "body")[0] == ["a"]


@given(
    words=st.lists(st.text(st.characters(codec="utf-8"), max_size=30), max_size=60),
    separators=st.lists(st.sampled_from([" ", "\n", "\n\n", "\r\n\r\n", ""]), min_size=60, max_size=60),
)
def test_parts_of_a_long_text_are_bounded_and_concatenate_to_it(
    words: list[str], separators: list[str]
) -> None:
    limit = 40
    text = "".join(word + separator for word, separator in zip(words, separators, strict=False))
    counts = Counts()
    parts = [part.text for part in readers._cleaned(text, limit, counts)]
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


def test_a_text_without_blanks_is_cut_too(tmp_path: Path) -> None:
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
        ("a.parquet", b"not parquet at all", "damaged"),
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


def test_a_parquet_with_the_column_twice_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array(["x"])] * 2, ["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="more than one column 'text'"):
        read(tmp_path / "a.parquet")


def test_any_damage_of_a_parquet_file_is_one_line_or_harmless(tmp_path: Path) -> None:
    path, source = tmp_path / "a.parquet", random.Random(0)
    pq.write_table(pa.table({"text": [str(source.random()) for _ in range(500)]}), path, compression="zstd")
    whole, lines = path.read_bytes(), []
    for _ in range(200):
        raw = bytearray(whole)
        for _ in range(3):
            raw[source.randrange(len(raw))] = source.randrange(256)
        path.write_bytes(raw)
        try:
            list(read_documents(path))
        except ValueError as error:
            lines.append(str(error))
    assert sum(f"{path} is damaged" in line for line in lines) > 50
    assert all(str(path) in line and "\n" not in line for line in lines)


def test_an_unreadable_file_is_not_reported_as_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(EnvironmentFault, match=r"cannot read .*a\.txt: Is a directory"):
        read(tmp_path / "a.txt")
