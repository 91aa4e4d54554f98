"""The whole speedrun at toy size, against a hub on the loopback: interrupted, resumed, finished."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest

from nanochat import builtin
from nanochat.config import from_json
from nanochat.metrics import rows_of
from nanochat.metrics_rows import TrainRow
from nanochat.paths import Paths
from nanochat.recipes.record import RecordFile
from nanochat.text.datasets import HUB_DATASETS
from nanochat.text.shards import shard_name, write_shard
from tests.hub_server import LoopbackHub, loopback_hub

REVISION = "refs/convert/parquet"
CONVERSATIONS = ("HuggingFaceTB/smol-smoltalk", "openai/gsm8k")
TINY = (
    "shards.num-shards=1",
    "all-shards.num-shards=2",
    "tokenizer.vocab-size=512",
    "pretrain.num-iterations=100",
    "pretrain.total-batch-size=1024",
    "pretrain.device-batch-size=4",
    "pretrain.fp8=false",
    "pretrain.eval-bytes=2000",
    "eval-base.core=off",
    "eval-base.max-bytes=2000",
    "sft.mixture=smoltalk+gsm8k+identity",
    "sft.num-iterations=3",
    "sft.eval-conversations=4",
    "eval-chat.max-items=1",
)
COMMAND = (
    *(sys.executable, "-m", "nanochat", "run", "speedrun", "--json"),
    *("--model-tag=toy", "--depth=1", "--set", *TINY),
)


@pytest.fixture
def hub(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A hub with a little fineweb-edu, and the conversations and tasks of the shared data folder."""
    if not all((shared_data / "hub" / repo).is_dir() for repo in CONVERSATIONS):
        pytest.skip(f"no conversations of {' and '.join(CONVERSATIONS)} below {shared_data / 'hub'}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with loopback_hub(monkeypatch) as server:
        _add_text(server, tmp_path)
        for file in sorted((shared_data / "hub").rglob("*.parquet")):
            owner, name, *rest = file.relative_to(shared_data / "hub").parts
            server.add(f"{owner}/{name}", "/".join(rest), file.read_bytes(), REVISION)
        yield server


def _add_text(server: LoopbackHub, tmp_path: Path) -> None:
    dataset = HUB_DATASETS["fineweb-edu"]
    texts = builtin.documents("small", 0)
    for index in (0, 1, dataset.val_index):
        file = tmp_path / shard_name(index)
        write_shard(file, list(islice(texts, 1500)))
        server.add(dataset.repo, file.name, file.read_bytes())


def _interrupt_pretraining(metrics: Path) -> None:
    """Start the recipe and press Ctrl-C while its base model is being trained."""
    recipe = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not (metrics.exists() and '"train"' in metrics.read_text()):
        assert recipe.poll() is None, recipe.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    recipe.send_signal(signal.SIGINT)
    out, err = recipe.communicate(timeout=120)
    assert recipe.returncode == 0, err
    stages = {stage["name"]: stage["status"] for stage in json.loads(out)["stages"]}
    assert stages.pop("pretrain") == "interrupted"
    assert list(stages) == ["reset", "shards", "all-shards", "tokenizer", "eval-tokenizer"]
    assert set(stages.values()) == {"done"}
    again = err.splitlines()[-1]
    assert "run speedrun --model-tag=toy --depth=1 --set shards.num-shards=1" in again


@pytest.mark.slow
def test_the_speedrun_from_the_hub_to_a_report(hub: LoopbackHub, base_dir: Path) -> None:
    paths = Paths(base_dir)
    _interrupt_pretraining(paths.metrics("toy"))
    fetched = len(hub.content_requests("shard_"))
    assert fetched == 3, "each shard once"
    done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    statuses = {stage["name"]: stage["status"] for stage in json.loads(done.stdout)["stages"]}
    skipped = [name for name, status in statuses.items() if status == "skipped"]
    assert skipped == ["reset", "shards", "all-shards", "tokenizer", "eval-tokenizer"]
    assert {statuses[name] for name in ("pretrain", "eval-base", "sft", "eval-chat", "report")} == {"done"}
    assert "resuming toy at step" in done.stderr
    assert "chat --model-tag toy-sft" in done.stderr
    assert len(hub.content_requests("shard_")) == fetched

    steps = [row.step for row in rows_of(paths.metrics("toy"), TrainRow)]
    assert steps == list(range(1, 101))
    assert (paths.tokenizers / "tok512.tiktoken").exists(), "the place that the overview names"
    assert sorted(path.name for path in paths.all_checkpoints.iterdir()) == ["toy", "toy-sft"]
    record = from_json(RecordFile, json.loads((paths.recipe("speedrun", "toy") / "record.json").read_text()))
    assert {stage.state for stage in record.stages.values()} == {"done"}
    report = (paths.report / "report.md").read_text()
    for words in ("arc-easy", "mmlu", "| pretrain |", "| all-shards |"):
        assert words in report
