"""Finds a dataset's tokenizer, or the one given by `--tokenizer`.

A tokenizer is kept in the folder of its training dataset, `tokenizers/<dataset>/tok<V>.tiktoken`; those of the
first hub dataset are in `tokenizers/` itself (docs/adr/0004-tokenizers-belong-to-datasets.md). Earlier versions kept
all tokenizers in `tokenizers/` without recording the dataset: those are found by `--vocab-size`.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from nanochat.config import parse_json
from nanochat.console import say
from nanochat.paths import Paths, expanded
from nanochat.text.datasets import HUB_DATASETS, TextSource, dataset_key
from nanochat.text.own_files import absolute
from nanochat.tokenizer.tokenizer import Tokenizer, load_tokenizer

_FILE = re.compile(r"tok(\d+)\.json")
_AT_TOP = next(iter(HUB_DATASETS))


@dataclass(frozen=True)
class TokenizedText(TextSource):
    """Flags of every stage that reads text through a tokenizer."""

    vocab_size: int | None = None
    """Size of the dataset's tokenizer; needed only if the dataset has several."""
    tokenizer: str | None = None
    """Another dataset whose tokenizer to use, or a .tiktoken file; default: this dataset's."""

    def settled(self, paths: Paths) -> Self:
        """As for `TextSource`, with the tokenizer's path absolute too."""
        choice = None if self.tokenizer is None else absolute(self.tokenizer)
        return replace(super().settled(paths), tokenizer=choice)

    def find_tokenizer(self, paths: Paths) -> Tokenizer:
        """Load and print the tokenizer of settled flags; raises as `find_tokenizer` does."""
        assert self.dataset is not None, "settled() comes first"
        path = find_tokenizer(self.dataset, paths, vocab_size=self.vocab_size, choice=self.tokenizer)
        tokenizer = load_tokenizer(path)
        if self.vocab_size not in (None, tokenizer.vocab_size):
            raise ValueError(f"{path} has {tokenizer.vocab_size} tokens, not --vocab-size {self.vocab_size}")
        say(f"tokenizer {path}: {tokenizer.vocab_size:,} tokens, hash {tokenizer.hash}")
        return tokenizer


def tokenizer_folder(dataset: str, paths: Paths) -> Path:
    """The folder of a dataset's tokenizers."""
    key = dataset_key(dataset)
    return paths.tokenizers if key == _AT_TOP else paths.tokenizers_of(key)


def tokenizer_sizes(dataset: str, paths: Paths) -> list[int]:
    """The vocabulary sizes of a dataset's tokenizers, in ascending order."""
    folder, owner = tokenizer_folder(dataset, paths), dataset_key(dataset)
    return [size for size in _sizes(folder) if folder != paths.tokenizers or _owner(folder, size) == owner]


def find_tokenizer(
    dataset: str, paths: Paths, *, vocab_size: int | None = None, choice: str | None = None
) -> Path:
    """The rank file of a dataset's tokenizer.

    Args:
        dataset: as for `open_dataset`.
        vocab_size: its number of tokens; optional if the dataset has only one tokenizer.
        choice: another dataset whose tokenizer to use, or a rank file.

    Raises ValueError, with a remedy, if no tokenizer or several match.
    """
    if choice is not None and choice.endswith(".tiktoken"):
        return expanded(choice).absolute()
    owner = dataset if choice is None else choice
    folder, sizes = tokenizer_folder(owner, paths), tokenizer_sizes(owner, paths)
    if vocab_size in sizes or (vocab_size is None and len(sizes) == 1):
        return folder / f"tok{vocab_size or sizes[0]}.tiktoken"
    unowned = [size for size in _sizes(paths.tokenizers) if _owner(paths.tokenizers, size) is None]
    if vocab_size in unowned:
        say(f"using the tokenizer of {vocab_size:,} tokens whose dataset was not recorded")
        return paths.tokenizers / f"tok{vocab_size}.tiktoken"
    raise ValueError(_none_fits(owner, vocab_size, sizes, unowned))


def _none_fits(dataset: str, vocab_size: int | None, sizes: list[int], unowned: list[int]) -> str:
    """Why no tokenizer was found, and what to do."""
    if vocab_size is None and sizes:
        return f"{dataset} has tokenizers of {_listed(sizes)} tokens: choose one with --vocab-size"
    command = f"nanochat tokenizer train --dataset {shlex.quote(dataset)}"
    if vocab_size is not None:
        command += f" --vocab-size {vocab_size}"
    which = "no tokenizer" if vocab_size is None else f"no tokenizer of {vocab_size} tokens"
    has = f" (it has {_listed(sizes)})" if sizes else ""
    older = f", or use an earlier one with --vocab-size {_listed(unowned)}" if unowned else ""
    return (
        f"{dataset} has {which}{has}: train one with `{command}`, "
        f"or use another dataset's with --tokenizer DATASET{older}"
    )


def _listed(sizes: list[int]) -> str:
    return " or ".join(map(str, sizes))


def _sizes(folder: Path) -> list[int]:
    """The vocabulary sizes of the tokenizers in a folder, in ascending order."""
    return sorted(int(match[1]) for path in folder.glob("tok*.json") if (match := _FILE.fullmatch(path.name)))


def _owner(folder: Path, vocab_size: int) -> str | None:
    """The dataset recorded in a tokenizer's json, or None if none is recorded or it is unreadable."""
    try:
        about = parse_json((folder / f"tok{vocab_size}.json").read_bytes())
        return about["training"].get("dataset")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
