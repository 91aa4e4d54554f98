"""The stage `data download`, in this process and as two processes at once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.hub import RetryPolicy
from nanochat.paths import Paths
from nanochat.text.datasets import HUB_DATASETS, open_dataset
from nanochat.text.download import DownloadConfig, run
from nanochat.text.shards import shard_name
from tests.hub_server import LoopbackHub, loopback_hub

FINEWEB = HUB_DATASETS["fineweb-edu"]
TRAIN = [shard_name(index) for index in range(4)]
VAL = shard_name(FINEWEB.val_index)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with loopback_hub(monkeypatch) as running:
        for index, name in enumerate([*TRAIN, VAL]):
            pq.write_table(
                pa.table({"text": [f"document {index}-{row}" for row in range(50)]}), tmp_path / "one"
            )
            running.add(FINEWEB.repo, name, (tmp_path / "one").read_bytes())
        yield running


def asked(hub: LoopbackHub) -> list[str]:
    return [request.path.rsplit("/", 1)[-1] for request in hub.content_requests()]


def test_downloads_the_validation_shard_first(hub, tmp_path):
    paths = Paths(tmp_path)
    result = run(DownloadConfig(num_shards=3, workers=1), paths)
    assert asked(hub) == [VAL, *TRAIN[:3]]
    assert result.directory == paths.data("fineweb-edu")
    assert result.bytes == sum(path.stat().st_size for path in result.directory.glob("*.parquet"))
    dataset = open_dataset("fineweb-edu", paths, need_shards=3)
    assert [path.name for path in (*dataset.train, *dataset.val)] == [*TRAIN[:3], VAL]


def test_more_shards_later_fetches_only_those(hub, tmp_path):
    run(DownloadConfig(num_shards=1), Paths(tmp_path))
    hub.requests.clear()
    run(DownloadConfig(num_shards=3), Paths(tmp_path))
    assert sorted(asked(hub)) == TRAIN[1:3]


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (
            DownloadConfig(dataset="fineweb"),
            "no dataset 'fineweb' to download: choose fineweb-edu or climbmix",
        ),
        (DownloadConfig(num_shards=1823), "has 1822 training shards; cannot download 1823"),
        (DownloadConfig(num_shards=-1), "cannot download -1"),
        (DownloadConfig(workers=0), "--workers must be at least 1"),
    ],
)
def test_mistakes_are_reported_before_any_request(config, complaint, hub, tmp_path):
    with pytest.raises(ValueError, match=complaint):
        run(config, Paths(tmp_path))
    assert not hub.requests
    assert not Paths(tmp_path).data("fineweb-edu").exists()


def start(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "nanochat.dataset", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_fetch_every_file_once(hub, base_dir: Path):
    several = [start("-n", "4"), start("-n", "2")]
    for process in several:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert sorted(asked(hub)) == sorted([*TRAIN, VAL])
    assert len(list((base_dir / "data" / "fineweb-edu").glob("*.parquet"))) == 5


@pytest.mark.slow
def test_a_killed_download_is_resumed(hub, base_dir: Path):
    """SIGKILL when half a shard has arrived; the next run requests only the other half."""
    hub.break_next("ok", "stall")
    first = start("-n", "1")
    folder = base_dir / "data" / "fineweb-edu"
    half = len(hub.find(FINEWEB.repo, "main", TRAIN[0])) // 2
    while not any(part.stat().st_size == half for part in folder.glob(f"{TRAIN[0]}.*.part")):
        assert first.poll() is None, first.stderr.read()
        os.sched_yield()
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = start("-n", "1", "--json")
    output, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert '"num_shards": 1' in output
    assert hub.content_requests()[-1].range == f"bytes={half}-"
    assert (folder / TRAIN[0]).read_bytes() == hub.find(FINEWEB.repo, "main", TRAIN[0])


def interrupt(process: subprocess.Popen) -> None:
    """Ctrl-C must end it long before the timeouts for a stalled server."""
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert time.monotonic() - began < RetryPolicy().stall_timeout_s / 3
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "nanochat: interrupted"


def wait_until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    while not condition():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


@pytest.mark.slow
def test_ctrl_c_leaves_a_stalled_shard_at_once_and_a_rerun_completes_it(hub, base_dir: Path):
    hub.break_next("ok", "stall")
    folder, good = base_dir / "data" / "fineweb-edu", hub.find(FINEWEB.repo, "main", TRAIN[0])
    half = len(good) // 2
    first = start("-n", "3", "--workers", "1")  # or another of the three might stall
    wait_until(lambda: any(part.stat().st_size == half for part in folder.glob(f"{TRAIN[0]}.*.part")), first)
    interrupt(first)
    hub.requests.clear()
    second = start("-n", "1")
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert [request.range for request in hub.content_requests()] == [f"bytes={half}-"]
    assert (folder / TRAIN[0]).read_bytes() == good


@pytest.mark.slow
@pytest.mark.parametrize("silent", ["/api/", "/datasets/", "/content/"])
def test_ctrl_c_leaves_a_silent_server_at_once(silent, hub):
    """During the listing, during requests per file to a mirror, and before the first byte of a file."""
    hub.lists = silent != "/datasets/"
    hub.faults = {silent: "silence"}
    process = start("-n", "3")
    wait_until(lambda: any(request.fault == "silence" for request in hub.requests), process)
    interrupt(process)


@pytest.mark.slow
def test_a_hub_that_refuses_is_one_line_and_status_1(hub):
    process = start("--dataset", "climbmix")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert output == ""
    assert len(errors.splitlines()) == 1, errors
    assert "karpathy/climbmix-400b-shuffle" in errors


@pytest.mark.slow
def test_stages_use_existing_shards_and_wait_for_missing_ones(hub, base_dir: Path):
    """As in the overview: shards arrive in the background while the tokenizer trains on the first ones."""
    hub.break_next("ok", "ok", "stall")
    download = start("-n", "2", "--workers", "1")

    def stage(*arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "nanochat", *arguments, "--dataset", "fineweb-edu", "--json"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    training = stage("tokenizer", "train", "--need-shards", "1", "--vocab-size", "266")
    _, errors = training.communicate(timeout=120)
    assert training.returncode == 0, errors
    tokens = stage("data", "tokens", "--need-shards", "2")
    assert tokens.stderr.readline().startswith("tokenizer ")
    assert "waiting for fineweb-edu: 2 of 3 shards downloaded" in tokens.stderr.readline()
    assert download.poll() is None
    hub.release()
    for process in (download, tokens):
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    result = json.loads(output.splitlines()[-1])
    assert (result["shards"], result["counts"]["documents"]) == (2, 100)
