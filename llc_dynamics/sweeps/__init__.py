"""Presets, sweeps of runs, and the worker pool that computes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llc_dynamics.lazy import lazy_names

if TYPE_CHECKING:
    from llc_dynamics.sweeps.calibration import calibrate_runs as calibrate_runs
    from llc_dynamics.sweeps.calibration import llc_config as llc_config
    from llc_dynamics.sweeps.calibration import to_calibrate as to_calibrate
    from llc_dynamics.sweeps.config import LLCConfig as LLCConfig
    from llc_dynamics.sweeps.config import SweepConfig as SweepConfig
    from llc_dynamics.sweeps.config import load_sweep as load_sweep
    from llc_dynamics.sweeps.folders import find_runs as find_runs
    from llc_dynamics.sweeps.presets import load_preset as load_preset
    from llc_dynamics.sweeps.presets import preset_names as preset_names
    from llc_dynamics.sweeps.presets import resolve as resolve
    from llc_dynamics.sweeps.runner import estimate_curves as estimate_curves
    from llc_dynamics.sweeps.runner import run_sweep as run_sweep
    from llc_dynamics.sweeps.stored import stored_sweep as stored_sweep

_HOME = {
    "LLCConfig": "llc_dynamics.sweeps.config",
    "SweepConfig": "llc_dynamics.sweeps.config",
    "calibrate_runs": "llc_dynamics.sweeps.calibration",
    "estimate_curves": "llc_dynamics.sweeps.runner",
    "find_runs": "llc_dynamics.sweeps.folders",
    "llc_config": "llc_dynamics.sweeps.calibration",
    "load_preset": "llc_dynamics.sweeps.presets",
    "load_sweep": "llc_dynamics.sweeps.config",
    "preset_names": "llc_dynamics.sweeps.presets",
    "resolve": "llc_dynamics.sweeps.presets",
    "run_sweep": "llc_dynamics.sweeps.runner",
    "stored_sweep": "llc_dynamics.sweeps.stored",
    "to_calibrate": "llc_dynamics.sweeps.calibration",
}
__all__ = [*_HOME]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
