"""Runs that travel: into one file and back, out of other people's checkpoints, between machines.

`export.py` and `restore.py` move a whole run into one HDF5 file (`archive.py`) and back; `view.py` shows all shards as
one file; `checkpoints.py` finds checkpoints of other programs, `state_files.py` reads them without running code, and
`adoption.py` records them as a run; `single.py` writes one checkpoint; `merge.py` brings the runs of several machines
together.
"""

from llc_dynamics.runs.adoption import import_checkpoints as import_checkpoints
from llc_dynamics.runs.checkpoints import find_checkpoints as find_checkpoints
from llc_dynamics.runs.export import export_run as export_run
from llc_dynamics.runs.merge import MergeReport as MergeReport
from llc_dynamics.runs.merge import merge_runs as merge_runs
from llc_dynamics.runs.restore import import_run as import_run
from llc_dynamics.runs.restore import verify_archive as verify_archive
from llc_dynamics.runs.single import export_checkpoint as export_checkpoint
from llc_dynamics.runs.view import write_view as write_view

__all__ = [
    "MergeReport",
    "export_checkpoint",
    "export_run",
    "find_checkpoints",
    "import_checkpoints",
    "import_run",
    "merge_runs",
    "verify_archive",
    "write_view",
]
