"""What a model says: a few continuations to read, because no single number shows a broken model as fast."""

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
"""Beginnings for a base model to go on from."""

GREEDY = SamplingParams(temperature=0.0, max_new_tokens=32)


@dataclass(frozen=True)
class Sample:
    """`text` is what the model added to `prompt`, up to its first special token."""

    prompt: str
    text: str


def sample(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Sequence[str] = PROMPTS,
    params: SamplingParams = GREEDY,
) -> list[Sample]:
    """Continue each prompt as the beginning of a document."""
    ordinary = tokenizer.token_bytes() > 0
    completions = engine.generate([[tokenizer.bos, *tokenizer.encode(prompt)] for prompt in prompts], params)
    samples = []
    for prompt, completion in zip(prompts, completions, strict=True):
        ids = list(completion.ids)
        end = next((i for i, token in enumerate(ids) if not ordinary[token]), len(ids))
        samples.append(Sample(prompt, tokenizer.decode(ids[:end])))
    return samples
