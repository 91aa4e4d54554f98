"""A meta with any bit flipped, any field missing, ill-typed or out of range gives one clear line at most."""

import copy
import os
import random
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.checkpoint import store
from nanochat.checkpoint.meta import CheckpointMeta, SuccessorBasis, from_plain, to_plain
from nanochat.checkpoint.migrations import FORMAT
from tests.checkpoint.conftest import (
    SHAPE,
    STEP,
    complaint,
    meta_path,
    plain_meta,
    use_model,
    with_value,
)
from tests.conftest import made_up_meta


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def directory_bits(path: Path) -> tuple[list[int], range]:
    """Bits of the archive's central directory: those that once raised unexpected errors, and all of them.

    A flipped compression method (deflate instead of stored) made zlib raise; the attribute that turns an entry into a
    folder made the unpickler raise.
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
    """How many of the flips were detected; the others must not change what is read."""
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


@pytest.mark.slow
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
    bits = range(0, 8 * meta_path(run).stat().st_size, int(os.environ.get("NANOCHAT_EVERY_BIT", 5)))
    assert check_bits(run, iter(bits)) > 1000


def leaves(table: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in table.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from leaves(value, (*path, name))


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
    """Even if the dataclass has a default: the file may have meant another value."""
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


def test_rates_are_checked_beside_those_that_the_plan_offers() -> None:
    plan = made_up_meta(SHAPE).plan
    offering = replace(plan, offers=plan.successor_basis)
    wrong = replace(plan.rates, matrix=float("nan"))
    for fault in (
        {"rates": wrong},
        {"offers": SuccessorBasis(wrong, 256)},
        {"offers": SuccessorBasis(plan.rates, 0)},
    ):
        with pytest.raises(ValueError, match=r"^(matrix must be a finite|batch_tokens must be at least 1)"):
            replace(offering, **fault)


META_FAULTS: dict[str, tuple[tuple[str, ...], Any, str]] = {
    "a newer format": (("format",), FORMAT + 1, f"format is {FORMAT + 1}, this version reads 1 to {FORMAT}"),
    "format zero": (("format",), 0, "format is 0"),
    "format as text": (("format",), "2", "format is '2'"),
    "format 1 that is none": (("format",), 1, "not a complete meta of format 1"),
    "an unknown field": (("surprise",), 1, "unknown surprise"),
    "a negative step": (("progress", "step"), -1, "step must be non-negative"),
    "a step beyond the plan": (("progress", "step"), 10**8, "at most the 10000000 steps"),
    "another step": (("progress", "step"), 4, "belongs to step 4"),
    "no steps": (("plan", "schedule", "total_steps"), 0, "total_steps must be at least 1"),
    "no batch": (("plan", "batch_tokens"), 0, "batch_tokens must be at least 1"),
    "a rate that is no number": (
        ("plan", "rates", "matrix"),
        float("nan"),
        "matrix must be a finite non-negative number",
    ),
    "a negative place": (("progress", "position", "row", "place"), [0, -1], "place of a data position"),
    "a huge vocabulary": (("model", "vocab_size"), 2**40, "vocab_size must be between"),
    "a huge width": (("model", "n_embd"), 2**60, "n_embd must be between"),
    "countless layers": (("model", "n_layer"), 10**9, "n_layer must be between"),
    "a gain that is no number": (("model", "qk_gain"), float("inf"), "qk_gain must be finite"),
    "a cap beyond fp32": (("model", "softcap"), 100.0, "softcap must be between 0 and 50"),
    "heads that do not divide": (("model", "n_kv_head"), 5, "not divisible"),
    "a file elsewhere": (
        ("files", "../../secret"),
        {"size": 1, "sha256": "0" * 64},
        "'../../secret' is none of",
    ),
    "no model": (("files",), {}, "lacks the model file"),
    "a hash that is none": (("files", "model", "sha256"), "../x", "64 hexadecimal digits"),
    "a negative size": (("files", "model", "size"), -1, "size must be non-negative"),
    "another size": (("files", "model", "size"), 1, "bytes instead of 1"),
    "a tensor among the flags": (("config",), {"depth": torch.ones(2)}, "cannot be written as JSON"),
}


@pytest.mark.parametrize("name", META_FAULTS)
def test_a_crafted_meta_is_refused(run: Path, capsys: pytest.CaptureFixture, name: str) -> None:
    path, value, words = META_FAULTS[name]
    torch.save(with_value(plain_meta(run), path, value), meta_path(run))
    assert store.latest(run) is None
    assert words in capsys.readouterr().err
    said = complaint(lambda: use_model(run))
    assert said is not None


def test_a_typed_meta_survives_its_file(run: Path) -> None:
    meta = store.load_meta(run, STEP)
    assert isinstance(meta, CheckpointMeta)
    assert from_plain(to_plain(meta)) == meta
    assert meta.source is not None
    assert meta.progress.position is not None
    assert meta.progress.position.row.place == (0, 1, 2)
