"""What a kernel is: one small module that moves a group of chains.

Every kernel module has the same order: a frozen dataclass of settings, its `State`, `init`, `on_new_batch`, `update`.
The engine (`llc_dynamics.sampling.engine`) owns the chains, the batches, the model and what is recorded; a kernel sees
positions [g, d] of the g chains of a group, and a function that evaluates loss and gradient on the batch of the moment.
Each chain has a random generator of its own, so that its path does not depend on which chains share its group.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch

from llc_dynamics.errors import ConfigError
from llc_dynamics.settings import errors_in, from_fields, nearest, with_plain_numbers


def wide_dtype(device: torch.device) -> torch.dtype:
    """In what single numbers and sums over a batch are kept ("wide"): float64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in the wide format of its device."""
    return tensor.to(wide_dtype(tensor.device))


@dataclass(frozen=True)
class Target:
    """The density exp(-nbeta L(w) - localization/2 |w - w*|^2) around `origin` = w* [d]."""

    origin: torch.Tensor
    nbeta: float
    localization: float


@dataclass(frozen=True)
class Evaluation:
    """Loss and gradient of each chain of a group on its batch.

    Attributes
    ----------
    losses : [g, B], one per sample.
    gradient : [g, d], of the mean of the losses (without nbeta). The memory is used again by the next evaluation.
    """

    losses: torch.Tensor
    gradient: torch.Tensor

    @property
    def loss(self) -> torch.Tensor:
        """Mean of the losses, wide [g]."""
        return self.losses.mean(1, dtype=wide_dtype(self.losses.device))


Evaluate = Callable[[torch.Tensor], Evaluation]


@dataclass(frozen=True)
class Noise:
    """Random numbers for the chains of a group, each chain from a generator of its own (`generators`, in order)."""

    generators: Sequence[torch.Generator]

    def normal(self, out: torch.Tensor) -> torch.Tensor:
        """Fill `out` [g, ...] with standard normal numbers."""
        for row, generator in zip(out, self.generators, strict=True):
            row.normal_(generator=generator)
        return out

    def uniform(self, like: torch.Tensor) -> torch.Tensor:
        """Uniform numbers in [0, 1), wide [g], on the device of `like` [g, ...]."""
        out = torch.empty(len(like), dtype=wide_dtype(like.device), device=like.device)
        for row, generator in zip(out.unbind(), self.generators, strict=True):
            row.uniform_(generator=generator)
        return out


@dataclass(kw_only=True)
class ChainState:
    """What the engine reads of the state of a group; a kernel's own state adds what else it keeps.

    Attributes
    ----------
    position : [g, d], the kernel's to overwrite.
    momentum : [g, d], at `position`, in units in which it is standard normal in equilibrium; None without.
    acceptance : [g], the probability with which the last proposal was accepted; None without a test.
    step : [g], the steps that the chains have adapted to; None where the step is that of the settings.
    evaluation : at `position` on the batch of the last update, in memory of its own; for a kernel that makes it anyway.
    """

    position: torch.Tensor
    momentum: torch.Tensor | None = None
    acceptance: torch.Tensor | None = None
    step: torch.Tensor | None = None
    evaluation: Evaluation | None = None


S = TypeVar("S", bound=ChainState)


@dataclass(frozen=True)
class Kernel(ABC, Generic[S]):
    """Moves chains whose target is exp(-nbeta L(w) - localization/2 |w - w*|^2).

    Parameters
    ----------
    step_size : of one step; None, where a kernel allows it, to have it found.
    nbeta : inverse temperature; None stands for n / log n with n the number of samples (never the batch size).
    localization : gamma of the target, the strength of the pull towards w*; 0 switches it off.

    Attributes
    ----------
    gradients_per_update : gradients that one `update` costs, the one at its start included.
    holds_batch : whether an update takes more than one gradient on the same batch, so that it moves towards the
        minimum of that batch. Sound for a loss that has its minimum at w* on every batch (`behavioural`) and for
        batches that are all the data.
    updates_per_batch : updates until the engine changes the batch; None for never. Above 1 only if `holds_batch`.
    exact : whether the law on a batch that is all the data is the target at any step size (by a Metropolis test).
    has_momentum : whether a chain passes along a flat direction in a time of 1 / sqrt(gamma) rather than 1 / gamma.
    finds_step : whether `step_size` may be None.
    made_by : what else goes into the provenance of a result.
    """

    step_size: float | None = None
    nbeta: float | None = None
    localization: float = 100.0

    exact = False
    has_momentum = False
    finds_step = True
    made_by: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        with_plain_numbers(self)
        name = type(self).__name__
        if self.step_size is not None or not self.finds_step:
            advice = "or None to have it found" if self.finds_step else "1e-4 is a usual start"
            require_positive(name, "step_size", self.step_size, advice)
        if self.nbeta is not None:
            require_positive(name, "nbeta", self.nbeta, "or None for n / log n")
        gamma = self.localization
        if isinstance(gamma, bool) or not (isinstance(gamma, int | float) and gamma >= 0 and math.isfinite(gamma)):
            raise ConfigError(f"{name}: localization must be zero or a positive number, got {gamma!r}")

    @property
    def gradients_per_update(self) -> int:
        """See the class."""
        return 1

    @property
    def holds_batch(self) -> bool:
        """See the class."""
        return False

    @property
    def updates_per_batch(self) -> int | None:
        """See the class."""
        return 1

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str) -> Kernel:
        """The kernel of a settings file, whose name is under `kernel` (SGLD without).

        Raises `ConfigError` for an unknown kernel or setting, naming the nearest.
        """
        name = mapping.get("kernel", "SGLD")
        if name not in KERNELS:
            raise ConfigError(f"{where}: kernel '{name}' is unknown; {nearest(str(name), KERNELS)}")
        values = {key: value for key, value in mapping.items() if key != "kernel"}
        with errors_in(where):
            kernel: Kernel = from_fields(KERNELS[name], values, where)
        return kernel

    def to_mapping(self) -> dict[str, Any]:
        """The inverse of `from_mapping`; a None that is not the default is the text "none", as None is not set."""
        mapping: dict[str, Any] = {"kernel": type(self).__name__}
        for each in fields(self):
            if each.init:
                value = getattr(self, each.name)
                mapping[each.name] = "none" if value is None and each.default is not None else value
        return mapping

    def with_step(self, factor: float) -> Self:
        """The same kernel with `factor` times the step. Raises `ConfigError` where no step is given."""
        if self.step_size is None:
            raise ConfigError(f"{type(self).__name__}: with_step needs a step_size that is given")
        return replace(self, step_size=self.step_size * factor)

    def halved(self) -> tuple[Self, int]:
        """The kernel with half the step, and how many times as many updates it then takes for the same time."""
        return self.with_step(0.5), 2

    @abstractmethod
    def init(self, position: torch.Tensor, evaluate: Evaluate, target: Target, noise: Noise) -> S:
        """A state at `position` [g, d]."""

    def on_new_batch(self, state: S, evaluation: Evaluation, target: Target) -> None:
        """Complete the state, in place, once the evaluation at its position on a new batch is there.

        Called before the state is recorded. Most kernels have nothing to complete.
        """

    @abstractmethod
    def update(
        self, state: S, evaluation: Evaluation, evaluate: Evaluate, target: Target, noise: Noise, adapting: bool
    ) -> None:
        """Move the state, in place.

        `evaluation` is at `state.position` on the batch of this update, on which `evaluate` works, too.
        `adapting` is true in the burn-in: a kernel adapts itself there and nowhere else, so that the law of what is
        recorded is the stationary one of a fixed kernel.
        """


#: Kernels by the name under which settings files choose them.
KERNELS: dict[str, Any] = {}


def require_positive(kernel: str, name: str, value: Any, advice: str = "") -> None:
    """Raise `ConfigError` unless `value` is a positive finite number."""
    if isinstance(value, bool) or not (isinstance(value, int | float) and value > 0 and math.isfinite(value)):
        raise ConfigError(f"{kernel}: {name} must be a positive number, got {value!r}{'; ' + advice if advice else ''}")


def require_count(kernel: str, name: str, value: Any) -> None:
    """Raise `ConfigError` unless `value` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{kernel}: {name} must be a whole number of at least 1, got {value!r}")
