"""What was exported comes back bit by bit; checkpoints of every era are read; hostile files cost one line."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import torch

from nanochat.checkpoint import store
from nanochat.checkpoint.loading import load_run_tokenizer
from nanochat.export.hf_export import ExportHfConfig, run_hf
from nanochat.export.import_model import ImportConfig, run_import
from nanochat.export.names import cropped, renamed, turned
from nanochat.export.reference import ERAS, EraName, shape_of
from nanochat.model.gpt import GPT
from nanochat.paths import Paths
from nanochat.tokenizer.tokenizer import Tokenizer
from tests.export.conftest import BARE, random_model

pytestmark = pytest.mark.slow
MakeRun = Callable[..., GPT]
SIZES = {"sequence_len": 256, "n_layer": 4, "n_head": 4, "n_kv_head": 2, "n_embd": 64}


def state_of(paths: Paths, run: str) -> dict[str, torch.Tensor]:
    directory = paths.checkpoints(run)
    step = store.latest(directory)
    assert step is not None
    return store.load_model_state(directory, step)


# ---- our own exports


@pytest.mark.parametrize(
    ("changes", "flavour"),
    [({}, "transformers"), ({"smear": False}, "vllm"), (BARE, "transformers"), (BARE, "mlx")],
)
def test_what_was_exported_comes_back(
    changes: dict[str, Any], flavour: Any, make_run: MakeRun, paths: Paths, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    ours = make_run(**changes)
    run_hf(ExportHfConfig("tiny", tmp_path / "exported", "fp32", flavour), paths)
    assert run_import(ImportConfig(tmp_path / "exported"), paths).model_tag == "exported"
    back, before = state_of(paths, "exported"), ours.state_dict()
    assert back.keys() == before.keys()
    assert all(torch.equal(back[name], before[name]) for name in before)
    old, new = (store.load_meta(paths.checkpoints(run), 7) for run in ("tiny", "exported"))
    assert (new.model, new.plan, new.stage, new.step) == (old.model, old.plan, old.stage, 7)
    assert load_run_tokenizer(paths.checkpoints("exported")).hash == old.tokenizer
    with pytest.raises(ValueError, match="there is a run 'exported' already"):
        run_import(ImportConfig(tmp_path / "exported"), paths)
    with pytest.raises(ValueError, match="--step, --tokenizer-file and --era are for checkpoints of karp"):
        run_import(ImportConfig(tmp_path / "exported", "another", step=7), paths)


def test_a_stock_model_needs_no_facts_of_ours(make_run: MakeRun, paths: Paths, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    ours = make_run(**BARE)
    directory = tmp_path / "stock"
    run_hf(ExportHfConfig("tiny", directory, "fp32"), paths)
    table = json.loads((directory / "config.json").read_text())
    del table["nanochat"]
    (directory / "config.json").write_text(json.dumps(table))
    run_import(ImportConfig(directory), paths)
    back = state_of(paths, "stock")
    assert all(torch.equal(back[name], tensor) for name, tensor in ours.state_dict().items())
    assert store.load_meta(paths.checkpoints("stock"), 1).model == replace(ours.config, window_pattern="L")


# ---- the reference


def write_reference(
    base: Path, era: EraName, tokenizer: Tokenizer, prefix: str = "", **sizes: int
) -> tuple[Path, GPT]:
    """A checkpoint as the reference's code of an era wrote it, and the same model of ours."""
    table = {**SIZES, "vocab_size": tokenizer.vocab_size, "window_pattern": "SSL", **sizes}
    if era == "2025-10-13":
        del table["window_pattern"]
    model = random_model(shape_of(table, ERAS[era]))
    own = turned(cropped(model.state_dict(), model.config), model.config.head_dim)
    directory = base / "chatsft_checkpoints" / "d4"
    directory.mkdir(parents=True)
    theirs = {f"{prefix}{name}": tensor.clone() for name, tensor in renamed(own, "ours", "reference").items()}
    theirs[f"{prefix}transformer.wte.weight"] = theirs[f"{prefix}transformer.wte.weight"].bfloat16()
    torch.save(theirs, directory / "model_000009.pt")
    (directory / "meta_000009.json").write_text(json.dumps({"step": 9, "model_config": table}))
    (base / "tokenizer").mkdir()
    (base / "tokenizer" / "tokenizer.pkl").write_bytes(pickle.dumps(tokenizer._encoding))
    return directory, model


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_every_era_is_recognised_by_its_tensors(
    era: EraName,
    prefix: str,
    tokenizer: Tokenizer,
    paths: Paths,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    directory, model = write_reference(tmp_path, era, tokenizer, prefix)
    asked: EraName | None = era if era == "2026-03-02" else None  # looks like the one before it
    run_import(ImportConfig(directory, era=asked), paths)
    meta = store.load_meta(paths.checkpoints("d4"), 9)
    assert (meta.model, meta.stage, meta.tokenizer) == (model.config, "sft", tokenizer.hash)
    said = capsys.readouterr().err
    assert ("--era 2026-03-02" in said) == (era == "2026-01-16")
    assert (
        f"`nanochat eval base --model-tag {directory.name} --dataset builtin`" in said
    )  # its own text is unknown
    back = state_of(paths, "d4")
    for name, tensor in model.state_dict().items():
        expected = tensor.bfloat16().float() if name == "embedding.weight" else tensor
        assert torch.equal(back[name], expected), name


def test_the_eras_are_those_of_the_reference() -> None:
    """Figures of its history: windows count the token itself."""
    sizes = {**SIZES, "vocab_size": 300, "sequence_len": 2048, "window_pattern": "SSSL"}
    shapes = {name: shape_of(sizes, era) for name, era in ERAS.items()}
    windows = [shape.window(0) for shape in shapes.values()]
    assert windows == [1025, 1025, 1025, 1025, 769, 513]
    head = shapes["2026-03-14"]
    assert (head.smear_channels, head.gate_channels, head.gate_scale, head.middle_layer) == (24, 12, 3.0, 3)
    assert (shapes["2026-01-16"].gate_scale, shapes["2026-01-16"].rope_base) == (2.0, 10_000.0)
    assert [shape.softcap for shape in shapes.values()] == [15.0, 15.0, 15.0, 20.0, 15.0, 15.0]


def test_a_checkpoint_with_an_unknown_tensor_is_refused(
    tokenizer: Tokenizer, paths: Paths, tmp_path: Path
) -> None:
    directory, _ = write_reference(tmp_path, "2026-03-14", tokenizer)
    state = torch.load(directory / "model_000009.pt", weights_only=True)
    torch.save({**state, "bigram.weight": torch.ones(2)}, directory / "model_000009.pt")
    with pytest.raises(ValueError, match=r"unknown name 'bigram\.weight'"):
        run_import(ImportConfig(directory), paths)
    assert not paths.checkpoints("d4").exists()


# ---- untrusted files


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def hostile_pickles(mark: Path) -> dict[str, bytes]:
    encoding = tiktoken.Encoding("x", pat_str="x", mergeable_ranks={b"x": 0}, special_tokens={})
    return {
        "a command": pickle.dumps(Hostile(print, mark.write_text)),
        "system": pickle.dumps(Hostile(mark.write_text, "x")),
        "eval": pickle.dumps(Hostile(eval, f"open({str(mark)!r}, 'w')")),
        "inside": pickle.dumps({"a": [Hostile(eval, f"open({str(mark)!r}, 'w')")]}),
        "an encoding and a command": pickle.dumps([encoding, Hostile(eval, f"open({str(mark)!r}, 'w')")]),
        "another class": pickle.dumps(Path("x")),
        "no tokenizer": pickle.dumps({"pat_str": "x"}),
        "a registered encoding by its name": b"\x80\x02ctiktoken.core\nEncoding\n)\x81X\x04\x00\x00\x00gpt2b.",
        "a pattern that cannot be": pickle.dumps(encoding).replace(b"pat_str\x94\x8c\x01x", b"pat_str\x94\x8c\x01("),
        "few tokens": pickle.dumps(encoding),
        "arguments": b"\x80\x02ctiktoken.core\nEncoding\nK\x01\x85R.",
        "an attribute": b"\x80\x04\x8c\x0dtiktoken.core\x8c\x11Encoding.__init__\x93.",
        "half": pickle.dumps(encoding)[:40],
        "nothing": b"",
        "noise": bytes(range(256)),
    }  # fmt: skip


@pytest.mark.parametrize("name", hostile_pickles(Path("x")))
def test_a_hostile_pickle_is_refused(name: str, tokenizer: Tokenizer, paths: Paths, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    directory, _ = write_reference(tmp_path, "2026-03-14", tokenizer)
    (tmp_path / "tokenizer" / "tokenizer.pkl").write_bytes(hostile_pickles(mark)[name])
    with pytest.raises(ValueError, match=r"\w") as refused:
        run_import(ImportConfig(directory), paths)
    assert "\n" not in str(refused.value)
    assert not mark.exists()
    assert store.steps_with_meta(paths.checkpoints("d4")) == []


DAMAGED = [
    *(b"", b"{}", b"[]", b"\x80\x02}.", b'{"model_config": {"n_layer": 1e99}}'),
    pickle.dumps({"a": Hostile(print, "x")}),
]


@pytest.mark.parametrize("place", ["model_000009.pt", "meta_000009.json"])
@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_files_cost_one_line(
    place: str, content: bytes, tokenizer: Tokenizer, paths: Paths, tmp_path: Path
) -> None:
    directory, _ = write_reference(tmp_path, "2026-03-14", tokenizer)
    (directory / place).write_bytes(content)
    with pytest.raises(ValueError, match=r"\w") as refused:
        run_import(ImportConfig(directory), paths)
    assert "\n" not in str(refused.value)


def test_sizes_that_no_machine_holds_are_refused(tokenizer: Tokenizer, paths: Paths, tmp_path: Path) -> None:
    directory, _ = write_reference(tmp_path, "2026-03-14", tokenizer)
    table = json.loads((directory / "meta_000009.json").read_text())
    table["model_config"]["n_layer"] = 10**9
    (directory / "meta_000009.json").write_text(json.dumps(table))
    with pytest.raises(ValueError, match=r"model\.n_layer must be between"):
        run_import(ImportConfig(directory), paths)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "holds neither"),
        ({"config.json": "{}"}, "has no tokenizer.json"),
        ({"config.json": "[]"}, "is not the config of a model"),
        ({"config.json": "{}", "tokenizer.json": "{}"}, "is not a byte-level tokenizer"),
        ({"model_000001.pt": ""}, "model_000001.pt is damaged, or no checkpoint of PyTorch$"),
    ],
)
def test_a_folder_that_is_none_costs_one_line(
    files: dict[str, str], said: str, paths: Paths, tmp_path: Path
) -> None:
    directory = tmp_path / "folder"
    directory.mkdir()
    for name, text in files.items():
        (directory / name).write_text(text)
    with pytest.raises(ValueError, match=said):
        run_import(ImportConfig(directory), paths)
    with pytest.raises(ValueError, match="is not a folder"):
        run_import(ImportConfig(directory / "nowhere"), paths)
