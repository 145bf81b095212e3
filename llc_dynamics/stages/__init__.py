"""Stage detection: verdicts with error bars, read from curves over training (never from models)."""

from llc_dynamics.stages.specialisation import detect_specialisation
from llc_dynamics.stages.transience import detect_transience
from llc_dynamics.stages.verdicts import SpecialisationVerdict, TransienceVerdict

__all__ = ["SpecialisationVerdict", "TransienceVerdict", "detect_specialisation", "detect_transience"]
