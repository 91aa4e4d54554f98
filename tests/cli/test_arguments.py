"""`none` on the command line."""

import pytest

from nanochat.cli.main import parse_command


@pytest.mark.parametrize("typed", ["none", "None", "NONE"])
def test_none_in_any_case_empties_a_flag_that_can_be_empty(typed: str) -> None:
    for words in (["--top-k", typed], [f"--top-k={typed}"]):
        assert parse_command(["chat", *words]).top_k is None
    assert parse_command(["pretrain", "--regime", typed, "--depth", typed]).depth is None


@pytest.mark.parametrize("typed", ["none", "None"])
def test_a_choice_of_that_name_is_the_choice(typed: str) -> None:
    config = parse_command(["rl", f"--baseline={typed}", "--scale", typed])
    assert (config.baseline, config.scale) == ("none", "none")


def test_in_texts_it_is_a_word() -> None:
    config = parse_command(["chat", "-p", "none", "--model-tag", "none", "--system", "NONE"])
    assert (config.prompt, config.model_tag, config.system) == ("none", "none", "NONE")


def test_a_flag_that_cannot_be_empty_refuses_it() -> None:
    with pytest.raises(ValueError, match="--top-p must be a number, not 'none'"):
        parse_command(["chat", "--top-p", "none"])
