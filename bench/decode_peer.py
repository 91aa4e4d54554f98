"""Decoding speed of karpathy/nanochat's engine: `bench/decode.py --peer` starts this in a working tree of it.

Prints one JSON list: seconds per step of each run. The model has random weights and the shape of `bench/decode.py`'s.
"""

import argparse
import json
import time
from itertools import count, islice

import torch


class SpecialTokens:
    """A tokenizer without text, whose special tokens are outside the vocabulary and so never sampled."""

    def __init__(self, vocab_size: int):
        self._ids = count(vocab_size)

    def encode_special(self, _text: str) -> int:
        return next(self._ids)

    def get_bos_token_id(self) -> int:
        return next(self._ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("depth", "head-dim", "vocab-size", "max-seq-len", "batch", "prompt", "new-tokens", "runs"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--sampled", action="store_true")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    from nanochat.engine import Engine
    from nanochat.gpt import GPT, GPTConfig

    heads = -(-args.depth * 64 // args.head_dim)
    config = GPTConfig(
        sequence_len=args.max_seq_len,
        vocab_size=args.vocab_size,
        n_layer=args.depth,
        n_head=heads,
        n_kv_head=heads,
        n_embd=heads * args.head_dim,
    )
    torch.manual_seed(0)
    model = GPT(config)
    model.init_weights()
    engine = Engine(model.eval().to(args.device), SpecialTokens(args.vocab_size))
    sampling = {"temperature": 0.8, "top_k": 50} if args.sampled else {"temperature": 0.0}
    prompt = [7 * at % 256 for at in range(args.prompt)]
    seconds = []
    for _ in range(args.runs + 1):
        steps = engine.generate(prompt, num_samples=args.batch, max_tokens=args.new_tokens + 1, **sampling)
        next(steps)  # the prompt
        began = time.perf_counter()
        taken = sum(1 for _ in islice(steps, args.new_tokens))
        seconds.append((time.perf_counter() - began) / taken)
        steps.close()
    print(json.dumps(seconds[1:]))  # the first run warms up


if __name__ == "__main__":
    main()
