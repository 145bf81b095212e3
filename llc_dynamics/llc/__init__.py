"""The local learning coefficient: one estimate, its diagnostics, the curve over a run, calibration and spectra."""

from llc_dynamics.llc.calibrate import calibrate
from llc_dynamics.llc.calibration import Calibration, Trial
from llc_dynamics.llc.curve import LLCCurve, llc_curve
from llc_dynamics.llc.estimate import estimate_llc
from llc_dynamics.llc.point import llc_point
from llc_dynamics.llc.problem import Problem
from llc_dynamics.llc.result import LLCResult
from llc_dynamics.llc.settings import EstimateSettings, read_settings, write_settings
from llc_dynamics.llc.spectrum import LLCSpectrum, llc_spectrum
from llc_dynamics.llc.thresholds import Thresholds
from llc_dynamics.llc.verdict import judge, judged

__all__ = [
    "Calibration",
    "EstimateSettings",
    "LLCCurve",
    "LLCResult",
    "LLCSpectrum",
    "Problem",
    "Thresholds",
    "Trial",
    "calibrate",
    "estimate_llc",
    "judge",
    "judged",
    "llc_curve",
    "llc_point",
    "llc_spectrum",
    "read_settings",
    "write_settings",
]
