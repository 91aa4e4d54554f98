"""The generated text is what its content version says, byte for byte, on every machine."""

from collections.abc import Iterable
from hashlib import sha256
from itertools import islice

import pytest

from nanochat.builtin import CONTENT_VERSION, SIZES, conversations, documents, evaluation, val_documents
from nanochat.builtin.dialogues import COUNTS

# A version's digests are never changed: other text is another version, and another row.
DIGESTS: dict[int, dict[str, str]] = {
    1: {
        "documents small": "ee90d6efb27862cb",
        "documents medium": "1b1497f81097a70f",
        "documents large": "2fe95918efb4a60d",
        "validation documents": "6d5466c93ce8bf0e",
        "conversations": "dbfb24aaaf58e26b",
        "evaluation": "5780ffa6998f0dbb",
        "sizes": "0b9446c3cf014b8f",
    },
    2: {
        "documents small": "ee90d6efb27862cb",
        "documents medium": "1b1497f81097a70f",
        "documents large": "2fe95918efb4a60d",
        "validation documents": "6d5466c93ce8bf0e",
        "conversations": "e7f71a6041439732",
        "evaluation": "db2c3de02f37dd17",
        "sizes": "172d45bb96793fbb",
    },
    3: {
        "documents small": "ee90d6efb27862cb",
        "documents medium": "1b1497f81097a70f",
        "documents large": "2fe95918efb4a60d",
        "validation documents": "6d5466c93ce8bf0e",
        "conversations": "20e610fb6e3ac8df",
        "evaluation": "db2c3de02f37dd17",
        "sizes": "172d45bb96793fbb",
    },
    4: {
        "documents small": "ee90d6efb27862cb",
        "documents medium": "1b1497f81097a70f",
        "documents large": "2fe95918efb4a60d",
        "validation documents": "6d5466c93ce8bf0e",
        "conversations": "9339022ac4b2ecab",
        "evaluation": "db2c3de02f37dd17",
        "sizes": "172d45bb96793fbb",
    },
    5: {
        "documents small": "f0d3aa08816ff95f",
        "documents medium": "954c42b397f35920",
        "documents large": "8094335e19504d93",
        "validation documents": "3f2a6e2262cfd0dc",
        "conversations": "d6aeaf36c4006837",
        "evaluation": "29e0351d2ee11123",
        "sizes": "172d45bb96793fbb",
    },
}


def digest(values: Iterable[object]) -> str:
    return sha256("\n".join(map(repr, values)).encode()).hexdigest()[:16]


@pytest.mark.slow
def test_a_text_that_changes_is_another_content_version() -> None:
    found = {f"documents {size}": digest(islice(documents(size, 0), 300)) for size in SIZES}
    found["validation documents"] = digest(islice(val_documents("small", 3), 30))
    found["conversations"] = digest(conversations("small", 0, "val"))
    questions = {
        name: [(item.history, item.prompt, item.answer, item.others, item.choices) for item in items]
        for name, items in evaluation(0).items()
    }
    found["evaluation"] = digest(sorted(questions.items()))
    found["sizes"] = digest([*SIZES.items(), *COUNTS.items()])
    assert found == DIGESTS.get(CONTENT_VERSION), (
        "raise builtin.CONTENT_VERSION and record these digests for it"
    )


def test_every_version_has_a_text_of_its_own() -> None:
    assert max(DIGESTS) == CONTENT_VERSION
    assert len({tuple(parts.items()) for parts in DIGESTS.values()}) == len(DIGESTS)
