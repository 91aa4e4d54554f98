from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.text.datasets import Dataset, split_bytes
from nanochat.text.readers import read_documents
from nanochat.text.shards import ROW_GROUP, chunked, shard_name, text_bytes, write_shard

TEXTS = [f"document {number}: grüß Gott" for number in range(2 * ROW_GROUP + 10)]


def test_a_shard_reads_back_and_equal_documents_give_equal_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / shard_name(0), tmp_path / shard_name(1)
    assert write_shard(first, TEXTS) == len(TEXTS)
    write_shard(second, (text.encode() for text in TEXTS))
    assert list(read_documents(first)) == TEXTS
    assert first.read_bytes() == second.read_bytes()
    file = pq.ParquetFile(first)
    assert file.num_row_groups == 3
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_chunks_keep_order_and_size() -> None:
    chunks = list(chunked(TEXTS, 1000))
    assert [text for chunk in chunks for text in chunk] == TEXTS
    for chunk in chunks[:-1]:
        assert sum(map(len, chunk)) >= 1000 > sum(map(len, chunk[:-1]))


def test_text_bytes_is_about_the_text(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.parquet", TEXTS)
    (tmp_path / "a.txt").write_text("".join(TEXTS))
    size = sum(len(text.encode()) for text in TEXTS)
    assert text_bytes(tmp_path / "a.txt") == size
    assert size <= text_bytes(tmp_path / "a.parquet") <= 1.5 * size


def test_text_bytes_leaves_other_columns_out(tmp_path: Path) -> None:
    table = pa.table(
        {"url": ["https://example.org/" * 20] * len(TEXTS), "body": TEXTS, "more": [TEXTS[:9]] * len(TEXTS)}
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=ROW_GROUP, use_dictionary=False)
    size = sum(len(text.encode()) for text in TEXTS)
    assert size <= text_bytes(tmp_path / "a.parquet", "body") <= 1.5 * size
    dataset = Dataset("own", (tmp_path / "a.parquet",), (), "body")
    assert size <= split_bytes(dataset, "train") <= 1.5 * size
