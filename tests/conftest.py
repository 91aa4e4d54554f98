"""Fixtures every test may use: an isolated base directory, and the real data where it lies beside the repository."""

import os
from pathlib import Path

import pytest

# Tiny models run as fast on one thread, and two tests' threads never wait for each other. Child processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def base_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's own artefacts."""
    directory = tmp_path / "base"
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(directory))
    monkeypatch.delenv("WANDB_RUN", raising=False)
    return directory


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real text and benchmarks (never committed); tests that need them are skipped where they are absent."""
    directory = Path(os.environ.get("NANOCHAT_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not directory.is_dir():
        pytest.skip(f"real data not found at {directory} (set NANOCHAT_SHARED_DATA)")
    return directory
