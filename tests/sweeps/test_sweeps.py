import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import tiny_in_context

from llc_dynamics.errors import ConfigError, TrajectoryError
from llc_dynamics.llc import EstimateSettings
from llc_dynamics.llc.point import llc_point
from llc_dynamics.sampling import MALT, SGLD
from llc_dynamics.settings import from_mapping, to_mapping
from llc_dynamics.sweeps import LLCConfig, SweepConfig, find_runs, load_preset, preset_names, resolve
from llc_dynamics.sweeps.runner import problem_of
from llc_dynamics.training import RunConfig, TrainingConfig, train
from llc_dynamics.workers import Job, run_jobs


@pytest.mark.parametrize("name", ["crossover", "transient_ridge/demo", "small", "transient_ridge/paper"])
def test_presets(name: str) -> None:
    """Every preset is valid, holds a finite and the infinite M, and survives its own stored form."""
    sweep = load_preset(name)
    assert sweep.name == name.rpartition("/")[2]
    configs = sweep.run_configs()
    assert "M-inf" in configs
    assert len(configs) >= 3
    assert SweepConfig.from_mapping(json.loads(json.dumps(sweep.to_mapping())), name).to_mapping() == sweep.to_mapping()
    seeded = sweep.with_seed(7).run_configs()["M-inf"]
    assert (seeded.seed, seeded.system.seed) == (7, 7)


def test_paper_preset_is_the_papers() -> None:
    config = load_preset("transient_ridge/paper").run_configs()["M-64"]
    system = config.system
    assert (system.dimension, system.context_length, system.noise_variance) == (8, 16, 0.125)
    assert sum(parameter.numel() for parameter in system.build(0).parameters()) == 2_654_217
    assert (config.training.batch_size, config.training.learning_rate) == (1024, 3e-3)
    assert len(config.checkpoint_steps()) == 2203


def test_preset_names() -> None:
    both = [f"{folder}/{name}" for name in ("demo", "paper") for folder in ("linear_transformers", "transient_ridge")]
    assert preset_names() == sorted(
        ["crossover", "development", "full", "gpu", "small", "sparse_heads/demo", "table", *both]
    )
    with pytest.raises(ConfigError, match="did you mean 'small'"):
        load_preset("smal")
    with pytest.raises(ConfigError, match=r"several systems .*transient_ridge/demo"):
        load_preset("demo")
    assert load_preset("transient_ridge/small") == load_preset("small")


@pytest.mark.parametrize(
    ("name", "run"),
    [(f"linear_transformers/{name}", "model-full-L4-sigma5") for name in ("demo", "table", "paper")]
    + [(f"sparse_heads/{name}", "H-4") for name in ("demo", "full", "gpu")],
)
def test_presets_of_systems(name: str, run: str) -> None:
    sweep = load_preset(name)
    assert run in sweep.run_configs()
    assert SweepConfig.from_mapping(json.loads(json.dumps(sweep.to_mapping())), name).to_mapping() == sweep.to_mapping()


def test_runs_share_all_but_m_and_length() -> None:
    sweep = SweepConfig(
        "x",
        tiny_in_context(),
        runs=({"num_tasks": 3, "num_steps": 50}, {"num_tasks": math.inf}),
        training=TrainingConfig(num_steps=400, warmup_steps=9),
    )
    one, two = sweep.run_configs().values()
    assert (one.system.num_tasks, one.training.num_steps) == (3, 50)
    assert (two.system.num_tasks, two.training.num_steps) == (math.inf, 400)
    assert one.system.with_tasks(math.inf) == two.system
    assert list(sweep.run_configs()) == ["M-3", "M-inf"]
    with pytest.raises(ConfigError, match="num_steps must be 1 or more; got 0"):
        SweepConfig("x", tiny_in_context(), runs=({"num_steps": 0},))


def test_curve_steps_are_spread_over_the_logarithm() -> None:
    stored = np.arange(0, 10_001, 10)
    steps = LLCConfig(num_points=5).choose_steps(stored)
    assert steps[0] == 0
    assert steps[-1] == 10_000
    assert set(steps) <= set(stored.tolist())
    np.testing.assert_allclose(np.diff(np.log1p(steps[1:])), math.log(10_001) / 4, rtol=0.1)
    assert LLCConfig(num_points=50).choose_steps(np.array([0, 5, 9])) == [0, 5, 9]
    assert LLCConfig(num_points=2, first_step=95).choose_steps(stored) == [100, 10_000]
    assert LLCConfig(num_points=2, first_step=10**6).choose_steps(stored) == [10_000]
    with pytest.raises(ConfigError, match="num_points"):
        LLCConfig(num_points=0)


def test_llc_table_round_trips() -> None:
    """Through JSON too; a table need have neither kernel nor loss."""
    for estimate in (
        EstimateSettings(batch_size=8, num_samples=99),
        EstimateSettings(sampler=MALT(localization=3.0), batch_size=8, num_samples=99, target_error=0.1),
    ):
        config = LLCConfig(estimate, loss="behavioural", num_points=3, first_step=7)
        assert from_mapping(LLCConfig, json.loads(json.dumps(to_mapping(config)))) == config
        sweep = SweepConfig("x", tiny_in_context(), llc=config)
        assert SweepConfig.from_mapping(json.loads(json.dumps(sweep.to_mapping())), "here") == sweep
    old = {"sampler": {"step_size": 5e-5, "nbeta": None, "localization": 10.0}, "num_points": 8, "num_draws": 160}
    config = from_mapping(LLCConfig, old)
    system = tiny_in_context()
    assert config.estimate_of(system) == EstimateSettings(
        sampler=SGLD(5e-5, localization=10.0), num_draws=160, batch_size=64, num_samples=10_000
    )
    assert (config.loss, config.loss_of(system)) == ("given", system.loss)


def test_resolve(tmp_path: Path) -> None:
    sweep, folder = resolve(Path("transient_ridge/demo"), tmp_path / "x", 3)
    assert (sweep.name, sweep.seed, folder) == ("demo", 3, tmp_path / "x")
    with pytest.raises(TrajectoryError, match="no such folder"):
        find_runs(tmp_path / "nowhere")


def _touch_or_fail(path: str) -> str:
    if path.endswith("bad"):
        raise TrajectoryError(f"cannot write {path}")
    Path(path).write_text(os.environ["OMP_NUM_THREADS"])
    return path


def test_pool_runs_follow_up_jobs_single_threaded_and_raises_the_error(tmp_path: Path) -> None:
    def after(_: Job, result: str) -> list[Job]:
        names = {"first": ["second"], "second": ["bad"]}[Path(result).name]
        return [Job(_touch_or_fail, (str(tmp_path / name),), "work", 3, advance=1) for name in names]

    with pytest.raises(TrajectoryError, match=r"cannot write .*bad"):
        run_jobs([Job(_touch_or_fail, (str(tmp_path / "first"),), "work", 3, advance=1)], workers=1, after=after)
    assert (tmp_path / "first").read_text() == "1"
    assert (tmp_path / "second").read_text() == "1"


def test_fixed_samples_are_drawn_once_and_are_the_data(tmp_path: Path) -> None:
    config = RunConfig(tiny_in_context(), TrainingConfig(num_steps=2, batch_size=4, warmup_steps=0))
    run = train(config, tmp_path / "run")
    llc = LLCConfig(EstimateSettings(batch_size=64), fixed_samples=40)
    assert LLCConfig.from_mapping(llc.to_mapping(), "llc") == llc
    problems = [problem_of(run, config.system, llc, "cpu") for _ in range(2)]
    first, second = (each.data for each in problems)
    assert {len(each) for each in first} == {40}
    assert all(map(torch.equal, first, second))
    settings = llc.estimate_of(config.system)
    assert (settings.batch_size, settings.num_samples) == (40, 10_000)  # n of nbeta stays a choice
    assert np.isfinite(llc_point(run, 2, problems[0], replace(settings, num_draws=4, num_burnin=1)).llc)
    with pytest.raises(ConfigError, match="fixed_samples must be 3 or more"):
        LLCConfig(fixed_samples=2)
