"""Recording a trajectory from other people's training loops.

    recorder.py         `Recorder`: a checkpoint schedule around `TrajectoryWriter`, for a plain PyTorch loop
    lightning.py        `LightningCallback`, for PyTorch Lightning
    huggingface.py      `HuggingFaceCallback`, for the Hugging Face `Trainer`
    trainer.py          what the two callbacks share: rows that wait for the metrics that belong to them
    trackers.py         metrics and curves for TensorBoard, Weights & Biases and CSV
    processes.py        trainings on several processes
    probes.py           losses and distances on fixed evaluation sets, as the runs of a system have them

Names are loaded when they are first used: the callbacks need packages that this one does not depend on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llc_dynamics.lazy import lazy_names

_HOME = {
    "CSVTracker": "llc_dynamics.adapters.trackers",
    "HuggingFaceCallback": "llc_dynamics.adapters.huggingface",
    "LightningCallback": "llc_dynamics.adapters.lightning",
    "Recorder": "llc_dynamics.adapters.recorder",
    "TensorBoardTracker": "llc_dynamics.adapters.trackers",
    "Tracker": "llc_dynamics.adapters.trackers",
    "WandbTracker": "llc_dynamics.adapters.trackers",
    "log_curve": "llc_dynamics.adapters.trackers",
    "log_run": "llc_dynamics.adapters.trackers",
}
__all__ = [*_HOME]

if TYPE_CHECKING:
    from llc_dynamics.adapters.huggingface import HuggingFaceCallback as HuggingFaceCallback
    from llc_dynamics.adapters.lightning import LightningCallback as LightningCallback
    from llc_dynamics.adapters.recorder import Recorder as Recorder
    from llc_dynamics.adapters.trackers import CSVTracker as CSVTracker
    from llc_dynamics.adapters.trackers import TensorBoardTracker as TensorBoardTracker
    from llc_dynamics.adapters.trackers import Tracker as Tracker
    from llc_dynamics.adapters.trackers import WandbTracker as WandbTracker
    from llc_dynamics.adapters.trackers import log_curve as log_curve
    from llc_dynamics.adapters.trackers import log_run as log_run

__getattr__, __dir__ = lazy_names(__name__, _HOME)
