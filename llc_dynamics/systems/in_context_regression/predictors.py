"""The two ideal in-context predictors, for every prefix of every sequence at once.

Both return predictions [B, K]: entry k uses the pairs j < k and the query x_k (Carroll et al. 2025, appendix A;
Raventos et al. 2023, section 2). They compute in float64 whatever they are given and return the dtype of `y`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llc_dynamics.errors import ConfigError, DataError

_CHUNK_ELEMENTS = 2**24  # of float64: the largest temporary of dmmse stays near 128 MB


def ridge(x: Tensor, y: Tensor, noise_variance: float) -> Tensor:
    """Ridge regression, t_hat_k = (X'X + s2 I)^-1 X'y over j < k; the prediction is t_hat_k . x_k, and zero at k = 1.

    One pass over the context. The posterior covariance of t is carried as a square root S (P = S S') and updated by
    Potter's rule, which stays accurate where X'X + s2 I is close to singular (tiny noise, long contexts).

    Parameters
    ----------
    x : [B, K, D]; y : [B, K]; noise_variance : s2 > 0.
    """
    _check(x, y, noise_variance)
    x64, y64 = x.double(), y.double()
    batch, length, dimension = x.shape
    root = torch.eye(dimension, dtype=torch.float64, device=x.device).expand(batch, -1, -1)
    estimate = x64.new_zeros(batch, dimension)
    predictions = x64.new_zeros(batch, length)
    for k in range(length):
        x_k = x64[:, k]
        predictions[:, k] = (estimate * x_k).sum(-1)
        f = torch.einsum("bij,bi->bj", root, x_k)
        innovation_variance = (f * f).sum(-1) + noise_variance
        gain = torch.einsum("bij,bj->bi", root, f) / innovation_variance[:, None]
        estimate = estimate + gain * (y64[:, k] - predictions[:, k])[:, None]
        shrink = 1 / (1 + torch.sqrt(noise_variance / innovation_variance))
        root = root - (shrink[:, None] * gain)[:, :, None] * f[:, None, :]
    return predictions.to(y.dtype)


def dmmse(x: Tensor, y: Tensor, tasks: Tensor, noise_variance: float) -> Tensor:
    """Discrete minimum mean squared error: the posterior mean over the task set, for a uniform prior on it.

    t_hat_k = sum_m softmax_m(-(1 / 2 s2) sum_{j<k} (y_j - t_m . x_j)^2) t_m; at k = 1 the mean task. Tasks are visited
    in chunks with a running softmax, so that memory is bounded for any M.

    Parameters
    ----------
    x : [B, K, D]; y : [B, K]; tasks : [M, D]; noise_variance : s2 > 0.
    """
    _check(x, y, noise_variance)
    if tasks.ndim != 2 or tasks.shape[1] != x.shape[2] or len(tasks) < 1:
        raise DataError(f"dmmse: tasks must be [M, {x.shape[2]}] with M of 1 or more, got shape {tuple(tasks.shape)}")
    tasks64 = tasks.to(device=x.device, dtype=torch.float64)
    length = x.shape[1]
    rows = max(1, _CHUNK_ELEMENTS // (length * min(len(tasks), 1024)))
    chunks = [
        _dmmse_block(x_block.double(), y_block.double(), tasks64, noise_variance)
        for x_block, y_block in zip(x.split(rows), y.split(rows), strict=True)
    ]
    return torch.cat(chunks).to(y.dtype)


def _dmmse_block(x: Tensor, y: Tensor, tasks: Tensor, noise_variance: float) -> Tensor:
    batch, length, _ = x.shape
    step = max(1, _CHUNK_ELEMENTS // (batch * length))
    top = x.new_full((batch, length), -torch.inf)  # running maximum of the log weights
    weight_sum = x.new_zeros(batch, length)
    weighted = x.new_zeros(batch, length)  # running sum of weight times prediction
    for chunk in tasks.split(step):
        outputs = x @ chunk.T  # [B, K, m]: what each task would predict
        squares = (y[..., None] - outputs).square_()
        log_weights = squares.cumsum(1).sub_(squares).mul_(-0.5 / noise_variance)  # over j < k
        log_weights[:, 0] = 0.0  # exactly, where the subtraction leaves rounding
        new_top = torch.maximum(top, log_weights.amax(-1))
        keep = torch.exp(top - new_top)
        weights = torch.exp(log_weights.sub_(new_top[..., None]))
        weight_sum = weight_sum * keep + weights.sum(-1)
        weighted = weighted * keep + (weights * outputs).sum(-1)
        top = new_top
    return weighted / weight_sum


def _check(x: Tensor, y: Tensor, noise_variance: float) -> None:
    if x.ndim != 3 or y.shape != x.shape[:2]:
        raise DataError(f"x must be [B, K, D] and y [B, K]; got {tuple(x.shape)} and {tuple(y.shape)}")
    if not noise_variance > 0:
        raise ConfigError(f"noise_variance must be positive; got {noise_variance}")
