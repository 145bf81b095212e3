"""Recording from other loops: the rows are the training's, the training does not notice, stopped runs go on."""

import copy
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import llc_dynamics as ld
from llc_dynamics.adapters import Recorder
from llc_dynamics.errors import ConfigError, DataError, ManifestMismatchError, TrajectoryError
from llc_dynamics.seeding import isolated_generators

DOCUMENT = Path(__file__).parents[2] / "docs" / "recording.md"
X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
Y = X[:, :1].sin()


def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Dropout(0.2), torch.nn.Linear(6, 1)
    )


def update(model, optimizer):
    chosen = torch.randint(0, len(X), (8,))
    loss = (model(X[chosen]) - Y[chosen]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def plain_training(num_steps, path=None, stop=None, **settings):
    """A loop that goes on; returns {step: state}."""
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    torch.manual_seed(1)
    seen = {0: copy.deepcopy(model.state_dict())}
    if path is None:
        for step in range(1, num_steps + 1):
            update(model, optimizer)
            seen[step] = copy.deepcopy(model.state_dict())
        return seen

    def state():
        return {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }

    with Recorder(path, model, settings.pop("steps", range(0, num_steps + 1, 2)), state=state, **settings) as recorder:
        if recorder.restored is None:
            recorder(0)
        else:
            model.load_state_dict(recorder.restored["model"])
            optimizer.load_state_dict(recorder.restored["optimizer"])
            torch.set_rng_state(recorder.restored["random"])
        for step in range(recorder.start + 1, num_steps + 1):
            loss = update(model, optimizer)
            recorder(step, {"loss": loss})
            seen[step] = copy.deepcopy(model.state_dict())
            if step == stop:
                os._exit(1)
    return seen


def same(tensors, others):
    return tensors.keys() == others.keys() and all(torch.equal(tensors[name], others[name]) for name in tensors)


def test_rows_are_the_training_and_the_training_does_not_notice(tmp_path):
    def outputs(model):
        assert not model.training
        torch.rand(3)  # whatever it draws
        return model(X[:5])

    expected = plain_training(20)
    seen = plain_training(20, tmp_path / "run", outputs=outputs)
    assert all(same(expected[step], seen[step]) for step in expected)
    run = ld.Trajectory(tmp_path / "run")
    assert run.complete
    assert run.steps.tolist() == list(range(0, 21, 2))
    model = net()
    for step in run.steps:
        assert same(run.state_dict(int(step)), expected[int(step)])
        run.load_into(model, int(step))
        with torch.no_grad():
            values = model.eval()(X[:5])
        np.testing.assert_array_equal(run.outputs()[int(step) // 2], values.numpy())
    assert np.isfinite(run.metrics("loss")[1:]).all()
    assert np.isnan(run.metrics("loss")[0])
    # Modes are given back one by one, not all set to training.
    model.train()
    model[1].eval()
    Recorder(tmp_path / "other", model, [0], outputs=outputs)(0)
    assert [module.training for module in model] == [True, False, True, True]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked loops")
def test_a_killed_loop_goes_on_from_its_own_state(tmp_path):
    plain_training(20, tmp_path / "whole", rows_per_shard=3)
    for stop in (1, 5, 13, 20):
        child = os.fork()
        if child == 0:
            plain_training(20, tmp_path / "broken", stop=stop, rows_per_shard=3)
            os._exit(0)
        os.waitpid(child, 0)
    plain_training(20, tmp_path / "broken", rows_per_shard=3)
    whole, broken = ld.Trajectory(tmp_path / "whole"), ld.Trajectory(tmp_path / "broken")
    assert broken.complete
    assert broken.steps.tolist() == whole.steps.tolist()
    assert broken.metrics("loss").tobytes() == whole.metrics("loss").tobytes()
    assert all(same(broken.state_dict(int(step)), whole.state_dict(int(step))) for step in whole.steps)


def test_calls_between_the_steps_of_the_schedule_do_nothing(tmp_path):
    model, asked = net(), []

    def metrics():
        asked.append(1)
        return {"loss": torch.tensor(0.5)}

    with Recorder(tmp_path / "run", model, ld.checkpoint_schedule(100, 50, 4)) as recorder:
        assert [step for step in range(101) if recorder(step, metrics)] == [0, 1, 4, 21, 50, 100]
        assert not recorder(100, metrics)
    assert len(asked) == 6
    assert ld.Trajectory(tmp_path / "run").complete


def test_a_rerun_must_be_the_same_training(tmp_path):
    def loop(rate, steps=(0, 1, 2, 3), metrics=1.0):
        model = net()
        with Recorder(tmp_path / "run", model, steps) as recorder:
            recorder(0)
            for step in (1, 2, 3, 4):
                with torch.no_grad():
                    model[0].weight.add_(rate)
                recorder(step, {"loss": metrics})

    loop(0.5)
    # Other metrics (a mean over other steps), another schedule: what is stored stays, the rest goes on behind it.
    loop(0.5, steps=(0, 3, 4), metrics=2.0)
    assert ld.Trajectory(tmp_path / "run").metrics("loss").tolist()[1:] == [1.0, 1.0, 1.0, 2.0]
    with pytest.raises(ManifestMismatchError, match=r"step 1 .*parameter '0\.weight'"):
        loop(0.25)
    assert ld.Trajectory(tmp_path / "run").verify().ok


def test_bad_calls(tmp_path):
    with pytest.raises(ConfigError, match="schedule is empty"):
        Recorder(tmp_path / "run", net(), [])
    with pytest.raises(DataError, match=r"step 1\.5"):
        Recorder(tmp_path / "run", net(), [0, 1.5])
    with pytest.raises(ConfigError, match=r"give the steps to record, such as ld\.checkpoint_schedule"):
        Recorder(tmp_path / "run", net(), 10)
    assert not (tmp_path / "run").exists()
    recorder = Recorder(tmp_path / "run", net(), [0, 1, 2])
    with pytest.raises(DataError, match="call the recorder with 0"):
        recorder(1)
    recorder.close()
    writer = ld.TrajectoryWriter(tmp_path / "foreign", net())
    writer.record(0)
    writer.seal({"mine": 1})
    writer.close()
    with pytest.raises(TrajectoryError, match="not one of a Recorder"):
        Recorder(tmp_path / "foreign", net(), [0], state=dict)
    # The lock is free again.
    ld.TrajectoryWriter(tmp_path / "foreign", net(), resume=True).close()


def test_names_without_the_prefixes_of_wrappers(tmp_path):
    class Outer(torch.nn.Module):
        def __init__(self, wrap):
            super().__init__()
            self.net, self.module = wrap(net()), torch.nn.Linear(2, 2)

    plain = Outer(lambda inner: inner)
    wrapped = Outer(lambda inner: torch.nn.DataParallel(torch.compile(torch.nn.DataParallel(inner))))
    for place, model in enumerate((plain, wrapped, torch.compile(wrapped))):
        with Recorder(tmp_path / str(place), model, [0]) as recorder:
            recorder(0)
        run = ld.Trajectory(tmp_path / str(place))
        assert list(run.state_dict(0)) == list(plain.state_dict())
        assert {entry.kind for entry in run.manifest.state.entries if "running" not in entry.name} == {
            "parameter",
            "buffer",
        }
        assert run.manifest.state == ld.Trajectory(tmp_path / "0").manifest.state
        for target in (plain, wrapped):
            with torch.no_grad():
                target.module.weight.zero_()
                next(target.net.parameters()).zero_()
            run.load_into(target, 0)
            assert same(run.state_dict(0), dict(zip(plain.state_dict(), target.state_dict().values(), strict=True)))


def test_weights_that_are_spread_over_processes_are_refused(tmp_path):
    class FlatParameters(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self._flat_param = torch.nn.Parameter(torch.zeros(3))

    with pytest.raises(DataError, match="spread over several processes"):
        Recorder(tmp_path / "run", FlatParameters(), [0])


DISTRIBUTED_LOOP = """
import os, sys
import torch
import llc_dynamics as ld

path, rank = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=2)
torch.manual_seed(0)
x = torch.randn(64, 4)
model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1))
model = torch.nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
with ld.Recorder(path, model, range(4), outputs=lambda model: model(x[:3])) as recorder:
    assert recorder.due(0) == (rank == 0)
    recorder(0)
    for step in range(1, 4):
        half = x[rank * 32 : rank * 32 + 32]
        model(half).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        recorder(step)
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_two_processes_one_writer(tmp_path):
    arguments = [sys.executable, "-c", DISTRIBUTED_LOOP, str(tmp_path / "run")]
    ranks = [
        subprocess.Popen(
            [*arguments, str(rank), str(tmp_path / "meeting-place")],
            env={**os.environ, **({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform.startswith("linux") else {})},
        )
        for rank in (0, 1)
    ]
    try:
        assert [process.wait(timeout=120) for process in ranks] == [0, 0]
    finally:
        for process in ranks:
            process.kill()
    run = ld.Trajectory(tmp_path / "run")
    assert run.complete
    assert run.steps.tolist() == [0, 1, 2, 3]
    assert list(run.state_dict(0)) == ["0.weight", "0.bias", "2.weight", "2.bias"]


# --- the documents' examples with the trainers ------------------------------------------------------------------------


def run_example(heading, folder, monkeypatch):
    section = DOCUMENT.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (example,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    monkeypatch.chdir(folder)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(example, "recording.md", "exec"), {"__name__": "example"})


def test_the_lightning_example(tmp_path, monkeypatch):
    pytest.importorskip("pytorch_lightning")
    run_example("PyTorch Lightning", tmp_path, monkeypatch)
    run = ld.Trajectory(tmp_path / "runs" / "lightning")
    assert run.complete
    assert run.steps.tolist() == ld.checkpoint_schedule(40, 10, 8).tolist()
    assert list(run.state_dict(0)) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    # One epoch has 8 updates, with a validation after each.
    has_validation = np.isfinite(run.metrics("val_loss"))
    assert has_validation.tolist() == [step > 0 and step % 8 == 0 for step in run.steps]
    assert np.isfinite(run.metrics("train_loss")[1:]).all()


def test_the_transformers_example(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    run_example("Hugging Face Trainer", tmp_path, monkeypatch)
    run = ld.Trajectory(tmp_path / "runs" / "trainer")
    assert run.complete
    assert run.steps.tolist() == ld.checkpoint_schedule(20, 5, 6).tolist()
    for name in ("eval_loss", "loss"):
        assert np.isfinite(run.metrics(name)).tolist() == [step > 0 and step % 5 == 0 for step in run.steps]
    assert not any(name.endswith(("_runtime", "_per_second")) for name in run.metric_names)
    assert run.outputs().shape == (len(run), 4, 8, 16)


# --- going back -------------------------------------------------------------------------------------------------------


def test_a_run_is_rewound_to_any_step(tmp_path):
    from llc_dynamics.runs import rewind_run

    expected = plain_training(20, tmp_path / "whole", rows_per_shard=3, outputs=lambda m: m(X[:2]))
    whole = ld.Trajectory(tmp_path / "whole")
    for step, steps in ((20, 11), (13, 7), (10, 6), (4, 3), (0, 1)):
        path = shutil.copytree(whole.path, tmp_path / str(step))
        assert rewind_run(path, step) == 11 - steps
        run = ld.Trajectory(path)
        assert run.steps.tolist() == whole.steps.tolist()[:steps]
        assert all(same(run.state_dict(int(held)), expected[int(held)]) for held in run.steps)
        assert run.metrics("loss").tobytes() == whole.metrics("loss")[:steps].tobytes()
        assert np.asarray(run.outputs()).tobytes() == whole.outputs()[:steps].tobytes()
        assert run.verify().ok
        assert run.complete == (steps == 11)
        resumed = run.resume_state()
        assert resumed is None or resumed["step"] <= max(step, 0)
    empty = tmp_path / "late"
    with Recorder(empty, net(), [5, 6]) as recorder:
        recorder(5)
        recorder(6)
    with pytest.raises(TrajectoryError, match="nothing would be left"):
        rewind_run(empty, 4)
    assert ld.Trajectory(empty).steps.tolist() == [5, 6]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_a_rewinding_that_is_killed_leaves_a_sound_run(tmp_path, monkeypatch):
    from llc_dynamics.runs import rewind

    expected = plain_training(20, tmp_path / "whole", rows_per_shard=2)
    honest = rewind.fsync_folder
    for moment in range(1, 6):
        path = shutil.copytree(tmp_path / "whole", tmp_path / str(moment))
        child = os.fork()
        if child == 0:
            calls = []

            def stop(folder, calls=calls, moment=moment):
                calls.append(1)
                honest(folder)
                if len(calls) == moment:
                    os._exit(9)

            monkeypatch.setattr(rewind, "fsync_folder", stop)
            rewind.rewind_run(path, 6)
            os._exit(0)
        os.waitpid(child, 0)
        run = ld.Trajectory(path)
        assert run.verify().ok
        assert len(run) >= 4
        assert all(same(run.state_dict(int(step)), expected[int(step)]) for step in run.steps)
        rewind.rewind_run(path, 6)
        assert ld.Trajectory(path).steps.tolist() == [0, 2, 4, 6]


def test_a_training_that_cannot_repeat_itself_replaces_what_it_left_behind(tmp_path):
    def loop(noise, start=0, weights=None, **settings):
        model = net()
        if start:
            model.load_state_dict(weights)
        with Recorder(tmp_path / "run", model, range(9), rows_per_shard=2, start=start, **settings) as recorder:
            for step in range(start, 9):
                if step > start:
                    with torch.no_grad():
                        model[0].weight.add_(noise)
                recorder(step, {"loss": noise})

    loop(0.5)
    first = ld.Trajectory(tmp_path / "run")
    checkpoint = first.state_dict(5)
    with pytest.raises(ManifestMismatchError, match="step 6"):
        loop(0.25, 5, checkpoint)
    with pytest.raises(ManifestMismatchError, match="step 5"):
        loop(0.25, 5, first.state_dict(4), rerun="replace")
    with pytest.raises(TrajectoryError, match="begins anew"):
        loop(0.25, rerun="replace")
    with pytest.raises(ConfigError, match="rerun"):
        loop(0.25, rerun="forget")
    assert ld.Trajectory(tmp_path / "run").metrics("loss").tolist() == [0.5] * 9
    loop(0.25, 5, checkpoint, rerun="replace")
    run = ld.Trajectory(tmp_path / "run")
    assert run.steps.tolist() == list(range(9))
    assert run.metrics("loss").tolist() == [0.5] * 6 + [0.25] * 3
    assert torch.equal(run.state_dict(8)["0.weight"], checkpoint["0.weight"] + 0.25 + 0.25 + 0.25)
    assert run.verify().ok


def test_weights_at_some_of_the_steps(tmp_path):
    for _ in range(2):
        with Recorder(
            tmp_path / "run", net(), range(7), weight_steps=[0, 3, 6], outputs=lambda model: model(X[:2])
        ) as recorder:
            for step in range(7):
                recorder(step)
    run = ld.Trajectory(tmp_path / "run")
    assert run.steps.tolist() == list(range(7))
    assert run.weight_steps.tolist() == [0, 3, 6]
    assert run.outputs().shape == (7, 2, 1)


class Forces(torch.nn.Module):
    """Minus the gradient of an energy, with noise as a layer that is random in evaluation mode has it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.energy = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1))

    def forward(self, x):
        x = x.clone().requires_grad_()
        energy = self.energy(x + 0.1 * torch.randn_like(x)).sum()
        return -torch.autograd.grad(energy, x, create_graph=True)[0]


def sample_losses(model, batch):
    return (model(batch[0]) - batch[1]).square().mean(1)


def test_outputs_and_losses_that_take_gradients_of_their_own(tmp_path):
    model = Forces()
    probes = {"test": (X[:8].numpy(), X[:8])}
    with ld.Recorder(
        tmp_path / "run", model, range(3), outputs=lambda model: model(X[:5]), probes=probes, loss_fn=sample_losses
    ) as recorder:
        for step in range(3):
            recorder(step)
    run = ld.Trajectory(tmp_path / "run")
    with isolated_generators(0):
        outputs = model(X[:5]).detach()
    with isolated_generators(0):
        losses = sample_losses(model, (X[:8], X[:8])).detach()
    for row in np.asarray(run.outputs()):  # the first row, where it is found out, is that of the others
        np.testing.assert_array_equal(row, outputs.numpy())
    np.testing.assert_allclose(run.metrics("loss/test"), float(losses.mean()), rtol=1e-6)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_recording_in_inference_mode_and_errors_of_the_function(tmp_path):
    model = Forces()
    recorder = ld.Recorder(tmp_path / "run", model, [0], outputs=lambda model: model(torch.ones(2, 4)))
    with torch.inference_mode(), recorder:
        recorder(0)
    assert np.asarray(ld.Trajectory(tmp_path / "run").outputs()).shape == (1, 2, 4)
    recorder = ld.Recorder(tmp_path / "other", model, [0], outputs=lambda model: {"last": model(X)}["logits"])
    failing = pytest.raises(ConfigError, match=r"outputs\(model\) fails: KeyError: 'logits' \(test_adapters\.py, line")
    with recorder, failing:
        recorder(0)


def test_padded_attention_is_measured_as_it_is_trained(tmp_path):
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 1, enable_nested_tensor=True)
    padding = torch.zeros(6, 5, dtype=torch.bool)
    padding[:, 3:] = True
    batch = {"x": torch.randn(6, 5, 8), "padding": padding}

    def loss_fn(model, batch):
        return model(batch["x"], src_key_padding_mask=batch["padding"]).square().flatten(1).mean(1)

    before = torch.backends.mha.get_fastpath_enabled()
    with ld.Recorder(
        tmp_path / "run", model, [0], probes={"test": batch}, loss_fn=loss_fn, output_fn=loss_fn
    ) as recorder:
        recorder(0)
    assert torch.backends.mha.get_fastpath_enabled() == before
    wanted = loss_fn(model.eval(), batch).mean().item()  # with gradients: no fast path
    np.testing.assert_allclose(ld.Trajectory(tmp_path / "run").metrics("loss/test"), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    "make", [float, np.float16, np.array, torch.tensor, lambda x: torch.nn.Parameter(torch.tensor(x))]
)
@pytest.mark.filterwarnings("error")
def test_numbers_of_any_kind_as_metrics_and_samples(tmp_path, make):
    with ld.TrajectoryWriter(tmp_path / "run", net(), rows_per_shard=torch.tensor(4)) as writer:
        writer.record(
            np.int64(0),
            {"loss": make(0.5)},
            samples={"loss": [make(0.25), make(0.75)]},
            outputs=[[make(1.0)], [make(2.0)]],
        )
        writer.record(
            1, {"loss": torch.tensor(0.5, requires_grad=True).bfloat16()}, samples={"loss": torch.ones(2).half()}
        )
    run = ld.Trajectory(tmp_path / "run")
    assert run.metrics("loss").tolist() == [0.5, 0.5]
    assert np.asarray(run.samples("loss")).tolist() == [[0.25, 0.75], [1.0, 1.0]]
    assert np.asarray(run.outputs())[0].tolist() == [[1.0], [2.0]]
    run.state_dict(torch.tensor(1))


@pytest.mark.parametrize("kind", [int, np.int64, np.array, torch.tensor])
def test_steps_of_any_kind_are_recorded(tmp_path, kind):
    with ld.Recorder(tmp_path / "run", net(), kind([0, 2]) if kind in (np.array, torch.tensor) else [0, 2]) as recorder:
        assert [recorder(kind(step), {"loss": np.ones(1)}) for step in range(3)] == [True, False, True]
    assert ld.Trajectory(tmp_path / "run").steps.tolist() == [0, 2]
