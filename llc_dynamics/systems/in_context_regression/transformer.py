"""The transformer of the in-context regression papers (Raventos et al. 2023; Hoogland et al. 2024; Carroll et al.).

Pre-layer-norm, causal, learned positions, ReLU MLP, layer norm and a linear unembedding. A sequence of K pairs becomes
2K tokens of D+1 numbers: x_k -> (0, x_k), y_k -> (y_k, 0, ..., 0). The prediction of y_k is output coordinate 0 at x_k.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.seeding import derive_seed
from llc_dynamics.settings import with_plain_numbers


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of an `InContextTransformer`. `width` is a multiple of `num_heads`.

    attention_output : whether attention ends with an output projection. No attention map has a bias.
    """

    dimension: int = 4
    context_length: int = 8
    num_layers: int = 2
    num_heads: int = 4
    width: int = 64
    mlp_width: int = 64
    attention_output: bool = True

    def __post_init__(self) -> None:
        with_plain_numbers(self)
        for name in ("dimension", "num_layers", "num_heads", "width", "mlp_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name} must be 1 or more; got {getattr(self, name)}")
        if self.context_length < 2:
            raise ConfigError(f"model.context_length: K must be 2 or more; got {self.context_length}")
        if self.width % self.num_heads:
            raise ConfigError(f"model.width ({self.width}) must be a multiple of model.num_heads ({self.num_heads})")


PRESETS: dict[str, TransformerConfig] = {
    # 51,717 parameters: the regression transformer of Hoogland et al. 2024.
    "small": TransformerConfig(),
    # 2,654,217 parameters: Carroll et al. 2025; the count is met without an attention output projection.
    "paper": TransformerConfig(8, 16, width=512, mlp_width=512, attention_output=False),
}


class InContextTransformer(nn.Module):
    """Causal transformer with predictions `[B, K] = model(x [B, K, D], y [B, K])`.

    Prediction k sees x_1, y_1, ..., y_{k-1}, x_k and nothing later. Contexts shorter than K are allowed. `seed` fixes
    the initial weights; the global generator is left as it was.

    Raises `DataError` for inputs of other shapes.
    """

    mask: Tensor

    def __init__(self, config: TransformerConfig | None = None, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config = config or PRESETS["small"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "model"))
            self.embed = nn.Linear(config.dimension + 1, config.width, bias=False)
            self.positions = nn.Parameter(0.02 * torch.randn(2 * config.context_length, config.width))
            self.blocks = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
            self.norm = nn.LayerNorm(config.width)
            self.unembed = nn.Linear(config.width, config.dimension + 1)
        tokens = 2 * config.context_length
        mask = torch.full((tokens, tokens), -torch.inf).triu(1)
        self.register_buffer("mask", mask, persistent=False)

    @classmethod
    def preset(cls, name: str, seed: int = 0) -> InContextTransformer:
        """A model by preset name: "small" or "paper"."""
        if name not in PRESETS:
            raise ConfigError(f"model preset '{name}' is unknown; known: {', '.join(PRESETS)}")
        return cls(PRESETS[name], seed=seed)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Predictions [B, K] of y from x [B, K, D] and the y before."""
        dimension, length = self.config.dimension, self.config.context_length
        if x.ndim != 3 or x.shape[2] != dimension or y.shape != x.shape[:2] or y.shape[1] > length:
            raise DataError(
                f"the model takes x [B, K, {dimension}] and y [B, K] with K up to {length}; "
                f"got {tuple(x.shape)} and {tuple(y.shape)}"
            )
        batch, pairs = y.shape
        # The embedding of (0, x) and of (y, 0, ..., 0), without building the zeros.
        weight = self.embed.weight
        tokens = torch.stack((F.linear(x, weight[:, 1:]), y[..., None] * weight[:, 0]), dim=2)
        hidden = tokens.view(batch, 2 * pairs, -1) + self.positions[: 2 * pairs]
        mask = self.mask[: 2 * pairs, : 2 * pairs]
        for block in self.blocks[:-1]:
            hidden = block(hidden, hidden, mask)
        # Only the x positions are read out, so only they need the last block's queries and MLP.
        hidden = self.blocks[-1](hidden[:, ::2], hidden, mask[::2])
        return F.linear(self.norm(hidden), self.unembed.weight[:1], self.unembed.bias[:1])[..., 0]


class _Block(nn.Module):
    """Attention and MLP with residuals. Queries come from `stream`, keys and values from `context`."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.num_heads = config.num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attention_output = nn.Linear(width, width, bias=False) if config.attention_output else None
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_up = nn.Linear(width, config.mlp_width)
        self.mlp_down = nn.Linear(config.mlp_width, width)

    def forward(self, stream: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        batch, queries, width = stream.shape
        heads = self.num_heads
        normed = self.attention_norm(context)
        if stream is context:
            query, key, value = self.query_key_value(normed).chunk(3, dim=-1)
        else:
            weight = self.query_key_value.weight
            query = F.linear(normed[:, ::2], weight[:width])
            key, value = F.linear(normed, weight[width:]).chunk(2, dim=-1)
        query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
        scores = (query @ key.transpose(-1, -2)) * (width // heads) ** -0.5 + mask
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, queries, width)
        if self.attention_output is not None:
            mixed = self.attention_output(mixed)
        stream = stream + mixed
        return stream + self.mlp_down(F.relu(self.mlp_up(self.mlp_norm(stream))))
