"""Write tensors and plain containers to bytes; equal contents give equal bytes."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from typing import Any, BinaryIO

import torch


def write(content: Mapping[str, Any], file: BinaryIO) -> tuple[int, str]:
    """Write `content` in torch's format and return (size, sha256 in hex) of what was written.

    Raises OSError if writing fails, TypeError for anything but tensors and plain containers.
    """
    tally = _Tally(file)
    try:
        # A file object, because torch puts the file name into the archive when given a path.
        torch.save(_Canonical().of(content), tally)  # type: ignore[arg-type]
    except RuntimeError:
        if tally.error is not None:
            raise tally.error from None
        raise
    return tally.size, tally.digest.hexdigest()


class _Tally:
    """Counts and hashes what is written; keeps the OSError of a failed write, which torch replaces."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0
        self.error: OSError | None = None

    def write(self, block: bytes) -> int:
        try:
            self._file.write(block)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(block)
        self.size += len(block)
        return len(block)

    def flush(self) -> None:
        self._file.flush()


class _Canonical:
    """Rebuilds nested containers so that equal values pickle to equal bytes.

    Pickle writes the second occurrence of an object as a reference, so two equal strings give different bytes from
    one string that occurs twice; torch does the same with storages. Here equal strings become one object and everything
    else is copied apart.
    """

    def __init__(self) -> None:
        self._storages: set[int] = set()

    def of(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if type(value) is str:
            return sys.intern(value)
        if isinstance(value, Mapping):
            return {self.of(key): self.of(item) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self.of(item) for item in value)
        if value is None or type(value) in (bool, int, float):
            return value
        raise TypeError(f"a checkpoint holds tensors and plain containers only, not {type(value).__name__}")

    def _tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """A CPU tensor that fills its storage and shares it with no other; copied if necessary."""
        plain = tensor.detach().to("cpu").contiguous()
        storage = plain.untyped_storage()
        if storage.nbytes() > plain.nbytes or storage.data_ptr() in self._storages:
            plain = plain.clone()
        self._storages.add(plain.untyped_storage().data_ptr())
        return plain
