"""Small problems that the tests share: losses, models and data with known answers."""

import torch
from torch import nn

import llc_dynamics as ld
from llc_dynamics.theory import mean_squared_error

NO_DATA = (torch.zeros(3, 1),)  # for losses that look at the weights alone


def outputs(model, batch):
    return model(batch[0])


def squared_error(model, batch):
    """The mean over the outputs, [B]."""
    return mean_squared_error(model, batch)


def squared_outputs(model, batch):
    return model(batch[0]).square().mean(1)


def exact_loss(potential):
    """L(w) = sum of potential(w), the same for every sample, so that gradients are exact."""
    return lambda model, batch: potential(model.w).sum().expand(len(batch[0]))


def quadratic(curvatures):
    """L(w) = sum h_i w_i^2 / 2."""
    return exact_loss(lambda w: torch.as_tensor(curvatures) * w.square() / 2)


class Vector(nn.Module):
    """Weights and nothing else, at zero."""

    def __init__(self, size, dtype=torch.float32):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(size, dtype=dtype))


def network(hidden=4, dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, hidden), nn.Tanh(), nn.Linear(hidden, 1)).to(dtype)


def regression(samples=64, seed=0, dtype=torch.float32):
    """y = x_1 + x_2 + x_3 and noise of deviation .3."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 3, generator=generator, dtype=dtype)
    return x, x.sum(1, keepdim=True) + 0.3 * torch.randn(samples, 1, generator=generator, dtype=dtype)


def least_squares(samples=2000, dimension=6, seed=0):
    """Data, the model at the least-squares solution, and the curvatures of its loss."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, dimension, generator=generator, dtype=torch.float64)
    y = x.sum(1, keepdim=True) + torch.randn(samples, 1, generator=generator, dtype=torch.float64)
    model = nn.Linear(dimension, 1, bias=False).double()
    model.weight.data = torch.linalg.lstsq(x, y).solution.T.contiguous()
    return (x, y), model, torch.linalg.eigvalsh(2 * x.T @ x / samples)


def tiny_in_context(num_tasks=3, **fields):
    """In-context regression with a transformer of 8 units, for tests that train."""
    task = {"dimension": 2, "context_length": 4, "num_sequences": 32, "num_root_sequences": 8}
    model = {"num_layers": 1, "num_heads": 2, "width": 8, "mlp_width": 8}
    return ld.InContextRegression(num_tasks, **{**task, **model, **fields})
