"""Reinforcement: it learns, resumes bit-exactly, is the same on two processes, and refuses what cannot be learned."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nanochat.builtin.everyday import number_word
from nanochat.checkpoint import store
from nanochat.checkpoint.loading import load_model
from nanochat.config import to_json
from nanochat.infer.engine import Engine
from nanochat.metrics import read_metrics
from nanochat.metrics_rows import EvalRow, RolloutRow, TrainRow
from nanochat.model.backend import REFERENCE
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.paths import default_paths
from nanochat.processes import Processes
from nanochat.runtime import open_runtime
from nanochat.tasks.registry import TASKS
from nanochat.tasks.task import RIGHT, Score, Task, user_item
from nanochat.tokenizer.tokenizer import Tokenizer
from nanochat.train import rl, rl_start
from nanochat.train.objective import OBJECTIVES, with_switches
from nanochat.train.reinforce import Tally, backward, lessons
from nanochat.train.rewards import parse_rewards
from nanochat.train.rl import RlConfig
from nanochat.train.rollout_files import drop_after
from nanochat.train.rollouts import Group, Rollout, RolloutSource, Sampler, pass_rates
from nanochat.train.session import TrainingResult
from nanochat.train.shuffled import Shuffled
from tests.conftest import made_up_meta
from tests.train.conftest import with_old_flags

VOWELS = Task(
    "vowels",
    "generate",
    0.0,
    8,
    lambda paths, split, seed: [user_item(f"{split} {number_word(n)}", "e") for n in range(12)],
    lambda item, text: RIGHT if "e" in text else Score(0.0, "no e"),
)
"""Any reply with an e is right, which a random model of bytes writes now and then."""

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")


@pytest.fixture
def model() -> GPT:
    """A random model of bytes, whose head is large enough that replies differ in likelihood."""
    config = GPTConfig(
        max_seq_len=96, vocab_size=265, n_layer=1, n_head=1, n_kv_head=1, head_dim=16, n_embd=16
    )
    model = GPT(config, REFERENCE)
    model.init_weights(0)
    with torch.no_grad():
        model.head.weight.mul_(300)
    return model


@pytest.fixture
def sampler(model: GPT, tokenizer: Tokenizer) -> Sampler:
    return Sampler(model, Engine(model, tokenizer, max_rows=8), tokenizer, VOWELS, parse_rewards("answer"), 8)


def source(
    sampler: Sampler, processes: Processes | None = None, taken: int = 0, **more: bool
) -> RolloutSource:
    items = VOWELS.items(default_paths(), "train", 0)
    dynamic = more.get("dynamic", False)
    return RolloutSource(sampler, Shuffled(items, 3, taken), processes or Processes(), 4, 4, dynamic)


def test_the_engines_logprobs_are_the_trainers(sampler: Sampler) -> None:
    groups = source(sampler).draw()
    tally = Tally()
    own = lessons(groups, with_switches("reinforce", kl=1e-9), 8)
    backward(sampler.model, sampler.model, own, OBJECTIVES["reinforce"], tally)
    assert tally.tokens == sum(rollout.length for group in groups for rollout in group.rollouts)
    assert 0 < tally.gap_max < 1e-4
    with torch.no_grad():
        sampler.model.head.weight.mul_(1.1)  # an engine that was not refreshed is found out
    tally = Tally()
    backward(sampler.model, None, own, OBJECTIVES["reinforce"], tally)
    assert tally.gap_max > 1e-2
    sampler.stale = True
    sampler.refresh()
    tally = Tally()
    fresh = lessons(source(sampler).draw(), with_switches("reinforce", kl=1e-9), 8)
    backward(sampler.model, None, fresh, OBJECTIVES["reinforce"], tally)
    assert tally.gap_max < 1e-4


def test_prompts_and_seeds_do_not_depend_on_the_number_of_processes(sampler: Sampler) -> None:
    whole = source(sampler).draw()
    parts = []
    for rank in range(3):
        alone = Processes(rank, 3)
        alone.gather = lambda own: [own]  # type: ignore[method-assign]
        alone._exchange = lambda mine: [mine.value]  # type: ignore[method-assign]
        parts += source(sampler, alone).draw()
    found, expected = ([r for group in groups for r in group.rollouts] for groups in (parts, whole))
    assert [replace(r, logprobs=[]) for r in found] == [replace(r, logprobs=[]) for r in expected]
    for own, others in zip(
        found, expected, strict=True
    ):  # products of other numbers of rows may round otherwise
        assert own.logprobs == pytest.approx(others.logprobs, abs=1e-5)


def test_draws_continue_after_the_prompts_taken(sampler: Sampler) -> None:
    both = source(sampler)
    both.draw()
    second, resumed = both.draw(), source(sampler, taken=4).draw()
    assert second == resumed
    first_pass = [index for _, index, _ in (next(both.prompts) for _ in range(4))]
    assert len({*first_pass, *(group.index for group in second)}) == 8


def group(forced: int, *rewards: float) -> Group:
    """Samples of two chosen tokens with one between them that a tool forced."""
    chosen = [True, False, True]
    made = [
        Rollout([5 + i, forced, 9], chosen, [-1.0, 0.0, -1.0], [], True, bool(r), "", {"answer": float(r)})
        for i, r in enumerate(rewards)
    ]
    return Group(0, ({"role": "user", "content": "?"},), "!", [1, 2], made)


def gradient(model: GPT, groups: Sequence[Group]) -> torch.Tensor:
    model.zero_grad()
    backward(model, None, lessons(groups, OBJECTIVES["reinforce"], 8), OBJECTIVES["reinforce"], Tally())
    assert model.head.weight.grad is not None
    return model.head.weight.grad.clone()


def test_the_gradient_is_that_of_the_chosen_tokens_alone(model: GPT) -> None:
    """Compared with PyTorch's on all logits: a forced token is read, but never learned."""
    ours = gradient(model, [group(200, 1, 0)])
    model.zero_grad()
    ids = torch.tensor([[1, 2, 5, 200, 9], [1, 2, 6, 200, 9]])
    logprobs = model.logits(model(ids[:, :-1])).log_softmax(dim=-1)
    right = logprobs[0, 1, 5] + logprobs[0, 3, 9]
    wrong = logprobs[1, 1, 6] + logprobs[1, 3, 9]
    (-(0.5 * right - 0.5 * wrong) / 4).backward()
    torch.testing.assert_close(ours, model.head.weight.grad)
    assert not torch.equal(ours, gradient(model, [group(201, 1, 0)]))


def test_samples_without_advantage_only_count(model: GPT) -> None:
    assert lessons([group(200, 1, 1)], OBJECTIVES["reinforce"], 8) == []
    assert len(lessons([group(200, 1, 1)], with_switches("reinforce", kl=0.1), 8)) == 2
    torch.testing.assert_close(
        2 * gradient(model, [group(200, 1, 0), group(200, 1, 1)]), gradient(model, [group(200, 1, 0)])
    )


def test_dynamic_sampling_replaces_prompts_whose_samples_are_alike(sampler: Sampler) -> None:
    plain, dynamic = source(sampler), source(sampler, dynamic=True)
    before = sum(group.informative for _ in range(3) for group in plain.draw())
    after = sum(group.informative for _ in range(3) for group in dynamic.draw())
    assert after > before
    assert dynamic.prompts.taken > plain.prompts.taken


def test_pass_rates_are_unbiased(sampler: Sampler) -> None:
    groups = source(sampler).draw()
    rates = pass_rates(groups, (1, 4))
    rights = [[rollout.right for rollout in group.rollouts] for group in groups]
    assert rates[1] == pytest.approx(sum(map(sum, rights)) / 16)
    assert rates[4] == pytest.approx(sum(map(any, rights)) / 4)


def test_a_cold_start_is_told_at_once(sampler: Sampler, capsys: pytest.CaptureFixture) -> None:
    items = VOWELS.items(default_paths(), "train", 0)
    with open_runtime("cpu") as runtime:
        rl_start.try_out(sampler, items, 4, 0, runtime)
        assert "training prompts are right; rewards differ for" in capsys.readouterr().err
        sampler.task = replace(VOWELS, check=lambda item, text: Score(0.0, "never"))
        with pytest.raises(ValueError, match=r"nothing to reinforce: none of 48 .* easier --task.* it says"):
            rl_start.try_out(sampler, items, 4, 0, runtime)
        sampler.task = replace(VOWELS, check=lambda item, text: Score(0.9 * ("e" in text), "almost"))
        rl_start.try_out(sampler, items, 4, 0, runtime)
        assert "only partial credit differs" in " ".join(capsys.readouterr().err.split())


def test_the_file_of_rollouts_is_cut_back_to_a_step(tmp_path: Path) -> None:
    file = tmp_path / "rollouts.jsonl"
    kept = '{"step": 1, "prompt": "one\u2028line"}\n{"step": 2}\n'
    file.write_text(kept + '{"step": 3}\n{"st')
    drop_after(file, 2)
    assert file.read_text() == kept


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"samples": 1}, "--samples must be at least 2"),
        ({"updates": 17}, "--updates 17 needs"),
        ({"eval_samples": 3}, "--eval-samples must be one of"),
        ({"task": "nothing"}, "unknown task 'nothing': choose from builtin-facts"),
        ({"prompts_per_step": 0}, "--prompts-per-step must be at least 1"),
        ({"clip_low": 0.2}, "belong together"),
    ],
)
def test_impossible_flags_are_one_clear_line(flags: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        RlConfig(**flags)


# ---- whole runs


@pytest.fixture
def config(model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> RlConfig:
    """The random model as a checkpoint, and the task of vowels."""
    directory = default_paths().checkpoints("sft")
    meta = made_up_meta(model.config, stage="sft", tokenizer=tokenizer.hash)
    meta = replace(meta, plan=replace(meta.plan, device_batch_size=4))
    store.save(directory, meta, model.state_dict(), {}, keep_last=1)
    tokenizer.save(directory / "tokenizer")
    monkeypatch.setitem(TASKS, "vowels", VOWELS)
    return RlConfig(
        task="vowels",
        num_iterations=6,
        prompts_per_step=4,
        samples=4,
        lr_fraction=0.2,
        learn="all",
        eval_every=0,
        eval_items=4,
        eval_samples=2,
        save_minutes=0,
        dtype="fp32",
    )


def reinforce(config: RlConfig) -> TrainingResult:
    with open_runtime("cpu", config.dtype) as runtime:
        return rl.run(config, runtime)


@pytest.mark.slow
def test_it_learns_and_shows_what_it_did(config: RlConfig) -> None:
    result = reinforce(replace(config, num_iterations=40, samples=8))
    rows = list(read_metrics(default_paths().metrics("rl")))
    evaluations = [entry.row for entry in rows if isinstance(entry.row, EvalRow)]
    assert [row.step for row in evaluations] == [0, 40]
    assert evaluations[1].pass_at_1 > evaluations[0].pass_at_1 + 0.2
    steps = [entry.row for entry in rows if isinstance(entry.row, RolloutRow)]
    assert len(steps) == 40
    assert all(row.logprob_gap_max < 1e-4 for row in steps)
    lines = [json.loads(line) for line in default_paths().rollouts("rl").read_bytes().splitlines()]
    assert len(lines) == 40 * 4
    assert steps[-1].right == sum(s["right"] for line in lines[-4:] for s in line["samples"]) / 32
    with open_runtime("cpu") as runtime:
        assert load_model("rl", runtime).meta.stage == "rl"
    assert result.figures["pass_at_1"] == evaluations[1].pass_at_1


@pytest.mark.slow
def test_only_the_blocks_matrices_change_unless_all_are_asked_for(config: RlConfig) -> None:
    reinforce(replace(config, num_iterations=2, learn="matrices"))
    before, after = (
        store.load_model_state(default_paths().checkpoints(t), s) for t, s in (("sft", 0), ("rl", 2))
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("blocks.") for name in changed)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [{}, {"objective": "grpo", "updates": 2}, {"objective": "dapo"}],
    ids=lambda flags: flags.get("objective", "plain"),
)
def test_a_resumed_run_ends_with_the_same_bits(config: RlConfig, flags: dict) -> None:
    config = replace(config, save_every=3, keep_last=9, **flags)
    reinforce(replace(config, model_tag="whole"))
    reinforce(replace(config, model_tag="broken"))
    directory = default_paths().checkpoints("broken")
    store.remove(directory, 6)
    with_old_flags(directory, 3)
    assert reinforce(replace(config, model_tag="broken", resume="auto")).step == 6
    whole, broken = (
        store.load_meta(default_paths().checkpoints(tag), 6).files for tag in ("whole", "broken")
    )
    assert whole == broken
    whole_file, broken_file = (default_paths().rollouts(tag).read_text() for tag in ("whole", "broken"))
    assert whole_file == broken_file
    with pytest.raises(ValueError, match="--samples was 4 and is now 8"):
        reinforce(replace(config, model_tag="broken", resume="auto", samples=8))


@pytest.mark.slow
def test_a_new_run_sets_the_rollouts_of_the_one_before_aside(config: RlConfig) -> None:
    for steps in (2, 1):
        shutil.rmtree(default_paths().checkpoints("rl"), ignore_errors=True)
        reinforce(replace(config, num_iterations=steps))
    new = default_paths().rollouts("rl")
    counts = [len(file.read_text().splitlines()) for file in (new, new.with_name("rollouts.1.jsonl"))]
    assert counts == [4, 8]


@pytest.mark.slow
def test_two_processes_continue_the_run_of_one(config: RlConfig, tmp_path: Path) -> None:
    """From the same checkpoint they draw the same samples, compute the same loss."""
    own = tmp_path / "mine.py"
    own.write_text("def reward(attempt):\n    return attempt.text.count('e') / 8\n")
    config = replace(config, task="builtin-thousands", rewards="", reward=str(own), max_new_tokens=8)
    config = replace(config, num_iterations=3, save_every=2, keep_last=9)
    reinforce(replace(config, model_tag="one"))
    shutil.copytree(default_paths().checkpoints("one"), default_paths().checkpoints("two"))
    shutil.copytree(default_paths().base / "runs/one", default_paths().base / "runs/two")
    store.remove(default_paths().checkpoints("two"), 3)
    flags = {**to_json(config), "model_tag": "two", "resume": "auto", "device": "cpu"}
    words = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in flags.items()
        if value not in (None, False, [])
    ]
    words = [word for word in words if not word.startswith("--wandb")]
    launched = [*TORCHRUN, "--nproc_per_node=2", "-m", "nanochat", "rl", *words]
    done = subprocess.run(launched, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    one, two = (default_paths().rollouts(tag).read_text() for tag in ("one", "two"))
    assert one == two
    rows = [
        [
            entry.row
            for entry in read_metrics(default_paths().metrics(tag))
            if isinstance(entry.row, TrainRow)
        ][-1]
        for tag in ("one", "two")
    ]
    assert rows[0].step == rows[1].step == 3
    assert rows[0].loss == pytest.approx(rows[1].loss, abs=1e-5)
    assert rows[0].grad_norm == pytest.approx(rows[1].grad_norm, rel=1e-4)
