"""What a kernel is: one small module that moves one chain.

Every kernel module has the same order: a frozen dataclass of settings, a `State`, `init`, `update`. The engine
(`llc_dynamics.sampling.engine`) owns the chains, the batches and the gradients; a kernel sees flat vectors only. One
`update` uses one gradient, taken at `state.position`: kernels with momentum fit in as well (the second half kick of one
step and the first half kick of the next use the same gradient).
"""

from __future__ import annotations

from typing import Any, Protocol

import torch


class Kernel(Protocol):
    """Moves a chain whose target is exp(-nbeta L(w) - localization/2 |w - w*|^2).

    Attributes
    ----------
    nbeta : inverse temperature n beta of the target; None stands for n / log n, n the number of samples.
    localization : gamma of the target, the strength of the pull towards w*.
    """

    @property
    def nbeta(self) -> float | None: ...

    @property
    def localization(self) -> float: ...

    def init(self, position: torch.Tensor) -> Any:
        """A state at `position` [d], with an attribute `position` that is the kernel's to overwrite."""
        ...

    def update(
        self,
        state: Any,
        loss_gradient: torch.Tensor,
        origin: torch.Tensor,
        nbeta: float,
        generator: torch.Generator,
    ) -> Any:
        """The next state.

        `loss_gradient` [d] is the gradient of the minibatch loss L_B (a mean over samples, without nbeta) at
        `state.position`; `origin` [d] is w*. Both belong to the caller and stay as they are.
        """
        ...
