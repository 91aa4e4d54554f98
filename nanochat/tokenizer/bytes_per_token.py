"""Bytes per token by domain, of our tokenizer and of GPT-2's and GPT-4's if their files are cached."""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tiktoken
from tiktoken_ext.openai_public import r50k_pat_str

from nanochat.metrics_rows import DomainRates
from nanochat.tokenizer.eval_texts import EVAL_TEXTS
from nanochat.tokenizer.patterns import split_pattern
from nanochat.tokenizer.tokenizer import Tokenizer, parse_ranks

_ADDRESS = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"


@dataclass(frozen=True)
class Peer:
    """A published encoding: its common name, tiktoken's name, the sha256 of its file, and its pattern."""

    name: str
    encoding: str
    sha256: str
    pattern: str


PEERS = (
    Peer(
        "GPT-2",
        "r50k_base",
        "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
        r50k_pat_str,
    ),
    Peer(
        "GPT-4",
        "cl100k_base",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        split_pattern("gpt4"),
    ),
)


@dataclass(frozen=True)
class Comparison:
    """`tokenizers[0]` is ours; `skipped` names the peers whose files are not cached; `bytes` is by domain."""

    bytes: dict[str, int]
    tokenizers: tuple[DomainRates, ...]
    skipped: tuple[str, ...]


def compare(tokenizer: Tokenizer, texts: Mapping[str, str] = EVAL_TEXTS) -> Comparison:
    """Measure `tokenizer` and every peer whose file tiktoken has cached; never uses the network."""
    rates = [_measure("ours", tokenizer, tokenizer.vocab_size, texts)]
    skipped = []
    for peer in PEERS:
        encoding = cached_encoding(peer)
        if encoding is None:
            skipped.append(peer.name)
        else:
            rates.append(_measure(peer.name, encoding, encoding.n_vocab, texts))
    sizes = {domain: len(text.encode()) for domain, text in texts.items()}
    return Comparison(sizes, tuple(rates), tuple(skipped))


def cached_encoding(peer: Peer) -> tiktoken.Encoding | None:
    """The peer's encoding from tiktoken's cache; None if its file is missing or has another hash."""
    path = _cache_folder() / hashlib.sha1(_ADDRESS.format(peer.encoding).encode()).hexdigest()
    if not path.is_file():
        return None
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != peer.sha256:
        return None
    return tiktoken.Encoding(
        peer.encoding, pat_str=peer.pattern, mergeable_ranks=parse_ranks(data.decode()), special_tokens={}
    )


def how_to_fetch(skipped: tuple[str, ...]) -> str:
    """The command that downloads the files of the skipped peers into tiktoken's cache."""
    names = [peer.encoding for peer in PEERS if peer.name in skipped]
    return f'python -c "import tiktoken; [tiktoken.get_encoding(name) for name in {names}]"'


def _measure(
    name: str, encoder: Tokenizer | tiktoken.Encoding, vocab_size: int, texts: Mapping[str, str]
) -> DomainRates:
    encode = encoder.encode if isinstance(encoder, Tokenizer) else encoder.encode_ordinary
    return DomainRates(
        name,
        vocab_size,
        {domain: len(text.encode()) / max(len(encode(text)), 1) for domain, text in texts.items()},
    )


def _cache_folder() -> Path:
    """tiktoken's cache folder (as in tiktoken/load.py)."""
    named = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    return Path(named) if named else Path(tempfile.gettempdir()) / "data-gym-cache"
