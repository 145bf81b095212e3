"""What runs on a GPU is what runs on a CPU: each test on both, the first where there is one."""

import dataclasses

import pytest
import torch

import llc_dynamics as ld
from llc_dynamics.sweeps import load_preset
from llc_dynamics.training import CheckpointConfig, RunConfig, TrainingConfig, train

GPU = pytest.param(
    "cuda",
    marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")],
)
DEVICES = ["cpu", GPU]
CURVATURES = torch.tensor([4.0, 1.0, 0.25, 0.0])
NBETA, GAMMA = 100.0, 5.0
SAMPLER = ld.MALT(0.05, NBETA, GAMMA, num_steps=4)


class Weights(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return x * self.w * CURVATURES.to(x.device).sqrt()


def outputs(model, batch):
    return model(batch[0])


DATA = (torch.ones(16, 4),)
LOSS = ld.behavioural(outputs)  # the mean over four outputs: curvatures / 2


def settings(draws=20, **others):
    return ld.EstimateSettings(SAMPLER, num_chains=4, num_draws=draws, num_burnin=10, batch_size=16, **others)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", ["loop", "vmap"])
def test_the_estimate_is_the_exact_one(device, method):
    # false alarms: 1 in 15,000
    exact = 0.5 * float((NBETA * CURVATURES / 2 / (NBETA * CURVATURES / 2 + GAMMA)).sum())
    model = Weights()
    result = ld.estimate_llc(model, LOSS, DATA, settings=settings(80, chain_method=method), device=device)
    assert abs(result.llc - exact) < 4 * result.standard_error
    assert result.standard_error < 0.2 * exact
    assert model.w.device.type == "cpu"  # it comes back as it was
    assert bool((model.w == 0).all())


@pytest.mark.parametrize("device", DEVICES)
def test_the_same_call_gives_the_same_numbers_and_leaves_a_model_where_it_is(device):
    model = Weights().to(device)
    first, second = (ld.estimate_llc(model, LOSS, DATA, settings=settings(), device=device) for _ in range(2))
    assert (first.trace == second.trace).all()
    assert model.w.device.type == device


@pytest.mark.parametrize("device", DEVICES)
def test_all_chains_as_one_batch_of_work_are_the_chains_one_by_one(device):
    loop, vmap = (
        ld.estimate_llc(Weights(), LOSS, DATA, settings=settings(chain_method=method), device=device)
        for method in ("loop", "vmap")
    )
    assert loop.trace == pytest.approx(vmap.trace, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_a_training_that_was_stopped_ends_as_the_unbroken_one(tmp_path, device):
    demo = load_preset("transient_ridge/demo").run_configs()["M-2"].system
    system = dataclasses.replace(demo, num_sequences=8, num_root_sequences=2)
    config = RunConfig(system, TrainingConfig(num_steps=30, batch_size=4, warmup_steps=2), CheckpointConfig(10, 0))

    class StopError(Exception):
        pass

    def stop(step, _):
        if step == 20:
            raise StopError

    whole = train(config, tmp_path / "whole", device=device)
    with pytest.raises(StopError):
        train(config, tmp_path / "stopped", device=device, progress=stop)
    again = train(config, tmp_path / "stopped", device=device)
    for name, weight in whole.state_dict(30).items():
        assert torch.equal(weight, again.state_dict(30)[name]), name


@pytest.mark.parametrize("device", DEVICES)
def test_a_recorded_model_gets_its_curve(tmp_path, device):
    model = Weights().to(device)
    with ld.Recorder(tmp_path / "run", model, [0, 1]) as record:
        for step in range(2):
            record(step)
    curve = ld.llc_curve(tmp_path / "run", model, LOSS, DATA, settings=settings(), device=device, progress=False)
    assert ld.LLCCurve.load(tmp_path / "run").values == pytest.approx(curve.values, rel=0)
    # the same weights, and points have the same noise
    assert curve.values[0] == curve.values[1]
