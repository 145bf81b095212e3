"""The verbs that keep and move runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

Run = Annotated[Positional[Path], arg(help="A run folder.", metavar="RUN")]


def export(
    run: Run,
    out: Annotated[Path, arg(help="The file to make: FILE.h5, or FILE.safetensors with --step.", metavar="FILE")],
    step: Annotated[int | None, arg(help="Write the weights after this step alone, as safetensors.")] = None,
) -> None:
    """Write a whole run into one HDF5 file, or one checkpoint into a safetensors file; nothing is overwritten.

    The HDF5 file holds rows, fixed arrays, configuration, provenance, resume state and LLC curves; `import` makes the
    run of it again, and any HDF5 tool can read it. It appears whole or not at all.

    Example: `llc-dynamics export runs/small/M-8 --out M-8.h5`
    """
    from llc_dynamics.cli.show_runs import progress_of
    from llc_dynamics.errors import ConfigError
    from llc_dynamics.runs import export_checkpoint, export_run

    if step is not None:
        print(f"step {step}: {export_checkpoint(run, step, out)}")
        return
    if out.suffix == ".safetensors":
        raise ConfigError("export: a safetensors file holds one checkpoint; say which with --step")
    with progress_of(f"export {run.name}") as progress:
        export_run(run, out, progress=progress)
    print(f"exported: {out}")


def import_(
    source: Annotated[
        Positional[Path],
        arg(help="A file of `export`, or a folder of checkpoints that another program wrote.", metavar="SOURCE"),
    ],
    out: Annotated[Path, arg(help="The run folder to make.", metavar="RUN")],
    pattern: Annotated[
        str | None,
        arg(help="Which checkpoints, and where the step stands: 'model_{step}.pt', 'step{step}/model.safetensors'."),
    ] = None,
    key: Annotated[
        str | None, arg(help="Where the state dict is in .pt files that hold more: 'model', 'a/b'.", metavar="KEY")
    ] = None,
    strip_prefix: Annotated[
        str, arg(help="Remove this from the beginning of all tensor names: 'model.'.", metavar="PREFIX")
    ] = "",
) -> None:
    """Make a run of a file of `export`, bit for bit, or of a folder of PyTorch or safetensors checkpoints.

    A folder may hold one file a step (step_1000.pt, model-1000.safetensors) or one subfolder a step
    (step1000/model.safetensors, checkpoint-500/pytorch_model.bin, or an index of several files). Opening the files runs
    no code. An import that was stopped goes on.

    Example: `llc-dynamics import checkpoints --out runs/mine --pattern 'model_{step}.pt'`
    """
    from llc_dynamics.cli.show_runs import progress_of
    from llc_dynamics.errors import ConfigError
    from llc_dynamics.runs import import_checkpoints, import_run

    if source.is_dir():
        with progress_of(f"import {source.name}") as progress, warnings.catch_warnings(record=True) as said:
            run = import_checkpoints(
                source, out, pattern=pattern, key=key, strip_prefix=strip_prefix, progress=progress
            )
        for each in said:
            print(each.message)
        print(f"imported: {out}, {len(run)} checkpoints, steps {run.steps[0]} to {run.steps[-1]}")
        print("The model is known to you alone: estimate in Python, ld.llc_curve(run, model, loss_fn, data).")
        return
    if pattern is not None or key is not None or strip_prefix:
        raise ConfigError("import: --pattern, --key and --strip-prefix are for a folder of checkpoints")
    with progress_of(f"import {source.name}") as progress:
        run = import_run(source, out, progress=progress)
    print(f"imported: {out}, {len(run)} checkpoints")


def view(run: Run) -> None:
    """Write view.h5 into a run: all shards as one HDF5 file, without a copy, for h5py and other HDF5 tools.

    Example: `llc-dynamics view runs/small/M-8`
    """
    from llc_dynamics.cli.show_runs import show_view

    show_view(run)


def info(
    folder: Annotated[Positional[Path], arg(help="A run folder, or a folder of runs.", metavar="FOLDER")],
    json: Annotated[bool, arg(help="Print all of it as JSON.")] = False,
) -> None:
    """What is in a run: steps, number formats, metrics, sizes, settings, provenance, curves; whether it is finished.

    Example: `llc-dynamics info runs/small`
    """
    from llc_dynamics.cli.show_runs import show_info

    show_info(folder, json)


def thin(
    run: Run,
    out: Annotated[Path | None, arg(help="The folder for the thinned run.", metavar="FOLDER")] = None,
    every: Annotated[int | None, arg(help="Keep every n-th checkpoint.", metavar="N")] = None,
    num_log: Annotated[
        int | None, arg(help="Keep the checkpoints nearest to N steps spaced evenly in log(step).", metavar="N")
    ] = None,
    weights_only: Annotated[bool, arg(help="Leave out weights alone; metrics and outputs of all steps stay.")] = False,
    in_place: Annotated[bool, arg(help="Put the thinned run in the place of the old one.")] = False,
) -> None:
    """Keep some of a run's checkpoints, with the first and the last one; with both rules, the union.

    In place, the old run is removed only after the thinned one is sealed whole and has taken its name; until then both
    take room on the disk. LLC points of checkpoints that are left out are kept.

    Example: `llc-dynamics thin runs/small/M-8 --out thinned --num-log 50`
    """
    from llc_dynamics.cli.show_runs import progress_of
    from llc_dynamics.runs import thin_run

    with progress_of(f"thin {run.name}") as progress:
        report = thin_run(
            run, out, every=every, num_log=num_log, weights_only=weights_only, in_place=in_place, progress=progress
        )
    print(report)


def merge(
    sources: Annotated[Positional[tuple[Path, ...]], arg(help="Runs, or folders of runs.", metavar="FOLDER ...")],
    out: Annotated[Path, arg(help="The folder for all of them; it may hold runs already.", metavar="FOLDER")],
) -> None:
    """Bring the runs of several machines together in one folder; the sources are never changed.

    The same run in several places is taken once, a longer continuation replaces a shorter one if their common rows are
    the same bit for bit, and everything that contradicts each other is listed before anything is written.

    Example: `llc-dynamics merge from-one from-two --out runs/all`
    """
    from llc_dynamics.cli.show_runs import progress_of
    from llc_dynamics.runs import merge_runs

    with progress_of("merge, runs") as progress:
        report = merge_runs(sources, out, progress=progress)
    print(report)


VERBS: dict[str, Callable[..., Any]] = {
    "info": info,
    "export": export,
    "import": import_,
    "view": view,
    "thin": thin,
    "merge": merge,
}
