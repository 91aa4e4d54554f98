"""The reference's tokenizer.pkl, a pickled `tiktoken.Encoding`, read without running anything that it names."""

import pickle
from pathlib import Path
from typing import Any

from nanochat.export.incoming import one_line
from nanochat.tokenizer.special import SPECIAL_TOKENS
from nanochat.tokenizer.tokenizer import Tokenizer


class _Encoding:
    """Stands in for tiktoken's class: keeps the state that a pickle gives it."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[_Encoding]:
        if (module, name) != ("tiktoken.core", "Encoding"):
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, and may name tiktoken.core.Encoding only"
            )
        return _Encoding


def read_pickled_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer. Raises ValueError for a pickle of anything else, and for other special tokens than ours."""
    try:
        with path.open("rb") as file:
            found = _Unpickler(file).load()
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged or hostile pickle can raise any exception
        raise ValueError(f"{path} cannot be read: {one_line(error)}") from None
    state = found.state if isinstance(found, _Encoding) else None
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds something else than a tokenizer of tiktoken")
    ranks, pattern, special = (state.get(key) for key in ("mergeable_ranks", "pat_str", "special_tokens"))
    if not isinstance(ranks, dict) or not all(type(k) is bytes and type(v) is int for k, v in ranks.items()):
        raise ValueError(f"{path} has no ranks of tokens")
    if not isinstance(pattern, str):
        raise ValueError(f"{path} has no split pattern")
    tokenizer = Tokenizer(ranks, pattern)
    if special != tokenizer.special_ids:
        raise ValueError(f"{path} has other special tokens than ours: {', '.join(SPECIAL_TOKENS)}")
    return tokenizer
