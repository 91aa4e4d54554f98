"""Where the time of a training step goes, on random tokens; alone or beside the peer's.

    python bench/step.py --depth 4                        # this machine's device, dtype and backend
    python bench/step.py --depth 12 --rows 32 --accumulation 2 --profile profile.txt
    python bench/step.py --depth 12 --rows 32 --peer ../peer --pairs 2     # A B A B, each as a new process

A step is what training does without reading data: gradients of all micro-batches, their norm, the optimiser's update.
The parts are timed in further steps, with a wait for the device after each. Products and the copy bandwidth are
measured in the same process, as the ceilings of this machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nanochat import hardware
from nanochat.batches.loader import Batch
from nanochat.checkpoint.meta import CheckpointMeta, Progress
from nanochat.console import say
from nanochat.model.backend import choose_backend
from nanochat.model.cost import flops_per_token, training_bytes
from nanochat.model.gpt import GPT
from nanochat.runtime import Runtime, open_runtime
from nanochat.scaling import Dial, make_plan
from nanochat.train import session
from nanochat.train.options import FixedShapeOptions
from nanochat.train.state import Trainer
from nanochat.train.step import train_step, warm_up

SHAPE = ("depth", "vocab_size", "max_seq_len", "head_dim", "window_pattern", "rows", "accumulation", "steps")


class SameBatches:
    """A loader that gives the same random micro-batches at every step."""

    def __init__(self, rows: int, accumulation: int, length: int, vocab_size: int, device: torch.device):
        draw = torch.Generator().manual_seed(0)
        self.step_tokens = rows * accumulation * length
        self._batches = []
        for _ in range(accumulation):
            ids = torch.randint(vocab_size, (rows, length + 1), generator=draw).to(device)
            self._batches.append(Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous()))

    def __next__(self) -> Any:
        return self._batches, None


def make_trainer(args: argparse.Namespace, runtime: Runtime) -> Trainer:
    dial = Dial(
        depth=args.depth,
        max_seq_len=args.max_seq_len,
        head_dim=args.head_dim,
        window_pattern=args.window_pattern,
        total_batch_size=args.rows * args.accumulation * args.max_seq_len,
        num_iterations=10_000,
    )
    plan = make_plan(dial, args.vocab_size, runtime.device.type)
    backend = choose_backend(runtime, fp8=args.fp8, compile_mode=args.compile, training_flops=1e18)
    for choice in backend.describe():
        print(choice, file=sys.stderr)
    model = GPT(plan.model, backend)
    model.init_weights(0)
    model.to(runtime.device)
    kept = session.training_plan(plan, FixedShapeOptions(fp8=args.fp8), runtime.dtype)
    meta = CheckpointMeta("pretrain", plan.model, tokenizer="", plan=kept, progress=Progress())
    batches = SameBatches(
        args.rows, args.accumulation, plan.model.max_seq_len, args.vocab_size, runtime.device
    )
    return session.make_trainer(meta, Path(), model, None, batches, runtime)  # type: ignore[arg-type]


def parts(trainer: Trainer) -> dict[str, float]:
    """Milliseconds of one step's parts, each ended by a wait for the device."""
    found: dict[str, float] = {}
    runtime, model = trainer.runtime, trainer.model

    def timed(name: str, work: Callable[[], Any]) -> Any:
        runtime.synchronize()
        began = time.perf_counter()
        result = work()
        runtime.synchronize()
        found[name] = found.get(name, 0.0) + 1e3 * (time.perf_counter() - began)
        return result

    batches, _ = next(trainer.loader)
    for batch in batches:
        hidden = timed("blocks, forward", lambda batch=batch: model(batch.inputs_BT))
        leaf = hidden.detach().requires_grad_()
        nats, _ = timed(
            "loss and its gradients", lambda leaf=leaf, batch=batch: model.loss(leaf, batch.targets_BT)
        )
        timed("loss and its gradients", nats.backward)
        timed("blocks, backward", lambda hidden=hidden, leaf=leaf: hidden.backward(leaf.grad))
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    timed("norm of the gradients", lambda: torch.nn.utils.get_total_norm(gradients))
    timed("optimiser", lambda: trainer.optimizer.step(1e-3, 0.9, 0.0))
    trainer.optimizer.zero_grad()
    return found


def product_flops(runtime: Runtime, width: int, rows: int) -> float:
    """FLOP/s of this device's best product of the model's typical shape (rows × width by width × 4 width)."""
    dtype, device = runtime.compute_dtype, runtime.device
    backend = choose_backend(runtime)
    a = torch.randn(rows, width, device=device, dtype=dtype)
    b = torch.randn(4 * width, width, device=device, dtype=dtype)
    return 2 * a.numel() * len(b) / fastest(runtime, lambda: backend.matmul(a, b))


def copy_bytes(runtime: Runtime) -> float:
    """Bytes per second, read and written, of a large copy."""
    source = torch.ones(2**27, device=runtime.device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / fastest(runtime, lambda: target.copy_(source))


def fastest(runtime: Runtime, work: Callable[[], Any]) -> float:
    best = float("inf")
    for _ in range(10):
        runtime.synchronize()
        began = time.perf_counter()
        work()
        runtime.synchronize()
        best = min(best, time.perf_counter() - began)
    return best


def profile(trainer: Trainer, path: Path) -> None:
    """The operators of two steps by their own time on the device, and a trace's summary."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    gpu = trainer.runtime.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with profiler(activities=activities) as found:
        for _ in range(2):
            train_step(trainer)
        trainer.runtime.synchronize()
    order = "self_device_time_total" if gpu else "self_cpu_time_total"
    path.write_text(found.key_averages().table(sort_by=order, row_limit=40, max_name_column_width=90))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Figures of this process."""
    with open_runtime(args.device, args.dtype) as runtime:
        trainer = make_trainer(args, runtime)
        began = time.perf_counter()
        if trainer.model.backend.compiles:
            warm_up(trainer, args.rows)
        losses = [train_step(trainer).loss for _ in range(args.warmup)]
        runtime.synchronize()
        first_s = time.perf_counter() - began
        seconds = []
        for _ in range(args.steps):
            began = time.perf_counter()
            losses.append(train_step(trainer).loss)
            runtime.synchronize()
            seconds.append(time.perf_counter() - began)
        result = figures(args, trainer, seconds) | {"first_s": first_s, "losses": [losses[0], losses[-1]]}
        if args.profile:
            profile(trainer, args.profile)
        return result


def figures(args: argparse.Namespace, trainer: Trainer, seconds: list[float]) -> dict[str, Any]:
    """Speed, memory, the parts of a step, and the ceilings of this machine."""
    runtime, config = trainer.runtime, trainer.model.config
    tokens, micro_batch = trainer.loader.step_tokens, args.rows * config.max_seq_len
    flops = flops_per_token(config) * tokens / statistics.median(seconds)
    gpu = runtime.device.type == "cuda"
    memory = torch.cuda.max_memory_allocated() if gpu else hardware.peak_rss_bytes()
    estimate = training_bytes(config, micro_batch, 1, trainer.model.backend.memory)
    timed = [parts(trainer) for _ in range(3)]
    result = {
        "tok_s": tokens / statistics.median(seconds),
        "range": [tokens / max(seconds), tokens / min(seconds)],
        "parts_ms": {name: statistics.median(each[name] for each in timed) for name in timed[0]},
        "tflops": flops / 1e12,
        "product_tflops": product_flops(runtime, config.n_embd, micro_batch) / 1e12,
        "copy_gb_s": copy_bytes(runtime) / 1e9,
        "memory_gib": memory / 2**30,
        "estimate_gib": estimate / 2**30,
    }
    if gpu and (peak := hardware.peak_flops(torch.cuda.get_device_name(), "bf16")):
        result["mfu"] = flops / peak
    return result


def show(result: dict[str, Any]) -> None:
    low, high = result["range"]
    mfu = f", MFU {result['mfu']:.1%}" if "mfu" in result else ""
    say(f"{result['tok_s']:,.0f} tok/s ({low:,.0f} to {high:,.0f}), {result['tflops']:.3g} TFLOP/s{mfu}")
    say(
        f"ceilings: products {result['product_tflops']:.3g} TFLOP/s, of which "
        f"{result['tflops'] / result['product_tflops']:.0%}; copies {result['copy_gb_s']:,.0f} GB/s"
    )
    first, last = result["losses"]
    say(
        f"memory {result['memory_gib']:.2f} GiB (estimated {result['estimate_gib']:.2f}), "
        f"compiling and warming up {result['first_s']:.1f} s, loss {first:.4f} → {last:.4f}"
    )
    whole = sum(result["parts_ms"].values())
    for name, ms in sorted(result["parts_ms"].items(), key=lambda item: -item[1]):
        say(f"  {name:24} {ms:9.2f} ms  {ms / whole:5.1%}")


def in_a_process(
    script: Path, args: argparse.Namespace, more: list[str], **environment: str
) -> dict[str, Any]:
    command = [sys.executable, str(script), "--as-json", *more]
    command += [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in (*SHAPE, "warmup")]
    command += [f"--device={args.device}"] + (["--fp8"] if args.fp8 else [])
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
    if done.returncode:
        sys.exit(f"{script.name} failed with exit status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(args: argparse.Namespace) -> None:
    """Ours and the peer's in turn."""
    here = Path(__file__).resolve()
    dtype = {"bf16": "bfloat16", "fp32": "float32"}.get(args.dtype)
    peer = {"PYTHONPATH": str(args.peer), **({"NANOCHAT_DTYPE": dtype} if dtype else {})}
    ratios = []
    for _ in range(args.pairs):
        own = [f"--dtype={args.dtype}", f"--compile={args.compile}"]
        ours = in_a_process(here, args, own)
        theirs = in_a_process(here.with_name("step_peer.py"), args, [], **peer)
        ratios.append(ours["tok_s"] / theirs["tok_s"])
        say(
            f"ours {ours['tok_s']:,.0f} tok/s, {ours['memory_gib']:.2f} GiB; "
            f"the peer {theirs['tok_s']:,.0f}, {theirs['memory_gib']:.2f} GiB: {ratios[-1]:.2f} ×"
        )
    say(f"{statistics.median(ratios):.2f} × ({min(ratios):.2f} to {max(ratios):.2f}) over {args.pairs} pairs")


def add_shape(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--max-seq-len", type=int, default=256)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--window-pattern", default="L")
    parser.add_argument("--rows", type=int, default=16, help="rows of a micro-batch")
    parser.add_argument("--accumulation", type=int, default=1, help="micro-batches of a step")
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--fp8", action="store_true")
    parser.add_argument("--as-json", action="store_true", help="print the figures as one line of JSON")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_shape(parser)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--compile", choices=("auto", "on", "off"), default="auto")
    parser.add_argument(
        "--profile", type=Path, help="write a table of the operators of two steps to this file"
    )
    parser.add_argument("--peer", type=Path, help="a working tree of karpathy/nanochat to compare with")
    parser.add_argument("--pairs", type=int, default=2)
    args = parser.parse_args()
    if args.peer:
        compare(args)
    elif args.as_json:
        print(json.dumps(measure(args)))
    else:
        show(measure(args))


if __name__ == "__main__":
    main()
