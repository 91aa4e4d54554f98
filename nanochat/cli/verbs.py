"""The table of verbs: names of modules and functions only, so that `--help` loads nothing heavy."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Verb:
    """A stage: `module.function(config, runtime or paths) -> result`, where config is a `module.config`.

    A stage that needs the "runtime" has `device` and `dtype` in its config; the others receive `Paths`.
    """

    help: str
    module: str
    config: str
    function: str = "run"
    needs: Literal["runtime", "paths"] = "paths"


GROUPS: dict[str, str] = {
    "data": "download, clean, pack and inspect text; write conversations and prompts",
    "tokenizer": "train and compare tokenizers",
    "eval": "measure a model",
    "export": "models for other people's tools",
    "report": "write up what runs did",
}

VERBS: dict[tuple[str, ...], Verb] = {
    ("doctor",): Verb(
        "show what this machine has, what will be used and why, and what is missing",
        "nanochat.cli.doctor",
        "DoctorConfig",
    ),
    ("plan",): Verb(
        "show what --depth decides: sizes, rates, steps, memory, hours; trains nothing",
        "nanochat.train.plan",
        "PlanConfig",
        needs="runtime",
    ),
    ("data", "download"): Verb(
        "download shards of a hub dataset", "nanochat.text.download", "DownloadConfig"
    ),
    ("data", "tokens"): Verb(
        "tokenise a dataset into the token cache before training",
        "nanochat.cli.data",
        "TokensConfig",
        "run_tokens",
    ),
    ("data", "pack"): Verb(
        "pack your own text into shuffled shards", "nanochat.cli.data", "PackConfig", "run_pack"
    ),
    ("data", "prepare"): Verb(
        "filter your own text, drop duplicates, and pack it into shuffled shards",
        "nanochat.cli.prepare",
        "PrepareConfig",
        "run_prepare",
    ),
    ("data", "info"): Verb(
        "count the documents and characters of a dataset", "nanochat.cli.data", "InfoConfig", "run_info"
    ),
    ("data", "preferences"): Verb(
        "pairs for `nanochat dpo` from the rollouts of `nanochat rl`",
        "nanochat.train.preferences",
        "PreferencesConfig",
        "run_preferences",
    ),
    ("data", "prompts"): Verb(
        "a task's prompts for reinforcement by verl, as parquet",
        "nanochat.tasks.verl_prompts",
        "PromptsConfig",
        "run_prompts",
    ),
    ("data", "identity"): Verb(
        "write conversations that teach a model who it is, from a persona",
        "nanochat.cli.identity",
        "IdentityConfig",
        "run_identity",
    ),
    ("tokenizer", "train"): Verb(
        "train a tokenizer on a dataset", "nanochat.train.vocabulary", "TokenizerTrainConfig"
    ),
    ("tokenizer", "eval"): Verb(
        "bytes per token by domain, compared with known tokenizers",
        "nanochat.eval.compression",
        "TokenizerEvalConfig",
    ),
    ("pretrain",): Verb(
        "train a base model of depth --depth",
        "nanochat.train.pretrain",
        "PretrainConfig",
        needs="runtime",
    ),
    ("sft",): Verb(
        "fine-tune a base model on conversations", "nanochat.train.sft", "SftConfig", needs="runtime"
    ),
    ("rl",): Verb(
        "reinforce a chat model on a task with checkable answers",
        "nanochat.train.rl",
        "RlConfig",
        needs="runtime",
    ),
    ("dpo",): Verb(
        "tune a chat model on pairs of a chosen and a rejected answer",
        "nanochat.train.dpo",
        "DpoConfig",
        needs="runtime",
    ),
    ("eval", "base"): Verb(
        "bits per byte, CORE and samples of a base model",
        "nanochat.eval.base_model",
        "EvalBaseConfig",
        needs="runtime",
    ),
    ("eval", "chat"): Verb(
        "task accuracies of a chat model", "nanochat.eval.chat_model", "EvalChatConfig", needs="runtime"
    ),
    ("eval", "compare"): Verb(
        "whether one checkpoint answers better than another, item by item",
        "nanochat.eval.compare",
        "CompareConfig",
        "run_compare",
    ),
    ("eval", "lm-eval"): Verb(
        "scores on tasks of lm-evaluation-harness",
        "nanochat.eval.harness",
        "HarnessConfig",
        needs="runtime",
    ),
    ("chat",): Verb(
        "chat with a model, or ask one question with -p", "nanochat.cli.chat", "ChatConfig", needs="runtime"
    ),
    ("serve",): Verb(
        "serve models: an OpenAI-compatible API and a web page", "nanochat.serve.server", "ServeConfig"
    ),
    ("import",): Verb(
        "read a checkpoint of karpathy/nanochat or a transformers folder as a run",
        "nanochat.export.import_model",
        "ImportConfig",
        "run_import",
    ),
    ("export", "hf"): Verb(
        "write a checkpoint as a folder that transformers loads",
        "nanochat.export.hf_export",
        "ExportHfConfig",
        "run_hf",
    ),
    ("report", "reset"): Verb("start a new report", "nanochat.report.generate", "ResetConfig", "run_reset"),
    ("report", "generate"): Verb(
        "write the report from the runs' results",
        "nanochat.report.generate",
        "GenerateConfig",
        "run_generate",
    ),
    ("run",): Verb(
        "run a whole recipe (quickstart, cpu, speedrun); resumes after an interruption",
        "nanochat.recipes.run",
        "RunConfig",
    ),
}
