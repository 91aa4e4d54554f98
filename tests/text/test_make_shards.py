import gzip
import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from nanochat.errors import EnvironmentFault
from nanochat.text import buckets, make_shards
from nanochat.text.make_shards import PackSettings, pack
from nanochat.text.own_files import find_files
from nanochat.text.readers import read_documents

SETTINGS = PackSettings("text", shard_bytes=6_000, val_fraction=0.1, seed=3)


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (make_shards, buckets):
        monkeypatch.setattr(module, "BUCKET_BYTES", 4_000)
    monkeypatch.setattr(make_shards, "_PROGRESS_BYTES", 1_000)


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """Text in three formats, about 30 KB in 600 documents."""
    folder = tmp_path / "sources"
    folder.mkdir()
    lines = [json.dumps({"text": f"Zeile {number}: {'größer ' * (number % 11)}"}) for number in range(598)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    (folder / "b.txt").write_text("one file")
    (folder / "c.md").write_text("# another")
    return sorted(folder.iterdir())


def contents(shards: list[Path]) -> dict[str, bytes]:
    return {shard.name: shard.read_bytes() for shard in shards}


class Broken(Exception):  # noqa: N818
    pass


def pack_until(stop_at: int, sources: list[Path], out: Path) -> None:
    """Interrupt a pack after `stop_at` bytes."""

    def interrupt(done: int) -> None:
        if done >= stop_at:
            raise Broken

    with pytest.raises(Broken):
        pack(sources, out, SETTINGS, interrupt)


def read_all(shards: list[Path]) -> list[str]:
    return [text for shard in shards for text in read_documents(shard)]


def test_shards_hold_every_document_shuffled(sources: list[Path], tmp_path: Path) -> None:
    manifest, shards = pack(sources, tmp_path / "out", SETTINGS)
    before = [text for source in sources for text in read_documents(source)]
    after = read_all(shards)
    assert sorted(after) == sorted(before)
    moved = sum(a != b for a, b in zip(before, after, strict=True))
    assert moved > 0.9 * len(before)
    assert manifest.counts.documents == len(before) == 600
    names = sorted(path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith("."))
    assert names == ["manifest.json", *(shard.name for shard in shards)]
    assert not (tmp_path / "out" / ".pack").exists()


def test_shards_are_equal_in_size_and_the_last_is_held_out(sources: list[Path], tmp_path: Path) -> None:
    _, shards = pack(sources, tmp_path / "out", SETTINGS)
    assert len(shards) > 4
    sizes = [sum(len(text.encode()) for text in read_documents(shard)) for shard in shards]
    longest = max(len(text.encode()) for text in read_all(shards))
    assert max(sizes[:-1]) - min(sizes[:-1]) <= 2 * longest
    assert max(sizes[:-1]) <= SETTINGS.shard_bytes + longest
    assert 0 < sizes[-1] < 0.2 * sum(sizes)
    metadata = pq.read_metadata(shards[0])
    assert metadata.row_group(0).column(0).compression == "ZSTD"


def test_the_seed_decides_the_bytes(sources: list[Path], tmp_path: Path) -> None:
    runs = [
        contents(pack(sources, tmp_path / str(run), PackSettings("text", 6_000, 0.1, seed))[1])
        for run, seed in enumerate((3, 3, 4))
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_the_held_out_documents_do_not_depend_on_the_seed(sources: list[Path], tmp_path: Path) -> None:
    last = [
        pack(sources, tmp_path / str(seed), PackSettings("text", 6_000, 0.1, seed))[1][-1] for seed in (1, 2)
    ]
    assert set(read_documents(last[0])) == set(read_documents(last[1]))


@pytest.mark.parametrize("stop_at", [1, 4_000, 20_000, 40_000, 55_000])
def test_an_interrupted_pack_shows_no_shard_and_resumes_to_the_same_bytes(
    sources: list[Path], tmp_path: Path, stop_at: int
) -> None:
    whole = contents(pack(sources, tmp_path / "whole", SETTINGS)[1])
    out = tmp_path / "broken"
    pack_until(stop_at, sources, out)
    with pytest.raises(ValueError, match="nothing to read"):
        find_files(str(out))
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob(".pack/shard_*")}
    assert bool(kept) == (stop_at >= 40_000)
    _, shards = pack(sources, out, SETTINGS)
    assert contents(shards) == whole
    assert kept.items() <= {path.name: path.stat().st_mtime_ns for path in shards}.items()


@pytest.mark.parametrize("moves", [0, 1, 3])
def test_an_interruption_while_shards_are_moved(
    sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    whole = contents(pack(sources, tmp_path / "whole", SETTINGS)[1])
    out, replace = tmp_path / "broken", os.replace

    def move(source: Path, target: Path) -> None:
        if Path(source).parent != Path(target).parent and len(list(out.glob("shard_*"))) == moves:
            raise Broken
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", move)
        with pytest.raises(Broken):
            pack(sources, out, SETTINGS)
    shown = sorted(out.glob("shard_*"))
    assert [path.name for path in shown] == sorted(whole)[len(whole) - moves :]
    assert contents(pack(sources, out, SETTINGS)[1]) == whole


def test_a_shard_that_was_deleted_is_made_again(sources: list[Path], tmp_path: Path) -> None:
    _, shards = pack(sources, tmp_path / "out", SETTINGS)
    whole = contents(shards)
    shards[1].unlink()
    pack_until(20_000, sources, tmp_path / "out")
    with pytest.raises(ValueError, match="nothing to read"):  # not what is left of the first pack
        find_files(str(tmp_path / "out"))
    assert contents(pack(sources, tmp_path / "out", SETTINGS)[1]) == whole


@pytest.mark.parametrize("damage", ["gone", "short", "altered"])
def test_damaged_buckets_are_made_again(sources: list[Path], tmp_path: Path, damage: str) -> None:
    whole = contents(pack(sources, tmp_path / "whole", SETTINGS)[1])
    out = tmp_path / "broken"
    pack_until(40_000, sources, out)
    bucket = out / ".pack" / "0007"
    raw = bucket.read_bytes()
    bucket.unlink()
    if damage != "gone":
        bucket.write_bytes(raw[:-1] if damage == "short" else bytes(len(raw)))
    if damage == "altered":
        with pytest.raises(
            EnvironmentFault, match="0007 is damaged and has been removed: run the same command again"
        ):
            pack(sources, out, SETTINGS)
    assert contents(pack(sources, out, SETTINGS)[1]) == whole


def test_buckets_are_synced_before_the_manifest_is_written(
    sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, fsync = [], os.fsync

    def sync(descriptor: int) -> None:
        fsync(descriptor)
        status = os.fstat(descriptor)
        synced.append((status.st_ino, status.st_size))

    monkeypatch.setattr(os, "fsync", sync)
    out = tmp_path / "out"
    pack_until(40_000, sources, out)
    manifest = (out / "manifest.json").stat()
    before = synced[: synced.index((manifest.st_ino, manifest.st_size))]
    written = [path.stat() for path in (out / ".pack").glob("????")]
    assert len(written) > 5
    assert {(bucket.st_ino, bucket.st_size) for bucket in written} <= set(before)


def test_text_far_larger_than_estimated_from_its_files(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl.gz"
    texts = [f"{number} " + "again " * 50 for number in range(3_000)]
    source.write_bytes(gzip.compress("\n".join(json.dumps({"text": text}) for text in texts).encode()))
    manifest, shards = pack([source], tmp_path / "out", PackSettings("text", 200_000, 0.1, 0))
    assert max(bucket.memory_bytes for bucket in manifest.buckets) > 10 * buckets.BUCKET_BYTES
    assert sorted(read_all(shards)) == sorted(text.strip() + " " for text in texts)


def test_a_finished_pack_is_kept(sources: list[Path], tmp_path: Path) -> None:
    manifest, shards = pack(sources, tmp_path / "out", SETTINGS)
    before = [shard.stat().st_mtime_ns for shard in shards]
    assert pack(sources, tmp_path / "out", SETTINGS) == (manifest, shards)
    assert [shard.stat().st_mtime_ns for shard in shards] == before


def test_a_document_larger_than_a_shard(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text(
        "\n".join(json.dumps({"text": text}) for text in ["x" * 5_000, "y" * 5_000, "z", "w", "v"])
    )
    _, shards = pack([source], tmp_path / "out", PackSettings("text", 700, 0.3, 0))
    assert all(shard.exists() for shard in shards)
    assert sorted(map(len, read_all(shards))) == [1, 1, 1, 5_000, 5_000]


def test_other_settings_or_files_in_the_folder_are_refused(sources: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(sources, out, SETTINGS)
    with pytest.raises(ValueError, match="other text or settings"):
        pack(sources, out, PackSettings("text", 6_000, 0.1, seed=9))
    with pytest.raises(ValueError, match="other text or settings"):
        pack(sources[1:], out, SETTINGS)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.doc").write_text("precious")
    with pytest.raises(ValueError, match="holds other files"):
        pack(sources, tmp_path / "used", SETTINGS)
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["thesis.doc"]


@pytest.mark.parametrize("val_fraction", [1e-9, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("documents", [2, 3, 50])
def test_few_documents_give_two_splits(tmp_path: Path, documents: int, val_fraction: float) -> None:
    settings = PackSettings("text", 1_000_000, val_fraction, 0)
    for trial in range(10):
        source = tmp_path / f"{trial}.jsonl"
        texts = [f"trial {trial}, document {number}" for number in range(documents)]
        source.write_text("\n".join(json.dumps({"text": text}) for text in [*texts, texts[0]]))
        _, (train, val) = pack([source], tmp_path / f"out-{trial}", settings)
        train_texts, val_texts = list(read_documents(train)), list(read_documents(val))
        assert train_texts
        assert val_texts
        assert set(train_texts).isdisjoint(val_texts)
        assert sorted(train_texts + val_texts) == sorted([*texts, texts[0]])
        if val_fraction < 1e-3:
            assert len(set(val_texts)) == 1


@pytest.mark.parametrize("texts", [["alone"], ["the same", "the same"], []])
def test_too_few_documents(tmp_path: Path, texts: list[str]) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    with pytest.raises(
        ValueError, match=rf"too few different documents to hold one out \({len(texts)} read\)"
    ):
        pack([source], tmp_path / "out", SETTINGS)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


def test_too_many_shards(sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_shards, "_MOST_SHARDS", 100)
    with pytest.raises(ValueError, match="too many shards: choose a larger --shard-mb"):
        pack(sources, tmp_path / "out", PackSettings("text", 100, 0.1, 0))


def test_a_full_disk_is_detected_before_anything_is_written(
    sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = make_shards.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(make_shards.shutil, "disk_usage", lambda path: usage._replace(free=1_000))
    with pytest.raises(EnvironmentFault, match="too full"):
        pack(sources, tmp_path / "out", SETTINGS)


def test_a_folder_that_cannot_be_made(sources: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentFault, match="a file stands where a folder is needed"):
        pack(sources, tmp_path / "file" / "out", SETTINGS)
