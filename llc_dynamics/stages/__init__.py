"""Stage detection: verdicts with error bars, read from curves over training (never from models)."""

from llc_dynamics.stages.agreement import Agreement, SeedAgreement, agreement, seed_agreement, transience_agreement
from llc_dynamics.stages.change_points import ChangePoints, change_points
from llc_dynamics.stages.developmental import Boundary, Stage, StageReport, detect_stages
from llc_dynamics.stages.geometry import TrajectoryGeometry, TurningPoint, trajectory_geometry
from llc_dynamics.stages.null_curves import NullRate, null_curve, null_rates
from llc_dynamics.stages.specialisation import detect_specialisation
from llc_dynamics.stages.transience import detect_transience
from llc_dynamics.stages.verdicts import SpecialisationVerdict, TransienceVerdict

__all__ = [
    "Agreement",
    "Boundary",
    "ChangePoints",
    "NullRate",
    "SeedAgreement",
    "SpecialisationVerdict",
    "Stage",
    "StageReport",
    "TrajectoryGeometry",
    "TransienceVerdict",
    "TurningPoint",
    "agreement",
    "change_points",
    "detect_specialisation",
    "detect_stages",
    "detect_transience",
    "null_curve",
    "null_rates",
    "seed_agreement",
    "trajectory_geometry",
    "transience_agreement",
]
