import pytest

from nanochat.prepare.quality import RULES, failed_rule

PROSE = "\n".join(f"This is line {word} of a plain text about nothing at all." for word in "abcdefgh")

BROKEN = {
    "words": "Too short.",
    "placeholder": PROSE + "\nLorem ipsum dolor sit amet.",
    "word-length": " ".join(f"{letter}{'x' * 30}" for letter in "abcdefghijklmnopqrstuvwxyz" * 2),
    "symbols": "\n".join(f"{line} # ## ###" for line in PROSE.splitlines()),
    "bullets": "\n".join(f"- {line}" for line in PROSE.splitlines()),
    "ellipses": "\n".join(f"{line}.." for line in PROSE.splitlines()),
    "repeated-lines": PROSE + "\na" * 8,
    "repeated-characters": "\n".join(f"{index} is a number" for index in range(60)) + ("\n" + PROSE) * 2,
    "alphabetic": PROSE + " 100 200" * 20,
}


def test_plain_prose_passes() -> None:
    assert failed_rule(PROSE) is None


def test_every_rule_has_an_example() -> None:
    assert BROKEN.keys() == RULES.keys()


@pytest.mark.parametrize("name", RULES)
def test_a_text_that_breaks_one_rule_passes_without_it(name: str) -> None:
    assert failed_rule(BROKEN[name]) == name
    assert failed_rule(BROKEN[name], [rule for rule in RULES if rule != name]) is None


def test_an_empty_text_has_figures() -> None:
    assert (
        failed_rule("", [rule for rule in RULES if rule not in ("words", "word-length", "alphabetic")])
        is None
    )
    assert failed_rule("\n\n", ["alphabetic"]) == "alphabetic"
