"""Overhead of recording in a plain loop, in PyTorch Lightning and in the Hugging Face Trainer.

    python experiments/benchmarks/adapters.py [--steps N] [--folder DIR]

A network of 104,000 parameters (four layers of 180 units) is trained on batches of 256 for N steps. The schedule is
`checkpoint_schedule(N, 100, N // 150)`: evenly and logarithmically spaced steps as dense as the 2,203 of 150,000 that
published runs have, one in 60 to 70. Printed is the time spent in the recorder, all hooks of the trainers and opening
and ending the run included, over the rest of the training (on a machine that others use, two trainings differ by more
than that): wall clock, and the processor's, without and with function vectors of 1,024 outputs. Trainers that are not
installed are left out.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import command_line

import llc_dynamics as ld

X = torch.randn(4096, 32, generator=torch.Generator().manual_seed(0))
Y = X[:, :4].sin()
BATCH = 256
HOOKS = {
    "lightning": (
        *("on_train_start", "on_train_batch_start", "on_train_batch_end", "on_validation_end", "on_train_epoch_end"),
        *("on_save_checkpoint", "on_train_end", "teardown"),
    ),
    "transformers": (
        *("on_train_begin", "on_step_begin", "on_step_end", "on_log", "on_evaluate", "on_epoch_end", "on_save"),
        "on_train_end",
    ),
}


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = [torch.nn.Linear(32, 180)]
    for _ in range(3):
        layers += [torch.nn.GELU(), torch.nn.Linear(180, 180)]
    return torch.nn.Sequential(*layers, torch.nn.GELU(), torch.nn.Linear(180, 4))


def function_vector(model: torch.nn.Module) -> torch.Tensor:
    return model(X[:256])


class Clock:
    """Seconds spent in methods that `watch` has wrapped: wall clock and processor."""

    def __init__(self) -> None:
        self.wall = self.busy = 0.0
        self._inside = False

    def watch(self, target: Any, *names: str) -> Any:
        for name in names:
            setattr(target, name, self._timed(getattr(target, name)))
        return target

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            if self._inside:
                return method(*arguments, **named)
            self._inside = True
            wall, busy = time.perf_counter(), time.process_time()
            try:
                return method(*arguments, **named)
            finally:
                self.wall += time.perf_counter() - wall
                self.busy += time.process_time() - busy
                self._inside = False

        return timed


def plain(path: Path, steps: int, settings: dict[str, Any], clock: Clock) -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    recorder = clock.watch(ld.Recorder(path, model, **settings), "record", "finish", "close")
    record = clock.watch(argparse.Namespace(call=recorder.__call__), "call").call
    for step in range(steps + 1):
        if step:
            start = step * BATCH % len(X)
            loss = (model(X[start : start + BATCH]) - Y[start : start + BATCH]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        record(step, {"train_loss": loss} if step else None)
    recorder.finish()
    recorder.close()


def lightning(path: Path, steps: int, settings: dict[str, Any], clock: Clock) -> None:
    import pytorch_lightning as pl

    from llc_dynamics.adapters import LightningCallback

    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.ERROR)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch: Any) -> torch.Tensor:
            loss = (self.net(batch[0]) - batch[1]).square().mean()
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 1e-3)

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=BATCH)
    record = LightningCallback(path, module="net", **settings)
    trainer = pl.Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[clock.watch(record, *HOOKS["lightning"])],
    )  # fmt: skip
    trainer.fit(Module(), data)


def transformers(path: Path, steps: int, settings: dict[str, Any], clock: Clock) -> None:
    import transformers

    from llc_dynamics.adapters import HuggingFaceCallback

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            outputs = self.net(x)
            return {"loss": (outputs - labels).square().mean(), "logits": outputs}

    if "outputs" in settings:
        settings = settings | {"outputs": lambda model: model.net(X[:256])}
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=BATCH, save_strategy="no", report_to=[],
            disable_tqdm=True, use_cpu=True, logging_steps=100, dataloader_pin_memory=False,
        )  # fmt: skip
        data = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
        record = clock.watch(HuggingFaceCallback(path, **settings), *HOOKS["transformers"])
        trainer = transformers.Trainer(Model(), arguments, train_dataset=data, callbacks=[record])
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()


def main() -> None:
    parser = command_line(__doc__, folder=True)
    parser.add_argument("--steps", type=int, default=1500)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    schedule = ld.checkpoint_schedule(arguments.steps, 100, max(2, arguments.steps // 150))
    print(f"{arguments.steps} steps, {len(schedule)} checkpoints, one in {arguments.steps / len(schedule):.0f}")
    variants: dict[str, dict[str, Any]] = {
        "weights and metrics": {"steps": schedule},
        "function vectors too": {"steps": schedule, "outputs": function_vector},
    }
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for loop in (plain, lightning, transformers):
            for name, settings in variants.items():
                clock, path = Clock(), Path(folder) / f"{loop.__name__}-{len(settings)}"
                wall, busy = time.perf_counter(), time.process_time()
                try:
                    loop(path, arguments.steps, settings, clock)
                except ImportError as error:
                    print(f"{loop.__name__}: left out ({error})")
                    break
                wall, busy = time.perf_counter() - wall - clock.wall, time.process_time() - busy - clock.busy
                print(
                    f"{loop.__name__}, {name}: {clock.wall / wall:.2%} of the time, {clock.busy / busy:.2%} of the "
                    f"processor's; a step {wall / arguments.steps * 1e3:.1f} ms, a checkpoint "
                    f"{clock.wall / len(schedule) * 1e3:.1f} ms",
                    flush=True,
                )


if __name__ == "__main__":
    main()
