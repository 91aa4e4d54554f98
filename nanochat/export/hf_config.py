"""A shape as the config.json of transformers, and back: the stock class where it has all parts, else our own."""

from collections.abc import Callable
from typing import Any

import torch

from nanochat.model.gpt_config import GPTConfig

FACTS = "nanochat"
"""The key of config.json with what only our import reads."""
REMOTE_MODULE = "modeling_nanochat_gpt"
"""The file of remote code in `nanochat/export/remote/`."""

# What transformers' own NanoChat lacks: (whether a shape has it, how to say so).
_BEYOND_STOCK: tuple[tuple[Callable[[GPTConfig], bool], str], ...] = (
    (lambda c: any(c.window(layer) < c.max_seq_len for layer in range(c.n_layer)), "windows"),
    (lambda c: c.qk_gain != 1.0, "a gain of queries and keys"),
    (lambda c: c.value_embeddings, "value embeddings"),
    (lambda c: c.residual_scales, "residual scales"),
    (lambda c: c.smear, "smear"),
    (lambda c: c.backout, "backout"),
    (lambda c: c.n_head * c.head_dim != c.n_embd, "heads that are not the width together"),
)


def beyond_stock(config: GPTConfig) -> list[str]:
    """The parts that transformers' own class lacks; none: it runs the model."""
    return [what for has, what in _BEYOND_STOCK if has(config)]


def hf_config(config: GPTConfig, dtype: torch.dtype, bos: int, ends: list[int]) -> dict[str, Any]:
    """The content of config.json, without facts about the run."""
    stock = not beyond_stock(config)
    common = {
        "architectures": ["NanoChatForCausalLM"],
        "model_type": "nanochat",
        "vocab_size": config.vocab_size,
        "hidden_size": config.n_embd,
        "intermediate_size": config.mlp_ratio * config.n_embd,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_seq_len,
        "hidden_act": "relu2",
        "rms_norm_eps": torch.finfo(torch.float32).eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
        "final_logit_softcapping": config.softcap or None,
        "tie_word_embeddings": False,
        "bos_token_id": bos,
        "eos_token_id": ends,
        "pad_token_id": None,  # the class would not train the embedding of a padding token
        "dtype": str(dtype).removeprefix("torch."),
    }
    return common if stock else {**common, **_beyond(config)}


def _beyond(config: GPTConfig) -> dict[str, Any]:
    """What only our own class reads."""
    layers = range(config.n_layer)
    windows = [config.window(layer) for layer in layers]
    short = [window < config.max_seq_len for window in windows]
    prefix = "NanochatSmearGPT" if config.smear else "NanochatGPT"
    return {
        "architectures": [f"{prefix}ForCausalLM"],
        "model_type": "nanochat_smear_gpt" if config.smear else "nanochat_gpt",
        "auto_map": {
            "AutoConfig": f"{REMOTE_MODULE}.{prefix}Config",
            "AutoModel": f"{REMOTE_MODULE}.{prefix}Model",
            "AutoModelForCausalLM": f"{REMOTE_MODULE}.{prefix}ForCausalLM",
        },
        "layer_types": ["sliding_attention" if is_short else "full_attention" for is_short in short],
        "sliding_window": min(windows) if any(short) else None,
        "qk_gain": config.qk_gain,
        "value_embedding_layers": [layer for layer in layers if config.has_value_embedding(layer)],
        "gate_channels": min(config.gate_channels, config.n_embd),
        "gate_scale": config.gate_scale,
        "residual_scales": config.residual_scales,
        "smear": config.smear,
        "smear_channels": min(config.smear_channels, config.n_embd),
        "backout": config.backout,
        "backout_layer": config.middle_layer,
    }


def stock_shape(table: dict[str, Any]) -> GPTConfig:
    """The shape in a config.json of transformers' own class. Raises ValueError for what is missing or differs."""
    if table.get("model_type") != "nanochat":
        raise ValueError(
            f"its config.json is of the type {table.get('model_type')!r}: "
            "only transformers' `nanochat` and our own exports can be read"
        )
    try:
        width, heads = table["hidden_size"], table["num_attention_heads"]
        rope = table.get("rope_parameters") or {"rope_theta": table["rope_theta"]}
        return GPTConfig(
            max_seq_len=table["max_position_embeddings"],
            vocab_size=table["vocab_size"],
            n_layer=table["num_hidden_layers"],
            n_head=heads,
            n_kv_head=table["num_key_value_heads"],
            head_dim=table.get("head_dim") or width // heads,
            n_embd=width,
            window_pattern="L",
            mlp_ratio=table["intermediate_size"] // width,
            rope_base=float(rope["rope_theta"]),
            qk_gain=1.0,
            softcap=float(table.get("final_logit_softcapping", 15.0) or 0.0),
            **dict.fromkeys(("value_embeddings", "residual_scales", "smear", "backout"), False),
        )
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"its config.json is not one of a nanochat model ({error!r})") from None
