"""Recording a trajectory from other people's training loops.

    recorder.py         `Recorder`: a checkpoint schedule around `TrajectoryWriter`, for a plain PyTorch loop
    lightning.py        `LightningCallback`, for PyTorch Lightning
    huggingface.py      `HuggingFaceCallback`, for the Hugging Face `Trainer`
    trainer.py          what the two callbacks share: rows that wait for the metrics that belong to them
    probes.py           losses and distances on fixed evaluation sets, as the runs of a system have them

Names are loaded when they are first used: the callbacks need packages that this one does not depend on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llc_dynamics.lazy import lazy_names

_HOME = {
    "HuggingFaceCallback": "llc_dynamics.adapters.huggingface",
    "LightningCallback": "llc_dynamics.adapters.lightning",
    "Recorder": "llc_dynamics.adapters.recorder",
}

__all__ = ["HuggingFaceCallback", "LightningCallback", "Recorder"]

if TYPE_CHECKING:
    from llc_dynamics.adapters.huggingface import HuggingFaceCallback as HuggingFaceCallback
    from llc_dynamics.adapters.lightning import LightningCallback as LightningCallback
    from llc_dynamics.adapters.recorder import Recorder as Recorder

__getattr__ = lazy_names(__name__, _HOME)
