"""The verbs. Heavy imports stand inside them, so that `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

Folder = Annotated[Positional[Path], arg(help="A run folder, or a folder of runs.", metavar="FOLDER")]
Workers = Annotated[int | None, arg(help="Worker processes, one thread each; by default one for every core.")]
LLCName = Annotated[str, arg(help="Name of the stored curve, `FOLDER/M-8/llc/NAME`.")]


def demo(
    out: Annotated[Path, arg(help="Folder for runs and report.")] = Path("runs/demo"),
    seed: Annotated[int, arg(help="Seed of everything.")] = 0,
    workers: Workers = None,
) -> None:
    """Transient ridge end to end: train, LLC curves, joint PCA, detection, report. About ten minutes on two cores."""
    from llc_dynamics.cli.show import show_findings
    from llc_dynamics.report import write_report
    from llc_dynamics.sweeps import load_preset, run_sweep

    sweep = load_preset("demo").with_seed(seed)
    run_sweep(sweep, out, workers=workers, estimate=True)
    page = write_report(out, out / "report.html")
    show_findings(out)
    print(f"\nreport: {page}")


def train(
    config: Annotated[
        Positional[Path],
        arg(help="A preset file (TOML) or its name (demo, small, paper), or a run or sweep folder to go on with."),
    ],
    out: Annotated[Path | None, arg(help="Folder for the runs; needed with a preset.")] = None,
    seed: Annotated[int | None, arg(help="Another seed than the preset's.")] = None,
    workers: Workers = None,
    device: Annotated[str, arg(help="Where to train: cpu, cuda, cuda:1, ...")] = "cpu",
) -> None:
    """Train every run of a preset and store dense trajectories; go on where a stopped training was."""
    from llc_dynamics.sweeps import resolve, run_sweep

    sweep, folder = resolve(config, out, seed)
    run_sweep(sweep, folder, workers=workers, estimate=False, device=device)
    print(f"trained: {folder}")


def llc(
    folder: Folder,
    config: Annotated[Path | None, arg(help="Preset file whose [llc] table to use instead of the stored one.")] = None,
    name: LLCName = "llc",
    overwrite: Annotated[bool, arg(help="Replace a stored curve that was made with other settings.")] = False,
    workers: Workers = None,
    device: Annotated[str, arg(help="Where to sample: cpu, cuda, ...")] = "cpu",
) -> None:
    """Estimate the LLC over training, with one setting for the whole curve; finished points are kept."""
    from llc_dynamics.cli.show import show_curves
    from llc_dynamics.sweeps import estimate_curves, find_runs, load_sweep, require_in_context, stored_sweep

    runs = find_runs(folder)
    require_in_context(runs)
    settings = (load_sweep(config) if config is not None else stored_sweep(folder)).llc
    estimate_curves(runs, settings, name=name, overwrite=overwrite, workers=workers, device=device)
    show_curves(runs, name)


def pca(folder: Folder, num_components: Annotated[int, arg(help="Components to fit.")] = 4) -> None:
    """Joint trajectory PCA of the runs, with the ideal predictors projected in; prints scores (`report` draws them)."""
    from llc_dynamics.cli.show import show_pca

    show_pca(folder, num_components)


def stages(folder: Folder, seed: Annotated[int, arg(help="Seed of the bootstrap.")] = 0) -> None:
    """Which developmental stages the runs went through: transient ridge and specialisation, with their evidence."""
    from llc_dynamics.cli.show import show_findings

    show_findings(folder, seed=seed)


def report(
    folder: Folder,
    out: Annotated[Path | None, arg(help="The page to write; by default FOLDER/report.html.")] = None,
    name: LLCName = "llc",
    figures: Annotated[Path | None, arg(help="Also write every figure as a PNG into this folder.")] = None,
) -> None:
    """Write one self-contained HTML page that says in words and figures what was found."""
    from llc_dynamics.report import write_report

    print(f"report: {write_report(folder, out or folder / 'report.html', llc_name=name, figures=figures)}")


def verify(folder: Folder) -> int:
    """Check every stored row and LLC point against its checksum; exit status 1 if anything is wrong."""
    from llc_dynamics.cli.show import show_verification

    return show_verification(folder)


def bench(name: Annotated[Positional[Literal["training", "writing"]], arg(help="Which benchmark to run.")]) -> None:
    """Run a speed benchmark of a source checkout (experiments/benchmarks/), both sides of every ratio in one run."""
    import runpy
    import sys

    from llc_dynamics.errors import ConfigError

    script = Path(__file__).resolve().parents[2] / "experiments" / "benchmarks" / f"{name}.py"
    if not script.exists():
        raise ConfigError(f"bench: {script.name} is part of a source checkout and not installed; run it from a clone")
    sys.argv = [str(script)]
    runpy.run_path(str(script), run_name="__main__")
