"""Heads over a run: importance as curves that detectors read, and the LLC of each head."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import nn

from llc_dynamics.curve import Curve
from llc_dynamics.heads.importance import HeadImportance, head_importance, log_ratios
from llc_dynamics.heads.named import Head, Heads
from llc_dynamics.heads.risk import RiskFunction
from llc_dynamics.llc import LLCCurve, llc_curve
from llc_dynamics.llc.problem import checkpoints_of
from llc_dynamics.sampling.batches import Data
from llc_dynamics.sampling.flat_model import LossFunction
from llc_dynamics.trajectory import Trajectory


class ImportanceHistory(dict[int, HeadImportance]):
    """{step: HeadImportance}, all on the same contexts."""

    def log_ratio(self, head: Head) -> Curve:
        """Of masking a head, with the samples behind it, so that changes between steps are exact."""
        samples = np.stack([log_ratios(each.masked[head], each.full) for each in self.values()])
        errors = samples.std(1, ddof=1) / np.sqrt(samples.shape[1])
        return Curve(list(self), samples.mean(1), errors, f"log ratio, head {head[0]}.{head[1]}", samples=samples)

    def effective_heads(self, layer: int) -> Curve:
        """How many heads of a layer matter."""
        values = np.array([each.effective_heads(layer) for each in self.values()])
        return Curve(list(self), values[:, 0], values[:, 1], f"effective heads, layer {layer}")

    def keep_one(self, layer: int) -> Curve:
        """Log ratio of the model with one head in a layer, at each step that which serves best."""
        values = np.array([each.keep_one(layer)[1] for each in self.values()])
        return Curve(list(self), values[:, 0], values[:, 1], f"log ratio with one head, layer {layer}")


def importance_over_training(
    run: Trajectory | str,
    model: nn.Module,
    heads: Heads,
    risk: RiskFunction,
    batch: Any,
    *,
    steps: Iterable[int] | None = None,
    keep_one: bool = True,
) -> ImportanceHistory:
    """`head_importance` at checkpoints of a run, by default all that have weights. The model is loaded with them.

    Raises what `head_importance` and `Trajectory.load_into` raise.
    """
    opened, wanted = checkpoints_of(run, steps)
    found = ImportanceHistory()
    for step in wanted:
        opened.load_into(model, step)
        found[step] = head_importance(model, heads, risk, batch, keep_one=keep_one)
    return found


def head_llc_curves(
    run: Trajectory | str,
    model: nn.Module,
    heads: Heads,
    loss_fn: LossFunction,
    data: Data,
    *,
    chosen: Iterable[Head | int] | None = None,
    **others: Any,
) -> dict[Head | int, LLCCurve]:
    """The weight-restricted LLC of each head (all other weights held at w*), or of all heads of a layer.

    chosen : heads (layer, head) and layers; None stands for all heads and all layers. others : as in `llc_curve`
    (`steps`, `settings`, `workers`, ...). Stored beside the run as curves `head-1-2` and `layer-1`.

    Raises `ConfigError` for a head or layer that is not there, and what `llc_curve` raises.
    """
    wanted: list[Head | int] = [*heads.masks, *heads.layers] if chosen is None else list(chosen)
    selections = {each: heads.selection(each) for each in wanted}
    return {
        each: llc_curve(run, model, loss_fn, data, parameters=selection, name=name_of(each), **others)
        for each, selection in selections.items()
    }


def name_of(chosen: Head | int) -> str:
    """'head-1-2' or 'layer-1'."""
    return f"head-{chosen[0]}-{chosen[1]}" if isinstance(chosen, tuple) else f"layer-{chosen}"
