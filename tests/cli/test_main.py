"""From argv to a stage and back: what is printed where, and the exit status."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.cli.data import pack_job
from nanochat.cli.main import main, parse_command
from nanochat.cli.verbs import VERBS, Verb

_STAGE = '''
"""A stage whose config says how it ends."""
import errno, os, sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from nanochat.errors import EnvironmentFault

@dataclass(frozen=True)
class ProbeConfig:
    """What to do."""
    ending: Literal["well", "mistake", "fault", "full", "lines", "interrupt", "bug", "memory", "tensor", "gpu"] = "well"
    """how it ends"""
    device_batch_size: int = 8
    fp8: bool = False
    device: str = "cpu"
    dtype: str = "auto"

    def __post_init__(self):
        if self.device_batch_size < 1:
            raise ValueError(f"--device-batch-size must be at least 1, not {self.device_batch_size}")

@dataclass(frozen=True)
class Result:
    where: Path
    loss: float
    batch: int

def run(config, needed):
    print("a human line", file=sys.stderr)
    if config.ending == "mistake":
        raise ValueError("no dataset 'x': choose builtin")
    if config.ending == "fault":
        raise EnvironmentFault("cannot reach the hub; set HF_ENDPOINT")
    if config.ending == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/base/file")
    if config.ending == "lines":
        raise ValueError("the first line\\nand more")
    if config.ending == "interrupt":
        raise KeyboardInterrupt
    if config.ending == "bug":
        raise KeyError("a bug")
    if config.ending == "memory":
        raise MemoryError
    if config.ending == "tensor":
        import torch
        torch.empty(2**60)
    if config.ending == "gpu":
        import torch
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")
    base = needed.base if hasattr(needed, "base") else needed.paths.base
    return Result(base, float("nan"), config.device_batch_size)
'''

_NO_MEMORY = (
    "nanochat: error: out of memory: use a smaller --device-batch-size, or a smaller model or context"
)


@pytest.fixture(autouse=True)
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two verbs for these tests: one that needs the paths and one that needs a runtime."""
    (tmp_path / "probe_stage.py").write_text(_STAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "probe_stage", raising=False)
    for name, needs in (("probe", "paths"), ("runtime-probe", "runtime")):
        monkeypatch.setitem(VERBS, (name,), Verb("a probe", "probe_stage", "ProbeConfig", needs=needs))
    monkeypatch.delenv("NANOCHAT_DEBUG", raising=False)


@pytest.mark.parametrize("verb", ["probe", "runtime-probe"])
@pytest.mark.parametrize(
    "arguments", [("--json", "--device-batch-size", "4"), ("--device-batch-size", "4", "--json")]
)
def test_json_is_the_last_line_of_stdout(capsys, base_dir: Path, verb: str, arguments: tuple[str, ...]):
    assert main([verb, *arguments]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1]) == {"where": str(base_dir), "loss": None, "batch": 4}
    assert err == "a human line\n"


def test_without_json_only_the_stage_writes_to_stdout(capsys):
    assert main(["probe"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("ending", "status", "line"),
    [
        ("mistake", 2, "nanochat: error: no dataset 'x': choose builtin"),
        ("fault", 1, "nanochat: error: cannot reach the hub; set HF_ENDPOINT"),
        ("full", 1, "nanochat: error: /base/file: No space left on device"),
        ("lines", 2, "nanochat: error: the first line (NANOCHAT_DEBUG=1 shows more)"),
        ("interrupt", 130, "nanochat: interrupted"),
        ("memory", 1, _NO_MEMORY),
        ("tensor", 1, _NO_MEMORY),
        ("gpu", 1, _NO_MEMORY),
    ],
)
def test_every_error_is_one_line_and_an_exit_status(capsys, monkeypatch, ending: str, status: int, line: str):
    assert main(["probe", "--ending", ending, "--json"]) == status
    assert capsys.readouterr() == ("", f"a human line\n{line}\n")
    monkeypatch.setenv("NANOCHAT_DEBUG", "1")
    assert main(["probe", "--ending", ending]) == status
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.endswith(line + "\n")


def test_a_bug_keeps_its_traceback():
    with pytest.raises(KeyError, match="a bug"):
        main(["probe", "--ending", "bug"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--device-batch-size", "many"],
            "nanochat: error: --device-batch-size must be a whole number, not 'many'\n",
        ),
        (["--device-batch-size", "0"], "nanochat: error: --device-batch-size must be at least 1, not 0"),
        (["--device-batch-sise", "4"], "Perhaps you meant: --device-batch-size INT"),
        (["--ending", "badly"], "invalid choice 'badly'"),
        (["stray"], "Unrecognized options: stray"),
    ],
)
@pytest.mark.parametrize("boxes", [True, False])
def test_a_wrong_option_is_one_line_before_any_work(
    capsys, monkeypatch, boxes, arguments: list[str], says: str
):
    monkeypatch.setattr("tyro._fmtlib._should_use_utf8_drawing_chars", lambda: boxes)
    assert main(["probe", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nanochat: error: ")
    assert says in err
    assert err.count("\n") == 1
    assert not set("│╭╮╰╯─") & set(err)
    assert "---" not in err


@pytest.mark.parametrize("device", ["abacus", "--fp8"])
def test_a_wrong_device_is_a_mistake(capsys, device: str):
    assert main(["runtime-probe", "--device", device]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_of_a_verb_names_its_options(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["probe", "--help"])
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert "usage: nanochat probe" in out
    assert "--fp8, --no-fp8" in out
    assert "how it ends (default: well)" in out
    assert err == ""


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_the_overview_names_every_verb(capsys, arguments: list[str]):
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    for name, verb in VERBS.items():
        assert f"  {' '.join(name):20} {verb.help}\n" in out
    assert err == ""
    assert max(map(len, out.splitlines())) <= 110


@pytest.mark.parametrize(
    "words",
    [
        ["--set", "a.b=1", "c.d=2"],
        ["--set", "a.b=1", "--set", "c.d=2"],
        ["--set=a.b=1", "--set=c.d=2"],
        ["--set=a.b=1", "--depth=4", "--set", "c.d=2"],
    ],
)
def test_a_flag_with_several_values_may_be_repeated(words):
    config = parse_command(["run", "quickstart", *words])
    assert (config.recipe, config.set) == ("quickstart", ("a.b=1", "c.d=2"))


def test_a_group_alone_lists_its_verbs(capsys):
    assert main(["data"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split()[:2] for line in err.splitlines()[1:]] == [
        ["data", verb]
        for verb in ("download", "tokens", "pack", "prepare", "info", "preferences", "prompts", "identity")
    ]
    assert main(["data", "--help"]) == 0
    assert capsys.readouterr() == (err, "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pretrian", "--depth", "4"], "unknown verb 'pretrian': did you mean `nanochat pretrain`?"),
        (
            ["data", "dowload"],
            "unknown verb 'data dowload': did you mean `nanochat data download`? (`nanochat data`",
        ),
        (["dta", "info"], "did you mean `nanochat data info`?"),
        (["tokenizr"], "did you mean `nanochat tokenizer`?"),
        (["eval", "zzzz"], "unknown verb 'eval zzzz' (`nanochat eval` lists the verbs)"),
        (["frobnicate"], "unknown verb 'frobnicate' (`nanochat --help` lists the verbs)"),
        (["--depth", "4"], "unknown verb '--depth'"),
    ],
)
def test_a_misspelt_verb_gets_the_nearest(capsys, arguments: list[str], says: str):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


def test_rank_0_prints_the_result_and_other_ranks_name_themselves_in_errors(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert main(["probe", "--json"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["probe", "--ending", "fault"]) == 1
    assert "nanochat (process 3): error: cannot reach the hub" in capsys.readouterr().err


def _command(tmp_path: Path, code: str, *arguments: str, **options) -> subprocess.Popen:
    """The command line in its own process, with the probe's module importable."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_ctrl_c_ends_with_130_and_one_line(tmp_path: Path):
    (tmp_path / "slow_stage.py").write_text(
        "import sys\nfrom dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass SlowConfig:\n    pass\n\n"
        "def run(config, paths):\n    print('ready', flush=True)\n    sys.stdin.read()\n"
    )
    code = (
        "import sys\nfrom nanochat.cli import main, verbs\n"
        "verbs.VERBS['slow',] = verbs.Verb('slow', 'slow_stage', 'SlowConfig')\n"
        "sys.exit(main.main(['slow']))\n"
    )
    with _command(tmp_path, code, stdin=subprocess.PIPE) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert (process.returncode, err) == (130, "nanochat: interrupted\n")


def test_a_closed_pipe_is_no_traceback(tmp_path: Path):
    code = "import sys\nfrom nanochat.cli.main import main\nsys.stdin.read()\nsys.exit(main(['--help']))"
    with _command(tmp_path, code, stdin=subprocess.PIPE) as process:
        process.stdout.close()
        process.stdin.close()
        err = process.stderr.read()
    assert err == ""
    assert process.returncode == 1


def test_python_m_nanochat_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "nanochat", "--version"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("nanochat ")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP is Linux's")
@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "5000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "passive"}, "0")],
)
def test_waiting_threads_sleep_soon_unless_the_user_says_otherwise(given: dict[str, str], spins: str):
    """OpenMP tells what it has read: beside another busy program, threads that spin hold up each other."""
    ours = {name: value for name, value in os.environ.items() if name not in _THREAD_SETTINGS}
    done = subprocess.run(
        [sys.executable, "-m", "nanochat", "plan", "--depth", "2", "--vocab-size", "300"],
        env={**ours, **given, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
    )
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr


_THREAD_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def test_a_tilde_in_a_path_is_the_home_folder_in_both_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells expand it only where it begins a word."""
    monkeypatch.setenv("HOME", "/home/ada")
    for words in (["--out=~/corpus"], ["--out", "~/corpus"]):
        assert parse_command(["data", "pack", "--source", "x", *words]).out == Path("/home/ada/corpus")
    unknown = parse_command(["data", "pack", "--source=~no-such-user/x", "--out=~no-such-user/y"])
    assert unknown.out == Path("~no-such-user/y")
    with pytest.raises(ValueError, match=r"^no file or folder '~no-such-user/x'$"):
        pack_job(unknown)
