"""The local learning coefficient: one estimate, its diagnostics, and the curve over a run."""

from llc_dynamics.llc.estimate import estimate_llc
from llc_dynamics.llc.result import LLCResult
from llc_dynamics.llc.thresholds import Thresholds

__all__ = ["LLCResult", "Thresholds", "estimate_llc"]
