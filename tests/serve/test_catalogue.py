"""The models that can be named, and the short way to one that was named before."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from nanochat.checkpoint import store
from nanochat.paths import Paths
from nanochat.runtime import open_runtime
from nanochat.serve import server
from nanochat.serve.catalogue import Catalogue
from nanochat.serve.faults import ApiFault
from nanochat.serve.server import ServeConfig
from tests.serve.conftest import CHAT

LONG_AGO = (10**9, 10**9)


@pytest.fixture
def runs(served_base: Path, tmp_path: Path) -> Path:
    """A base directory with the run CHAT, whose folder last changed long ago."""
    folder = Paths(tmp_path).checkpoints(CHAT)
    shutil.copytree(Paths(served_base).checkpoints(CHAT), folder)
    os.utime(folder, LONG_AGO)
    return tmp_path


def test_a_model_is_recalled_until_its_folder_changes(runs: Path) -> None:
    catalogue, folder = Catalogue(Paths(runs), {}), Paths(runs).checkpoints(CHAT)
    assert catalogue.recall(CHAT) is None
    assert catalogue.find(CHAT).step == 2
    for name in (CHAT, f"{CHAT}@1"):
        assert catalogue.find(name) == catalogue.recall(name)
    store.remove(folder, 2)
    assert catalogue.recall(CHAT) is None
    assert catalogue.find(CHAT).step == 1
    shutil.rmtree(folder)
    assert catalogue.recall(f"{CHAT}@1") is None


def test_a_step_that_is_not_whole_is_passed_over(runs: Path) -> None:
    weights = store.file_of(Paths(runs).checkpoints(CHAT), 2, "model")
    weights.write_bytes(weights.read_bytes()[:-1])
    assert Catalogue(Paths(runs), {}).find(CHAT).step == 1


def test_a_folder_that_has_just_changed_is_read_again(runs: Path) -> None:
    """Two changes within a tick of the file system's clock leave one time."""
    catalogue, folder = Catalogue(Paths(runs), {}), Paths(runs).checkpoints(CHAT)
    os.utime(folder)
    assert catalogue.find(CHAT).step == 2
    assert catalogue.recall(CHAT) is None


@pytest.mark.parametrize(
    "name", ["", "@", f"{CHAT}@", f"{CHAT}@x", f"{CHAT}@3", f"{CHAT}@1@1", "@1", "..", "x" * 9999]
)
def test_what_is_no_model_is_not_found(runs: Path, name: str) -> None:
    catalogue = Catalogue(Paths(runs), {})
    with pytest.raises(ApiFault, match="there is no model"):
        catalogue.find(name)
    assert catalogue.recall(name) is None


def test_a_step_can_be_the_default_model(served_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "listening", lambda *_: pytest.fail("it must not listen"))
    with open_runtime("cpu", "fp32", Paths(served_base)) as runtime:
        for model_tag in (f"{CHAT}@1", f"{Paths(served_base).checkpoints(CHAT)}@1"):
            service = server.make_service(ServeConfig(model_tag=model_tag), runtime)
            assert service.default_model == f"{CHAT}@1"
    for model_tag, message in ((f"{CHAT}@3", "step 3 .*: it has 1, 2"), (f"{CHAT}@x", "number of a step")):
        with pytest.raises(ValueError, match=message):
            server.run(ServeConfig(model_tag=model_tag), Paths(served_base))
