"""A small valid run to damage, and helpers that check the error of reading it."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.atomic import sha256_of
from nanochat.checkpoint import store
from nanochat.checkpoint.loading import load_model
from nanochat.checkpoint.meta import FileFacts, Part, from_plain, to_plain
from nanochat.errors import EnvironmentFault
from nanochat.model.backend import REFERENCE
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.optim.groups import LearningRates
from nanochat.optim.muon_adamw import MuonAdamW, MuonOptions
from nanochat.processes import Processes
from nanochat.runtime import open_runtime
from nanochat.tokenizer.tokenizer import Tokenizer
from tests.conftest import made_up_meta

SHAPE = GPTConfig(max_seq_len=16, vocab_size=265, n_layer=1, n_head=2, n_kv_head=2, head_dim=4, n_embd=8)
STEP = 5
RATES = LearningRates(0.02, 0.3, 0.15, 0.008, 0.5, weight_decay=0.0)


def model_state() -> dict[str, torch.Tensor]:
    model = GPT(SHAPE, REFERENCE)
    model.init_weights(0)
    return dict(model.state_dict())


def optimizer() -> MuonAdamW:
    return MuonAdamW(GPT(SHAPE, REFERENCE).named_parameters(), RATES, MuonOptions(), processes=Processes())


@pytest.fixture
def run(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """A run at step 5, with source and data position."""
    directory = tmp_path / "run"
    source = {"model_tag": "base", "step": 3, "weights_sha256": "0" * 64}
    identity = {
        "max_seq_len": 16,
        "policy": "contiguous",
        "seed": 1,
        "tokenizer": "t",
        "data": "d",
        "files": 2,
    }
    row = {"place": [0, 1, 2], "offset": 3, "rows": 4, "dropped": 5, "padded": 6}
    plain = to_plain(made_up_meta(SHAPE, STEP, files={"model": FileFacts(0, "0" * 64)}))
    plain["source"], plain["progress"]["position"] = source, {"identity": identity, "row": row}
    meta = from_plain(plain)
    store.save(directory, meta, model_state(), optimizer().state_dict())
    tokenizer.save(directory / "tokenizer")
    return directory


def meta_path(run: Path) -> Path:
    return store.file_of(run, STEP, "meta")


def plain_meta(run: Path) -> dict[str, Any]:
    return torch.load(meta_path(run), weights_only=True)


def replace_part(run: Path, part: Part, content: Any) -> None:
    """Put other content into a part, and its true size and sha256 into the meta."""
    path = store.file_of(run, STEP, part)
    torch.save(content, path)
    plain = plain_meta(run)
    plain["files"][part] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
    torch.save(plain, meta_path(run))


def complaint(action: Callable[[], object]) -> str | None:
    """The one-line error of `action`, or None if it succeeds; any other exception fails the test."""
    try:
        action()
    except (ValueError, EnvironmentFault) as error:
        message = str(error)
        assert message
        assert "\n" not in message
        assert len(message) < 1000
        return message
    return None


def use_model(run: Path) -> None:
    with open_runtime("cpu", "fp32") as runtime:
        load_model(run, runtime)


def use_optimizer(run: Path) -> None:
    optimizer().load_state_dict(store.load_optimizer_state(run, STEP))


def with_value(table: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(table)
    target = changed
    for name in path[:-1]:
        target = target[name]
    target[path[-1]] = value
    return changed
