"""Figures by domain, and peers only if cached on disk."""

import base64
import hashlib
import os
import socket
from pathlib import Path

import pytest
import regex
import tiktoken

from nanochat.tokenizer import bytes_per_token as evaluate
from nanochat.tokenizer.bytes_per_token import PEERS, Peer, cached_encoding, compare, how_to_fetch
from nanochat.tokenizer.eval_texts import EVAL_TEXTS
from nanochat.tokenizer.tokenizer import Tokenizer


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    return tmp_path


def cached_name(peer: Peer) -> str:
    address = f"https://openaipublic.blob.core.windows.net/encodings/{peer.encoding}.tiktoken"
    return hashlib.sha1(address.encode()).hexdigest()


def test_domains_are_measured(tokenizer: Tokenizer, cache: Path) -> None:
    comparison = compare(tokenizer)
    (ours,) = comparison.tokenizers
    assert comparison.skipped == ("GPT-2", "GPT-4")
    assert list(ours.bytes_per_token) == list(comparison.bytes) == list(EVAL_TEXTS)
    for domain, text in EVAL_TEXTS.items():
        size, tokens = len(text.encode()), len(tokenizer.encode(text))
        assert comparison.bytes[domain] == size
        assert ours.bytes_per_token[domain] == size / tokens >= 1


SCRIPTS = {
    "Korean": "Hangul",
    "Chinese": "Han",
    "Japanese": "Hiragana",
    "Arabic": "Arabic",
    "Hindi": "Devanagari",
    "Thai": "Thai",
}


@pytest.mark.parametrize("domain", SCRIPTS)
def test_the_texts_are_in_the_language_they_are_called_after(domain: str) -> None:
    letters = "".join(regex.findall(r"\p{L}", EVAL_TEXTS[domain]))
    assert len(regex.findall(rf"\p{{{SCRIPTS[domain]}}}", letters)) > len(letters) / 2


def test_the_code_compiles() -> None:
    compile(EVAL_TEXTS["code"], "code", "exec")


def test_published_figures_stay_comparable() -> None:
    """A changed text changes the figures in reports, so this hash guards against accidental changes."""
    whole = "".join(EVAL_TEXTS.values()).encode()
    assert hashlib.sha256(whole).hexdigest()[:8] == "755c57dd"


def test_a_peer_comes_from_tiktokens_cache(
    tokenizer: Tokenizer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [base64.b64encode(bytes([byte])) + b" %d\n" % byte for byte in range(256)]
    data = b"".join(lines)
    peer = Peer("bytes", "bytes_base", hashlib.sha256(data).hexdigest(), PEERS[0].pattern)
    monkeypatch.setattr(evaluate, "PEERS", (peer,))
    assert compare(tokenizer).skipped == ("bytes",)
    (cache / cached_name(peer)).write_bytes(data)
    comparison = compare(tokenizer)
    assert comparison.skipped == ()
    assert comparison.tokenizers[1].name == "bytes"
    assert set(comparison.tokenizers[1].bytes_per_token.values()) == {1.0}
    (cache / cached_name(peer)).write_bytes(data[:-1])
    assert compare(tokenizer).skipped == ("bytes",)


def test_how_to_fetch_names_only_what_is_missing() -> None:
    assert how_to_fetch(("GPT-2",)) == (
        "python -c \"import tiktoken; [tiktoken.get_encoding(name) for name in ['r50k_base']]\""
    )


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_the_peers_are_those_of_tiktoken(peer: Peer) -> None:
    """Where their files are cached (elsewhere skipped), ours reads them as tiktoken does."""
    encoding = cached_encoding(peer)
    if encoding is None:
        pytest.skip(f"{peer.encoding} is not in tiktoken's cache ({os.environ.get('TIKTOKEN_CACHE_DIR')})")
    theirs = tiktoken.get_encoding(peer.encoding)
    for text in EVAL_TEXTS.values():
        assert encoding.encode_ordinary(text) == theirs.encode_ordinary(text)
