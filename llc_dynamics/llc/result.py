"""An estimate of the local learning coefficient, with its errors, its evidence and its verdict."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.finding import FailedChain, Finding, sentences
from llc_dynamics.llc.frames import result_to_datatree, result_to_pandas, result_to_xarray
from llc_dynamics.llc.thresholds import Thresholds
from llc_dynamics.ranges import between_0_and_1

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

# theta above which lambda is no longer bounded by what chains show.
_MOST_HIDDEN = 0.95
_TRACES = ("trace", "corrected_trace", "distance_trace", "virial_trace")


@dataclass(frozen=True, eq=False, repr=False)
class LLCResult:
    """lambda_hat = nbeta E[L_B(w) - L_B(w*)], w ~ exp(-nbeta L(w) - gamma/2 |w - w*|^2), and how far to trust it.

    Chains that died are in the traces (NaN from the draw at which they died) but in no average.

    Attributes
    ----------
    llc : the estimate; NaN if no chain survived.
    standard_error : of the corrected estimate as a whole: the Monte Carlo error of `corrected_trace`, or the spread
        between chains if that is larger, with `systematic_error`, what the corrections assume rather than measure.
        Being paired, the estimate holds no noise of L(w*) beyond that of its own draws, which is in here.
    total_error : `standard_error` with the biases of the step and the batch and their errors, where they were measured
        (`bias_checks`); sets `interval`.
    step_bias, step_bias_error, batch_bias, batch_bias_error : how far lambda_hat is too large because of the finite
        step and batch, from runs with half the step and twice the batch (see `bias`); NaN if not measured.
    extrapolated, extrapolated_error : the estimate without these biases: unbiased to first order, but noisier; the
        estimate itself if they were not measured.
    sgld_bias, sgld_bias_error : for SGLD, what its step and the gradient noise had added, (eps/8) E|nbeta grad L_B|^2
        for a quadratic loss (see `sgld_step`). It is taken off: `llc` does not contain it. NaN for other kernels.
    r_hat, r_hat_distance : rank-normalised split R-hat of the loss and of |w - w*|^2.
    ess : bulk effective sample size of the loss. `ess_mean` is that of the mean of `corrected_trace`, which sets the
        interval.
    virial : mean of (w - w*).grad U / d, with `virial_error`; 1 in equilibrium, below if not explored, above if heated.
        `virial_heat`, by which the step of SGLD raises it in equilibrium, is taken off; 0 for other kernels.
    virial_by_block, virial_by_block_error : the same for each parameter tensor, {name: value}, with SGLD's heat.
    failed_chains : `FailedChain(chain, step, reason)` for each chain that died.
    converged, reasons : the verdict, and what speaks against it: a tuple of `Finding(code, text)`; the codes stand in
        `llc_dynamics.llc.verdict`.
    notes : findings that are worth knowing and do not speak against the estimate.
    trace : float64 [chain, draw], nbeta (L_B(w) - L_B(w*)). distance_trace, virial_trace : the same shape.
    corrected_trace : float64 [chain, draw], what each draw contributes to `llc`, which is its mean: the trace with the
        corrections for SGLD's step and for a held batch. Draws of two estimates with the same seed are paired.
    num_samples, nbeta, localization, dimension : n, the inverse temperature and gamma that were used (together the
        resolution of the estimate), the number of sampled parameters d.
    loss : "given" or "behavioural": which loss the estimate is of.
    kinetic, kinetic_error : mean of |p|^2 / d, 1 in equilibrium; NaN for kernels without momentum.
    gradient_kinetic, gradient_kinetic_error : kinetic temperature along the gradient of the loss, where the stiff
        directions are: above 1 where gradient noise or the step heats them, which averages over all parameters hide.
    acceptance : mean acceptance of the Metropolis test; NaN without. `step_size` : mean of the steps that the chains
        adapted to; NaN for kernels that do not adapt.
    batch_gap, batch_gap_error : for chains that move on one batch for long, the loss out-of-sample minus in-sample
        (times nbeta); NaN where there was no look out of sample. batch_correction : the share of it that `llc`
        contains, so that `llc` is the mean of the trace plus this (see `batch_gap`).
    slope_nbeta, slope_nbeta_error : d lambda_hat / d log nbeta, from the variance of the loss in the same chains.
    slope_gamma, slope_gamma_error : d lambda_hat / d log gamma. Both are zero on a plateau: there, and only there, the
        estimate does not depend on its resolution.
    exponent, exponent_error : d log lambda_hat / d log nbeta between 0 and 1, what was measured mixed with .5 +- .3.
    observed : {name: (nbeta times the mean difference, standard error)} of the losses that were observed.
    num_gradients : gradients of one chain, all of them.
    downhill : for each chain, nbeta times how far above L(w*) the loss comes to rest downhill from its last position,
        without localisation: about zero in the well of w*. NaN where it does not come to rest, or for minibatches of a
        given loss, whose minimum is not at w*.
    stopped : "num_draws", or where a run to `target_error` or within `max_seconds` ended: "target_error", "max_draws",
        "max_seconds".
    without_gradient : parameter tensors with a gradient of exactly zero at the last draw of every chain.
    share_below : share of draws whose loss is below that at w* by more than 3 standard deviations of the batch's noise:
        about zero if w* is a minimum.
    initial_loss, initial_loss_error : L(w*), the mean over the batches that were drawn, and its standard error. Shown
        for reference: it enters no other number.
    settings, provenance : what was asked for and what computed it; JSON types.
    """

    llc: float
    standard_error: float
    r_hat: float
    r_hat_distance: float
    ess: float
    ess_mean: float
    virial: float
    virial_error: float
    virial_by_block: dict[str, float]
    virial_by_block_error: dict[str, float]
    failed_chains: tuple[FailedChain, ...]
    trace: NDArray[np.float64]
    distance_trace: NDArray[np.float64]
    virial_trace: NDArray[np.float64]
    num_samples: int
    nbeta: float
    dimension: int
    initial_loss: float
    initial_loss_error: float
    corrected_trace: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    systematic_error: float = 0.0
    localization: float = math.nan
    loss: str = "given"
    virial_heat: float = 0.0
    kinetic: float = math.nan
    kinetic_error: float = math.nan
    gradient_kinetic: float = math.nan
    gradient_kinetic_error: float = math.nan
    acceptance: float = math.nan
    step_size: float = math.nan
    batch_gap: float = math.nan
    batch_gap_error: float = math.nan
    batch_correction: float = 0.0
    slope_nbeta: float = math.nan
    slope_nbeta_error: float = math.nan
    slope_gamma: float = math.nan
    slope_gamma_error: float = math.nan
    exponent: float = math.nan
    exponent_error: float = math.nan
    num_gradients: int = 0
    step_bias: float = math.nan
    step_bias_error: float = math.nan
    batch_bias: float = math.nan
    batch_bias_error: float = math.nan
    extrapolated: float = math.nan
    extrapolated_error: float = math.nan
    sgld_bias: float = math.nan
    sgld_bias_error: float = math.nan
    stopped: str = "num_draws"
    without_gradient: tuple[str, ...] = ()
    downhill: tuple[float, ...] = ()
    share_below: float = math.nan
    observed: dict[str, tuple[float, float]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    thresholds: Thresholds = field(default_factory=Thresholds)
    reasons: tuple[Finding, ...] = ()
    notes: tuple[Finding, ...] = ()

    @property
    def total_error(self) -> float:
        """sqrt(standard_error^2 + sum over measured biases of (bias^2 + its error^2)).

        A bias is added rather than taken off (see `extrapolated` for that): with its square the usual 90-99% intervals
        hold the true value at least as often as they say, whatever the size of the bias.
        """
        measured = (self.step_bias, self.step_bias_error, self.batch_bias, self.batch_bias_error)
        return math.hypot(self.standard_error, *(part for part in measured if math.isfinite(part)))

    @property
    def alive(self) -> list[int]:
        """The chains that did not die."""
        dead = {failed.chain for failed in self.failed_chains}
        return [chain for chain in range(len(self.trace)) if chain not in dead]

    @property
    def converged(self) -> bool:
        """Whether nothing speaks against the estimate."""
        return not self.reasons

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """A confidence interval (low, high): `total_error` times Student's t with `ess_mean` - 1 degrees of freedom.

        With hundreds of effective draws that is the normal one; chains that stay where they are have about as many
        effective draws as there are chains, and get the wider interval they need.
        """
        width = self.total_error * self._errors_of(level)
        return self.llc - width, self.llc + width

    def lambda_interval(self, level: float = 0.95) -> tuple[float, float]:
        """A confidence interval (low, high) for lambda itself, of which `llc` is the value at this resolution.

        Localisation hides directions whose curvature is below gamma / nbeta, so that lambda is larger. By how much is
        known from a calibration that went through several gamma (`EstimateSettings.lambda_above`); otherwise from
        `exponent`, theta: lambda = llc / (1 - theta) if all directions are hidden alike. In a network whose LLC has no
        plateau that is a guess, and the interval wide.
        """
        low, high = self.interval(level)
        errors = self._errors_of(level)
        above = self.settings.get("lambda_above")
        if above is not None:
            share, error = above
            half = math.hypot((high - low) / 2 * (1 + share), errors * error * self.llc)
            return self.llc * (1 + share) - half, self.llc * (1 + share) + half
        hidden = [self.exponent + sign * errors * self.exponent_error for sign in (-1, 1)]
        factors = [1 / (1 - min(max(share, 0.0), _MOST_HIDDEN)) for share in hidden]
        return min(low * factors[0], low), high * factors[1]

    @property
    def resolution(self) -> str:
        """What this estimate counts, in words."""
        if not self.localization > 0:
            return f"nbeta {self.nbeta:.4g}, no localization"
        return (
            f"nbeta {self.nbeta:.4g}, gamma {self.localization:.4g}: directions count in which the loss has a "
            f"curvature above gamma / nbeta = {self.localization / self.nbeta:.3g}"
        )

    def _errors_of(self, level: float) -> float:
        """Student's t: how many errors an interval of this level is wide to each side."""
        level = between_0_and_1("level", level)
        if not math.isfinite(self.standard_error):
            return math.nan
        from scipy import stats

        return float(stats.t.ppf((1 + level) / 2, max(self.ess_mean - 1, 1.0)))

    def to_dict(self) -> dict[str, Any]:
        """Everything but the traces, as JSON types (NaN for what could not be computed)."""
        plain = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in _TRACES}
        plain |= {
            "failed_chains": [asdict(failed) for failed in self.failed_chains],
            "thresholds": asdict(self.thresholds),
            "reasons": [reason.to_dict() for reason in self.reasons],
            "notes": [note.to_dict() for note in self.notes],
            "without_gradient": list(self.without_gradient),
            "downhill": list(self.downhill),
            "total_error": self.total_error,
            "observed": {name: list(values) for name, values in self.observed.items()},
            "interval_95": list(self.interval(0.95)),
            "converged": self.converged,
        }
        return plain

    def to_pandas(self, draws: bool = False) -> pd.DataFrame:
        """One row: the estimate, its errors, diagnostics and verdict in words (see `frames.scalars` for the columns).

        With `draws`, the traces instead: columns llc, distance, virial, index (chain, draw). Raises
        `MissingPackageError` without pandas.
        """
        return result_to_pandas(self, draws)

    def to_xarray(self) -> xr.Dataset:
        """Everything, under the names of the attributes: traces [chain, draw], virial_by_block [block], single values.

        Settings, provenance and thresholds are JSON texts in `attrs`. Raises `MissingPackageError` without xarray.
        """
        return result_to_xarray(self)

    def to_datatree(self) -> xr.DataTree:
        """llc, distance and virial [chain, draw] of the chains that survived, as the `posterior` of an ArviZ data tree.

        `arviz_stats.summary(tree)` and ArviZ's plots work on it. Its R-hat of llc is `r_hat`, but NaN for a single
        chain, whose quarters `r_hat` compares. Raises `MissingPackageError` without arviz-base, `DataError` if
        no chain survived.
        """
        return result_to_datatree(self)

    def __repr__(self) -> str:
        verdict = "converged" if self.converged else f"NOT converged: {sentences(self.reasons)}"
        return (
            f"LLC {_short(self.llc, self.total_error)} ± {_short(self.total_error, self.total_error)} "
            f"({self.loss} loss, nbeta {self.nbeta:.4g}, gamma {self.localization:.4g}, n {self.num_samples}, "
            f"{len(self.trace)} chains x {self.trace.shape[1]} draws, R-hat {self.r_hat:.3f}, ESS {self.ess:.0f}, "
            f"virial {self.virial:.3f}; {verdict})"
        )


def _short(value: float, error: float) -> str:
    """`value` with as many decimals as its error has two significant digits for."""
    if not (math.isfinite(value) and math.isfinite(error) and error > 0):
        return f"{value:.4g}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{min(decimals, 12)}f}"
