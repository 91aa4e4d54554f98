"""The shapes of the dial are what they promise to other programs."""

import pytest

from nanochat.export.hf_config import beyond_stock, stock_shape
from nanochat.scaling import SHAPES, Dial, make_plan


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("depth", [3, 4, 12])
def test_a_portable_model_needs_no_code_of_ours_and_a_servable_one_no_smear(shape, depth: int) -> None:
    config = make_plan(Dial(depth, shape=shape), 4096, "cuda").model
    lacking = beyond_stock(config)
    assert (shape == "portable") == (lacking == [])
    assert (shape == "full") == ("smear" in lacking)


@pytest.mark.parametrize(
    "table",
    [{}, {"model_type": "llama"}, {"model_type": "nanochat"}, {"model_type": "nanochat", "hidden_size": "x"}],
)
def test_another_config_costs_one_line(table: dict) -> None:
    with pytest.raises(ValueError, match=r"its config\.json is"):
        stock_shape(table)
