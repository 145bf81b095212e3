"""Presets by name: the TOML files of `experiments/<folder>/`, which are installed with the package."""

from __future__ import annotations

from collections import Counter
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING

from llc_dynamics.errors import ConfigError, TrajectoryError
from llc_dynamics.settings import load_toml, nearest
from llc_dynamics.sweeps.folders import SWEEP_FILE
from llc_dynamics.trajectory.names import is_run

if TYPE_CHECKING:
    from llc_dynamics.sweeps.config import SweepConfig


def preset_names() -> list[str]:
    """Names that `load_preset` knows: the short one, "demo", where it is unique, else "<folder>/demo"."""
    count = Counter(name for _, name in _presets())
    return sorted(name if count[name] == 1 else f"{folder}/{name}" for folder, name in _presets())


def load_preset(name: str) -> SweepConfig:
    """A preset by its short name or by folder and name. Raises `ConfigError` for an unknown one."""
    file = _preset_file(name)
    from llc_dynamics.sweeps.config import load_sweep

    with resources.as_file(file) as path:
        return load_sweep(path)


def resolve(config: Path, out: Path | None, seed: int | None, system: str | None = None) -> tuple[SweepConfig, Path]:
    """From what a user names to settings and the folder of the runs.

    config : a preset file or name, which needs `out`; or a sweep folder, or a run folder inside one, to go on with.
    system : "my_file.py:MySystem", needed to go on with a sweep of a system that is not part of this package.
    """
    known = not config.suffix and config.as_posix() in {*preset_names(), *map("/".join, _presets())}
    goes_on = config.is_dir() and not (known and out is not None)
    if goes_on:
        if out is not None or seed is not None:
            raise ConfigError(f"{config}: a folder goes on with its own settings; leave out --out and --seed")
        if not is_run(config) and not (config / SWEEP_FILE).is_file():
            raise TrajectoryError(f"{config}: neither a run nor a sweep folder (no manifest.json, no {SWEEP_FILE})")
    else:
        if not known and not config.exists() and config.suffix != ".toml":
            _preset_file(config.as_posix())
        if not known:
            load_toml(config)
        if out is None:
            raise ConfigError(f"{config}: give the folder for the runs, for example --out runs/{config.stem}")
        if known and system is not None:
            raise ConfigError(f"--system: the preset {config} has a system; leave one of them out")
    # All that can be said without torch is said; a system's settings are those of its class, which brings it in.
    from llc_dynamics.sweeps.config import load_sweep
    from llc_dynamics.sweeps.stored import stored_sweep
    from llc_dynamics.systems.registry import system_class

    chosen = None if system is None else system_class(system)
    if goes_on:
        sweep = stored_sweep(config, chosen)
        if (config / SWEEP_FILE).exists():
            return sweep, config
        if config.name not in sweep.run_configs():
            raise TrajectoryError(
                f"{config}: not a run of the sweep in {config.parent}; it was recorded by another training loop, "
                "which has to go on with it itself (ld.TrajectoryWriter(..., resume=True))"
            )
        return sweep, config.parent
    assert out is not None
    sweep = load_preset(config.as_posix()) if known else load_sweep(config, chosen)
    return (sweep if seed is None else sweep.with_seed(seed)), out


def _preset_file(name: str) -> Traversable:
    presets = _presets()
    found = {f"{folder}/{short}": file for (folder, short), file in presets.items()}
    named = [long for long in found if name in (long, long.rpartition("/")[2])]
    if len(named) > 1:
        raise ConfigError(f"{name}: several systems have a preset of this name; give {' or '.join(named)}")
    if not named:
        raise ConfigError(f"{name}: neither a folder nor a preset; {nearest(name, [*preset_names(), *found])}")
    return found[named[0]]


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
