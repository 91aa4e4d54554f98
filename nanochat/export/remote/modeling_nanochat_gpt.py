"""A nanochat model with all its parts for transformers 5.24 and newer: `from_pretrained(..., trust_remote_code=True)`.

Around transformers' own NanoChat, which has none of: gain, windows, value embeddings, scales, smear, backout.
Shapes: B rows, T tokens, C model width, H heads, K key heads, D head channels.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.nanochat import modeling_nanochat as stock
from transformers.models.nanochat.configuration_nanochat import NanoChatConfig

_MASKS = {"full_attention": create_causal_mask, "sliding_attention": create_sliding_window_causal_mask}


class NanochatGPTConfig(NanoChatConfig):
    """The shape in transformers' names. What NanoChatConfig lacks has no default: every export states it."""

    model_type = "nanochat_gpt"


class NanochatSmearGPTConfig(NanochatGPTConfig):
    """With smear: a type of its own, since transformers keeps one class for each."""

    model_type = "nanochat_smear_gpt"


def norm(x):
    """RMSNorm without parameters."""
    return F.rms_norm(x, (x.size(-1),))


def rotate(x_BTHD, cos, sin):
    """Rotate the pairs (first half, second half) of channels."""
    a, b = x_BTHD.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def linear(n_in, n_out):
    """A layer without bias."""
    return nn.Linear(n_in, n_out, bias=False)


class NanochatGPTAttention(nn.Module):
    """Rotation, then QK-norm; embeddings of the token are added to the values through a gate."""

    def __init__(self, config, layer_idx):
        super().__init__()
        self.config, self.layer_idx, self.head_dim, self.is_causal = config, layer_idx, config.head_dim, True
        H, K, D, C = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            config.hidden_size,
        )
        self.num_key_value_groups = H // K
        self.scaling = config.qk_gain**2 * D**-0.5  # q and k both have the gain
        windowed = config.layer_types[layer_idx] == "sliding_attention"
        self.sliding_window = config.sliding_window if windowed else None
        self.q_proj, self.k_proj, self.v_proj = linear(C, H * D), linear(C, K * D), linear(C, K * D)
        self.o_proj = linear(H * D, C)
        if layer_idx in config.value_embedding_layers:
            self.value_gate = linear(config.gate_channels, K)

    def forward(self, x_BTC, values_BTKD, rotary, mask, cache, **kwargs):
        """Attend to the cache and to the tokens up to each."""
        q, k, v = (
            p(x_BTC).unflatten(-1, (-1, self.head_dim)) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        if values_BTKD is not None:
            gate_BTK = self.value_gate(x_BTC[..., : self.config.gate_channels]).sigmoid()
            v = v + self.config.gate_scale * gate_BTK[..., None] * values_BTKD
        q, k = norm(rotate(q, *rotary)).transpose(1, 2), norm(rotate(k, *rotary)).transpose(1, 2)
        v = v.transpose(1, 2)
        if cache is not None:
            k, v = cache.update(k, v, self.layer_idx)
        kind = self.config._attn_implementation
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(kind, stock.eager_attention_forward)
        options = {"dropout": 0.0, "scaling": self.scaling, "sliding_window": self.sliding_window}
        return self.o_proj(attend(self, q, k, v, mask, **options, **kwargs)[0].flatten(-2))


class NanochatGPTLayer(nn.Module):
    """Attention and the MLP, each on the normalised stream."""

    def __init__(self, config, layer_idx):
        super().__init__()
        self.self_attn, self.mlp = NanochatGPTAttention(config, layer_idx), stock.NanoChatMLP(config)

    def forward(self, x_BTC, *inputs, **kwargs):
        """The stream after this layer."""
        x_BTC = x_BTC + self.self_attn(norm(x_BTC), *inputs, **kwargs)
        return x_BTC + self.mlp(norm(x_BTC))


class NanochatGPTModel(stock.NanoChatPreTrainedModel):
    """Ids to hidden states, normalised for the head."""

    config_class, _no_split_modules = NanochatGPTConfig, ("NanochatGPTLayer",)

    def __init__(self, config):
        super().__init__(config)
        C, n, width = (
            config.hidden_size,
            config.num_hidden_layers,
            config.num_key_value_heads * config.head_dim,
        )
        self.embed_tokens = nn.Embedding(config.vocab_size, C)
        self.layers = nn.ModuleList(NanochatGPTLayer(config, layer) for layer in range(n))
        tables = {str(i): nn.Embedding(config.vocab_size, width) for i in config.value_embedding_layers}
        self.value_embeddings = nn.ModuleDict(tables)
        if config.residual_scales:
            self.residual_scale, self.embedding_scale = (nn.Parameter(torch.ones(n)) for _ in range(2))
        if config.smear:
            self.smear_gate, self.smear_scale = linear(config.smear_channels, 1), nn.Parameter(torch.ones(1))
        if config.backout:
            self.backout_scale = nn.Parameter(torch.ones(1))
        self.post_init()

    def _smear(self, x_BTC, input_ids, previous_ids, position_ids, seen):
        if previous_ids is None and seen:
            raise ValueError("with smear a cache needs previous_ids: the id before each token")
        previous_ids = F.pad(input_ids, (1, 0))[:, :-1] if previous_ids is None else previous_ids
        gate_BT1 = self.smear_gate(x_BTC[..., : self.config.smear_channels]).sigmoid()
        return (
            self.smear_scale
            * gate_BT1
            * norm(self.embed_tokens(previous_ids))
            * (position_ids > 0)[..., None]
        )

    def _rotary(self, position_ids, dtype):
        exact = torch.float32 if position_ids.device.type == "mps" else torch.float64
        channels = torch.arange(0, self.config.head_dim, 2, device=position_ids.device, dtype=exact)
        frequencies = self.config.rope_parameters["rope_theta"] ** (-channels / self.config.head_dim)
        angles_BT1D = (position_ids[..., None].to(exact) * frequencies)[:, :, None]
        return angles_BT1D.cos().to(dtype), angles_BT1D.sin().to(dtype)

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, cache=None, use_cache=None,
                previous_ids=None, past_key_values=None, inputs_embeds=None, **kwargs):  # fmt: skip
        """(hidden states, cache). `previous_ids`: the id before each token, for smear beside a cache."""
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("this model needs input_ids: it looks up more than one embedding of a token")
        config, T, cache = self.config, input_ids.size(1), past_key_values if cache is None else cache
        if cache is None and (config.use_cache if use_cache is None else use_cache):
            cache = DynamicCache(config=config)
        seen = cache.get_seq_length() if cache is not None else 0
        if position_ids is None:
            position_ids = (torch.arange(T, device=input_ids.device) + seen)[None]
            if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
                position_ids = (attention_mask.long().cumsum(-1) - 1).clamp_min(0)[:, -T:]
        x_BTC = norm(self.embed_tokens(input_ids))
        if config.smear:
            x_BTC = x_BTC + self._smear(x_BTC, input_ids, previous_ids, position_ids, seen)
        known = {"config": config, "inputs_embeds": x_BTC, "attention_mask": attention_mask}
        known |= {"cache": cache, "position_ids": position_ids}
        masks = attention_mask if isinstance(attention_mask, dict) else {
            kind: _MASKS[kind](**known) for kind in set(config.layer_types)
        }  # fmt: skip
        rotary, x0_BTC, streams = self._rotary(position_ids, x_BTC.dtype), x_BTC, [x_BTC]
        for i, layer in enumerate(self.layers):
            values_BTKD = None
            if config.residual_scales:
                x_BTC = self.residual_scale[i] * x_BTC + self.embedding_scale[i] * x0_BTC
            if i in config.value_embedding_layers:
                values_BTKD = self.value_embeddings[str(i)](input_ids).unflatten(-1, (-1, config.head_dim))
            x_BTC = layer(x_BTC, values_BTKD, rotary, masks[config.layer_types[i]], cache, **kwargs)
            streams.append(x_BTC if i + 1 == config.backout_layer else None)
        if config.backout:
            x_BTC = x_BTC - self.backout_scale * streams[config.backout_layer]
        return BaseModelOutputWithPast(norm(x_BTC), cache)


class NanochatGPTForCausalLM(stock.NanoChatForCausalLM):
    """Ids to soft-capped logits."""

    config_class, _no_split_modules = NanochatGPTConfig, ("NanochatGPTLayer",)

    def __init__(self, config):
        stock.NanoChatPreTrainedModel.__init__(self, config)
        self.model, self.vocab_size = NanochatGPTModel(config), config.vocab_size
        self.lm_head = linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def prepare_inputs_for_generation(self, input_ids, **kwargs):
        """With the id before each token that has to run."""
        inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)
        if self.config.smear:
            inputs["previous_ids"] = F.pad(input_ids, (1, 0))[:, -inputs["input_ids"].size(1) - 1 : -1]
        return inputs


class NanochatSmearGPTModel(NanochatGPTModel):
    """With smear. Engines that flatten requests into one batch would mix them: they refuse a class that says so."""

    config_class = NanochatSmearGPTConfig
    _supports_attention_backend = False


class NanochatSmearGPTForCausalLM(NanochatGPTForCausalLM):
    """With smear; see NanochatSmearGPTModel."""

    config_class = NanochatSmearGPTConfig
    _supports_attention_backend = False
