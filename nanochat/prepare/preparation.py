"""From raw files to shards: judge and hash, find duplicates, write what stays, shuffle.

1. Every document is read, judged by the rules and hashed; only hashes are kept, in files (`marks`).
2. Documents with equal digests are exact duplicates; those with an equal band of MinHashes are near duplicates,
   and so are all that are joined by a chain of them. The first one in the order of input stays.
3. The source is read again and the documents that stay are written, in order, portion by portion.
4. `text.make_shards.pack` shuffles these into shards.

Steps 1 to 3 run on Daft, in this process or on Ray. No step depends on the order in which tasks finish, so that equal
files, settings and versions give equal bytes. Memory: the texts of a few batches, 16 bytes per document for the
column being compared, 8 per document dropped.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nanochat.atomic import file_lock, write_fault, write_text_atomic
from nanochat.config import from_json, parse_json, to_json
from nanochat.console import progress
from nanochat.prepare.components import Keys, later_copies
from nanochat.prepare.daft_engine import BAND_COLUMNS, Daft
from nanochat.prepare.portions import READ, WRITTEN, Portion, divide, read_portion, write_portion
from nanochat.text.make_shards import PackSettings, pack, source_digest
from nanochat.text.readers import TEXT_COLUMN, Counts

RECORD = "prepare.json"
_MARKS_PER_FILE = 1 << 18


@dataclass(frozen=True)
class PrepareSettings:
    """What decides which documents stay and how they are shuffled."""

    rules: tuple[str, ...]  # of prepare.quality.RULES, in their order
    near: bool  # whether near duplicates are dropped too
    pack: PackSettings


@dataclass(frozen=True)
class PrepareRecord:
    """What became of the source's documents, in `prepare.json` beside the shards.

    read = failed + exact + near + kept.
    """

    settings: PrepareSettings
    source: str  # digest of the files' names, sizes and times
    engine: str
    read: Counts
    read_bytes: int  # UTF-8
    failed: dict[str, int]  # documents by the first rule that they failed
    exact: int  # duplicates dropped
    near: int
    kept: int
    kept_bytes: int
    shards: tuple[str, ...]


def prepare(files: Sequence[Path], out: Path, settings: PrepareSettings, engine: Daft) -> PrepareRecord:
    """Prepare `files` as shards in the folder `out`. A finished preparation is kept; an interrupted one starts again,
    or if only the shuffle was missing, with the shuffle.

    Raises ValueError if `out` holds anything else, a source file is damaged, or too little text is left.
    """
    files, out = [path.absolute() for path in files], out.resolve()  # a link's name tells the format
    source, work = source_digest(files), out / ".prepare"
    try:
        out.mkdir(parents=True, exist_ok=True)
        with file_lock(out / ".prepare.lock", message=f"another process is preparing {out}; waiting"):
            record = _read_record(out / RECORD, source, settings)
            if record is None or not all((out / name).exists() for name in record.shards):
                record = _read_record(work / RECORD, source, settings)
                if record is None:
                    _refuse_other_files(out, source, settings)
                    record = _write_anew(files, source, work, settings, engine)
                record = _shuffle(work, out, record)
                write_text_atomic(out / RECORD, _as_text(record))
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise write_fault(out, error) from error
    return record


def _read_record(path: Path, source: str, settings: PrepareSettings) -> PrepareRecord | None:
    """The record of this preparation, or None."""
    try:
        record = from_json(PrepareRecord, parse_json(path.read_text()))
    except (FileNotFoundError, ValueError):
        return None
    return record if (record.source, record.settings) == (source, settings) else None


def _refuse_other_files(out: Path, source: str, settings: PrepareSettings) -> None:
    ours = _read_record(out / RECORD, source, settings) is not None
    if not ours and any(not item.name.startswith(".") for item in out.iterdir()):
        raise ValueError(f"{out} holds other files or settings: choose an empty or new folder for the shards")


def _require_any(record: PrepareRecord) -> None:
    if record.kept == 0:
        failed = [f"{count:,} failed {rule}" for rule, count in record.failed.items() if count]
        raise ValueError(
            f"of {record.read.documents:,} documents none is left: {', '.join(failed) or 'the source is empty'}"
            "; --skip leaves rules out"
        )


def _as_text(record: PrepareRecord) -> str:
    return json.dumps(to_json(record), indent=1) + "\n"


def _write_anew(
    files: Sequence[Path], source: str, work: Path, settings: PrepareSettings, engine: Daft
) -> PrepareRecord:
    """Steps 1 to 3 in a new folder `work`, which is removed if they fail: without a record it is of no use."""
    shutil.rmtree(work, ignore_errors=True)
    try:
        record = _write_kept(files, source, work, settings, engine)
        _require_any(record)
        write_text_atomic(work / RECORD, _as_text(record))
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return record


def _write_kept(
    files: Sequence[Path], source: str, work: Path, settings: PrepareSettings, engine: Daft
) -> PrepareRecord:
    """Steps 1 to 3: the documents that stay, in files `kept_*` of the folder `work`."""
    marks = work / "marks"
    marks.mkdir(parents=True)
    portions = divide(files, settings.pack.text_column)
    tally = _mark(portions, marks, settings, engine)
    columns = ("digest", *(BAND_COLUMNS if settings.near else ()))
    with progress("compare", len(columns), "hashes") as shown:
        pairs = []
        for number, column in enumerate(columns, start=1):
            pairs.append(engine.pairs(marks, column))
            shown.update(number)
    exact = len(pairs[0])
    copies = later_copies(np.concatenate(pairs))
    dropped = np.sort(np.concatenate([*tally.failed_keys, copies]))
    read, kept, kept_bytes = _copy_others(portions, dropped, work, settings, engine)
    if read.documents != tally.documents or kept != read.documents - len(dropped):
        raise ValueError("a source file has changed meanwhile: run the same command again")
    return PrepareRecord(
        settings=settings,
        source=source,
        engine=f"daft {engine.version}",
        read=read,
        read_bytes=tally.bytes,
        failed={rule: tally.failed[rule] for rule in settings.rules},
        exact=exact,
        near=len(copies) - exact,
        kept=kept,
        kept_bytes=kept_bytes,
        shards=(),
    )


@dataclass
class _Tally:
    """Of the documents that have been read."""

    documents: int
    bytes: int
    failed: Counter[str]
    failed_keys: list[Keys]


def _mark(portions: list[Portion], marks: Path, settings: PrepareSettings, engine: Daft) -> _Tally:
    """Step 1: read, judge and hash; the hashes of documents that passed go to parquet files in `marks`."""
    tasks = [partial(read_portion, portion, settings.pack.text_column) for portion in portions]
    rows = engine.rows(engine.marks(engine.scan(READ, tasks), settings.rules, settings.near))
    tally = _Tally(0, 0, Counter(), [np.empty(0, np.int64)])
    total = sum(portion.bytes(settings.pack.text_column) for portion in portions)

    def passed() -> Iterator[pa.RecordBatch]:
        with progress("filter and hash", total, "B") as shown:
            for batch in rows:
                tally.documents += batch.num_rows
                tally.bytes += pc.sum(batch["bytes"]).as_py() or 0
                tally.failed.update(batch["failed"].drop_null().to_pylist())
                failed = batch["failed"].is_valid()
                tally.failed_keys.append(batch["key"].filter(failed).to_numpy())
                shown.update(tally.bytes)
                yield batch.filter(batch["failed"].is_null())

    for number, batches in enumerate(_grouped(passed())):
        table = pa.Table.from_batches(batches).drop_columns(["fault", "bytes", "failed"])
        pq.write_table(table, marks / f"{number:05d}.parquet")
    return tally


def _grouped(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Lists of consecutive batches, of about _MARKS_PER_FILE rows each."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(map(len, held)) >= _MARKS_PER_FILE:
            yield held
            held = []
    if held:
        yield held


def _copy_others(
    portions: list[Portion], dropped: Keys, work: Path, settings: PrepareSettings, engine: Daft
) -> tuple[Counts, int, int]:
    """Step 3: copy all documents but those with a key in `dropped`. Returns what was read, documents and bytes kept."""
    tasks, column = [], settings.pack.text_column
    for portion in portions:
        keys = work / f"dropped_{portion.number:05d}.npy"
        np.save(keys, portion.keys(dropped))
        kept = work / f"kept_{portion.number:05d}.parquet"
        tasks.append(partial(write_portion, portion, column, keys, kept))
    read, kept_documents, kept_bytes, done = Counts(), 0, 0, 0
    with progress("write what stays", sum(portion.bytes(column) for portion in portions), "B") as shown:
        for batch in engine.rows(engine.scan(WRITTEN, tasks)):
            for row in batch.to_pylist():
                read.add(from_json(Counts, parse_json(row["counts"])))
                kept_documents += row["kept"]
                kept_bytes += row["kept_bytes"]
                done += portions[row["portion"]].bytes(column)
                shown.update(done)
    return read, kept_documents, kept_bytes


def _shuffle(work: Path, out: Path, record: PrepareRecord) -> PrepareRecord:
    """Step 4; the names of the shards are added to the record."""
    kept = sorted(work.glob("kept_*.parquet"))
    for path in kept:
        os.utime(path, (0, 0))  # the manifest of equal shards is equal too
    with progress("shuffle", 2 * record.kept_bytes, "B") as shown:
        manifest, _ = pack(kept, out, replace(record.settings.pack, text_column=TEXT_COLUMN), shown.update)
    return replace(record, shards=tuple(manifest.shard_names))
