"""Training and encoding, merge for merge and id for id, against the algorithm in its plainest form."""

import itertools
import unicodedata
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import regex
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.tokenizer.bpe import train_tokenizer
from nanochat.tokenizer.patterns import SPLIT_PATTERNS
from nanochat.tokenizer.special import SPECIAL_TOKENS
from nanochat.tokenizer.tokenizer import Tokenizer

SCRIPTS = (
    "abcdefgh ABC it's we'll é ñ ß",
    "приве́т мир",
    "αβγδ",
    "नमस्ते दुनिया कि",
    "কেমন আছো",
    "안녕하세요 세계",
    "你好世界再见々",
    "とうきょうタワーラーメン",
    "مَرْحَبًا بالعالم",
    "שָׁלוֹם",
    "สวัสดีชาวโลก",
    "ភាសាខ្មែរ",
    "0123456789 ٣४Ⅷ½",
    " \t\n\r\u00a0\u2003\u3000",
    "!?.,;:-_()[]{}<|bos|>",
    "😀👩‍👩‍👧🇰🇷👍🏽❤️",
)


def is_settled(character: str) -> bool:
    """Whether Python's Unicode tables and `regex`'s agree on a character's category.

    The trainer's and tiktoken's tables are newer than the former and older than the latter, so they agree with both.
    """
    return regex.fullmatch(rf"\p{{{unicodedata.category(character)}}}", character) is not None


CHARACTERS = st.characters(exclude_categories=["Cs"]).filter(is_settled)
WORDS = st.one_of(
    *(st.text(st.sampled_from(script), min_size=1, max_size=6) for script in SCRIPTS),
    st.text(CHARACTERS, max_size=3),
)
# Words drawn from a small pool repeat, so that there is something to merge and counts tie often.
TEXTS = st.lists(WORDS, min_size=1, max_size=8).flatmap(
    lambda pool: st.lists(st.sampled_from(pool), min_size=1, max_size=60).map("".join)
)
PATTERNS = st.sampled_from(sorted(SPLIT_PATTERNS))


def chunks_of(text: str, pattern: str) -> list[bytes]:
    return [match[0].encode() for match in regex.finditer(pattern, text, flags=regex.VERSION1)]


def merge(tokens: list[int], pair: tuple[int, int], new: int) -> list[int]:
    merged: list[int] = []
    for token in tokens:
        if merged and (merged[-1], token) == pair:
            merged[-1] = new
        else:
            merged.append(token)
    return merged


def train_plainly(texts: list[str], tokens: int, pattern: str) -> list[bytes]:
    """The first `tokens` tokens, fewer if the text has no more pairs to merge."""
    words = Counter(tuple(chunk) for text in texts for chunk in chunks_of(text, pattern))
    vocabulary = [bytes([byte]) for byte in range(256)]
    while len(vocabulary) < tokens:
        pairs: Counter[tuple[int, int]] = Counter()
        for word, count in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        new = len(vocabulary)
        vocabulary.append(vocabulary[best[0]] + vocabulary[best[1]])
        merged: Counter[tuple[int, ...]] = Counter()
        for word, count in words.items():
            merged[tuple(merge(list(word), best, new))] += count
        words = merged
    return vocabulary


def encode_plainly(text: str, ranks: dict[bytes, int], pattern: str) -> list[int]:
    ids = []
    for chunk in chunks_of(text, pattern):
        parts = [bytes([byte]) for byte in chunk]
        while True:
            joined = [ranks.get(a + b, len(ranks)) for a, b in itertools.pairwise(parts)]
            if not joined or min(joined) == len(ranks):
                break
            i = joined.index(min(joined))
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        ids += [ranks[part] for part in parts]
    return ids


def tokens_of(tokenizer: Tokenizer) -> list[bytes]:
    ordinary = tokenizer.vocab_size - len(SPECIAL_TOKENS)
    return [tokenizer.decode_bytes([token]) for token in range(ordinary)]


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=4), pattern=PATTERNS)
def test_training_is_the_plain_algorithm_merge_for_merge(texts: list[str], pattern: str) -> None:
    expected = train_plainly(texts, 256 + 60, SPLIT_PATTERNS[pattern].regex)
    ours = train_tokenizer(texts, len(expected) + len(SPECIAL_TOKENS), pattern=pattern, max_chars=10**9)
    assert tokens_of(ours) == expected


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(texts=st.lists(TEXTS, min_size=2, max_size=6), data=st.data())
def test_the_order_of_documents_changes_nothing(texts: list[str], data: st.DataObject) -> None:
    vocab_size = len(train_plainly(texts, 290, SPLIT_PATTERNS["default"].regex)) + len(SPECIAL_TOKENS)
    shuffled = data.draw(st.permutations(texts))
    one, other = (train_tokenizer(order, vocab_size, max_chars=10**9) for order in (texts, shuffled))
    assert one.hash == other.hash


TRAINING_TEXT = " ".join(SCRIPTS) * 3 + " the cat sat on the mat, 1234 times; " * 5


@pytest.fixture(scope="module", params=sorted(SPLIT_PATTERNS))
def trained(request: pytest.FixtureRequest) -> tuple[Tokenizer, dict[bytes, int]]:
    tokenizer = train_tokenizer([TRAINING_TEXT], 400, pattern=request.param, max_chars=10**9)
    return tokenizer, {token: rank for rank, token in enumerate(tokens_of(tokenizer))}


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(text=st.one_of(TEXTS, st.text(CHARACTERS)))
def test_encoding_is_the_plain_algorithm_and_tiktoken(
    trained: tuple[Tokenizer, dict[bytes, int]], text: str
) -> None:
    tokenizer, ranks = trained
    independent = tiktoken.Encoding(
        "independent", pat_str=tokenizer.pattern, mergeable_ranks=ranks, special_tokens={}
    )
    ids = tokenizer.encode(text)
    assert ids == encode_plainly(text, ranks, tokenizer.pattern)
    assert ids == independent.encode(text, disallowed_special=())
    assert tokenizer.decode(ids) == text


@pytest.mark.slow
def test_real_text_is_encoded_as_the_plain_algorithm_does(shared_data: Path) -> None:
    shard = pq.ParquetFile(shared_data / "corpus" / "shard_00006.parquet")
    texts = [text[:2000] for text in shard.read_row_group(0)["text"].to_pylist()[:20]]
    tokenizer = train_tokenizer(texts, 600, max_chars=10**9)
    ranks = {token: rank for rank, token in enumerate(tokens_of(tokenizer))}
    assert tokens_of(tokenizer) == train_plainly(texts, len(ranks), tokenizer.pattern)
    assert tokenizer.encode_batch(texts, threads=2) == [
        encode_plainly(text, ranks, tokenizer.pattern) for text in texts
    ]
