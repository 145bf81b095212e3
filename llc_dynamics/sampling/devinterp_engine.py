"""Kernels whose updates are made by devinterp: `engine="devinterp"`.

Batches, gradients, chains and what is recorded are this package's; each update of each chain is a step of an optimiser
of `devinterp.optim.sgmcmc.SGMCMC` (devinterp 2). So anyone can hold our kernels against the field's on any module.

| kernel | optimiser | the same update? |
|---|---|---|
| `SGLD` | `SGMCMC.sgld` | yes: given the same noise, to rounding |
| `RMSpropSGLD` | `SGMCMC.rmsprop_sgld` | no, it differs in three points |

The three points of `rmsprop_sgld`: v starts at 0 and is not corrected for it, so that the first steps are long; G keeps
changing after the burn-in; and the drift that a changing G asks for is left out. Its stationary law is therefore not
the one that the settings name, at any step size. Nothing of that is repaired here: this engine shows what devinterp
does. Its third optimiser, `SGMCMC.sgnht`, corresponds to none of our kernels: it never moves its momentum.

Noise is drawn by the optimiser, tensor by tensor, from the generator of the chain. The weights are float32 (float64 if
the module has float64 parameters) whatever the precision of the module: rounding bfloat16 weights is left out.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal, get_args

import torch
from torch import nn

from llc_dynamics.errors import ConfigError
from llc_dynamics.optional import optional_import
from llc_dynamics.sampling.flat_model import FlatModel
from llc_dynamics.sampling.kernel import ChainState, Evaluate, Evaluation, Kernel, Noise, Target
from llc_dynamics.sampling.rmsprop import RMSpropSGLD
from llc_dynamics.sampling.sgld import SGLD
from llc_dynamics.settings import nearest

#: Who makes the updates.
Engine = Literal["llc_dynamics", "devinterp"]
#: The name of devinterp's factory for a kernel, and the kernel's own settings under devinterp's names.
_FACTORIES: dict[type, tuple[str, Callable[[Any], dict[str, float]]]] = {
    SGLD: ("sgld", lambda _: {}),
    RMSpropSGLD: ("rmsprop_sgld", lambda kernel: {"alpha": kernel.decay, "eps": kernel.stability}),
}


def require_engine(engine: str, kernel: Kernel) -> None:
    """Raise `ConfigError` for an unknown engine, or a kernel that it does not have."""
    if engine not in get_args(Engine):
        raise ConfigError(f"engine: {engine!r} is unknown; {nearest(str(engine), get_args(Engine))}")
    if engine == "devinterp" and type(kernel) not in _FACTORIES:
        supported = " and ".join(known.__name__ for known in _FACTORIES)
        raise ConfigError(
            f"engine='devinterp' has no {type(kernel).__name__}; it runs {supported}. Leave engine out for the others"
        )


@dataclass
class _Chain:
    """An optimiser, and the memory [elements of all sampled tensors] that its parameters and their `.grad` view."""

    weights: torch.Tensor
    gradient: torch.Tensor
    optimiser: Any


@dataclass(kw_only=True)
class State(ChainState):
    """Positions [g, d], and what belongs to each chain."""

    chains: list[_Chain]


class DevinterpKernel(Kernel[State]):
    """A kernel whose updates are devinterp's, inside an entered `FlatModel`.

    Every chain has an optimiser of its own, which gets the tensors that the module would give it: one parameter for
    each sampled tensor, in their shapes, and a mask where only a part of a tensor is sampled.

    Parameters
    ----------
    kernel : `SGLD` or `RMSpropSGLD`, whose settings are passed on.
    model : whose tensors the chains move.

    Attributes
    ----------
    made_by : the version of the installed devinterp.

    Raises `MissingPackageError` if devinterp is not installed.
    """

    def __init__(self, kernel: Kernel, model: FlatModel) -> None:
        super().__init__(kernel.step_size, kernel.nbeta, kernel.localization)
        module = optional_import(
            "devinterp.optim.sgmcmc",
            "devinterp",
            "engine='devinterp'",
            ". Or, for this engine alone, pip install --no-deps devinterp==2.0.1: its optimisers need torch and numpy, "
            "the rest of it some 30 packages and 400 MB",
        )
        name, own_settings = _FACTORIES[type(kernel)]
        self._factory = getattr(module.SGMCMC, name)
        self._settings = {"lr": kernel.step_size, **own_settings(kernel)}
        self._model = model
        # full_vectors fills in w* where nothing is sampled, which is a number
        chosen = model.full_vectors(torch.full_like(model.origin, torch.nan)).isnan()
        self._chosen = None if bool(chosen.all()) else chosen

    @property
    def made_by(self) -> dict[str, str]:  # type: ignore[override]
        return {"engine": f"devinterp {metadata.version('devinterp')}"}

    def init(self, position: torch.Tensor, evaluate: Evaluate, target: Target, noise: Noise) -> State:
        """Chains at `position` [g, d], and an optimiser for each of them, centred at w*."""
        return State(position=position.clone(), chains=[self._chain(target) for _ in position])

    def update(
        self, state: State, evaluation: Evaluation, evaluate: Evaluate, target: Target, noise: Noise, adapting: bool
    ) -> None:
        """One step of each chain's optimiser; it knows no burn-in and adapts throughout."""
        rows = zip(state.position, evaluation.gradient, state.chains, noise.generators, strict=True)
        for position, gradient, chain, generator in rows:
            self._write(chain.weights, position)
            self._write(chain.gradient, gradient)
            chain.optimiser.step(noise_generator=generator)
            position.copy_(chain.weights if self._chosen is None else chain.weights[self._chosen])

    def _chain(self, target: Target) -> _Chain:
        weights = self._model.full_vectors(target.origin).clone()
        gradient = torch.zeros_like(weights)
        parameters = [nn.Parameter(view) for view in self._model.named_views(weights).values()]
        for parameter, view in zip(parameters, self._model.named_views(gradient).values(), strict=True):
            parameter.grad = view
        mask = None if self._chosen is None else list(self._model.named_views(self._chosen).values())
        with warnings.catch_warnings():
            # it takes nbeta = 1 for a forgotten setting; here it has been set
            warnings.filterwarnings("ignore", message="nbeta set to 1")
            optimiser = self._factory(
                parameters, nbeta=target.nbeta, localization=target.localization, mask=mask, **self._settings
            )
        return _Chain(weights, gradient, optimiser)

    def _write(self, full: torch.Tensor, values: torch.Tensor) -> None:
        if self._chosen is None:
            full.copy_(values)
        else:
            full[self._chosen] = values
