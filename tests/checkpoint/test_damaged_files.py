"""Malicious files: each gives one clear error line, none executes code, none loads as a model."""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.atomic import sha256_of
from nanochat.checkpoint import store
from tests.checkpoint.conftest import (
    STEP,
    complaint,
    meta_path,
    model_state,
    optimizer,
    plain_meta,
    replace_part,
    use_model,
    use_optimizer,
    with_value,
)

pytestmark = pytest.mark.slow


def no_pickle(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/version", "3")


def nested_too_deeply(path: Path) -> None:
    """A list of a list of a list …: deeper than Python can recurse, so torch cannot write it."""
    pickled = b"\x80\x02}X\x06\x00\x00\x00format" + b"]" * 2_000 + b"a" * 1_999 + b"s."
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (("data.pkl", pickled), ("byteorder", b"little"), ("version", b"3\n")):
            archive.writestr(f"archive/{name}", content)


def too_large(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**25))


FILE_FAULTS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("a checkpoint"),
    "a bare pickle": lambda path: path.write_bytes(pickle.dumps({"format": 2})),
    "an archive without a pickle": no_pickle,
    "a bomb": too_large,
    "nested too deeply": nested_too_deeply,
    "a list": lambda path: torch.save([1, 2], path),
    "a tensor": lambda path: torch.save(torch.ones(3), path),
    "nothing": lambda path: torch.save(None, path),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("name", FILE_FAULTS)
@pytest.mark.parametrize("part", ["meta", "model", "optim"])
def test_a_file_that_is_something_else_is_refused(run: Path, name: str, part: Any) -> None:
    path = store.file_of(run, STEP, part)
    FILE_FAULTS[name](path)
    if part != "meta" and path.is_file():
        plain = plain_meta(run)
        plain["files"][part] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
        torch.save(plain, meta_path(run))
    said = complaint(lambda: use_optimizer(run) if part == "optim" else use_model(run))
    assert said is not None
    assert complaint(lambda: store.latest(run)) is None


class Outside:
    """Pickles as a tensor that is larger than its storage."""

    def __reduce__(self) -> Any:
        storage = torch.storage.TypedStorage(4, dtype=torch.float32, _internal=True)
        rebuild = torch._utils._rebuild_tensor_v2  # type: ignore[attr-defined]
        return rebuild, (storage, 0, (1 << 20,), (1,), False, OrderedDict())


WEIGHT = "head.weight"
WEIGHT_FAULTS: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "whole numbers": (lambda w: w.long(), "head.weight has the type torch.int64"),
    "booleans": (lambda w: w.bool(), "head.weight has the type torch.bool"),
    "complex numbers": (lambda w: w.to(torch.complex64), "head.weight has the type torch.complex64"),
    "bytes": (lambda w: w.to(torch.float8_e4m3fn), "head.weight has the type torch.float8"),
    "not a number": (lambda w: w.index_fill(0, torch.tensor([3]), float("nan")), "head.weight holds values"),
    "infinity": (lambda w: w.index_fill(0, torch.tensor([3]), float("inf")), "head.weight holds values"),
    "sparse": (lambda w: w.to_sparse(), "head.weight is stored as torch.sparse_coo"),
    "without memory": (lambda w: w.to("meta"), "head.weight is stored as torch.strided on meta"),
    "another shape": (lambda w: w[:-1].clone(), "belongs to another model: head.weight is (319, 8) there"),
    "a huge shape": (lambda w: torch.ones(1).expand(1 << 40, 8), "belongs to another model: head.weight"),
    "no tensor": (lambda w: [1.0], "head.weight is a list, not a tensor"),
    "outside of its storage": (lambda w: Outside(), "cannot be read"),
}


@pytest.mark.parametrize("name", WEIGHT_FAULTS)
def test_weights_that_are_none_are_refused(run: Path, name: str) -> None:
    make, words = WEIGHT_FAULTS[name]
    state = model_state()
    replace_part(run, "model", {**state, WEIGHT: make(state[WEIGHT])})
    said = complaint(lambda: use_model(run))
    assert said is not None
    assert words in said


def test_missing_and_additional_weights_are_named(run: Path) -> None:
    state = model_state()
    replace_part(run, "model", {name: tensor for name, tensor in state.items() if name != WEIGHT})
    assert "head.weight is absent there" in (complaint(lambda: use_model(run)) or "")
    replace_part(run, "model", {**state, "tail": torch.ones(1)})
    assert "tail is (1,) there and absent here" in (complaint(lambda: use_model(run)) or "")
    replace_part(run, "model", {**state, 7: torch.ones(1)})
    assert "7 is (1,) there" in (complaint(lambda: use_model(run)) or "")


def test_a_shape_that_fits_no_memory_costs_none(run: Path) -> None:
    """The stated shape is compared with the weights before anything of its size is allocated."""
    torch.save(with_value(plain_meta(run), ("model", "n_embd"), 2**20), meta_path(run))
    assert "belongs to another model" in (complaint(lambda: use_model(run)) or "")


def optimizer_states() -> dict[str, Any]:
    good = optimizer().state_dict()
    moments = good["parameters"][WEIGHT]

    def changed(**moment: Any) -> dict[str, Any]:
        return {**good, "parameters": {**good["parameters"], WEIGHT: {**moments, **moment}}}

    first = moments["first_moment"]
    return {
        "no steps": {"parameters": good["parameters"]},
        "negative steps": {**good, "steps": -1},
        "steps as text": {**good, "steps": "1"},
        "no parameters": {"steps": 1},
        "parameters as a list": {**good, "parameters": []},
        "a parameter missing": {**good, "parameters": {}},
        "a parameter too many": {**good, "parameters": {**good["parameters"], 7: {}}},
        "a moment missing": {**good, "parameters": {**good["parameters"], WEIGHT: {}}},
        "moments as a list": {**good, "parameters": {**good["parameters"], WEIGHT: []}},
        "a moment of whole numbers": changed(first_moment=first.long()),
        "a moment of another shape": changed(first_moment=first[:-1].clone()),
        "a moment that is no number": changed(first_moment=first + float("nan")),
        "a sparse moment": changed(first_moment=first.to_sparse()),
        "a moment without memory": changed(first_moment=first.to("meta")),
        "a moment outside of its storage": changed(first_moment=Outside()),
    }


@pytest.mark.parametrize("name", optimizer_states())
def test_an_optimizer_state_that_is_none_is_refused(run: Path, name: str) -> None:
    replace_part(run, "optim", optimizer_states()[name])
    assert complaint(lambda: use_optimizer(run)) is not None


def test_what_was_not_tampered_with_is_used(run: Path) -> None:
    assert complaint(lambda: use_model(run)) is None
    assert complaint(lambda: use_optimizer(run)) is None


class Command:
    """Pickles as a call that leaves a file behind."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> Any:
        return open, (str(self.file), "w")


@pytest.mark.parametrize("part", ["meta", "model", "optim"])
def test_a_pickle_that_would_run_code_runs_none(run: Path, tmp_path: Path, part: Any) -> None:
    """Fails if any reader drops `weights_only`."""
    trace = tmp_path / "it ran"
    if part == "meta":
        torch.save({**plain_meta(run), "config": {"x": Command(trace)}}, meta_path(run))
    else:
        replace_part(run, part, {WEIGHT: Command(trace)})
    for action in (
        lambda: store.latest(run),
        lambda: store.finished_step(run),
        lambda: store.whole_steps(run),
    ):
        complaint(action)
    assert complaint(lambda: use_optimizer(run) if part == "optim" else use_model(run)) is not None
    assert not trace.exists()
