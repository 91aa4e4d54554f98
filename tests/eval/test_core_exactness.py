"""Every answer on the real tasks is that of the plain definition: 14 tasks, two models, two contexts.

NANOCHAT_CORE_ITEMS=300 compares more items per task, in minutes.
"""

import os

import pytest
import torch

from nanochat.eval.bundle import load_bundle
from nanochat.eval.core import item_row, score_groups
from nanochat.eval.core_prompts import TaskPrompts
from nanochat.eval.prompt_states import PromptStates
from nanochat.model.backend import REFERENCE
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.tokenizer.bpe import train_tokenizer
from tests.eval.plain_core import PlainCore, prediction, read

ITEMS = int(os.environ.get("NANOCHAT_CORE_ITEMS", "20"))
FITS, SHORT = 4096, 192
"""A context that no prompt exceeds, and one that most do."""


def model_of(vocab_size: int, seed: int) -> GPT:
    """Random weights large enough that no two options are nearly equal."""
    config = GPTConfig(
        max_seq_len=FITS, vocab_size=vocab_size, n_layer=2, n_head=1, n_kv_head=1, head_dim=16, n_embd=16
    )
    model = GPT(config, REFERENCE)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return model.eval()


@pytest.mark.slow
def test_every_answer_is_that_of_the_plain_definition(shared_data):
    bundle = shared_data / "eval_bundle"
    tasks = load_bundle(bundle)
    assert len(tasks) == 14
    texts = (str(item) for task in tasks for item in task.items[:300])
    tokenizer = train_tokenizer(texts, 8192, max_chars=2_000_000)
    plain = PlainCore(bundle, tokenizer.bos, tokenizer.encode)
    models = [model_of(tokenizer.vocab_size, seed) for seed in (0, 1)]
    states = [PromptStates(model, 4096) for model in models]
    compared = 0
    for task in tasks:
        items, kind = plain.items(task.label), plain.entries[task.label]["icl_task_type"]
        chosen = range(min(ITEMS, len(items)))
        asked = [plain.prompts(task.label, items, index) for index in chosen]
        for context in (FITS, SHORT):
            groups = [TaskPrompts(task, tokenizer, context).rows(index) for index in chosen]
            for model, fast in zip(models, states, strict=True):
                scores = score_groups(fast, groups)
                for index in chosen:
                    readings = [read(model, prompt, context) for prompt in asked[index]]
                    expected = prediction(kind, readings)
                    answer = item_row(task, index, groups[index], scores[index], tokenizer)
                    if kind == "language_modeling":
                        assert list(scores[index][0].greedy) == expected, (task.label, index)
                        assert answer.right == (expected == readings[0][2])
                    else:
                        assert int(answer.prediction) == expected, (task.label, index)
                        assert answer.right == (expected == items[index]["gold"])
                    compared += 1
    assert compared == 4 * sum(min(ITEMS, len(task.items)) for task in tasks)
