"""The embedded dataset: a small world in plain English, generated on demand.

The world is a set of true facts (`geography`, `nature`, `everyday`, `lexicon`) and of things to say about
them (`wordings_*`, `arithmetic`, `letters`, `stories`, `copying`, `talk`). From it come

- `documents` and `val_documents`, texts for pretraining;
- `conversations`, chats for SFT, with calls of the Python tool;
- `evaluation`, questions with checkable answers.

Everything is a pure function of (size, seed), the same on every machine: generators are `random.Random` seeded
by strings, and nothing depends on Python's `hash`.

**Hold-out.** An evaluation item is a combination that no training text contains, of parts that training
teaches: a fact with a wording, two numbers with an operation, a word with a letter, an identity question with an
opening. `holdout` decides by a stable hash, so no seed ever trains on what another evaluates. In
`builtin-facts-novel` the whole wording is unknown to training.

**To extend the world** add a row to a table, or a `Relation` to a `wordings_*` module: statements, questions,
conversations and evaluation items follow. Only facts with one true answer belong in it.
"""

from nanochat.builtin.dialogues import conversations
from nanochat.builtin.documents import SIZES, documents, val_documents
from nanochat.builtin.evaluation import EvalItem, evaluation

__all__ = ["SIZES", "EvalItem", "conversations", "documents", "evaluation", "val_documents"]
