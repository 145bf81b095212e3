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
from llc_dynamics.llc.result import LLCResult
from llc_dynamics.llc.settings import EstimateSettings, read_settings, write_settings
from llc_dynamics.ranges import finite_number
from llc_dynamics.seeding import derive_seed
from llc_dynamics.settings import load_toml, with_plain_numbers
from llc_dynamics.trajectory.files import storage_errors, write_whole

_SETTINGS, _EVIDENCE = "settings.toml", "evidence.csv"
#: Codes of reasons that more draws remove.
NOISE = {"too_few_draws", "imprecise", "exploration_unknown", "slow_distance"}
_OF_RESULT = ("nbeta", "localization", "llc", "standard_error", "virial", "acceptance", "ess", "reasons")


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
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        with_plain_numbers(self)
        if self.max_seconds is not None:
            finite_number("max_seconds", self.max_seconds, zero=False)
        if self.nbeta is not None:
            finite_number("nbeta (or None for n / log n)", self.nbeta, zero=False)
        if isinstance(self.gradients, bool) or not isinstance(self.gradients, int) or self.gradients < 1:
            raise ConfigError(f"gradients must be a positive whole number, got {self.gradients!r}")
        finite_number("target_error (a share of the estimate, such as .05)", self.target_error, zero=False)
        if not isinstance(self.trials, bool):
            raise ConfigError(f"trials must be True or False, got {self.trials!r}")
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
    place : the checkpoint, or "model".
    kernel, nbeta, localization, batch_size : what it was made with.
    ratio : sqrt(nbeta h / gamma), h the largest curvature at w*: the condition of the problem.
    llc, standard_error, virial, lowest_virial, highest_virial : the estimate, and the virial ratio over all parameters
        and the extremes over parameter tensors.
    acceptance, ess : as in `LLCResult`.
    draws, gradients : of one chain.
    explored : whether nothing speaks against it that more draws would not remove.
    reasons : what spoke against it.
    """

    place: str
    kernel: str
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
    ess: float
    draws: int
    gradients: int
    explored: bool
    reasons: tuple[Finding, ...] = ()

    @classmethod
    def of(cls, result: LLCResult, place: str, kernel: str, ratio: float) -> Trial:
        """The row of a result."""
        blocks = result.virial_by_block.values()
        return cls(
            place=place,
            kernel=kernel,
            ratio=ratio,
            batch_size=result.settings["batch_size"],
            lowest_virial=min(blocks),
            highest_virial=max(blocks),
            draws=result.trace.shape[1],
            gradients=result.num_gradients,
            explored={reason.code for reason in result.reasons} <= NOISE,
            **{name: getattr(result, name) for name in _OF_RESULT},
        )


@dataclass(frozen=True)
class Calibration:
    """Settings for a whole trajectory, and why these; `estimate_llc` and `llc_curve` take it as `settings=`.

    Attributes
    ----------
    settings : what was chosen.
    loss : "given" or "behavioural".
    trials : the evidence.
    findings : what was found, by code: `plateau`, `no_plateau`, `not_explored`, `untried`; `degenerate`;
        `finer_not_explored`, `budget`, `out_of_time`, why nothing finer was tried; `expected_error`, `batch`,
        `given_loss`, `cost`.
    plateau : whether the estimate stopped depending on gamma within the budget, at every checkpoint that was tried.
    num_gradients : gradients of all chains of all trials.
    seconds : of one estimate with these settings on one core, by the trials; NaN where none was made with its kernel.
    """

    settings: EstimateSettings
    loss: str
    trials: tuple[Trial, ...]
    findings: tuple[Finding, ...]
    plateau: bool
    num_gradients: int
    seconds: float = math.nan

    def table(self) -> str:
        """The evidence as text, one line for each trial."""
        wide = max(8, *(len(row.place) + 2 for row in self.trials)) if self.trials else 8
        lines = [
            f"{'at':<{wide}}{'gamma':>9} {'kernel':<6}{'batch':>6}{'LLC':>10}{'error':>8}{'virial':>7}{'blocks':>11}"
            f"{'gradients':>10}  explored"
        ]
        for row in self.trials:
            blocks = f"{row.lowest_virial:.2f}-{row.highest_virial:.2f}"
            verdict = sentences(row.reasons)
            verdict = (f"yes, but {verdict}" if row.explored else f"no: {verdict}") if verdict else "yes"
            lines.append(
                f"{row.place:<{wide}}{row.localization:>9.4g} {row.kernel:<6}{row.batch_size:>6}{row.llc:>10.4g}"
                f"{row.standard_error:>8.2g}{row.virial:>7.3f}{blocks:>11}{row.gradients:>10}  {verdict}"
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
            **({} if math.isnan(self.seconds) else {"seconds": self.seconds}),
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
                float(found.get("seconds", math.nan)),
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
