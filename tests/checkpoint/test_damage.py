"""Files that are damaged or made to deceive: each costs one clear line, none runs anything, none passes for a model."""

import copy
import pickle
import random
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.atomic import sha256_of
from nanochat.checkpoint import store
from nanochat.checkpoint.loading import load_model
from nanochat.checkpoint.meta import CheckpointMeta, FileFacts, Part, from_plain, to_plain
from nanochat.checkpoint.migrations import FORMAT
from nanochat.errors import EnvironmentFault
from nanochat.model.backend import REFERENCE
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.optim.groups import LearningRates
from nanochat.optim.muon_adamw import MuonAdamW, MuonOptions
from nanochat.runtime import open_runtime
from nanochat.tokenizer.tokenizer import Tokenizer
from tests.conftest import made_up_meta

SHAPE = GPTConfig(max_seq_len=16, vocab_size=265, n_layer=1, n_head=2, n_kv_head=2, head_dim=4, n_embd=8)
STEP = 5
RATES = LearningRates(0.02, 0.3, 0.15, 0.008, 0.5, weight_decay=0.0)


def model_state() -> dict[str, torch.Tensor]:
    model = GPT(SHAPE, REFERENCE)
    model.init_weights(0)
    return dict(model.state_dict())


def optimizer() -> MuonAdamW:
    return MuonAdamW(GPT(SHAPE, REFERENCE).named_parameters(), RATES, MuonOptions())


@pytest.fixture
def run(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """A run at step 5, whose source and position are filled in too."""
    directory = tmp_path / "run"
    source = {"model_tag": "base", "step": 3, "weights_sha256": "0" * 64}
    identity = {
        "max_seq_len": 16,
        "policy": "contiguous",
        "seed": 1,
        "tokenizer": "t",
        "data": "d",
        "files": 2,
    }
    row = {"place": [0, 1, 2], "offset": 3, "rows": 4, "dropped": 5, "padded": 6}
    plain = to_plain(made_up_meta(SHAPE, STEP, files={"model": FileFacts(0, "0" * 64)}))
    plain["source"], plain["progress"]["position"] = source, {"identity": identity, "row": row}
    meta = from_plain(plain)
    store.save(directory, meta, model_state(), optimizer().state_dict())
    tokenizer.save(directory / "tokenizer")
    return directory


def meta_path(run: Path) -> Path:
    return store.file_of(run, STEP, "meta")


def plain_meta(run: Path) -> dict[str, Any]:
    return torch.load(meta_path(run), weights_only=True)


def replace_part(run: Path, part: Part, content: Any) -> None:
    """Put other content into a part, and its true size and sha256 into the meta."""
    path = store.file_of(run, STEP, part)
    torch.save(content, path)
    plain = plain_meta(run)
    plain["files"][part] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
    torch.save(plain, meta_path(run))


def complaint(action: Callable[[], object]) -> str | None:
    """The one line that `action` costs, or None if it succeeds; any other exception fails the test."""
    try:
        action()
    except (ValueError, EnvironmentFault) as error:
        message = str(error)
        assert message
        assert "\n" not in message
        assert len(message) < 1000
        return message
    return None


def use_model(run: Path) -> None:
    with open_runtime("cpu", "fp32") as runtime:
        load_model(run, runtime)


def use_optimizer(run: Path) -> None:
    optimizer().load_state_dict(store.load_optimizer_state(run, STEP))


# --- bits


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def directory_bits(path: Path) -> tuple[list[int], range]:
    """Bits of the archive's central directory: those known to have raised once, and all of them.

    A flipped compression method (deflate instead of stored) made zlib raise, the attribute that makes a folder of an
    entry the unpickler.
    """
    with zipfile.ZipFile(path) as archive:
        start = archive.start_dir
    content, known = path.read_bytes(), []
    at = content.find(b"PK\x01\x02", start)
    while at >= 0:
        known += [8 * (at + 10) + 3, 8 * (at + 38) + 4]
        at = content.find(b"PK\x01\x02", at + 4)
    return known, range(8 * start, 8 * len(content))


def check_bits(run: Path, bits: Iterator[int] | list[int]) -> int:
    """How many of the flips were found; those that were not must change nothing that is read."""
    path = meta_path(run)
    content, meta = path.read_bytes(), store.load_meta(run, STEP)
    found = 0
    for bit in bits:
        path.write_bytes(flipped(content, bit))
        if store.latest(run) is None:
            found += 1
        else:
            assert store.load_meta(run, STEP) == meta, bit
    path.write_bytes(content)
    return found


def test_flipped_bits_of_the_newest_meta_fall_back(run: Path, capsys: pytest.CaptureFixture) -> None:
    known, directory = directory_bits(meta_path(run))
    assert len(known) >= 10
    sample = random.Random(0).sample(range(8 * meta_path(run).stat().st_size), 300)
    assert check_bits(run, known) >= 5
    assert check_bits(run, sample + random.Random(1).sample(directory, 100)) > 100
    store.save(run, made_up_meta(SHAPE, 2), {"w": torch.zeros(1)})
    content = meta_path(run).read_bytes()
    meta_path(run).write_bytes(flipped(content, known[0]))
    assert store.latest(run) == 2
    assert "skipping the torn checkpoint of step 5" in capsys.readouterr().err


@pytest.mark.slow
def test_no_bit_of_the_meta_raises(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert check_bits(run, iter(range(8 * meta_path(run).stat().st_size))) > 1000


# --- metas


def leaves(table: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in table.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from leaves(value, (*path, name))


def with_value(table: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(table)
    target = changed
    for name in path[:-1]:
        target = target[name]
    target[path[-1]] = value
    return changed


WRONG: tuple[Any, ...] = (
    None, True, -1, 0.5, 10**40, float("nan"), float("inf"), "", "x\ny", [], [[]], {}, {1: 2}, torch.ones(2), (),
)  # fmt: skip


def test_every_field_of_every_wrong_type_costs_one_line(run: Path) -> None:
    plain = plain_meta(run)
    refused = dict.fromkeys(leaves(plain), 0)
    for path in refused:
        for value in WRONG:
            refused[path] += (
                complaint(lambda p=path, v=value: from_plain(with_value(plain, p, v))) is not None
            )
    free = ("config", "software")
    lax = {".".join(path) for path, count in refused.items() if count < 8 and path[0] not in free}
    assert not lax, f"hardly anything is refused at {lax}"


def test_every_missing_field_is_named(run: Path) -> None:
    """Also where the dataclass has a default: another value may have been meant."""
    plain = plain_meta(run)
    for path in leaves(plain):
        shorter = copy.deepcopy(plain)
        table = shorter
        for name in path[:-1]:
            table = table[name]
        del table[path[-1]]
        said = complaint(lambda plain=shorter: from_plain(plain))
        if path == ("files", "optim"):  # saved without an optimiser
            assert said is None
        else:
            assert said is not None, path
            assert path[-1] in said or path[0] == "files"


META_FAULTS: dict[str, tuple[tuple[str, ...], Any, str]] = {
    "a newer format": (("format",), FORMAT + 1, f"format is {FORMAT + 1}, this version reads 1 to {FORMAT}"),
    "format zero": (("format",), 0, "format is 0"),
    "format as text": (("format",), "2", "format is '2'"),
    "format 1 that is none": (("format",), 1, "not a whole meta of format 1"),
    "an unknown field": (("surprise",), 1, "unknown surprise"),
    "a negative step": (("progress", "step"), -1, "step must be not negative"),
    "a step beyond the plan": (("progress", "step"), 10**8, "at most the 10000000 steps"),
    "another step": (("progress", "step"), 4, "belongs to step 4"),
    "no steps": (("plan", "schedule", "total_steps"), 0, "total_steps must be at least 1"),
    "no batch": (("plan", "batch_tokens"), 0, "batch_tokens must be at least 1"),
    "a rate that is no number": (("plan", "rates", "matrix"), float("nan"), "matrix must be a finite number"),
    "a negative place": (("progress", "position", "row", "place"), [0, -1], "place of a data position"),
    "a huge vocabulary": (("model", "vocab_size"), 2**40, "vocab_size must be between"),
    "a huge width": (("model", "n_embd"), 2**60, "n_embd must be between"),
    "countless layers": (("model", "n_layer"), 10**9, "n_layer must be between"),
    "a gain that is no number": (("model", "qk_gain"), float("inf"), "qk_gain must be finite"),
    "heads that do not divide": (("model", "n_kv_head"), 5, "not divisible"),
    "a file elsewhere": (
        ("files", "../../secret"),
        {"size": 1, "sha256": "0" * 64},
        "'../../secret' is none of",
    ),
    "no model": (("files",), {}, "names no model"),
    "a hash that is none": (("files", "model", "sha256"), "../x", "64 hexadecimal digits"),
    "a negative size": (("files", "model", "size"), -1, "size must be not negative"),
    "another size": (("files", "model", "size"), 1, "bytes instead of 1"),
    "a tensor among the flags": (("config",), {"depth": torch.ones(2)}, "does not go into JSON"),
}


@pytest.mark.parametrize("name", META_FAULTS)
def test_a_crafted_meta_is_refused(run: Path, capsys: pytest.CaptureFixture, name: str) -> None:
    path, value, words = META_FAULTS[name]
    torch.save(with_value(plain_meta(run), path, value), meta_path(run))
    assert store.latest(run) is None
    assert words in capsys.readouterr().err
    said = complaint(lambda: use_model(run))
    assert said is not None


def no_pickle(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/version", "3")


def nested_too_deeply(path: Path) -> None:
    """A list of a list of a list …: deeper than Python can recurse, so that torch itself cannot write it."""
    pickled = b"\x80\x02}X\x06\x00\x00\x00format" + b"]" * 100_000 + b"a" * 99_999 + b"s."
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


# --- tensors


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
    "another shape": (lambda w: w[:-1].clone(), "of another model: head.weight is (319, 8) there"),
    "a huge shape": (lambda w: torch.ones(1).expand(1 << 40, 8), "of another model: head.weight"),
    "no tensor": (lambda w: [1.0], "head.weight is a list, not a tensor"),
    "outside of its storage": (lambda w: Outside(), "does not read"),
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
    assert "of another model" in (complaint(lambda: use_model(run)) or "")


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


# --- code


class Command:
    """Pickles as a call that leaves a file behind."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> Any:
        return open, (str(self.file), "w")


@pytest.mark.parametrize("part", ["meta", "model", "optim"])
def test_a_pickle_that_would_run_code_runs_none(run: Path, tmp_path: Path, part: Any) -> None:
    """Fails as soon as `weights_only` is gone from any reader."""
    trace = tmp_path / "it ran"
    if part == "meta":
        torch.save({**plain_meta(run), "config": {"x": Command(trace)}}, meta_path(run))
    else:
        replace_part(run, part, {WEIGHT: Command(trace)})
    for action in (lambda: store.latest(run), lambda: store.finished_step(run), lambda: store.steps(run)):
        complaint(action)
    assert complaint(lambda: use_optimizer(run) if part == "optim" else use_model(run)) is not None
    assert not trace.exists()


def test_a_typed_meta_survives_its_file(run: Path) -> None:
    meta = store.load_meta(run, STEP)
    assert isinstance(meta, CheckpointMeta)
    assert from_plain(to_plain(meta)) == meta
    assert meta.source is not None
    assert meta.progress.position is not None
    assert meta.progress.position.row.place == (0, 1, 2)
