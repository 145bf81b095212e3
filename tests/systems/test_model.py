import pytest
import torch

import llc_dynamics as ld
from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.seeding import torch_generator
from llc_dynamics.systems.in_context_regression.transformer import PRESETS, TransformerConfig


@pytest.mark.parametrize(("preset", "count"), [("small", 51_717), ("paper", 2_654_217)])
def test_parameter_count(preset: str, count: int) -> None:
    model = ld.InContextTransformer.preset(preset)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize("preset", ["small", "paper"])
def test_causal(preset: str) -> None:
    """Changing a later token changes no earlier prediction, and does change the next one."""
    model = ld.InContextTransformer.preset(preset).double()
    length, dimension = model.config.context_length, model.config.dimension
    x = torch.randn(3, length, dimension, generator=torch_generator(0, "x"), dtype=torch.float64)
    y = torch.randn(3, length, generator=torch_generator(0, "y"), dtype=torch.float64)
    with torch.no_grad():
        before = model(x, y)
        for k in range(length):
            x_changed, y_changed = x.clone(), y.clone()
            x_changed[:, k] += 1.0
            y_changed[:, k] += 1.0
            after_x, after_y = model(x_changed, y), model(x, y_changed)
            assert torch.equal(after_x[:, :k], before[:, :k])
            assert torch.equal(after_y[:, : k + 1], before[:, : k + 1])
            assert not torch.isclose(after_x[:, k], before[:, k]).any()
            if k + 1 < length:
                assert not torch.isclose(after_y[:, k + 1], before[:, k + 1]).any()


def _slow_forward(model: ld.InContextTransformer, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The textbook form: all tokens through all layers, torch's own attention."""
    batch, length, dimension = x.shape
    tokens = torch.zeros(batch, 2 * length, dimension + 1, dtype=x.dtype)
    tokens[:, 0::2, 1:] = x
    tokens[:, 1::2, 0] = y
    hidden = model.embed(tokens) + model.positions
    heads = model.config.num_heads
    for block in model.blocks:
        query, key, value = (
            part.view(batch, 2 * length, heads, -1).transpose(1, 2)
            for part in block.query_key_value(block.attention_norm(hidden)).chunk(3, -1)
        )
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        mixed = mixed.transpose(1, 2).reshape(batch, 2 * length, -1)
        hidden = hidden + (block.attention_output(mixed) if block.attention_output is not None else mixed)
        hidden = hidden + block.mlp_down(torch.relu(block.mlp_up(block.mlp_norm(hidden))))
    return model.unembed(model.norm(hidden))[:, 0::2, 0]


@pytest.mark.parametrize("preset", ["small", "paper"])
def test_agrees_with_the_textbook_form(preset: str) -> None:
    model = ld.InContextTransformer.preset(preset).double()
    x, y = ld.InContextRegression(dimension=model.config.dimension, context_length=model.config.context_length).sample(
        torch_generator(0, "batch"), 5, dtype=torch.float64
    )
    torch.testing.assert_close(model(x, y), _slow_forward(model, x, y), rtol=1e-10, atol=1e-10)


def test_seed_fixes_the_weights_and_spares_the_global_generator() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first, second, other = (ld.InContextTransformer(seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.embed.weight, second.embed.weight)
    assert not torch.equal(first.embed.weight, other.embed.weight)


def test_bad_input() -> None:
    model = ld.InContextTransformer()
    with pytest.raises(DataError, match=r"K up to 8; got \(2, 8, 3\)"):
        model(torch.zeros(2, 8, 3), torch.zeros(2, 8))
    with pytest.raises(DataError, match="K up to 8"):
        model(torch.zeros(2, 9, 4), torch.zeros(2, 9))
    with pytest.raises(ConfigError, match="multiple"):
        TransformerConfig(width=65)
    with pytest.raises(ConfigError, match="K must be 2 or more"):
        TransformerConfig(context_length=1)
    with pytest.raises(ConfigError, match="known: small, paper"):
        ld.InContextTransformer.preset("papr")
    assert set(PRESETS) == {"small", "paper"}
