"""Download a folder's parquet files from a failing loopback hub, and compare them byte for byte.

    python bench/download.py ../shared/data/corpus                 # a fifth of all requests fail
    python bench/download.py ../shared/data/corpus --share 0.5 --seed 1

Prints the requests, the faults by kind, the time, and whether every file is good; exit status 1 if one is not.
Pauses between attempts are a hundredth of the real ones.
"""

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

from nanochat.hub import RetryPolicy, check_parquet, fetch_files
from tests.hub_server import FAULTS, loopback_hub

REPO = "owner/name"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=0.2, help="share of failing requests, in tenths")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--workers", type=int, default=8)
    arguments = parser.parse_args()
    policy = RetryPolicy(first_pause_s=0.01, longest_pause_s=0.6, bad_copies=10, stall_timeout_s=1.0)
    files = {path.name: path.read_bytes() for path in sorted(arguments.folder.glob("*.parquet"))}
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        loopback_hub(monkeypatch) as hub,
        tempfile.TemporaryDirectory() as directory,
    ):
        for name, data in files.items():
            hub.add(REPO, name, data)
        hub.break_share(arguments.share, arguments.seed, FAULTS)
        began = time.perf_counter()
        paths = fetch_files(
            REPO, list(files), Path(directory), workers=arguments.workers, check=check_parquet, policy=policy
        )
        seconds = time.perf_counter() - began
        good = sum(path.read_bytes() == files[path.name] for path in paths)
    faults = Counter(request.fault for request in hub.requests if request.fault)
    wanted = sum(map(len, files.values()))
    print(f"requests {len(hub.requests)}, failed {faults.total()} ({faults.total() / len(hub.requests):.0%})")
    print("faults   " + ", ".join(f"{kind} {count}" for kind, count in sorted(faults.items())))
    print(f"bytes    {wanted:,} in {seconds:.2f} s")
    print(f"good     {good} of {len(files)} files, byte for byte")
    return 0 if good == len(files) else 1


if __name__ == "__main__":
    raise SystemExit(main())
