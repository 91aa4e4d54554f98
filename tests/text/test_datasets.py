import json
import threading
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from nanochat.hub.batch import LOCK_NAME
from nanochat.paths import Paths
from nanochat.text import arriving_shards
from nanochat.text.datasets import HUB_DATASETS, documents, held_out_fraction, open_dataset
from nanochat.text.shards import shard_name, write_shard


def texts(prefix: str, count: int) -> list[str]:
    return [f"{prefix} {number}" for number in range(count)]


def hub_shards(paths: Paths, *indices: int) -> None:
    for index in indices:
        write_shard(paths.data("climbmix") / shard_name(index), [f"from shard {index}"])


LAST = HUB_DATASETS["climbmix"].val_index


class TestBuiltin:
    @pytest.mark.slow
    def test_is_made_once_and_splits(self, paths: Paths) -> None:
        dataset = open_dataset("builtin", paths)
        assert dataset.name == "builtin-small-s0"
        assert len(dataset.train) > 1
        stamps = [path.stat().st_mtime_ns for path in (*dataset.train, *dataset.val)]
        again = open_dataset("builtin:small:0", paths)
        assert again == dataset
        assert stamps == [path.stat().st_mtime_ns for path in (*again.train, *again.val)]
        assert set(documents(dataset, "val")).isdisjoint(documents(dataset, "train"))
        leftovers = [path.name for path in paths.data("x").parent.iterdir() if path.is_dir()]
        assert leftovers == ["builtin-small-s0"]

    @pytest.mark.slow
    def test_what_a_killed_run_left_is_removed(self, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
        from nanochat import builtin

        monkeypatch.setattr(builtin, "documents", lambda size, seed: iter(["a world"]))
        write_shard(paths.data("x").parent / ".builtin-small-s0.killed" / shard_name(0), ["half"])
        open_dataset("builtin", paths)
        folders = [path.name for path in paths.data("x").parent.iterdir() if path.is_dir()]
        assert folders == ["builtin-small-s0"]

    def test_another_content_version_makes_it_anew(
        self, paths: Paths, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from nanochat import builtin

        monkeypatch.setattr(builtin, "documents", lambda size, seed: iter(["old world"]))
        monkeypatch.setattr(builtin, "val_documents", lambda size, seed: iter(["old val"]))
        assert list(documents(open_dataset("builtin", paths), "train")) == ["old world"]
        monkeypatch.setattr(builtin, "documents", lambda size, seed: iter([f"new world {size} {seed}"]))
        assert list(documents(open_dataset("builtin", paths), "train")) == ["old world"]
        monkeypatch.setattr(builtin, "CONTENT_VERSION", builtin.CONTENT_VERSION + 1)
        assert list(documents(open_dataset("builtin", paths), "train")) == ["new world small 0"]
        assert list(documents(open_dataset("builtin:large:7", paths), "train")) == ["new world large 7"]

    def test_a_generator_that_fails_leaves_nothing(
        self, paths: Paths, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from nanochat import builtin

        def failing(size: str, seed: int):
            yield "one"
            raise RuntimeError("out of stories")

        monkeypatch.setattr(builtin, "documents", failing)
        with pytest.raises(RuntimeError, match="out of stories"):
            open_dataset("builtin", paths)
        assert not any(path.is_dir() for path in paths.data("x").parent.iterdir())

    @pytest.mark.parametrize("spec", ["builtin:huge", "builtin:small:x", "builtin:small:-1"])
    def test_unknown_sizes_and_seeds(self, paths: Paths, spec: str) -> None:
        with pytest.raises(ValueError, match=r"use builtin:small\|medium\|large"):
            open_dataset(spec, paths)


class TestHub:
    def test_what_is_here(self, paths: Paths) -> None:
        hub_shards(paths, 1, 0, LAST)
        dataset = open_dataset("climbmix", paths)
        assert list(documents(dataset, "train")) == ["from shard 0", "from shard 1"]
        assert list(documents(dataset, "val")) == [f"from shard {LAST}"]

    def test_nothing_here_says_how_to_fetch(self, paths: Paths) -> None:
        with pytest.raises(ValueError, match="nanochat data download --dataset fineweb-edu"):
            open_dataset("fineweb-edu", paths)

    def test_takes_exactly_the_shards_needed(self, paths: Paths) -> None:
        hub_shards(paths, 0, 1, 2, LAST)
        assert len(open_dataset("climbmix", paths, need_shards=2).train) == 2

    def test_the_validation_shard_is_never_trained_on(
        self, paths: Paths, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not even when all training shards are here, up to the one before it."""
        few = replace(HUB_DATASETS["climbmix"], shards=3)
        monkeypatch.setitem(HUB_DATASETS, "climbmix", few)
        hub_shards(paths, 0, 1, 2)
        dataset = open_dataset("climbmix", paths)
        assert list(documents(dataset, "train")) == ["from shard 0", "from shard 1"]

    def test_shards_after_a_gap_wait_for_it_to_be_filled(self, paths: Paths) -> None:
        """Or a run that is resumed once it is filled would find other first shards."""
        hub_shards(paths, 0, 1, 3, LAST)
        assert list(documents(open_dataset("climbmix", paths), "train")) == ["from shard 0", "from shard 1"]
        hub_shards(paths, 2)
        assert len(open_dataset("climbmix", paths).train) == 4

    @pytest.mark.parametrize("shards", [-1, 0, LAST + 1])
    def test_shards_that_the_dataset_does_not_have(self, paths: Paths, shards: int) -> None:
        with pytest.raises(
            ValueError, match=f"climbmix has {LAST} training shards, --need-shards wants {shards}"
        ):
            open_dataset("climbmix", paths, need_shards=shards)

    def test_a_file_that_vanishes_while_it_is_looked_at_is_no_obstacle(self, paths: Paths) -> None:
        hub_shards(paths, 0)
        folder = paths.data("climbmix")
        (folder / "renamed.part").symlink_to(folder / "gone")
        assert arriving_shards._bytes_in(folder) == (folder / shard_name(0)).stat().st_size

    def test_waits_for_shards_that_arrive(
        self, paths: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(arriving_shards, "_POLL_S", 0.01)
        hub_shards(paths, 0, LAST)
        waiting = threading.Event()
        monkeypatch.setattr(arriving_shards, "say", lambda line: (said.append(line), waiting.set()))
        said: list[str] = []

        def arrive() -> None:
            assert waiting.wait(10)
            hub_shards(paths, 1)

        helper = threading.Thread(target=arrive)
        helper.start()
        dataset = open_dataset("climbmix", paths, need_shards=2)
        helper.join()
        assert list(documents(dataset, "train")) == ["from shard 0", "from shard 1"]
        assert said == ["waiting for climbmix: 2 of 3 shards downloaded"]

    def test_gives_up_when_nobody_is_downloading(self, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(arriving_shards, "_POLL_S", 0.01)
        monkeypatch.setattr(arriving_shards, "_PATIENCE_S", 0.05)
        hub_shards(paths, 0, LAST)
        with pytest.raises(ValueError, match=r"1 of 3 shards of climbmix are missing.*download.*-n 2"):
            open_dataset("climbmix", paths, need_shards=2)

    def test_a_held_download_lock_is_a_sign_of_life(self, paths: Paths) -> None:
        lock = paths.base / LOCK_NAME
        assert not arriving_shards._is_locked(lock)
        lock.parent.mkdir(parents=True)
        with FileLock(lock):
            assert arriving_shards._is_locked(lock)
        assert not arriving_shards._is_locked(lock)


class TestFiles:
    def test_the_last_parquet_shard_is_validation(self, paths: Paths, tmp_path: Path) -> None:
        for index in range(3):
            write_shard(tmp_path / "mine" / shard_name(index), [f"shard {index}"])
        dataset = open_dataset(str(tmp_path / "mine"), paths)
        assert list(documents(dataset, "train")) == ["shard 0", "shard 1"]
        assert list(documents(dataset, "val")) == ["shard 2"]
        assert dataset.validation == "shard_00002.parquet"
        assert dataset.name == "mine"

    def test_a_single_file_holds_a_share_out(self, paths: Paths, tmp_path: Path) -> None:
        write_shard(tmp_path / "one.parquet", texts("text", 1000))
        dataset = open_dataset(str(tmp_path / "one.parquet"), paths, val_fraction=0.2)
        train, val = set(documents(dataset, "train")), set(documents(dataset, "val"))
        assert train | val == set(texts("text", 1000))
        assert train.isdisjoint(val)
        assert 150 < len(val) < 250
        assert "20.00%" in dataset.validation

    def test_a_small_source_holds_out_at_least_one_document(self, paths: Paths, tmp_path: Path) -> None:
        for number in range(4):
            (tmp_path / f"{number}.txt").write_text(f"story {number}")
        dataset = open_dataset(str(tmp_path), paths, val_fraction=1e-9)
        assert len(list(documents(dataset, "val"))) == 1
        assert len(list(documents(dataset, "train"))) == 3

    def test_a_validation_path_leaves_all_else_for_training(self, paths: Paths, tmp_path: Path) -> None:
        write_shard(tmp_path / "a" / shard_name(0), texts("train", 3))
        (tmp_path / "val.jsonl").write_text(json.dumps({"text": "val"}))
        dataset = open_dataset(str(tmp_path / "a"), paths, val_path=str(tmp_path / "val.jsonl"))
        assert list(documents(dataset, "train")) == texts("train", 3)
        assert list(documents(dataset, "val")) == ["val"]

    def test_validation_files_within_the_dataset_are_not_trained_on(
        self, paths: Paths, tmp_path: Path
    ) -> None:
        for name in ("a.txt", "b.txt", "c.txt"):
            (tmp_path / "texts" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "texts" / name).write_text(name)
        (tmp_path / "link.txt").symlink_to(tmp_path / "texts" / "b.txt")
        dataset = open_dataset(str(tmp_path / "texts"), paths, val_path=str(tmp_path / "link.txt"))
        assert list(documents(dataset, "train")) == ["a.txt", "c.txt"]
        assert list(documents(dataset, "val")) == ["b.txt"]
        with pytest.raises(ValueError, match=r"^--val-path .*none is left to train on$"):
            open_dataset(str(tmp_path / "texts"), paths, val_path=str(tmp_path / "texts" / "*.txt"))

    def test_patterns(self, paths: Paths, tmp_path: Path) -> None:
        for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
            (tmp_path / name).write_text(json.dumps({"body": name}))
        (tmp_path / "d.jsonl").mkdir()  # as Spark names a folder of parts
        dataset = open_dataset(str(tmp_path / "[abd].jsonl"), paths, text_column="body")
        assert [path.name for path in (*dataset.train, *dataset.val)] == ["a.jsonl", "b.jsonl"]

    def test_a_folder_is_searched_below_and_a_readme_is_no_shard(self, paths: Paths, tmp_path: Path) -> None:
        write_shard(tmp_path / "data" / "x.parquet", ["x"])
        write_shard(tmp_path / "data" / "y.parquet", ["y"])
        (tmp_path / "README.md").write_text("about")
        (tmp_path / ".cache").mkdir()
        (tmp_path / ".cache" / "z.parquet").write_text("hidden")
        dataset = open_dataset(str(tmp_path), paths)
        assert [path.name for path in (*dataset.train, *dataset.val)] == ["x.parquet", "y.parquet"]

    def test_bad_sources_are_one_clear_line(self, paths: Paths, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "table.csv").write_text("a,b")
        pq.write_table(pa.table({"body": ["x", "y"]}), tmp_path / "body.parquet")
        for spec, message in {
            "": "unknown dataset ''",  # not the working directory
            "no-such-name": "unknown dataset 'no-such-name'.*builtin, fineweb-edu, climbmix",
            str(tmp_path / "empty"): "the folder .*empty holds no .parquet, .jsonl",
            str(tmp_path / "*.npy"): r"no .* file matches the pattern .*\.npy$",
            str(tmp_path / "table.csv"): "unknown format",
            str(tmp_path / "body.parquet"): r"no column 'text'.*\['body'\].*--text-column",
        }.items():
            with pytest.raises(ValueError, match=message):
                open_dataset(spec, paths)
        with pytest.raises(ValueError, match="no file or folder ''"):
            open_dataset(str(tmp_path / "body.parquet"), paths, text_column="body", val_path="")

    @pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2.0])
    def test_shares_out_of_range(self, paths: Paths, tmp_path: Path, fraction: float) -> None:
        (tmp_path / "a.txt").write_text("a")
        with pytest.raises(ValueError, match=r"^--val-fraction must be above 0 and below 1, not "):
            open_dataset(str(tmp_path / "a.txt"), paths, val_fraction=fraction)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", r"^/.*few\.txt has no text$"),
        (
            b"one line",
            "^few has only 1 document, which was chosen for validation, so none is left to train on: .*--val-path",
        ),
        (bytes(range(256)), "^few has only 1 document, which was chosen"),
    ],
)
def test_too_little_text_is_told_apart(paths: Paths, tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "few.txt").write_bytes(content)
    with pytest.raises(ValueError, match=says):
        open_dataset(str(tmp_path / "few.txt"), paths)


def test_the_held_out_share_is_the_same_on_every_machine() -> None:
    assert held_out_fraction("The capital of France is Paris.") == pytest.approx(0.753190, abs=1e-6)
