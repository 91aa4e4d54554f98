"""`python -m nanochat.recipes.showcase RUN`: ask a model a few questions and record the answers.

The answers go into the run's metrics, for the report and the recipe's closing message.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nanochat.console import say, table
from nanochat.metric_sinks import DUMMY
from nanochat.metrics import open_metrics, rows_of
from nanochat.metrics_rows import SampleRow
from nanochat.paths import Paths

STAGE = "showcase"
QUESTIONS = (
    "What is the capital of France?",
    "What is 47 times 36?",
    "How many times does the letter r appear in strawberry?",
    "Which planet is closest to the Sun?",
    "What is the opposite of hot?",
    "Who are you?",
)
MAX_NEW_TOKENS = 96


def ask(run: str, questions: Sequence[str] = QUESTIONS) -> list[tuple[str, str]]:
    """Ask the newest checkpoint of a run, decoding greedily; record and return (question, answer) pairs."""
    from nanochat.checkpoint.loading import load_model
    from nanochat.infer.engine import Engine
    from nanochat.infer.sampler import SamplingParams
    from nanochat.runtime import open_runtime
    from nanochat.tokenizer.chat_format import bracketed, parse_reply, render_prompt

    with open_runtime() as runtime:
        loaded = load_model(run, runtime)
        tokenizer = loaded.tokenizer
        engine = Engine(loaded.model, tokenizer, max_rows=len(questions))
        prompts = [
            render_prompt(tokenizer, [{"role": "user", "content": question}]) for question in questions
        ]
        params = SamplingParams(temperature=0.0, max_new_tokens=MAX_NEW_TOKENS)
        completions = engine.generate(prompts, params)
        answers = [bracketed(parse_reply(tokenizer, completion.ids)).strip() for completion in completions]
        pairs = list(zip(questions, answers, strict=True))
        path = runtime.paths.metrics(run)
        with open_metrics(
            path, STAGE, wandb_run=DUMMY, config=None, enabled=runtime.is_main, resume=True
        ) as metrics:
            for question, answer in pairs:
                metrics.log(SampleRow(loaded.step, question, answer))
    return pairs


def recorded(paths: Paths, run: str) -> list[tuple[str, str]]:
    """The newest answers of a run, as (question, answer) pairs."""
    rows = rows_of(paths.metrics(run), SampleRow, STAGE)
    return list({row.prompt: row.text for row in rows}.items())


def show(pairs: Sequence[tuple[str, str]]) -> None:
    """Print the answers as a table, with tool calls in brackets."""
    table("what it answers", ("question", "answer"), pairs)


if __name__ == "__main__":
    say(f"{len(ask(sys.argv[1]))} questions answered")
