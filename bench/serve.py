"""The server under load, with a trained model of NANOCHAT_BASE_DIR.

    python bench/serve.py                         # 16 clients at once against one after the other; the cost of HTTP
    python bench/serve.py --soak 60               # mixed clients: latencies, errors, memory; then ten times the load

The server runs in a process of its own; the clients share this one, over raw sockets, so that they cost little. The
answers of the comparisons have given lengths: the tokens that would end them are excluded by `logit_bias`.
"""

import argparse
import asyncio
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import psutil
from serve_clients import Answering, Tally, Timing, ask

from nanochat.checkpoint.loading import load_model
from nanochat.infer.engine import Engine
from nanochat.infer.sampler import CHAT_SAMPLING
from nanochat.paths import CHAT_RUN
from nanochat.runtime import open_runtime
from nanochat.serve.worker import HELD_SECONDS
from nanochat.tokenizer.chat_format import render_prompt
from nanochat.tokenizer.special import ASSISTANT_END, BOS, PYTHON_START
from nanochat.tokenizer.tokenizer import Tokenizer

QUESTIONS = (
    "What is the capital of France?",
    "Tell me a story about a cat.",
    "What is 47 times 36?",
    "Who are you?",
)


@contextmanager
def server(model_tag: str, flags: Sequence[str]) -> Iterator[tuple[int, psutil.Process]]:
    """`nanochat serve` on a free port; its port and process."""
    command = [sys.executable, "-m", "nanochat", "serve", "--model", model_tag, "--port", "0", *flags]
    began = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.search(r"http://[\w.]+:(\d+)", line)
        assert found, line
        draining = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        port = int(found[1])
        timing = asyncio.run(ask(Answering(port, QUESTIONS[0], 1, 0)))
        assert timing.status == 200, timing
        print(f"first answer {time.perf_counter() - began:.2f} s after the command")
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)
        draining.wait(10)


def rate(clients: Sequence[Sequence[Answering]]) -> float:
    """Tokens per second of clients at once, each of which sends its requests one after the other."""

    async def run(requests: Sequence[Answering]) -> list[Timing]:
        return [await ask(request) for request in requests]

    async def run_all() -> list[Timing]:
        return [timing for own in await asyncio.gather(*map(run, clients)) for timing in own]

    began = time.perf_counter()
    timings = asyncio.run(run_all())
    elapsed = time.perf_counter() - began
    assert all(timing.tokens for timing in timings), timings
    return sum(timing.tokens for timing in timings) / elapsed


def engine_rate(engine: Engine, requests: Sequence[Answering], budget_s: float | None) -> float:
    """Tokens per second of the same requests with the engine alone: in steps of such a budget, or whole answers."""
    prompts = [
        render_prompt(engine.tokenizer, [{"role": "user", "content": request.question}])
        for request in requests
    ]
    params = [
        replace(
            CHAT_SAMPLING,
            seed=request.seed,
            max_new_tokens=request.max_tokens,
            logit_bias=tuple((token, -100.0) for token in request.banned),
        )
        for request in requests
    ]
    began = time.perf_counter()
    if budget_s is None:
        tokens = sum(len(answer.ids) for answer in engine.generate(prompts, params))
    else:
        for prompt, own in zip(prompts, params, strict=True):
            engine.submit(prompt, own)
        tokens = 0
        while engine.busy:
            tokens += len(engine.step(budget_s))
    return tokens / (time.perf_counter() - began)


def banned(tokenizer: Tokenizer) -> tuple[int, ...]:
    """What would end an answer, or make its length depend on a tool."""
    return tuple(tokenizer.special(name) for name in (ASSISTANT_END, BOS, PYTHON_START))


def compare(model_tag: str, clients: int, answers: int, tokens: int, runs: int) -> None:
    """Together against one after the other, and against the engine alone, in turn: the machine's pace changes."""
    with open_runtime() as runtime, server(model_tag, ("--max-rows", str(clients))) as (port, _):
        loaded = load_model(model_tag, runtime)
        engine = Engine(loaded.model, loaded.tokenizer, max_rows=clients)
        endings, chance = banned(loaded.tokenizer), random.Random(0)
        requests = [
            Answering(
                port, chance.choice(QUESTIONS), chance.randint(tokens // 2, tokens * 3 // 2), at, endings
            )
            for at in range(clients * answers)
        ]
        measures = {
            f"{clients} clients at once": lambda: rate([requests[at::clients] for at in range(clients)]),
            "one after the other": lambda: rate([requests[:clients]]),
            "the engine alone": lambda: engine_rate(engine, requests, HELD_SECONDS),
            "its whole answers": lambda: engine_rate(engine, requests, None),
        }
        rounds = [[measure() for measure in measures.values()] for _ in range(runs + 1)]
        del rounds[0]  # it warms up
    for name, values in zip(measures, zip(*rounds, strict=True), strict=True):
        print(f"{name:20} {statistics.median(values):9,.0f} tok/s ({min(values):,.0f} to {max(values):,.0f})")
    ratio = statistics.median(together / single for together, single, *_ in rounds)
    cost = statistics.median(1 - together / alone for together, _, alone, _ in rounds)
    print(f"ratio {ratio:.2f} (to reach: 5); HTTP and streaming cost {cost:.0%} (to reach: 15%)")


async def soak(port: int, process: psutil.Process, clients: int, seconds: float) -> tuple[Tally, list[int]]:
    """Clients of all kinds for some time; what they saw, and the server's memory every second."""
    tally, resident = Tally(), []
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        choose = random.Random(number)
        while time.perf_counter() < end:
            request = Answering(
                port, choose.choice(QUESTIONS) * choose.randint(1, 3), choose.randint(1, 120), number
            )
            if number % 3 == 0:
                request = replace(request, leave_after=choose.randint(1, 20))
            elif number % 8 == 1:
                request = replace(request, pause=0.05)
            timing = await ask(request)
            tally.add(timing)
            if timing.status == 429:
                await asyncio.sleep(choose.uniform(0.5, 1.5))

    async def watch() -> None:
        while time.perf_counter() < end:
            resident.append(process.memory_info().rss)
            await asyncio.sleep(1)

    await asyncio.gather(watch(), *(client(number) for number in range(clients)))
    return tally, resident


def percentiles(values: Sequence[float]) -> str:
    """p50, p95 and p99 in milliseconds."""
    if len(values) < 2:
        return "too few values"
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return ", ".join(f"p{p} {cuts[p - 1] * 1000:.1f} ms" for p in (50, 95, 99))


def report(tally: Tally, seconds: float) -> None:
    statuses = ", ".join(f"{status}: {count}" for status, count in sorted(tally.statuses.items()))
    print(f"  responses by status: {statuses}; errors: {len(tally.errors)}")
    for error in sorted(set(tally.errors))[:5]:
        print(f"    {error}")
    print(f"  tokens received to the end: {tally.tokens / seconds:,.0f} per s")
    print(f"  time to first token  {percentiles(tally.first)}")
    print(f"  between tokens       {percentiles(tally.gaps)}")


def long_run(model_tag: str, clients: int, seconds: float) -> None:
    """A soak of 64 clients, then ten times as many for a tenth of the time."""
    with server(model_tag, ("--max-rows", "16", "--max-waiting", str(clients))) as (port, process):
        asyncio.run(soak(port, process, clients, min(10.0, seconds / 4)))  # warms up
        print(f"{clients} clients for {seconds:g} s, a third leaving early, an eighth reading slowly")
        tally, resident = asyncio.run(soak(port, process, clients, seconds))
        report(tally, seconds)
        window = min(60, max(1, len(resident) // 2))
        first, last = statistics.mean(resident[:window]), statistics.mean(resident[-window:])
        print(
            f"  memory: first {window} s {first / 1e6:.1f} MB, last {last / 1e6:.1f} MB ({last / first - 1:+.1%})"
        )
        print(f"{clients * 10} clients for {seconds / 4:g} s")
        tally, _ = asyncio.run(soak(port, process, clients * 10, seconds / 4))
        report(tally, seconds / 4)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model-tag", default=CHAT_RUN)
    parser.add_argument("--clients", type=int, help="default: 16, or 64 with --soak")
    parser.add_argument("--answers", type=int, default=4, help="for each client in the comparisons")
    parser.add_argument(
        "--tokens", type=int, default=120, help="of an answer in the comparisons, plus or minus half of them"
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--soak", type=float, metavar="SECONDS")
    args = parser.parse_args()
    if args.soak is None:
        compare(args.model_tag, args.clients or 16, args.answers, args.tokens, args.runs)
    else:
        long_run(args.model_tag, args.clients or 64, args.soak)


if __name__ == "__main__":
    main()
