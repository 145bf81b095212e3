"""The local learning coefficient: one estimate, its diagnostics, the curve over a run, calibration and spectra."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llc_dynamics.lazy import lazy_names

if TYPE_CHECKING:
    from llc_dynamics.llc.calibration import Calibration as Calibration
    from llc_dynamics.llc.calibration import Trial as Trial
    from llc_dynamics.llc.curve import LLCCurve as LLCCurve
    from llc_dynamics.llc.curve import llc_curve as llc_curve
    from llc_dynamics.llc.estimate import estimate_llc as estimate_llc
    from llc_dynamics.llc.point import llc_point as llc_point
    from llc_dynamics.llc.problem import Problem as Problem
    from llc_dynamics.llc.result import LLCResult as LLCResult
    from llc_dynamics.llc.settings import EstimateSettings as EstimateSettings
    from llc_dynamics.llc.settings import read_settings as read_settings
    from llc_dynamics.llc.settings import write_settings as write_settings
    from llc_dynamics.llc.spectrum import LLCSpectrum as LLCSpectrum
    from llc_dynamics.llc.spectrum import llc_spectrum as llc_spectrum
    from llc_dynamics.llc.thresholds import Thresholds as Thresholds
    from llc_dynamics.llc.trials import calibrate as calibrate
    from llc_dynamics.llc.verdict import judge as judge
    from llc_dynamics.llc.verdict import judged as judged

_HOME = {
    "Calibration": "llc_dynamics.llc.calibration",
    "EstimateSettings": "llc_dynamics.llc.settings",
    "LLCCurve": "llc_dynamics.llc.curve",
    "LLCResult": "llc_dynamics.llc.result",
    "LLCSpectrum": "llc_dynamics.llc.spectrum",
    "Problem": "llc_dynamics.llc.problem",
    "Thresholds": "llc_dynamics.llc.thresholds",
    "Trial": "llc_dynamics.llc.calibration",
    "calibrate": "llc_dynamics.llc.trials",
    "estimate_llc": "llc_dynamics.llc.estimate",
    "judge": "llc_dynamics.llc.verdict",
    "judged": "llc_dynamics.llc.verdict",
    "llc_curve": "llc_dynamics.llc.curve",
    "llc_point": "llc_dynamics.llc.point",
    "llc_spectrum": "llc_dynamics.llc.spectrum",
    "read_settings": "llc_dynamics.llc.settings",
    "write_settings": "llc_dynamics.llc.settings",
}
__all__ = [*_HOME]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
