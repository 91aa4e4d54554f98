"""Documents, conversations and evaluation: reproducible, well-formed, and disjoint."""

import re
from itertools import islice
from random import Random

import pytest

from nanochat.builtin import conversations, documents, evaluation, val_documents
from nanochat.builtin.documents import SIZES
from nanochat.builtin.exercises import follow_up_exercise
from nanochat.builtin.holdout import held_out_letter, held_out_sum
from nanochat.builtin.talk import ORIGIN
from nanochat.builtin.world import relations
from nanochat.sandbox.calculator import evaluate

pytestmark = pytest.mark.slow

SEEDS = (0, 1, 7)
_OPERATORS = {
    "+": "+", "plus": "+", "-": "-", "minus": "-", "*": "*", "x": "*", "×": "*", "times": "*",
    "/": "/", "÷": "/", "divided by": "/",
}  # fmt: skip
_SUM = re.compile(r"(?<![\d-])(\d+) ?(\+|-|\*|x|×|/|÷|plus|minus|times|divided by) ?(\d+)")
_LETTER_COUNTS = (
    re.compile(r'"(?P<w>[a-z]+)"\.count\("(?P<l>[a-z])"\)'),
    re.compile(r'[Tt]he letter (?P<l>[a-z]) occurs \d+ times? in "(?P<w>[a-z]+)"'),
)


@pytest.fixture(scope="module")
def train_documents():
    return list(documents("small", 0))


@pytest.fixture(scope="module")
def train_conversations():
    return conversations("small", 0)


@pytest.fixture(scope="module")
def items():
    return {seed: evaluation(seed) for seed in SEEDS}


def texts(conversation):
    """Every text of a conversation, as (role or part type, text)."""
    for message in conversation["messages"]:
        if isinstance(message["content"], str):
            yield message["role"], message["content"]
        else:
            yield from ((part["type"], part["text"]) for part in message["content"])


def test_seeds_and_sizes_differ():
    firsts = {tuple(islice(documents(size, seed), 3)) for size in SIZES for seed in (0, 1)}
    assert len(firsts) == 6


def test_size_of_small(train_documents, train_conversations):
    assert 10e6 < sum(map(len, train_documents)) < 12e6
    assert len(train_conversations) == 23_000


def test_validation_documents_are_disjoint_and_enough(train_documents):
    held = list(val_documents("small", 0))
    other_seed = set(val_documents("small", 5))
    assert sum(map(len, held)) >= 200_000
    assert not set(train_documents) & {*held, *other_seed}


@pytest.mark.parametrize("call", [documents, val_documents])
def test_unknown_size(call):
    with pytest.raises(ValueError, match="small, medium, large"):
        next(call("huge", 0))


def test_unknown_size_or_split_of_conversations():
    with pytest.raises(ValueError, match="small, medium, large"):
        conversations("huge")
    with pytest.raises(ValueError, match="train or val"):
        conversations("small", 0, "test")


@pytest.mark.parametrize("split", ["train", "val"])
def test_conversations_are_well_formed_and_tools_agree_with_the_calculator(split):
    for conversation in conversations("small", 0, split):
        roles = [message["role"] for message in conversation["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        for message in conversation["messages"]:
            if message["role"] == "user":
                assert isinstance(message["content"], str)
            elif not isinstance(message["content"], str):
                code, output, answer = message["content"]
                assert [code["type"], output["type"], answer["type"]] == ["python", "python_output", "text"]
                assert evaluate(code["text"]) == output["text"]
                assert output["text"] in answer["text"]
        assert all(text for _, text in texts(conversation))


def held_out_sums(text):
    for a, sign, b in _SUM.findall(text):
        if held_out_sum(int(a), _OPERATORS[sign], int(b)):
            yield a, sign, b


def held_out_counts(text):
    for pattern in _LETTER_COUNTS:
        for match in pattern.finditer(text):
            if held_out_letter(match["w"], match["l"]):
                yield match["w"], match["l"]


def test_no_held_out_sum_or_letter_count_in_training(train_documents, train_conversations):
    spoken = (text for c in train_conversations for role, text in texts(c))
    for text in (*train_documents, *spoken):
        assert not list(held_out_sums(text)), text
        assert not list(held_out_counts(text)), text


def test_the_leak_search_finds_held_out_items(items):
    for item in items[0]["builtin-arithmetic"]:
        a, op, b = (item.meta[key] for key in ("a", "op", "b"))
        assert list(held_out_sums(f"We know that {a} {op} {b} = {item.answer}."))
    for item in items[0]["builtin-letters"]:
        word, letter = item.meta["word"], item.meta["letter"]
        assert list(held_out_counts(f'Type "{word}".count("{letter}") here.'))


def bare(prompt):
    """The prompt in lower case without marks that only punctuate."""
    return re.sub(r"[?.!,:'\"]", "", prompt.casefold()).strip()


def test_no_evaluation_prompt_in_training_conversations(items, train_conversations):
    asked = {bare(text) for c in train_conversations for role, text in texts(c) if role == "user"}
    for tasks in items.values():
        for task, questions in tasks.items():
            if task != "builtin-follow-ups":  # "And Italy?" follows many questions
                leaked = [item.prompt for item in questions if bare(item.prompt) in asked]
                assert not leaked, (task, leaked)


def test_no_held_out_follow_up_in_training_conversations(items, train_conversations):
    """Question and reply together tell a combination: the reply names fact and relation, the question the wording."""
    pairs = {
        (question["content"].casefold(), str(reply["content"]))
        for c in train_conversations
        for question, reply in zip(c["messages"][::2], c["messages"][1::2], strict=True)
    }
    held_out = {
        (item.prompt.casefold(), item.reply) for seed in SEEDS for item in items[seed]["builtin-follow-ups"]
    }
    assert not held_out & pairs
    rng = Random(0)
    taught = [follow_up_exercise(rng, False) for _ in range(3000)]
    assert (
        sum((item.prompt.casefold(), item.reply) in pairs for item in taught) > 400
    )  # the search does find them


def questions_of(items, *tasks):
    """The question without its opening for every fact item."""
    by_name = {r.name: r for r in relations()}
    for seed in SEEDS:
        for task in tasks:
            for item in items[seed][task]:
                r = by_name[item.meta["relation"]]
                fact = next(fact for fact in r.facts if fact.subject == item.meta["subject"])
                yield r, fact, item.meta["core"]


FACT_TASKS = ("builtin-facts", "builtin-facts-novel", "builtin-choice")


def test_no_held_out_question_in_training_text(items, train_documents, train_conversations):
    """Also not with another opening, inside a choice question, or in a dialogue of the documents."""
    held_out = {fact.fill(core).casefold() for _, fact, core in questions_of(items, *FACT_TASKS)}
    pieces = set()
    for text in (text for c in train_conversations for role, text in texts(c) if role == "user"):
        question = text.split("\n")[0].casefold()
        pieces.update({question, *(question[m.end() :] for m in re.finditer(r"[!?:,.] ", question))})
    for text in train_documents:
        pieces.update(text.casefold().split("\n"))
        pieces.update(match.casefold() for match in re.findall(r'(?:: |")([^"?]*\?|[^".]*\.)', text))
    assert not held_out & pieces
    taught = {fact.fill(core).casefold() for r in relations() for fact in r.facts for core in r.cores}
    assert len(taught & pieces) > 5000  # the search does find questions


def test_every_held_out_fact_is_taught_and_its_wording_taught_with_other_facts(
    items, train_documents, train_conversations
):
    corpus = "\n".join(train_documents)
    asked = "\n".join(
        text for c in train_conversations for role, text in texts(c) if role == "user"
    ).casefold()
    for r, fact, core in questions_of(items, "builtin-facts"):
        assert any(fact.fill(statement) in corpus for statement in r.statements), fact
        others = (other.fill(core).casefold() for other in r.facts if other != fact)
        assert any(question in asked for question in others), core


def test_novel_wordings_occur_nowhere_in_training(train_documents, train_conversations):
    asked = {text for c in train_conversations for role, text in texts(c) if role == "user"}
    for r in relations():
        for core in r.novel:
            pattern = re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(core)), re.IGNORECASE)
            assert not any(pattern.search(text) for text in asked), core


def test_novel_origin_wordings_occur_nowhere_in_training(train_conversations):
    asked = "\n".join(
        text for c in train_conversations for role, text in texts(c) if role == "user"
    ).casefold()
    for wording in ORIGIN.novel:
        assert wording.casefold() not in asked
    assert sum(wording.casefold() in asked for wording in ORIGIN.cores) > 0.9 * len(ORIGIN.cores)


def test_evaluation_items(items):
    for tasks in items.values():
        assert set(tasks) == {
            f"builtin-{name}"
            for name in (
                "facts", "facts-novel", "follow-ups", "arithmetic", "letters", "spelling", "identity", "origin",
                "refusal", "choice",
            )
        }  # fmt: skip
        for questions in tasks.values():
            asked = {(*(question for question, _ in item.history), item.prompt) for item in questions}
            assert len(asked) == len(questions)
            assert 150 <= len(questions) <= 250
        for item in tasks["builtin-arithmetic"]:
            assert item.answer == evaluate("{a}{op}{b}".format(**item.meta))
        for item in tasks["builtin-letters"]:
            assert int(item.answer) == item.meta["word"].count(item.meta["letter"])
        for item in tasks["builtin-facts"]:
            assert item.answer not in item.others
        for item in tasks["builtin-choice"]:
            assert item.choices == ("A", "B", "C", "D")
            assert item.answer in item.choices


def test_double_quotes_keep_the_tokens_of_words_apart(train_documents):
    """In documents a double quote follows a space, so that no tokenizer learns to join it to a word."""
    text = "\n".join(train_documents[:2000])
    assert not re.search(r'(?<![\s\w.?!,(])"[a-z]{2}', text)
