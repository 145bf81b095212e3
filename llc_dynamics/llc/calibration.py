"""What a calibration is asked for, and what it found: the settings it chose, and the evidence for them."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from llc_dynamics.errors import ConfigError
from llc_dynamics.finding import Finding, sentences
from llc_dynamics.llc.settings import EstimateSettings, read_settings, write_settings
from llc_dynamics.ranges import finite_number
from llc_dynamics.seeding import derive_seed
from llc_dynamics.settings import load_toml, with_plain_numbers
from llc_dynamics.trajectory.files import storage_errors, write_whole

_SETTINGS, _EVIDENCE = "settings.toml", "evidence.csv"


@dataclass(frozen=True)
class CalibrationOptions:
    """What a calibration is asked for; see `calibrate` for each. Raises `ConfigError` for one out of its range."""

    gradients: int = 4000
    target_error: float = 0.05
    nbeta: float | None = None
    num_chains: int = 4
    batch_size: int | None = None
    num_samples: int | None = None
    trials: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        with_plain_numbers(self)
        if self.nbeta is not None:
            finite_number("nbeta (or None for n / log n)", self.nbeta, zero=False)
        if isinstance(self.gradients, bool) or not isinstance(self.gradients, int) or self.gradients < 1:
            raise ConfigError(f"gradients must be a positive whole number, got {self.gradients!r}")
        derive_seed(self.seed)  # says what is wrong with it before anything is tried

    @property
    def start(self) -> EstimateSettings:
        """What is known of the settings before anything is tried."""
        return EstimateSettings(
            num_chains=self.num_chains,
            batch_size=self.batch_size,
            num_samples=self.num_samples,
            target_error=self.target_error,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Trial:
    """One estimate that was made on the way; a row of the evidence.

    Attributes
    ----------
    purpose : "resolution" (the ladder of gamma), "batch" (larger batches), "nbeta" (another temperature), "control"
        (nbeta = 0 in the sampling: what the loss would be if chains did not feel it).
    place : the checkpoint, or "model".
    nbeta, localization, batch_size : what it was made with.
    ratio : sqrt(nbeta h / gamma), h the largest curvature at w*: the condition of the problem. The work of one passage
        along the flat directions is proportional to it.
    llc, standard_error, virial, lowest_virial, highest_virial : the estimate, and the virial ratio over all parameters
        and the extremes over parameter tensors.
    acceptance, gradient_kinetic, ess : as in `LLCResult`.
    draws, gradients : of one chain.
    explored : whether the chains were in equilibrium by all checks but those of too few draws.
    reasons : what spoke against it.
    """

    purpose: str
    place: str
    nbeta: float
    localization: float
    ratio: float
    batch_size: int
    llc: float
    standard_error: float
    virial: float
    lowest_virial: float
    highest_virial: float
    acceptance: float
    gradient_kinetic: float
    ess: float
    draws: int
    gradients: int
    explored: bool
    reasons: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Calibration:
    """Settings for a whole trajectory, and why these; `estimate_llc` and `llc_curve` take it as `settings=`.

    Attributes
    ----------
    settings : what was chosen.
    loss : "given" or "behavioural".
    trials : the evidence.
    findings : what was found, by code: `degenerate`; `plateau`, `no_plateau`, `not_explored`, `untried`;
        `batch_enough`, `batch_largest`; `expected_error`; `control`.
    plateau : whether the estimate stopped depending on gamma within the budget, at every checkpoint that was tried.
    num_gradients : gradients of all chains of all trials.
    """

    settings: EstimateSettings
    loss: str
    trials: tuple[Trial, ...]
    findings: tuple[Finding, ...]
    plateau: bool
    num_gradients: int

    @property
    def nbeta(self) -> float:
        """The inverse temperature that was calibrated for."""
        settings = self.settings
        return settings.nbeta(settings.num_samples) if settings.num_samples else float(settings.sampler.nbeta or "nan")

    def table(self) -> str:
        """The evidence as text, one line for each trial."""
        wide = max(8, *(len(row.place) + 2 for row in self.trials)) if self.trials else 8
        lines = [
            f"{'trial':<11}{'at':>{wide}}{'nbeta':>9}{'gamma':>10}{'batch':>6}{'LLC':>10}{'error':>8}{'virial':>7}"
            f"{'blocks':>11}{'accept':>7}  explored"
        ]
        for row in self.trials:
            blocks = f"{row.lowest_virial:.2f}-{row.highest_virial:.2f}"
            verdict = "yes" if row.explored else f"no: {sentences(row.reasons)}"
            if row.purpose == "control":
                blocks, verdict = "", "without the loss"
            lines.append(
                f"{row.purpose:<11}{row.place:>{wide}}{row.nbeta:>9.4g}{row.localization:>10.4g}{row.batch_size:>6}"
                f"{row.llc:>10.4g}{row.standard_error:>8.2g}{_blank(row.virial, '.3f'):>7}{blocks:>11}"
                f"{_blank(row.acceptance, '.2f'):>7}  {verdict}"
            )
        return "\n".join(lines)

    def save(self, folder: str | Path) -> Path:
        """Write `settings.toml` and `evidence.csv` into `folder`; returns the settings file.

        `ld.plots.plot_calibration` draws the figure.

        Raises `TrajectoryError` if the folder cannot be written to.
        """
        folder = Path(folder)
        found = {
            "findings": [finding.to_dict() for finding in self.findings],
            "plateau": self.plateau,
            "num_gradients": self.num_gradients,
        }
        path = write_settings(folder / _SETTINGS, self.settings, self.loss, found)
        with storage_errors(folder):
            write_whole(folder / _EVIDENCE, self._csv().encode())
        return path

    @classmethod
    def load(cls, folder: str | Path) -> Calibration:
        """What `save` wrote. Raises `ConfigError` for a missing or malformed settings file or evidence."""
        folder = Path(folder)
        settings, loss = read_settings(folder / _SETTINGS)
        found = load_toml(folder / _SETTINGS).get("calibration", {})
        try:
            with open(folder / _EVIDENCE, encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file)
                if reader.fieldnames is None or set(reader.fieldnames) != {each.name for each in fields(Trial)}:
                    raise ValueError(f"{_EVIDENCE} has other columns")
                trials = tuple(_trial(row) for row in reader)
            return cls(
                settings,
                loss,
                trials,
                tuple(map(Finding.from_dict, found.get("findings", ()))),
                bool(found.get("plateau", False)),
                int(found.get("num_gradients", 0)),
            )
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{folder}: not the evidence of a calibration ({error}); calibrate again") from None

    def _csv(self) -> str:
        out = io.StringIO()
        writer = csv.DictWriter(out, [each.name for each in fields(Trial)], lineterminator="\n")
        writer.writeheader()
        for row in self.trials:
            reasons = json.dumps([reason.to_dict() for reason in row.reasons], ensure_ascii=False)
            values = {**vars(row), "reasons": reasons}
            writer.writerow({name: "" if value != value else value for name, value in values.items()})  # NaN is empty
        return out.getvalue()


def _trial(row: dict[str, str]) -> Trial:
    """A row of evidence.csv; an empty number is NaN."""
    read: dict[str, Any] = {
        "float": lambda text: float(text or "nan"),
        "int": int,
        "str": str,
        "bool": lambda text: text == "True",
        "tuple[Finding, ...]": lambda text: tuple(map(Finding.from_dict, json.loads(text))),
    }
    return Trial(**{each.name: read[str(each.type)](row[each.name]) for each in fields(Trial)})


def _blank(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)
