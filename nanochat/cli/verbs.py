"""Every verb of the command line and where its stage lives; names only, so that help loads nothing heavy."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Verb:
    """A stage: `module.function(config, runtime or paths) -> result`, where config is a `module.config`.

    A stage that needs the "runtime" has `device` and `dtype` in its config; the others get the "paths" only.
    """

    help: str
    module: str
    config: str
    function: str = "run"
    needs: Literal["runtime", "paths"] = "paths"


GROUPS: dict[str, str] = {
    "data": "get text and look at it",
    "tokenizer": "text to tokens",
    "eval": "how good a model is",
    "report": "what a run has done",
}

VERBS: dict[tuple[str, ...], Verb] = {
    ("doctor",): Verb(
        "what this machine has, what will be used and why, what is missing",
        "nanochat.cli.doctor",
        "DoctorConfig",
    ),
    ("plan",): Verb(
        "everything --depth decides: sizes, rates, horizon, memory, hours; trains nothing",
        "nanochat.train.plan",
        "PlanConfig",
        needs="runtime",
    ),
    ("data", "download"): Verb(
        "fetch shards of a hub dataset, resumed and checked", "nanochat.text.download", "DownloadConfig"
    ),
    ("data", "tokens"): Verb(
        "tokenise a dataset into the cache ahead of training",
        "nanochat.cli.data",
        "TokensConfig",
        "run_tokens",
    ),
    ("data", "pack"): Verb(
        "make shuffled shards of one's own text", "nanochat.cli.data", "PackConfig", "run_pack"
    ),
    ("data", "info"): Verb("count what a dataset holds", "nanochat.cli.data", "InfoConfig", "run_info"),
    ("tokenizer", "train"): Verb(
        "learn a vocabulary from a dataset", "nanochat.train.vocabulary", "TokenizerTrainConfig"
    ),
    ("tokenizer", "eval"): Verb(
        "bytes per token by domain, beside known tokenizers",
        "nanochat.eval.compression",
        "TokenizerEvalConfig",
    ),
    ("pretrain",): Verb(
        "train a base model of the given --depth",
        "nanochat.train.pretrain",
        "PretrainConfig",
        needs="runtime",
    ),
    ("sft",): Verb("teach a base model to converse", "nanochat.train.sft", "SftConfig", needs="runtime"),
    ("eval", "base"): Verb(
        "bits per byte, CORE and samples of a base model",
        "nanochat.eval.base_model",
        "EvalBaseConfig",
        needs="runtime",
    ),
    ("eval", "chat"): Verb(
        "tasks answered by a chat model", "nanochat.eval.chat_model", "EvalChatConfig", needs="runtime"
    ),
    ("chat",): Verb(
        "talk to a model, or ask it once with -p", "nanochat.cli.chat", "ChatConfig", needs="runtime"
    ),
    ("report", "reset"): Verb("begin a new report", "nanochat.report.generate", "ResetConfig", "run_reset"),
    ("report", "generate"): Verb(
        "write the report of what the runs left", "nanochat.report.generate", "GenerateConfig", "run_generate"
    ),
    ("run",): Verb(
        "a whole recipe (quickstart, cpu, speedrun); goes on where it was broken off",
        "nanochat.recipes.run",
        "RunConfig",
    ),
}
