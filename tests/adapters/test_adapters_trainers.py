# ruff: noqa: ARG002
"""The trainers' callbacks against the trainers' own weights: accumulation, going on after a kill, several events."""

import copy
import os
import warnings

import numpy as np
import pytest
import torch

import llc_dynamics as ld
from llc_dynamics.errors import ConfigError, ManifestMismatchError

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
Y = X[:, :1].sin()
STEPS = [0, 1, 2, 3, 5, 6, 8, 11, 12, 16]


def same(tensors, others):
    return tensors.keys() == others.keys() and all(torch.equal(tensors[name], others[name]) for name in tensors)


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield


def in_child(work):
    """Run `work` in a forked process; its exit status."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Stop:
    """Kills the process at a step."""

    def __init__(self, step):
        self.step = step

    def at(self, step):
        if step == self.step:
            os._exit(1)


# --- PyTorch Lightning ------------------------------------------------------------------------------------------------


def lightning_training(folder, *, stop=None, record=True, resume=None, save_every=4, seen=None, seed=0, **settings):
    pl = pytest.importorskip("pytorch_lightning")
    from pytorch_lightning.callbacks import ModelCheckpoint

    from llc_dynamics.adapters import LightningCallback

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 1))

        def training_step(self, batch, index):
            loss = (self.net(batch[0]) - batch[1]).square().mean()
            self.log("train_loss", loss)
            if self.global_step % 2 == 0:
                self.log("even", float(self.global_step))
            return loss

        def validation_step(self, batch):
            self.log("val_loss", (self.net(batch[0]) - batch[1]).square().mean())

        def on_train_epoch_end(self):
            self.log("epoch_end", 1.0)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 1e-2)

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if seen is not None and trainer.global_step not in seen:
                seen[trainer.global_step] = copy.deepcopy(pl_module.state_dict())
            if stop is not None:
                Stop(stop).at(trainer.global_step)

    torch.manual_seed(seed)
    module = Module()
    # Always in the same order: a loader that goes on in the middle of an epoch is the trainer's business.
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=8)
    checkpoints = ModelCheckpoint(
        dirpath=folder / "checkpoints", every_n_train_steps=save_every, save_top_k=-1, filename="{step}"
    )
    callbacks = [checkpoints, Watch()]
    if record:
        settings = {"steps": STEPS, "rows_per_shard": 3} | settings
        callbacks.append(LightningCallback(folder / "run", **settings))
    trainer = pl.Trainer(
        max_steps=16, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        accumulate_grad_batches=2, val_check_interval=6, callbacks=callbacks,
    )  # fmt: skip
    trainer.fit(module, data, data, ckpt_path=resume)
    return module


def test_lightning_records_what_was_trained(tmp_path):
    plain, seen = {}, {}
    lightning_training(tmp_path / "plain", record=False, seen=plain)
    lightning_training(tmp_path, seen=seen, outputs=lambda module: module.net(X[:3]))
    assert all(same(plain[step], seen[step]) for step in plain)
    run = ld.Trajectory(tmp_path / "run")
    assert run.complete
    assert run.steps.tolist() == STEPS
    for step in STEPS[1:]:
        assert same(run.state_dict(step), seen[step])
    # 8 micro-batches an epoch, 2 an update, a validation after 6 micro-batches: after updates 3, 7, 11, 15.
    assert np.isfinite(run.metrics("val_loss")).tolist() == [step in (3, 11) for step in STEPS]
    # Logged while the number of updates was even, so on the way to odd steps only; the trainer keeps showing it.
    assert np.isfinite(run.metrics("even")).tolist() == [step % 2 == 1 for step in STEPS]
    assert run.metrics("even")[1] == 0.0
    assert np.isfinite(run.metrics("train_loss")).tolist() == [step > 0 for step in STEPS]
    assert run.outputs().shape == (len(STEPS), 3, 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked trainings")
def test_lightning_goes_on_from_each_of_its_checkpoints(tmp_path):
    lightning_training(tmp_path / "whole", save_every=4)
    whole = ld.Trajectory(tmp_path / "whole" / "run")
    for stop, resume in ((7, 4), (10, 8), (16, 12)):
        folder = tmp_path / str(stop)
        assert in_child(lambda folder=folder, stop=stop: lightning_training(folder, stop=stop)) == 1
        # The rows before the trainer's checkpoint are on the disk.
        held = ld.Trajectory(folder / "run").steps.tolist()
        assert [step for step in STEPS if step < resume] == [step for step in held if step < resume]
        lightning_training(folder, resume=folder / "checkpoints" / f"step={resume}.ckpt")
        run = ld.Trajectory(folder / "run")
        assert run.complete
        assert run.steps.tolist() == STEPS
        assert all(same(run.state_dict(step), whole.state_dict(step)) for step in STEPS)
        # From the same batches, in the middle of an epoch.
        assert run.metrics("train_loss")[-1] == whole.metrics("train_loss")[-1]


def test_lightning_refuses_another_training_and_unknown_submodules(tmp_path):
    lightning_training(tmp_path)
    with pytest.raises(ManifestMismatchError, match="step 0"):
        lightning_training(tmp_path, seed=1)
    with pytest.raises(ConfigError, match="module='nothing'"):
        lightning_training(tmp_path / "other", module="nothing")
    # The lock is free after an error.
    ld.TrajectoryWriter(tmp_path / "run", lightning_training(tmp_path), resume=True).close()


# --- Hugging Face -----------------------------------------------------------------------------------------------------


def transformers_training(folder, *, stop=None, record=True, resume=None, seen=None, best=False, **settings):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from llc_dynamics.adapters import HuggingFaceCallback

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Dropout(0.1), torch.nn.Linear(6, 1))

        def forward(self, x, labels):
            prediction = self.net(x)
            return {"loss": (prediction - labels).square().mean(), "logits": prediction}

    class Watch(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **_):
            if seen is not None:
                seen[state.global_step] = copy.deepcopy(model.state_dict())

        def on_step_begin(self, args, state, control, **_):
            if stop is not None:
                Stop(stop).at(state.global_step)

    torch.manual_seed(0)
    data = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
    arguments = transformers.TrainingArguments(
        str(folder / "checkpoints"), max_steps=16, per_device_train_batch_size=8, gradient_accumulation_steps=2,
        eval_strategy="steps", eval_steps=4, logging_steps=3, save_steps=4, report_to=[], disable_tqdm=True,
        use_cpu=True, seed=0, learning_rate=1e-2, load_best_model_at_end=best, metric_for_best_model="eval_loss",
        greater_is_better=True,
    )  # fmt: skip
    callbacks = [Watch()]
    if record:
        callbacks.insert(0, HuggingFaceCallback(folder / "run", **({"steps": STEPS, "rows_per_shard": 3} | settings)))
    trainer = transformers.Trainer(Model(), arguments, train_dataset=data, eval_dataset=data[:16], callbacks=callbacks)
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return trainer.model


def test_transformers_records_what_was_trained(tmp_path, capsys):
    plain, seen = {}, {}
    transformers_training(tmp_path / "plain", record=False, seen=plain)
    # "Best" is the largest loss here, so that the trainer ends with other weights than the last step's.
    final = transformers_training(tmp_path, seen=seen, best=True, outputs=lambda model: model.net(X[:3]))
    assert all(same(plain[step], seen[step]) for step in plain)
    run = ld.Trajectory(tmp_path / "run")
    assert run.complete
    assert run.steps.tolist() == STEPS
    for step in STEPS[1:]:
        assert same(run.state_dict(step), seen[step])
    assert not same(dict(final.state_dict()), seen[16])
    assert np.isfinite(run.metrics("eval_loss")).tolist() == [step > 0 and step % 4 == 0 for step in STEPS]
    assert np.isfinite(run.metrics("loss")).tolist() == [step in (3, 6, 12) for step in STEPS]
    capsys.readouterr()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked trainings")
def test_transformers_goes_on_from_each_of_its_checkpoints(tmp_path, capsys):
    transformers_training(tmp_path / "whole")
    whole = ld.Trajectory(tmp_path / "whole" / "run")
    for stop, resume in ((7, 4), (10, 8), (15, 12)):
        folder = tmp_path / str(stop)
        assert in_child(lambda folder=folder, stop=stop: transformers_training(folder, stop=stop)) == 1
        held = ld.Trajectory(folder / "run").steps.tolist()
        assert [step for step in STEPS if step < resume] == [step for step in held if step < resume]
        transformers_training(folder, resume=folder / "checkpoints" / f"checkpoint-{resume}")
        run = ld.Trajectory(folder / "run")
        assert run.complete
        assert run.steps.tolist() == STEPS
        assert all(same(run.state_dict(step), whole.state_dict(step)) for step in STEPS)
        assert run.metrics("eval_loss")[-1] == whole.metrics("eval_loss")[-1]
    capsys.readouterr()


def test_transformers_warns_of_a_gap(tmp_path, capsys):
    transformers_training(tmp_path / "first", record=False)
    checkpoint = tmp_path / "first" / "checkpoints" / "checkpoint-8"
    with ld.Recorder(tmp_path / "run", transformers_training(tmp_path / "x", record=False), [0, 1, 2]) as recorder:
        for step in range(3):
            recorder(step)
    with pytest.warns(UserWarning, match="goes on from step 8, and the run ends at step 2; 3 checkpoints"):
        transformers_training(tmp_path, resume=checkpoint)
    assert ld.Trajectory(tmp_path / "run").steps.tolist() == [0, 1, 2, 8, 11, 12, 16]
    capsys.readouterr()
