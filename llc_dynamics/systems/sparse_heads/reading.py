"""What the layers of a model make of a context: features for linear probes, and the context as a layer hands it on."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from llc_dynamics.systems.linear_transformer.model import LinearTransformer
from llc_dynamics.systems.linear_transformer.task import Contexts
from llc_dynamics.systems.sparse_heads.model import SoftmaxTransformer


def query_features(
    model: LinearTransformer | SoftmaxTransformer, batch: tuple[Tensor, ...]
) -> tuple[list[Tensor], Tensor]:
    """The queries' tokens after every layer, [S, Q, d+1] each, and their targets w.x [S, Q], for `heads.probe_risk`.

    Linear attention maps a query x to T^l (x, 0), so that the d queries sqrt(d) e_j stand for all: the mean squared
    error over them is that over x ~ N(0, I), for any linear probe. For softmax attention they are those of the batch.
    """
    w = batch[-1]
    if isinstance(model, SoftmaxTransformer):
        return model.query_tokens(*batch[:-1]), (batch[1] @ w[:, :, None])[..., 0]
    scale = math.sqrt(w.shape[1])
    return [scale * t[:, :, :-1].mT for t in model.maps(batch[0])], scale * w


def seen_after(model: LinearTransformer, contexts: Contexts, layer: int = 1) -> tuple[Contexts, Tensor]:
    """The context with the inputs that a layer hands on, x_i^l = M x_i + y_i u, and the labels as they were; and M.

    A predictor of the weights v of that context predicts v . M x, which is M'v in terms of the query itself. M is
    [B, d, d].
    """
    t = model.maps(contexts.moments)[layer - 1]
    rows = torch.cat((t[:, :-1], torch.eye(t.shape[1], dtype=t.dtype, device=t.device)[-1:].expand(len(t), 1, -1)), dim=1)
    return replace(contexts, moments=rows @ contexts.moments @ rows.mT), t[:, :-1, :-1]
