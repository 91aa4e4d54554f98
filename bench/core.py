"""CORE's scorer against the plain definition, on the same items, task by task in turn: ratio, agreement, memory.

    python -m bench.core --bundle BUNDLE --text CORPUS/shard_00000.parquet --items 25

The plain scorer is that of the tests (tests/eval/plain_core.py): one prompt at a time, whole logits. The model is a d4
of random weights with a vocabulary learnt from the text; --model-tag takes a trained one. Compiled code is ready before
the clock starts. Prints one line a task, and one JSON line.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch

from bench.decode import random_model
from nanochat.checkpoint.loading import load_model
from nanochat.eval.batching import BATCH_TOKENS
from nanochat.eval.bundle import CoreTask, load_bundle
from nanochat.eval.core import score_task
from nanochat.eval.prompt_states import PromptStates
from nanochat.eval.subject import Subject
from nanochat.infer.native_library import native_library
from nanochat.model.gpt import GPT
from nanochat.runtime import Runtime, open_runtime
from nanochat.tokenizer.bpe import train_tokenizer
from nanochat.tokenizer.tokenizer import Tokenizer
from tests.eval.plain_core import PlainCore, prediction, read


@dataclass(frozen=True)
class Timed:
    """Answers to a task's items, and the seconds they took: of the wall clock, and of all threads."""

    answers: list[str]
    wall_s: float
    cpu_s: float


def timed(answer: Callable[[], list[str]]) -> Timed:
    """Call it and read both clocks."""
    wall, cpu = time.perf_counter(), time.process_time()
    answers = answer()
    return Timed(answers, time.perf_counter() - wall, time.process_time() - cpu)


def plain_answers(plain: PlainCore, model: GPT, tokenizer: Tokenizer, task: CoreTask, n: int) -> list[str]:
    """One prompt at a time."""
    items, answers, context = plain.items(task.label), [], model.config.max_seq_len
    for index in range(n):
        prompts = plain.prompts(task.label, items, index)
        chosen = prediction(task.kind, [read(model, prompt, context, whole=True) for prompt in prompts])
        answers.append(str(chosen) if isinstance(chosen, int) else tokenizer.decode(chosen))
    return answers


def fast_answers(
    states: PromptStates, subject: Subject, task: CoreTask, n: int, runtime: Runtime
) -> list[str]:
    """As `nanochat eval base` does."""
    return [row.prediction for row in score_task(states, subject, task, n, runtime).rows]


def subject_of(arguments: argparse.Namespace, runtime: Runtime) -> Subject:
    """The model to time."""
    if arguments.model_tag:
        loaded = load_model(arguments.model_tag, runtime)
        return Subject(loaded.model.config, loaded.tokenizer, lambda: loaded.model)
    texts = pq.read_table(arguments.text, columns=["text"])["text"].to_pylist()
    tokenizer = train_tokenizer(texts, arguments.vocab_size, max_chars=5_000_000)
    model = random_model(arguments.depth, 64, arguments.vocab_size, arguments.max_seq_len, runtime).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # the initial weights give all tokens nearly the same probability
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return Subject(model.config, tokenizer, lambda: model)


def main() -> None:
    """Time both scorers on every task."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--text", type=Path, help="a parquet file to learn the vocabulary from")
    parser.add_argument("--model-tag")
    parser.add_argument("--items", type=int, default=25, help="items per task")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--max-seq-len", type=int, default=512)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    with open_runtime(arguments.device) as runtime:
        subject = subject_of(arguments, runtime)
        model = subject.model
        if model.backend.code_cache is not None:
            native_library(model.backend.code_cache).wait()
        states = PromptStates(model, BATCH_TOKENS[runtime.device.type])
        tasks = load_bundle(arguments.bundle)
        plain = PlainCore(arguments.bundle, subject.tokenizer.bos, subject.tokenizer.encode)
        totals = torch.zeros(4, dtype=torch.float64)
        differing, compared = 0, 0
        for task in tasks:
            n = min(arguments.items, len(task.items))
            fast = timed(lambda task=task, n=n: fast_answers(states, subject, task, n, runtime))  # type: ignore[misc]
            slow = timed(lambda task=task, n=n: plain_answers(plain, model, subject.tokenizer, task, n))  # type: ignore[misc]
            totals += torch.tensor([slow.wall_s, fast.wall_s, slow.cpu_s, fast.cpu_s], dtype=torch.float64)
            unequal = sum(a != b for a, b in zip(slow.answers, fast.answers, strict=True))
            differing, compared = differing + unequal, compared + n
            print(
                f"{task.label:28} {n:4} items, plain {slow.wall_s:6.1f} s, fast {fast.wall_s:6.1f} s: "
                f"{slow.wall_s / fast.wall_s:5.1f}x, CPU {slow.cpu_s / fast.cpu_s:5.1f}x, {unequal} differ",
                flush=True,
            )
        peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        slow_s, fast_s, slow_cpu_s, fast_cpu_s = totals.tolist()
        figures = {
            "plain_s": slow_s,
            "fast_s": fast_s,
            "ratio": slow_s / fast_s,
            "cpu_ratio": slow_cpu_s / fast_cpu_s,
            "items": compared,
            "differing": differing,
            "peak_gib": peak_gib,
        }
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
