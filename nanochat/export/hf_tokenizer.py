"""A tokenizer as tokenizer.json of Hugging Face, and back."""

from __future__ import annotations

import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

from nanochat.config import parse_json
from nanochat.tokenizer.special import ASSISTANT_END, BOS, SPECIAL_TOKENS
from nanochat.tokenizer.tokenizer import Tokenizer


def save_hf_tokenizer(tokenizer: Tokenizer, max_seq_len: int, directory: Path) -> None:
    """Write tokenizer.json, its config and the chat template. A text that is encoded alone starts with <|bos|>."""
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    with tempfile.TemporaryDirectory() as scratch:
        ranks = tokenizer.save(Path(scratch))
        converter = TikTokenConverter(
            str(ranks), tokenizer.pattern, extra_special_tokens=list(SPECIAL_TOKENS)
        )
        converted = converter.converted()
    converted.post_processor = TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.bos)]
    )
    template = resources.files("nanochat.export").joinpath("chat_template.jinja").read_text()
    PreTrainedTokenizerFast(
        tokenizer_object=converted,
        bos_token=BOS,
        eos_token=ASSISTANT_END,
        pad_token=ASSISTANT_END,
        additional_special_tokens=list(SPECIAL_TOKENS),
        model_max_length=max_seq_len,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=template,
    ).save_pretrained(directory)


def read_hf_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json. Raises ValueError unless it is byte-level BPE with our special tokens."""
    table = parse_json(path.read_bytes())
    try:
        characters = _bytes_of_characters()
        pattern = _pattern(table["pre_tokenizer"])
        added = {token["content"]: token["id"] for token in table["added_tokens"]}
        ranks = {
            bytes(characters[character] for character in token): rank
            for token, rank in table["model"]["vocab"].items()
            if token not in added
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a byte-level tokenizer ({error!r})") from None
    tokenizer = Tokenizer(ranks, pattern)
    if added != tokenizer.special_ids:
        raise ValueError(f"{path} has the special tokens {added}; ours need {tokenizer.special_ids}")
    return tokenizer


def _pattern(pre_tokenizer: dict[str, Any]) -> str:
    """The regular expression of a Split before a ByteLevel step."""
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    if [step["type"] for step in steps] != ["Split", "ByteLevel"]:
        raise ValueError("its tokenizer does not split by one pattern, as byte-level BPE of ours does")
    return steps[0]["pattern"]["Regex"]


def _bytes_of_characters() -> dict[str, int]:
    """GPT-2's table: the printable character that stands for each byte in a vocabulary, and its byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}
