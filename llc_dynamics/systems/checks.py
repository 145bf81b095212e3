"""Does a system keep its promises? Asked before anything is trained or written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llc_dynamics.batch import first_samples, leaves, mapped, num_samples
from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.seeding import torch_generator
from llc_dynamics.settings import nearest
from llc_dynamics.systems.description import Description
from llc_dynamics.systems.measure import Observer, described
from llc_dynamics.systems.registry import calling
from llc_dynamics.systems.system import Probe, System

_FEW = 4
_MOST_OUTPUTS = 1 << 26  # numbers of one function vector: 256 MiB at every checkpoint


def check_system(system: System, seed: int = 0) -> tuple[dict[str, Probe], Description]:
    """Check that a system is what its methods promise; returns its probes and description, complete with names.

    Raises `ConfigError` or `DataError`, naming the method, what it returned and what to change: a model that differs
    for the same seed, a loss that is not one value a sample, probes that change between calls, outputs that do not fit
    a target or a reference, a description that is not JSON or names what is not there.
    """
    who = type(system).__name__
    model = _checked_model(system, who, seed)

    def look(own: nn.Module) -> tuple[dict[str, Probe], Description]:
        batch = training_samples(system, who, seed)
        _check_loss(own, system, who, batch)
        probes = _checked_probes(system, who, seed)
        description = _checked_description(system, who, probes)
        for name, probe in probes.items():
            check_probe(own, system, f"{who}: probe '{name}'", probe, name == description.function_vector)
        return probes, description

    return Observer()(model, look)


def training_samples(system: System, who: str, seed: int) -> Any:
    """A few samples as the training will see them. Raises `ConfigError` unless `sample` or `data` gives them."""
    draws = getattr(type(system), "sample", None) is not System.sample
    data = calling(f"{who}: data()", system.data)
    if (data is not None) == draws:
        what = "both sample and data are given; keep one of them" if draws else "neither sample nor data is given"
        raise ConfigError(
            f"{who}: {what}: sample(self, generator, batch_size) draws batches, data(self) is a fixed training set"
        )
    if data is None:
        generator = torch_generator(seed, "check")
        batch = calling(f"{who}: sample(generator, {_FEW})", system.sample, generator, _FEW)
        if num_samples(batch, f"{who}: sample(generator, {_FEW})") != _FEW:
            raise DataError(
                f"{who}: sample(generator, {_FEW}) gave {num_samples(batch)} samples; give as many as asked"
            )
        return batch
    if not isinstance(data, tuple | dict):
        raise DataError(
            f"{who}: data() must be a tuple or dict of tensors, got {type(data).__name__}; wrap a single tensor as "
            "(tensor,)"
        )
    num_samples(data, f"{who}: data()")
    return first_samples(data, _FEW)


def _checked_model(system: System, who: str, seed: int) -> nn.Module:
    model, again = (calling(f"{who}: build({seed})", system.build, seed) for _ in range(2))
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{who}: build(seed) must return a torch.nn.Module, got {type(model).__name__}")
    one, other = model.state_dict(), again.state_dict()
    different = [name for name in one if name not in other or not torch.equal(one[name], other[name])]
    if different:
        raise ConfigError(
            f"{who}: build({seed}) called twice gives two models ('{different[0]}' differs); draw the initial weights "
            "from the seed, for example after torch.manual_seed(seed)"
        )
    return model


def _check_loss(model: nn.Module, system: System, who: str, batch: Any) -> None:
    count = num_samples(batch)
    with torch.enable_grad():
        loss = calling(f"{who}: loss(model, batch)", system.loss, model, batch)
    _require_one_a_sample(loss, count, who)
    if not loss.requires_grad:
        raise DataError(f"{who}: loss(model, batch) has no gradient; leave out detach() and no_grad()")


def _require_one_a_sample(loss: Any, count: int, where: str) -> None:
    if not isinstance(loss, Tensor):
        raise DataError(f"{where}: loss(model, batch) must be a tensor [B], got {type(loss).__name__}")
    if list(loss.shape) == [count]:
        return
    advice = (
        "it is one number for the whole batch; take the mean over everything but the samples: "
        "reduction='none', then .flatten(1).mean(1) if there is more than one value a sample"
        if loss.ndim == 0
        else "take the mean over all but the first dimension: .flatten(1).mean(1)"
    )
    raise DataError(
        f"{where}: loss(model, batch) must be one value a sample, [B] = [{count}], got {list(loss.shape)}: {advice}"
    )


def _checked_probes(system: System, who: str, seed: int) -> dict[str, Probe]:
    found, again = (calling(f"{who}: probes({seed})", system.probes, seed) for _ in range(2))
    for probes in (found, again):
        items = probes.items() if isinstance(probes, Mapping) else ()
        wrong = [f"'{name}': a {type(probe).__name__}" for name, probe in items if not isinstance(probe, Probe)]
        if wrong or not isinstance(probes, Mapping):
            got = ", ".join(wrong) or f"a {type(probes).__name__}"
            raise ConfigError(f"{who}: probes(seed) must return {{name: ld.Probe(...)}}, got {got}")
    for name in {**found, **again}:
        if name not in found or name not in again or not _same_probe(found[name], again[name]):
            raise ConfigError(
                f"{who}: probe '{name}' changes between two calls of probes({seed}); what is measured on it would not "
                "compare: draw it from a generator that is seeded with the seed, torch.Generator().manual_seed(seed)"
            )
    return dict(found)


def _checked_description(system: System, who: str, probes: Mapping[str, Probe]) -> Description:
    given = calling(f"{who}: describe()", system.describe)
    if not isinstance(given, Description):
        raise ConfigError(f"{who}: describe() must return an ld.Description, got {type(given).__name__}")
    where = f"{who}: describe()"
    description = described(Description.from_dict(given.to_dict(), where), probes)
    references = {name for probe in probes.values() for name in probe.references}
    for kind, named, known in (
        ("probes", description.probes, probes),
        ("references", description.references, references),
    ):
        for name in named:
            if name not in known:
                raise ConfigError(f"{where}: {kind}: '{name}' is not in probes(seed); {nearest(name, known)}")
    for transition in description.transitions:
        for probe, reference in transition.distances():
            if reference not in probes[probe].references:
                raise ConfigError(
                    f"{where}: a transition needs reference '{reference}' on probe '{probe}', and the probe has "
                    f"{', '.join(probes[probe].references) or 'none'}"
                )
    return description


def check_probe(
    model: nn.Module,
    system: System,
    where: str,
    probe: Probe,
    is_function_vector: bool,
    device: str | torch.device = "cpu",
) -> None:
    """Check that losses and outputs of the model on a probe have their shapes; `DataError` names the one that has not.

    where : begins the messages. is_function_vector : whether the outputs are stored at every checkpoint.
    """
    total = num_samples(probe.batch, f"{where}, batch")
    few = mapped(first_samples(probe.batch, _FEW), lambda leaf: leaf.to(device))
    losses = calling(f"{where}: loss(model, batch)", system.loss, model, few)
    _require_one_a_sample(losses, num_samples(few), where)
    if not is_function_vector and probe.target is None and not probe.references:
        return
    default = " (by default model(batch[0]))" if type(system).outputs is System.outputs else ""
    outputs = calling(f"{where}: outputs(model, batch){default}", system.outputs, model, few)
    real = isinstance(outputs, Tensor) and not outputs.is_complex()
    if not real or outputs.ndim == 0 or len(outputs) != num_samples(few):
        got = f"{outputs.dtype} {list(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise DataError(
            f"{where}: outputs(model, batch) must be a tensor [B, ...] of real numbers with B = {_FEW}, got {got}"
        )
    shape = [total, *outputs.shape[1:]]
    named = {f"reference '{name}'": value for name, value in probe.references.items()}
    for what, value in {"the target": probe.target, **named}.items():
        if value is not None and list(value.shape) != shape:
            raise DataError(f"{where}: {what} has shape {list(value.shape)}, and the outputs have {shape}")
    if is_function_vector and torch.Size(shape).numel() > _MOST_OUTPUTS:
        raise ConfigError(
            f"{where}: the function vector would hold {torch.Size(shape).numel():,} numbers at every checkpoint; give "
            "probes(seed) with fewer samples, or describe() with another function_vector, or None"
        )


def _same_probe(one: Probe, other: Probe) -> bool:
    """The same batch to the last bit, the same target and references up to the rounding of linear algebra."""
    batch, again = leaves(one.batch), leaves(other.batch)
    if len(batch) != len(again) or not all(map(torch.equal, batch, again)):
        return False
    return (
        _close(one.target, other.target)
        and one.references.keys() == other.references.keys()
        and all(_close(value, other.references[name]) for name, value in one.references.items())
    )


def _close(one: Tensor | None, other: Tensor | None) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return one is other
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5)
