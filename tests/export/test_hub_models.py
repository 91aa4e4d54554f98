"""A published model comes back by its name on the hub, for the chat and the server."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from nanochat.cli.chat_models import open_speaker
from nanochat.errors import EnvironmentFault
from nanochat.export.hf_export import ExportHfConfig, run_hf
from nanochat.export.hub_models import local_run
from nanochat.model.gpt import GPT
from nanochat.paths import Paths
from nanochat.runtime import open_runtime
from tests.hub_server import TOKEN, LoopbackHub, loopback_hub

pytestmark = pytest.mark.slow


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackHub]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with loopback_hub(monkeypatch) as hub:
        yield hub


def test_a_published_model_comes_back(
    hub: LoopbackHub,
    make_run: Callable[..., GPT],
    paths: Paths,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    pytest.importorskip("transformers")
    ours = make_run()
    run_hf(ExportHfConfig("tiny", tmp_path / "out", "fp32", push="me/tiny"), paths)
    assert hub.made[0]["visibility"] == "private"
    assert f"published at {hub.url}/me/tiny" in capsys.readouterr().err
    published = {name: data for (repo, _, name), data in hub._files.items() if repo == "me/tiny"}
    assert published == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert b'from_pretrained("me/tiny", trust' in published["README.md"]
    assert {request.token for request in hub.requests} == {f"Bearer {TOKEN}"}

    hub.requests.clear()
    with open_runtime("cpu", "fp32") as runtime:
        speaker = open_speaker("hf:me/tiny", runtime)
    assert (speaker.model_tag, speaker.step) == ("hf-me--tiny", 7)
    fetched = {Path(request.path).name for request in hub.content_requests()}
    assert fetched == {"config.json", "tokenizer.json", "model.safetensors"}  # no code
    state = torch.load(paths.checkpoints("hf-me--tiny") / "step_000007_model.pt", weights_only=True)
    assert all(torch.equal(state[name], tensor) for name, tensor in ours.state_dict().items())

    hub.requests.clear()
    assert local_run("hf:me/tiny", paths) == "hf-me--tiny"
    assert hub.requests == []


def test_a_hub_that_refuses_costs_one_line(
    hub: LoopbackHub, make_run: Callable[..., GPT], paths: Paths, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    make_run()
    hub.faults["/api/repos/create"] = "403"
    with pytest.raises(EnvironmentFault, match="me/tiny could not be published") as refused:
        run_hf(ExportHfConfig("tiny", tmp_path / "out", push="me/tiny"), paths)
    assert "\n" not in str(refused.value)
    assert (tmp_path / "out" / "model.safetensors").is_file()
    with pytest.raises(EnvironmentFault, match=r"me/none could not be downloaded: .* needs HF_TOKEN"):
        local_run("hf:me/none", paths)


def test_without_a_network_the_address_is_named(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(
        EnvironmentFault, match=r"cannot reach http://127\.0\.0\.1:9: check the network, or set"
    ):
        local_run("hf:me/none", paths)


@pytest.mark.parametrize("name", ["hf:", "hf:tiny", "hf:a/b/c", "hf:../x y"])
def test_a_name_that_is_none_is_refused_without_asking(name: str, hub: LoopbackHub, paths: Paths) -> None:
    with pytest.raises(ValueError, match="write OWNER/NAME"):
        local_run(name, paths)
    assert hub.requests == []
    assert local_run("sft", paths) == "sft"
