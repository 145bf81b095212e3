"""Accuracy on deep linear networks whose learning coefficient is known (Aoyagi 2024), without any tuning.

    python experiments/benchmarks/deep_linear.py --classes 1K 10K --networks 50 --out RESULTS

For each class of sizes, random networks at a rank-minimal point; inputs uniform on [-10, 10] and the mean squared error
over outputs, as in Furman & Lau's code; n = 1e5, batches of 500. Settings are those of `ld.calibrate` by default,
trials included. `--loss given` estimates the loss with noisy targets instead of the behavioural one. Rows go to
RESULTS/<class>-<loss>-<data>.jsonl as they are made; a second call goes on.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Row, command_line, fill

import llc_dynamics as ld
from llc_dynamics.errors import ConfigError
from llc_dynamics.seeding import numpy_generator, torch_generator
from llc_dynamics.theory import (
    DeepLinearData,
    DeepLinearNetwork,
    mean_squared_error,
    rank_minimal_network,
)

NUM_SAMPLES = 100_000
BATCH_SIZE = 500


@dataclass(frozen=True)
class SizeClass:
    """Numbers of layers and widths that networks of a class are drawn from (both ends included)."""

    num_parameters: int
    num_layers: tuple[int, int]
    widths: tuple[int, int]


# The ranges for 100K and 1M are those of runs in Furman & Lau's published code (github.com/edmundlth/
# validating_lambdahat). The table of the paper could not be read: those for 1K and 10K are ours.
SIZE_CLASSES: dict[str, SizeClass] = {
    "1K": SizeClass(1_000, (2, 5), (5, 50)),
    "10K": SizeClass(10_000, (2, 5), (5, 50)),
    "100K": SizeClass(100_000, (2, 20), (50, 300)),
    "1M": SizeClass(1_000_000, (2, 20), (100, 1_000)),
}


def random_deep_linear(size_class: str, seed: int) -> tuple[tuple[int, ...], int]:
    """Widths and rank of a random network in the manner of Furman & Lau (arXiv 2402.03698).

    The number of layers and each width are uniform on the ranges of `SIZE_CLASSES`, redrawn until the number of
    parameters is within a factor of 2 of the class's name. The rank is that of the product in their protocol: each
    layer has full rank with probability 1/2 and otherwise a rank uniform on 1, ..., full; the product has the least of
    these. Use `rank_minimal_network(widths, rank)` for the weights.

    Parameters
    ----------
    size_class : "1K", "10K", "100K" or "1M".
    seed : each gives one network of each class.

    Raises `ConfigError` for an unknown class.
    """
    if size_class not in SIZE_CLASSES:
        raise ConfigError(f"size_class must be one of {', '.join(SIZE_CLASSES)}; got {size_class!r}")
    ranges = SIZE_CLASSES[size_class]
    generator = numpy_generator(seed, "random deep linear network", size_class)
    while True:
        num_layers = int(generator.integers(ranges.num_layers[0], ranges.num_layers[1] + 1))
        widths = tuple(generator.integers(ranges.widths[0], ranges.widths[1] + 1, num_layers + 1).tolist())
        if 0.5 <= sum(before * after for before, after in pairwise(widths)) / ranges.num_parameters <= 2:
            break
    full_ranks = [min(layer) for layer in pairwise(widths)]
    ranks = [int(generator.integers(1, full + 1)) if generator.random() < 0.5 else full for full in full_ranks]
    return widths, min(ranks)


def outputs(model: DeepLinearNetwork, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return model(batch[0])


def estimate(cell: Row) -> Row:
    """One network: the estimate beside the exact value."""
    size_class, seed, loss, data = (cell[name] for name in ("class", "seed", "loss", "data"))
    widths, rank = random_deep_linear(size_class, seed)
    network = rank_minimal_network(widths, rank, seed=seed)
    law: Any = DeepLinearData(network.product().detach(), inputs="uniform", noise=float(loss == "given"))
    samples = law(torch_generator(seed, "finite data"), NUM_SAMPLES) if data == "finite" else law
    loss_fn = ld.behavioural(outputs) if loss == "behavioural" else mean_squared_error
    start = time.perf_counter()
    found = ld.calibrate(
        network,
        loss_fn,
        samples,
        num_samples=NUM_SAMPLES,
        batch_size=BATCH_SIZE,
        num_chains=cell["chains"],
        gradients=cell["budget"],
        seed=seed,
    )
    calibrated = time.perf_counter()
    result = ld.estimate_llc(network, loss_fn, samples, settings=found)
    exact = ld.theory.deep_linear_llc(widths=list(widths), rank=rank)
    low, high = result.lambda_interval(0.95)
    return {
        "widths": list(widths),
        "rank": rank,
        "parameters": result.dimension,
        "exact": exact,
        "llc": result.llc,
        "standard_error": result.standard_error,
        "relative_error": result.llc / exact - 1,
        "interval": [low, high],
        "holds": low <= exact <= high,
        "virial": result.virial,
        "kernel": type(found.settings.sampler).__name__,
        "gamma": result.localization,
        "gradients": result.num_gradients * cell["chains"],
        "gradients of trials": found.num_gradients,
        "seconds of calibration": calibrated - start,
        "seconds": time.perf_counter() - calibrated,
        "converged": result.converged,
        "reasons": [reason.code for reason in result.reasons],
    }


def summary(rows: list[Row]) -> Row:
    """Median error, share within 20%, share of pairs in the right order, intervals, and what the flags caught."""
    errors = np.array([row["relative_error"] for row in rows])
    pairs = [(a, b) for a, b in itertools.combinations(rows, 2) if a["exact"] != b["exact"]]
    ordered = [(a["llc"] - b["llc"]) * (a["exact"] - b["exact"]) > 0 for a, b in pairs]
    widths = [(row["interval"][1] - row["interval"][0]) / row["exact"] for row in rows]
    wrong = [row for row in rows if abs(row["relative_error"]) > 0.1]
    return {
        "networks": len(rows),
        "median |error|": f"{np.median(np.abs(errors)):.3f}",
        "median error": f"{np.median(errors):+.3f}",
        "within 20%": f"{np.mean(np.abs(errors) <= 0.2):.3f}",
        "pairs in order": f"{np.mean(ordered):.4f}" if ordered else "-",
        "converged": f"{np.mean([row['converged'] for row in rows]):.2f}",
        "intervals with lambda": f"{np.mean([row['holds'] for row in rows]):.2f}",
        "their width (median)": f"{np.median(widths):.2f} lambda",
        "off by 10%": f"{len(wrong)}, of these converged {sum(row['converged'] for row in wrong)}",
        "seconds (median)": f"{np.median([row['seconds'] for row in rows]):.1f}",
        "of the calibration": f"{np.median([row['seconds of calibration'] for row in rows]):.1f}",
    }


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--classes", nargs="+", default=["1K"])
    parser.add_argument("--networks", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="seed of the first network")
    parser.add_argument("--loss", choices=("behavioural", "given"), default="behavioural")
    parser.add_argument("--data", choices=("fresh", "finite"), default="fresh")
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--gradients", type=int, default=4000)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for size_class in options.classes:
        path = options.out / f"{size_class}-{options.loss}-{options.data}.jsonl"
        same = {"class": size_class, "loss": options.loss, "data": options.data}
        same |= {"chains": options.chains, "budget": options.gradients}
        seeds = range(options.first, options.first + options.networks)
        rows = fill([{**same, "seed": seed} for seed in seeds], path, estimate)
        print(f"\n{size_class}, {options.loss} loss, {options.data} samples")
        for name, value in summary(rows).items():
            print(f"  {name:<24} {value}")


if __name__ == "__main__":
    main()
