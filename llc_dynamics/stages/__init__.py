"""Stage detection: verdicts with error bars, read from curves over training (never from models)."""

from llc_dynamics.stages.specialisation import SpecialisationVerdict, detect_specialisation
from llc_dynamics.stages.transience import TransienceVerdict, detect_transience

__all__ = ["SpecialisationVerdict", "TransienceVerdict", "detect_specialisation", "detect_transience"]
