"""The stage `data identity`: conversations that teach a model who it is, from a persona."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from random import Random
from shlex import quote

from nanochat.atomic import write_text_atomic
from nanochat.config import json_line
from nanochat.console import say
from nanochat.hub.listing import is_http
from nanochat.paths import Paths
from nanochat.persona.conversations import draw
from nanochat.persona.endpoint import Endpoint, vary
from nanochat.persona.persona import OURS, load_persona

API_KEY = "OPENAI_API_KEY"


@dataclass(frozen=True)
class IdentityConfig:
    """Write conversations in which the model says who it is; train on them with --mixture nameless+identity."""

    persona: Path = OURS
    """TOML file with name, kind, maker, origin, traits, languages, abilities and limits; default: nanochat's own."""
    out: Path | None = None
    """The .jsonl to write; default: identity_conversations.jsonl, which the mixture's `identity` reads, and with it
    the persona that the evaluation's `identity` asks for."""
    conversations: int = 1000
    seed: int = 0
    api_base: str | None = None
    """Address of an OpenAI-compatible endpoint, such as http://localhost:8000/v1, that rewords questions and replies.
    Its key, if it needs one, is read from OPENAI_API_KEY."""
    model: str | None = None
    """The endpoint's model."""


@dataclass(frozen=True)
class IdentityResult:
    """What was written; of the texts that the endpoint wrote, how many were usable."""

    out: Path
    name: str
    conversations: int
    turns: int
    written_by_endpoint: int
    kept: int


def run_identity(config: IdentityConfig, paths: Paths) -> IdentityResult:
    """Write the conversations. Raises ValueError for an unusable persona, EnvironmentFault if the endpoint fails."""
    if config.conversations < 2 or config.seed < 0:
        raise ValueError("--conversations must be at least 2 and --seed at least 0")
    if (config.api_base is None) != (config.model is None):
        raise ValueError("--api-base and --model belong together: give both or neither")
    if config.api_base is not None and not is_http(config.api_base):
        raise ValueError(
            f"--api-base must be an address like http://localhost:8000/v1, not {config.api_base!r}"
        )
    persona = load_persona(config.persona)
    drawn = [
        draw(Random(f"identity/{config.seed}/{index}"), persona) for index in range(config.conversations)
    ]
    written = kept = 0
    if config.api_base is not None and config.model is not None:
        varied = vary(drawn, persona, Endpoint(config.api_base, config.model, os.environ.get(API_KEY, "")))
        drawn, written, kept = varied.conversations, varied.written, varied.kept
        say(
            f"{config.model}: {kept:,} of {written:,} texts usable; the others stay as they were written offline"
        )
    lines = []
    for turns in drawn:
        messages = []
        for question, reply, _ in turns:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
        lines.append(json_line({"messages": messages}))
    out = config.out or paths.identity
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(out, "\n".join(lines) + "\n")
    say(f"{len(drawn):,} conversations with {persona.name} in {out}")
    if out.resolve() == paths.identity.resolve():
        write_text_atomic(paths.persona, json_line(persona))
        say(
            "train on them: nanochat sft --mixture nameless+identity*2; measure: nanochat eval chat --suite identity"
        )
    else:
        say(
            f"train on them: nanochat sft --mixture {quote(f'nameless+{out}*2')}; "
            "eval chat --suite identity still asks for the previous persona, which only the default --out replaces"
        )
    return IdentityResult(out, persona.name, len(drawn), sum(map(len, drawn)), written, kept)
