"""Presets, sweeps of runs, and the worker pool that computes them."""

from llc_dynamics.sweeps.calibration import calibrate_runs, llc_config, to_calibrate
from llc_dynamics.sweeps.config import LLCConfig, SweepConfig, load_sweep
from llc_dynamics.sweeps.folders import find_runs, stored_sweep
from llc_dynamics.sweeps.presets import load_preset, preset_names, resolve
from llc_dynamics.sweeps.runner import estimate_curves, run_sweep

__all__ = [
    "LLCConfig",
    "SweepConfig",
    "calibrate_runs",
    "estimate_curves",
    "find_runs",
    "llc_config",
    "load_preset",
    "load_sweep",
    "preset_names",
    "resolve",
    "run_sweep",
    "stored_sweep",
    "to_calibrate",
]
