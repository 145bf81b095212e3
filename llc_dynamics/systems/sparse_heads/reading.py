"""What the layers of a model make of a context: features for linear probes, and the context as a layer hands it on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from llc_dynamics.systems.linear_transformer.model import LinearTransformer
from llc_dynamics.systems.linear_transformer.references import Spectrum
from llc_dynamics.systems.linear_transformer.task import Contexts
from llc_dynamics.systems.sparse_heads.model import SoftmaxTransformer
from llc_dynamics.systems.sparse_heads.references import flow
from llc_dynamics.systems.sparse_heads.task import answers


def query_features(
    model: LinearTransformer | SoftmaxTransformer, batch: tuple[Tensor, ...]
) -> tuple[list[Tensor], Tensor]:
    """The queries' tokens after every layer, [S, Q, d+1] each, and their targets w.x [S, Q], for `heads.probe_risk`.

    Linear attention maps a query x to T^l (x, 0), so that the d queries sqrt(d) e_j stand for all: the mean squared
    error over them is that over x ~ N(0, I), for any linear probe. For softmax attention they are those of the batch.
    """
    w = batch[-1]
    if isinstance(model, SoftmaxTransformer):
        return model.query_tokens(*batch[:-1]), answers(batch[1], w)
    scale = math.sqrt(w.shape[1])
    return [scale * t[:, :, :-1].mT for t in model.maps(batch[0])], scale * w


def weights_by_descent_after(model: LinearTransformer, contexts: Contexts, layer: int) -> Callable[[float], Tensor]:
    """w_hat [B, d] as a function of time: the flow of gradient descent on the context as a layer hands it on.

    That is x_i^l = M x_i + y_i u and y_i^l = a y_i - w^l.x_i, the residuals; the flow finds v on it from zero, and the
    prediction is that of the model after the layer and its step on the transformed query, w_hat = w^l + M'v. Layer 0 is
    the raw context. Time is in units of the median curvature of the inputs, which a layer may scale by any number.
    """
    if layer == 0:
        t = torch.eye(contexts.dimension + 1, dtype=contexts.moments.dtype).expand_as(contexts.moments)
    else:
        t = model.maps(contexts.moments)[layer - 1]
    moments = t @ contexts.moments @ t.mT
    curvature = moments.diagonal(dim1=1, dim2=2)[:, :-1].mean(1).median().item() / contexts.num_examples
    spectrum = Spectrum(replace(contexts, moments=moments))

    def at(time: float) -> Tensor:
        return -t[:, -1, :-1] + (t[:, :-1, :-1].mT @ flow(spectrum, time / curvature)[..., None])[..., 0]

    return at
