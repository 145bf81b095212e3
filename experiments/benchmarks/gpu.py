"""What a GPU does for this package, in one program of eight minutes.

    python experiments/benchmarks/gpu.py --out gpu.jsonl
    python experiments/benchmarks/gpu.py --toy             # all of it on a CPU, in seconds, at the size of a toy

1. suite: the tests of the suite that are marked `cuda`.
2. train: steps a second of M = 12 in experiments/transient_ridge/small.toml and M = 64 in paper.toml, with recording:
   as many as fit.
3. chains: updates of single chains a second for 1, 8 and 64 chains: one after the other (loop), as one batch of work
   (vmap), and vmap with a compiled step (CUDA graphs), which the package does not have; devinterp, if it is installed.
   SGLD on the given loss.
4. estimate: calibrated settings, and an estimate with them on the GPU and on the CPU, which must agree.

Each section has a share of --seconds and ends by itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Row, chosen_sections, command_line, markdown_head, markdown_row

import llc_dynamics as ld
from llc_dynamics.rows import append_row
from llc_dynamics.sweeps import load_preset
from llc_dynamics.training import RunConfig, train

CHECKOUT = Path(__file__).resolve().parents[2]
CHAINS = (1, 8, 64)
RUNS = {"small": ("small", "M-12"), "paper": ("transient_ridge/paper", "M-64")}
# Of --seconds; the suite comes first, and what it leaves is nobody's.
SHARES = {"suite": 0.15, "train": 0.3, "chains": 0.3, "estimate": 0.2}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is measured: all of it, or a toy's."""

    seconds: float
    device: str
    toy: bool

    def config(self, name: str) -> RunConfig:
        preset, run = RUNS[name]
        found = load_preset(preset).run_configs()[run]
        if not self.toy:
            return found
        system = dataclasses.replace(
            found.system, width=8, mlp_width=8, num_layers=1, num_sequences=16, num_root_sequences=4
        )
        training = dataclasses.replace(found.training, num_steps=40, batch_size=8, warmup_steps=2)
        checkpoints = dataclasses.replace(found.checkpoints, linear_interval=20, num_log=0)
        return RunConfig(system, training, checkpoints, found.seed)

    def sampling(self, name: str) -> dict[str, int]:
        """batch_size and num_samples, those of the preset."""
        if self.toy:
            return {"batch_size": 8, "num_samples": 100}
        settings = load_preset(RUNS[name][0]).llc.estimate
        return {"batch_size": settings.batch_size, "num_samples": settings.num_samples}

    def share(self, section: str, parts: int) -> float:
        return SHARES[section] * self.seconds / parts


class _TimeUpError(Exception):
    pass


def suite(sizes: Sizes, _: Path) -> Iterator[Row]:
    files = [str(file) for file in (CHECKOUT / "tests").rglob("test_*.py") if "mark.cuda" in file.read_text()]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", *files]
    start = time.perf_counter()
    try:
        run = subprocess.run(
            command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=sizes.share("suite", 1)
        )
        lines = run.stdout.strip().splitlines() or run.stderr.strip().splitlines()
        said = lines[-1]
        failed = [line for line in lines if line.startswith("FAILED")]
    except subprocess.TimeoutExpired:
        said, failed = "did not end in its time", []
    yield {"what": "tests", "said": said, "failed": failed, "seconds": time.perf_counter() - start}


def training(sizes: Sizes, folder: Path) -> Iterator[Row]:
    for name in RUNS:
        config, end = sizes.config(name), time.perf_counter() + sizes.share("train", len(RUNS))
        reached = [0, math.nan]

        def watch(step: int, loss: float, end: float = end, reached: list[float] = reached) -> None:
            reached[:] = [step, loss]
            if step > 0 and time.perf_counter() > end:
                raise _TimeUpError

        start = time.perf_counter()
        with contextlib.suppress(_TimeUpError):  # what was recorded before is sealed
            train(config, folder / name, device=sizes.device, progress=watch)
        seconds = time.perf_counter() - start
        yield {
            "what": f"{name}, {RUNS[name][1]}",
            "steps": int(reached[0]),
            "of": config.training.num_steps,
            "checkpoints": len(ld.Trajectory(folder / name).weight_steps),
            "loss": reached[1],
            "steps a second": reached[0] / seconds,
            "seconds": seconds,
        }


def trained(sizes: Sizes, folder: Path, name: str) -> torch.nn.Module:
    """The model with the last weights of `training`; as it is built, without them."""
    config = sizes.config(name)
    model = config.system.build(config.seed)
    if (folder / name / "manifest.json").exists():
        run = ld.Trajectory(folder / name)
        run.load_into(model, int(run.weight_steps[-1]))
    return model


def rate(run: Callable[[int], None], seconds: float) -> float:
    """Updates a second of `run(updates)`, without what starts and ends a call: a long one less a short one."""
    run(1)  # compiles, allocates
    start = time.perf_counter()
    run(1)
    short = time.perf_counter() - start
    updates = 8
    while True:
        start = time.perf_counter()
        run(updates)
        taken = time.perf_counter() - start
        if taken - short > max(seconds / 4, short) or updates >= 4096:
            return (updates - 1) / max(taken - short, 1e-9)
        updates *= 4


def chains(sizes: Sizes, folder: Path) -> Iterator[Row]:
    counts = (2,) if sizes.toy else CHAINS
    ways = {"loop": ours, "vmap": ours, "compiled": compiled}
    if importlib.util.find_spec("devinterp") is not None and not sizes.toy:
        ways["devinterp"] = devinterp
    box = sizes.share("chains", len(RUNS) * len(counts) * len(ways))
    for name in RUNS:
        config, size = sizes.config(name), sizes.sampling(name)["batch_size"]
        model = trained(sizes, folder, name)
        for count in counts:
            for way, make in ways.items():
                row: Row = {"what": name, "way": way, "chains": count}
                try:
                    found = count * rate(make(config, model, size, count, sizes, way), box)
                except Exception as error:  # out of memory, no compiler: a row that says so
                    yield row | {"updates a second": None, "why": f"{type(error).__name__}: {str(error)[:200]}"}
                else:
                    yield row | {"updates a second": found}


def ours(config: RunConfig, model: Any, size: int, count: int, sizes: Sizes, way: str) -> Callable[[int], None]:
    """Four draws, the fewest there are, of `updates` updates each."""
    settings = ld.EstimateSettings(
        ld.SGLD(1e-7, localization=1000.0),
        count,
        4,
        0,
        chain_method=way,
        batch_size=size,
        num_samples=1000,
    )

    def run(updates: int) -> None:
        chosen = dataclasses.replace(settings, steps_per_draw=updates)
        ld.estimate_llc(model, config.system.loss, config.system.sample, settings=chosen, device=sizes.device)

    return lambda updates: run(max(1, updates // 4))


def compiled(config: RunConfig, model: Any, size: int, count: int, sizes: Sizes, _: str) -> Callable[[int], None]:
    """The update of all chains as one compiled function; on a GPU as a CUDA graph."""
    model = model.to(sizes.device)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    loss = config.system.loss

    def mean(own: dict[str, torch.Tensor], batch: Any) -> torch.Tensor:
        call = lambda x, y: torch.func.functional_call(model, own, (x, y))  # noqa: E731
        return loss(call, batch).mean()

    gradient = torch.func.vmap(torch.func.grad(mean), randomness="different")

    def update(at: dict[str, torch.Tensor], batch: Any, noise: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        slope = gradient(at, batch)
        step = {name: 150.0 * slope[name] + 1000.0 * (at[name] - weights[name]) for name in at}
        return {name: at[name] - 5e-8 * step[name] + 3e-4 * noise[name] for name in at}

    if sizes.device == "cpu":
        fast = torch.compile(update, backend="aot_eager")
    else:
        fast = torch.compile(update, mode="reduce-overhead")
    generator = torch.Generator(sizes.device).manual_seed(0)

    @torch.no_grad()
    def run(updates: int) -> None:
        at = {name: weight.expand(count, *weight.shape).clone() for name, weight in weights.items()}
        for _ in range(updates):
            x, y = config.system.sample(generator, count * size)
            batch = (x.unflatten(0, (count, size)), y.unflatten(0, (count, size)))
            noise = {
                name: torch.randn(each.shape, generator=generator, device=each.device) for name, each in at.items()
            }
            # a CUDA graph writes into the memory of its last call
            at = {name: each.clone() for name, each in fast(at, batch, noise).items()}
        if sizes.device != "cpu":
            torch.cuda.synchronize()

    return run


def devinterp(config: RunConfig, model: Any, size: int, count: int, sizes: Sizes, _: str) -> Callable[[int], None]:
    """devinterp 2, at the same settings and on the same device, on 4,096 stored sequences."""
    from peers.problems import in_context
    from peers.run_devinterp2 import load
    from peers.settings import Settings

    x, y = config.system.sample(torch.Generator().manual_seed(0), 4096)
    sizes_of = dataclasses.asdict(model.config)
    state = {name: weight.numpy() for name, weight in model.cpu().state_dict().items()}
    problem = in_context("gpu", sizes_of, state, x.numpy(), y.numpy(), 150.0, {})
    prepare = load()

    def run(updates: int) -> None:
        options = {"device": sizes.device}
        settings = Settings("gpu", 1e-7, 150.0, 1000.0, size, count, max(2, updates), options=options)
        prepare(problem, settings)(0)

    return run


def estimates(sizes: Sizes, folder: Path) -> Iterator[Row]:
    for name in RUNS:
        config, sampling = sizes.config(name), sizes.sampling(name)
        model, loss = trained(sizes, folder, name), ld.behavioural(config.system.outputs)
        box = sizes.share("estimate", 3 * len(RUNS))
        start = time.perf_counter()
        found = ld.calibrate(model, loss, config.system.sample, max_seconds=box, device=sizes.device, **sampling)
        row: Row = {"what": name, "calibrated in": time.perf_counter() - start}
        results = []
        for device in (sizes.device, "cpu"):
            settings = dataclasses.replace(found.settings, max_seconds=box)
            start = time.perf_counter()
            result = ld.estimate_llc(model, loss, config.system.sample, settings=settings, device=device)
            results.append(result)
            place = "here" if len(results) == 1 else "CPU"
            row |= {
                place: f"{result.llc:.4g} ± {result.standard_error:.2g}{'' if result.converged else ', not converged'}",
                f"{place}, s": time.perf_counter() - start,
                f"{place}, draws": result.trace.shape[1],
            }
        apart = results[0].llc - results[1].llc
        yield row | {"apart, standard errors": apart / np.hypot(*(each.standard_error for each in results))}


SECTIONS = {"suite": suite, "train": training, "chains": chains, "estimate": estimates}


def main(arguments: list[str] | None = None) -> None:
    parser = command_line(__doc__, out="rows as they come")
    parser.add_argument("sections", nargs="*", help=", ".join(SECTIONS))
    parser.add_argument("--seconds", type=float, default=480.0, help="in all")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true", help="on a CPU, small")
    parser.add_argument("--folder", type=Path, help="keeps the trained runs here")
    options = parser.parse_args(arguments)
    names = chosen_sections(parser, options.sections, SECTIONS)
    if not options.toy and torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here; --toy runs all of it on a CPU")
    sizes = Sizes(options.seconds, "cpu" if options.toy else options.device, options.toy)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for name in names:
            rows = []
            for row in SECTIONS[name](sizes, folder):
                rows.append(row)
                if options.out is not None:
                    append_row(options.out, {"section": name, **row})
            columns = list(dict.fromkeys(key for row in rows for key in row))
            print(f"\n{name}\n\n{markdown_head(columns)}")
            for row in rows:
                print(markdown_row(row.get(key, "") for key in columns), flush=True)
    place = "a CPU" if sizes.device == "cpu" else torch.cuda.get_device_name(0)
    print(f"\n{time.perf_counter() - start:.0f} s on {place}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
