"""Importing does no work and leaves no trace, and `--help` loads nothing heavy."""

import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import nanochat

pytestmark = pytest.mark.slow

_IMPORT_ALL = """
import importlib, json, logging, signal, sys, threading
before = (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), list(logging.getLogger().handlers))
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
import torch
after = (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), list(logging.getLogger().handlers))
print(json.dumps({
    "same_handlers": before == after,
    "cuda_asked": torch.cuda.is_initialized(),
    "threads": [t.name for t in threading.enumerate() if t is not threading.main_thread()],
    "children": importlib.import_module("psutil").Process().children() != [],
    "default_dtype": str(torch.get_default_dtype()),
}))
"""


def _modules() -> list[str]:
    found = pkgutil.walk_packages(nanochat.__path__, "nanochat.")
    return [module.name for module in found]


def _environment(home: Path) -> dict[str, str]:
    """A new user's environment: an empty home, no variables, no bytecode.

    matplotlib, which only the report's plots import, creates a configuration folder; it gets one elsewhere.
    """
    keep = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT") if key in os.environ}
    own = {"HOME": str(home), "TMPDIR": str(home), "MPLCONFIGDIR": str(home.parent / "matplotlib")}
    return {**keep, **own, "PYTHONDONTWRITEBYTECODE": "1"}


def test_importing_every_module_leaves_no_trace(tmp_path: Path):
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o555)  # read-only to a user; for root, the emptiness afterwards tells
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", _IMPORT_ALL, json.dumps(_modules())],
        env=_environment(home),
        cwd=home,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "same_handlers": True,
        "cuda_asked": False,
        "threads": [],
        "children": False,
        "default_dtype": "torch.float32",
    }
    assert done.stderr == ""
    assert list(home.rglob("*")) == []


def test_parsing_a_command_line_loads_no_plotting():
    code = (
        "import importlib, sys; from nanochat.cli.verbs import VERBS\n"
        "for verb in VERBS.values(): importlib.import_module(verb.module)\n"
        "print('matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def _heavy_modules_after(*arguments: str) -> set[str]:
    code = (
        "import sys; from nanochat.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in done.stderr.splitlines()[-1].split()}
    return loaded & {"torch", "numpy", "tyro", "rich", "psutil", "huggingface_hub", "matplotlib"}


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), ("data",), ("data", "--help"), ("pretrian",)]
)
def test_help_loads_nothing_heavy(arguments: tuple[str, ...]):
    assert _heavy_modules_after(*arguments) == set()


@pytest.mark.parametrize("module", ["errors", "paths", "config", "atomic", "console", "metrics", "hardware"])
def test_the_foundation_loads_nothing_heavy(module: str):
    code = f"import sys, nanochat.{module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "numpy", "tyro", "rich", "psutil"}
