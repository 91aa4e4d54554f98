"""A checkpoint trained by a working tree of karpathy/nanochat (NANOCHAT_PEER) computes the same here as there."""

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from nanochat import builtin
from nanochat.checkpoint.loading import load_model
from nanochat.export.import_model import ImportConfig, run_import
from nanochat.infer.engine import Engine
from nanochat.infer.sampler import SamplingParams
from nanochat.paths import Paths
from nanochat.runtime import open_runtime
from tests.conftest import REPOSITORY

PEER = os.environ.get("NANOCHAT_PEER")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        PEER is None, reason="NANOCHAT_PEER does not name a working tree of karpathy/nanochat"
    ),
]


def test_a_checkpoint_of_the_peer_computes_the_same(paths: Paths, tmp_path: Path) -> None:
    assert PEER is not None
    documents, base = tmp_path / "documents.parquet", tmp_path / "peer"
    base.mkdir()
    pq.write_table(pa.table({"text": list(islice(builtin.val_documents(), 300))}), documents)
    environment = {**os.environ, "PYTHONPATH": PEER, "NANOCHAT_DTYPE": "float32", "TORCHDYNAMO_DISABLE": "1"}
    script = Path(__file__).with_name("peer_training.py")
    subprocess.run([sys.executable, script, base, documents], env=environment, check=True)
    said = json.loads((base / "said.json").read_text())
    checkpoint = base / "base_checkpoints" / "tiny"

    imported = run_import(ImportConfig(checkpoint), paths)
    assert (imported.model_tag, imported.step) == ("tiny", 15)
    with open_runtime("cpu", "fp32") as runtime:
        loaded = load_model("tiny", runtime)
    with torch.no_grad():
        logits = loaded.model.logits(loaded.model(torch.tensor([said["ids"]])))[0]
    torch.testing.assert_close(logits, torch.tensor(said["logits"]), atol=1e-4, rtol=0)
    greedy = SamplingParams(temperature=0.0, max_new_tokens=40)
    answer = Engine(loaded.model, loaded.tokenizer, tools=None).generate([said["prompt"]], greedy)[0].ids
    assert answer == said["greedy"][: len(answer)]
    assert len(answer) > 10

    score = [sys.executable, REPOSITORY / "bench/score.py", documents, "--context", "256", "--dtype", "fp32"]
    score += ["--run", "tiny", "--peer-path", PEER, "--peer-checkpoint", checkpoint]
    done = subprocess.run(
        score, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert abs(result["difference"]) < 1e-5
