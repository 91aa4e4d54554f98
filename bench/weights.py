"""What `--weights bf16` and `--weights int8` cost: bits per byte of a run, scored by the compiled decoder.

python bench/weights.py --run baserun --dataset builtin
"""

import argparse
import math

import torch
import torch.nn.functional as F

from nanochat.checkpoint.loading import load_model
from nanochat.console import progress, table
from nanochat.eval.bpb import Windows, cut
from nanochat.infer.cache import RowCache
from nanochat.infer.decoder import Span
from nanochat.infer.frozen import WeightsName
from nanochat.infer.native_decoder import NativeDecoder
from nanochat.infer.native_library import native_library
from nanochat.model.gpt import GPT
from nanochat.paths import BASE_RUN
from nanochat.runtime import Runtime, open_runtime
from nanochat.text.datasets import documents, open_dataset
from nanochat.text.readers import Document

WEIGHTS: tuple[WeightsName, ...] = ("fp32", "bf16", "int8")


@torch.inference_mode()
def bits_per_byte(model: GPT, weights: WeightsName, windows: Windows, runtime: Runtime) -> float:
    assert model.backend.code_cache is not None
    code = native_library(model.backend.code_cache)
    code.wait()
    library = code.get()
    assert library is not None, "the decoder cannot be compiled here: see `nanochat doctor`"
    cache = RowCache(model.config, 1, model.config.max_seq_len, runtime.device, torch.float32)
    decoder = NativeDecoder(model, cache, library, weights)
    nats = 0.0
    with progress(weights, len(windows.starts), "window") as bar:
        for done, (start, length) in enumerate(zip(windows.starts, windows.lengths, strict=True)):
            ids = windows.ids[start : start + length + 1].tolist()
            logits_TV = decoder.logits(decoder.hidden_of([Span(0, 0, ids[:-1], 0)], range(len(ids) - 1)))
            nats += F.cross_entropy(logits_TV, torch.tensor(ids[1:]), reduction="sum").double().item()
            bar.update(done + 1)
    return nats / math.log(2) / windows.bytes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", default=BASE_RUN)
    parser.add_argument("--dataset", default="builtin")
    parser.add_argument("--max-bytes", type=int, default=1_000_000)
    args = parser.parse_args()
    with open_runtime("cpu", "fp32") as runtime:
        loaded = load_model(args.run, runtime)
        texts = map(Document, documents(open_dataset(args.dataset, runtime.paths), "val"))
        context = loaded.model.config.max_seq_len
        windows = cut(loaded.tokenizer, texts, max_seq_len=context, max_bytes=args.max_bytes)
        scores = {weights: bits_per_byte(loaded.model, weights, windows, runtime) for weights in WEIGHTS}
    rows = [
        (name, f"{bpb:.5f}", f"{100 * (bpb / scores['fp32'] - 1):+.3f} %") for name, bpb in scores.items()
    ]
    table(
        f"{args.run} on {args.dataset}, {windows.bytes:,} bytes", ("weights", "bits per byte", "cost"), rows
    )


if __name__ == "__main__":
    main()
