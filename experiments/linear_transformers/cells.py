"""The cells of the published table: settings, published values, stored models, and what is measured of one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from llc_dynamics.batch import parts
from llc_dynamics.rows import Row
from llc_dynamics.seeding import torch_generator
from llc_dynamics.sweeps import load_sweep
from llc_dynamics.systems.linear_transformer import references as ref
from llc_dynamics.systems.linear_transformer.model import LinearTransformer
from llc_dynamics.systems.linear_transformer.system import MixedNoiseRegression
from llc_dynamics.systems.linear_transformer.task import PUBLISHED, Contexts, Noise, draw, query_loss
from llc_dynamics.training import RunConfig

DIMENSION, EXAMPLES = 10, 20
ALGORITHMS = {"full": "FULL", "diag": "DIAG", "gdpp": "GD++"}
NOISES = {noise.label: noise for noise in PUBLISHED}
#: Vladymyrov et al. 2024, table 1: adjusted losses, in the order of `NOISES`. One layer: any class.
ROWS: dict[tuple[str, int], tuple[float, ...]] = {
    ("any", 1): (1.768, 1.639, 1.396, 1.175, 1.015, 0.907, 0.841, 0.806, 1.007, 0.819),
    ("diag", 2): (0.265, 0.214, 0.173, 0.188, 0.219, 0.242, 0.254, 0.259, 0.201, 0.246),
    ("diag", 3): (0.013, 0.015, 0.048, 0.087, 0.109, 0.118, 0.121, 0.123, 0.098, 0.119),
    ("full", 3): (0.012, 0.015, 0.049, 0.075, 0.101, 0.117, 0.124, 0.127, 0.076, 0.113),
    ("gdpp", 4): (9.9e-5, 0.014, 0.066, 0.160, 0.258, 0.344, 0.454, 0.530, 0.222, 0.422),
    ("diag", 4): (1.2e-4, 0.006, 0.024, 0.041, 0.050, 0.059, 0.065, 0.073, 0.043, 0.062),
    ("full", 4): (1.6e-4, 0.005, 0.021, 0.038, 0.052, 0.065, 0.068, 0.076, 0.032, 0.061),
    ("diag", 7): (2.5e-12, 0.002, 0.014, 0.027, 0.040, 0.047, 0.052, 0.059, 0.018, 0.046),
    ("full", 7): (2.5e-12, 0.002, 0.010, 0.025, 0.035, 0.047, 0.050, 0.057, 0.010, 0.035),
    ("constrr", 0): (0, 0.009, 0.066, 0.161, 0.265, 0.365, 0.454, 0.530, 0.222, 0.422),
    ("adarr", 0): (0, 0.003, 0.016, 0.034, 0.053, 0.068, 0.081, 0.092, 0.051, 0.084),
    ("tunedrr", 0): (0, 0.002, 0.010, 0.023, 0.037, 0.049, 0.060, 0.068, 0.021, 0.054),
}
_PART = 1024


class _InDouble(MixedNoiseRegression):
    """Trained in float64: six layers and more overflow float32 on rare contexts, and losses without noise are small."""

    def build(self, seed: int) -> torch.nn.Module:
        return super().build(seed).double()

    def sample(self, generator: torch.Generator, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.contexts(generator, batch_size, dtype=torch.float64).batch


@dataclass(frozen=True)
class Cell:
    """One model class, depth and noise setting."""

    algorithm: str
    layers: int
    noise: str

    @property
    def published(self) -> float | None:
        """The paper's adjusted loss, where it has one; two layers of FULL are held to those of DIAG."""
        name = "any" if self.layers == 1 else self.algorithm
        row = ROWS.get((name, self.layers)) or (ROWS["diag", 2] if (name, self.layers) == ("full", 2) else None)
        return None if row is None else row[list(NOISES).index(self.noise)]

    @property
    def seeds(self) -> int:
        """How many models are trained: more where there are basins."""
        if self.layers == 1:
            return 2
        return {"full": 3, "diag": 10, "gdpp": 4}[self.algorithm]

    def system(self) -> MixedNoiseRegression:
        """As it is trained."""
        noise = NOISES[self.noise]
        double = self.layers >= (5 if noise.mean_variance == 0 else 6)
        kind = _InDouble if double else MixedNoiseRegression
        return kind(
            noise.sigma_max,
            noise.sigmas,
            DIMENSION,
            EXAMPLES,
            algorithm=self.algorithm,  # type: ignore[arg-type]
            num_layers=self.layers,
        )

    def config(self, seed: int) -> RunConfig:
        """The recipe of table.toml. Diagonal classes take two learning rates in turn, since they have basins.

        Without noise the loss goes on falling: twice the steps, to a tenth of the final rate.
        """
        training = load_sweep(Path(__file__).with_name("table.toml")).training
        if self.algorithm != "full":
            training = replace(training, learning_rate=(1e-2, 3e-2)[seed % 2], num_steps=1500)
        if NOISES[self.noise].mean_variance == 0:
            training = replace(training, num_steps=2 * training.num_steps, final_fraction=training.final_fraction / 10)
        return RunConfig(self.system(), training, seed=seed)

    def path(self, folder: Path, seed: int) -> Path:
        """Of the weights of one seed."""
        name = self.system().describe().axis
        assert name is not None
        return folder / "models" / f"{name.value}-seed{seed}.safetensors"


def save(model: torch.nn.Module, path: Path) -> None:
    """Write the weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(model.state_dict()), path)


def load(cell: Cell, folder: Path, seed: int) -> LinearTransformer:
    """A stored model, in float64."""
    model = LinearTransformer(cell.system().architecture).double()
    model.load_state_dict(load_file(cell.path(folder, seed)))
    return model


def contexts(purpose: str, count: int, noise: Noise) -> Contexts:
    """Contexts in float64; for one purpose of the same draw whatever the noise."""
    drawn = draw(torch_generator(0, "table", purpose), count, DIMENSION, EXAMPLES, torch.float64)
    return drawn.contexts(noise)


def weights_of(model: LinearTransformer, on: Contexts) -> torch.Tensor:
    """w^L [B, d], in parts."""
    with torch.no_grad():
        return torch.cat([model(moments) for moments, _ in parts(on.batch, _PART)])


def adjusted(model: LinearTransformer, on: Contexts, oracle: torch.Tensor) -> torch.Tensor:
    """Loss minus that of the ridge that knows sigma, [B]."""
    return query_loss(weights_of(model, on), on.w) - oracle


def oracle_loss(on: Contexts) -> torch.Tensor:
    """Of the ridge that knows sigma, [B]."""
    return query_loss(ref.ridge(ref.Spectrum(on), on.sigma.double().square()), on.w)


def mean_and_error(values: torch.Tensor) -> tuple[float, float]:
    """Mean and its standard error."""
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


def best(rows: list[Row]) -> dict[Cell, Row]:
    """Of every cell the seed with the least loss on the contexts for the choice; diverged ones are not in it."""
    found: dict[Cell, Row] = {}
    for row in rows:
        cell = Cell(row["algorithm"], row["layers"], row["noise"])
        if not row["diverged"] and row["choice"] < found.get(cell, {"choice": math.inf})["choice"]:
            found[cell] = row
    return found
