"""The problems as torch modules and losses; the bare cost of a gradient. Runs in every tool's environment."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from peers.problems import Problem


class LayeredNetwork(nn.Module):
    """Linear layers one after the other; with biases and ReLU between them, or neither (a deep linear network)."""

    def __init__(self, widths: list[int], *, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        pairs = itertools.pairwise(widths)
        self.layers = nn.ModuleList(nn.Linear(fan_in, fan_out, bias=not linear) for fan_in, fan_out in pairs)

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            inputs = layer(inputs) if self.linear else torch.relu(layer(inputs))
        return self.layers[-1](inputs)


class PackedInContext(nn.Module):
    """An `InContextTransformer` that takes x and y as one tensor [B, K, D+1], for tools that pass a single input."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        from llc_dynamics.systems.in_context_regression.transformer import InContextTransformer, TransformerConfig

        self.model = InContextTransformer(TransformerConfig(**config))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs[..., :-1], inputs[..., -1])


def build(problem: Problem) -> nn.Module:
    """The module at w*, in float32."""
    sizes = dict(problem.model)
    kind = sizes.pop("kind")
    if kind in ("deep_linear", "mlp"):
        module: nn.Module = LayeredNetwork(sizes["widths"], linear=kind == "deep_linear")
    elif kind == "in_context":
        module = PackedInContext(sizes)
    else:
        raise ValueError(f"problem {problem.name}: model kind '{kind}' is unknown; known: deep_linear, mlp, in_context")
    module.load_state_dict({name: torch.from_numpy(array) for name, array in problem.weights.items()})
    return module


def loss_of(problem: Problem) -> Callable[[Tensor, Tensor], Tensor]:
    """`loss(outputs, targets)` per sample, shape [B]."""

    def half_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * (outputs - targets).square().flatten(1).sum(1)

    def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().flatten(1).mean(1)

    def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, reduction="none")

    return {
        "half_squared_error": half_squared_error,
        "mean_squared_error": mean_squared_error,
        "cross_entropy": cross_entropy,
    }[problem.loss]


def data_of(problem: Problem) -> tuple[Tensor, Tensor]:
    """Inputs and targets of the whole data set."""
    return torch.from_numpy(problem.inputs), torch.from_numpy(problem.targets)


class SlicedLoader(DataLoader):
    """A shuffling `DataLoader` that takes each batch by one index into the tensors.

    torch's own fetches and stacks sample by sample, which for small models costs many times the gradient. For tools
    that take any `DataLoader`; an incomplete last batch is left out.
    """

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        tensors = self.dataset.tensors
        order = torch.randperm(len(tensors[0]), generator=self.generator)
        size = self.batch_size
        for start in range(0, len(order) - size + 1, size):
            yield tuple(tensor[order[start : start + size]] for tensor in tensors)


def loader_of(
    problem: Problem, batch_size: int, feed: str, *, shuffle: bool = True, generator: torch.Generator | None = None
) -> DataLoader:
    """The data as "loader" (torch's `DataLoader`, as documentations have it) or "sliced" (`SlicedLoader`, quicker)."""
    if feed not in ("loader", "sliced"):
        raise ValueError(f"option feed: '{feed}' is unknown; known: loader, sliced")
    data = TensorDataset(*data_of(problem))
    if feed == "loader":
        return DataLoader(data, batch_size=batch_size, shuffle=shuffle, generator=generator)
    return SlicedLoader(data, batch_size=batch_size, shuffle=True, drop_last=True, generator=generator)


def bare_gradients(problem: Problem, batch_size: int) -> Callable[[int], float]:
    """`run(count)`: seconds of one forward and backward pass on a fixed batch, the mean of `count` passes."""
    module, loss = build(problem), loss_of(problem)
    inputs, targets = (tensor[:batch_size] for tensor in data_of(problem))

    def run(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            for parameter in module.parameters():
                parameter.grad = None
            loss(module(inputs), targets).mean().backward()
        return (time.perf_counter() - start) / count

    return run


def largest_curvature(problem: Problem, num_samples: int = 2_000, iterations: int = 50) -> float:
    """Largest eigenvalue (in size) of the Hessian of the mean loss at w*: power iteration on `num_samples` samples."""
    module, loss = build(problem), loss_of(problem)
    inputs, targets = (tensor[:num_samples] for tensor in data_of(problem))
    parameters = list(module.parameters())
    # The fused attention kernels have no second derivative.
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        value = loss(module(inputs), targets).mean()
    gradients = torch.autograd.grad(value, parameters, create_graph=True)
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(parameter.shape, generator=generator) for parameter in parameters]
    eigenvalue = 0.0
    for _ in range(iterations):
        length = torch.stack([part.square().sum() for part in direction]).sum().sqrt()
        direction = [part / length for part in direction]
        dot = torch.stack([(g * v).sum() for g, v in zip(gradients, direction, strict=True)]).sum()
        product = torch.autograd.grad(dot, parameters, retain_graph=True)
        eigenvalue = float(torch.stack([(p * v).sum() for p, v in zip(product, direction, strict=True)]).sum())
        direction = list(product)
    return abs(eigenvalue)
