"""`nanochat export hf RUN DIR`: a checkpoint as a folder for transformers (or mlx-lm)."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Tensor

from nanochat.atomic import write_fault
from nanochat.checkpoint import store
from nanochat.checkpoint.loading import check_weights, find_model, load_run_tokenizer
from nanochat.checkpoint.meta import CheckpointMeta, Progress, to_plain
from nanochat.console import amount, say
from nanochat.export.hf_config import FACTS, REMOTE_MODULE, beyond_stock, hf_config
from nanochat.export.hf_tokenizer import save_hf_tokenizer
from nanochat.export.hub_models import check_repo, push
from nanochat.export.libraries import require
from nanochat.export.model_card import model_card
from nanochat.export.names import cropped, renamed, turned
from nanochat.infer.sampler import CHAT_SAMPLING
from nanochat.model.cost import meta_model
from nanochat.paths import Paths
from nanochat.tokenizer.special import ASSISTANT_END
from nanochat.tokenizer.tokenizer import Tokenizer

Flavour = Literal["transformers", "vllm", "mlx"]
WeightsDtype = Literal["bf16", "fp32"]
DTYPES: dict[WeightsDtype, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}
_SAMPLING = {
    "do_sample": True,
    "temperature": CHAT_SAMPLING.temperature,
    "top_k": CHAT_SAMPLING.top_k,
}


@dataclass(frozen=True)
class ExportHfConfig:
    """Write a checkpoint as a folder that transformers loads."""

    run: Annotated[str, tyro.conf.Positional]
    """A run: its model tag, or the path of its checkpoints; RUN@STEP for another checkpoint than the newest."""
    directory: Annotated[Path, tyro.conf.Positional]
    """The folder to make; it must not exist."""
    weights: WeightsDtype = "bf16"
    """bf16 halves the size; fp32 is exact, and what `nanochat import` reads back bit by bit."""
    flavour: Flavour = "transformers"
    """vllm: refuse a model that vLLM and SGLang would run wrongly. mlx: mlx-lm's names of the tensors (not tried)."""
    push: str | None = None
    """Publish the folder as this repository of the hub, OWNER/NAME: private until you change that."""


@dataclass(frozen=True)
class ExportResult:
    """What was written."""

    directory: Path
    step: int
    architecture: str
    """The class in transformers."""
    remote_code: bool
    parameters: int
    bytes: int


def run_hf(config: ExportHfConfig, paths: Paths) -> ExportResult:
    """Run the verb. Raises ValueError for an unknown run, a flavour that cannot run it, or a folder that exists."""
    require("transformers", "safetensors")
    if config.push is not None:
        check_repo(config.push)
    source, step = find_model(config.run, paths)
    step = store.require_latest(source) if step is None else step
    if config.directory.exists():
        raise ValueError(f"{config.directory} exists: choose another folder, or remove it")
    meta, tokenizer = store.load_meta(source, step), load_run_tokenizer(source)
    if tokenizer.vocab_size != meta.model.vocab_size:
        raise ValueError(f"the tokenizer in {source} is not that of its checkpoint")
    _check_flavour(config.flavour, meta)
    state = store.load_model_state(source, step)
    check_weights(meta_model(meta.model), state, source)
    mlx = config.flavour == "mlx"
    card = model_card(
        config.push or config.directory.name, meta, paths.metrics(source.name), config.weights, mlx
    )
    table = _write(config, meta, tokenizer, state, card)
    result = ExportResult(
        config.directory,
        step,
        table["architectures"][0],
        "auto_map" in table,
        sum(tensor.numel() for tensor in state.values()),
        sum(path.stat().st_size for path in config.directory.iterdir()),
    )
    code = "with remote code" if result.remote_code else "stock"
    say(
        f"{source.name} step {step} → {config.directory}: {result.architecture} ({code}), "
        f"{amount(result.parameters)} parameters in {config.weights}, {result.bytes / 1e6:.1f} MB"
    )
    if config.push is not None:
        say(f"published at {push(config.directory, config.push)}")
    return result


def _check_flavour(flavour: Flavour, meta: CheckpointMeta) -> None:
    """Raise ValueError if the engines of a flavour would not compute what the model is."""
    if flavour == "vllm" and meta.model.smear:
        raise ValueError(
            "this model has smear, which reads the token before each token; vLLM and SGLang run the requests of many "
            "users as one row of tokens and would mix them: train with `--shape servable` to serve it there"
        )
    if flavour == "mlx":
        lacking = beyond_stock(meta.model) + (
            ["another softcap than 15"] if meta.model.softcap != 15.0 else []
        )
        if lacking:
            raise ValueError(f"mlx-lm's nanochat lacks {', '.join(lacking)}: train with `--shape portable`")


def _write(
    config: ExportHfConfig,
    meta: CheckpointMeta,
    tokenizer: Tokenizer,
    state: dict[str, Tensor],
    card: str,
) -> dict[str, Any]:
    """Write all files, then give the folder its name; returns config.json's content."""
    bos, ends = tokenizer.bos, [tokenizer.special(ASSISTANT_END), tokenizer.bos]
    table = hf_config(meta.model, DTYPES[config.weights], bos, ends) | {FACTS: _facts(meta)}
    tensors = {
        name: tensor.to(DTYPES[config.weights]).contiguous()
        for name, tensor in _tensors(meta, state, config.flavour).items()
    }
    generation = {"bos_token_id": bos, "eos_token_id": ends, "pad_token_id": ends[0], **_SAMPLING}
    target = config.directory
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
        try:
            _fill(made, table, generation, card, tensors)
            save_hf_tokenizer(tokenizer, meta.model.max_seq_len, made)
            made.chmod(0o755)
            os.rename(made, target)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise write_fault(target, error) from error
    return table


def _fill(
    made: Path, table: dict[str, Any], generation: dict[str, Any], card: str, tensors: dict[str, Tensor]
) -> None:
    from safetensors.torch import save_file

    save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
    (made / "model.safetensors").chmod(0o644)
    (made / "config.json").write_text(json.dumps(table, indent=2) + "\n")
    (made / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    (made / "README.md").write_text(card)
    if "auto_map" in table:
        code = resources.files("nanochat.export").joinpath("remote", f"{REMOTE_MODULE}.py")
        (made / f"{REMOTE_MODULE}.py").write_bytes(code.read_bytes())


def _tensors(meta: CheckpointMeta, state: dict[str, Tensor], flavour: Flavour) -> dict[str, Tensor]:
    own = cropped(state, meta.model)
    if flavour == "mlx":
        return renamed(turned(own, meta.model.head_dim), "ours", "reference")
    if not beyond_stock(meta.model):
        own = turned(own, meta.model.head_dim)
    return renamed(own, "ours", "transformers")


def _facts(meta: CheckpointMeta) -> dict[str, Any]:
    """The meta for `nanochat import`, without what may name paths of this machine: flags, source, data."""
    progress = Progress(meta.step, meta.progress.tokens)
    return to_plain(replace(meta, progress=progress, source=None, config={}, software={}))
