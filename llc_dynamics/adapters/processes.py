"""Trainings on several processes: which one writes, and which models it has whole."""

from __future__ import annotations

import torch
from torch import nn

from llc_dynamics.errors import DataError
from llc_dynamics.trajectory.state import bare


def writes_here() -> bool:
    """Whether this process is the one that writes: the only one, or that of rank 0."""
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized() and distributed.get_rank() != 0)


def require_whole(model: nn.Module) -> None:
    """Raise `DataError` for a model of which this process holds only a part."""
    for name, parameter in bare(model).named_parameters():
        if type(parameter.data).__name__ == "DTensor" or "_flat_param" in name:
            raise DataError(
                f"parameter '{name}' is spread over several processes (FSDP or tensor parallelism), and each would "
                "record only its part; train with data parallelism (DDP), or write whole state dicts and import them"
            )
