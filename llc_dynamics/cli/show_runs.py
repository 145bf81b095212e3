"""What the verbs that keep, check and move runs print. Nothing here imports torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from llc_dynamics.errors import ConfigError
from llc_dynamics.finding import Finding
from llc_dynamics.llc.storage import curve_folder, damaged_points, stored_points
from llc_dynamics.progress import progress_bars
from llc_dynamics.runs import verify_archive, write_view
from llc_dynamics.runs.info import RunInfo, run_info
from llc_dynamics.sweeps.folders import SWEEP_FILE, read_sweep_file, run_folders
from llc_dynamics.trajectory import Trajectory, WeightStorage, verify_run
from llc_dynamics.trajectory.files import is_temporary
from llc_dynamics.trajectory.names import curve_folders


@contextmanager
def progress_of(title: str, limit: float | None = None) -> Iterator[Callable[[int, int], None]]:
    """A bar or lines; yields `progress(done, total)`. `limit` as in `Bars.add_task`."""
    with progress_bars() as bars:
        bar = bars.add_task(title, total=None, limit=limit)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def show_view(run: Path) -> None:
    """Make the view and say what it can be read with."""
    path = write_view(run)
    print(f"view: {path}, {len(Trajectory(run))} checkpoints; made again, it shows the shards that came since")
    shards = len(list((path.parent / "shards").glob("shard-*.h5")))
    if (limit := open_files_limit()) is not None and shards > limit - 50:
        print(
            f"note: HDF5 keeps every shard open that it reads through the view, and {limit} files may be open here, "
            f"{shards} shards are there: what lies beyond reads as -1 or NaN. Raise the limit (ulimit -n), or use "
            "`llc-dynamics export`"
        )


def open_files_limit() -> int | None:
    """How many files a process may have open, None where that is not known."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def show_verification(folder: Path, as_json: bool = False) -> int:
    """Every run's report, or that of an exported file; 1 if anything is wrong with any of them, else 0."""
    if folder.is_file():
        _verify_archive(folder)
        return 0
    problems, rows = 0, []
    for path in run_folders(folder):
        with progress_of(f"verify {path.name}") as progress:
            report = verify_run(path, progress)
        curves = [_verified_curve(path, curve) for curve in curve_folders(path)]
        problems += len(report.problems) + sum(len(curve["problems"]) for curve in curves)
        if as_json:
            rows.append(
                {
                    "path": str(path),
                    "checkpoints": report.rows,
                    "complete": report.complete,
                    "problems": [problem.to_dict() for problem in report.problems],
                    "llc": [{**each, "problems": [found.to_dict() for found in each["problems"]]} for each in curves],
                }
            )
            continue
        print(report)
        for curve in curves:
            print(f"  LLC '{curve['name']}': {curve['sound']} of {curve['points']} points in order")
            for found in curve["problems"]:
                print(f"  {found}")
    if as_json:
        print(json.dumps(rows, indent=1))
    if (folder / SWEEP_FILE).exists():
        read_sweep_file(folder)
    return 1 if problems else 0


def _verified_curve(run: Path, curve: Path) -> dict[str, Any]:
    """Points of a stored LLC curve, how many are sound, and what is wrong or does not belong there."""
    try:
        points = stored_points(curve_folder(run, curve.name))
    except ConfigError as error:
        problem = Finding("foreign", f"{curve}: not a folder of an LLC curve ({error}); move it elsewhere")
        return {"name": curve.name, "points": 0, "sound": 0, "problems": [problem]}
    damaged = [Finding("damaged", message) for message in damaged_points(points.values())]
    known = {*points.values(), *(entry for entry in curve.iterdir() if is_temporary(entry.name))}
    foreign = [
        Finding("foreign", f"{entry}: not a point of an LLC curve; move it elsewhere")
        for entry in sorted({*curve.iterdir()} - known)
    ]
    sound = len(points) - len(damaged)
    return {"name": curve.name, "points": len(points), "sound": sound, "problems": [*damaged, *foreign]}


def _verify_archive(file: Path) -> None:
    """Check an exported file; raises what is wrong with it."""
    with progress_of(f"verify {file.name}") as progress:
        rows = verify_archive(file, progress)
    print(f"{file}: an exported run, {rows} checkpoints are sound ({file.stat().st_size / 1e6:.1f} MB)")


def show_info(folder: Path, as_json: bool) -> None:
    """One block a run, or a JSON list."""
    found = [run_info(path) for path in run_folders(folder)]
    if as_json:
        print(json.dumps([each.to_json() for each in found], indent=1))
        return
    for each in found:
        print("\n".join(_lines(each)))


def _lines(run: RunInfo) -> Iterator[str]:
    state = "complete" if run.complete else "not finished"
    yield f"{run.path}: {state}{f', being written ({run.writer})' if run.writer else ''}"
    yield f"  run id       {run.run_id}, begun {run.created}"
    if run.steps:
        yield f"  checkpoints  {len(run.steps):,} in {run.shards:,} shards, steps {_steps(run.steps)}"
        if len(run.weight_steps) < len(run.steps):
            yield f"  with weights {len(run.weight_steps):,} of them: {_steps(run.weight_steps) or 'none'}"
    else:
        yield "  checkpoints  none sealed yet"
    if run.storage != WeightStorage().to_json():
        yield f"  kept as      {_short(run.storage)}"
    for dtype, counts in run.tensors.items():
        yield (
            f"  {dtype:<12} {counts['tensors']} tensors, {counts['elements']:,} numbers, {counts['parameters']:,} of "
            "them parameters"
        )
    yield f"  metrics      {', '.join(run.metrics) or 'none'}"
    for name, shape in run.shapes.items():
        yield f"  {'outputs' if name == 'outputs' else f'samples of {name}'}: float32 {shape} a checkpoint"
    yield f"  arrays       {', '.join(run.arrays) or 'none'}"
    yield f"  a checkpoint {', '.join(f'{kind} {_bytes(size)}' for kind, size in run.row_bytes.items() if size)}"
    yield f"  on disk      {', '.join(f'{kind} {_bytes(size)}' for kind, size in run.disk_bytes.items())}"
    for curve, steps in run.curves.items():
        missing = sorted({*steps} - {*run.steps})
        without = f", {len(missing)} of checkpoints that are not stored any more" if missing else ""
        yield f"  LLC '{curve}'    {len(steps)} points{f', steps {_steps(steps)}' if steps else ''}{without}"
    yield f"  settings     {_short(run.config)}"
    yield f"  provenance   {_short(run.provenance)}"
    for problem in run.problems:
        yield f"  problem: {problem}"


def _steps(steps: list[int]) -> str:
    if len(steps) < 3:
        return " and ".join(f"{step:,}" for step in steps)
    gaps = np.diff(steps)
    even = f", every {gaps[0]:,}" if np.all(gaps == gaps[0]) else f", {gaps.min():,} to {gaps.max():,} apart"
    return f"{steps[0]:,} to {steps[-1]:,}{even}"


def _bytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _short(value: object) -> str:
    return json.dumps(value, separators=(", ", ": ")) if value else "none stored"
