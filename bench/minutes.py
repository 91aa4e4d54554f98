"""Minutes asked of `nanochat pretrain --minutes` and minutes taken, on this machine.

    python bench/minutes.py --minutes 1 2 5 --work FOLDER                 # the builtin dataset
    python bench/minutes.py --minutes 10 --work FOLDER --dataset CORPUS --depth 4

Each run is a process of its own, timed from outside. The tokenizer is trained before, if FOLDER has none.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from nanochat.metrics import rows_of
from nanochat.metrics_rows import ConfigRow, DoneRow
from nanochat.paths import Paths
from nanochat.text.dataset_tokenizer import tokenizer_sizes


def nanochat(base: Path, *words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "nanochat", *words],
        check=True,
        env={**os.environ, "NANOCHAT_BASE_DIR": str(base)},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 2.0, 5.0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the tokenizer and the runs")
    parser.add_argument("--dataset", default="builtin")
    parser.add_argument("--depth", type=int)
    args = parser.parse_args()
    paths = Paths(args.work.absolute())
    if not tokenizer_sizes(args.dataset, paths):
        nanochat(paths.base, "tokenizer", "train", f"--dataset={args.dataset}")
    depth = [] if args.depth is None else [f"--depth={args.depth}"]
    for minutes in args.minutes:
        tag = f"minutes-{minutes:g}-{time.time():.0f}"
        load, began = os.getloadavg()[0], time.monotonic()
        nanochat(
            paths.base,
            *("pretrain", f"--dataset={args.dataset}", f"--minutes={minutes:g}", f"--model-tag={tag}"),
            *depth,
        )
        taken = (time.monotonic() - began) / 60
        plan = rows_of(paths.metrics(tag), ConfigRow)[-1].plan
        done = rows_of(paths.metrics(tag), DoneRow)[-1]
        assert plan is not None
        print(
            f"asked {minutes:g} min, taken {taken:.2f} ({taken / minutes - 1:+.1%}): d{plan['depth']}, "
            f"{done.step} steps, {done.train_s / 60:.2f} min in steps, load {load:.1f} before",
            flush=True,
        )


if __name__ == "__main__":
    main()
