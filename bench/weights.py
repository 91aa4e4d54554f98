"""What `--weights bf16` and `--weights int8` cost: bits per byte of a run with its matrices rounded.

python bench/weights.py --run baserun --dataset builtin
"""

import argparse

import torch

from nanochat.checkpoint.loading import load_model
from nanochat.console import table
from nanochat.eval.bpb import cut, score
from nanochat.infer.frozen import WeightsName, rounded
from nanochat.model.gpt import GPT
from nanochat.runtime import open_runtime
from nanochat.text.datasets import documents, open_dataset

WEIGHTS: tuple[WeightsName, ...] = ("fp32", "bf16", "int8")


@torch.no_grad()
def round_matrices(model: GPT, weights: WeightsName) -> None:
    """Store every matrix of the blocks, and the head, as the decoder does; embeddings stay."""
    for matrix in (*model.blocks.parameters(), model.head.weight):
        matrix.copy_(rounded(matrix, weights))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", default="baserun")
    parser.add_argument("--dataset", default="builtin")
    parser.add_argument("--max-bytes", type=int, default=1_000_000)
    args = parser.parse_args()
    with open_runtime() as runtime:
        dataset = open_dataset(args.dataset, runtime.paths)
        rows, exact = [], None
        for weights in WEIGHTS:
            loaded = load_model(args.run, runtime)
            round_matrices(loaded.model, weights)
            context = loaded.model.config.max_seq_len
            windows = cut(
                loaded.tokenizer, documents(dataset, "val"), max_seq_len=context, max_bytes=args.max_bytes
            )
            bpb = score(loaded.model, windows, runtime, batch_tokens=8192).bpb
            exact = exact or bpb
            rows.append((weights, f"{bpb:.5f}", f"{100 * (bpb / exact - 1):+.3f} %"))
        table(
            f"{args.run} on {args.dataset}, {windows.bytes:,} bytes",
            ("weights", "bits per byte", "cost"),
            rows,
        )


if __name__ == "__main__":
    main()
