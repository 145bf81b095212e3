"""One checkpoint of a run as a safetensors file, which nearly every framework reads."""

from __future__ import annotations

from pathlib import Path

from llc_dynamics.errors import DataError, TrajectoryError
from llc_dynamics.runs.archive import require_absent
from llc_dynamics.trajectory import Trajectory
from llc_dynamics.trajectory.atomic import storage_errors, write_whole


def export_checkpoint(run: str | Path | Trajectory, step: int, out: str | Path) -> Path:
    """Write the weights and buffers after `step` optimiser updates to a safetensors file.

    Every tensor keeps its name, shape, number format and bits (bfloat16 and float8 too); a tied tensor stands there
    under each of its names, so that `model.load_state_dict(load_file(out))` needs nothing else. The file's metadata
    names run and step.

    Returns
    -------
    `out`.

    Raises
    ------
    StepNotStoredError
        Naming the nearest stored steps.
    DataError
        A number format that safetensors does not know; the tensor is named.
    TrajectoryError
        `out` has another ending or exists already, or cannot be written (nothing is left behind).
    CorruptRunError
        The checkpoint does not match its checksum.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save

    out = Path(out)
    if out.suffix != ".safetensors":
        raise TrajectoryError(f"{out}: one checkpoint is written as safetensors; give a name that ends in .safetensors")
    require_absent(out)
    run = run if isinstance(run, Trajectory) else Trajectory(run)
    tensors = run.state_dict(step)
    metadata = {"format": "pt", "step": str(int(step)), "llc_dynamics_run_id": run.manifest.run_id}
    with storage_errors(out, "make the folder"):
        out.parent.mkdir(parents=True, exist_ok=True)
    try:
        content = save(tensors, metadata)
    except (KeyError, ValueError, SafetensorError) as error:
        formats = ", ".join(sorted({entry.dtype for entry in run.manifest.state.entries}))
        raise DataError(f"{run.path}: step {step} holds {formats}; safetensors cannot store it ({error})") from None
    require_absent(out)
    write_whole(out, content)
    return out
