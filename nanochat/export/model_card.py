"""The model card of an export: what the dial was, the data, the figures with their intervals, the limits."""

from collections.abc import Iterator
from pathlib import Path

from nanochat.checkpoint.meta import CheckpointMeta
from nanochat.console import amount
from nanochat.eval.intervals import accuracy_interval, normal_interval
from nanochat.export.hf_config import beyond_stock
from nanochat.metrics import rows_of
from nanochat.metrics_rows import ConfigRow, EvalRow, TasksRow
from nanochat.model.cost import parameter_counts

_BUILTIN = "builtin"


def model_card(name: str, meta: CheckpointMeta, metrics: Path, weights: str, mlx: bool = False) -> str:
    """The text of README.md. `metrics`: the file of the run, which may be missing. `mlx`: for mlx-lm."""
    config, plan = meta.model, meta.plan
    remote = beyond_stock(config)
    tags = ["nanochat", *(["custom_code"] if remote else [])]
    lines = [
        "---",
        f"library_name: {'mlx' if mlx else 'transformers'}",
        "pipeline_tag: text-generation",
        f"tags: [{', '.join(tags)}]",
        "---",
        "",
        f"# {name}",
        "",
        f"A small language model trained with nanochat: {config.n_layer} layers, width {config.n_embd}, "
        f"{amount(sum(parameter_counts(config).values()))} parameters, {config.vocab_size:,} tokens, "
        f"a context of {config.max_seq_len:,}.",
        "",
        "```python",
        *(_MLX_USE if mlx else _use(name, remote)),
        "```",
        "",
        "## Training",
        "",
        f"- stage: {meta.stage}, step {meta.step:,} of {plan.total_steps:,} with {plan.batch_tokens:,} tokens each; "
        f"seed {plan.seed}",
        f"- data: {_data(meta, metrics)}",
        f"- peak rates: {plan.rates.matrix:.4g} for matrices (Muon), {plan.rates.embedding:.4g} for embeddings, "
        f"{plan.rates.head:.4g} for the head (AdamW); weight decay {plan.rates.weight_decay:.4g}",
        "",
        "## Figures",
        "",
        *_figures(meta, metrics),
        "",
        "## Limits",
        "",
        *_limits(meta, remote, weights),
    ]
    return "\n".join(lines) + "\n"


_MLX_USE = (
    "# The tensors have the names of mlx-lm's nanochat. This renaming was not tried on a Mac.",
    "from mlx_lm import generate, load",
)


def _use(name: str, remote: list[str]) -> Iterator[str]:
    load = ", trust_remote_code=True" if remote else ""
    yield "from transformers import AutoModelForCausalLM, AutoTokenizer"
    yield ""
    yield f'tokenizer = AutoTokenizer.from_pretrained("{name}"{load})'
    yield f'model = AutoModelForCausalLM.from_pretrained("{name}"{load})'
    yield 'chat = [{"role": "user", "content": "What is the capital of France?"}]'
    yield "prompt = tokenizer.apply_chat_template("
    yield '    chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"'
    yield ")"
    yield "print(tokenizer.decode(model.generate(**prompt, max_new_tokens=64)[0]))"


def _data(meta: CheckpointMeta, metrics: Path) -> str:
    """Names only: a path of somebody's machine has no place here."""
    rows = rows_of(metrics, ConfigRow, meta.stage) if metrics.is_file() else []
    named = [meta.config.get("mixture"), meta.config.get("dataset"), *(row.dataset for row in rows[-1:])]
    names = [Path(name).name for name in named if isinstance(name, str)]
    if not names:
        return "not recorded"
    made_up = " (a small generated world in plain English)" if _BUILTIN in names else ""
    return ", ".join(dict.fromkeys(names)) + made_up


def _figures(meta: CheckpointMeta, metrics: Path) -> Iterator[str]:
    """The newest of each figure at the checkpoint's step."""
    found = metrics.is_file()
    evals = [row for row in rows_of(metrics, EvalRow) if row.step == meta.step] if found else []
    tasks = [row for row in rows_of(metrics, TasksRow) if row.step == meta.step] if found else []
    lines = [*_eval_figures(evals), *_task_figures(tasks)]
    if lines:
        yield from ("| what | value | 95 % interval | of |", "|---|---|---|---|", *lines)
    else:
        yield "None were measured at this step (`nanochat eval base`, `nanochat eval chat`)."


def _eval_figures(rows: list[EvalRow]) -> Iterator[str]:
    names = {"val_bpb": "bits per byte", "val_loss": "nats per token of answers", "core": "CORE"}
    for figure, name in names.items():
        row = next((row for row in reversed(rows) if getattr(row, figure) is not None), None)
        if row is not None:
            error = row.core_standard_error if figure == "core" else None
            value = getattr(row, figure)
            interval = normal_interval(value, error) if error is not None else None
            shown = f"{interval.low:.4f} to {interval.high:.4f}" if interval else ""
            yield f"| {name} | {value:.4f} | {shown} | validation |"


def _task_figures(rows: list[TasksRow]) -> Iterator[str]:
    newest = {task: row for row in rows for task in row.scores}
    for task, row in newest.items():
        score, n, baseline = row.scores[task], row.counts[task], row.baselines.get(task, 0.0)
        low, high = row.intervals.get(task) or _interval(round(score * n), n)
        yield f"| {task} | {score:.1%} | {low:.1%} to {high:.1%} | {n:,} items; guessing {baseline:.1%} |"


def _interval(right: int, n: int) -> tuple[float, float]:
    """For runs of versions that did not record it."""
    interval = accuracy_interval(right, n)
    return interval.low, interval.high


def _limits(meta: CheckpointMeta, remote: list[str], weights: str) -> Iterator[str]:
    yield "- A small model: it states falsehoods fluently. Nothing here filters what it says."
    yield (
        "- Special tokens: Hugging Face's tokenizer reads `<|user_end|>` inside a user's text as the special token, "
        "so that a text can end its own turn. nanochat never does. Remove such names from text of others, "
        "or encode it with `split_special_tokens=True`."
    )
    if meta.is_base:
        yield "- A base model: it continues text. The chat template is there for fine-tuning; it does not answer."
    else:
        yield (
            "- Tools: after `<|python_end|>` nanochat runs the code and writes the result between `<|output_start|>` "
            "and `<|output_end|>`; `generate` does not, and the model will invent a result."
        )
    if weights == "bf16":
        yield "- Weights are rounded to bf16. fp16 is no substitute: relu² overflows it."
    else:
        yield "- Load in fp32 or bf16, not in fp16: relu² overflows it."
    if remote:
        yield f"- Needs transformers 5.24 or newer and its remote code, for {', '.join(remote)}."
    if meta.model.smear:
        yield (
            "- Smear reads the token before each token. vLLM and SGLang flatten requests into one batch and would mix "
            "them, so that the class refuses their transformers backends."
        )
