"""Whole runs: into one file and back, out of other people's checkpoints, thinned, rewound, brought together.

`export.py` and `restore.py` move a run into one HDF5 file and back; `view.py` shows all shards as one file;
`checkpoint_files.py` finds checkpoints of other programs, `weight_files.py` reads them without running code, and
`checkpoint_import.py` records them as a run; `thin.py` keeps some of the checkpoints, `rewind.py` drops the last ones,
`merge.py` brings the runs of several machines together, `info.py` says what is in a run, and `staging.py` builds runs
that appear whole or not at all.
"""

from llc_dynamics.runs.checkpoint_files import find_checkpoints as find_checkpoints
from llc_dynamics.runs.checkpoint_import import import_checkpoints as import_checkpoints
from llc_dynamics.runs.export import export_checkpoint as export_checkpoint
from llc_dynamics.runs.export import export_run as export_run
from llc_dynamics.runs.info import RunInfo as RunInfo
from llc_dynamics.runs.info import run_info as run_info
from llc_dynamics.runs.merge import MergeReport as MergeReport
from llc_dynamics.runs.merge import merge_runs as merge_runs
from llc_dynamics.runs.restore import import_run as import_run
from llc_dynamics.runs.restore import verify_archive as verify_archive
from llc_dynamics.runs.rewind import rewind_run as rewind_run
from llc_dynamics.runs.thin import ThinReport as ThinReport
from llc_dynamics.runs.thin import thin_run as thin_run
from llc_dynamics.runs.view import write_view as write_view

__all__ = [
    "MergeReport",
    "RunInfo",
    "ThinReport",
    "export_checkpoint",
    "export_run",
    "find_checkpoints",
    "import_checkpoints",
    "import_run",
    "merge_runs",
    "rewind_run",
    "run_info",
    "thin_run",
    "verify_archive",
    "write_view",
]
