"""Documents from files, streamed: txt, md and jsonl (each also as .gz or .zst) and parquet.

What a document is:
- parquet, jsonl: one row or line (its text column), split into parts of at most MAX_DOCUMENT_CHARS.
- txt, md: one file, split into parts of at most MAX_TEXT_CHARS, so that a book becomes many documents.

A part ends at the last blank line before the limit, else at the last line end, else at the last space, else at
the limit; the parts concatenated are the document. Empty documents are dropped, invalid UTF-8 becomes U+FFFD,
jsonl lines without text are skipped; each of these is counted. Memory: one chunk of a text file, one line of a
jsonl file (at most MAX_LINE_BYTES), one batch of rows of a parquet file.
"""

from __future__ import annotations

import codecs
import gzip
import io
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import repeat
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.config import parse_json
from nanochat.console import counted
from nanochat.errors import EnvironmentFault

TEXT_COLUMN = "text"
"""Default text column of parquet and jsonl files."""
SOURCE_COLUMN = "source"
"""The column that names a document's source, where there is one."""
MAX_DOCUMENT_CHARS = 1_000_000
MAX_TEXT_CHARS = 16_384
MAX_LINE_BYTES = 256 << 20  # a longer jsonl line counts as malformed
_HOPELESS_LINES = 1000  # if none of the first jsonl lines has text, the column is wrong
_CHUNK_BYTES = 1 << 20
_BATCH_ROWS = 256
_SURROGATES = re.compile(r"[\ud800-\udfff]+")
_SEPARATORS = ("\n\n", "\r\n\r\n", "\n", " ")
_TEXT_TYPES = {
    pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()
}  # fmt: skip


class Document(NamedTuple):
    """A text, and the source that its row or line names ("" if none)."""

    text: str
    source: str = ""


class DamagedFile(ValueError):  # noqa: N818
    """A damaged file; the documents before the damage have been yielded."""


@dataclass
class Counts:
    """What was read, and what was dropped or repaired."""

    documents: int = 0
    characters: int = 0
    empty: int = 0  # dropped
    invalid: int = 0  # documents in which bytes or code points were replaced by U+FFFD
    cut: int = 0  # documents split into parts (each part counts as a document)
    malformed: int = 0  # jsonl lines skipped: no JSON object, or no string in the text column
    damaged: int = 0  # files read up to a damaged place only

    def add(self, other: Counts) -> None:
        """Add the counts of `other` to these."""
        for counter in fields(self):
            setattr(self, counter.name, getattr(self, counter.name) + getattr(other, counter.name))

    def __str__(self) -> str:
        repairs = {"dropped as empty": self.empty, "with invalid UTF-8 replaced": self.invalid}
        repairs |= {"split into parts": self.cut, "malformed lines skipped": self.malformed}
        repairs |= {"damaged files read up to the damage": self.damaged}
        notes = [f"; {count:,} {what}" for what, count in repairs.items() if count]
        return f"{counted(self.documents, 'document')}, {counted(self.characters, 'character')}" + "".join(
            notes
        )


def read_documents(path: Path, column: str = TEXT_COLUMN, counts: Counts | None = None) -> Iterator[str]:
    """The texts of one file's documents in order, never empty, always encodable as UTF-8.

    Raises ValueError for an unknown format and for a parquet or jsonl file without `column`, DamagedFile for a
    damaged file, EnvironmentFault for an unreadable one.
    """
    for document in read_with_sources(path, column, None, counts):
        yield document.text


def read_with_sources(
    path: Path, column: str, source_column: str | None, counts: Counts | None = None
) -> Iterator[Document]:
    """As `read_documents`, with the value of `source_column` where the file has one. Raises as that does."""
    counts = Counts() if counts is None else counts
    kind = format_of(path)
    if kind is None:
        raise ValueError(
            f"{path}: unknown format; use {', '.join(FORMATS)} (the text ones also as .gz or .zst)"
        )
    with _one_line(path):
        yield from _FORMATS[kind](path, column, source_column, counts)


def format_of(path: Path) -> str | None:
    """The file's format by its name, without the compression suffix: ".txt", ".parquet", …; None if unknown."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in _OPENERS:
        suffixes.pop()
        return suffixes[-1] if suffixes and suffixes[-1] in _FORMATS and suffixes[-1] != ".parquet" else None
    return suffixes[-1] if suffixes and suffixes[-1] in _FORMATS else None


def check_columns(files: Iterable[Path], column: str) -> None:
    """Check the text column of every parquet file in `files`. Raises as `parquet_file` does."""
    for path in files:
        if format_of(path) == ".parquet":
            parquet_file(path, column).close()


def parquet_file(path: Path, column: str) -> pq.ParquetFile:
    """The opened file. Raises ValueError if it is no parquet file or has no such text column."""
    with _one_line(path):
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
    if schema.names.count(column) != 1:
        found = "more than one column" if column in schema.names else "no column"
        raise ValueError(f"{path} has {found} {column!r}: choose one of {schema.names} with --text-column")
    kind = schema.field(column).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if kind not in _TEXT_TYPES:
        raise ValueError(
            f"column {column!r} of {path} holds {kind}, not text: choose another with --text-column"
        )
    return file


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn errors of reading `path` into a DamagedFile or EnvironmentFault of one line."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise EnvironmentFault(f"cannot read {path}: {os.strerror(error.errno)}") from error
        reason = " ".join(str(error).split())
        raise DamagedFile(f"{path} is damaged ({reason}): replace or remove it") from error


def _parquet(path: Path, column: str, source_column: str | None, counts: Counts) -> Iterator[Document]:
    with parquet_file(path, column) as file:
        sourced = source_column != column and file.schema_arrow.names.count(source_column) == 1
        columns = [column, source_column] if sourced else [column]
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
            sources = batch[source_column].to_pylist() if sourced else repeat(None)
            # via bytes, because Arrow does not check that strings are UTF-8
            for raw, source in zip(batch[column].cast(pa.large_binary()).to_pylist(), sources, strict=False):
                text = (raw or b"").decode("utf-8", "surrogateescape")
                yield from _cleaned(text, MAX_DOCUMENT_CHARS, counts, _source(source))


def _source(value: object) -> str:
    return value if isinstance(value, str) else ""


def _jsonl(path: Path, column: str, source_column: str | None, counts: Counts) -> Iterator[Document]:
    usable = malformed = first_malformed = 0
    with _open(path) as stream:
        for number, raw in enumerate(_lines(stream), start=1):
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape")
            if not line.strip():
                continue
            try:
                row = parse_json(line)
                text = row[column]
            except (ValueError, KeyError, TypeError):
                text = False
            if text is None or isinstance(text, str):
                usable += 1
                yield from _cleaned(text or "", MAX_DOCUMENT_CHARS, counts, _source(row.get(source_column)))
                continue
            counts.malformed += 1
            malformed += 1
            first_malformed = first_malformed or number
            if not usable and malformed == _HOPELESS_LINES:
                break
    if malformed and not usable:
        raise ValueError(
            f"{path}: line {first_malformed} is not a JSON object with a string in the field {column!r}; "
            "choose the field with --text-column"
        )


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines, each cut at MAX_LINE_BYTES; a line that was cut is no valid JSON."""
    while line := stream.readline(MAX_LINE_BYTES):
        yield line
        while not line.endswith(b"\n") and (line := stream.readline(_CHUNK_BYTES)):
            pass


def _text(path: Path, column: str, source_column: str | None, counts: Counts) -> Iterator[Document]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
    buffer = ""
    with _open(path) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            buffer += decoder.decode(chunk)
            start = 0
            while len(buffer) - start > MAX_TEXT_CHARS:
                stop = _cut(buffer, start, MAX_TEXT_CHARS)
                yield from _cleaned(buffer[start:stop], MAX_TEXT_CHARS, counts)
                start = stop
            buffer = buffer[start:]
    yield from _cleaned(buffer + decoder.decode(b"", final=True), MAX_TEXT_CHARS, counts)


def _cleaned(text: str, limit: int, counts: Counts, source: str = "") -> Iterator[Document]:
    """`text` as documents: split at `limit`, surrogates replaced, empty parts dropped; updates `counts`."""
    if len(text) > limit:
        counts.cut += 1
    start = 0
    while start < len(text) or start == 0:
        stop = _cut(text, start, limit) if len(text) - start > limit else len(text)
        part = text if stop - start == len(text) else text[start:stop]
        start = max(stop, 1)
        if not part or part.isspace():
            counts.empty += 1
            continue
        if not part.isascii():
            part, replaced = _SURROGATES.subn("\ufffd", part)
            counts.invalid += replaced > 0
        counts.documents += 1
        counts.characters += len(part)
        yield Document(part, source)


def _cut(text: str, start: int, limit: int) -> int:
    """The end of the part that begins at `start`: at most `limit` characters, preferably more than half of that."""
    middle, end = start + limit // 2, start + limit
    for separator in _SEPARATORS:
        if (found := text.rfind(separator, middle, end)) >= 0:
            return found + len(separator)
    return end


def _open(path: Path) -> BinaryIO:
    return _OPENERS.get(path.suffix.lower(), lambda plain: open(plain, "rb"))(path)


def _open_zstd(path: Path) -> BinaryIO:
    stream = pa.input_stream(path, compression="zstd")  # unlike `zstandard` it reports an unfinished frame
    return io.BufferedReader(stream, _CHUNK_BYTES)  # type: ignore[return-value]


_OPENERS: dict[str, Callable[[Path], BinaryIO]] = {
    ".gz": gzip.open,  # type: ignore[dict-item]
    ".zst": _open_zstd,
}
_FORMATS: dict[str, Callable[[Path, str, str | None, Counts], Iterator[Document]]] = {
    ".parquet": _parquet,
    ".jsonl": _jsonl,
    ".txt": _text,
    ".md": _text,
}
FORMATS = tuple(_FORMATS)
TEXT_FORMATS = (".txt", ".md")  # one file, one document
