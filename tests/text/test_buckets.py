from collections import Counter
from pathlib import Path

import pytest

from nanochat.text import buckets
from nanochat.text.buckets import Bucket, shuffled, write_buckets
from tests.conftest import traced


def make_bucket(folder: Path, documents: list[bytes]) -> tuple[Path, Bucket]:
    path = folder / "0000"
    (bucket,) = write_buckets([path], ((0, document) for document in documents))
    assert path.stat().st_size == bucket.file_bytes
    return path, bucket


@pytest.mark.slow
def test_a_bucket_too_large_for_memory_is_shuffled_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [f"{number} ".encode() + b"x" * 4000 for number in range(5000)]
    path, bucket = make_bucket(tmp_path, documents)
    monkeypatch.setattr(buckets, "BUCKET_BYTES", 300_000)
    monkeypatch.setattr(buckets, "MOST_BUCKETS", 6)  # so that parts are parted once more
    again, other = (
        [int(document.split()[0]) for document in shuffled(path, bucket, seed)] for seed in ([1, 2], [1, 3])
    )
    with traced() as peak:  # not the first time: what is loaded on first use is not counted
        order = [int(document.split()[0]) for document in shuffled(path, bucket, [1, 2])]
        assert peak() < bucket.bytes / 8
    assert sorted(order) == list(range(5000))
    assert abs(sum(order[:2500]) / 2500 - 2500) < 150  # of a whole, not of stretches
    assert [path.name for path in tmp_path.iterdir()] == ["0000"]
    assert again == order != other


@pytest.mark.parametrize("size", [pytest.param(60, marks=pytest.mark.slow), 1_000_000])
def test_every_order_is_equally_likely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(buckets, "BUCKET_BYTES", size)
    path, bucket = make_bucket(tmp_path, [b"a", b"b", b"c"])
    orders = Counter(b"".join(shuffled(path, bucket, [seed, 1])) for seed in range(900))
    assert len(orders) == 6
    assert all(100 < times < 200 for times in orders.values())
