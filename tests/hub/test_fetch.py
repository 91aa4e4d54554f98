"""The functions that other packages call: files of the hub, exported splits, plain URLs."""

import io
import random
import zipfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat import hub as downloads
from nanochat.errors import EnvironmentFault
from nanochat.paths import Paths
from tests.hub_server import TOKEN

pytestmark = pytest.mark.slow

REPO = "owner/name"


def parquet(seed: int, rows: int = 400) -> bytes:
    sink = io.BytesIO()
    words = random.Random(seed)
    pq.write_table(pa.table({"text": [words.randbytes(40).hex() for _ in range(rows)]}), sink)
    return sink.getvalue()


SHARDS = {f"shard_{index:05d}.parquet": parquet(index) for index in range(7)}
NAMES = list(SHARDS)


@pytest.fixture
def served(hub):
    for name, data in SHARDS.items():
        hub.add(REPO, name, data)
    return hub


def fetch(directory: Path, policy, names: list[str] = NAMES) -> list[Path]:
    return downloads.fetch_files(REPO, names, directory, check=downloads.check_parquet, policy=policy)


def read(paths: list[Path]) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in paths}


@pytest.mark.parametrize("seed", range(3))
def test_a_fifth_of_the_requests_failing(seed, served, policy, tmp_path):
    served.break_share(0.2, seed)
    assert read(fetch(tmp_path, replace(policy, bad_copies=10))) == SHARDS
    assert sum(request.fault is not None for request in served.requests) >= len(served.requests) // 10 * 2
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".parquet") == NAMES
    assert not list(tmp_path.glob("*.part"))


def test_the_real_corpus_with_a_fifth_of_the_requests_failing(hub, policy, shared_data, tmp_path):
    corpus = {path.name: path.read_bytes() for path in sorted((shared_data / "corpus").glob("*.parquet"))}
    assert len(corpus) == 7
    for name, data in corpus.items():
        hub.add(REPO, name, data)
    hub.break_share(0.2, seed=20)
    assert read(fetch(tmp_path, replace(policy, bad_copies=10), list(corpus))) == corpus


def test_the_token_stays_with_the_hub(served, policy, tmp_path):
    fetch(tmp_path, policy)
    tokens = {request.path.split("/")[1]: request.token for request in served.requests}
    assert tokens == {"api": f"Bearer {TOKEN}", "datasets": f"Bearer {TOKEN}", "content": None}


def test_a_rerun_fetches_only_what_is_missing_or_damaged(served, policy, tmp_path):
    paths = fetch(tmp_path, policy)
    served.requests.clear()
    assert fetch(tmp_path, policy) == paths
    assert not served.content_requests()
    paths[1].unlink()
    paths[3].write_bytes(SHARDS[NAMES[3]][:-100])
    paths[5].write_bytes(SHARDS[NAMES[5]][:-4] + b"oops")
    assert read(fetch(tmp_path, policy)) == SHARDS
    fetched = {request.path.rsplit("/", 1)[-1] for request in served.content_requests()}
    assert fetched == {NAMES[1], NAMES[3], NAMES[5]}


def test_without_stated_hashes_size_and_format_are_checked(served, policy, tmp_path):
    served.states_hashes = False
    served.break_next("cut", "truncate", "padded", "503")
    assert read(fetch(tmp_path, policy)) == SHARDS


def test_offline_uses_existing_files(served, policy, tmp_path, monkeypatch):
    paths = fetch(tmp_path, policy, NAMES[:2])
    served.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(tmp_path, policy, NAMES[:2]) == paths
    with pytest.raises(EnvironmentFault, match=f"HF_HUB_OFFLINE is set and .* lacks {NAMES[2]}: unset it"):
        fetch(tmp_path, policy, NAMES[:3])
    with pytest.raises(EnvironmentFault, match=r"lacks .* and 2 more"):
        fetch(tmp_path, policy)
    assert not served.requests


def test_an_unreachable_hub_does_not_matter_if_all_files_exist(served, policy, tmp_path):
    paths = fetch(tmp_path, policy, NAMES[:2])
    served.vanish()
    assert fetch(tmp_path, policy, NAMES[:2]) == paths
    with pytest.raises(EnvironmentFault, match="listing owner/name"):
        fetch(tmp_path, policy, NAMES[:3])


@pytest.mark.parametrize("count", [1, 3])
def test_exported_splits(count, hub, tmp_path, monkeypatch):
    paths, folder = Paths(tmp_path), "main/train"
    for index in range(count):
        name = f"{folder}/{index:04d}.parquet"
        hub.add("openai/gsm8k", name, SHARDS[NAMES[index]], revision="refs/convert/parquet")
    files = downloads.hub_parquet_files("openai/gsm8k", "main", "train", paths)
    assert [file.read_bytes() for file in files] == [SHARDS[name] for name in NAMES[:count]]
    assert files[0] == tmp_path / "task_data/openai/gsm8k/main/train/0000.parquet"
    asked = [request.path.rsplit("/", 1)[-1] for request in hub.content_requests()]
    assert asked[-1] == "0000.parquet"  # its presence says that the split is whole

    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert downloads.hub_parquet_files("openai/gsm8k", "main", "train", paths) == files
    with pytest.raises(EnvironmentFault, match="HF_HUB_OFFLINE"):
        downloads.hub_parquet_files("openai/gsm8k", "main", "test", paths)
    assert not hub.requests


DATA = random.Random(3).randbytes(50_000)


@pytest.mark.parametrize("has_head", [True, False])
def test_plain_addresses(has_head, hub, policy, tmp_path):
    hub.add("plain", "bundle.zip", DATA)
    hub.has_head = has_head
    hub.break_next("cut", "503", "stall")
    address, target = f"{hub.url}/plain/bundle.zip", tmp_path / "deep" / "bundle.zip"
    path = downloads.fetch_url(address, target, policy=policy)
    assert path.read_bytes() == DATA
    assert {request.token for request in hub.requests} == {None}
    hub.requests.clear()
    downloads.fetch_url(address, target, policy=policy)
    assert not hub.requests


def test_a_plain_address_is_checked_by_its_reader(hub, policy, tmp_path):
    """A truncated zip whose size matches what the server states leaves what was there."""
    hub.add("plain", "bundle.zip", DATA)
    target = tmp_path / "b.zip"

    def check(path: Path) -> None:
        zipfile.ZipFile(path).close()

    with pytest.raises(EnvironmentFault, match="it cannot be read"):
        downloads.fetch_url(f"{hub.url}/plain/bundle.zip", target, check=check, policy=policy)
    assert not target.exists()
    target.write_bytes(b"older")
    with pytest.raises(EnvironmentFault, match="it cannot be read"):
        downloads.fetch_url(f"{hub.url}/plain/bundle.zip", target, check=check, policy=policy)
    assert target.read_bytes() == b"older"


def test_bad_addresses(hub, policy, tmp_path):
    with pytest.raises(ValueError, match="must be an address like https://"):
        downloads.fetch_url("ftp://example.org/x", tmp_path / "x")
    with pytest.raises(EnvironmentFault, match="HTTP 404"):
        downloads.fetch_url(f"{hub.url}/plain/none", tmp_path / "x", policy=policy)
