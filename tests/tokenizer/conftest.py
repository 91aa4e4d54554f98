"""A small tokenizer, trained once."""

import pytest

from nanochat.tokenizer.bpe import train_tokenizer
from nanochat.tokenizer.tokenizer import Tokenizer

TEXT = (
    "The cat sat on the mat, it's 1234 o'clock. नमस्ते 你好 안녕하세요 مرحبا 😀👍🏽 привет\r\n\tdef f(x): return x\n"
    * 4
)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT], 340, max_chars=10**9)
