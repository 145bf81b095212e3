"""Learning-rate schedules by name: pure functions of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math
from collections.abc import Callable

from llc_dynamics.errors import ConfigError
from llc_dynamics.settings import nearest

# Each takes the share of the run after the warm-up, in [0, 1], and returns the share of the way from the final rate to
# the peak rate.
_SHAPES: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "linear": lambda share: 1.0 - share,
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
}


def rate_factor(
    step: int, *, schedule: str, num_steps: int, warmup_steps: int = 0, final_fraction: float = 0.0
) -> float:
    """Rate, as a share of the peak rate, of the update that leads from step `step` to `step + 1`.

    Linear warm-up over `warmup_steps` updates, then the shape `schedule` ("constant", "linear", "cosine") down to
    `final_fraction` at the end of the run ("constant" stays at 1). A linear schedule with half of the steps as warm-up
    is the one-cycle schedule of Hoogland et al. 2024.
    """
    if schedule not in _SHAPES:
        raise ConfigError(f"schedule: '{schedule}' is unknown; {nearest(schedule, _SHAPES)}")
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    share = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return final_fraction + (1 - final_fraction) * _SHAPES[schedule](share)


SCHEDULES = tuple(_SHAPES)
