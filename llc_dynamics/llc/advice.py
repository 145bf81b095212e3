"""What a calibration says of the settings that it chose, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llc_dynamics.finding import Finding
from llc_dynamics.llc.rungs import Rung
from llc_dynamics.llc.settings import EstimateSettings

GIVEN_LOSS = Finding(
    "given_loss",
    "minibatches of a given loss are noisy at w*, so only SGLD goes, at a coarse resolution; with ld.behavioural(...) "
    "as the loss the same gradients reached a 16 to 256 times smaller gamma on deep linear networks, and were off "
    "lambda by 2.3% (median) instead of 7.7%",
)


def plateau(gamma: float, nbeta: float) -> Finding:
    """The estimate does not depend on gamma."""
    return Finding(
        "plateau", f"plateau: four times the gamma gives the same estimate; gamma {gamma:.4g}: {_counts(gamma, nbeta)}"
    )


def no_plateau(gamma: float, nbeta: float, others: Sequence[float]) -> Finding:
    """It does; `others` are the gamma that were tried besides."""
    tried = f" (also tried: {', '.join(f'{each:.4g}' for each in others)})" if others else ""
    return Finding(
        "no_plateau",
        f"no plateau seen: the estimate is one at this resolution, nbeta {nbeta:.4g} and gamma {gamma:.4g}{tried}, to "
        f"be kept the same wherever estimates are compared; {_counts(gamma, nbeta)}",
    )


def _counts(gamma: float, nbeta: float) -> str:
    return f"a direction counts if the loss has a curvature above gamma / nbeta = {gamma / nbeta:.3g} in it"


def expected_error(rung: Rung, settings: EstimateSettings, target: float) -> Finding:
    """Of estimates with `settings`; and what `target` would take, where they do not come to it."""
    errors = rung.errors(settings)
    low, high = min(errors), max(errors)
    spread = f"{high:.1%}" if len(errors) == 1 or f"{low:.1%}" == f"{high:.1%}" else f"{low:.1%} to {high:.1%}"
    length = f"{settings.num_chains} chains x {settings.num_draws} draws"
    text = f"{length}: expected standard error {spread} of the estimate"
    if high > 1.05 * target:
        times = rung.draws_for(target, settings) / settings.num_draws
        text += (
            f"; {target:.0%} takes {times:.1f} times the gradients, or so many times the chains"
            if math.isfinite(times)
            else f"; {target:.0%} takes larger batches than {settings.batch_size}, or a larger gamma"
        )
    return Finding("expected_error", text)


def cost(seconds: float, num_points: int) -> Finding:
    """Of an estimate that takes so long on one core, and of a curve of so many."""
    points = f", the {num_points} points of the curves {_time(num_points * seconds)}" if num_points > 1 else ""
    return Finding("cost", f"an estimate takes some {_time(seconds)} of one core{points}")


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
