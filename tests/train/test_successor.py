"""Rates of stages after one another: each is a fraction of what suits its kind, not of a fraction of a fraction."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from nanochat.checkpoint.meta import CheckpointMeta, SourceRun, TrainingPlan
from nanochat.config import from_json, to_json
from nanochat.train import dpo, rl, sft
from tests.conftest import made_up_meta


def source_of(meta: CheckpointMeta) -> Any:
    """What the stages read of an open checkpoint."""
    files = {"model": SimpleNamespace(sha256="a" * 64)}
    seen = SimpleNamespace(plan=meta.plan, files=files)
    return SimpleNamespace(meta=seen, config=meta.model, step=7, tokenizer=SimpleNamespace(hash="b"))


def test_a_stage_after_reinforcement_follows_the_run_before_it() -> None:
    made_up = made_up_meta(stage="sft")
    max_seq_len = made_up.model.max_seq_len
    tuned = replace(made_up, plan=replace(made_up.plan, batch_tokens=4 * max_seq_len))
    once = rl._planned(rl.RlConfig(), source_of(tuned), "fp32")
    again = rl._planned(rl.RlConfig(from_tag="rl", learn="all"), source_of(once), "fp32")
    preferred = dpo._planned(dpo.DpoConfig(pairs="p.jsonl", from_tag="rl"), source_of(again), 64, "fp32")
    assert once.plan.rates.embedding == 0
    assert again.plan.rates == tuned.plan.rates.scaled(0.05)
    assert preferred.plan.rates == tuned.plan.rates.scaled(0.02)
    config = sft.SftConfig(from_tag="dpo")
    for last in (once, preferred):
        rows, micro_rows = sft._batch(config, last.plan, max_seq_len, 1)
        plan = sft._training_plan(config, last.plan, rows * max_seq_len, micro_rows, 10, "fp32")
        assert (plan.rates, plan.batch_tokens) == (tuned.plan.rates.scaled(0.8), tuned.plan.batch_tokens)
        assert plan.successor_basis.rates == plan.rates


def test_what_a_run_offers_is_kept_and_does_not_bar_its_resumption() -> None:
    meta = rl._planned(rl.RlConfig(), source_of(made_up_meta(stage="sft")), "fp32")
    assert meta.source == SourceRun("sft", 7, "a" * 64)
    assert from_json(TrainingPlan, to_json(meta.plan)) == meta.plan
    before = replace(meta, plan=replace(meta.plan, offers=None))  # begun when it was not yet recorded
    assert before.course() == meta.course()
