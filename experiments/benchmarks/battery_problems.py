"""The problems of `battery.py`, by class."""

from __future__ import annotations

import functools
from typing import Any

import integrals
import torch
from known_answers import (
    Known,
    by_quadrature,
    difference,
    digits,
    fresh_scales,
    hidden_layer,
    likelihood,
    linear,
    normal,
    scales,
    side_by_side,
)
from torch import Tensor
from torch.nn import functional as F

from llc_dynamics.theory import quadratic_llc

# factors of the posterior: g of weights [..., d], u*
SQUARE = (lambda u: u, (0.0,))
QUARTIC = (lambda u: u.square(), (0.0,))
SEXTIC = (lambda u: u.pow(3), (0.0,))
FLAT = (lambda u: 0 * u, (0.0,))
CROSSING = (lambda u: u.prod(-1, keepdim=True), (0.0, 0.0))
CHAIN = (lambda u: u.prod(-1, keepdim=True), (0.0, 0.0, 0.0))
TIED = (lambda u: u[..., :1] * u[..., 1:].square(), (0.0, 0.0))
RING = (lambda u: u.square().sum(-1, keepdim=True) - 1, (1.0, 0.0))
BANANA = (lambda u: torch.stack([u[..., 0] - 1, 3 * (u[..., 1] - u[..., 0].square())], -1), (1.0, 1.0))
LINKED = (lambda u: u[..., :2] * u[..., 1:], (0.0, 0.0, 0.0))
DIRECTION = (lambda u: u / u.norm(dim=-1, keepdim=True), (1.0, 0.0, 0.0))
RADIAL = (lambda u: u.norm(dim=-1, keepdim=True) * u, (0.0,) * 6)
WELL = (lambda u: 2 * (u.square() - 1), (1.0,))
COSINE = (lambda u: torch.cat([torch.cos(3 * u) - 1, torch.sin(3 * u)], -1) / 2, (0.0,))
LOGARITHM = (lambda u: torch.sqrt(torch.log1p(u.square()) + 1e-12), (0.0,))
SATURATING = (torch.tanh, (0.0,))
EXPONENTIAL = (lambda u: torch.exp(3 * u) - 1, (0.0,))


def regular() -> list[Known]:
    mixing = torch.linalg.qr(normal(12, 12, "mixing")).Q
    x = normal(2000, 12, "correlated") @ (mixing * torch.logspace(0, -1.5, 12))
    y = x.sum(1) + normal(2000, 1, "targets")[:, 0]
    curvatures = torch.logspace(-2, 2, 20)
    bowl = (lambda u: curvatures.sqrt() * u, (0.0,) * 20)
    plane = normal(400, 2, "plane")
    labels = (torch.sigmoid(plane @ torch.tensor([1.5, -1.0])) > torch.rand(400, generator=_generator())).float()
    counts = torch.poisson(torch.exp(plane @ torch.tensor([0.6, 0.3])), generator=_generator())
    line = normal(300, 1, "line")

    def logistic(u: Tensor, batch: Any) -> Tensor:
        return F.softplus(batch[0] @ u) - batch[1] * (batch[0] @ u)

    def poisson(u: Tensor, batch: Any) -> Tensor:
        return torch.exp(batch[0] @ u) - batch[1] * (batch[0] @ u)

    def neuron(b: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(b[0] * x + b[1])

    return [
        linear("regular", "least squares, correlated inputs, noisy targets", x, 1.0, noise=y),
        side_by_side(
            "regular", "20 curvatures over 4 decades, fresh samples", [(bowl, 1)], 5.0, 200.0, data=fresh_scales,
            values=[functools.partial(quadratic_llc, 2 * curvatures.numpy())],
        ),
        likelihood("regular", "logistic regression", logistic, (0.0, 0.0), (plane, labels), 1.0, 0.2),
        likelihood("regular", "Poisson regression", poisson, (0.0, 0.0), (plane, counts), 1.0, 1.5),
        hidden_layer(
            "regular", "a neuron a tanh(b x + c)", neuron, [0.8, 0.3], [[1.5]], line, 1.0, 2.0, num_samples=300,
        ),
    ]  # fmt: skip


def degenerate() -> list[Known]:
    def funnel(b: Tensor, x: Tensor) -> Tensor:
        return torch.exp(b / 2) * x

    return [
        side_by_side("degenerate", "two rings", [(RING, 2)], 2.0, 8.0),
        side_by_side("degenerate", "three bananas", [(BANANA, 3)], 2.0, 80.0),
        side_by_side("degenerate", "w1 w2 and w2 w3, noisy targets", [(LINKED, 2)], 5.0, 2.0, noise=0.5),
        side_by_side("degenerate", "a direction, of any length", [(DIRECTION, 1)], 3.0, 2.0),
        side_by_side(
            "degenerate", "|w|^4 in six dimensions", [(RADIAL, 1)], 1.0, 2.0,
            values=[functools.partial(integrals.radial, lambda r: r**4, 6)],
        ),
        hidden_layer("degenerate", "a funnel", funnel, [0.0], [[0.0] * 4], scales()[0], 1.0, 10.0),
    ]  # fmt: skip


def rotated() -> list[Known]:
    rotate: dict[str, Any] = {"rotate": True}
    mixed = [(SQUARE, 5), (QUARTIC, 3)]
    powers = [(SQUARE, 3), (QUARTIC, 3), (SEXTIC, 3), (FLAT, 6)]
    return [
        side_by_side("rotated", "squares and fourth powers", mixed, 1.0, 2.0, **rotate),
        side_by_side(
            "rotated", "three crossings, fresh samples", [(CROSSING, 3)], 3.0, 3.0, data=fresh_scales, **rotate,
        ),
        side_by_side("rotated", "second, fourth and sixth powers, and flat ones", powers, 1.0, 2.0, **rotate),
        side_by_side(
            "rotated", "rings and squares, noisy targets", [(RING, 2), (SQUARE, 4)], 2.0, 8.0, noise=0.5, **rotate,
        ),
    ]  # fmt: skip


def deep() -> list[Known]:
    line = normal(64, 1, "line")

    def chain(kind: str, name: str, start: tuple[float, ...], count: int, gamma: float, **others: Any) -> Known:
        value = functools.partial(integrals.product_chain, start, 1.0)
        return side_by_side(
            kind, name, [((lambda u: u.prod(-1, keepdim=True), start), count)], gamma, 6.0, values=[value], **others
        )

    def tanhs(b: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(b[1] * torch.tanh(b[0] * x))

    def residual(u: Tensor, batch: Any) -> Tensor:
        h = batch[0]
        for layer in range(3):
            h = h + u[layer] * torch.tanh(h)
        return h

    def bilinear(b: Tensor, x: Tensor) -> Tensor:
        return (x @ b)[:, None]

    return [
        chain("deep", "products of 4 weights at 1, three of them", (1.0,) * 4, 3, 5.0),
        chain("deep", "products of 8 weights at 1, fresh samples", (1.0,) * 8, 2, 10.0, data=fresh_scales),
        chain("deep", "a product of 5 with two dead layers", (0.0, 0.0, 1.0, 1.0, 1.0), 2, 5.0),
        hidden_layer(
            "deep", "three tanh layers", tanhs, [1.2, 1.0], [[2.0]], normal(300, 1, "line"), 2.0, 3.0, num_samples=300,
        ),
        Known(
            "deep", "three residual layers at the identity", residual, (0.0,) * 3, (line,),
            by_quadrature(residual, (0.0,) * 3, (line,)), 2.0, 4.0, num_samples=300, batch_size=64,
        ),
        hidden_layer("deep", "rank one: 2 inputs, 1 hidden, 5 outputs", bilinear, [0.8, 0.6], [[1.0, 0.5, 0, 0, -0.5]],
                     normal(500, 2, "plane"), 2.0, 4.0, num_samples=500),
    ]  # fmt: skip


def rank_0() -> list[Known]:
    def network(inputs: int, hidden: int, outputs: int, gamma: float, **others: Any) -> Known:
        size = hidden * inputs

        def product(u: Tensor) -> Tensor:
            return u[..., size:].view(outputs, hidden) @ u[..., :size].view(hidden, inputs)

        value = functools.partial(integrals.zero_product, inputs, hidden, outputs, 1.0)
        factor = (product, (0.0,) * (size + outputs * hidden))
        name = f"linear network ({inputs}, {hidden}, {outputs}) at zero"
        return side_by_side("rank 0", name, [(factor, 1)], gamma, 4.0, values=[value], **others)

    cube = functools.partial(integrals.product_chain, (0.0,) * 3, 1.0)
    return [
        network(6, 3, 1, 3.0),
        network(5, 2, 4, 3.0, data=fresh_scales),
        network(8, 1, 8, 3.0),
        side_by_side(
            "rank 0", "three-layer chains at zero, free and tied", [(CHAIN, 3), (TIED, 2)],
            3.0, 2.0, values=[cube, None],
        ),
    ]  # fmt: skip


def rare_features() -> list[Known]:
    generator = _generator()
    on = torch.zeros(1000, 7)
    on[:, 0] = 1.0
    for feature in range(1, 7):
        on[torch.randperm(1000, generator=generator)[:2], feature] = 4.0
    share = 1 / torch.arange(1, 31)
    tokens = F.one_hot(torch.multinomial(share, 2000, True, generator=generator), 30).float()
    line = normal(1000, 1, "line")

    def rare_unit(u: Tensor, batch: Any) -> Tensor:
        return 4 * F.relu(u[0] * batch[0] + u[1] - 2.2)

    shares = (0.3, 0.01, 0.003)
    which = torch.zeros(1000, 3)
    for feature, part in enumerate(shares):
        which[torch.randperm(1000, generator=generator)[: int(1000 * part)], feature] = 1.0

    def squares(u: Tensor, batch: Any) -> Tensor:
        return 3 * batch[0] * u.square()

    def value(nbeta: float, gamma: float) -> float:
        return sum(
            integrals.quadrature(lambda u, part=part: 9 * part * u[:, 0] ** 4, [0.0], nbeta, gamma) for part in shares
        )

    noise = normal(1000, 1, "targets")[:, 0]
    return [
        linear("rare features", "six features on in 2 of 1,000 samples", on, 1.0),
        linear("rare features", "the same with noisy targets", on, 1.0, noise=noise),
        linear("rare features", "30 tokens by Zipf's law", tokens, 1.0),
        Known(
            "rare features", "a ReLU that is on for 1%", rare_unit, (1.0, 0.0), (line,),
            by_quadrature(rare_unit, (1.0, 0.0), (line,)), 1.0, 3.0,
        ),
        Known("rare features", "squared weights of rare inputs", squares, (0.0,) * 3, (which,), value, 1.0, 3.0),
    ]  # fmt: skip


def heavy_tails() -> list[Known]:
    def student(shape: tuple[int, ...], freedom: float, purpose: str) -> Tensor:
        torch_distribution = torch.distributions.StudentT(freedom)
        with torch.random.fork_rng():
            torch.manual_seed(len(purpose))
            return torch_distribution.sample(shape)

    x = student((1000, 5), 2.5, "inputs")
    y = x.sum(1) + student((1000,), 2.5, "noise")
    sample = 1 + 2 * student((500,), 3.0, "sample")

    def location(u: Tensor, batch: Any) -> Tensor:
        z = (batch[0] - u[0]) * torch.exp(-u[1])
        return 2 * torch.log1p(z.square() / 3) + u[1]

    return [
        linear("heavy tails", "inputs and noise of Student's t, 2.5 degrees", x, 1.0, noise=y),
        linear("heavy tails", "inputs of Student's t, behavioural", x, 1.0),
        likelihood("heavy tails", "location and scale of Student's t", location, (1.0, 0.5), (sample,), 1.0, 1.5),
        side_by_side("heavy tails", "log(1 + w^2)", [(LOGARITHM, 4)], 0.3, 2.0, num_samples=20),
        side_by_side("heavy tails", "tanh(w)^2: a plateau of equal loss", [(SATURATING, 4)], 0.02, 2.0, num_samples=20),
        side_by_side("heavy tails", "exponentials", [(EXPONENTIAL, 3)], 1.0, 50.0),
    ]  # fmt: skip


def softmax() -> list[Known]:
    def entropy(u: Tensor, batch: Any) -> Tensor:
        w = torch.cat([u.view(-1, batch[0].shape[1]), u.new_zeros(1, batch[0].shape[1])])
        logits = batch[0] @ w.T
        return torch.logsumexp(logits, 1) - (logits * batch[1]).sum(1)

    def logits(u: Tensor, batch: Any) -> Tensor:
        return batch[0] @ u.view(3, -1).T

    three, pair = digits((3, 5, 8), 2), digits((3, 8), 4)
    first = likelihood("softmax on digits", "3, 5 and 8", entropy, (0.0,) * 4, three, 1.0, 0.5, by_draws=True)
    second = likelihood("softmax on digits", "3 and 8, batches of 16", entropy, (0.0,) * 4, pair, 1.0, 0.5,
                        by_draws=True, batch_size=16)  # fmt: skip
    # The logits of all classes: two directions, the same for all classes, are flat.
    start = (*first.start, 0.0, 0.0)
    kl = Known("softmax on digits", "3, 5 and 8, behavioural, all logits", logits, start, (three[0],),
               _with_flat_shift(three[0], start), 1.0, 0.5, loss="kl", num_samples=len(three[0]))  # fmt: skip
    return [first, second, kl]


def _with_flat_shift(x: Tensor, start: tuple[float, ...]) -> Any:
    """Classes in an orthonormal basis whose last vector is the same for all, on which the loss does not depend."""
    basis = torch.tensor([[1, -1, 0], [1, 1, -2]], dtype=torch.float64)
    basis /= basis.norm(dim=1, keepdim=True)

    def logits(v: Tensor, batch: Any) -> Tensor:
        return batch[0] @ (basis.T @ v.view(2, -1)).T

    origin = (basis @ torch.tensor(start, dtype=torch.float64).view(3, -1)).flatten().tolist()
    at = difference(logits, origin, (x,), "kl")
    return functools.cache(lambda nbeta, gamma: integrals.importance(at, origin, nbeta, gamma))


def units_to_spare() -> list[Known]:
    x, plane = normal(256, 1, "line"), normal(256, 2, "plane")

    def tanhs(b: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(x * b)

    def relus(b: Tensor, x: Tensor) -> Tensor:
        return F.relu(x * b)

    def relu_with_bias(b: Tensor, x: Tensor) -> Tensor:
        return F.relu(x * b[0] + b[1])

    def relu_of_plane(b: Tensor, x: Tensor) -> Tensor:
        return F.relu(x @ b)[:, None]

    few: dict[str, Any] = {"num_samples": 256, "batch_size": 64}
    kind = "units to spare"
    return [
        hidden_layer(kind, "tanh, one of two at zero", tanhs, [1.0, 0.0], [[1.5], [0.0]], x, 2.0, 3.0, **few),
        hidden_layer(kind, "tanh, two alike", tanhs, [1.0, 1.0], [[0.8], [0.7]], x, 2.0, 3.0, **few),
        hidden_layer(kind, "tanh, three, all at zero", tanhs, [0.0] * 3, [[0.0]] * 3, x, 2.0, 2.0, **few),
        hidden_layer(kind, "ReLU, one of two off", relus, [1.0, -1.0], [[1.0], [0.0]], x, 2.0, 3.0, **few),
        hidden_layer(kind, "ReLU that is never on", relu_with_bias, [0.5, -2.5], [[1.0]], x, 0.3, 2.0, **few),
        hidden_layer(
            kind, "ReLU of a plane, outgoing weights zero", relu_of_plane, [1.0, 0.5], [[0.0] * 3], plane, 2.0, 2.0,
            **few,
        ),
    ]  # fmt: skip


def side_wells() -> list[Known]:
    def tilted(u: Tensor, batch: Any) -> Tensor:
        # w* = 1.0 is close to the shallower minimum; noise with mean zero over the data
        return ((u[0] ** 2 - 1) ** 2 + 0.15 * u[0] + batch[0][:, 0] * u[0]).expand(len(batch[0]))

    def narrow(u: Tensor, batch: Any) -> Tensor:
        # a narrow well at w* = 0 and a broad one of the same depth at (2, 0)
        one = 20 * u.square().sum()
        other = 0.5 * ((u[0] - 2) ** 2 + u[1] ** 2)
        return (one * other / (one + other + 0.1)).expand(len(batch[0])) * batch[0][:, 0].square()

    half = normal(500, 1, "noise")
    noise = (torch.cat([half, -half]),)
    shallow = 0.9804  # the local minimum on the right: 4 w (w^2 - 1) + .15 = 0
    return [
        side_by_side("side wells", "two equal wells", [(WELL, 1)], 2.0, 32.0, num_samples=100),
        side_by_side(
            "side wells", "equal wells of four weights, rotated with squares", [(WELL, 4), (SQUARE, 4)], 1.0, 32.0,
            rotate=True,
        ),
        side_by_side("side wells", "cosines", [(COSINE, 3)], 0.5, 5.0, num_samples=100),
        Known("side wells", "in the shallower well", tilted, (shallow,), noise,
              by_quadrature(tilted, (shallow,), noise, "given"), 3.0, 8.0, loss="given", num_samples=100),
        Known("side wells", "in the narrow well beside a broad one", narrow, (0.0, 0.0), scales(),
              by_quadrature(narrow, (0.0, 0.0), scales(), "given"), 0.3, 40.0, loss="given", num_samples=100),
    ]  # fmt: skip


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


CLASSES = (
    regular,
    degenerate,
    rotated,
    deep,
    rank_0,
    rare_features,
    heavy_tails,
    softmax,
    units_to_spare,
    side_wells,
)


@functools.cache
def problems() -> tuple[Known, ...]:
    found = tuple(problem for make in CLASSES for problem in make())
    assert len({problem.name for problem in found}) == len(found)
    return found


if __name__ == "__main__":
    import time

    for each in problems():
        begun = time.perf_counter()
        values = []
        for share in (0.01, 1, 30):
            try:
                values.append(f"{each.value(each.nbeta, share * each.gamma):.4g}")
            except integrals.NotSettledError as error:
                values.append(str(error)[27:])
        print(
            f"{each.kind:18s} {each.name:55s} d={len(each.start):3d} {values} {time.perf_counter() - begun:.1f}s",
            flush=True,
        )
