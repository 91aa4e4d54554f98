import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanochat.checkpoint import store
from nanochat.checkpoint.loading import load_model
from nanochat.eval.bpb import bits_per_byte
from nanochat.model.backend import REFERENCE
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.paths import default_paths
from nanochat.processes import Processes
from nanochat.runtime import Runtime
from nanochat.text.readers import Document
from nanochat.tokenizer.bpe import train_tokenizer
from tests.conftest import made_up_meta

BENCH = Path(__file__).parents[2] / "bench"
DOCUMENTS = [
    "The harbour lies below the town. " * 20,
    "",
    "Grüße aus Köln 🐧",
    "x",
    "A boat came home.\n" * 9,
]

# A model of bytes that is sure of nothing, by the name of its adapter.
UNIFORM = """
import numpy as np
from types import SimpleNamespace

def open_side(options):
    return SimpleNamespace(
        name="uniform",
        encode=lambda text: [256, *text.encode()],
        decode=lambda ids: bytes(ids).decode() + options["run"].removeprefix("good"),
        nats=lambda inputs, targets: np.where(np.array(targets) >= 0, np.log(256), 0.0),
    )

ADAPTERS = {"ours": open_side}
"""

# The three calls that the peer's adapter makes, over a bigram model.
PEER = """
import os
import torch

class Tokenizer:
    def get_bos_token_id(self):
        return 256

    def encode(self, text, prepend):
        return [prepend, *text.encode()]

    def decode(self, ids):
        return bytes(ids).decode()

class Bigram(torch.nn.Module):
    def forward(self, ids, targets, loss_reduction):
        assert ids.shape[1] > 1
        table = torch.randn(257, 257, generator=torch.Generator().manual_seed(7))
        return torch.nn.functional.cross_entropy(
            table[ids].flatten(0, 1), targets.flatten(), ignore_index=-1, reduction=loss_reduction
        )

def load_model_from_dir(checkpoints_dir, device, phase, model_tag, step):
    assert phase == "eval"
    assert os.path.dirname(checkpoints_dir) == os.environ["NANOCHAT_BASE_DIR"]
    print("a banner on stdout")
    return Bigram(), Tokenizer(), {"step": 12}
"""


def load(name):
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


scorer = load("score")


def run(*arguments, **variables):
    return subprocess.run(
        [sys.executable, BENCH / "score.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
    )


@pytest.fixture
def parquet(tmp_path):
    path = tmp_path / "documents.parquet"
    pq.write_table(pa.table({"text": DOCUMENTS}), path)
    return path


@given(st.lists(st.integers(1, 40), max_size=6), st.integers(1, 12), st.data())
def test_windows_score_every_token_once_with_as_much_context_as_allowed(lengths, context, data):
    stride = data.draw(st.integers(1, context))
    scored = []
    for w in scorer.windows_of(lengths, context, stride):
        assert 0 <= w.start < w.scored_from <= w.end < lengths[w.document]
        assert w.end - w.start <= context
        assert w.start == 0 or w.scored_from - w.start == context - stride + 1
        scored += [(w.document, target) for target in range(w.scored_from, w.end + 1)]
    assert scored == [(d, target) for d, length in enumerate(lengths) for target in range(1, length)]


def test_a_uniform_byte_model_scores_eight_bits_per_byte(tmp_path, parquet):
    (tmp_path / "adapters.py").write_text(UNIFORM)
    text = [document for document in DOCUMENTS if document]
    done = run(
        parquet, "--context", 7, "--stride", 3, "--run", "good", "--adapters", tmp_path / "adapters.py"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)["ours"]
    assert report["bpb"] == pytest.approx(8)
    assert report["documents"] == 4
    assert report["bytes"] == report["tokens"] == sum(len(document.encode()) for document in text)
    assert report["sha256"] == scorer.fingerprint(text)


def test_a_side_that_loses_text_is_refused(tmp_path, parquet):
    (tmp_path / "adapters.py").write_text(UNIFORM)
    done = run(parquet, "--context", 7, "--run", "worse", "--adapters", tmp_path / "adapters.py")
    assert done.returncode == 1
    assert "do not spell the document" in done.stderr


@pytest.fixture
def checkpoint():
    """A random model as the run `tiny`."""
    tokenizer = train_tokenizer(DOCUMENTS * 3, 300, max_chars=10_000)
    config = GPTConfig(
        max_seq_len=32,
        vocab_size=tokenizer.vocab_size,
        n_layer=2,
        n_head=2,
        n_kv_head=2,
        head_dim=8,
        n_embd=16,
    )
    model = GPT(config, REFERENCE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    directory = default_paths().checkpoints("tiny")
    store.save(directory, made_up_meta(config, 3), model.state_dict())
    tokenizer.save(directory / "tokenizer")
    return "tiny"


@pytest.mark.slow
def test_both_sides_in_one_comparison(tmp_path, parquet, checkpoint):
    (tmp_path / "peer" / "nanochat").mkdir(parents=True)
    (tmp_path / "peer" / "nanochat" / "__init__.py").touch()
    (tmp_path / "peer" / "nanochat" / "checkpoint_manager.py").write_text(PEER)
    peer_checkpoint = tmp_path / "theirs" / "base_checkpoints" / "d4"
    done = run(
        parquet, "--context", 16, "--run", checkpoint, "--dtype", "fp32", "--device", "cpu",
        "--peer-path", tmp_path / "peer", "--peer-checkpoint", peer_checkpoint,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)

    runtime = Runtime(Processes(), torch.device("cpu"), torch.float32, default_paths())
    loaded = load_model(checkpoint, runtime)
    ours = bits_per_byte(
        loaded.model,
        loaded.tokenizer,
        map(Document, DOCUMENTS),
        runtime,
        max_seq_len=16,
        batch_tokens=100,
    )
    assert result["ours"]["bpb"] == pytest.approx(ours.bpb, rel=1e-6)
    assert result["ours"]["tokens"] == ours.tokens

    table = torch.randn(257, 257, generator=torch.Generator().manual_seed(7)).log_softmax(-1)
    ids = [np.array([256, *document.encode()]) for document in DOCUMENTS if document]
    nats = -sum(table[row[:-1], row[1:]].sum().item() for row in ids)
    # Windows beyond the first begin in the middle, which a bigram model does not notice.
    assert result["peer"]["bpb"] == pytest.approx(nats / math.log(2) / ours.bytes, rel=1e-5)
    assert result["peer"]["model"] == "d4 step 12"
    assert result["difference"] == pytest.approx(result["ours"]["bpb"] - result["peer"]["bpb"])
    assert "bits per byte over 4 documents" in done.stderr


@pytest.mark.slow
def test_a_missing_peer_is_refused(tmp_path, parquet):
    (tmp_path / "empty").mkdir()
    done = run(
        parquet, "--context", 16, "--peer-path", tmp_path / "empty", "--peer-checkpoint", tmp_path / "a" / "b"
    )
    assert done.returncode == 1
    assert "the package nanochat comes from" in done.stderr


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], "name a side to score"),
        (["--peer-path", "x"], "go together"),
        (["--run", "x", "--stride", "9"], "--stride between 1 and the context"),
    ],
)
def test_wrong_options_are_refused(parquet, options, line):
    done = run(parquet, "--context", 8, *options)
    assert done.returncode == 2
    assert line in done.stderr


def test_a_file_without_text_is_refused(tmp_path):
    path = tmp_path / "empty.parquet"
    pq.write_table(pa.table({"text": ["", ""]}), path)
    with pytest.raises(SystemExit, match="holds no text"):
        scorer.read_documents(str(path), "text", 100)
