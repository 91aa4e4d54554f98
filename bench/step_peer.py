"""The training step of karpathy/nanochat: `bench/step.py --peer` starts this with its working tree on PYTHONPATH.

Its model, optimiser and compilation as its training script sets them up, on random tokens; prints one line of JSON.
"""

import argparse
import json
import resource
import statistics
import time

import torch


def make_model(args: argparse.Namespace, device: torch.device) -> torch.nn.Module:
    """A model as the peer's training script sets it up, before compilation."""
    from nanochat.gpt import GPT, GPTConfig

    heads = -(-args.depth * 64 // args.head_dim)
    config = GPTConfig(
        sequence_len=args.max_seq_len,
        vocab_size=args.vocab_size,
        n_layer=args.depth,
        n_head=heads,
        n_kv_head=heads,
        n_embd=heads * args.head_dim,
        window_pattern=args.window_pattern,
    )
    with torch.device("meta"):
        model = GPT(config)
    model.to_empty(device=device)
    model.init_weights()
    if args.fp8:
        from nanochat.fp8 import Float8LinearConfig, convert_to_float8_training

        def fits(module: torch.nn.Module, _name: str) -> bool:
            sides = getattr(module, "in_features", 0), getattr(module, "out_features", 0)
            return (
                isinstance(module, torch.nn.Linear) and min(sides) >= 128 and not any(n % 16 for n in sides)
            )

        recipe = Float8LinearConfig.from_recipe_name("tensorwise")
        convert_to_float8_training(model, config=recipe, module_filter_fn=fits)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("depth", "vocab-size", "max-seq-len", "head-dim", "rows", "accumulation", "steps", "warmup"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--window-pattern", required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--fp8", action="store_true")
    parser.add_argument("--as-json", action="store_true")
    args = parser.parse_args()

    from nanochat.common import COMPUTE_DTYPE, autodetect_device_type, compute_init

    kind = autodetect_device_type() if args.device == "auto" else args.device
    device = compute_init(kind)[-1]
    model = make_model(args, device)
    compiled = torch.compile(model, dynamic=False)
    optimizer = model.setup_optimizer()
    draw = torch.Generator().manual_seed(0)
    shape = (args.rows, args.max_seq_len + 1)
    batches = [
        torch.randint(args.vocab_size, shape, generator=draw).to(device) for _ in range(args.accumulation)
    ]

    def step() -> float:
        for ids in batches:
            loss = compiled(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
            (loss / len(batches)).backward()
        for group in optimizer.param_groups:
            if group["kind"] == "muon":
                group["momentum"] = 0.9
        optimizer.step()
        model.zero_grad(set_to_none=True)
        found = loss.item()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return found

    losses = [step() for _ in range(args.warmup)]
    seconds = []
    for _ in range(args.steps):
        began = time.perf_counter()
        losses.append(step())
        seconds.append(time.perf_counter() - began)
    tokens = args.rows * args.accumulation * args.max_seq_len
    memory = (
        torch.cuda.max_memory_allocated()
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    figures = {
        "tok_s": tokens / statistics.median(seconds),
        "memory_gib": memory / 2**30,
        "dtype": str(COMPUTE_DTYPE),
        "losses": [losses[0], losses[-1]],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
