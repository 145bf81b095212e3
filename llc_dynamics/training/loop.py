"""System in, trajectory out. A stopped run goes on and ends bit-for-bit as the unbroken one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llc_dynamics.batch import mapped, num_samples, parts
from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.provenance import provenance
from llc_dynamics.seeding import isolated_generators, torch_generator
from llc_dynamics.systems.checks import check_system
from llc_dynamics.systems.measure import PROBES, ProbeSet
from llc_dynamics.systems.system import System
from llc_dynamics.training.averaging import WeightAverage
from llc_dynamics.training.config import RunConfig
from llc_dynamics.training.optimizers import build_optimizers, load_optimizer_state, optimizer_state
from llc_dynamics.training.schedules import rate_factor
from llc_dynamics.trajectory import Trajectory, TrajectoryWriter
from llc_dynamics.trajectory.names import is_run

_SEAL_SECONDS = 30.0  # a kill costs at most this much work, however slow the steps

Progress = Callable[[int, float], None]  # called with (step, mean training loss since the last one) at checkpoints


def train(config: RunConfig, path: str | Path, *, device: str = "cpu", progress: Progress | None = None) -> Trajectory:
    """Train one model and store its trajectory in the folder `path`; continue there if it was begun before.

    The caller chooses the number of threads (`torch.set_num_threads`); on one machine and with one thread the stored
    rows depend on `config` alone (how many of them share a file depends on the clock). Raises `TrajectoryError` if
    `path` holds something else, `ManifestMismatchError` if it holds a run with other settings, what `check_system`
    raises before anything is written, and `DataError` if the loss becomes NaN (checkpoints before that are kept).
    """
    resolved = config.to_mapping()
    if is_run(Path(path)):
        begun = Trajectory(path)
        # Compared as settings: a later version may know settings, with defaults, that the manifest does not hold.
        ours = isinstance(begun.config.get("system"), Mapping)
        if ours and load_config(begun, type(config.system)).to_mapping() == resolved:
            if begun.complete:
                return begun
            resolved = dict(begun.config)
    with isolated_generators(config.seed):
        return _train(config, resolved, Path(path), device, progress)


def _train(
    config: RunConfig, resolved: Mapping[str, Any], path: Path, device: str, progress: Progress | None
) -> Trajectory:
    probes, description = check_system(config.system, config.seed)
    run = TrainingState(config, device)
    probe_set = ProbeSet(config.system, probes, description, device)
    schedule = [int(step) for step in config.checkpoint_steps()]
    with_weights = {int(step) for step in config.weight_steps()}
    with TrajectoryWriter(
        path,
        run.recorded,
        config=resolved,
        arrays={PROBES: probe_set.arrays()},
        storage=config.checkpoints.storage,
        resume=True,
        provenance=provenance(device),
        description=description.to_dict(),
    ) as writer:
        state = Trajectory(path).resume_state()
        if state is not None:
            run.load_state(state)
        sealed_at = time.monotonic()
        for target in (step for step in schedule if step > run.step or (step == 0 and state is None)):
            train_loss = run.advance(target)
            measured = probe_set.measure(run.recorded_model())
            writer.record(
                target,
                metrics={"train_loss": train_loss, **measured.metrics},
                outputs=measured.outputs,
                samples=measured.samples,
                weights=target in with_weights,
            )
            if progress is not None:
                progress(target, train_loss)
            late = time.monotonic() - sealed_at > _SEAL_SECONDS
            if late or writer.full or target == schedule[-1]:
                writer.seal(state=run.state())
                sealed_at = time.monotonic()
        writer.finish()
    return Trajectory(path)


def load_config(run: Trajectory, system: type[System] | None = None) -> RunConfig:
    """The `RunConfig` that a stored run was trained with; see `RunConfig.from_mapping`."""
    return RunConfig.from_mapping(run.config, str(run.path), system)


class TrainingState:
    """Model, optimiser, generator and step: what changes during training."""

    def __init__(self, config: RunConfig, device: str) -> None:
        self.config = config
        self.device, self.on_gpu = device, torch.device(device).type == "cuda"
        self.step = 0
        self.model = config.system.build(config.seed).to(device)
        self.generator = torch_generator(config.seed, "batches", device=device)
        settings = config.training
        self.draw = _batches(config.system, max(settings.batch_size, settings.final_batch_size or 0), device)
        self.optimizers = build_optimizers(self.model, config.system, settings)
        self.average = WeightAverage(self.model, settings.averaging) if settings.averaging > 0 else None
        self.loss: Callable[[nn.Module, Any], Tensor] = config.system.loss
        if settings.compile:
            self.loss = torch.compile(config.system.loss, dynamic=False)
        self.autocast = (
            torch.autocast(torch.device(device).type, torch.bfloat16) if settings.bfloat16 else nullcontext()
        )

    @property
    def recorded(self) -> nn.Module:
        """The module whose weights checkpoints hold."""
        return self.model if self.average is None else self.average.model

    def recorded_model(self) -> nn.Module:
        """The same, brought up to date."""
        if self.average is not None:
            self.average.materialise()
        return self.recorded

    def advance(self, target: int) -> float:
        """Update up to step `target`; the mean loss of the training batches on the way (of none: NaN)."""
        settings = self.config.training
        total, start = torch.zeros((), dtype=torch.float64), self.step
        while self.step < target:
            factor = rate_factor(
                self.step,
                schedule=settings.schedule,
                num_steps=settings.num_steps,
                warmup_steps=settings.warmup_steps,
                final_fraction=settings.final_fraction,
            )
            size = settings.batch_size_at(self.step)
            self.model.zero_grad()
            batch = self.draw(self.generator, size)
            for part in [batch] if settings.part_size is None else parts(batch, settings.part_size):
                with self.autocast:
                    loss = self.loss(self.model, part)
                    loss = loss.mean() * (len(loss) / size)
                loss.backward()
                total = total.to(loss.device) + loss.detach()
            if settings.max_gradient_norm is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), settings.max_gradient_norm)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = factor * group["peak"]
                optimizer.step()
            self.step += 1
            if self.average is not None:
                self.average.update()
        mean = (total / (target - start)).item() if target > start else float("nan")
        if target > start and not math.isfinite(mean):
            raise DataError(
                f"the training loss became {mean} between steps {start} and {target}; lower training.learning_rate "
                f"({settings.learning_rate}) or lengthen training.warmup_steps; checkpoints up to {start} are kept"
            )
        return mean

    def state(self) -> dict[str, Any]:
        """Everything that a continued run needs, as plain values and tensors."""
        return {
            "step": self.step,
            "model": dict(self.model.state_dict()),
            "optimizers": [optimizer_state(optimizer) for optimizer in self.optimizers],
            "generator": self.generator.get_state(),
            # Dropout and the like draw from the global generators.
            "global": [torch.get_rng_state(), torch.cuda.get_rng_state(self.device) if self.on_gpu else None],
            "average": None if self.average is None else self.average.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.step = int(state["step"])
        self.model.load_state_dict(state["model"])
        for optimizer, stored in zip(self.optimizers, state["optimizers"], strict=True):
            load_optimizer_state(optimizer, stored)
        self.generator.set_state(state["generator"].cpu())
        torch.set_rng_state(state["global"][0].cpu())
        if self.on_gpu:
            torch.cuda.set_rng_state(state["global"][1].cpu(), self.device)
        if self.average is not None:
            self.average.load_state(state["average"])


def _batches(system: System, largest: int, device: str) -> Callable[[torch.Generator, int], Any]:
    """Batches: fresh ones from `sample`, or independent draws from the samples of `data` (all of them, if as many)."""
    data = system.data()
    if data is None:
        return system.sample
    total = num_samples(data)
    if largest > total:
        raise ConfigError(f"training.batch_size is {largest}, and data() holds {total} samples; choose at most that")
    data = mapped(data, lambda leaf: leaf.to(device))

    def draw(generator: torch.Generator, batch_size: int) -> Any:
        if batch_size == total:
            return data
        chosen = torch.randint(total, (batch_size,), generator=generator, device=generator.device)
        return mapped(data, lambda leaf: leaf[chosen])

    return draw
