"""A checkpoint of format 2, made by the code that wrote it: its shape gets what were constants then."""

import json
from pathlib import Path

import pytest
import torch

from nanochat.checkpoint import store
from nanochat.checkpoint.loading import load_weights
from nanochat.model.backend import REFERENCE
from nanochat.model.gpt import GPT

FIXTURE = Path(__file__).with_name("format2")


def test_the_model_gives_the_recorded_logits() -> None:
    recorded = json.loads((FIXTURE / "recorded.json").read_text())
    meta = store.load_meta(FIXTURE, 3)
    model = GPT(meta.model, REFERENCE)
    load_weights(model, store.load_model_state(FIXTURE, 3), FIXTURE)
    with torch.no_grad():
        logits = model.eval().logits(model(torch.tensor([recorded["ids"]])))[0, -1]
    assert logits[: len(recorded["logits"])].tolist() == pytest.approx(
        recorded["logits"], abs=1e-5
    )  # processors sum in different orders
