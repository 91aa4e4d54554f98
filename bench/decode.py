"""Decoding speed of the engine, in tokens per second by batch size, with a model of random weights.

    python bench/decode.py                        # d4: width 256, vocabulary 8,192, batch 1, 8 and 32
    python bench/decode.py --sampled --batches 1,64 --device cuda --dtype bf16 --depth 12

Each figure is the median of several runs, with their range; prefill is excluded.
"""

import argparse
import statistics
import time

import torch

from nanochat.infer.engine import Engine
from nanochat.infer.native_library import native_library
from nanochat.infer.sampler import SamplingParams
from nanochat.model.backend import choose_backend
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.runtime import Runtime, open_runtime
from nanochat.tokenizer.patterns import split_pattern
from nanochat.tokenizer.special import SPECIAL_TOKENS
from nanochat.tokenizer.tokenizer import Tokenizer

GREEDY = SamplingParams(temperature=0.0)
SAMPLED = SamplingParams(temperature=0.8, top_k=50, seed=1)


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


def tokens_per_second(
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
    return decoded / elapsed


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
    args = parser.parse_args()

    params = SAMPLED if args.sampled else GREEDY
    with open_runtime(args.device, args.dtype) as runtime:
        model = random_model(args.depth, args.head_dim, args.vocab_size, args.max_seq_len, runtime)
        tokenizer = tokenizer_of(args.vocab_size)
        print(
            f"d{args.depth}, width {model.config.n_embd}, V {args.vocab_size}, T {args.max_seq_len}, {runtime.device}"
        )
        for batch in map(int, args.batches.split(",")):
            engine = Engine(model, tokenizer, max_rows=batch, weights=args.weights)
            rates = [
                tokens_per_second(engine, batch, args.prompt, args.new_tokens, params)
                for _ in range(args.runs + 1)
            ][1:]  # the first run warms up
            median = statistics.median(rates)
            print(f"batch {batch:3}: {median:9,.0f} tok/s ({min(rates):,.0f} to {max(rates):,.0f})")


if __name__ == "__main__":
    main()
