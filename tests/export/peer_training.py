"""Runs in a working tree of karpathy/nanochat: trains a tiny model for some steps, saves it, and says what it computes.

    python peer_training.py BASE DOCUMENTS.parquet

BASE gets the checkpoint, the tokenizer and `said.json`: logits of some ids, and ids that follow a prompt greedily.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq
import torch
from nanochat.checkpoint_manager import save_checkpoint  # type: ignore[import-not-found]
from nanochat.gpt import GPT, GPTConfig  # type: ignore[import-not-found]

from nanochat.tokenizer import RustBPETokenizer  # type: ignore[import-not-found]

STEPS = 15


def main(base: Path, documents: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    texts = pq.read_table(documents).column("text").to_pylist()
    tokenizer = RustBPETokenizer.train_from_iterator(iter(texts), 300)
    tokenizer.save(str(base / "tokenizer"))
    config = GPTConfig(
        sequence_len=256,
        vocab_size=tokenizer.get_vocab_size(),
        n_layer=4,
        n_head=4,
        n_kv_head=2,
        n_embd=64,
        window_pattern="SSL",
    )
    model = GPT(config)
    model.init_weights()
    stream = torch.tensor(
        [i for text in texts for i in [tokenizer.get_bos_token_id(), *tokenizer.encode(text)]]
    )
    optimizer = model.setup_optimizer(matrix_lr=0.02)
    for _ in range(STEPS):
        rows = torch.stack(
            [stream[at : at + 257] for at in torch.randint(0, len(stream) - 257, (4,)).tolist()]
        )
        model(rows[:, :-1], rows[:, 1:].contiguous()).backward()
        optimizer.step()
        model.zero_grad()
    with torch.no_grad():  # not reached by so few steps, and its effect must show
        model.smear_lambda += 0.3
    model.eval()
    meta = {"step": STEPS, "model_config": asdict(config)}
    save_checkpoint(str(base / "base_checkpoints" / "tiny"), STEPS, model.state_dict(), None, meta)
    ids = stream[:256].tolist()
    prompt = ids[:150]
    with torch.no_grad():
        said = {
            "ids": ids,
            "logits": model(torch.tensor([ids]))[0].tolist(),
            "prompt": prompt,
            "greedy": list(model.generate(prompt, 40, temperature=0.0)),
        }
    (base / "said.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
