"""Decoding speed of the engine by batch size, with a model of random weights; alone or beside the peer's.

    python bench/decode.py                        # d4: width 256, vocabulary 8,192, batch 1, 8 and 32
    python bench/decode.py --weights bf16 --peer ../peer     # in turn with a working tree of karpathy/nanochat
    python bench/decode.py --sampled --batches 1,64 --device cuda --dtype bf16 --depth 12
    python bench/decode.py --gsm8k HUB --max-seq-len 1024    # 64 problems, 256 new tokens: together and one at a time

Each figure is the median of several runs, with their range; prefill is excluded. With --peer, both sides run in turn,
each time as a new process, and the ratio is the median over the pairs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from nanochat.infer.engine import Engine
from nanochat.infer.native_library import native_library
from nanochat.infer.sampler import SamplingParams
from nanochat.model.backend import choose_backend
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.runtime import Runtime, open_runtime
from nanochat.tasks.gsm8k import GSM8K
from nanochat.tokenizer.chat_format import render_prompt
from nanochat.tokenizer.patterns import split_pattern
from nanochat.tokenizer.special import SPECIAL_TOKENS
from nanochat.tokenizer.tokenizer import Tokenizer

GREEDY = SamplingParams(temperature=0.0)
SAMPLED = SamplingParams(temperature=0.8, top_k=50, seed=1)
SHAPE = ("depth", "head_dim", "vocab_size", "max_seq_len", "prompt", "new_tokens")


def tokenizer_of(vocab_size: int) -> Tokenizer:
    """A tokenizer of all bytes and enough pairs of bytes to reach the vocabulary size."""
    pairs = ((bytes([a, b]) for a in range(256) for b in range(256)),)
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [pair for pair, _ in zip(*pairs, range(vocab_size - 256 - len(SPECIAL_TOKENS)), strict=False)]
    return Tokenizer({token: rank for rank, token in enumerate(tokens)}, split_pattern("default"))


def random_model(depth: int, head_dim: int, vocab_size: int, max_seq_len: int, runtime: Runtime) -> GPT:
    """A model whose most likely token is never a special one, so that no answer ends early."""
    width = depth * 64
    heads = -(-width // head_dim)
    config = GPTConfig(
        max_seq_len=max_seq_len,
        vocab_size=vocab_size,
        n_layer=depth,
        n_head=heads,
        n_kv_head=heads,
        head_dim=head_dim,
        n_embd=heads * head_dim,
    )
    backend = choose_backend(runtime)
    if backend.code_cache is not None:
        native_library(backend.code_cache).wait()
    model = GPT(config, backend)
    model.init_weights(0)
    with torch.no_grad():
        model.head.weight[vocab_size - len(SPECIAL_TOKENS) :] = 0
    return model.to(runtime.device).eval()


def seconds_per_step(
    engine: Engine, batch: int, prompt: int, new_tokens: int, params: SamplingParams
) -> float:
    """One run: `batch` prompts, then `new_tokens` timed decode steps."""
    ids = [engine.submit([(7 * row + at) % 256 for at in range(prompt)], params) for row in range(batch)]
    answered: set[int] = set()
    while len(answered) < batch:
        answered |= {event.request_id for event in engine.step()}
    began = time.perf_counter()
    decoded = sum(len(engine.step()) for _ in range(new_tokens))
    elapsed = time.perf_counter() - began
    for request_id in ids:
        engine.cancel(request_id)
    assert decoded == batch * new_tokens, "a request ended early"
    return elapsed / new_tokens


def weights_bytes(model: GPT, weights: str) -> float:
    """Bytes of the matrices that a step reads."""
    numbers = sum(matrix.numel() for matrix in model.blocks.parameters())
    numbers += model.head.weight.numel()
    return numbers * {"fp32": 4, "bf16": 2, "int8": 1}[weights]


def read_bandwidth() -> float:
    """Bytes per second at which this machine reads memory beyond its caches: the best of several sums."""
    numbers = torch.ones(2**28)
    seconds = []
    for _ in range(7):
        began = time.perf_counter()
        numbers.sum()
        seconds.append(time.perf_counter() - began)
    return numbers.nbytes / min(seconds)


def measure(args: argparse.Namespace, batch: int) -> list[float]:
    """Seconds per step of each run, in this process."""
    params = SAMPLED if args.sampled else GREEDY
    with open_runtime(args.device, args.dtype) as runtime:
        model = random_model(args.depth, args.head_dim, args.vocab_size, args.max_seq_len, runtime)
        args.weights_bytes = weights_bytes(model, args.weights)
        engine = Engine(model, tokenizer_of(args.vocab_size), max_rows=batch, weights=args.weights)
        return [
            seconds_per_step(engine, batch, args.prompt, args.new_tokens, params)
            for _ in range(args.runs + 1)
        ][1:]  # the first run warms up


def in_a_process(script: str, args: argparse.Namespace, batch: int, *more: str, **environment: str) -> float:
    """The median over the runs of another process that prints a list of seconds per step."""
    shape = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in SHAPE]
    command = [sys.executable, script, *shape, f"--runs={args.runs}", *more]
    command += ["--sampled"] if args.sampled else []
    printed = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    ).stdout
    return statistics.median(json.loads(printed.splitlines()[-1]))


def compare(args: argparse.Namespace, batch: int) -> str:
    """Ours and the peer's in turn."""
    here = Path(__file__).resolve()
    own = (f"--weights={args.weights}", f"--device={args.device}", f"--dtype={args.dtype}", "--as-json")
    ours, theirs = [], []
    for _ in range(args.pairs):
        ours.append(in_a_process(str(here), args, batch, f"--batches={batch}", *own))
        peer = {"PYTHONPATH": str(args.peer), "NANOCHAT_DTYPE": args.peer_dtype}
        script, device = (
            str(here.with_name("decode_peer.py")),
            "cpu" if args.device == "auto" else args.device,
        )
        theirs.append(in_a_process(script, args, batch, f"--batch={batch}", f"--device={device}", **peer))
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    our_ms, their_ms = (1e3 * statistics.median(seconds) for seconds in (ours, theirs))
    return (
        f"batch {batch:3}: {our_ms:7.2f} ms a step, the peer {their_ms:7.2f}: "
        f"{statistics.median(ratios):5.2f} × as fast ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def answer_gsm8k(args: argparse.Namespace) -> str:
    """Greedy answers of 256 tokens to 64 problems, in batches and one at a time, in turn: seconds and their ratio."""
    params = SamplingParams(temperature=0.0, max_new_tokens=256)
    with open_runtime(args.device, args.dtype) as runtime:
        model = random_model(args.depth, args.head_dim, args.vocab_size, args.max_seq_len, runtime)
        tokenizer = tokenizer_of(args.vocab_size)
        items = GSM8K.items(replace(runtime.paths, own_task_data=args.gsm8k.absolute()), "test", 0)
        prompts = [render_prompt(tokenizer, item.messages) for item in islice(items, 64)]
        together, alone = (
            Engine(model, tokenizer, max_rows=rows, tools=None, weights=args.weights) for rows in (32, 1)
        )
        ratios, differing = [], 0
        for _ in range(args.runs):
            began = time.perf_counter()
            batched = together.generate(prompts, params)
            middle = time.perf_counter()
            single = [alone.generate([prompt], params)[0] for prompt in prompts]
            ended = time.perf_counter()
            assert all(len(answer.ids) == params.max_new_tokens for answer in batched)
            differing = sum(a.ids != b.ids for a, b in zip(batched, single, strict=True))
            ratios.append((ended - middle) / (middle - began))
    return (
        f"{len(prompts)} problems of {statistics.median(map(len, prompts)):.0f} tokens: together "
        f"{middle - began:.1f} s, one at a time {ended - middle:.1f} s (last run): {statistics.median(ratios):.2f} × "
        f"({min(ratios):.2f} to {max(ratios):.2f}), {differing} answers differ"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--max-seq-len", type=int, default=256)
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of each prompt")
    parser.add_argument("--new-tokens", type=int, default=100, help="timed decode steps")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--sampled", action="store_true", help="temperature 0.8, top-k 50 instead of greedy")
    parser.add_argument("--weights", choices=("fp32", "bf16", "int8"), default="fp32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--peer", type=Path, help="a working tree of karpathy/nanochat to compare with")
    parser.add_argument("--peer-dtype", default="float32", help="its NANOCHAT_DTYPE")
    parser.add_argument("--pairs", type=int, default=5, help="with --peer: processes of each side")
    parser.add_argument(
        "--gsm8k", type=Path, help="a folder with the data of GSM8K as on the hub: time its answers"
    )
    parser.add_argument("--as-json", action="store_true", help="print the seconds per step of each run")
    args = parser.parse_args()

    how = f"{'sampled' if args.sampled else 'greedy'}, weights {args.weights}"
    print(f"d{args.depth}, V {args.vocab_size}, T {args.max_seq_len}, {how}, load {os.getloadavg()[0]:.1f}")
    if args.gsm8k:
        print(answer_gsm8k(args))
        return
    for batch in map(int, args.batches.split(",")):
        if args.peer:
            print(compare(args, batch))
            continue
        seconds = measure(args, batch)
        if args.as_json:
            print(json.dumps(seconds))
            continue
        rates = [batch / each for each in seconds]
        reads = args.weights_bytes / statistics.median(seconds) / 1e9
        print(
            f"batch {batch:3}: {statistics.median(rates):9,.0f} tok/s ({min(rates):,.0f} to {max(rates):,.0f}), "
            f"{1e3 * statistics.median(seconds):.2f} ms a step, {reads:.0f} GB/s of weights"
        )
    if not (args.peer or args.as_json) and args.device in ("auto", "cpu"):
        print(f"memory is read at {read_bandwidth() / 1e9:.0f} GB/s")


if __name__ == "__main__":
    main()
