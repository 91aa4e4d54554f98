"""Who a model is: a TOML file of a few facts."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from nanochat.config import from_json
from nanochat.errors import first_line

OURS = Path(__file__).with_name("nanochat.toml")
"""The persona that ships: nanochat itself, and an example to copy."""

_MOST = 200
"""Characters of a field: replies are sentences, not pages."""


@dataclass(frozen=True)
class Persona:
    """The fields complete sentences: "I am {name}, {kind}. I was made by {maker}, {origin}. I can {abilities}."."""

    name: str
    kind: str
    maker: str
    origin: str
    traits: tuple[str, ...]
    languages: tuple[str, ...]
    abilities: tuple[str, ...]
    limits: tuple[str, ...]

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            phrases = [value] if isinstance(value, str) else list(value)
            if not phrases or not all(phrase.strip() and "\n" not in phrase for phrase in phrases):
                raise ValueError(f"{field.name} must say something, in one line each")
            if any(len(phrase) > _MOST for phrase in phrases):
                raise ValueError(f"{field.name} is longer than {_MOST} characters")

    def fill(self, template: str) -> str:
        """The template with the persona's facts, capitalised."""
        text = template.format(
            name=self.name,
            kind=self.kind,
            maker=self.maker,
            origin=self.origin,
            traits=listed(self.traits),
            languages=listed(self.languages),
            abilities=listed(self.abilities),
            limits=listed(self.limits, "or"),
        )
        return text if text.startswith(self.name) else text[0].upper() + text[1:]


def listed(phrases: tuple[str, ...], word: str = "and") -> str:
    """Phrases as a list in a sentence."""
    return f" {word} ".join([", ".join(phrases[:-1]), phrases[-1]]) if len(phrases) > 1 else phrases[0]


def load_persona(path: Path) -> Persona:
    """The persona of a TOML file. Raises ValueError for a file that is missing or does not describe one."""
    if not path.is_file():
        raise ValueError(f"no persona at {path}: copy {OURS} and change it")
    try:
        return from_json(Persona, tomllib.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:  # also for malformed TOML and UTF-8
        line = first_line(error)
        raise ValueError(f"{path} does not describe a persona: {line} (compare {OURS})") from error
