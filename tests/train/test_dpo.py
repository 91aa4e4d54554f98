"""Preference tuning: the loss of the paper, pairs in every form, a run that learns and resumes bit-exactly."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nanochat.checkpoint import store
from nanochat.model.backend import REFERENCE
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.paths import Paths, default_paths
from nanochat.runtime import open_runtime
from nanochat.tokenizer.chat_format import render_prompt
from nanochat.tokenizer.tokenizer import Tokenizer
from nanochat.train import dpo
from nanochat.train.dpo import DpoConfig
from nanochat.train.preferences import (
    PreferencesConfig,
    read_pairs,
    render_pair,
    run_preferences,
    split_pairs,
)
from tests.conftest import made_up_meta
from tests.train.conftest import with_old_flags

ROW = {"prompt": "Hi", "chosen": "yes", "rejected": "no"}


@pytest.fixture
def models() -> tuple[GPT, GPT]:
    """A random model of bytes, and a reference that differs."""
    config = GPTConfig(
        max_seq_len=64, vocab_size=265, n_layer=1, n_head=1, n_kv_head=1, head_dim=16, n_embd=16
    )
    made = []
    for seed in (0, 1):
        model = GPT(config, REFERENCE)
        model.init_weights(seed)
        with torch.no_grad():
            model.head.weight.mul_(300)
        made.append(model)
    return made[0], made[1]


def test_loss_and_gradient_are_those_of_the_paper(models: tuple[GPT, GPT], tokenizer: Tokenizer) -> None:
    rows = [ROW, {"prompt": "Sum?", "chosen": "It is three.", "rejected": "4"}]
    pairs = [render_pair(row, tokenizer) for row in rows]
    model, reference = models
    results = []
    for ours in (True, False):
        model.zero_grad()
        if ours:
            losses_B, _ = dpo.losses(model, reference, pairs, 0.5)
            loss = losses_B.sum()
        else:
            loss = torch.zeros(())
            for pair in pairs:
                sums = []
                for which in (model, reference):
                    for ids, mask in ((pair.chosen, pair.chosen_mask), (pair.rejected, pair.rejected_mask)):
                        logp = which.logits(which(torch.tensor([ids]))).log_softmax(dim=-1)[0]
                        sums.append(sum(logp[t - 1, ids[t]] for t in range(1, len(ids)) if mask[t]))
                ratio = (sums[0] - sums[2].detach()) - (sums[1] - sums[3].detach())
                loss = loss - torch.log(torch.sigmoid(0.5 * ratio))
        loss.backward()
        results.append((loss.detach(), *[p.grad.clone() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_tool_output_and_prompt_are_no_part_of_an_answer(tokenizer: Tokenizer) -> None:
    call = [{"type": "python", "text": "1+2"}, {"type": "python_output", "text": "3"}]
    earlier = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    prompt = [*earlier, {"role": "user", "content": "c"}]
    pair = render_pair(
        {"prompt": prompt, "chosen": [*call, {"type": "text", "text": "3"}], "rejected": "no"}, tokenizer
    )
    start = len(render_prompt(tokenizer, prompt))
    learned = [token for token, learn in zip(pair.chosen, pair.chosen_mask, strict=True) if learn]
    assert not any(pair.chosen_mask[:start])
    assert len(learned) == len("1+2") + 2 + len("3") + 1  # the call with its two marks, the text, the end
    assert sum(pair.rejected_mask) == len("no") + 1


def test_answers_may_be_messages(tokenizer: Tokenizer) -> None:
    question = {"role": "user", "content": "Hi"}
    sides = {side: [question, {"role": "assistant", "content": ROW[side]}] for side in ("chosen", "rejected")}
    assert render_pair(sides, tokenizer) == render_pair(ROW, tokenizer)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 2: "),
        ("[]", 'line 2: expected {"prompt", "chosen", "rejected"}'),
        ('{"prompt": "a", "chosen": "b"}', 'line 2: expected {"prompt", "chosen", "rejected"}'),
        ('{"prompt": "a", "chosen": "b", "rejected": "b"}', "line 2: .* are equal"),
        ('{"chosen": "b", "rejected": "c"}', "line 2: the prompt must be"),
        ('{"prompt": "a", "chosen": 1, "rejected": "c"}', "line 2: .* must be a string"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, tokenizer: Tokenizer, line: str, reason: str) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(f"{json.dumps(ROW)}\n{line}\n")
    with pytest.raises(ValueError, match=reason):
        read_pairs(file, tokenizer, 64)


def test_a_line_ends_only_at_a_line_feed(tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = tmp_path / "pairs.jsonl"
    row = {**ROW, "chosen": "one\u2028answer"}
    file.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for _ in range(2)))
    assert read_pairs(file, tokenizer, 64) == [render_pair(row, tokenizer)] * 2


def test_bytes_that_are_no_text_are_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(json.dumps(ROW).encode() + b'\n{"prompt": "\xff"}')
    with pytest.raises(ValueError, match=r"pairs\.jsonl, line 2: not UTF-8 text$"):
        read_pairs(file, tokenizer, 64)


@pytest.mark.parametrize(
    "line", ["[]", "{}", '{"step": 1, "prompt": "a", "samples": [{"reward": 1, "parts": []}]}']
)
def test_a_line_that_is_no_rollout_is_named(paths: Paths, line: str) -> None:
    paths.rollouts("rl").parent.mkdir(parents=True)
    paths.rollouts("rl").write_text(line)
    with pytest.raises(ValueError, match="line 1: not a line of rollouts"):
        run_preferences(PreferencesConfig(), paths)


def test_pairs_that_do_not_fit_are_counted(
    tmp_path: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in (ROW, ROW, {**ROW, "chosen": "x" * 99})))
    pairs = read_pairs(file, tokenizer, 64)
    assert len(pairs) == 2
    assert "1 pair skipped" in capsys.readouterr().err
    training, held_out = split_pairs(pairs)
    assert (len(training), len(held_out)) == (1, 1)


def test_rollouts_become_pairs(paths: Paths, tmp_path: Path, tokenizer: Tokenizer) -> None:
    def sample(text: str, reward: float, ended: bool = True) -> dict:
        return {"reward": reward, "parts": [{"type": "text", "text": text}], "ended": ended}

    talk = [{"role": role, "content": role} for role in ("user", "assistant", "user")]
    cut = sample("d", 2.0, ended=False)
    rows = [
        {"step": 1, "prompt": "early", "samples": [sample("a", 0.0), sample("b", 1.0)]},
        {"step": 2, "prompt": "differ", "samples": [sample("a", 0.1), sample("b", 1.0), sample("c", 0.0)]},
        {"step": 2, "prompt": "alike", "samples": [sample("a", 1.0), sample("b", 1.0), cut]},
        {"step": 2, "prompt": talk, "samples": [cut, sample("e", 0.0), sample("f", 1.0)]},
    ]
    with pytest.raises(ValueError, match="has no rollouts"):
        run_preferences(PreferencesConfig(), paths)
    paths.rollouts("rl").parent.mkdir(parents=True)
    paths.rollouts("rl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "pairs.jsonl"
    result = run_preferences(PreferencesConfig(out=str(out), first_step=2), paths)
    assert (result.prompts, result.pairs) == (3, 2)
    pairs = [json.loads(line) for line in out.read_text().splitlines()]
    told = [(pair["prompt"], pair["chosen"][0]["text"], pair["rejected"][0]["text"]) for pair in pairs]
    assert told == [("differ", "b", "c"), (talk, "f", "e")]
    for pair in pairs:
        assert render_pair(pair, tokenizer).chosen != render_pair(pair, tokenizer).rejected


@pytest.mark.slow
def test_a_run_learns_and_resumes_with_the_same_bits(
    models: tuple[GPT, GPT], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    directory = default_paths().checkpoints("sft")
    meta = made_up_meta(models[0].config, stage="sft", tokenizer=tokenizer.hash)
    store.save(directory, meta, models[0].state_dict(), {}, keep_last=1)
    tokenizer.save(directory / "tokenizer")
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps({**ROW, "prompt": f"Hi {n}"}) for n in range(40)))
    config = DpoConfig(
        pairs=str(file),
        num_iterations=8,
        pairs_per_step=8,
        lr_fraction=0.1,
        save_every=4,
        keep_last=9,
        eval_every=0,
    )
    with open_runtime("cpu") as runtime:
        figures = dpo.run(replace(config, model_tag="whole"), runtime).figures
        dpo.run(replace(config, model_tag="broken"), runtime)
        store.remove(default_paths().checkpoints("broken"), 8)
        with_old_flags(default_paths().checkpoints("broken"), 4)
        dpo.run(replace(config, model_tag="broken", resume="auto"), runtime)
        assert figures["preferred"] == 1
        assert figures["val_loss"] < 0.6
        whole, broken = (
            store.load_meta(default_paths().checkpoints(t), 8).files for t in ("whole", "broken")
        )
        assert whole == broken
        with pytest.raises(
            ValueError, match=r"--beta was 0\.1 and is now 0\.2; use the same flags, or another"
        ):
            dpo.run(replace(config, model_tag="broken", resume="auto", beta=0.2), runtime)
