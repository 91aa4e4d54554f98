"""How long requests wait: samples of one prompt, the next turn of a chat, and running rows beside a new prompt.

    python bench/latency.py                       # d4: width 256, vocabulary 8,192, a context of 2,048 tokens

Random weights, greedy. Medians over several runs in one process; every figure is a ratio of two times taken in turn.
"""

import argparse
import os
import statistics
import time

from decode import GREEDY, random_model, tokenizer_of
from torch.profiler import ProfilerActivity, profile

from nanochat.infer.engine import Engine
from nanochat.runtime import open_runtime


def prompt(length: int, start: int) -> list[int]:
    return [(start + 7 * at + at // 256) % 256 for at in range(length)]


def time_to_first_tokens(engine: Engine, prompts: list[list[int]]) -> float:
    """Seconds until every prompt has its first token."""
    began = time.perf_counter()
    ids = {engine.submit(each, GREEDY) for each in prompts}
    waiting = set(ids)
    while waiting:
        waiting -= {event.request_id for event in engine.step()}
    elapsed = time.perf_counter() - began
    for request_id in ids:
        engine.cancel(request_id)
    return elapsed


def samples_of_a_prompt(new_engine, runs: int) -> None:
    one, eight = [], []
    for run in range(runs):
        one.append(time_to_first_tokens(new_engine(), [prompt(128, run)]))
        eight.append(time_to_first_tokens(new_engine(), [prompt(128, run)] * 8))
    ratio = statistics.median(b / a for a, b in zip(one, eight, strict=True))
    print(f"8 samples of a prompt of 128 tokens: {ratio:.2f} × the time of one ({1e3 * one[-1]:.1f} ms)")


def next_turn_of_a_chat(new_engine, runs: int) -> None:
    known, unknown = [], []
    for run in range(runs):
        engine, history = new_engine(), prompt(1500, run)
        unknown.append(time_to_first_tokens(engine, [history]))
        known.append(time_to_first_tokens(engine, [history + prompt(20, 5)]))
    ratio = statistics.median(a / b for a, b in zip(unknown, known, strict=True))
    print(
        f"a turn of 20 tokens after 1,500: first token {ratio:.0f} × sooner than without the parked row "
        f"({1e3 * statistics.median(known):.1f} ms against {1e3 * statistics.median(unknown):.1f})"
    )


def gaps_beside_a_prompt(new_engine, runs: int) -> None:
    ratios = []
    for run in range(runs):
        engine = new_engine()
        for row in range(4):
            engine.submit(prompt(32, 10 * row + run), GREEDY)
        gaps: list[float] = []
        for step in range(100):
            if step == 60:
                engine.submit(prompt(200, 99 + run), GREEDY)
            began = time.perf_counter()
            engine.step()
            gaps.append(time.perf_counter() - began)
        ratios.append(max(gaps[60:]) / statistics.median(gaps[20:]))
    print(
        f"4 rows running while a prompt of 200 tokens arrives: worst gap {statistics.median(ratios):.1f} × the median"
        f" ({min(ratios):.1f} to {max(ratios):.1f})"
    )


def operators_per_step(new_engine) -> None:
    engine = new_engine()
    for row in range(8):
        engine.submit(prompt(32, row), GREEDY)
    for _ in range(10):
        engine.step()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(10):
            engine.step()
    calls = sum(event.count for event in profiled.key_averages() if event.key.startswith("aten::"))
    print(f"PyTorch operators per step of 8 rows: {calls / 10:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--weights", choices=("fp32", "bf16", "int8"), default="fp32")
    parser.add_argument("--runs", type=int, default=9)
    args = parser.parse_args()
    with open_runtime() as runtime:
        model = random_model(args.depth, 64, args.vocab_size, 2048, runtime)
        tokenizer = tokenizer_of(args.vocab_size)

        def new_engine() -> Engine:
            return Engine(model, tokenizer, max_rows=8, weights=args.weights)

        print(f"d{args.depth}, V {args.vocab_size}, weights {args.weights}, load {os.getloadavg()[0]:.1f}")
        for measure in (samples_of_a_prompt, next_turn_of_a_chat, gaps_beside_a_prompt):
            measure(new_engine, args.runs)
        operators_per_step(new_engine)


if __name__ == "__main__":
    main()
