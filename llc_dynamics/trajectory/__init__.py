"""Trajectories: checkpoints of a run, stored so that a crash loses at most the unsealed rows and damage is never read.

A run is a folder::

    manifest.json            layout of the weights, configuration, provenance (`manifest.py`)
    shards/shard-000000.h5   checkpoints as rows, sealed in groups (`pending.py`, `shards.py`)
    arrays/<name>.h5         fixed arrays of the run, such as its evaluation batches (`arrays.py`)
    resume.h5                what the writer's loop needs to go on (`resume.py`)
    complete.json            the mark of a finished run (`manifest.py`)
    run.lock                 held by the one writer (`files.py`)
    llc/ ...                 results that other parts of the package store beside the run

All `.h5` files are sealed: HDF5 behind a header that is the index (`sealed.py` reads, `sealing.py` writes). Everything
is written under a temporary name, flushed to the disk and renamed; nothing is a pickle.
"""

from llc_dynamics.trajectory.formats import WeightStorage as WeightStorage
from llc_dynamics.trajectory.lazy import LazyRows as LazyRows
from llc_dynamics.trajectory.reader import Trajectory as Trajectory
from llc_dynamics.trajectory.schedule import checkpoint_schedule as checkpoint_schedule
from llc_dynamics.trajectory.verify import VerifyReport as VerifyReport
from llc_dynamics.trajectory.verify import verify_run as verify_run
from llc_dynamics.trajectory.writer import TrajectoryWriter as TrajectoryWriter

__all__ = [
    "LazyRows",
    "Trajectory",
    "TrajectoryWriter",
    "VerifyReport",
    "WeightStorage",
    "checkpoint_schedule",
    "verify_run",
]
