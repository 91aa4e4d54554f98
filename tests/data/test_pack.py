import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from nanochat.data import pack as pack_module
from nanochat.data.pack import PackSettings, pack
from nanochat.data.readers import read_documents
from nanochat.errors import EnvironmentFault

SETTINGS = PackSettings("text", shard_bytes=6_000, val_fraction=0.1, seed=3)


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_module, "BUCKET_BYTES", 4_000)
    monkeypatch.setattr(pack_module, "_TELL_BYTES", 1_000)


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """Text of three formats, some 30 KB in 600 documents."""
    folder = tmp_path / "sources"
    folder.mkdir()
    lines = [json.dumps({"text": f"Zeile {number}: {'größer ' * (number % 11)}"}) for number in range(598)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    (folder / "b.txt").write_text("one file")
    (folder / "c.md").write_text("# another")
    return sorted(folder.iterdir())


def contents(shards: list[Path]) -> dict[str, bytes]:
    return {shard.name: shard.read_bytes() for shard in shards}


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
    assert not (tmp_path / "out" / ".buckets").exists()


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
def test_a_broken_run_goes_on_to_the_same_bytes(sources: list[Path], tmp_path: Path, stop_at: int) -> None:
    class Broken(Exception):  # noqa: N818
        pass

    def break_off(done: int) -> None:
        if done >= stop_at:
            raise Broken

    whole = contents(pack(sources, tmp_path / "whole", SETTINGS)[1])
    out = tmp_path / "broken"
    with pytest.raises(Broken):
        pack(sources, out, SETTINGS, break_off)
    kept = {path: path.stat().st_mtime_ns for path in out.glob("shard_*")}
    _, shards = pack(sources, out, SETTINGS)
    assert contents(shards) == whole
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in shards}.items()


def test_a_finished_pack_is_not_done_again(sources: list[Path], tmp_path: Path) -> None:
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


def test_too_few_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("alone")
    with pytest.raises(ValueError, match="1 documents are too few"):
        pack([tmp_path / "a.txt"], tmp_path / "out", SETTINGS)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


def test_a_full_disk_is_seen_before_anything_is_written(
    sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = pack_module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(pack_module.shutil, "disk_usage", lambda path: usage._replace(free=1_000))
    with pytest.raises(EnvironmentFault, match="too full"):
        pack(sources, tmp_path / "out", SETTINGS)


def test_a_folder_that_cannot_be_made(sources: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentFault, match="a file stands where a folder is needed"):
        pack(sources, tmp_path / "file" / "out", SETTINGS)
