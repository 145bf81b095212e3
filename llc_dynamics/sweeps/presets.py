"""Presets by name: the TOML files of `experiments/transient_ridge/`, which are installed with the package."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from llc_dynamics.errors import ConfigError, TrajectoryError
from llc_dynamics.settings import nearest
from llc_dynamics.sweeps.config import SweepConfig, load_sweep, sweep_from_mapping
from llc_dynamics.sweeps.folders import SWEEP_FILE, read_sweep_file, stored_sweep
from llc_dynamics.trajectory.names import is_run


def preset_names() -> list[str]:
    """Names that `load_preset` knows."""
    return sorted(entry.name.removesuffix(".toml") for entry in _folder().iterdir() if entry.name.endswith(".toml"))


def load_preset(name: str) -> SweepConfig:
    """A preset by name. Raises `ConfigError` for an unknown one."""
    names = preset_names()
    if name not in names:
        raise ConfigError(f"preset '{name}' is unknown; {nearest(name, names)}")
    with resources.as_file(_folder() / f"{name}.toml") as path:
        return load_sweep(path)


def resolve(config: Path, out: Path | None, seed: int | None) -> tuple[SweepConfig, Path]:
    """From what a user names to settings and the folder of the runs.

    `config` is a preset file or name, which needs `out`; or a sweep folder, or a run folder inside one, to go on with.
    """
    known = not config.suffix and str(config) in preset_names()
    if config.is_dir() and not (known and out is not None):
        if out is not None or seed is not None:
            raise ConfigError(f"{config}: a folder goes on with its own settings; leave out --out and --seed")
        if is_run(config) and not (config / SWEEP_FILE).exists():
            sweep = stored_sweep(config)
            if config.name not in sweep.run_configs():
                raise TrajectoryError(
                    f"{config}: not a run of the sweep in {config.parent}; it was recorded by another training loop, "
                    "which has to go on with it itself (ld.TrajectoryWriter(..., resume=True))"
                )
            return sweep, config.parent
        return sweep_from_mapping(read_sweep_file(config), where=str(config / SWEEP_FILE)), config
    if not known and not config.exists() and config.suffix != ".toml":
        raise ConfigError(f"{config}: neither a folder nor a preset; {nearest(str(config), preset_names())}")
    sweep = load_preset(str(config)) if known else load_sweep(config)
    if out is None:
        raise ConfigError(f"{config}: give the folder for the runs, for example --out runs/{sweep.name}")
    return (sweep if seed is None else sweep.with_seed(seed)), out


def _folder() -> Traversable:
    checkout = Path(__file__).resolve().parents[2] / "experiments" / "transient_ridge"
    return checkout if checkout.is_dir() else resources.files("llc_dynamics.presets")
