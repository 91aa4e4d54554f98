"""Compare two commands: run them alternately, A B A B, on an otherwise idle machine, and print ratios.

    python bench/paired.py -a 'python old.py' -b 'python new.py' --runs 5 --metric 'tok/s: ([0-9.]+)'

Measured for each run: wall-clock time, user + system CPU time of the command and its children, peak memory
(resident set of the largest process), and the last number that the group of `--metric` matches in the command's
output. Consecutive runs form a pair, so that slow drifts of the machine cancel; a ratio is B / A of a pair, and its
spread over the pairs shows the noise. Exit status 1 if a command fails.
"""

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

IDLE_LOAD = 0.25  # share of the cores; above it the machine is busy with something else


Figures = dict[str, float]


class CommandFailed(Exception):  # noqa: N818
    """A command failed, or its output lacks the requested number."""


def main() -> int:
    arguments = parse_arguments()
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    if load > IDLE_LOAD:
        print(f"warning: the machine is busy (load {load:.0%} of its cores)", file=sys.stderr)
    pairs: list[dict[str, Figures]] = []
    for number in range(1, arguments.runs + 1):
        pairs.append({})
        for side in ("a", "b"):
            try:
                figures = measure(getattr(arguments, side), arguments.metric)
            except CommandFailed as error:
                print(error, file=sys.stderr)
                return 1
            shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            print(f"run {number}/{arguments.runs} {side.upper()}: {shown}", file=sys.stderr, flush=True)
            pairs[-1][side] = figures
    summary = summarise(pairs)
    for line in table(summary):
        print(line, file=sys.stderr)
    print(json.dumps({"a": arguments.a, "b": arguments.b, "runs": pairs, "summary": summary}))
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-a", required=True, metavar="CMD", help="the command to compare with")
    parser.add_argument("-b", required=True, metavar="CMD", help="the command to be compared")
    parser.add_argument("--runs", type=int, default=3, help="runs of each (default: %(default)s)")
    parser.add_argument("--metric", type=re.compile, metavar="REGEX", help="its first group matches a number")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error("--runs must be at least 1")
    if arguments.metric and arguments.metric.groups < 1:
        parser.error("--metric needs a group in parentheses around the number")
    return arguments


def measure(command: str, metric: re.Pattern[str] | None) -> Figures:
    """Run a command once. Raises CommandFailed, with the end of its output, if it fails or lacks the number."""
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        try:
            process = subprocess.Popen(
                shlex.split(command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        except OSError as error:
            raise CommandFailed(f"{command}: {error}") from None
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode(errors="replace")
    if process.returncode:
        raise CommandFailed(f"{text[-2000:]}\n{command}: exit status {process.returncode}")
    figures = {
        "wall_s": wall_s,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_rss_mb": usage.ru_maxrss / (1 << 10 if sys.platform != "darwin" else 1 << 20),
    }
    if metric is not None:
        found = [match[1] for match in metric.finditer(text)]
        try:
            figures["metric"] = float(found[-1])
        except (IndexError, ValueError):
            raise CommandFailed(f"{text[-2000:]}\n{command}: no number for {metric.pattern!r}") from None
    return figures


def summarise(pairs: list[dict[str, Figures]]) -> dict[str, Figures]:
    """For each figure: the median of each side, and the minimum, median and maximum B / A over the pairs."""
    summary = {}
    for name in pairs[0]["a"]:
        a, b = ([pair[side][name] for pair in pairs] for side in ("a", "b"))
        ratios = [y / max(x, 1e-9) for x, y in zip(a, b, strict=True)]
        summary[name] = {
            "a": statistics.median(a),
            "b": statistics.median(b),
            "ratio_min": min(ratios),
            "ratio": statistics.median(ratios),
            "ratio_max": max(ratios),
        }
    return summary


def table(summary: dict[str, Figures]) -> list[str]:
    """The summary as lines of text."""
    lines = [f"{'':12} {'A':>10} {'B':>10} {'B / A':>9}   min … max"]
    for name, row in summary.items():
        lines.append(
            f"{name:12} {row['a']:>10.4g} {row['b']:>10.4g} {row['ratio']:>8.3f}x"
            f"   {row['ratio_min']:.3f} … {row['ratio_max']:.3f}"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
