"""One estimate over a zoo of models: all ways of running it agree or say why not, and nothing is touched."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from untouched import untouched
from zoo import ZOO, Animal

import llc_dynamics as ld
from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.sampling import group_model

# Steps that move the weights by some hundredths: far enough that the traces are no rounding errors.
SETTINGS = ld.EstimateSettings(
    sampler=ld.SGLD(step_size=1e-4, localization=100.0),
    num_chains=2,
    num_draws=4,
    num_burnin=1,
    batch_size=16,
    num_samples=400,
)
WAYS = {
    "loop": {"chain_method": "loop"},
    "auto": {"chain_method": "auto"},
    "auto on a GPU": {"chain_method": "auto"},
    "vmap": {"chain_method": "vmap"},
    "microbatch": {"chain_method": "loop", "microbatch_size": 5},  # 16 = 5 + 5 + 5 + 1
}


def run(animal: Animal, born, **others):
    model, loss_fn, data = born
    given = dict(animal.settings)
    observe = given.pop("observe", None)
    settings = replace(SETTINGS, **given, **others)
    return ld.estimate_llc(model, loss_fn, data, settings=settings, observe=observe)


@pytest.mark.parametrize("name", ZOO)
def test_all_ways_agree_or_say_why_not(name, monkeypatch):
    animal = ZOO[name]
    born = model, _, data = animal.born()
    for parameter in list(model.parameters())[:1]:
        if not isinstance(parameter, torch.nn.UninitializedParameter) and parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    results = {}
    for way, others in WAYS.items():
        refused = getattr(animal, "loop" if "auto" in way else way)
        on_gpu = way == "auto on a GPU"
        monkeypatch.setattr(group_model, "_launches_cost", lambda _, on_gpu=on_gpu: on_gpu)
        # the data of a function lie in its closure
        held = data if isinstance(data, tuple) else tuple(cell.cell_contents for cell in data.__closure__ or ())
        with untouched(model, held):
            if refused is None:
                results[way] = run(animal, born, **others)
                if animal.random:
                    again = run(animal, born, **others)
                    np.testing.assert_array_equal(results.pop(way).trace, again.trace)
            else:
                with pytest.raises((ConfigError, DataError), match=refused):
                    run(animal, born, **others)
    if animal.twin is not None:
        twin = ZOO[animal.twin]
        results["twin"] = run(twin, twin.born(), chain_method="loop")
    for way, result in results.items():
        loop = results["loop"]
        assert result.failed_chains == ()
        for trace in ("trace", "distance_trace", "virial_trace"):
            expected, found = getattr(loop, trace), getattr(result, trace)
            largest = np.abs(expected).max()
            assert largest > 0
            if way == "auto":
                np.testing.assert_array_equal(found, expected)
            np.testing.assert_allclose(found, expected, rtol=0, atol=animal.digits * largest, err_msg=way)
        assert result.initial_loss == pytest.approx(loop.initial_loss, rel=animal.digits)


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


AMBIENT = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "enable_grad": torch.enable_grad,
    "set_grad_enabled(False)": lambda: torch.set_grad_enabled(False),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
    "default device meta": lambda: default_device("meta"),
    "device context": lambda: torch.device("meta"),
    "deterministic algorithms": deterministic,
    "cached parametrizations": torch.nn.utils.parametrize.cached,
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True),
}


@pytest.mark.parametrize("ambient", AMBIENT)
@pytest.mark.parametrize(
    "name",
    [
        "causal_attention",
        "weight_norm_parametrization",
        "forces_by_autograd_behavioural",
        "tensors_made_in_the_forward_pass",
        "user_dict",
    ],
)
def test_the_state_of_torch_around_the_call_changes_nothing(ambient, name):
    animal = ZOO[name]
    born = animal.born()
    alone = run(animal, born)
    with AMBIENT[ambient](), untouched(born[0]):
        inside = run(animal, born)
    np.testing.assert_array_equal(inside.trace, alone.trace)
    np.testing.assert_array_equal(inside.distance_trace, alone.distance_trace)
    assert inside.initial_loss == alone.initial_loss
    assert inside.reasons == alone.reasons


CURVES = (
    "caches_as_plain_attributes",
    "compiled",
    "complex_parameters",
    "forces_by_autograd",
    "gpt2",
    "legacy_weight_norm",
)


@pytest.mark.parametrize("name", CURVES)
def test_a_curve_over_a_recorded_run(name, tmp_path):
    model, loss_fn, data = ZOO[name].born()
    with untouched(model, data), ld.Recorder(tmp_path / "run", model, [0]) as record:
        record(0)
    other = ZOO[name].born()[0]
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    values = []
    for into in (model, other):  # the run's weights count, not those of the model
        with untouched(into, data):
            curve = ld.llc_curve(tmp_path / "run", into, loss_fn, data, settings=SETTINGS, overwrite=True)
        values.append(curve.values)
    np.testing.assert_allclose(*values, rtol=1e-3)
    assert abs(values[0]) > 0
