"""A persona's file, its conversations, and the questions held out of them."""

from pathlib import Path
from random import Random

import pytest

from nanochat.persona.conversations import HELD_OUT_QUESTIONS, draw, held_out_questions, is_held_out
from nanochat.persona.persona import OURS, Persona, listed, load_persona
from nanochat.persona.topics import TOPICS
from nanochat.tasks.checks import contains_phrase

SOMEBODY = Persona(
    name="Tamsin", kind="a helper for gardeners", maker="the Willow Lane school", origin="in spring",
    traits=("patient",), languages=("English", "Welsh"), abilities=("talk", "listen", "wait"), limits=("walk", "run"),
)  # fmt: skip


def drawn(count: int) -> list[list[tuple[str, str, object]]]:
    return [draw(Random(str(index)), SOMEBODY) for index in range(count)]


def test_the_persona_that_ships_is_nanochat() -> None:
    assert load_persona(OURS).name == "nanochat"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, "no persona at"),
        ("name = ", "does not describe a persona"),
        ('name = "x"', "kind"),
        ("", "name"),
        (OURS.read_text().replace('name = "nanochat"', 'name = " "'), "name must say something"),
        (OURS.read_text().replace('name = "nanochat"', f'name = "{"x" * 201}"'), "longer than 200"),
        (OURS.read_text().replace('["English"]', "[]"), "languages must say something"),
        (OURS.read_text() + 'nmae = "x"\n', "nmae"),
        (OURS.read_text().replace('["English"]', '"English"'), "languages"),
    ],
)
def test_a_faulty_persona_is_one_clear_line(tmp_path: Path, text: str | None, line: str) -> None:
    path = tmp_path / "persona.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        load_persona(path)
    assert line in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("phrases", "text"), [(("a",), "a"), (("a", "b"), "a and b"), (("a", "b", "c"), "a, b and c")]
)
def test_phrases_as_a_list(phrases: tuple[str, ...], text: str) -> None:
    assert listed(phrases) == text


def test_every_reply_to_a_held_out_kind_of_question_has_its_key() -> None:
    for topic in TOPICS:
        for reply in topic.replies:
            text = SOMEBODY.fill(reply)
            assert "{" not in text
            assert topic.key is None or contains_phrase(text, getattr(SOMEBODY, topic.key))


def test_held_out_questions_are_in_no_conversation() -> None:
    asked = {question.casefold() for turns in drawn(4000) for question, _, _ in turns}
    held_out = held_out_questions()
    assert len({each.question for each in held_out}) == len(held_out) == HELD_OUT_QUESTIONS
    assert held_out == held_out_questions()
    assert not asked & {each.question.casefold() for each in held_out}
    assert not any(is_held_out(question) for question in asked)
    assert len(asked) > 1000
    cores = {core for topic in TOPICS for core in topic.cores}
    assert sum(each.question in asked or each.question in cores for each in held_out) == 0


def test_conversations_are_diverse_and_say_every_fact() -> None:
    turns = [turn for conversation in drawn(500) for turn in conversation]
    said = {reply for _, reply, _ in turns}
    for fact in ("Tamsin", "a helper for gardeners", "the Willow Lane school", "in spring", "patient",
                 "English and Welsh", "talk, listen and wait", "walk or run"):  # fmt: skip
        assert any(fact.casefold() in reply.casefold() for reply in said), fact
    assert len(said) > 20
    assert {len(conversation) for conversation in drawn(500)} >= {1, 2, 3}
