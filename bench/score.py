"""Score checkpoints of ours and of a peer on the same raw documents, in bits per byte.

    python bench/score.py val.parquet --context 256 --run baserun \\
        --peer-path ../their-nanochat --peer-checkpoint ~/.cache/theirs/base_checkpoints/d4

Both sides get the same frozen documents (the first `--max-bytes` of a parquet file's text column, identified by a
hash) and are scored by the loop in this file, which imports no model code: each document after its BOS, cut into
windows of `--context` tokens that advance by `--stride`, every token scored once, in bits per UTF-8 byte of the text.
The tokens of a document must decode to it byte for byte. Each side runs in a separate process, because the packages
may have the same name; `bench/adapters.py` loads it there.

Prints one JSON line: a report per side, and their difference if there are two.
"""

import argparse
import hashlib
import importlib.util
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IGNORE = -1


@dataclass(frozen=True)
class Window:
    """ids[start:end] are the inputs; the targets from ids[scored_from] up to ids[end] are scored."""

    document: int
    start: int
    end: int
    scored_from: int


def windows_of(lengths: list[int], context: int, stride: int) -> list[Window]:
    """Windows over documents of these lengths (including BOS) in which every id but the BOS is a target once.

    Each window scores the next `stride` targets and sees as much text before them as the context allows.
    """
    return [
        Window(document, max(0, done + stride - context), min(done + stride, length - 1), done + 1)
        for document, length in enumerate(lengths)
        for done in range(0, length - 1, stride)
    ]


def batches(windows: list[Window], batch_tokens: int) -> Iterator[list[Window]]:
    """Windows sorted by length, in batches within the limit when padded (at least one window each)."""
    ordered = sorted(windows, key=lambda w: w.start - w.end)
    at = 0
    while at < len(ordered):
        count = max(1, batch_tokens // (ordered[at].end - ordered[at].start))
        yield ordered[at : at + count]
        at += count


def score(side: Any, documents: list[str], context: int, stride: int, batch_tokens: int) -> dict[str, Any]:
    """Nats, bytes and bits per byte of the documents under one side's model. SystemExit if its tokens lose text."""
    encoded = [side.encode(text) for text in documents]
    for text, ids in zip(documents, encoded, strict=True):
        if side.decode(ids[1:]) != text:
            sys.exit(f"{side.name}: its tokens do not spell the document that begins {text[:60]!r}")
    nats = 0.0
    for batch in batches(windows_of([len(ids) for ids in encoded], context, stride), batch_tokens):
        width = max(2, *(w.end - w.start for w in batch))  # some models cannot take a single token
        inputs, targets = [], []
        for w in batch:
            ids, pad = encoded[w.document], width - (w.end - w.start)
            inputs.append(ids[w.start : w.end] + [0] * pad)
            unscored = [IGNORE] * (w.scored_from - w.start - 1)
            targets.append(unscored + ids[w.scored_from : w.end + 1] + [IGNORE] * pad)
        nats += float(side.nats(inputs, targets).sum())
    n_bytes = sum(len(text.encode()) for text in documents)
    return {
        "model": side.name,
        "bpb": nats / math.log(2) / n_bytes,
        "nats": nats,
        "bytes": n_bytes,
        "tokens": sum(len(ids) - 1 for ids in encoded),
        "documents": len(documents),
    }


def read_documents(path: str, column: str, max_bytes: int) -> list[str]:
    """The first non-empty documents of a parquet file, `max_bytes` of UTF-8 in total (at least one document)."""
    import pyarrow.parquet as pq

    documents: list[str] = []
    total = 0
    for batch in pq.ParquetFile(path).iter_batches(batch_size=256, columns=[column]):
        for text in batch.column(0).to_pylist():
            total += len(text.encode()) if text else 0
            if documents and total > max_bytes:
                return documents
            if text:
                documents.append(text)
    if not documents:
        sys.exit(f"{path} holds no text in its column {column!r}")
    return documents


def fingerprint(documents: list[str]) -> str:
    """The sha256 of the documents and their boundaries."""
    digest = hashlib.sha256()
    for text in documents:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def load_adapters(path: str) -> Any:
    """The adapters module, loaded by path so that neither side's package can shadow it."""
    spec = importlib.util.spec_from_file_location("adapters", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["adapters"] = module
    spec.loader.exec_module(module)
    return module


def score_here(task: dict[str, Any]) -> dict[str, Any]:
    """Load one side in this process and score it."""
    documents = read_documents(task["documents"], task["column"], task["max_bytes"])
    side = load_adapters(task["adapters"]).ADAPTERS[task["adapter"]](task["options"])
    began = time.perf_counter()
    report = score(side, documents, task["context"], task["stride"], task["batch_tokens"])
    return {**report, "sha256": fingerprint(documents), "seconds": round(time.perf_counter() - began, 3)}


def score_apart(task: dict[str, Any], python: str, environment: dict[str, str] | None) -> dict[str, Any]:
    """`score_here` in a separate process."""
    command = [python, str(Path(__file__).resolve()), "--one-side", json.dumps(task)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        sys.exit(f"scoring with the adapter {task['adapter']!r} failed (exit status {done.returncode})")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    if sys.argv[1:2] == ["--one-side"]:
        print(json.dumps(score_here(json.loads(sys.argv[2]))))
        return
    arguments = parse_arguments()
    adapters = load_adapters(arguments.adapters)
    common = {name: getattr(arguments, name) for name in ("column", "max_bytes", "context", "batch_tokens")}
    common |= {
        "documents": str(Path(arguments.documents).resolve()),
        "stride": arguments.stride or arguments.context,
        "adapters": str(Path(arguments.adapters).resolve()),
    }
    where = {"device": arguments.device, "dtype": arguments.dtype}
    reports = {}
    if arguments.run:
        options = {"run": arguments.run, "step": arguments.step, **where}
        task = {**common, "adapter": "ours", "options": options}
        reports["ours"] = score_apart(task, sys.executable, None)
    if arguments.peer_path:
        run = str(Path(arguments.peer_checkpoint).resolve())
        options = {"path": arguments.peer_path, "run": run, "step": arguments.peer_step, **where}
        task = {**common, "adapter": "peer", "options": options}
        reports["peer"] = score_apart(task, arguments.peer_python, adapters.peer_environment(options))
    if len({report["sha256"] for report in reports.values()}) > 1:
        sys.exit("the two sides read different documents: was the file changed meanwhile?")
    print_reports(reports)
    result: dict[str, Any] = {**common, **reports}
    if len(reports) == 2:
        result["difference"] = reports["ours"]["bpb"] - reports["peer"]["bpb"]
    print(json.dumps(result))


def print_reports(reports: dict[str, dict[str, Any]]) -> None:
    """One readable line for each side on stderr."""
    for side, report in reports.items():
        print(
            f"{side:5} {report['model']}: {report['bpb']:.5f} bits per byte over {report['documents']:,} documents, "
            f"{report['bytes']:,} bytes, {report['tokens']:,} tokens (documents {report['sha256'][:12]})",
            file=sys.stderr,
        )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("documents", help="a parquet file of documents")
    parser.add_argument("--column", default="text", help="its text column (default: %(default)s)")
    parser.add_argument(
        "--max-bytes", type=int, default=4_000_000, help="of text to score (default: %(default)s)"
    )
    parser.add_argument("--context", type=int, required=True, help="tokens of a window")
    parser.add_argument("--stride", type=int, help="tokens scored by a window (default: all, the context)")
    parser.add_argument(
        "--batch-tokens", type=int, default=8192, help="in one forward (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    parser.add_argument("--dtype", default="auto", help="auto, fp32 or bf16 (default: %(default)s)")
    parser.add_argument("--run", help="ours: a run's name, or the path of its checkpoints")
    parser.add_argument("--step", type=int, help="ours: the step (default: the newest)")
    parser.add_argument("--peer-path", help="a working tree of the peer")
    parser.add_argument("--peer-checkpoint", help="its <base>/base_checkpoints/<tag>")
    parser.add_argument("--peer-step", type=int, help="its step (default: the newest)")
    parser.add_argument("--peer-python", default=sys.executable, help="the interpreter that can import it")
    adapters = Path(__file__).with_name("adapters.py")
    parser.add_argument(
        "--adapters", default=str(adapters), help="what opens the sides (default: %(default)s)"
    )
    arguments = parser.parse_args()
    if not arguments.run and not arguments.peer_path:
        parser.error("name a side to score: --run, or --peer-path with --peer-checkpoint, or both")
    if bool(arguments.peer_path) != bool(arguments.peer_checkpoint):
        parser.error("--peer-path and --peer-checkpoint go together")
    if arguments.context < 1 or not 1 <= (arguments.stride or 1) <= arguments.context:
        parser.error("--context must be at least 1, and --stride between 1 and the context")
    return arguments


if __name__ == "__main__":
    main()
