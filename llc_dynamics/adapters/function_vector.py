"""The function vector of a model in training: its outputs on fixed inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from llc_dynamics.seeding import isolated_generators
from llc_dynamics.trajectory.state import bare

#: From a model to its function vector, of the same shape at every step.
OutputFunction = Callable[[nn.Module], Any]


def function_vector(model: nn.Module, outputs: OutputFunction) -> Any:
    """`outputs(model)` in evaluation mode and without gradients; the training does not notice.

    Every module gets back the mode (training or evaluation) it had, and the global random generators their state. The
    function is given the bare module: a forward pass through a data-parallel wrapper on one process would wait for the
    others for ever.
    """
    own = bare(model)
    modes = [(module, module.training) for module in own.modules()]
    own.eval()
    try:
        with torch.no_grad(), isolated_generators(0):
            return outputs(own)
    finally:
        for module, mode in modes:
            module.training = mode
