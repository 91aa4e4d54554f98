"""CORE's scorer against another on the same weights and items, task by task in turn: ratio, agreement, memory.

    python bench/core.py --bundle BUNDLE --text CORPUS/shard_00000.parquet --items 25
    python bench/core.py --bundle BUNDLE --text CORPUS/shard_00000.parquet --items 25 --peer ../peer

The other scorer is the plain one of the tests (tests/eval/plain_core.py): one prompt at a time, whole logits. With
--peer it is `core_eval` of a working tree of karpathy/nanochat, on that package's own model and tokenizer with our
weights and tokens (bench/core_peer.py). The model is a d4 of random weights with a vocabulary learnt from the text,
with --peer one that the peer can compute; --model-tag takes a trained one. Compiled code is ready before the clock
starts.
Prints one line a task, one for each item on which the two differ, and one JSON line.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow.parquet as pq
import torch
from decode import random_model

from nanochat.checkpoint.loading import load_model
from nanochat.eval.batching import BATCH_TOKENS
from nanochat.eval.bundle import CoreTask, load_bundle
from nanochat.eval.core import score_task
from nanochat.eval.core_prompts import TaskPrompts
from nanochat.eval.prompt_states import PromptStates
from nanochat.eval.subject import Subject
from nanochat.infer.native_library import native_library
from nanochat.model.gpt import GPT
from nanochat.runtime import Runtime, open_runtime
from nanochat.tokenizer.bpe import train_tokenizer
from nanochat.tokenizer.tokenizer import Tokenizer
from tests.eval.plain_core import PlainCore, prediction, read

PEER_SHAPE: dict[str, Any] = {"window_pattern": "L", "backout": False}
"""What makes a model of ours one of the peer's: its short windows and its backout are placed otherwise."""


@dataclass(frozen=True)
class Answer:
    """The prediction for an item (an option's number, or text), the mean nats of its prompts, and their tokens."""

    prediction: str
    nats: tuple[float, ...]
    prompts: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Timed:
    """Answers to a task's items, and the seconds they took: of the wall clock, and of all threads."""

    answers: list[Answer]
    wall_s: float
    cpu_s: float


class Scorer(Protocol):
    """Answers the first items of a task."""

    def __call__(self, task: CoreTask, n: int) -> Timed: ...


def ours(subject: Subject, runtime: Runtime) -> Scorer:
    """As `nanochat eval base` does."""
    states = PromptStates(subject.model, BATCH_TOKENS[runtime.device.type])

    def score(task: CoreTask, n: int) -> Timed:
        wall, cpu = time.perf_counter(), time.process_time()
        rows = score_task(states, subject, task, n, runtime).rows
        wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
        prompts = TaskPrompts(task, subject.tokenizer, subject.config.max_seq_len)
        answers = [
            Answer(
                row.prediction,
                tuple(score for score in row.scores if score is not None),
                tuple(tuple(prompt.ids) for prompt in prompts.rows(row.index)),
            )
            for row in rows
        ]
        return Timed(answers, wall_s, cpu_s)

    return score


def plain(bundle: Path, model: GPT, tokenizer: Tokenizer) -> Scorer:
    """One prompt at a time, by the definition."""
    tasks, context = PlainCore(bundle, tokenizer.bos, tokenizer.encode), model.config.max_seq_len

    def answer(task: CoreTask, items: list[dict[str, Any]], index: int) -> Answer:
        prompts = tasks.prompts(task.label, items, index)
        readings = [read(model, prompt, context, whole=True) for prompt in prompts]
        chosen = prediction(task.kind, readings)
        shown = str(chosen) if isinstance(chosen, int) else tokenizer.decode(chosen)
        return Answer(
            shown, tuple(nats for nats, _, _ in readings), tuple(tuple(ids[-context:]) for ids, _ in prompts)
        )

    def score(task: CoreTask, n: int) -> Timed:
        wall, cpu = time.perf_counter(), time.process_time()
        items = tasks.items(task.label)
        answers = [answer(task, items, index) for index in range(n)]
        return Timed(answers, time.perf_counter() - wall, time.process_time() - cpu)

    return score


@contextmanager
def peer(tree: Path, bundle: Path, subject: Subject, *, whole: bool) -> Iterator[Scorer]:
    """The peer's scorer in a process of its own; whole: it does not cut prompts to the context."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(subject.model.state_dict(), folder / "weights.pt")
        (folder / "shape.json").write_text(json.dumps(asdict(subject.config)))
        subject.tokenizer.save(folder)
        script, threads = Path(__file__).with_name("core_peer.py"), str(torch.get_num_threads())
        process = subprocess.Popen(
            [sys.executable, str(script), name, str(bundle.resolve()), threads],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(tree.resolve()), "NANOCHAT_DTYPE": "float32"},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        requests, replies = process.stdin, process.stdout

        def score(task: CoreTask, n: int) -> Timed:
            print(json.dumps({"label": task.label, "n": n, "whole": whole}), file=requests, flush=True)
            reply = replies.readline()
            if not reply:
                sys.exit("the peer ended: see above")
            told = json.loads(reply)
            answers = [_peer_answer(task, item, subject.tokenizer) for item in told["items"]]
            return Timed(answers, told["wall_s"], told["cpu_s"])

        with process:
            yield score
            requests.close()


def _peer_answer(task: CoreTask, item: dict[str, Any], tokenizer: Tokenizer) -> Answer:
    nats = tuple(item["nats"])
    text = tokenizer.decode(item["greedy"][0])
    chosen = text if task.kind == "language_modeling" else str(nats.index(min(nats)))
    return Answer(chosen, nats, tuple(map(tuple, item["prompts"])))


def subject_of(arguments: argparse.Namespace, runtime: Runtime) -> Subject:
    """The model to time."""
    if arguments.model_tag:
        loaded = load_model(arguments.model_tag, runtime)
        return Subject(loaded.model.config, loaded.tokenizer, lambda: loaded.model)
    texts = pq.read_table(arguments.text, columns=["text"])["text"].to_pylist()
    tokenizer = train_tokenizer(texts, arguments.vocab_size, max_chars=5_000_000)
    model = random_model(arguments.depth, 64, arguments.vocab_size, arguments.max_seq_len, runtime)
    if arguments.peer:
        model = GPT(replace(model.config, **PEER_SHAPE), model.backend).to(runtime.device).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # the initial weights give all tokens nearly the same probability
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return Subject(model.config, tokenizer, lambda: model)


def cause(ours: Answer, theirs: Answer) -> str:
    """Why two scorers differ on an item."""
    if ours.prompts != theirs.prompts:
        lengths = " and ".join(str([len(ids) for ids in side.prompts]) for side in (ours, theirs))
        return f"other prompts, of {lengths} tokens"
    apart = max(abs(a - b) for a, b in zip(ours.nats, theirs.nats, strict=True))
    return f"equal prompts, mean nats differ by at most {apart:.1e}: {ours.nats} and {theirs.nats}"


def compare(tasks: list[CoreTask], items: int, ours: Scorer, other: Scorer, name: str) -> dict[str, float]:
    """Let both answer every task in turn, print what they need and where they differ, and return the totals."""
    totals = torch.zeros(4, dtype=torch.float64)
    differing, compared, apart = 0, 0, 0.0
    for task in tasks:
        n = min(items, len(task.items))
        fast, slow = ours(task, n), other(task, n)
        totals += torch.tensor([slow.wall_s, fast.wall_s, slow.cpu_s, fast.cpu_s], dtype=torch.float64)
        pairs = list(zip(fast.answers, slow.answers, strict=True))
        unequal = [at for at, (a, b) in enumerate(pairs) if a.prediction != b.prediction]
        differing, compared = differing + len(unequal), compared + n
        apart = max(
            [apart]
            + [
                abs(x - y)
                for a, b in pairs
                if a.prompts == b.prompts
                for x, y in zip(a.nats, b.nats, strict=True)
            ]
        )
        print(
            f"{task.label:28} {n:4} items, {name} {slow.wall_s:6.1f} s, ours {fast.wall_s:6.1f} s: "
            f"{slow.wall_s / fast.wall_s:5.1f}x, CPU {slow.cpu_s / fast.cpu_s:5.1f}x, {len(unequal)} differ",
            flush=True,
        )
        for at in unequal:
            a, b = pairs[at]
            print(f"    item {at}: ours {a.prediction!r}, {name} {b.prediction!r}: {cause(a, b)}", flush=True)
    slow_s, fast_s, slow_cpu_s, fast_cpu_s = totals.tolist()
    return {
        f"{name}_s": slow_s,
        "ours_s": fast_s,
        "ratio": slow_s / fast_s,
        "cpu_ratio": slow_cpu_s / fast_cpu_s,
        "items": compared,
        "differing": differing,
        "largest_difference_nats": apart,
    }


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
    parser.add_argument("--peer", type=Path, help="a working tree of karpathy/nanochat to compare with")
    parser.add_argument("--whole", action="store_true", help="the peer does not cut prompts to the context")
    arguments = parser.parse_args()
    if arguments.peer and arguments.model_tag:
        parser.error("--peer needs a model that the peer can compute: leave out --model-tag")
    with open_runtime(arguments.device) as runtime:
        subject = subject_of(arguments, runtime)
        model = subject.model
        if model.backend.code_cache is not None:
            native_library(model.backend.code_cache).wait()
        tasks = load_bundle(arguments.bundle)
        fast = ours(subject, runtime)
        if arguments.peer:
            with peer(arguments.peer, arguments.bundle, subject, whole=arguments.whole) as scorer:
                figures = compare(tasks, arguments.items, fast, scorer, "peer")
        else:
            scorer = plain(arguments.bundle, model, subject.tokenizer)
            figures = compare(tasks, arguments.items, fast, scorer, "plain")
        figures["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
