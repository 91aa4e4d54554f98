"""CORE's items answered by karpathy/nanochat's own `core_eval`: `bench/core.py --peer` starts this over a working tree.

The arguments are a folder of `weights.pt` (our names), `shape.json` and a tokenizer, a bundle, and a number of threads.
Each line on stdin, `{"label": …, "n": …, "whole": …}`, is answered by a line of JSON on stdout.
"""

import base64
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiktoken
import torch
import yaml

RENAMED = {
    "embedding.weight": "transformer.wte.weight",
    "head.weight": "lm_head.weight",
    "residual_scale": "resid_lambdas",
    "embedding_scale": "x0_lambdas",
    "smear_scale": "smear_lambda",
    "smear_gate.weight": "smear_gate.weight",
}
RENAMED_PARTS = {
    "blocks": "transformer.h",
    "value_embeddings": "value_embeds",
    "attention.q": "attn.c_q",
    "attention.k": "attn.c_k",
    "attention.v.": "attn.c_v.",
    "attention.out": "attn.c_proj",
    "attention.value_gate": "attn.ve_gate",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}


def peer_name(name: str) -> str:
    """The peer's name of one of our weights."""
    if name in RENAMED:
        return RENAMED[name]
    for part, renamed in RENAMED_PARTS.items():
        name = name.replace(part, renamed)
    return name


def peer_weight(name: str, weight: torch.Tensor, head_dim: int, like: torch.Tensor) -> torch.Tensor:
    """A weight as the peer computes with it.

    The peer rotates the other way, so the halves of a head's queries and keys change places; its smear gate reads more
    channels, which get no weight.
    """
    if name.endswith(("attn.c_q.weight", "attn.c_k.weight")):
        return weight.unflatten(0, (-1, 2, head_dim // 2)).flip(1).flatten(0, 2)
    if weight.dim() == 2 and weight.size(1) < like.size(1):
        return torch.nn.functional.pad(weight, (0, like.size(1) - weight.size(1)))
    return weight


def open_model(folder: Path) -> Any:
    """The peer's model with our weights: the full context in every layer, and no backout."""
    from nanochat.gpt import GPT, GPTConfig

    shape = json.loads((folder / "shape.json").read_text())
    names = ("vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd")
    config = GPTConfig(
        sequence_len=shape["max_seq_len"], window_pattern="L", **{name: shape[name] for name in names}
    )
    model = GPT(config).eval()
    model.init_weights()
    theirs = model.state_dict()
    ours = torch.load(folder / "weights.pt", weights_only=True)
    mapped = {peer_name(name): weight for name, weight in ours.items()}
    mapped = {
        name: peer_weight(name, weight, shape["head_dim"], theirs[name]) for name, weight in mapped.items()
    }
    model.load_state_dict({**mapped, "backout_lambda": torch.zeros(1)})
    return model


def open_tokenizer(folder: Path) -> Any:
    """The peer's tokenizer over our tokens."""
    from nanochat.tokenizer import RustBPETokenizer

    [path] = folder.glob("*.tiktoken")
    about = json.loads(path.with_suffix(".json").read_text())
    lines = (line.split() for line in path.read_text().splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    specials = {name: len(ranks) + at for at, name in enumerate(about["special_tokens"])}
    encoding = tiktoken.Encoding(
        "ours", pat_str=about["pattern"], mergeable_ranks=ranks, special_tokens=specials
    )
    return RustBPETokenizer(encoding, "<|bos|>")


class Witness:
    """Calls the peer's `evaluate_example`, and keeps what it computes on the way."""

    def __init__(self, model: Any, tokenizer: Any, max_seq_len: int):
        from nanochat import core_eval

        self._core_eval, self._model, self._tokenizer, self._max_seq_len = (
            core_eval,
            model,
            tokenizer,
            max_seq_len,
        )
        self._calls: list[Any] = []
        for name in ("batch_sequences_mc", "batch_sequences_schema", "batch_sequences_lm", "forward_model"):
            setattr(core_eval, name, self._kept(getattr(core_eval, name)))

    def _kept(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self._calls.append(function(*arguments))
            return self._calls[-1]

        return call

    def answers(self, data: list[Any], meta: dict[str, Any], n: int, whole: bool) -> dict[str, Any]:
        """Answers to the first n items, and the seconds that `evaluate_example` took: wall clock and all threads.

        whole: prompts longer than the context run whole, as with the peer's own models, which set no limit.
        """
        self._model.max_seq_len = None if whole else self._max_seq_len
        right, kept = [], []
        wall, cpu = time.perf_counter(), time.process_time()
        for index in range(n):
            self._calls = []
            right.append(
                self._core_eval.evaluate_example(index, self._model, self._tokenizer, data, "cpu", meta)
            )
            kept.append(self._calls)
        wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
        items = [self._item(bool(ok), *calls, whole=whole) for ok, calls in zip(right, kept, strict=True)]
        return {"items": items, "wall_s": wall_s, "cpu_s": cpu_s}

    def _item(self, right: bool, batch: Any, computed: Any, *, whole: bool) -> dict[str, Any]:
        (losses_BT, greedy_BT), prompts, nats, greedy = computed, [], [], []
        for row, (ids, start, end) in enumerate(zip(*batch, strict=True)):
            cut = 0 if whole else max(0, len(ids) - self._max_seq_len)
            span = slice(start - cut - 1, end - cut - 1)
            prompts.append(ids[cut:])
            nats.append(losses_BT[row, span].mean().item())
            greedy.append(greedy_BT[row, span].tolist())
        return {"right": right, "prompts": prompts, "nats": nats, "greedy": greedy}


def read_task(bundle: Path, label: str) -> tuple[list[Any], dict[str, Any]]:
    """A task's items and description, as the peer's base_eval reads them."""
    listed = yaml.safe_load((bundle / "core.yaml").read_text())["icl_tasks"]
    [task] = [task for task in listed if task["label"] == label]
    lines = (bundle / "eval_data" / task["dataset_uri"]).read_text(encoding="utf-8").strip().split("\n")
    data = [json.loads(line) for line in lines]
    random.Random(1337).shuffle(data)
    meta = {
        "task_type": task["icl_task_type"],
        "num_fewshot": task["num_fewshot"][0],
        "continuation_delimiter": task.get("continuation_delimiter", " "),
    }
    return data, meta


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the peer prints is not an answer
    folder, bundle, threads = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    max_seq_len = json.loads((folder / "shape.json").read_text())["max_seq_len"]
    witness = Witness(open_model(folder), open_tokenizer(folder), max_seq_len)
    for line in sys.stdin:
        asked = json.loads(line)
        data, meta = read_task(bundle, asked["label"])
        print(json.dumps(witness.answers(data, meta, asked["n"], asked["whole"])), file=answers, flush=True)


if __name__ == "__main__":
    main()
