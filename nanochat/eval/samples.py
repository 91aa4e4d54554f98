"""Samples: a few continuations to read, which reveal a broken model faster than any number."""

from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.infer.engine import Engine
from nanochat.infer.sampler import SamplingParams
from nanochat.tokenizer.tokenizer import Tokenizer

PROMPTS = (
    "The largest city of Norway is",
    "Water is made of hydrogen and",
    "The day after Tuesday is",
    "Twelve plus thirty is",
    "A young dog is called a",
    "Early one morning the fisherman went down to the harbour and",
)
"""Prompts for a base model to continue."""

GREEDY = SamplingParams(temperature=0.0, max_new_tokens=32)


@dataclass(frozen=True)
class Sample:
    """`text` is what the model added to `prompt`."""

    prompt: str
    text: str


@dataclass(frozen=True)
class SampleTexts:
    """The continuations of one model."""

    texts: tuple[Sample, ...]


def sample(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Sequence[str] = PROMPTS,
    params: SamplingParams = GREEDY,
) -> list[Sample]:
    """Continue each prompt as the start of a document; prompts that are too long are truncated from the left."""
    room = engine.max_seq_len - 2  # one token for BOS, one for the answer
    starts = [[tokenizer.bos, *tokenizer.encode(prompt)[-room:]] for prompt in prompts]
    completions = engine.generate(starts, params)
    return [Sample(prompt, completion.text) for prompt, completion in zip(prompts, completions, strict=True)]
