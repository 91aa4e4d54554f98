"""The doctor tells what is there and why, changes nothing, and finds what is missing."""

import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from nanochat.cli.doctor import DoctorConfig, Finding, run
from nanochat.cli.main import main
from nanochat.infer.native_library import NativeLibrary
from nanochat.model import attention
from nanochat.model.backend import choose_backend
from nanochat.paths import Paths, default_paths
from nanochat.runtime import open_runtime
from nanochat.sandbox.python import Isolation


def _look(paths: Paths | None = None, **config) -> dict[str, Finding]:
    findings = run(DoctorConfig(device="cpu", **config), paths or default_paths()).findings
    assert all(finding.why for finding in findings), "every line says why"
    return {finding.topic: finding for finding in findings}


def test_a_whole_visit(base_dir: Path, capsys):
    found = _look()
    assert found["device"].found == "cpu"
    assert found["compute dtype"].found in ("float32", "bfloat16")
    assert found["attention"].found == "sdpa"
    assert found["other attention"].found == "flash: not usable"
    assert found["torch.compile"].found == "not tried"
    assert "NANOCHAT_BASE_DIR" in found["base directory"].why
    assert found["sandbox"].found == ("complete" if found["sandbox"].ok else "incomplete")
    assert not base_dir.exists(), "the doctor makes nothing"
    out, err = capsys.readouterr()
    assert out == ""
    assert "This machine" in err


def test_the_backend_is_the_one_that_loaded_models_get():
    found = _look()
    with open_runtime("cpu") as runtime:
        choices = {choice.what: choice for choice in choose_backend(runtime, training_flops=1).describe()}
    # Of no interest: loading a model compiles neither.
    assert choices.pop("training steps").chosen == "eager"
    assert choices.pop("training operators").chosen == "PyTorch"
    for what, choice in choices.items():
        assert found[what] == Finding(*choice)
    assert not {"training steps", "training operators"} & found.keys()


def test_a_device_on_which_nothing_runs_is_reported(monkeypatch):
    def broken(*_: object) -> Tensor:
        raise RuntimeError("the driver is too old")

    monkeypatch.setattr(attention, "KERNELS", {"sdpa": replace(attention.KERNELS["sdpa"], run=broken)})
    found = _look()["attention"]
    assert not found.ok
    assert "the driver is too old" in found.why


def test_as_a_verb(capsys):
    assert main(["doctor", "--device", "cpu", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"topic", "found", "why", "ok"} == set(result["findings"][0])
    assert main(["doctor", "--device", "abacus"]) == 2
    assert "unknown device 'abacus'" in capsys.readouterr().err


def test_a_missing_compiler_is_named(monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = _look()["C++ compiler"]
    assert not found.ok
    assert found.found == "no no-such-compiler"
    assert "needs attention (!): C++ compiler" in capsys.readouterr().err


def test_code_that_could_not_be_compiled_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "false")
    library = NativeLibrary(default_paths().code_cache)
    library.wait()
    found = _look()["decode.cpp"]
    assert (found.found, found.ok) == ("not compiled", False)
    assert "delete" in found.why
    monkeypatch.setenv("CXX", "true")
    assert "decode.cpp" not in _look()


@pytest.mark.parametrize("place", ["a file/base", "a file"])
def test_an_impossible_base_directory_is_named(tmp_path: Path, place: str):
    (tmp_path / "a file").write_text("")
    found = _look(Paths(tmp_path / place))
    assert not found["base directory"].ok
    assert "set NANOCHAT_BASE_DIR" in found["base directory"].why
    assert "disk" not in found


@pytest.fixture
def server() -> Iterator[str]:
    """A hub that knows nothing but answers."""
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    httpd = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *a: handler(*a, directory="/nonexistent")
    )
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def test_the_hub_is_asked_only_on_demand(monkeypatch, server: str):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", server)
    assert "--probe-hub" in _look()["hub"].why
    assert "answers (HF_ENDPOINT)" in _look(probe_hub=True)["hub"].why
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    silent = _look(probe_hub=True)["hub"]
    assert not silent.ok
    assert "does not answer" in silent.why
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert _look(probe_hub=True)["hub"].found == "offline"


def test_an_incomplete_sandbox_is_named(monkeypatch):
    missing = {"user namespace": "Operation not permitted"}
    monkeypatch.setattr("nanochat.cli.doctor.isolation_here", lambda: Isolation.lacking(missing))
    found = _look()["sandbox"]
    assert (found.found, found.ok) == ("incomplete", False)
    assert "no user namespace (Operation not permitted)" in found.why
    assert "--unsafe-sandbox" in found.why


@pytest.mark.slow
def test_the_compiler_is_tried_on_demand():
    found = _look(probe_compile=True)["torch.compile"]
    assert found.found == ("works" if found.ok else "does not work")
