"""The local learning coefficient: one estimate, its diagnostics, and the curve over a run."""

from llc_dynamics.llc.curve import LLCCurve, llc_curve
from llc_dynamics.llc.estimate import estimate_llc
from llc_dynamics.llc.point import llc_point
from llc_dynamics.llc.result import LLCResult
from llc_dynamics.llc.settings import EstimateSettings
from llc_dynamics.llc.thresholds import Thresholds

__all__ = ["EstimateSettings", "LLCCurve", "LLCResult", "Thresholds", "estimate_llc", "llc_curve", "llc_point"]
