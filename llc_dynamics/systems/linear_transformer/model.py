"""Linear transformers and what they compute (Vladymyrov et al. 2024, arXiv 2402.14180, section 3).

Tokens are e_i = (x_i, y_i) for the n examples and (x, 0) for the query. A layer is linear attention to the examples,
with a residual: e <- e + sum_k P_k G Q_k e, G = sum_{i<=n} e_i e_i'. The prediction is minus the query's last entry.

Every layer's tokens are one linear map of the first layer's, e^l = T^l e^0 with T = [[M, u], [-w', a]], and

    T^0 = I,    T^{l+1} = (I + sum_k P_k (T^l G T^l') Q_k) T^l,

so that the prediction after l layers is w^l . x. The model computes this recursion; `token_predictions` is the slow
form. Its own P~ and Q~ act on (x, y/4) and on G/n, which is the same model: P = S^-1 P~ S, Q = S Q~ S / n with
S = diag(1, ..., 1, 1/4). Where labels are of the size of the inputs, one learning rate fits all entries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.seeding import torch_generator
from llc_dynamics.settings import with_plain_numbers
from llc_dynamics.systems.linear_transformer.task import require_sizes

LABEL_SCALE = 0.25
_START = {"full": 0.3, "diag": 0.5, "gdpp": 0.5}
_FIRST_LOSS, _SHRINK, _MOST_SHRINKS = 10.0, 0.93, 100

Algorithm = Literal["full", "diag", "gdpp"]
PRODUCTS = ("w_xx", "w_xy", "w_yx", "w_yy")


@dataclass(frozen=True)
class Architecture:
    """Sizes of a `LinearTransformer`.

    algorithm : "full", P and Q are free; "diag", P = diag(p_x I, p_y) and Q = diag(q_x I, q_y); "gdpp" (GD++), the same
        with q_y = 0. key_rank : R of separate keys and queries, Q = K' Q~ with K and Q~ [R, d+1] ("full" only); None
        for a merged Q.

    Raises `ConfigError` for a number below 1 or an unknown algorithm.
    """

    dimension: int = 10
    num_examples: int = 20
    algorithm: Algorithm = "full"
    num_layers: int = 4
    num_heads: int = 1
    key_rank: int | None = None

    def __post_init__(self) -> None:
        with_plain_numbers(self)
        require_sizes(self.dimension, self.num_examples)
        if self.algorithm not in _START:
            raise ConfigError(f"algorithm: '{self.algorithm}' is unknown; known: {', '.join(_START)}")
        for name in ("num_layers", "num_heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more; got {getattr(self, name)}")
        if self.key_rank is not None and (self.algorithm != "full" or self.key_rank < 1):
            raise ConfigError(
                f"key_rank: separate keys and queries need algorithm 'full' and a rank of 1 or more; got key_rank = "
                f"{self.key_rank} with '{self.algorithm}'"
            )


class LinearTransformer(nn.Module):
    """The weight vector w^L [B, d] of contexts by their moments G [B, d+1, d+1]: the prediction for a query is w^L . x.

    `p` and `q` (or `key` and `query`) hold one tensor for each layer, with its heads first: [H, d+1, d+1] for FULL,
    [H, 2] for the entries (x, y) of the diagonals, [H, 1] for the q of GD++. `seed` fixes the initial weights.

    Memory grows by (d+1)^3 numbers a context: evaluate many contexts in parts.

    Raises `DataError` for moments of another shape.
    """

    gauge: Tensor

    def __init__(self, architecture: Architecture, *, seed: int = 0) -> None:
        super().__init__()
        self.architecture = architecture
        size, heads, rank = architecture.dimension + 1, architecture.num_heads, architecture.key_rank
        generator = torch_generator(seed, "model")
        std = _START[architecture.algorithm]

        def parameters(shape: tuple[int, ...], std: float = std) -> nn.ParameterList:
            return nn.ParameterList(
                std * torch.randn(heads, *shape, generator=generator) for _ in range(architecture.num_layers)
            )

        if architecture.algorithm == "full":
            self.p = parameters((size, size))
            if rank is None:
                self.q = parameters((size, size))
            else:
                entry = (std**2 / rank) ** 0.5  # the standard deviation of an entry of K' Q~ is that of a merged Q
                self.key, self.query = parameters((rank, size), entry**0.5), parameters((rank, size), entry**0.5)
        else:
            self.p = parameters((2,))
            self.q = parameters((2,) if architecture.algorithm == "diag" else (1,))
        gauge = torch.ones(size)
        gauge[-1] = LABEL_SCALE
        self.register_buffer("gauge", gauge, persistent=False)

    def own_matrices(self, layer: int) -> tuple[Tensor, Tensor]:
        """P~ and Q~ of a layer: [H, d+1, d+1], or [H, d+1] where they are diagonal."""
        p, dimension = self.p[layer], self.architecture.dimension
        if self.architecture.algorithm == "full":
            if self.architecture.key_rank is None:
                return p, self.q[layer]
            return p, self.key[layer].mT @ self.query[layer]
        q = self.q[layer]
        label = q[:, 1:] if self.architecture.algorithm == "diag" else torch.zeros_like(q)
        wide = (p.shape[0], dimension)
        return (
            torch.cat((p[:, :1].expand(wide), p[:, 1:]), dim=1),
            torch.cat((q[:, :1].expand(wide), label), dim=1),
        )

    def matrices(self, layer: int) -> tuple[Tensor, Tensor]:
        """The paper's P and Q of a layer, [H, d+1, d+1]."""
        p, q = (each if each.ndim == 3 else torch.diag_embed(each) for each in self.own_matrices(layer))
        gauge = self.gauge.to(p.dtype)
        outer = gauge[:, None] * gauge
        return p * gauge / gauge[:, None], q * outer / self.architecture.num_examples

    def forward(self, moments: Tensor) -> Tensor:
        """w^L [B, d]."""
        g = self._own_moments(moments)
        layers = [self.own_matrices(layer) for layer in range(self.architecture.num_layers)]
        t = None
        for p, q in layers[:-1]:
            t = _next(t, g, p, q)
        return self._read(_last_row(t, g, *layers[-1])).T

    def maps(self, moments: Tensor) -> list[Tensor]:
        """T^l = [[M, u], [-w', a]], [B, d+1, d+1], for l = 1..L."""
        g = self._own_moments(moments)
        t, found = None, []
        gauge = self.gauge.to(g.dtype)
        for layer in range(self.architecture.num_layers):
            t = _next(t, g, *self.own_matrices(layer))
            found.append(t.permute(2, 0, 1) * gauge / gauge[:, None])
        return found

    def weights_by_layer(self, moments: Tensor) -> Tensor:
        """The read-out after every layer: w^l [L, B, d]."""
        return torch.stack([-t[:, -1, :-1] for t in self.maps(moments)])

    def products(self) -> Tensor:
        """w_xx, w_xy, w_yx, w_yy of every layer, [L, 4]: what the layer adds to x and to y, from x and from y.

        For diagonal layers sum_k p_x q_x, sum_k p_x q_y, sum_k p_y q_x, sum_k p_y q_y. For FULL their part that no
        rotation of the inputs changes: tr(P_xx Q_xx) / d, tr(P_xx) q_yy / d, p_yy tr(Q_xx) / d, p_yy q_yy.
        """
        found = []
        for layer in range(self.architecture.num_layers):
            p, q = self.matrices(layer)
            p_x, q_x = (each[:, :-1, :-1] for each in (p, q))
            p_y, q_y = p[:, -1, -1], q[:, -1, -1]
            trace_p, trace_q, both = (each.diagonal(dim1=1, dim2=2).mean(-1) for each in (p_x, q_x, p_x @ q_x))
            found.append(torch.stack([each.sum() for each in (both, trace_p * q_y, p_y * trace_q, p_y * q_y)]))
        return torch.stack(found)

    def token_predictions(self, x: Tensor, y: Tensor, query: Tensor) -> Tensor:
        """Predictions [L, B] after every layer, token by token: x [B, n, d], y [B, n], query [B, d]."""
        tokens = torch.cat((x, y[..., None]), dim=-1)
        asked = torch.cat((query, torch.zeros_like(query[:, :1])), dim=-1)[:, None]
        found = []
        for layer in range(self.architecture.num_layers):
            p, q = self.matrices(layer)
            g = tokens.mT @ tokens
            update = torch.einsum("kij,bjl,klm->bim", p, g, q)
            tokens, asked = tokens + tokens @ update.mT, asked + asked @ update.mT
            found.append(-asked[:, 0, -1])
        return torch.stack(found)

    def _own_moments(self, moments: Tensor) -> Tensor:
        """G of (x, y/4), divided by n, with the contexts last."""
        size = self.architecture.dimension + 1
        if moments.ndim != 3 or moments.shape[1:] != (size, size):
            raise DataError(f"the model takes moments [B, {size}, {size}]; got {list(moments.shape)}")
        outer = self.gauge[:, None] * self.gauge / self.architecture.num_examples
        return moments.permute(1, 2, 0) * outer[:, :, None].to(moments.dtype)

    def _read(self, last_row: Tensor) -> Tensor:
        return -last_row[:-1] / self.gauge[-1].to(last_row.dtype)


def _times(one: Tensor, other: Tensor) -> Tensor:
    """The product of a context's own matrices, [i, j, B] with [j, k, B].

    A sum over a broadcast product: for matrices of this size it takes a tenth of the time of batched products over a
    last dimension, and the compiler makes of it one loop without the (d+1)^3 numbers a context that it holds otherwise.
    """
    return (one[:, :, None] * other).sum(1)


def _next(t: Tensor | None, g: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """T^{l+1} of T^l (None: the unit matrix), all with the contexts last; p and q with their heads first.

    sum_k P_k S Q_k with S = T G T' takes two products with matrices that all contexts share, however many heads.
    """
    size, heads = len(g), len(p)
    seen = g if t is None else _times(_times(t, g), t.transpose(0, 1))
    if p.ndim == 3:
        asked = (q.mT.reshape(-1, size) @ seen.reshape(size, -1)).view(heads, size, size, -1)  # S Q_k, [k, l, i, B]
        asked = asked.transpose(1, 2).reshape(heads * size, -1)
        added = (p.transpose(0, 1).reshape(size, -1) @ asked).view(size, size, -1)
    else:
        added = (p.T @ q)[:, :, None] * seen
    if t is None:
        return torch.eye(size, dtype=g.dtype, device=g.device)[:, :, None] + added
    return t + _times(added, t)


def _last_row(t: Tensor | None, g: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """The last row [d+1, B] of T^L, all that the prediction needs: products of rows with matrices only."""
    if t is None:
        t = torch.eye(len(g), dtype=g.dtype, device=g.device)[:, :, None]

    def times(row: Tensor, matrix: Tensor) -> Tensor:
        return (row[:, None] * matrix).sum(0)

    asked = torch.zeros_like(g[0])
    for p_k, q_k in zip(p, q, strict=True):
        row = times(p_k[-1, :, None], t) if p_k.ndim == 2 else p_k[-1] * t[-1]
        row = times(times(row, g), t.transpose(0, 1))
        asked = asked + (times(row, q_k[:, :, None]) if q_k.ndim == 2 else row * q_k[:, None])
    return t[-1] + times(asked, t)


def shrink(model: nn.Module, loss: Callable[[], Tensor]) -> None:
    """Shrink all weights by a constant factor until the mean loss is below 10.

    Several layers multiply up, and a few contexts would rule the first steps.
    """
    with torch.no_grad():
        for _ in range(_MOST_SHRINKS):
            if loss().mean() < _FIRST_LOSS:
                break
            for parameter in model.parameters():
                parameter.mul_(_SHRINK)


def names_of_products(num_layers: int) -> Sequence[str]:
    """Names for `LinearTransformer.products`, layer by layer."""
    return [f"{name}/layer_{layer}" for layer in range(1, num_layers + 1) for name in PRODUCTS]
