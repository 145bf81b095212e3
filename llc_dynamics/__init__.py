"""llc_dynamics: how a neural network developed during training.

Names are loaded when they are first used, so that `import llc_dynamics` stays quick and brings in neither matplotlib
nor scikit-learn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llc_dynamics.lazy import lazy_names

__version__ = "0.1.0"

_HOME = {
    "Curve": "llc_dynamics.curve",
    "LLCDynamicsError": "llc_dynamics.errors",
    "Recorder": "llc_dynamics.adapters.recorder",
    "Trajectory": "llc_dynamics.trajectory",
    "TrajectoryWriter": "llc_dynamics.trajectory",
    "checkpoint_schedule": "llc_dynamics.trajectory",
    "export_checkpoint": "llc_dynamics.runs",
    "export_run": "llc_dynamics.runs",
    "import_checkpoints": "llc_dynamics.runs",
    "import_run": "llc_dynamics.runs",
    "merge_runs": "llc_dynamics.runs",
    "write_view": "llc_dynamics.runs",
    "run_info": "llc_dynamics.runs",
    "thin_run": "llc_dynamics.runs",
    "Axis": "llc_dynamics.systems.description",
    "Description": "llc_dynamics.systems.description",
    "Transition": "llc_dynamics.systems.description",
    "Probe": "llc_dynamics.systems.system",
    "System": "llc_dynamics.systems.system",
    "InContextRegression": "llc_dynamics.systems.in_context_regression.system",
    "InContextTransformer": "llc_dynamics.systems.in_context_regression.transformer",
    "SGLD": "llc_dynamics.sampling",
    "RMSpropSGLD": "llc_dynamics.sampling",
    "Underdamped": "llc_dynamics.sampling",
    "MALT": "llc_dynamics.sampling",
    "HMC": "llc_dynamics.sampling",
    "MALA": "llc_dynamics.sampling",
    "behavioural": "llc_dynamics.sampling",
    "estimate_llc": "llc_dynamics.llc",
    "llc_curve": "llc_dynamics.llc",
    "calibrate": "llc_dynamics.llc",
    "llc_spectrum": "llc_dynamics.llc",
    "EstimateSettings": "llc_dynamics.llc",
    "LLCResult": "llc_dynamics.llc",
    "Thresholds": "llc_dynamics.llc",
    "LLCCurve": "llc_dynamics.llc",
    "JointTrajectoryPCA": "llc_dynamics.pca",
    "detect_transience": "llc_dynamics.stages",
    "detect_specialisation": "llc_dynamics.stages",
    "detect_stages": "llc_dynamics.stages",
}
_SUBPACKAGES = (
    *("adapters", "heads", "llc", "pca", "plots", "report", "runs", "sampling", "stages", "sweeps"),
    *("systems", "theory", "training", "trajectory"),
)

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from llc_dynamics.adapters.recorder import Recorder as Recorder
    from llc_dynamics.curve import Curve as Curve
    from llc_dynamics.errors import LLCDynamicsError as LLCDynamicsError
    from llc_dynamics.llc import EstimateSettings as EstimateSettings
    from llc_dynamics.llc import LLCCurve as LLCCurve
    from llc_dynamics.llc import LLCResult as LLCResult
    from llc_dynamics.llc import Thresholds as Thresholds
    from llc_dynamics.llc import calibrate as calibrate
    from llc_dynamics.llc import estimate_llc as estimate_llc
    from llc_dynamics.llc import llc_curve as llc_curve
    from llc_dynamics.llc import llc_spectrum as llc_spectrum
    from llc_dynamics.pca import JointTrajectoryPCA as JointTrajectoryPCA
    from llc_dynamics.runs import export_checkpoint as export_checkpoint
    from llc_dynamics.runs import export_run as export_run
    from llc_dynamics.runs import import_checkpoints as import_checkpoints
    from llc_dynamics.runs import import_run as import_run
    from llc_dynamics.runs import merge_runs as merge_runs
    from llc_dynamics.runs import run_info as run_info
    from llc_dynamics.runs import thin_run as thin_run
    from llc_dynamics.runs import write_view as write_view
    from llc_dynamics.sampling import HMC as HMC
    from llc_dynamics.sampling import MALA as MALA
    from llc_dynamics.sampling import MALT as MALT
    from llc_dynamics.sampling import SGLD as SGLD
    from llc_dynamics.sampling import RMSpropSGLD as RMSpropSGLD
    from llc_dynamics.sampling import Underdamped as Underdamped
    from llc_dynamics.sampling import behavioural as behavioural
    from llc_dynamics.stages import detect_specialisation as detect_specialisation
    from llc_dynamics.stages import detect_stages as detect_stages
    from llc_dynamics.stages import detect_transience as detect_transience
    from llc_dynamics.systems.description import Axis as Axis
    from llc_dynamics.systems.description import Description as Description
    from llc_dynamics.systems.description import Transition as Transition
    from llc_dynamics.systems.in_context_regression.system import InContextRegression as InContextRegression
    from llc_dynamics.systems.in_context_regression.transformer import InContextTransformer as InContextTransformer
    from llc_dynamics.systems.system import Probe as Probe
    from llc_dynamics.systems.system import System as System
    from llc_dynamics.trajectory import Trajectory as Trajectory
    from llc_dynamics.trajectory import TrajectoryWriter as TrajectoryWriter
    from llc_dynamics.trajectory import checkpoint_schedule as checkpoint_schedule


__getattr__, __dir__ = lazy_names(__name__, _HOME, _SUBPACKAGES)
