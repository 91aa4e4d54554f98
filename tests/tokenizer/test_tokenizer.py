"""Encoding, decoding, specials, files."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat.errors import EnvironmentFault
from nanochat.tokenizer.special import SPECIAL_TOKENS
from nanochat.tokenizer.tokenizer import Tokenizer, _hash, load_tokenizer, parse_ranks

# Any text, with the names of special tokens and odd blanks mixed in.
TEXTS = st.lists(
    st.one_of(
        st.text(), st.sampled_from(SPECIAL_TOKENS), st.sampled_from(["\r\n", " \u00a0", "\x1c", "\u0301"])
    )
).map("".join)


@given(text=TEXTS)
@settings(deadline=None)
def test_decode_undoes_encode(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.token_bytes()[ids].sum() == len(text.encode())


@given(text=TEXTS)
@settings(deadline=None)
def test_ordinary_text_never_gives_a_special_token(tokenizer: Tokenizer, text: str) -> None:
    assert all(token < tokenizer.vocab_size - len(SPECIAL_TOKENS) for token in tokenizer.encode(text))


@given(texts=st.lists(TEXTS, max_size=8), threads=st.integers(1, 3))
@settings(deadline=None, max_examples=30)
def test_a_batch_is_encoded_as_its_texts(tokenizer: Tokenizer, texts: list[str], threads: int) -> None:
    assert tokenizer.encode_batch(texts, threads) == [tokenizer.encode(text) for text in texts]


@given(text=TEXTS)
@settings(deadline=None)
def test_an_array_holds_what_the_list_does(tokenizer: Tokenizer, text: str) -> None:
    array = tokenizer.encode_array(text)
    assert array.dtype == np.uint32
    assert array.tolist() == tokenizer.encode(text)


def test_the_specials_are_the_last_nine_ids(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.special(name) for name in SPECIAL_TOKENS]
    assert tokenizer.special_ids == dict(zip(SPECIAL_TOKENS, ids, strict=True))
    assert ids == list(range(tokenizer.vocab_size - 9, tokenizer.vocab_size))
    assert ids[0] == tokenizer.bos
    assert [tokenizer.decode([token]) for token in ids] == list(SPECIAL_TOKENS)
    with pytest.raises(ValueError, match=r"<\|end\|>"):
        tokenizer.special("<|end|>")


def test_token_bytes(tokenizer: Tokenizer) -> None:
    lengths = tokenizer.token_bytes()
    assert lengths.dtype == np.int32
    assert lengths.shape == (tokenizer.vocab_size,)
    assert not lengths[-9:].any()
    ordinary = range(tokenizer.vocab_size - 9)
    assert lengths[:-9].tolist() == [len(tokenizer.decode_bytes([token])) for token in ordinary]


def test_a_lone_surrogate_is_read_as_the_replacement_character(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"
    assert tokenizer.decode(tokenizer.encode_array("a\ud800b").tolist()) == "a\ufffdb"


@pytest.mark.parametrize(
    "text", [" " * 1_200_000, "x" + "\t" * 1_200_000 + "\n y", "^" * 1_200_000, "é" * 1_200_000]
)
def test_a_run_that_breaks_the_regex_engine_is_encoded(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("unknown", [-1, 340, 2**40])
def test_an_unknown_id_is_named(tokenizer: Tokenizer, unknown: int) -> None:
    with pytest.raises(ValueError, match=f"id {unknown} is not in this vocabulary of 340"):
        tokenizer.decode([65, unknown])


def same(one: Tokenizer, other: Tokenizer) -> bool:
    text = "Round trip: 123 नमस्ते <|bos|> 😀"
    return (one.hash, one.vocab_size, one.training, one.encode(text)) == (
        other.hash,
        other.vocab_size,
        other.training,
        other.encode(text),
    )


def test_save_and_load(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tokenizer.save(tmp_path / "new" / "folder")
    assert sorted(file.name for file in path.parent.iterdir()) == ["tok340.json", "tok340.tiktoken"]
    assert same(load_tokenizer(path), tokenizer)


def test_saving_where_nothing_can_be_written_is_one_clear_line(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match=r"cannot write .*tok340\.tiktoken"):
        tokenizer.save(tmp_path / "file" / "folder")


def test_pickling_for_worker_processes(tokenizer: Tokenizer) -> None:
    assert same(pickle.loads(pickle.dumps(tokenizer)), tokenizer)


def test_the_hash_names_the_encoding_alone() -> None:
    """The hash is stored in checkpoints and cache folders, so it must never change between versions."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    plain = Tokenizer(ranks, "(?s).")
    assert plain.hash == "a66b3ee9498c3c40"
    assert Tokenizer(ranks, "(?s).", {"documents": 1}).hash == plain.hash
    assert Tokenizer(ranks, "(?s).+").hash != plain.hash
    assert Tokenizer({**ranks, b"ab": 256}, "(?s).").hash != plain.hash


@pytest.mark.parametrize(
    "ranks",
    [{b"a": 0}, {bytes([b]): b for b in range(255)}, {bytes([b]): b + 1 for b in range(256)}],
    ids=["one byte", "a byte missing", "not from 0"],
)
def test_impossible_ranks_are_refused(ranks: dict[bytes, int]) -> None:
    with pytest.raises(ValueError, match=r"256 single bytes|from 0"):
        Tokenizer(ranks, "(?s).")


def corrupt_line(path: Path) -> None:
    path.write_text(path.read_text().replace(" 300\n", " three\n"))


def drop_line(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def swap_ranks(path: Path) -> None:
    path.write_text(
        path.read_text().replace(" 300\n", " x\n").replace(" 301\n", " 300\n").replace(" x\n", " 301\n")
    )


def flip_bytes(path: Path) -> None:
    path.write_bytes(b"\xff" + path.read_bytes()[1:])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def other_pattern(path: Path) -> None:
    about = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(about | {"pattern": "."}))


def broken_pattern(path: Path) -> None:
    about = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(about | {"pattern": "("}))


def torn_json(path: Path) -> None:
    path.with_suffix(".json").write_text("{")


def no_json_object(path: Path) -> None:
    path.with_suffix(".json").write_text("[]")


@pytest.mark.parametrize(
    "damage",
    [
        corrupt_line,
        drop_line,
        swap_ranks,
        flip_bytes,
        truncate,
        other_pattern,
        broken_pattern,
        torn_json,
        no_json_object,
    ],
)
def test_a_damaged_file_is_one_clear_line(tokenizer: Tokenizer, tmp_path: Path, damage) -> None:
    path = tokenizer.save(tmp_path)
    damage(path)
    with pytest.raises(
        ValueError, match=r"damaged tokenizer .*tok340\.tiktoken .*nanochat tokenizer train"
    ) as error:
        load_tokenizer(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        (None, "pattern: expected str, got None"),
        (5, "pattern: expected str, got 5"),
        (["a"], "pattern: expected str"),
        ("", "matches the empty text"),
        ("x*", "matches the empty text"),
        ("(?=a)", "matches the empty text"),
        ("(", "is not a regular expression"),
        (r"\p{Foo}", "is not a regular expression"),
    ],
)
def test_a_pattern_that_cannot_cut_text_is_one_clear_line(
    tokenizer: Tokenizer, tmp_path: Path, capfd: pytest.CaptureFixture[str], pattern: object, says: str
) -> None:
    path = tokenizer.save(tmp_path)
    about = json.loads(path.with_suffix(".json").read_text())
    tokens = sorted(ranks := parse_ranks(path.read_text()), key=ranks.__getitem__)
    stated = _hash(tokens, pattern) if isinstance(pattern, str) else about["hash"]
    path.with_suffix(".json").write_text(json.dumps({**about, "pattern": pattern, "hash": stated}))
    with pytest.raises(ValueError, match=r"damaged tokenizer .*nanochat tokenizer train") as caught:
        load_tokenizer(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "panicked" not in capfd.readouterr().err


def test_a_deeply_nested_json_is_one_clear_line(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tokenizer.save(tmp_path)
    for text in ("[" * 5000, '{"training": ' + "[" * 500 + "]" * 500 + "}"):
        path.with_suffix(".json").write_text(text)
        with pytest.raises(ValueError, match=r"damaged tokenizer .*nested"):
            load_tokenizer(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.data())
def test_a_mutated_json_loads_the_same_or_is_a_value_error(
    tokenizer: Tokenizer, tmp_path: Path, data: st.DataObject
) -> None:
    path = tokenizer.save(tmp_path)
    text = path.with_suffix(".json").read_text()
    about = json.loads(text)
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(text)))
        changed = text[:at] + data.draw(st.text(max_size=3)) + text[at + data.draw(st.integers(0, 3)) :]
    else:
        changed = json.dumps({**about, data.draw(st.sampled_from(list(about))): data.draw(JSON)})
    path.with_suffix(".json").write_text(changed, encoding="utf-8", errors="surrogatepass")
    try:
        loaded = load_tokenizer(path)
    except ValueError:
        return
    assert loaded.hash == tokenizer.hash


@pytest.mark.parametrize("suffix", [".json", ".tiktoken"])
def test_a_missing_file_is_named(tokenizer: Tokenizer, tmp_path: Path, suffix: str) -> None:
    path = tokenizer.save(tmp_path)
    path.with_suffix(suffix).unlink()
    with pytest.raises(ValueError, match=rf"no tokenizer at .*tok340{suffix}: .*nanochat tokenizer train"):
        load_tokenizer(path)
