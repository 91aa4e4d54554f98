"""`data pack` on much text: time, peak memory, and whether two runs give the same bytes.

    python bench/pack.py --source ../shared/data/corpus --gigabytes 2 --work /tmp/pack-bench

Repeats the source text in one jsonl file of the given size (with a running number in each document, so that no two
are equal), packs it twice in separate processes, and prints their resource usage.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from time import perf_counter

from nanochat.text.own_files import find_files
from nanochat.text.readers import read_documents


def tile(source: str, target: Path, size: int) -> None:
    texts = [text for path in find_files(source) for text in read_documents(path)]
    written = 0
    with open(target, "w", encoding="utf-8") as file:
        for number in count():
            text = f"{number}. {texts[number % len(texts)]}"
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            written += len(text.encode())
            if written >= size:
                return


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of `data pack`.")
    parser.add_argument("--source", required=True)
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument(
        "--work", type=Path, required=True, help="a new folder; three times the text must fit"
    )
    options = parser.parse_args()
    options.work.mkdir(parents=True)
    text = options.work / "text.jsonl"
    tile(options.source, text, int(options.gigabytes * 1e9))
    digests = []
    for run in ("first", "second"):
        out = options.work / run
        began = perf_counter()
        subprocess.run(
            [sys.executable, "-m", "nanochat", "data", "pack", "--source", str(text), "--out", str(out)],
            check=True,
        )
        seconds = perf_counter() - began
        shards = sorted(out.glob("shard_*.parquet"))
        digests.append([hashlib.sha256(shard.read_bytes()).hexdigest() for shard in shards])
        print(
            f"{run}: {seconds:.1f} s, {text.stat().st_size / seconds / 1e6:.0f} MB/s, {len(shards)} shards of "
            f"{sum(shard.stat().st_size for shard in shards) / 1e9:.2f} GB"
        )
    peak = getrusage(RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"peak memory: {peak / 2**20:.0f} MiB; same bytes: {digests[0] == digests[1]}")
    shutil.rmtree(options.work)


if __name__ == "__main__":
    main()
