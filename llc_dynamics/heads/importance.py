"""What a model loses without a head, and with one head of a layer only.

The risk of a masked model has heavy tails, so that its mean is ruled by a few contexts. The measure here is the mean
over contexts of log(risk without / risk of the full model), both on the same context: e^that is a ratio of geometric
means. Medians and the share of the mean risk stand beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from llc_dynamics.heads.named import Head, Heads
from llc_dynamics.heads.risk import Risk, RiskFunction, measure_risk
from llc_dynamics.seeding import numpy_generator

_RESAMPLES = 200
_LEAST = 1e-12


@dataclass(frozen=True, eq=False)
class HeadImportance:
    """Risks of the same S contexts with heads masked.

    full : of the model as it is. masked : {head: without this head}. kept : {head: with this head alone in its layer},
    empty where it was not asked for. All errors are standard errors over contexts, by formula or 200 bootstrap samples.
    """

    full: Risk
    masked: dict[Head, Risk]
    kept: dict[Head, Risk]

    def log_ratio(self, head: Head) -> tuple[float, float]:
        """Mean of log(risk without the head / full risk), and its error."""
        return _mean_and_error(log_ratios(self.masked[head], self.full))

    def median_ratio(self, head: Head) -> tuple[float, float]:
        """Median risk without the head over the median full risk, and its error."""
        return ratio_of_medians(self.masked[head], self.full)

    def mean_shares(self, layer: int) -> dict[Head, tuple[float, float]]:
        """Of a layer's heads: the rise of the mean risk as a share of the layer's sum, and its error.

        The definition of the paper, from memory. Not to be trusted where a risk is heavy-tailed, which it mostly is.
        """
        heads = self._of(layer)
        rises = np.stack([self.masked[head].samples - self.full.samples for head in heads])
        return dict(
            zip(heads, _bootstrap_of_means(rises, lambda rise: rise / rise.sum(-1, keepdims=True)), strict=True)
        )

    def log_shares(self, layer: int) -> dict[Head, tuple[float, float]]:
        """The same of the log ratios, where they are positive."""
        heads = self._of(layer)
        return dict(zip(heads, _bootstrap_of_means(self._log_ratios(heads), _shares), strict=True))

    def effective_heads(self, layer: int) -> tuple[float, float]:
        """1 / sum of the squared `log_shares`, and its error: 1 if one head does all, H if all do the same.

        NaN if the risk does not rise without any of them.
        """

        def effective(means: NDArray[np.float64]) -> NDArray[np.float64]:
            return 1 / np.square(_shares(means)).sum(-1, keepdims=True)

        (found,) = _bootstrap_of_means(self._log_ratios(self._of(layer)), effective)
        return found

    def most_important(self, layer: int, contexts: slice = slice(None)) -> Head:
        """The head with the largest log ratio, judged on some of the contexts."""
        return max(self._of(layer), key=lambda head: log_ratios(self.masked[head], self.full)[contexts].mean())

    def keep_one(self, layer: int) -> tuple[Head, tuple[float, float], tuple[float, float]]:
        """The head that serves its layer best alone, log ratio and ratio of medians with it alone, with errors.

        The head is chosen on every second context and the ratios are those of the others.
        """
        one, others = slice(0, None, 2), slice(1, None, 2)
        head = min(self._of(layer), key=lambda each: log_ratios(self.kept[each], self.full)[one].mean())
        ratios = log_ratios(self.kept[head], self.full)[others]
        medians = ratio_of_medians(Risk(self.kept[head].samples[others]), Risk(self.full.samples[others]))
        return head, _mean_and_error(ratios), medians

    @property
    def layers(self) -> list[int]:
        """1, 2, ..."""
        return sorted({layer for layer, _ in self.masked})

    def _of(self, layer: int) -> list[Head]:
        return [head for head in self.masked if head[0] == layer]

    def _log_ratios(self, heads: Collection[Head]) -> NDArray[np.float64]:
        return np.stack([log_ratios(self.masked[head], self.full) for head in heads])


def head_importance(
    model: nn.Module, heads: Heads, risk: RiskFunction, batch: Any, *, keep_one: bool = True
) -> HeadImportance:
    """Mask every head of a model in turn.

    risk : `risk(model, batch)` returns the risk of each context, [S]. batch : fixed contexts. keep_one : mask also all
    heads of a layer but one, for each.

    Raises `ConfigError` for a model with one head, `DataError` for risks that are not finite.
    """

    def without(masked: Collection[Head]) -> Risk:
        return measure_risk(heads.without(model, masked), risk, batch)

    full = without(())
    masked = {head: without([head]) for head in heads.masks}
    if not keep_one:
        return HeadImportance(full, masked, {})
    # Where a layer has one head, the model with it alone is the full one.
    kept = {head: without(heads.all_but([head], head[0])) for head in heads.masks}
    return HeadImportance(full, masked, kept)


def pruned_heads(heads: Heads, importance: HeadImportance, contexts: slice = slice(0, None, 2)) -> list[Head]:
    """The heads that the paper prunes: in every layer after the first all but the most important one.

    contexts : on which importance is judged; by default every second, so that the pruned model can be judged on the
    others.
    """
    best = [importance.most_important(layer, contexts) for layer in heads.layers if layer > 1]
    return [head for head in heads.masks if head[0] > 1 and head not in best]


def log_ratios(risk: Risk, full: Risk) -> NDArray[np.float64]:
    """log(risk / full) of each context [S]."""
    return np.log(np.maximum(risk.samples, _LEAST) / np.maximum(full.samples, _LEAST))


def ratio_of_medians(risk: Risk, full: Risk) -> tuple[float, float]:
    """The ratio, and its error by the bootstrap over contexts, which both share."""
    both = np.stack((risk.samples, full.samples))
    places = numpy_generator(0, "bootstrap").integers(both.shape[1], size=(_RESAMPLES, both.shape[1]))
    above, below = np.median(both[:, places], axis=-1)
    return float(np.median(both[0]) / np.median(both[1])), float(np.std(above / below, ddof=1))


def _mean_and_error(samples: NDArray[np.float64]) -> tuple[float, float]:
    return float(samples.mean()), float(samples.std(ddof=1) / np.sqrt(len(samples)))


def _shares(means: NDArray[np.float64]) -> NDArray[np.float64]:
    positive = np.maximum(means, 0)
    total = positive.sum(-1, keepdims=True)
    return np.divide(positive, total, out=np.full_like(positive, np.nan), where=total > 0)


def _bootstrap_of_means(
    samples: NDArray[np.float64], function: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> list[tuple[float, float]]:
    """`function` of the means [..., H] of samples [H, S], and the errors of what it returns."""
    count = samples.shape[1]
    weights = numpy_generator(0, "bootstrap").multinomial(count, np.full(count, 1 / count), size=_RESAMPLES) / count
    values, spread = function(samples.mean(1)), function(weights @ samples.T)
    return [(float(value), float(error)) for value, error in zip(values, spread.std(0, ddof=1), strict=True)]
