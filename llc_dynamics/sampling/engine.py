"""Runs the chains: batches, gradients, the paired loss, what is recorded, and when a chain has died."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from llc_dynamics.sampling.baseline import PairedBaseline
from llc_dynamics.sampling.batches import Batches
from llc_dynamics.sampling.flat_model import FlatModel
from llc_dynamics.sampling.kernel import Kernel
from llc_dynamics.seeding import derive_seed, torch_generator

# In equilibrium nbeta (L(w) - L(w*)) averages at most d/2; a chain this far above d has left for good.
EXPLOSION = 1e5


@dataclass(frozen=True)
class FailedChain:
    """A chain that was stopped: which, after how many updates, and why."""

    chain: int
    step: int
    reason: str

    def __str__(self) -> str:
        return f"chain {self.chain} at step {self.step} ({self.reason})"


@dataclass(frozen=True)
class ChainTraces:
    """What the chains recorded, at w before the update of the step; NaN from the draw at which a chain died.

    Attributes
    ----------
    loss_difference : float64 [chain, draw], L_B(w) - L_B(w*) on the batch of the draw.
    loss_at_origin : float64 [chain, draw], L_B(w*).
    distance : float64 [chain, draw], |w - w*|^2.
    virial : float64 [chain, draw], (w - w*) . grad U(w) / d with U = nbeta L_B + gamma/2 |w - w*|^2.
    virial_by_block : float32 [chain, draw, block], the same for each parameter tensor, divided by its size.
    failed : the chains that died.
    """

    loss_difference: NDArray[np.float64]
    loss_at_origin: NDArray[np.float64]
    distance: NDArray[np.float64]
    virial: NDArray[np.float64]
    virial_by_block: NDArray[np.float32]
    failed: tuple[FailedChain, ...] = ()

    @classmethod
    def empty(cls, num_chains: int, num_draws: int, num_blocks: int) -> ChainTraces:
        """Traces full of NaN."""
        shape = (num_chains, num_draws)
        by_block = np.full((*shape, num_blocks), np.nan, dtype=np.float32)
        loss, at_origin, distance, virial = (np.full(shape, np.nan) for _ in range(4))
        return cls(loss, at_origin, distance, virial, by_block)


def run_chains(
    model: FlatModel,
    batches: Batches,
    kernel: Kernel,
    *,
    nbeta: float,
    num_chains: int,
    num_draws: int,
    num_burnin: int,
    steps_per_draw: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> ChainTraces:
    """Run chains from w*, one after the other, inside an entered `FlatModel`.

    A draw is recorded before the updates `num_burnin`, `num_burnin + steps_per_draw`, ...; nothing is recorded in the
    burn-in. Batches and noise of chain c come from generators seeded by `(seed, "batch" | "noise", c)`: its path
    does not depend on how many chains there are. The global random generators are left as they were.

    A plain loop over chains is the quickest on a CPU, where a step costs what its gradient costs.
    """
    traces = ChainTraces.empty(num_chains, num_draws, len(model.sizes))
    failed = []
    with isolated_generators(seed):
        baseline = PairedBaseline(model, batches, num_draws, seed)
        reference = float(baseline.losses(next(batches.stream(seed, "probe"))).mean())
        recorder = _Recorder(model, traces, nbeta, kernel.localization)
        total = num_burnin + (num_draws - 1) * steps_per_draw + 1
        for chain in range(num_chains):
            _seed_global(derive_seed(seed, "global", chain))
            stream = batches.stream(seed, "batch", chain)
            noise = torch_generator(seed, "noise", chain, device=model.device)
            state = kernel.init(model.origin)
            for step in range(total):
                batch = next(stream)
                losses, gradient = model.losses_and_gradient(state.position, batch.content, batches.batch_size)
                draw, between = divmod(step - num_burnin, steps_per_draw)
                if draw >= 0 and between == 0:
                    at_origin = baseline.losses(batch)
                    problem = recorder.record(chain, draw, state.position, losses, at_origin, gradient)
                else:
                    problem = recorder.problem(float(losses.mean()) - reference)
                if problem is not None:
                    failed.append(FailedChain(chain, step, problem))
                    break
                state = kernel.update(state, gradient, model.origin, nbeta, noise)
                if progress is not None and step % 16 == 0:
                    progress(chain * total + step, num_chains * total)
        if progress is not None:
            progress(num_chains * total, num_chains * total)
    return replace(traces, failed=tuple(failed))


class _Recorder:
    """Writes the draws of all chains into the traces, unless something is wrong with them."""

    def __init__(self, model: FlatModel, traces: ChainTraces, nbeta: float, localization: float) -> None:
        self._model = model
        self._traces = traces
        self._nbeta = nbeta
        self._localization = localization
        self._sizes = np.asarray(model.sizes, dtype=np.float64).clip(min=1)
        self._limit = EXPLOSION * model.dimension / nbeta

    def record(
        self,
        chain: int,
        draw: int,
        position: torch.Tensor,
        losses: torch.Tensor,
        at_origin: torch.Tensor,
        gradient: torch.Tensor,
    ) -> str | None:
        """Record a draw, or say why the chain has died."""
        # the difference sample by sample in float64: the two losses share most of their digits
        difference = float((losses.double() - at_origin).mean())
        baseline = float(at_origin.mean())
        displacement = position - self._model.origin
        distance = float(torch.dot(displacement, displacement))
        force = torch.add(displacement * self._localization, gradient, alpha=self._nbeta)
        by_block = self._model.sum_by_block(force.mul_(displacement))
        virial = float(by_block.sum()) / self._model.dimension
        if not math.isfinite(baseline):
            return "the loss at w* is not finite on this batch: look for NaN in the data"
        if not (math.isfinite(distance) and math.isfinite(virial)):
            return "the weights or the gradient are no longer finite: try a smaller step_size"
        problem = self.problem(difference)
        if problem is None:
            traces = self._traces
            traces.loss_difference[chain, draw] = difference
            traces.loss_at_origin[chain, draw] = baseline
            traces.distance[chain, draw] = distance
            traces.virial[chain, draw] = virial
            traces.virial_by_block[chain, draw] = by_block / self._sizes
        return problem

    def problem(self, excess: float) -> str | None:
        """Why a chain whose loss is this far above that of w* has died; None if it has not."""
        if not math.isfinite(excess):
            return "the loss is no longer finite: try a smaller step_size"
        if excess > self._limit:
            return (
                f"the loss exploded to {excess:.3g} above that of w*, beyond {EXPLOSION:.0e} d / nbeta: try a smaller "
                "step_size"
            )
        return None


@contextmanager
def isolated_generators(seed: int) -> Iterator[None]:
    """Leave the global generators of torch, numpy and `random` as they were, whatever a loss function draws."""
    states = np.random.get_state(), random.getstate()  # noqa: NPY002
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            _seed_global(derive_seed(seed, "global"))
            yield
    finally:
        np.random.set_state(states[0])  # noqa: NPY002
        random.setstate(states[1])


def _seed_global(seed: int) -> None:
    """So that a loss function that draws from a global generator gives the same result every time."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed a GPU that nobody has used yet
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)
