"""The shell scripts: they call their recipes; set-up is cheap to repeat and fails in one line.

A recorder on the PATH replaces the programs that the scripts call; nothing is installed or trained.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from nanochat.recipes.changes import with_changes
from nanochat.recipes.recipe import ModelNames
from nanochat.recipes.run import RECIPES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted([*(ROOT / "runs").glob("*.sh"), *(ROOT / "runs").glob("*.slurm")])

# Writes its command line down; fails where a pattern in $FAIL matches it; `uv sync` makes an environment.
RECORDER = """#!/usr/bin/env bash
line="$(basename "$0") $*"
printf '%s\\n' "$line" >> "$RECORD"
if [[ -n "${FAIL-}" && "$line" == $FAIL ]]; then echo "recorder: told to fail" >&2; exit 3; fi
if [[ "$line" == "uv sync"* ]]; then
    printf '%s\\n' "${UV_FIND_LINKS-}" > "$RECORD.links"
    mkdir -p .venv/bin
    cp "$0" .venv/bin/nanochat && cp "$0" .venv/bin/python
fi
"""


def _program(path: Path, text: str = RECORDER) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


class House:
    """A copy of the scripts in a folder of its own, with a PATH whose programs are recorders."""

    def __init__(self, home: Path):
        self.home = home
        shutil.copytree(ROOT / "runs", home / "runs")
        shutil.copytree(ROOT / ".ci", home / ".ci")
        shutil.copy(ROOT / "pyproject.toml", home)
        self.programs = home / "programs"
        self.record = home / "record"
        _program(self.programs / "uv")
        _program(self.programs / "nvidia-smi", "#!/bin/sh\nexit 9\n")  # no GPU, whatever this machine has

    def run(self, script: str, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "RECORD": str(self.record),
            "NANOCHAT_BASE_DIR": str(self.home / "base"),
            **variables,
        }
        (self.home / "base").mkdir(exist_ok=True)
        return subprocess.run(
            ["bash", script, *options],
            cwd=self.home,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self) -> list[str]:
        """The calls since the last look."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        self.record.write_text("")
        return lines

    def skip_setup(self) -> None:
        """An environment that is there and holds the recorder as every program."""
        (self.home / "runs" / "setup.sh").write_text("")
        for name in ("nanochat", "python", "torchrun", "ruff", "mypy", "lint-imports", "pytest"):
            _program(self.home / ".venv" / "bin" / name)
        (self.home / ".venv" / "bin" / "activate").write_text('PATH="$PWD/.venv/bin:$PATH"\n')


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "house")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound_bash(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    assert "set -euo pipefail" in script.read_text()
    if shutil.which("shellcheck"):
        assert subprocess.run(["shellcheck", "-x", script], cwd=ROOT).returncode == 0


# --- set-up ---


def test_setup_installs_once(house: House) -> None:
    done = house.run("runs/setup.sh")
    assert (done.returncode, done.stdout) == (0, "")
    (sync,) = house.calls()
    assert sync.startswith("uv sync")
    assert sync.endswith("--extra cpu")
    assert house.run("runs/setup.sh").stderr == ""
    assert house.calls() == [], "nothing has changed"


def test_setup_follows_changes(house: House) -> None:
    house.run("runs/setup.sh")
    house.calls()
    house.run("runs/setup.sh", "--dev")
    assert [call.endswith("--group dev") for call in house.calls()] == [True]
    house.run("runs/setup.sh")
    assert house.calls() == [], "a development environment has all that the plain one has"
    with open(house.home / "pyproject.toml", "a") as project:
        project.write("# changed\n")
    house.run("runs/setup.sh")
    assert len(house.calls()) == 1
    _program(house.programs / "nvidia-smi", "#!/bin/sh\nexit 0\n")
    house.run("runs/setup.sh")
    assert "--extra gpu" in house.calls()[0]


def test_setup_does_without_the_index_of_pytorch_and_remembers_that(house: House) -> None:
    unreachable = {"FAIL": "uv sync*--extra cpu*([!-])"}
    assert house.run("runs/setup.sh", **unreachable).returncode == 0
    assert ["--no-sources" in call for call in house.calls()] == [False, True]
    assert house.run("runs/setup.sh", "--dev", **unreachable).returncode == 0
    assert ["--no-sources" in call for call in house.calls()] == [True], (
        "no second wait for what cannot be reached"
    )


def test_setup_passes_pips_local_wheels_on(house: House) -> None:
    links = house.home / "record.links"
    house.run("runs/setup.sh", PIP_FIND_LINKS="/some/wheels https://example.org/wheels")
    assert links.read_text().strip() == "/some/wheels,https://example.org/wheels"
    _program(
        house.programs / "configured-python",
        '#!/usr/bin/env bash\nif [[ "$*" == *sys.executable* ]]; then echo "$0"; fi\n'
        'if [[ "$*" == "-m pip config get global.find-links" ]]; then printf "\\n/from/config\\n/and/more\\n"; fi\n',
    )
    house.run("runs/setup.sh", "--dev", PYTHON="configured-python")
    assert links.read_text().strip() == "/from/config,/and/more"
    shutil.rmtree(house.home / ".venv")
    house.run("runs/setup.sh", PIP_FIND_LINKS="/some/wheels", UV_FIND_LINKS="/own/wheels")
    assert links.read_text().strip() == "/own/wheels"


def test_setup_installs_uv_where_there_is_none(house: House) -> None:
    (house.programs / "uv").unlink()
    _program(
        house.programs / "mypython",
        '#!/usr/bin/env bash\nif [[ "$*" == *sys.executable* ]]; then echo "$0"; fi\n'
        'if [[ "$*" == *"--target"* ]]; then mkdir -p "${*: -3:1}/bin"; cp "$STANDIN" "${*: -3:1}/bin/uv"; fi\n',
    )
    _program(house.home / "standin" / "uv")
    path = f"{house.programs}:/usr/bin:/bin"
    done = house.run(
        "runs/setup.sh", PYTHON="mypython", STANDIN=str(house.home / "standin" / "uv"), PATH=path
    )
    assert done.returncode == 0, done.stderr
    assert (house.home / ".uv" / "bin" / "uv").exists()
    assert (house.home / ".uv" / ".gitignore").read_text() == "*\n"
    assert house.calls()[0].startswith("uv sync")


@pytest.mark.parametrize(
    ("variables", "options", "words"),
    [
        ({"PYTHON": "old-python"}, (), "Python 3.11 or newer is needed (found: Python 3.9.1)"),
        ({"PYTHON": "no-such-python"}, (), "Python 3.11 or newer is needed (found: no no-such-python)"),
        ({"FAIL": "uv sync*"}, (), "the packages could not be installed"),
        ({}, ("--nonsense",), "unknown option '--nonsense'"),
    ],
)
def test_setup_stops_with_one_line_that_says_what_to_do(
    house: House, variables: dict[str, str], options: tuple[str, ...], words: str
) -> None:
    _program(
        house.programs / "old-python",
        '#!/bin/sh\nif [ "$1" = --version ]; then echo Python 3.9.1; else exit 1; fi\n',
    )
    done = house.run("runs/setup.sh", *options, **variables)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("set-up stopped: ")
    assert words in last
    assert not (house.home / ".venv" / ".nanochat-setup").exists()


def test_a_failed_setup_stops_every_script(house: House) -> None:
    for script in ("quickstart.sh", "test.sh", "speedrun.sh", "runcpu.sh"):
        done = house.run(f"runs/{script}", PYTHON="no-such-python")
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert house.calls() == []


# --- pipelines ---


@pytest.mark.parametrize(
    ("script", "command"),
    [
        ("quickstart.sh", "nanochat run quickstart"),
        ("runcpu.sh", "nanochat run cpu"),
        ("speedrun.sh", "nanochat run speedrun --nproc 8"),
    ],
)
def test_a_script_is_its_recipe_and_passes_options_on(house: House, script: str, command: str) -> None:
    house.skip_setup()
    assert house.run(f"runs/{script}", "--dry-run").returncode == 0
    assert house.calls() == [f"{command} --dry-run"]
    assert house.run(f"runs/{script}", FAIL="nanochat run*").returncode == 3


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "1 {home}/.cache/nanochat dummy"),
        (
            {"OMP_NUM_THREADS": "4", "NANOCHAT_BASE_DIR": "/some/base", "WANDB_RUN": "mine"},
            "4 /some/base mine",
        ),
    ],
)
def test_the_speedrun_sets_the_variables_of_the_overview(
    house: House, variables: dict[str, str], expected: str
) -> None:
    house.skip_setup()
    show = '#!/usr/bin/env bash\necho "$OMP_NUM_THREADS $NANOCHAT_BASE_DIR $WANDB_RUN"\n'
    _program(house.home / ".venv" / "bin" / "nanochat", show)
    done = house.run("runs/speedrun.sh", **{"NANOCHAT_BASE_DIR": "", "OMP_NUM_THREADS": "", **variables})
    assert done.stdout.strip() == expected.format(home=house.home)


def test_the_speedrun_takes_the_number_of_gpus(house: House) -> None:
    house.skip_setup()
    house.run("runs/speedrun.sh", NPROC_PER_NODE="4")
    assert house.calls() == ["nanochat run speedrun --nproc 4"]


@pytest.mark.parametrize(
    ("options", "command"),
    [((), "pretrain --depth 26 --fp8 --resume auto"), (("sft", "--resume", "auto"), "sft --resume auto")],
)
def test_a_slurm_job_starts_torchrun_on_every_machine(
    house: House, options: tuple[str, ...], command: str
) -> None:
    house.skip_setup()
    _program(house.programs / "scontrol", '#!/bin/sh\necho "$3-a"; echo "$3-b"\n')
    _program(
        house.programs / "srun", RECORDER.replace("$(basename", "$TORCH_ELASTIC_SHUTDOWN_TIMEOUT $(basename")
    )
    job = {"SLURM_SUBMIT_DIR": str(house.home), "SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "gpus"}
    job |= {"SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8"}
    done = house.run("runs/multinode.slurm", *options, **job)
    assert done.returncode == 0, done.stderr
    assert house.calls() == [
        "240 srun .venv/bin/torchrun --nnodes=2 --nproc_per_node=8 --rdzv_backend=c10d --rdzv_id=123456 "
        f"--rdzv_endpoint=gpus-a:23456 -m nanochat {command}"
    ]


def test_the_speedrun_is_the_one_of_the_overview() -> None:
    stages = RECIPES["speedrun"].stages(ModelNames(), None)
    commands = {stage.name: stage.command for stage in with_changes(stages, ())}
    for flag in ("depth=26", "target-param-data-ratio=8.25", "device-batch-size=16", "fp8"):
        assert f" --{flag}" in commands["pretrain"]
    assert list(commands) == [
        *("reset", "shards", "all-shards", "tokenizer", "eval-tokenizer"),
        *("pretrain", "eval-base", "sft", "eval-chat", "report"),
    ]
    assert commands["shards"].endswith("--num-shards=8")
    assert commands["all-shards"].endswith("--num-shards=370")


def test_ci_runs_every_check_and_ends_with_the_tests(house: House) -> None:
    house.skip_setup()
    assert house.run(".ci/run", CI="true").returncode == 0
    calls = house.calls()
    assert [call.split()[0] for call in calls] == ["ruff", "ruff", "mypy", "lint-imports", "pytest", "pytest"]
    assert "not slow" in calls[-2]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert house.run(".ci/run", FAIL="mypy*").returncode == 3
    assert house.calls()[-1].startswith("mypy"), "stops at the first check that fails"
