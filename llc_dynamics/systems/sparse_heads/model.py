"""The softmax transformer of this system. Linear attention is that of `linear_transformer/model.py` with several heads.

Both have the tokens e_i = (x_i, y_i) and (x, 0), and in every layer

    linear    e <- e + sum_k P_k E' E Q_k e / n         softmax    e <- e + sum_k P_k E' softmax(E Q_k e)

with the examples E [n, d+1] of that layer; the prediction is minus the query's last entry. Softmax, without layer norms
and perceptrons, is ours: it differs from the linear model in the attention alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llc_dynamics.errors import DataError
from llc_dynamics.seeding import torch_generator
from llc_dynamics.systems.linear_transformer.model import LABEL_SCALE, Architecture

_START = 0.3


class SoftmaxTransformer(nn.Module):
    """Predictions [B, m] for queries [B, m, d] of contexts [B, n, d+1]; the model itself sees (x, y/4).

    `p` and `q` hold one tensor [H, d+1, d+1] for each layer. `seed` fixes the initial weights. Raises `DataError` for
    tokens or queries of another shape.
    """

    def __init__(self, architecture: Architecture, *, seed: int = 0) -> None:
        super().__init__()
        self.architecture = architecture
        size, generator = architecture.dimension + 1, torch_generator(seed, "model")

        def parameters() -> nn.ParameterList:
            shape = (architecture.num_heads, size, size)
            return nn.ParameterList(
                _START * torch.randn(shape, generator=generator) for _ in range(architecture.num_layers)
            )

        self.p, self.q = parameters(), parameters()

    def forward(self, tokens: Tensor, queries: Tensor) -> Tensor:
        """Predictions [B, m]."""
        return self.predictions_by_layer(tokens, queries)[-1]

    def predictions_by_layer(self, tokens: Tensor, queries: Tensor) -> list[Tensor]:
        """Predictions [B, m], read out after every layer."""
        return [-each[..., -1] / LABEL_SCALE for each in self.query_tokens(tokens, queries)]

    def query_tokens(self, tokens: Tensor, queries: Tensor) -> list[Tensor]:
        """The queries' tokens [B, m, d+1] after every layer."""
        d = self.architecture.dimension
        if tokens.ndim != 3 or queries.ndim != 3 or (tokens.shape[-1], queries.shape[-1]) != (d + 1, d):
            raise DataError(
                f"the model takes tokens [B, n, {d + 1}] and queries [B, m, {d}]; got {list(tokens.shape)} and "
                f"{list(queries.shape)}"
            )
        examples = torch.cat((tokens[..., :-1], LABEL_SCALE * tokens[..., -1:]), dim=-1)
        asked, found = torch.cat((queries, torch.zeros_like(queries[..., :1])), dim=-1), []
        last = self.architecture.num_layers - 1
        for layer, (p, q) in enumerate(zip(self.p, self.q, strict=True)):
            asking = asked if layer == last else torch.cat((examples, asked), dim=1)
            # [B, H, tokens that ask, examples]
            scores = torch.einsum("bid,hde,bje->bhji", examples, q, asking)
            seen = torch.einsum("bhji,bie->bhje", scores.softmax(-1), examples)
            asking = asking + torch.einsum("hde,bhje->bjd", p, seen)
            if layer < last:
                examples = asking[:, : examples.shape[1]]
            asked = asking[:, -queries.shape[1] :]
            found.append(asked)
        return found
