"""Runs the chains: batches, gradients, the paired loss, what is recorded, and when a chain has died."""

from __future__ import annotations

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
        limit = EXPLOSION * model.dimension / nbeta
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
                    row = _record(model, state.position, losses, at_origin, gradient, nbeta, kernel.localization)
                    excess, problem = row.loss_difference, row.problem(limit)
                    if problem is None:
                        row.store(traces, chain, draw)
                else:
                    excess = float(losses.mean()) - reference
                    problem = _problem(excess, limit)
                if problem is not None:
                    failed.append(FailedChain(chain, step, problem))
                    break
                state = kernel.update(state, gradient, model.origin, nbeta, noise)
                if progress is not None and step % 16 == 0:
                    progress(chain * total + step, num_chains * total)
        if progress is not None:
            progress(num_chains * total, num_chains * total)
    return replace(traces, failed=tuple(failed))


@dataclass(frozen=True)
class _Row:
    """What one draw records."""

    loss_difference: float
    loss_at_origin: float
    distance: float
    virial: NDArray[np.float64]
    sizes: NDArray[np.float64]

    def problem(self, limit: float) -> str | None:
        if not np.isfinite(self.loss_at_origin):
            return "the loss at w* is not finite on this batch: look for NaN in the data"
        if not (np.isfinite(self.distance) and np.isfinite(self.virial).all()):
            return "the weights or the gradient are no longer finite: try a smaller step_size"
        return _problem(self.loss_difference, limit)

    def store(self, traces: ChainTraces, chain: int, draw: int) -> None:
        traces.loss_difference[chain, draw] = self.loss_difference
        traces.loss_at_origin[chain, draw] = self.loss_at_origin
        traces.distance[chain, draw] = self.distance
        traces.virial[chain, draw] = self.virial.sum() / self.sizes.sum()
        traces.virial_by_block[chain, draw] = self.virial / self.sizes


def _record(
    model: FlatModel,
    position: torch.Tensor,
    losses: torch.Tensor,
    at_origin: torch.Tensor,
    gradient: torch.Tensor,
    nbeta: float,
    localization: float,
) -> _Row:
    displacement = position - model.origin
    potential_gradient = torch.add(displacement * localization, gradient, alpha=nbeta)
    return _Row(
        # the difference sample by sample in float64: the two losses share most of their digits
        loss_difference=float((losses.double() - at_origin).mean()),
        loss_at_origin=float(at_origin.mean()),
        distance=float(displacement.square().sum(dtype=torch.float64)),
        virial=model.sum_by_block(potential_gradient.mul_(displacement)),
        sizes=np.asarray(model.sizes, dtype=np.float64),
    )


def _problem(excess: float, limit: float) -> str | None:
    if not np.isfinite(excess):
        return "the loss is no longer finite: try a smaller step_size"
    if excess > limit:
        return (
            f"the loss exploded to {excess:.3g} above w*, more than {EXPLOSION:.0e} d / nbeta: try a smaller step_size"
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
