"""What is measured of one trained model, on contexts that all models of a task share; a row of `heads.jsonl`."""

from __future__ import annotations

import numpy as np
import torch

import llc_dynamics as ld
from llc_dynamics.heads import Heads, Risk, head_importance, probe_risk, pruned_heads
from llc_dynamics.heads.risk import measure_risk
from llc_dynamics.rows import Row
from llc_dynamics.seeding import torch_generator
from llc_dynamics.systems.linear_transformer.model import LinearTransformer
from llc_dynamics.systems.linear_transformer.task import Contexts
from llc_dynamics.systems.sparse_heads.reading import query_features, weights_by_descent_after
from llc_dynamics.systems.sparse_heads.system import SparseRegression
from llc_dynamics.systems.sparse_heads.task import excess_risk
from llc_dynamics.training import load_config

CONTEXTS, SHARES = 4096, (0.5, 0.75, 1.0, 1.5, 2.0)
_TIMES = np.geomspace(0.1, 300, 36)


def summary(risk: Risk) -> Row:
    """Median and mean with their errors, and whether the mean is to be trusted."""
    return {
        "median": [risk.median, risk.median_error],
        "mean": [risk.mean, risk.mean_error],
        "heavy_tailed": bool(risk.findings),
    }


def batch_of(system: SparseRegression, count: int, num_examples: int | None = None) -> tuple[torch.Tensor, ...]:
    """Contexts in float64, the same for all models of the task; of another number of examples for linear attention.

    Such moments are scaled to n, since the model divides by the number that it was trained with.
    """
    generator = torch_generator(0, "measured", num_examples or system.num_examples)
    if system.linear:
        contexts = system.task.contexts(generator, count, num_examples, torch.float64)
        return contexts.moments * (system.num_examples / contexts.num_examples), contexts.w
    return system.task.tokens(generator, count, system.num_queries, torch.float64)


def contexts_of(system: SparseRegression, batch: tuple[torch.Tensor, ...]) -> Contexts:
    """A batch of linear attention as contexts."""
    return Contexts(batch[0], batch[1], torch.full_like(batch[1][:, 0], system.sigma), system.num_examples)


def measure(run: ld.Trajectory, count: int = CONTEXTS) -> Row:
    """Everything of the last checkpoint."""
    config = load_config(run)
    system = config.system
    assert isinstance(system, SparseRegression)
    model = system.build(0)
    run.load_into(model, int(run.weight_steps[-1]))
    model.double()
    batch, heads = batch_of(system, count), Heads(system.heads(), model)
    row: Row = {
        "task": vars(system.task),
        "attention": system.attention,
        "sigma": system.sigma,
        "layers": system.num_layers,
        "heads": system.num_heads,
        "seed": config.seed,
        "risk": summary(measure_risk(model, system.loss, batch)),
        "probes": probed(model, batch),
    }
    if len(heads) > 1:
        found = head_importance(model, heads, system.loss, batch)
        pruned = heads.without(model, pruned_heads(heads, found))
        judged = tuple(each[1::2] for each in batch)  # what to prune was chosen on the others
        row |= {
            "pruned": summary(measure_risk(pruned, system.loss, judged)),
            "pruned_probes": probed(pruned, judged),
            "log_ratios": {f"{layer}.{head}": found.log_ratio((layer, head)) for layer, head in heads.masks},
            "log_shares": {layer: sorted(found.log_shares(layer).values(), reverse=True) for layer in found.layers},
            "mean_shares": {layer: sorted(found.mean_shares(layer).values(), reverse=True) for layer in found.layers},
            "effective_heads": {layer: found.effective_heads(layer) for layer in found.layers},
            "keep_one": {layer: found.keep_one(layer)[1:] for layer in found.layers},
        }
    if isinstance(model, LinearTransformer):
        examples = [max(round(share * system.num_examples), 1) for share in SHARES]
        row["by_examples"] = {
            n: summary(measure_risk(model, system.loss, batch_of(system, count, n))) for n in examples
        }
        row["descent_after"] = descended(model, contexts_of(system, batch))
    return row


def probed(model: torch.nn.Module, batch: tuple[torch.Tensor, ...]) -> list[Row]:
    """The risk of a linear probe after each layer."""
    with torch.no_grad():
        features, targets = query_features(model, batch)  # type: ignore[arg-type]
    return [summary(probe_risk(each, targets)) for each in features]


def descended(model: LinearTransformer, contexts: Contexts) -> list[Row]:
    """Gradient descent on the raw context, and on it as each layer but the last hands it on.

    Each at the time with the least median risk on every second context; the risk is that of the others.
    """
    found = []
    for layer in range(model.architecture.num_layers):
        with torch.no_grad():
            at = weights_by_descent_after(model, contexts, layer)
        risks = [excess_risk(at(time), contexts.w).numpy() for time in _TIMES]
        found.append(summary(Risk(min(risks, key=lambda each: np.median(each[::2]))[1::2])))
    return found
