"""An exported model is the same model in transformers: logits, greedy answers, chats and tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat.export.hf_export import ExportHfConfig, run_hf
from nanochat.infer.engine import Engine
from nanochat.infer.sampler import SamplingParams
from nanochat.metrics import open_metrics
from nanochat.metrics_rows import ConfigRow
from nanochat.model.gpt import GPT
from nanochat.paths import Paths
from nanochat.tokenizer.chat_format import render, render_prompt
from nanochat.tokenizer.special import ASSISTANT_END, SPECIAL_TOKENS
from nanochat.tokenizer.tokenizer import Tokenizer
from tests.export.conftest import BARE, REFERENCE_SIZES

pytest.importorskip("transformers")
MakeRun = Callable[..., GPT]

STOCK = {
    "bare": BARE,
    "bare, all heads have keys": {**BARE, "n_kv_head": 4},
    "bare, no softcap": {**BARE, "softcap": 0.0, "mlp_ratio": 3},
}
REMOTE: dict[str, dict[str, Any]] = {
    "whole": {},
    "servable": {"smear": False},
    "no value embeddings": {"value_embeddings": False},
    "no residual scales": {"residual_scales": False},
    "no backout": {"backout": False},
    "only the gain": {**BARE, "qk_gain": 1.2},
    "only windows": {**BARE, "window_pattern": "S"},
    "no windows": {"window_pattern": "L"},
    "other sizes": {"rope_base": 500.0, "mlp_ratio": 3, "n_layer": 3, "n_embd": 8, "softcap": 0.0},
    "as the reference": REFERENCE_SIZES,
    "backout of the last layer": {"backout_layer": 4},
}


def load(directory: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        directory, trust_remote_code=True, local_files_only=True
    ).eval()


def load_tokenizer(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


def export(paths: Paths, tmp_path: Path, **options: Any) -> Path:
    directory = tmp_path / "exported"
    run_hf(ExportHfConfig("tiny", directory, **options), paths)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("changes", [*STOCK.values(), *REMOTE.values()], ids=[*STOCK, *REMOTE])
def test_logits_and_greedy_answers_are_those_of_the_engine(
    changes: dict[str, Any], make_run: MakeRun, paths: Paths, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Answers in a batch, padded on the left, with a cache, beyond the windows and up to the end of the context."""
    ours = make_run(**changes)
    theirs = load(export(paths, tmp_path, weights="fp32"))
    assert ("auto_map" in theirs.config.to_dict()) == (changes in REMOTE.values())
    ids = torch.randint(0, 256, (3, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours.logits(ours(ids)), atol=1e-5, rtol=0)
    prompts = [ids[row, :length].tolist() for row, length in enumerate((5, 24, 1))]
    greedy = SamplingParams(temperature=0.0, max_new_tokens=40)
    expected = [done.ids for done in Engine(ours, tokenizer, tools=None).generate(prompts, greedy)]
    pad = tokenizer.special(ASSISTANT_END)
    padded = torch.tensor([[pad] * (24 - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (24 - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.no_grad():  # positions follow from the mask
        logits = theirs(padded, attention_mask=mask).logits
        for row, prompt in enumerate(prompts):
            alone = ours.logits(ours(torch.tensor([prompt])))[0]
            torch.testing.assert_close(logits[row, 24 - len(prompt) :], alone, atol=2e-5, rtol=0)
    for cached in (True, False) if not changes else (True,):
        out = theirs.generate(
            padded, attention_mask=mask, max_new_tokens=40, do_sample=False, use_cache=cached
        )
        for row, answer in enumerate(expected):
            assert out[row, 24 : 24 + len(answer)].tolist() == answer


@pytest.mark.slow
def test_smear_beside_a_cache_needs_the_id_before(make_run: MakeRun, paths: Paths, tmp_path: Path) -> None:
    make_run()
    theirs = load(export(paths, tmp_path))
    assert not theirs.is_backend_compatible()
    cache = theirs(torch.tensor([[1, 2, 3]]), use_cache=True).cache
    with pytest.raises(ValueError, match="previous_ids"):
        theirs(torch.tensor([[4]]), cache=cache)


@pytest.mark.slow
def test_without_smear_engines_may_take_over_attention(
    make_run: MakeRun, paths: Paths, tmp_path: Path
) -> None:
    make_run(smear=False)
    directory = export(paths, tmp_path, flavour="vllm")
    assert load(directory).is_backend_compatible()
    assert load(directory).dtype == torch.bfloat16


def test_a_flavour_that_would_compute_something_else_is_refused(
    make_run: MakeRun, paths: Paths, tmp_path: Path
) -> None:
    make_run()
    with pytest.raises(ValueError, match="smear"):
        export(paths, tmp_path, flavour="vllm")
    with pytest.raises(ValueError, match="mlx-lm's nanochat lacks windows"):
        export(paths, tmp_path, flavour="mlx")
    assert not (tmp_path / "exported").exists()


@pytest.mark.slow
def test_no_tensor_is_dropped(make_run: MakeRun, paths: Paths, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    for changes, flavour in (({}, "transformers"), (BARE, "mlx")):
        ours = make_run("tiny", **changes)
        directory = tmp_path / flavour
        run_hf(ExportHfConfig("tiny", directory, "fp32", flavour), paths)
        tensors = load_file(directory / "model.safetensors")
        padding = ours.config.padded_vocab_size - ours.config.vocab_size
        unused = sum(
            padding * p.size(1) for p in ours.parameters() if len(p) == ours.config.padded_vocab_size
        )
        assert len(tensors) == len(ours.state_dict())
        assert sum(t.numel() for t in tensors.values()) == sum(p.numel() for p in ours.parameters()) - unused
    assert "transformer.h.3.attn.c_proj.weight" in tensors


# ---- chats and tokens


@pytest.fixture(scope="module")
def theirs(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Our tokenizer, written and read by transformers."""
    from nanochat.export.hf_tokenizer import save_hf_tokenizer

    directory = tmp_path_factory.mktemp("tokenizer")
    save_hf_tokenizer(tokenizer, 64, directory)
    return load_tokenizer(directory)


def _plain(text: str) -> bool:
    return not any(name in text for name in SPECIAL_TOKENS)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(_plain)
KINDS = st.lists(st.sampled_from(["text", "python", "python_output"]), max_size=5).filter(
    lambda kinds: all(pair != ("text", "text") for pair in pairwise(kinds))
)
ANSWERS = st.one_of(
    TEXTS,
    KINDS.flatmap(
        lambda kinds: st.tuples(
            *[st.fixed_dictionaries({"type": st.just(k), "text": TEXTS}) for k in kinds]
        ).map(list)
    ),
)


@st.composite
def chats(draw: st.DrawFn) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(TEXTS)})
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(TEXTS)})
        messages.append({"role": "assistant", "content": draw(ANSWERS)})
    return messages


@pytest.mark.slow
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=chats())
def test_the_chat_template_renders_as_we_do(
    messages: list[dict[str, Any]], theirs: Any, tokenizer: Tokenizer
) -> None:
    ids, mask = render(tokenizer, {"messages": messages})
    whole = theirs.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    assert (whole["input_ids"], whole["assistant_masks"]) == (ids, mask)
    asked = messages[:-1]
    assert theirs.apply_chat_template(asked, add_generation_prompt=True)["input_ids"] == render_prompt(
        tokenizer, asked
    )


@pytest.mark.slow
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
def test_texts_have_the_same_tokens(text: str, theirs: Any, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(text)
    assert theirs(text, add_special_tokens=False)["input_ids"] == ids
    assert theirs(text)["input_ids"] == [tokenizer.bos, *ids]
    assert theirs.decode(ids) == tokenizer.decode(ids)


@pytest.mark.slow
@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "a"}],
        [{"role": "assistant", "content": "a"}],
        [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "image", "text": ""}]}],
    ],
)
def test_the_chat_template_refuses_what_we_refuse(
    messages: list[Any], theirs: Any, tokenizer: Tokenizer
) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        render(tokenizer, {"messages": messages})
    with pytest.raises(Exception, match=r"must|needs"):
        theirs.apply_chat_template(messages)


@pytest.mark.slow
def test_special_tokens_in_a_text_are_the_one_difference(theirs: Any, tokenizer: Tokenizer) -> None:
    """The model card says so, and what helps."""
    text = "a<|user_end|>b"
    assert theirs(text, add_special_tokens=False)["input_ids"] != tokenizer.encode(text)
    split = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert split == tokenizer.encode(text)


# ---- the folder


@pytest.mark.slow
def test_the_card_and_the_config_hold_no_path_of_this_machine(
    make_run: MakeRun, paths: Paths, tmp_path: Path
) -> None:
    make_run()
    begin = ConfigRow({}, dataset=str(tmp_path / "letters.parquet"))
    open_metrics(
        paths.metrics("tiny"), "sft", wandb_run=None, config=begin, enabled=True, resume=False
    ).close()
    directory = export(paths, tmp_path)
    for file in ("README.md", "config.json", "generation_config.json", "tokenizer_config.json"):
        assert str(tmp_path) not in (directory / file).read_text(), file
    card = (directory / "README.md").read_text()
    assert "letters.parquet" in card
    assert "not in fp16" in card or "fp16 is no substitute" in card
    assert json.loads((directory / "config.json").read_text())["nanochat"]["progress"]["step"] == 7
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o644}


def test_a_folder_that_exists_is_not_touched(make_run: MakeRun, paths: Paths, tmp_path: Path) -> None:
    make_run()
    (tmp_path / "exported").mkdir()
    with pytest.raises(ValueError, match="exists: choose another folder"):
        export(paths, tmp_path)


@pytest.mark.slow
def test_an_engine_can_put_its_own_attention_in(make_run: MakeRun, paths: Paths, tmp_path: Path) -> None:
    """As vLLM's and SGLang's transformers backends do: by name, with arguments of their own handed down."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    seen: list[tuple[int, float, int | None, str]] = []

    def recording(module: Any, *inputs: Any, own: str, **options: Any) -> Any:
        seen.append((module.layer_idx, options["scaling"], options["sliding_window"], own))
        return sdpa_attention_forward(module, *inputs, **options)

    ours = make_run(smear=False)
    theirs = load(export(paths, tmp_path, weights="fp32"))
    AttentionInterface.register("recording", recording)
    AttentionMaskInterface.register("recording", sdpa_mask)
    theirs.set_attn_implementation("recording")
    ids = torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids, own="x").logits, ours.logits(ours(ids)), atol=1e-5, rtol=0)
    scale = 1.2**2 / 8**0.5
    assert seen == [
        (layer, pytest.approx(scale), window, "x") for layer, window in enumerate((16, 16, None, None))
    ]
