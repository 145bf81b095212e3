"""Runs the chains: batches, gradients, what is recorded, and when a chain has died."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.finding import Finding
from llc_dynamics.sampling.baseline import PairedBaseline
from llc_dynamics.sampling.batches import Batch, Batches
from llc_dynamics.sampling.behavioural import Behavioural
from llc_dynamics.sampling.descent import rest_above
from llc_dynamics.sampling.flat_model import FlatModel, LossFunction
from llc_dynamics.sampling.group_model import LoopModel, VmapModel, choose_chain_method, vmap_problem
from llc_dynamics.sampling.kernel import ChainState, Evaluation, Kernel, Noise, Target, wide_dtype, widened
from llc_dynamics.sampling.settings import ChainSettings
from llc_dynamics.sampling.traces import ChainTraces, FailedChain, Recorder, data_not_finite
from llc_dynamics.seeding import derive_seed, isolated_generators, seed_global, torch_generator

Progress = Callable[[int, int], None]
_GRADIENTS_BETWEEN_LOOKS = 8
# Gradients of a chain for each gradient of its way downhill.
_GRADIENTS_A_DESCENT = 20
# Of a start away from w*, which is then a millionth of it.
_MOST_HALVINGS = 20


class Chains:
    """Chains around w*, inside an entered `FlatModel`, that can be run for some draws, and then for some more.

    A draw is recorded before the updates `num_burnin`, `num_burnin + steps_per_draw`, ...; nothing is recorded in the
    burn-in. Start, batches and noise of chain c come from generators seeded by `(seed, "start", c)`, `(seed, "batch",
    c)` and `(seed, "noise", c)`: its path does not depend on how many chains there are, nor on how its draws are
    divided over calls of `advance`. The global random generators are left as they were.

    Parameters
    ----------
    model, batches : what is sampled (see `llc.Problem.opened`).
    settings : how; their `num_draws` is how many draws to expect.
    observed : {name: loss_fn}, losses that are recorded along the way.

    Attributes
    ----------
    target, kernel : the density, and what moves the chains. chain_method : "loop" or "vmap".
    vmap_problem : why "auto" is the loop where it should be vmap; None otherwise.
    traces : all draws so far.

    Raises `ConfigError` for a kernel that holds its batch on minibatches of a given loss, and `DataError` if the loss
    at w* is not finite.
    """

    def __init__(
        self,
        model: FlatModel,
        batches: Batches,
        settings: ChainSettings,
        observed: Mapping[str, LossFunction] | None = None,
    ) -> None:
        self.kernel = kernel = settings.kernel_for(model)
        _require_sound(model, batches, kernel)
        self.model, self.batches, self.settings = model, batches, settings
        self.chain_method, self.vmap_problem = choose_chain_method(
            settings.chain_method, model, settings.num_chains, self._vmap_problem
        )
        self.target = Target(model.origin, settings.nbeta(batches.num_samples), kernel.localization)
        self._seed, self._num_burnin, self._steps_per_draw = settings.seed, settings.num_burnin, settings.steps_per_draw
        self._observed = dict(observed or {})
        self._recorder = Recorder(model, self.target)
        together = self.chain_method == "vmap"
        self._group_model = VmapModel(model, settings.chain_method == "vmap") if together else LoopModel(model)
        with isolated_generators(self._seed):
            self._baseline = PairedBaseline(model, batches, settings.num_draws, self._seed)
            self._reference = float(self._baseline.losses(next(batches.stream(self._seed, "probe"))).mean())
        # a look out of sample takes two passes without gradient: not more often than after so many gradients
        apart = kernel.gradients_per_update * self._steps_per_draw
        perturbed = kernel.holds_batch and not batches.whole
        self._fresh_every = max(1, round(_GRADIENTS_BETWEEN_LOOKS / apart)) if perturbed else 0
        num_chains = settings.num_chains
        size = num_chains if together else 1
        self._groups = [_Group(tuple(range(at, at + size))) for at in range(0, num_chains, size)]
        self.traces = ChainTraces.empty(num_chains, 0, len(model.sizes), tuple(self._observed))

    def _vmap_problem(self) -> str | None:
        seed, size = self.settings.seed, self.batches.batch_size
        with isolated_generators(seed):
            streams = [self.batches.stream(seed, "batch", chain) for chain in range(self.settings.num_chains)]
            contents = [self.model.prepare(next(stream).content, size) for stream in streams]
            return vmap_problem(self.model, contents, size, seed)

    @property
    def num_draws(self) -> int:
        """Draws of each chain so far."""
        return self.traces.loss_difference.shape[1]

    @property
    def num_gradients(self) -> int:
        """Gradients of one chain so far, all of them: of the kernel, of its start, downhill."""
        return max(group.num_gradients for group in self._groups)

    @property
    def blocks_without_gradient(self) -> tuple[str, ...]:
        """Parameter tensors whose gradient was exactly zero at the last draw of every chain that is alive."""
        largest = np.zeros(len(self.model.names))
        looked = False
        for group in self._groups:
            for row, chain in enumerate(group.chains):
                if group.pending is not None and chain in group.alive:
                    looked = True
                    largest = np.maximum(largest, self.model.largest_by_block(group.pending.gradient[row]))
        return tuple(name for name, size in zip(self.model.names, largest, strict=True) if looked and size == 0)

    def advance(self, num_draws: int, progress: Progress | None = None) -> ChainTraces:
        """So many more draws of every chain; all draws so far."""
        first = self.num_draws
        self.traces = self.traces.extended(num_draws)
        before = self._num_burnin if first == 0 else 0
        total = (before + num_draws * self._steps_per_draw) * len(self._groups)
        done = 0

        def count() -> None:
            nonlocal done
            done += 1
            if progress is not None and done % 16 == 0:
                progress(done, total)

        for group in self._groups:
            if group.alive:
                with isolated_generators(self._seed), group.generators(self._seed):
                    self._advance_group(group, first, num_draws, count)
        if progress is not None:
            progress(total, total)
        return self.traces

    def downhill(self) -> NDArray[np.float64]:
        """nbeta times what `rest_above` finds of each chain, [chain]; NaN for chains that have died.

        On a batch on which w* is a minimum; other losses are NaN.
        """
        found = np.full(self.settings.num_chains, np.nan)
        if not (self.batches.whole or isinstance(self.model.loss_fn, Behavioural)):
            return found
        gradients = min(max(self.num_gradients // _GRADIENTS_A_DESCENT, 10), 25)
        with isolated_generators(self._seed):
            for group in self._groups:
                group.num_gradients += gradients
                for row, chain in enumerate(group.chains):
                    if chain in group.alive and group.state is not None:
                        where, content = group.state.position[row], group.contents[row]
                        above = rest_above(self.model, where, content, self.batches.batch_size, gradients)
                        found[chain] = self.target.nbeta * above
        return found

    def _advance_group(self, group: _Group, first: int, num_draws: int, count: Callable[[], None]) -> None:
        state = group.state
        if state is None:
            state = group.state = self._start(group)
        elif group.pending is not None:
            self._move(group, state, group.pending)
            group.pending = None
        last = self._num_burnin + (first + num_draws - 1) * self._steps_per_draw
        while True:
            draw, between = divmod(group.step - self._num_burnin, self._steps_per_draw)
            seen, coming = self._evaluate(group, state)
            self._look(group, state, seen, draw if draw >= 0 and between == 0 else None)
            if not group.alive:
                break
            if group.step == last:
                # kept for the update that comes if there are more draws; the memory of a gradient is shared, unless
                # it is the kernel's own
                own = coming is state.evaluation
                group.pending = coming if own else Evaluation(coming.losses, coming.gradient.clone())
                break
            self._move(group, state, coming)
            count()

    def _start(self, group: _Group) -> ChainState:
        group.streams = [self.batches.stream(self._seed, "batch", chain) for chain in group.chains]
        group.fresh = [self.batches.stream(self._seed, "fresh", chain) for chain in group.chains]
        device = self.model.device
        group.noise = Noise([torch_generator(self._seed, "noise", chain, device=device) for chain in group.chains])
        self._next_batches(group)
        evaluate = self._evaluator(group)
        starts = torch.stack([self._start_of(*each) for each in zip(group.chains, group.contents, strict=True)])
        return self.kernel.init(starts, evaluate, self.target, group.noise)

    def _start_of(self, chain: int, content: Any) -> torch.Tensor:
        """w* + N(0, 1/gamma), [d]: in equilibrium at once in all directions that are flat.

        Halved until nbeta L rises by no more than chains in equilibrium meet, d/2; also where it cannot be computed.
        """
        target, size = self.target, self.batches.batch_size
        if target.localization == 0:
            return target.origin
        away = torch.empty_like(target.origin)
        away.normal_(generator=torch_generator(self._seed, "start", chain, device=self.model.device))
        away /= math.sqrt(target.localization)

        def rises_too_much(position: torch.Tensor) -> bool:
            try:
                here = widened(self.model.losses(position, content, size)).mean()
            except DataError:  # weights out of their range
                return True
            return not target.nbeta * float(here - at_origin) <= self.model.dimension / 2

        at_origin = widened(self.model.losses(target.origin, content, size)).mean()
        for _ in range(_MOST_HALVINGS):
            if not rises_too_much(target.origin + away):
                return target.origin + away
            away /= 2
        return target.origin

    def _evaluate(self, group: _Group, state: ChainState) -> tuple[Evaluation, Evaluation]:
        """Evaluations at the chains' positions: what a draw is read from, and on the batch of the coming update."""
        own = state.evaluation if group.step else None
        hold = self.kernel.updates_per_batch
        if own is not None and (hold is None or group.step % hold):
            return own, own
        if group.step:
            changed = self._next_batches(group)
            if own is not None and not changed:
                return own, own
        coming = self._evaluator(group)(state.position)
        self.kernel.on_new_batch(state, coming, self.target)
        return coming if own is None else own, coming

    def _move(self, group: _Group, state: ChainState, evaluation: Evaluation) -> None:
        adapting = group.step < self._num_burnin
        self.kernel.update(state, evaluation, self._evaluator(group), self.target, group.noise, adapting)
        group.step += 1

    def _look(self, group: _Group, state: ChainState, seen: Evaluation, draw: int | None) -> None:
        """Record the draw, or only look whether the chains are still there; take out those that are not."""
        for row, chain in enumerate(group.chains):
            if chain not in group.alive:
                continue
            if draw is None:
                problem = self._recorder.problem(float(seen.losses[row].mean()) - self._reference)
            else:
                problem = self._record(group, state, seen, row, draw)
            if problem is not None:
                problem = data_not_finite(self._baseline.losses(group.batches[row])) or problem
                group.alive.remove(chain)
                failed = FailedChain(chain, group.step, problem)
                self.traces = replace(self.traces, failed=(*self.traces.failed, failed))
                if group.alive:  # back to w*, where it harms nobody and is recorded no more
                    state.position[row] = self.target.origin
                    if state.momentum is not None:
                        state.momentum[row] = 0
            if state.step is not None:
                self.traces.step_size[chain] = float(state.step[row])

    def _record(self, group: _Group, state: ChainState, seen: Evaluation, row: int, draw: int) -> Finding | None:
        """Record a draw of one chain, or say why it has died."""
        traces, chain, batch, position = self.traces, group.chains[row], group.batches[row], state.position[row]
        momentum = None if state.momentum is None else state.momentum[row]
        problem = self._recorder.record(
            traces, chain, draw, position, seen.losses[row], self._baseline.losses(batch), seen.gradient[row], momentum
        )
        if problem is not None:
            return problem
        if self.batches.whole or state.evaluation is not None:
            traces.half_difference[chain, draw] = 0.0  # the batch's loss is the one that is sampled
        size = self.batches.batch_size
        if self._fresh_every and draw % self._fresh_every == 0:  # on a batch that the chain has not moved on
            content = self.model.prepare(next(group.fresh[row]).content, size)
            losses = self.model.losses(position, content, size)
            traces.fresh_difference[chain, draw] = float(losses.mean(dtype=wide_dtype(losses.device)))
        if state.acceptance is not None:
            traces.acceptance[chain, draw] = float(state.acceptance[row])
        for name, loss_fn in self._observed.items():
            there = widened(self.model.losses(position, batch.content, size, loss_fn))
            origin = widened(self.model.losses(self.target.origin, batch.content, size, loss_fn))
            traces.observed[name][chain, draw] = float((there - origin).mean())
        return None

    def _next_batches(self, group: _Group) -> bool:
        """Take the next batch of every chain; whether they are other ones than before."""
        size = self.batches.batch_size
        fresh = [next(stream) for stream in group.streams]
        unchanged = group.contents and all(
            new.indices is not None and new.indices is old.indices
            for new, old in zip(fresh, group.batches, strict=True)
        )
        group.batches = fresh
        if unchanged:
            return False
        group.contents = [self.model.prepare(batch.content, size) for batch in fresh]
        return True

    def _evaluator(self, group: _Group) -> Callable[[torch.Tensor], Evaluation]:
        size = self.batches.batch_size

        def evaluate(positions: torch.Tensor) -> Evaluation:
            group.num_gradients += 1
            return self._group_model.evaluate(positions, group.contents, size)

        return evaluate


@dataclass
class _Group:
    """Chains that move together, and all that belongs to them."""

    chains: tuple[int, ...]
    alive: set[int] = field(default_factory=set)
    state: ChainState | None = None
    step: int = 0
    num_gradients: int = 0
    streams: list[Iterator[Batch]] = field(default_factory=list)
    fresh: list[Iterator[Batch]] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    contents: list[Any] = field(default_factory=list)
    noise: Noise = field(default_factory=lambda: Noise(()))
    pending: Evaluation | None = None
    _globals: Any = None

    def __post_init__(self) -> None:
        self.alive = set(self.chains)

    @contextmanager
    def generators(self, seed: int) -> Iterator[None]:
        """The global generators as this group left them, for loss functions that draw from them."""
        if self._globals is None:
            seed_global(derive_seed(seed, "global", self.chains[0]))
        else:
            torch.set_rng_state(self._globals[0])
            np.random.set_state(self._globals[1])  # noqa: NPY002
            random.setstate(self._globals[2])
        yield
        self._globals = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002


def _require_sound(model: FlatModel, batches: Batches, kernel: Kernel) -> None:
    own_minimum = isinstance(model.loss_fn, Behavioural)
    if kernel.holds_batch and not own_minimum and not batches.whole:
        raise ConfigError(
            f"{type(kernel).__name__} takes several gradients on each batch, and the minimum of a minibatch of a given "
            "loss is not at w*: the chains would fit the batch. Use a loss made by ld.behavioural(...), or batches of "
            "all the data (batch_size = number of samples), or a kernel with one gradient a batch (SGLD, Underdamped)"
        )
