"""The verbs. Heavy imports stand inside them, so that `--help` answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

Folder = Annotated[Positional[Path], arg(help="A run folder, or a folder of runs.", metavar="FOLDER")]
Workers = Annotated[int | None, arg(help="Worker processes, one thread each; by default one for every core.")]
Executor = Annotated[
    str,
    arg(
        help="Where the work is done: local; dask (a cluster on this machine); tcp://HOST:PORT (a Dask scheduler); "
        "submitit (SLURM), or submitit:slurm_partition=NAME,timeout_min=600,...",
        metavar="local|dask|tcp://HOST:PORT|submitit",
    ),
]
ShardOf = Annotated[
    str, arg(help="Do the i-th of N shares of the work only, on a copy of FOLDER; then `merge`.", metavar="i/N")
]
System = Annotated[
    str | None,
    arg(
        help="Your own system, for a run that your own loop recorded or that was trained with this file.",
        metavar="FILE.py:CLASS",
    ),
]
Describing = Annotated[
    str | None,
    arg(help="Your own system, whose words describe runs that store no description.", metavar="FILE.py:CLASS"),
]
AsJson = Annotated[bool, arg(help="Print JSON.")]
LLCName = Annotated[str, arg(help="Name of the stored curve, `FOLDER/M-8/llc/NAME`.")]


def _require_runs(folder: Path) -> None:
    """Raise the error of a folder without runs before anything heavy is imported."""
    from llc_dynamics.trajectory.names import run_folders

    run_folders(folder)


def demo(
    out: Annotated[Path, arg(help="Folder for runs and report.")] = Path("runs/demo"),
    seed: Annotated[int, arg(help="Seed of everything.")] = 0,
    workers: Workers = None,
    executor: Executor = "local",
) -> None:
    """The worked example: train, LLC curves, joint PCA, detection, report. About five minutes on two cores.

    Example: `llc-dynamics demo --out runs/demo`
    """
    from llc_dynamics.cli.show import show_findings
    from llc_dynamics.executors import opened
    from llc_dynamics.report import write_report
    from llc_dynamics.sweeps import load_preset, run_sweep

    sweep = load_preset("transient_ridge/demo").with_seed(seed)
    with opened(executor, workers) as pool:
        run_sweep(sweep, out, workers=workers, executor=pool, estimate=True)
    page = write_report(out, out / "report.html")
    show_findings(out)
    print(f"\nreport: {page}")


def train(
    config: Annotated[
        Positional[Path],
        arg(help="A preset (small, sparse_heads/demo, ...) or a TOML file, or a run or sweep folder to go on with."),
    ],
    out: Annotated[Path | None, arg(help="Folder for the runs; needed with a preset.")] = None,
    system: System = None,
    seed: Annotated[int | None, arg(help="Another seed than the preset's.")] = None,
    workers: Workers = None,
    executor: Executor = "local",
    shard: ShardOf = "1/1",
    device: Annotated[str, arg(help="Where to train: cpu, cuda, cuda:1, ...")] = "cpu",
) -> None:
    """Train every run of a preset and store dense trajectories; go on where a stopped training was.

    Example: `llc-dynamics train small --out runs/small`
    """
    from llc_dynamics.sweeps import resolve

    sweep, folder = resolve(config, out, seed, system)
    from llc_dynamics.executors import opened
    from llc_dynamics.sweeps import run_sweep
    from llc_dynamics.workers import Shard

    own = Shard.parse(shard)
    with opened(executor, workers) as pool:
        run_sweep(sweep, folder, workers=workers, executor=pool, shard=own, estimate=False, device=device)
    print(f"trained: {folder}")


def calibrate(
    folder: Folder,
    system: System = None,
    gradients: Annotated[
        int,
        arg(
            help="Gradients that one chain of one estimate may take; more of them buy a finer resolution. "
            "The calibration takes at most five times as many for each checkpoint that it tries."
        ),
    ] = 4000,
    target_error: Annotated[float, arg(help="Wanted standard error of a point, as a share of the estimate.")] = 0.05,
    loss: Annotated[
        Literal["behavioural", "given"],
        arg(help="The model against its own outputs at the checkpoint, or the training loss."),
    ] = "behavioural",
    batch_size: Annotated[int | None, arg(help="First batch to try; by default that of the stored preset.")] = None,
    num_samples: Annotated[
        int | None, arg(help="n of nbeta = n / log n; by default that of the stored preset.", metavar="N")
    ] = None,
    out: Annotated[Path | None, arg(help="Where to write; by default FOLDER/calibration.")] = None,
    seed: Annotated[int, arg(help="Seed of the trials.")] = 0,
    max_seconds: Annotated[float, arg(help="No trial is begun that would end later than this.")] = 300.0,
    workers: Workers = None,
    executor: Executor = "local",
    device: Annotated[str, arg(help="Where to sample: cpu, cuda, ...")] = "cpu",
    json: AsJson = False,
) -> None:
    """Choose how to estimate the LLC, one setting for all runs of FOLDER, by trying out a few of their checkpoints.

    Writes settings.toml, which `llc-dynamics llc FOLDER --settings` takes, evidence.csv and calibration.png. Finished
    trials are kept: the same command goes on where it was stopped.

    Example: `llc-dynamics calibrate runs/small`
    """
    from llc_dynamics.sweeps import find_runs

    runs = find_runs(folder)  # what is wrong with the folder is said before torch is imported
    from llc_dynamics.cli.show import draw_calibration, show_calibration
    from llc_dynamics.cli.show_runs import progress_of
    from llc_dynamics.executors import opened
    from llc_dynamics.progress import duration
    from llc_dynamics.sweeps import calibrate_runs, to_calibrate
    from llc_dynamics.systems.registry import system_class

    config = to_calibrate(folder, loss, batch_size, num_samples)
    out = folder / "calibration" if out is None else out
    bar = progress_of(f"calibrate {folder.name or folder}, trials", limit=max_seconds)
    with bar as show, opened(executor, workers) as pool:

        def progress(done: int, most: int) -> None:
            if not done and max_seconds >= 60:
                print(f"calibration: about {duration(max_seconds)} at most (--max-seconds)", file=sys.stderr)
            show(done, most)

        found = calibrate_runs(
            runs,
            config,
            out,
            system=None if system is None else system_class(system),
            gradients=gradients,
            target_error=target_error,
            seed=seed,
            max_seconds=max_seconds,
            workers=workers,
            executor=pool,
            device=device,
            progress=progress,
        )
    draw_calibration(found, out / "calibration.png")
    show_calibration(found, folder, out, system, json)


def llc(
    folder: Folder,
    system: System = None,
    config: Annotated[Path | None, arg(help="Preset file whose [llc] table to use instead of the stored one.")] = None,
    settings: Annotated[
        Path | None, arg(help="Settings file of `llc-dynamics calibrate` to use instead of the stored preset's.")
    ] = None,
    name: LLCName = "llc",
    overwrite: Annotated[bool, arg(help="Replace a stored curve that was made with other settings.")] = False,
    workers: Workers = None,
    executor: Executor = "local",
    shard: ShardOf = "1/1",
    device: Annotated[str, arg(help="Where to sample: cpu, cuda, ...")] = "cpu",
    json: AsJson = False,
) -> None:
    """Estimate the LLC over training, with one setting for the whole curve; finished points are kept.

    Example: `llc-dynamics llc runs/small --settings runs/small/calibration/settings.toml`
    """
    from llc_dynamics.errors import ConfigError
    from llc_dynamics.executors import opened
    from llc_dynamics.sweeps import find_runs
    from llc_dynamics.workers import Shard

    if config is not None and settings is not None:
        raise ConfigError("--config and --settings both say how to estimate; give one of them")
    runs = find_runs(folder)
    from llc_dynamics.cli.show import say_cost, show_curves
    from llc_dynamics.sweeps import estimate_curves, llc_config
    from llc_dynamics.sweeps.config import load_llc
    from llc_dynamics.sweeps.runner import systems_of
    from llc_dynamics.systems.registry import system_class

    given = None if system is None else system_class(system)
    systems_of(runs, given)  # the first message is about the runs
    chosen = load_llc(config) if config is not None else llc_config(folder, settings)
    if executor == "local":
        say_cost(runs, chosen, name, settings, workers)
    own = Shard.parse(shard)
    with opened(executor, workers) as pool:
        estimate_curves(
            runs,
            chosen,
            system=given,
            name=name,
            overwrite=overwrite,
            workers=workers,
            executor=pool,
            shard=own,
            device=device,
        )
    show_curves(runs, name, json)


def pca(
    folder: Folder,
    num_components: Annotated[int, arg(help="Components to fit.")] = 4,
    system: Describing = None,
    json: AsJson = False,
) -> None:
    """Joint trajectory PCA of the runs, with their references projected in; prints scores (`report` draws them).

    Example: `llc-dynamics pca runs/small`
    """
    _require_runs(folder)
    from llc_dynamics.cli.show import show_pca

    show_pca(folder, num_components, json, system)


def stages(
    folder: Folder,
    name: LLCName = "llc",
    seed: Annotated[int, arg(help="Seed of the bootstrap and of the null check.")] = 0,
    null_check: Annotated[
        bool, arg(help="Also give the false-positive rate of a boundary, at your points and errors.")
    ] = False,
    repetitions: Annotated[
        int, arg(help="Curves of each of six kinds without stages in the null check; a third of a second each.")
    ] = 200,
    system: Describing = None,
    json: AsJson = False,
) -> None:
    """Which developmental stages the runs went through, with their evidence.

    Stages of the LLC and of the losses on which transitions are judged, each boundary with an interval and a
    probability; change points as a second opinion; a verdict on each transition that the runs declare; where the
    trajectory in the first two components of the joint PCA turns.

    Example: `llc-dynamics stages runs/small --null-check`
    """
    from llc_dynamics.errors import ConfigError
    from llc_dynamics.seeding import derive_seed

    if repetitions < 1:
        raise ConfigError(f"stages: --repetitions must be 1 or more, got {repetitions}")
    derive_seed(seed)  # also where nothing is drawn: all verbs refuse the same seeds
    _require_runs(folder)
    from llc_dynamics.cli.show import show_findings

    checked = repetitions if null_check else 0
    show_findings(folder, seed=seed, name=name, repetitions=checked, as_json=json, system=system)


def report(
    folder: Folder,
    out: Annotated[Path | None, arg(help="The page to write; by default FOLDER/report.html.")] = None,
    name: LLCName = "llc",
    figures: Annotated[Path | None, arg(help="Also write every figure as PNG and SVG into this folder.")] = None,
    null_check: Annotated[
        int, arg(help="False-positive rates of the stages, from so many curves of each kind, .3 s each; 0: none.")
    ] = 0,
    system: Describing = None,
) -> None:
    """Write one self-contained HTML page that says in words and figures what was found.

    Example: `llc-dynamics report runs/small --figures figures`
    """
    _require_runs(folder)
    from llc_dynamics.cli.show import describer
    from llc_dynamics.errors import ConfigError
    from llc_dynamics.report import write_report

    out = folder / "report.html" if out is None else out
    if null_check < 0:
        raise ConfigError(f"report: --null-check must be 0 or more, got {null_check}")
    written = write_report(
        folder, out, llc_name=name, figures=figures, describe=describer(system), null_check=null_check
    )
    print(f"report: {written}")


def verify(
    folder: Annotated[
        Positional[Path], arg(help="A run folder, a folder of runs, or a file of `export`.", metavar="FOLDER")
    ],
    json: AsJson = False,
) -> int:
    """Check every stored row and LLC point against its checksum; exit status 1 if anything is wrong.

    Shards that are missing and files that do not belong to a run are listed, too.

    Example: `llc-dynamics verify runs/small`
    """
    from llc_dynamics.cli.show_runs import show_verification

    return show_verification(folder, json)
