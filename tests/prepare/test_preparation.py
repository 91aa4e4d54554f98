"""Preparing text with the real Daft, in this process and on a Ray cluster of two workers.

Neither is part of the development group: `uv sync --inexact --extra prepare`.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.cli.prepare import PrepareConfig, run_prepare
from nanochat.paths import Paths
from nanochat.prepare import preparation
from nanochat.text.datasets import documents, open_dataset

pytestmark = pytest.mark.slow

_CLUSTER = """
import os, sys
from ray.cluster_utils import Cluster
from nanochat.cli.main import main
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
for _ in range(2):
    cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
os.environ["RAY_ADDRESS"] = cluster.address
code = main(sys.argv[1:])
import ray
workers = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
assert len(workers) == 2, workers
sys.exit(code)
"""


@pytest.fixture(scope="module")
def daft():
    return pytest.importorskip("daft", reason="the extra `prepare` is not installed")


def text(rng: random.Random, words: int = 200) -> list[str]:
    """Words that no other text has in this order."""
    return [f"{rng.choice('bcdfgklm')}{rng.choice('aeiou')}{rng.randrange(1000):03d}n" for _ in range(words)]


def lines_of(words: list[str]) -> str:
    return "\n".join(" ".join(words[start : start + 10]) for start in range(0, len(words), 10))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], dict[str, int]]:
    """Files of a source, the documents that must stay, and how many must go for what."""
    rng = random.Random(1)
    originals = [text(rng) for _ in range(60)]
    near = []
    for words in originals[:12]:  # one word of 200 differs: about 0.95 of the 5-grams are shared
        other = list(words)
        other[rng.randrange(200)] = "otherwise"
        near.append(lines_of(other).upper())
    chain = [list(originals[20])]  # each one differs from the one before it, so that the ends share little
    for step in range(1, 8):
        chain.append([*chain[-1][: 25 * step], "changed", *chain[-1][25 * step + 1 :]])
    exact = [lines_of(words) for words in originals[5:30]]
    short = [f"some text too short {number}" for number in range(7)]
    repeated = ["\n".join(["the same line again and again"] * 20) for _ in range(3)]
    stay = [lines_of(words) for words in originals]
    later = [*near, *exact, *short, *repeated, *map(lines_of, chain[1:])]
    rng.shuffle(later)
    everything = [*stay, *later]
    folder = tmp_path_factory.mktemp("planted")
    for number in range(5):  # in the order of input the originals come first
        part = everything[number * 24 : (number + 1) * 24]
        (folder / f"{number}.jsonl").write_text(
            "\n".join(json.dumps({"text": document}) for document in part)
        )
    (folder / "4.jsonl").rename(folder / ".blob")
    (folder / "4.jsonl").symlink_to(".blob")  # as the hub's cache has it
    assert len(everything) <= 120
    gone = {"words": 7, "repeated-lines": 3, "exact": 25, "near": 12 + 7}
    return folder, stay, gone


def shards(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file() and path.name[0] != "."}


def config(source: Path, out: Path, **changes) -> PrepareConfig:
    return PrepareConfig(source=str(source), out=out, shard_mb=0.03, val_fraction=0.1, **changes)


def test_planted_duplicates_are_found_and_the_rest_is_a_dataset(daft, planted, paths: Paths, tmp_path: Path):
    folder, stay, gone = planted
    record = run_prepare(config(folder, tmp_path / "a"), paths).record
    dataset = open_dataset(str(tmp_path / "a"), paths)
    found = [*documents(dataset, "train"), *documents(dataset, "val")]
    assert sorted(found) == sorted(stay)
    assert found != stay
    assert {"words": 7, "repeated-lines": 3} == {
        rule: count for rule, count in record.failed.items() if count
    }
    assert (record.exact, record.near, record.kept) == (gone["exact"], gone["near"], len(stay))
    assert record.read.documents == sum(gone.values()) + len(stay)
    assert record.kept_bytes == sum(len(document.encode()) for document in stay)

    odd = tmp_path / "b [x]*{y}?"  # a pattern, read as one
    run_prepare(config(folder, odd), paths)
    assert shards(tmp_path / "a") == shards(odd)
    assert len(record.shards) > 2
    other = run_prepare(
        config(folder, tmp_path / "c", skip=("near-duplicates", "words"), seed=1), paths
    ).record
    assert (other.near, other.exact, "words" in other.failed) == (0, gone["exact"], False)
    assert other.kept == record.kept + gone["near"] + gone["words"]
    assert sorted(path.name for path in (tmp_path / "c").iterdir() if path.is_dir()) == []


def test_a_finished_preparation_is_kept_and_an_interrupted_shuffle_resumed(
    daft, planted, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, out = planted[0], tmp_path / "out"

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(preparation, "_shuffle", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_prepare(config(folder, out), paths)
    monkeypatch.setattr(preparation, "_write_kept", interrupted)
    run_prepare(config(folder, out), paths)
    before = shards(out)
    monkeypatch.setattr(preparation, "_shuffle", interrupted)
    run_prepare(config(folder, out), paths)
    assert shards(out) == before
    with pytest.raises(
        ValueError, match=r"^.*out holds other files or settings: choose an empty or new folder"
    ):
        run_prepare(config(folder, out, seed=5), paths)


def test_damage_is_one_line(daft, planted, paths: Paths, tmp_path: Path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes())
    content = bytearray((tmp_path / "b.parquet").read_bytes())
    content[4:24] = b"x" * 20
    (tmp_path / "b.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"^\S+b\.parquet is damaged [^\n]+: replace or remove it$"):
        run_prepare(config(tmp_path, tmp_path.parent / "out"), paths)
    assert [path.name for path in (tmp_path.parent / "out").iterdir()] == [".prepare.lock"]


def test_an_empty_source_is_one_line(daft, paths: Paths, tmp_path: Path):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"^of 0 documents none is left: the source is empty[^\n]*$"):
        run_prepare(config(tmp_path / "a.txt", tmp_path / "out"), paths)


def test_two_ray_workers_give_the_same_bytes(daft, planted, paths: Paths, tmp_path: Path):
    pytest.importorskip("ray", reason="the extra `prepare` is not installed")
    run_prepare(config(planted[0], tmp_path / "native"), paths)
    flags = ["--shard-mb=0.03", "--val-fraction=0.1", "--runner=ray"]
    command = ["data", "prepare", f"--source={planted[0]}", f"--out={tmp_path / 'ray'}", *flags]
    done = subprocess.run(
        [sys.executable, "-c", _CLUSTER, *command],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "runner ray" in done.stderr
    assert shards(tmp_path / "ray") == shards(tmp_path / "native")
