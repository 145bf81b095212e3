"""How heads specialise: what the script makes of two tiny runs."""

from pathlib import Path

import numpy as np
import pytest
from scripts import load_together

import llc_dynamics as ld
from llc_dynamics.training import load_config

models, development = load_together("sparse_heads", "models", "development")
PRESET = """
name = "tiny"
[system]
name = "sparse_heads"
dimension = 3
sparsity = 1
num_examples = 8
num_layers = 2
num_contexts = 50
[training]
num_steps = 40
batch_size = 32
learning_rate = 2e-2
warmup_steps = 0
[checkpoints]
linear_interval = 4
num_log = 0
[llc]
num_points = 2
first_step = 20
loss = "behavioural"
fixed_samples = 32
num_chains = 2
num_draws = 8
num_burnin = 2
batch_size = 32
sampler = { kernel = "MALT", nbeta = 1e4, localization = 1200.0, num_steps = 4 }
[[runs]]
num_heads = 2
"""


def test_heads_of_a_run_and_their_lines(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(PRESET)
    sweep = development.load_sweep(tmp_path / "tiny.toml")
    (path,) = development.run_sweep(sweep, tmp_path / "runs", workers=1, estimate=True)
    run = ld.Trajectory(path)
    found, references = development.develop(run, 60)
    assert found.outputs.shape == (11, 60, 3)
    model = load_config(run).system.build(0).double()
    run.load_into(model, 40)
    heads = development.heads_of(run, sweep.llc, 2, 1)
    assert [int(step) for step in heads.llc[1, 1].steps] == [40]  # both wanted steps are nearest to the last
    assert list(heads.history) == [int(step) for step in run.weight_steps]
    text = "\n".join(development.head_llc_lines([heads], ["seed 0"]))
    masked = heads.history[40].log_ratio((2, 1))
    assert f"| seed 0 | 2.1 | {heads.llc[2, 1].values[0]:.1f} ±" in text
    assert "{:.2f} ± {:.2f}".format(*masked) in text
    assert "layer 2" in "\n".join(development.onset_lines([heads]))
    assert "none" in "\n".join(development.specialisation_lines([found], references))


def test_a_model_that_comes_to_preprocessing_is_timed() -> None:
    """From ridge to it, half of the way in the logarithm of the distance at step 500."""
    rng, steps = np.random.default_rng(0), np.arange(0, 1001, 20)
    apart = rng.standard_normal((1, 80, 3))
    left = np.exp(-4 / (1 + np.exp((500 - steps) / 60)))[:, None, None]  # of the way, |.|^2 falls by e^8
    distances = {"preprocessed": np.square(left * apart).sum(-1)}

    class Run:
        pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(development, "system_of", lambda _: type("S", (), {"num_heads": 8})())
        patch.setattr(development, "seeds_of", lambda _: ["seed 3"])
        found = development.Development(Run(), None, steps, None, distances)
        references = {"ridge": apart[0], "preprocessed": np.zeros((80, 3))}
        row = development.specialisation_lines([found], references)[4]
    assert row.startswith("| H = 8, seed 3 | ")
    assert float(row.split("|")[2].split("(")[0]) == pytest.approx(500, abs=20)
