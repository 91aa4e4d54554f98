import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "bench" / "paired.py"


def python(code):
    return shlex.join([sys.executable, "-c", code])


def run(a, b, *options):
    return subprocess.run(
        [sys.executable, SCRIPT, "-a", a, "-b", b, *options], capture_output=True, text=True, timeout=60
    )


def test_runs_in_turn_and_prints_ratios(tmp_path):
    log = tmp_path / "log"

    def command(name, value):
        return python(
            f"open({str(log)!r}, 'a').write({name!r}); print('speed 1'); print('speed {value} tok/s')"
        )

    done = run(command("A", 100), command("B", 125.5), "--runs", "3", "--metric", r"speed ([\d.]+)")
    assert done.returncode == 0, done.stderr
    assert log.read_text() == "ABABAB"
    result = json.loads(done.stdout)
    assert len(result["runs"]) == 3
    metric = result["summary"]["metric"]
    assert metric == {"a": 100, "b": 125.5, "ratio_min": 1.255, "ratio": 1.255, "ratio_max": 1.255}
    assert set(result["summary"]) == {"wall_s", "cpu_s", "peak_rss_mb", "metric"}
    assert "1.255x" in done.stderr


@pytest.mark.slow
def test_measures_memory_and_cpu_of_children_too():
    idle = python("import time; time.sleep(0.3)")
    child = python("x = bytearray(200 << 20); sum(range(10**7))")
    busy = python(f"import subprocess; subprocess.run({shlex.split(child)!r})")
    [pair] = json.loads(run(idle, busy, "--runs", "1").stdout)["runs"]
    assert pair["a"]["wall_s"] >= 0.3
    assert pair["a"]["cpu_s"] < pair["a"]["wall_s"]
    assert pair["b"]["peak_rss_mb"] > 200 > pair["a"]["peak_rss_mb"]
    assert pair["b"]["cpu_s"] > pair["a"]["cpu_s"]


@pytest.mark.parametrize(
    ("command", "options", "line"),
    [
        (python("import sys; print('the reason'); sys.exit(3)"), [], "exit status 3"),
        (python("import sys; print('the reason')"), ["--metric", r"speed (\d+)"], "no number for"),
    ],
)
def test_a_failing_command_ends_the_comparison_and_shows_its_output(command, options, line):
    done = run(command, command, *options)
    assert done.returncode == 1
    assert "the reason" in done.stderr
    assert line in done.stderr
    assert done.stdout == ""


def test_a_missing_command_is_one_clear_line():
    done = run("no-such-command-here", "true")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "no-such-command-here" in done.stderr


@pytest.mark.parametrize("options", [["--runs", "0"], ["--metric", "speed"]])
def test_wrong_options_are_refused(options):
    done = run("true", "true", *options)
    assert done.returncode == 2
    assert options[0] in done.stderr
