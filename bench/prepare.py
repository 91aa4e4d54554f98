"""`data prepare` on much text: time, peak memory, planted duplicates found, and whether two runs give the same bytes.

    python bench/prepare.py --source ../shared/data/corpus --gigabytes 1 --work /tmp/prepare-bench

Documents are made of random sentences of the source, so that no two are alike; every tenth is followed, somewhere
later, by an exact copy, and every tenth by one in which every fiftieth word differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from time import perf_counter, sleep

import psutil

from nanochat.config import from_json
from nanochat.prepare.preparation import PrepareRecord
from nanochat.text.own_files import find_files
from nanochat.text.readers import read_documents

FILES = 8
LATER = 2_000  # documents between a document and its copy, at most


def sentences(source: str) -> list[str]:
    texts = (text for path in find_files(source) for text in read_documents(path))
    return [
        part for text in texts for part in re.split(r"(?<=[.!?])\s+", text) if 5 <= len(part.split()) <= 60
    ]


def near_copy(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    for start in range(0, len(words) - 1, 50):
        words[rng.randrange(start, min(start + 50, len(words)))] = f"word{rng.randrange(10**6)}"
    return " ".join(words)


def planted(source: str, size: int, counts: Counter[str]) -> Iterator[str]:
    rng, pool, waiting, made = random.Random(0), sentences(source), [], 0
    while made < size:
        text = " ".join(rng.choices(pool, k=rng.randrange(10, 60)))
        if counts["originals"] % 10 == 0:
            waiting.append(text)
            counts["exact"] += 1
        if counts["originals"] % 10 == 5:
            waiting.append(near_copy(text, rng))
            counts["near"] += 1
        counts["originals"] += 1
        fresh = [text]
        if len(waiting) > LATER // 5:
            fresh.append(waiting.pop(rng.randrange(len(waiting))))
        for document in fresh:
            yield document
            made += len(document.encode())
    yield from waiting


def write(source: str, folder: Path, size: int) -> tuple[Counter[str], int]:
    """Returns the number of originals and of copies by kind, and the bytes."""
    folder.mkdir()
    counts, written = Counter[str](), 0
    with ExitStack() as stack:
        files = [stack.enter_context(open(folder / f"{index}.jsonl", "w")) for index in range(FILES)]
        for text in planted(source, size, counts):
            files[min(written * FILES // size, FILES - 1)].write(json.dumps({"text": text}) + "\n")
            written += len(text.encode())
    return counts, written


class PeakMemory(threading.Thread):
    """The largest sum of resident memory of a process and its children, sampled."""

    def __init__(self, process: subprocess.Popen[bytes]):
        super().__init__(daemon=True)
        self.process, self.bytes = psutil.Process(process.pid), 0

    def run(self) -> None:
        while self.process.is_running():
            try:
                family = [self.process, *self.process.children(recursive=True)]
                self.bytes = max(self.bytes, sum(member.memory_info().rss for member in family))
            except psutil.Error:
                pass
            sleep(0.25)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of `data prepare`.")
    parser.add_argument("--source", required=True)
    parser.add_argument("--gigabytes", type=float, default=1)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--runner", default="native", choices=("native", "ray"))
    parser.add_argument("--work", type=Path, required=True, help="a new folder; four times the text must fit")
    options = parser.parse_args()
    options.work.mkdir(parents=True)
    counts, size = write(options.source, options.work / "text", int(options.gigabytes * 1e9))
    print(f"{size / 1e9:.2f} GB; documents: {dict(counts)}")
    digests, cpu_before = [], 0.0
    for run in range(options.runs):
        out = options.work / f"out{run}"
        began = perf_counter()
        command = ["data", "prepare", f"--source={options.work / 'text'}", f"--out={out}"]
        command += [f"--runner={options.runner}"]
        process = subprocess.Popen([sys.executable, "-m", "nanochat", *command])
        peak = PeakMemory(process)
        peak.start()
        if process.wait():
            sys.exit(process.returncode)
        seconds, usage = perf_counter() - began, getrusage(RUSAGE_CHILDREN)
        cpu, cpu_before = usage.ru_utime + usage.ru_stime - cpu_before, usage.ru_utime + usage.ru_stime
        record = from_json(PrepareRecord, json.loads((out / "prepare.json").read_text()))
        digests.append([hashlib.sha256((out / name).read_bytes()).hexdigest() for name in record.shards])
        print(
            f"run {run}: {seconds:.1f} s, {size / seconds / 1e6:.0f} MB/s, CPU {cpu:.0f} s, "
            f"peak {peak.bytes / 2**20:.0f} MiB, "
            f"{record.exact:,} exact and {record.near:,} near duplicates, {record.kept:,} kept"
        )
    print(f"same bytes: {all(digest == digests[0] for digest in digests)}")
    shutil.rmtree(options.work)


if __name__ == "__main__":
    main()
