"""The heavy work as Daft dataframes: in this process, or the same on a Ray cluster.

A document's text is in memory only while it is read, judged and hashed; what is compared are hashes. Daft is
imported when a job begins, because it comes with an extra.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from nanochat.errors import EnvironmentFault
from nanochat.prepare.components import Keys
from nanochat.prepare.quality import failed_rule

DaftRunner = Literal["native", "ray"]
ScanTask = Callable[[], Iterator[pa.RecordBatch]]

NGRAM_WORDS = 5
BANDS = 14
BAND_HASHES = 8
"""As FineWeb (Penedo et al. 2024, arXiv 2406.17557): two texts that share a share s of their n-grams meet with
probability 1 - (1 - s^8)^14: 0.05 at s = 0.5, 0.77 at 0.75, 0.99 at 0.85."""
BAND_COLUMNS = tuple(f"band_{band:02d}" for band in range(BANDS))
COLUMNS = ("key", "fault", "bytes", "failed", "digest")
_MINHASH_SEED = 1
_JUDGED_ROWS = 512  # documents that a judging process receives at once
_REASON = 500  # characters of an engine's error; the cause stands at its end
_PATTERN = re.compile(r"[\\*?\[\]{}]")  # what Daft does not take literally in a path
_QUIET = {"DO_NOT_TRACK": "true", "DAFT_PROGRESS_BAR": "0", "RAY_LOG_TO_DRIVER": "0"}


class Daft:
    """A Daft session. Raises EnvironmentFault without Daft, or without Ray for its runner.

    A process has one runner for its whole life: another one raises ValueError.
    """

    def __init__(self, runner: DaftRunner | None):
        for name, value in _QUIET.items():  # no telemetry, no bars of its own
            os.environ.setdefault(name, value)
        try:
            import daft

            _RUNNERS[runner](daft)
            self.runner = daft.runners.get_or_infer_runner_type()
            if self.runner == "ray":
                import ray  # noqa: F401
        except ImportError as error:
            raise EnvironmentFault(
                f"data prepare needs Daft, and Ray for --runner ray ({error}): "
                "run `uv pip install -e '.[prepare]'` in the clone"
            ) from error
        self._daft: Any = daft
        self.version: str = daft.__version__

    def rows(self, frame: Any) -> Iterator[pa.RecordBatch]:
        """The rows of a dataframe as they are made.

        Raises ValueError for the `fault` of a task, EnvironmentFault for one of Daft or Ray.
        """
        batches = frame.to_arrow_iter()
        while True:
            try:
                batch = next(batches, None)
            except Exception as error:
                reason = " ".join(str(error).split())
                raise EnvironmentFault(f"Daft stopped ({self.runner}): {reason[-_REASON:]}") from error
            if batch is None:
                return
            faults = batch["fault"].drop_null().to_pylist() if "fault" in batch.schema.names else []
            for fault in faults:
                raise ValueError(fault)
            yield batch

    def scan(self, schema: pa.Schema, tasks: Sequence[ScanTask]) -> Any:
        """A dataframe of what `tasks` yield, in no particular order of the tasks."""
        from daft.io.source import DataSource, DataSourceTask
        from daft.recordbatch import RecordBatch

        daft_schema = self._daft.Schema.from_pyarrow_schema(schema)

        class Scan(DataSourceTask):
            def __init__(self, task: ScanTask):
                self._task = task

            @property
            def schema(self) -> Any:
                return daft_schema

            async def read(self) -> Any:
                for batch in self._task():
                    yield RecordBatch.from_arrow_record_batches([batch], schema)

        class Scans(DataSource):
            name = "nanochat"

            @property
            def schema(self) -> Any:
                return daft_schema

            async def get_tasks(self, pushdowns: Any) -> Any:
                for task in tasks:
                    yield Scan(task)

        return Scans().read()

    def marks(self, documents: Any, rules: tuple[str, ...], near: bool) -> Any:
        """For every document: key, bytes, failed rule, digest of the text, hashes of its bands (null if it failed)."""
        daft = self._daft
        from daft.functions import length_bytes, when

        col, kind = daft.col, daft.DataType

        @daft.func.batch(
            return_dtype=kind.struct({"failed": kind.string(), "digest": kind.binary()}),
            unnest=True,
            batch_size=_JUDGED_ROWS,
        )
        def judge(texts: Any) -> list[dict[str, Any]]:
            return [
                {"failed": failed_rule(text, rules), "digest": _digest(text)} for text in texts.to_pylist()
            ]

        size = length_bytes(col("text")).alias("bytes")
        frame = documents.select("key", "fault", "text", size, judge(col("text")))
        if near:
            plain = col("text").normalize(
                remove_punct=True, lowercase=True, nfd_unicode=True, white_space=True
            )
            frame = frame.with_column("plain", when(col("failed").is_null(), plain).otherwise(daft.lit("")))
            hashes = col("plain").minhash(
                num_hashes=BANDS * BAND_HASHES, ngram_size=NGRAM_WORDS, seed=_MINHASH_SEED
            )
            frame = frame.with_column("hashes", hashes.cast(kind.list(kind.uint32())))
            for band, name in enumerate(BAND_COLUMNS):
                rows = col("hashes").slice(band * BAND_HASHES, (band + 1) * BAND_HASHES)
                compared = when(col("plain") != "", rows.hash()).otherwise(daft.lit(None))
                frame = frame.with_column(name, compared)
        return frame.select(*COLUMNS, *(BAND_COLUMNS if near else ()))

    def pairs(self, marks: Path, column: str) -> Keys:
        """(key, first key) of every document in the files of `marks` that shares its `column` with an earlier one."""
        none = np.empty((0, 2), np.int64)
        if not any(marks.iterdir()):
            return none
        daft = self._daft
        key = daft.col("key")
        folder = _PATTERN.sub(r"\\\g<0>", str(marks))
        frame = (
            daft.read_parquet(f"{folder}/*.parquet").select("key", column).where(daft.col(column).not_null())
        )
        first = key.min().over(daft.Window().partition_by(column)).alias("first")
        frame = frame.select("key", first).where(key != daft.col("first"))
        found = [np.stack([batch["key"], batch["first"]], axis=1) for batch in self.rows(frame)]
        return np.concatenate([none, *found])


_RUNNERS: dict[DaftRunner | None, Callable[[Any], object]] = {
    None: lambda daft: None,
    "native": lambda daft: daft.set_runner_native(),
    "ray": lambda daft: daft.set_runner_ray(noop_if_initialized=True),
}


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
