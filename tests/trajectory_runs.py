"""A small deterministic training loop and what its run must hold, for the trajectory tests."""

import json

import numpy as np
import torch

from llc_dynamics.seeding import torch_generator
from llc_dynamics.trajectory import TrajectoryWriter

ARRAYS = {"evaluation": {"x": np.arange(12, dtype=np.float32).reshape(3, 4), "mask": np.array([True, False, True])}}
CONFIG = {"seed": 3, "model": {"width": 4, "name": "tiny"}, "rate": 0.1}


class Tied(torch.nn.Module):
    """Two names for one weight, a scalar parameter, buffers of other number formats."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Linear(4, 5, bias=False)
        self.unembed = torch.nn.Linear(4, 5)
        self.unembed.weight = self.embed.weight
        self.scale = torch.nn.Parameter(torch.tensor(2.0))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("seen", torch.zeros(3, dtype=torch.bool))
        self.register_buffer("bits16", torch.zeros(2, 3, dtype=torch.bfloat16))


def new_model():
    model = Tied()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch_generator(0, "init")))
    return model


def train_step(model, generator):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
        model.bits16.copy_(torch.randn(2, 3, generator=generator))
        model.count += 1
        model.seen[int(model.count) % 3] ^= True


def row_of(model, step):
    """What is recorded beside the weights."""
    metrics = {"loss": float(model.scale.detach()), "nothing": float("nan")}
    if step % 2:
        metrics["odd/only"] = step / 3
    outputs = (model.embed.weight.detach() * 2).reshape(4, 5)
    samples = {"ood_loss": np.arange(6) * float(model.unembed.bias.detach()[0])} if step % 3 else None
    return metrics, outputs, samples


def train(path, num_steps, every=1, rows_per_shard=3, expected=None, finish=True):
    """Train from wherever the run at `path` stands; copies of the recorded states go to `expected`."""
    from llc_dynamics.trajectory import Trajectory

    model, generator, start = new_model(), torch_generator(3, "train"), 0
    with TrajectoryWriter(path, model, CONFIG, rows_per_shard=rows_per_shard, arrays=ARRAYS, resume=True) as writer:
        state = Trajectory(path).resume_state()
        if state is not None:
            model.load_state_dict(state["model"])
            generator.set_state(state["generator"])
            start = state["step"] + 1
        for step in range(start, num_steps + 1):
            if step:
                train_step(model, generator)
            if step % every == 0:
                metrics, outputs, samples = row_of(model, step)
                writer.record(step, metrics, outputs, samples)
                if expected is not None:
                    expected[step] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
                if writer.pending >= writer.rows_per_shard:
                    writer.seal(
                        {
                            "model": dict(model.state_dict()),
                            "generator": generator.get_state(),
                            "step": step,
                            "extra": (1, None),
                        }
                    )
        if finish:
            writer.finish()


def read_all(run):
    """Everything that a run holds, as bytes and plain values that compare with ==."""
    found = {"steps": run.steps.tolist(), "config": run.config, "complete": run.complete}
    for step in run.steps:
        found["state", int(step)] = {
            name: (
                str(tensor.dtype),
                tuple(tensor.shape),
                tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
            )
            for name, tensor in run.state_dict(int(step)).items()
        }
    found["metrics"] = {name: run.metrics(name).tobytes() for name in run.metric_names}
    found["outputs"] = np.asarray(run.outputs()).tobytes()
    found["samples"] = {name: run.samples(name).tobytes() for name in run.sample_names}
    found["arrays"] = {
        name: {key: value.tobytes() for key, value in run.arrays(name).items()} for name in run.array_names
    }
    resume = run.resume_state()
    if resume is not None:
        found["resume"] = {
            "step": resume["step"],
            "extra": resume["extra"],
            "generator": resume["generator"].numpy().tobytes(),
            "model": {name: tensor.float().numpy().tobytes() for name, tensor in resume["model"].items()},
        }
    return found


def contents(folder):
    """Every file of a folder, by its path."""
    return {
        str(entry.relative_to(folder)): entry.read_bytes() for entry in sorted(folder.rglob("*")) if entry.is_file()
    }


def signed_manifest(run, change):
    """Change a manifest and give it a checksum that fits."""
    from llc_dynamics.trajectory.manifest import write_signed

    path = run / "manifest.json"
    content = json.loads(path.read_text())
    del content["checksum"]
    change(content)
    write_signed(path, content)
