"""What estimates are made from, sent to another process without the weights that it reads itself."""

import pickle

import cloudpickle
import pytest
import torch
from torch import nn

import llc_dynamics as ld
from llc_dynamics.llc import Problem
from llc_dynamics.llc.sending import Sent


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder, self.norm = nn.Linear(200, 200), nn.Linear(200, 200), nn.BatchNorm1d(200)
        self.decoder.weight = self.encoder.weight
        self.encoder.bias.requires_grad_(False)
        self.register_buffer("mask", torch.arange(3.0), persistent=False)

    def forward(self, x):
        return self.norm(self.decoder(self.encoder(x)))


@pytest.fixture
def problem(tmp_path):
    model = Tied()
    with ld.TrajectoryWriter(tmp_path / "run", model, config={}) as writer:
        writer.record(3, metrics={"loss": 0.0})
    run = ld.Trajectory(tmp_path / "run")
    return Problem(model, lambda model, batch: model(batch[0]).square().mean(1), (torch.randn(9, 200),)).at(run, 3)


def arrived(what):
    return pickle.loads(pickle.dumps(what))


def test_stored_weights_are_left_out_and_read_there(problem):
    sent = Sent(lambda: problem, [problem])
    assert len(pickle.dumps(sent)) < 20_000 < len(cloudpickle.dumps(problem))
    there = arrived(sent)()
    model = there.model
    assert model.decoder.weight is model.encoder.weight
    assert [each.requires_grad for each in model.parameters()] == [
        each.requires_grad for each in problem.model.parameters()
    ]
    assert torch.equal(model.mask, torch.arange(3.0))  # no checkpoint has it
    assert not model.encoder.weight.any()
    with there.weights():
        state = problem.model.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_weights_of_no_checkpoint_are_sent(problem):
    bare = Problem(problem.model, problem.loss_fn, problem.data)
    there = arrived(Sent(lambda: bare, [bare]))()
    assert torch.equal(there.model.encoder.weight, problem.model.encoder.weight)


def test_the_default_dtype_is_that_of_the_sender(problem):
    torch.set_default_dtype(torch.float64)
    try:
        content = pickle.dumps(Sent(lambda: torch.zeros(1).dtype, [problem]))
    finally:
        torch.set_default_dtype(torch.float32)
    assert pickle.loads(content)() == torch.float64
    assert torch.get_default_dtype() == torch.float32
