"""The embedded dataset: a small world in plain English, generated on demand.

The world is a set of true facts (`geography`, `nature`, `everyday`, `lexicon`) and of ways to write about them
(`wordings_*`, `arithmetic`, `letters`, `stories`, `copying`, `talk`). It generates

- `documents` and `val_documents`: text for pretraining;
- `conversations`: chats for SFT, with calls of the Python tool;
- `evaluation`: questions with checkable answers.

Everything is a pure function of (size, seed), the same on every machine: generators are `random.Random` seeded
by strings, and nothing depends on Python's `hash`.

**Hold-out.** An evaluation item combines parts that training teaches, in a combination that no training text
contains: a fact with a wording, two numbers with an operation, a word with a letter, an identity question with an
opening. `holdout` decides by a stable hash, so no seed ever trains on what another evaluates. In
`builtin-facts-novel` the wording itself never occurs in training.

**To extend the world** add a row to a table, or a `Relation` to a `wordings_*` module: statements, questions,
conversations and evaluation items follow. A second true answer goes into `equivalents`. Then raise `CONTENT_VERSION`
and record the new text's digests in tests/builtin/test_content_version.py.
"""

from nanochat.builtin.dialogues import conversations
from nanochat.builtin.documents import SIZES, documents, val_documents
from nanochat.builtin.evaluation import evaluation
from nanochat.builtin.exercises import EXERCISES, Exercise

CONTENT_VERSION = 5
"""Raised whenever a generated text changes: datasets on disk made by another version are made again."""

__all__ = [
    "CONTENT_VERSION",
    "EXERCISES",
    "SIZES",
    "Exercise",
    "conversations",
    "documents",
    "evaluation",
    "val_documents",
]
