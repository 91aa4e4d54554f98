"""Where each preset cuts, and that it loses nothing."""

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.tokenizer.patterns import SPLIT_PATTERNS, split_pattern


def chunks(name: str, text: str) -> list[str]:
    return [match[0] for match in regex.finditer(split_pattern(name), text, flags=regex.VERSION1)]


@pytest.mark.parametrize("name", SPLIT_PATTERNS)
@given(text=st.text())
@settings(deadline=None)
def test_chunks_join_to_the_text(name: str, text: str) -> None:
    assert "".join(chunks(name, text)) == text


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("default", "It's 12345 o'clock", ["It", "'s", " ", "12", "34", "5", " o", "'clock"]),
        ("gpt4", "It's 12345", ["It", "'s", " ", "123", "45"]),
        ("digits", "x = 123", ["x", " =", " ", "1", "2", "3"]),
        ("default", "a  b\n\n  c();\n", ["a", " ", " b", "\n\n", " ", " c", "();\n"]),
        ("default", "हिन्दी भाषा", ["ह", "िन", "्द", "ी", " भ", "ाष", "ा"]),
        ("marks", "हिन्दी भाषा", ["हिन्दी", " भाषा"]),
        ("marks", "مَرْحَبًا", ["مَرْحَبًا"]),
        ("scripts", "हिन्दी भाषा, don't", ["हिन्दी", " भाषा", ",", " don", "'t"]),
        ("scripts", "東京タワーへ行きます。", ["東京", "タワー", "へ", "行", "きます", "。"]),
        ("scripts", "用Python写 代码", ["用", "Python", "写", " 代码"]),
        ("scripts", "สวัสดีครับ hello", ["สวัสดีครับ", " hello"]),
        ("default", "用Python写代码", ["用Python写代码"]),
    ],
)
def test_where_the_presets_cut(name: str, text: str, expected: list[str]) -> None:
    assert chunks(name, text) == expected


def test_every_preset_says_when_to_choose_it() -> None:
    assert all(preset.reason for preset in SPLIT_PATTERNS.values())
    with pytest.raises(ValueError, match="unknown split pattern 'x': choose one of default, gpt4"):
        split_pattern("x")


@given(text=st.text())
@settings(deadline=None)
def test_gpt4_cuts_as_tiktokens_own_pattern(text: str) -> None:
    """cl100k_base's pattern as tiktoken ships it, possessive for speed."""
    shipped = (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
        r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
    )
    assert chunks("gpt4", text) == [match[0] for match in regex.finditer(shipped, text)]
