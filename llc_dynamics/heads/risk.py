"""The risk of a model on fixed contexts, and whether its mean is to be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llc_dynamics.batch import num_samples, parts
from llc_dynamics.errors import DataError
from llc_dynamics.finding import Finding

#: `risk(model, batch)` returns the risk of each context, [S].
RiskFunction = Callable[[nn.Module, Any], Tensor]

_PART = 1024
_TOP, _SHARE = 0.01, 0.2


@dataclass(frozen=True, eq=False)
class Risk:
    """Risks of contexts [S], not negative. Raises `DataError` for less than two, or one that is not finite."""

    samples: NDArray[np.float64] = field(repr=False)

    def __post_init__(self) -> None:
        samples = np.asarray(self.samples, dtype=np.float64)
        if samples.ndim != 1 or len(samples) < 2:
            raise DataError(f"a risk needs one value for each of two contexts or more; got shape {list(samples.shape)}")
        if not np.isfinite(samples).all() or (samples < 0).any():
            bad = int((~np.isfinite(samples) | (samples < 0)).sum())
            raise DataError(f"{bad} of {len(samples)} risks are negative or not finite; has the model diverged?")
        object.__setattr__(self, "samples", samples)

    @property
    def mean(self) -> float:
        """Over contexts."""
        return float(self.samples.mean())

    @property
    def mean_error(self) -> float:
        """Standard error of the mean; meaningless where `findings` says that the mean is unreliable."""
        return float(self.samples.std(ddof=1)) / math.sqrt(len(self.samples))

    @property
    def median(self) -> float:
        """Over contexts."""
        return float(np.median(self.samples))

    @property
    def median_error(self) -> float:
        """Half the distance of the order statistics one standard deviation of the binomial around the median."""
        count = len(self.samples)
        ordered, width = np.sort(self.samples), math.sqrt(count) / 2
        low, high = max(int((count - 1) / 2 - width), 0), min(math.ceil((count - 1) / 2 + width), count - 1)
        return float(ordered[high] - ordered[low]) / 2

    @property
    def findings(self) -> tuple[Finding, ...]:
        """`heavy_tailed` where the largest 1% of the contexts hold a fifth of the mean or more; 6% if exponential."""
        top = np.sort(self.samples)[-max(round(_TOP * len(self.samples)), 1) :]
        share = top.sum() / self.samples.sum() if self.samples.any() else 0.0
        if share < _SHARE:
            return ()
        text = (
            f"the mean is unreliable: {len(top)} of {len(self.samples)} contexts hold {share:.0%} of it; "
            f"the median is {self.median:.3g} ± {self.median_error:.1g}"
        )
        return (Finding("heavy_tailed", text),)

    def __str__(self) -> str:
        """The mean with its error, or the median where the mean is unreliable."""
        if self.findings:
            return f"{self.median:.3g} ± {self.median_error:.1g} (median; the mean, {self.mean:.3g}, is unreliable)"
        return f"{self.mean:.3g} ± {self.mean_error:.1g}"


def measure_risk(model: nn.Module, risk: RiskFunction, batch: Any) -> Risk:
    """The risk of a model on a batch, in parts and without gradients. Raises `DataError` unless it is [S]."""
    found = []
    with torch.no_grad():
        for piece in parts(batch, _PART):
            values = risk(model, piece)
            if list(values.shape) != [num_samples(piece)]:
                raise DataError(f"risk(model, batch) must be one value a context, [S]; got {list(values.shape)}")
            found.append(values.double().cpu())
    return Risk(torch.cat(found).numpy())
