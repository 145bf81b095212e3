"""Presets by name: the TOML files of `experiments/<folder>/`, which are installed with the package."""

from __future__ import annotations

from collections import Counter
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from llc_dynamics.errors import ConfigError, TrajectoryError
from llc_dynamics.settings import nearest
from llc_dynamics.sweeps.config import SweepConfig, load_sweep
from llc_dynamics.sweeps.folders import SWEEP_FILE, stored_sweep
from llc_dynamics.systems.registry import system_class
from llc_dynamics.trajectory.names import is_run


def preset_names() -> list[str]:
    """Names that `load_preset` knows: the short one, "demo", where it is unique, else "<folder>/demo"."""
    count = Counter(name for _, name in _presets())
    return sorted(name if count[name] == 1 else f"{folder}/{name}" for folder, name in _presets())


def load_preset(name: str) -> SweepConfig:
    """A preset by its short name or by folder and name. Raises `ConfigError` for an unknown one."""
    presets = _presets()
    found = [file for (folder, short), file in presets.items() if name in (f"{folder}/{short}", short)]
    if len(found) != 1:
        long = [f"{folder}/{short}" for folder, short in presets if short == name]
        advice = f"it is one of {', '.join(long)}" if found else nearest(name, [*preset_names(), *long])
        raise ConfigError(f"preset '{name}' is {'not one' if found else 'unknown'}; {advice}")
    with resources.as_file(found[0]) as path:
        return load_sweep(path)


def resolve(config: Path, out: Path | None, seed: int | None, system: str | None = None) -> tuple[SweepConfig, Path]:
    """From what a user names to settings and the folder of the runs.

    config : a preset file or name, which needs `out`; or a sweep folder, or a run folder inside one, to go on with.
    system : "my_file.py:MySystem", needed to go on with a sweep of a system that is not part of this package.
    """
    chosen = None if system is None else system_class(system)
    known = not config.suffix and config.as_posix() in {*preset_names(), *map("/".join, _presets())}
    if config.is_dir() and not (known and out is not None):
        if out is not None or seed is not None:
            raise ConfigError(f"{config}: a folder goes on with its own settings; leave out --out and --seed")
        if not is_run(config) or (config / SWEEP_FILE).exists():
            if not (config / SWEEP_FILE).is_file():
                raise TrajectoryError(f"{config}: neither a run nor a sweep folder (no manifest.json, no {SWEEP_FILE})")
            return stored_sweep(config, chosen), config
        sweep = stored_sweep(config, chosen)
        if config.name not in sweep.run_configs():
            raise TrajectoryError(
                f"{config}: not a run of the sweep in {config.parent}; it was recorded by another training loop, "
                "which has to go on with it itself (ld.TrajectoryWriter(..., resume=True))"
            )
        return sweep, config.parent
    if not known and not config.exists() and config.suffix != ".toml":
        raise ConfigError(f"{config}: neither a folder nor a preset; {nearest(str(config), preset_names())}")
    if known and chosen is not None:
        raise ConfigError(f"--system: the preset {config} has a system; leave one of them out")
    sweep = load_preset(config.as_posix()) if known else load_sweep(config, chosen)
    if out is None:
        raise ConfigError(f"{config}: give the folder for the runs, for example --out runs/{sweep.name}")
    return (sweep if seed is None else sweep.with_seed(seed)), out


def _presets() -> dict[tuple[str, str], Traversable]:
    """By folder and name."""
    checkout = Path(__file__).resolve().parents[2] / "experiments"
    root = checkout if checkout.is_dir() else resources.files("llc_dynamics.presets")
    return {
        (folder.name, file.name.removesuffix(".toml")): file
        for folder in root.iterdir()
        if folder.is_dir()
        for file in folder.iterdir()
        if file.name.endswith(".toml")
    }
