"""Adapters for `bench/score.py`. An adapter is a function `open(options) -> Side`.

Packages are imported only inside these functions, because two sides may have packages of the same name, which must
not be loaded into one process.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Side:
    """What the scorer needs from a model.

    encode: ids of a document, its BOS first. decode: the text of ids without the BOS.
    nats: for batches of inputs and targets (B rows of T ids; a target of -1 is not scored) the B x T nats of
        the targets, 0 where not scored.
    """

    name: str
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    nats: Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], Any]


def open_ours(options: dict[str, Any]) -> Side:
    """A checkpoint of this repository. options: run (a name, or the path of its folder), step, device, dtype."""
    import torch

    from nanochat.checkpoint.loading import load_model
    from nanochat.runtime import open_runtime

    with open_runtime(options["device"], options["dtype"]) as runtime:
        loaded = load_model(options["run"], runtime, options["step"])
    model, tokenizer = loaded.model, loaded.tokenizer

    @torch.inference_mode()
    def nats(inputs, targets):
        hidden = model(torch.tensor(inputs, device=runtime.device))
        return model.token_losses(hidden, torch.tensor(targets, device=runtime.device)).double().cpu().numpy()

    return Side(
        name=f"{options['run']} step {loaded.step}",
        encode=lambda text: [tokenizer.bos, *tokenizer.encode(text)],
        decode=tokenizer.decode,
        nats=nats,
    )


def open_peer(options: dict[str, Any]) -> Side:
    """A checkpoint of karpathy/nanochat, imported from a working tree of it.

    options: path (the working tree, first on PYTHONPATH), run (`<base>/base_checkpoints/<tag>`, where <base> holds
    the tokenizer too), step, device, dtype. It computes in the dtype of NANOCHAT_DTYPE.
    """
    import torch

    import nanochat

    source = Path(options["path"]).resolve()
    found = Path(next(iter(nanochat.__path__))).resolve()
    if source not in found.parents:
        sys.exit(f"the package nanochat comes from {found}, not from {source}")
    from nanochat.checkpoint_manager import load_model_from_dir  # type: ignore[import-not-found]

    run = Path(options["run"])
    device = torch.device(_device(torch, options["device"]))
    model, tokenizer, meta = load_model_from_dir(
        str(run.parent), device, phase="eval", model_tag=run.name, step=options["step"]
    )
    bos = tokenizer.get_bos_token_id()

    @torch.inference_mode()
    def nats(inputs, targets):
        ids = torch.tensor(inputs, device=device)
        flat = model(ids, torch.tensor(targets, device=device), loss_reduction="none")
        return flat.view(ids.shape).double().cpu().numpy()

    return Side(
        name=f"{run.name} step {meta.get('step')}",
        encode=lambda text: tokenizer.encode(text, prepend=bos),
        decode=tokenizer.decode,
        nats=nats,
    )


def _device(torch: Any, request: str) -> str:
    return request if request != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")


def peer_environment(options: dict[str, Any]) -> dict[str, str]:
    """The environment of the process that opens a peer: its own package first, its base directory, its dtype."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(options["path"]).resolve()),
        "NANOCHAT_BASE_DIR": str(Path(options["run"]).resolve().parents[1]),
    }
    if options["dtype"] != "auto":
        environment["NANOCHAT_DTYPE"] = {"fp32": "float32", "bf16": "bfloat16"}[options["dtype"]]
    return environment


ADAPTERS: dict[str, Callable[[dict[str, Any]], Side]] = {"ours": open_ours, "peer": open_peer}
