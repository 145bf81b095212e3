"""Speed and accuracy side by side with the tools that people use today.

    python experiments/benchmarks/peers environments        # make them (once; minutes, and disk for three torches)
    python experiments/benchmarks/peers reference RESULTS   # a long run of ours as the value of problems without one
    python experiments/benchmarks/peers run RESULTS         # estimates at a ladder of budgets
    python experiments/benchmarks/peers step-cost RESULTS   # one step beside the bare forward and backward pass
    python experiments/benchmarks/peers table RESULTS       # print what RESULTS holds, write summary.json

RESULTS gets problems/ (what every tool read), settings/, rows/ (one JSON line per repetition), logs/ and summary.json.
`run` and `step-cost` may be stopped and started again: repetitions that are there are not repeated. All tools run one
after the other on one thread; ours runs in this process (`ours.py`), the others in their own environments.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from common import command_line

from peers.accuracy import ErrorToTime, rms_error_to_time
from peers.environments import PEERS, EnvironmentMakingError, default_cache, environment
from peers.problems import Problem, read_problem, write_problem
from peers.rows import Row, StepCost, append_row, read_rows
from peers.settings import Settings, documented, ladder, stable_step_size, write_settings

BENCHMARKS = Path(__file__).resolve().parents[1]
CHECKOUT = BENCHMARKS.parents[1]

# The preconditioner of devinterp's RMSprop kernel is 1 / (rms gradient + .1): 10 where the gradient vanishes.
RMSPROP_LARGEST = 10.0
STEP_FRACTION = 0.2
BATCH_SIZE = 500


def our_settings(
    problem: Problem,
    localization: float,
    batch_size: int,
    seeds: tuple[int, ...],
    kernel: str = "sgld",
    fraction: float = STEP_FRACTION,
    nbeta_share: float = 1.0,
    num_chains: int = 4,
) -> Settings:
    """The same for all tools: nbeta of the problem (or a share of it), a stable step, a fifth of the draws as burn-in.

    `fraction` is eps (nbeta mu + gamma), which is 4 at the limit of stability on a quadratic; for "rmsprop_sgld" the
    step is divided by the largest value of the preconditioner.
    """
    problem = replace(problem, nbeta=nbeta_share * problem.nbeta)
    step = stable_step_size(problem, localization, fraction)
    label = f"ours, gamma {localization:g}"
    if kernel == "rmsprop_sgld":
        step /= RMSPROP_LARGEST
        label += ", rmsprop"
    if fraction != STEP_FRACTION:
        label += f", step {fraction:g}"
    if nbeta_share != 1:
        label += f", nbeta x {nbeta_share:g}"
    if batch_size != BATCH_SIZE:
        label += f", batch {batch_size}"
    # 100 draws stand for any budget; `ladder` scales both.
    return Settings(
        label,
        step,
        problem.nbeta,
        localization,
        batch_size,
        num_chains=num_chains,
        num_draws=100,
        num_burnin=20,
        kernel=kernel,
        baseline="data",
        seeds=seeds,
    )


def missing(wanted: Iterable[Settings], rows: Iterable[Row | StepCost]) -> list[Settings]:
    """The settings with the seeds that `rows` does not hold yet."""
    have = {(json.dumps(row.settings, sort_keys=True), row.seed) for row in rows if isinstance(row, Row)}
    left = []
    for settings in wanted:
        described = asdict(settings)
        del described["seeds"]
        key = json.dumps(described, sort_keys=True)
        seeds = tuple(seed for seed in settings.seeds if (key, seed) not in have)
        if seeds:
            left.append(replace(settings, seeds=seeds))
    return left


def run_adapter(
    tool: str, folder: Path, settings: list[Settings], arguments: argparse.Namespace, *, step_cost: bool = False
) -> None:
    """Run one tool on one problem in its own environment; its rows are added to the results as they come."""
    results = arguments.results
    name = f"{tool}-{folder.name}" + ("-step-cost" if step_cost else "")
    path = results / "settings" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_settings(path, settings)
    command = [str(environment(PEERS[tool], arguments.cache)), "-m", PEERS[tool].adapter, str(folder), str(path)]
    command += [str(rows_file(results, tool, folder.name)), "--memory-gb", str(arguments.memory_gb)]
    command += ["--step-cost"] if step_cost else []
    # The package itself is read from the checkout, so that its models are the same in every environment.
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(BENCHMARKS)]),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",
    }
    log = results / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as stream:
        try:
            status = subprocess.run(
                command, stdout=stream, stderr=stream, env=variables, timeout=arguments.timeout, check=False
            )
        except subprocess.TimeoutExpired:
            print(f"{tool} on {folder.name}: stopped after {arguments.timeout:.0f} s; what it finished is kept")
            return
    if status.returncode:
        tail = "\n".join(log.read_text().splitlines()[-5:])
        print(f"{tool} on {folder.name} failed (exit status {status.returncode}); the log ends:\n{tail}")


def rows_file(results: Path, tool: str, problem: str) -> Path:
    path = results / "rows" / f"{tool}-{problem}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def all_rows(results: Path) -> list[Row | StepCost]:
    return [row for path in sorted((results / "rows").glob("*.jsonl")) for row in read_rows(path)]


def problem_folders(arguments: argparse.Namespace) -> list[Path]:
    """Write the problems that are not there yet. They are kept, so that all runs into one RESULTS see the same data."""
    from peers.selection import make

    folders = []
    for name in arguments.problems:
        for problem in make(name, arguments.num_samples, arguments.run, arguments.steps):
            folder = arguments.results / "problems" / problem.name
            if not (folder / "problem.json").exists():
                write_problem(folder, problem)
            folders.append(folder)
    return folders


def estimates(arguments: argparse.Namespace) -> None:
    """All tools on all problems, at the ladder of budgets and at each tool's documented settings."""
    seeds = tuple(range(arguments.repetitions))
    for folder in problem_folders(arguments):
        problem = read_problem(folder)
        for tool in arguments.tools:
            wanted: list[Settings] = []
            if "documentation" in arguments.settings and tool in PEERS:
                wanted.append(documented(tool, problem, seeds))
            if "ours" in arguments.settings:
                for gamma, kernel, fraction, batch_size in itertools.product(
                    arguments.localizations, arguments.kernels, arguments.step_fraction, arguments.batch_size
                ):
                    if kernel == "rmsprop_sgld" and tool == "canonical":
                        continue
                    base = our_settings(
                        problem, gamma, batch_size, seeds, kernel, fraction, arguments.nbeta_share, arguments.chains
                    )
                    wanted += ladder(base, tuple(arguments.draws))
            left = missing(wanted, read_rows(rows_file(arguments.results, tool, problem.name)))
            if not left:
                continue
            print(f"{problem.name}: {tool}, {sum(len(each.seeds) for each in left)} repetitions", flush=True)
            if tool in PEERS:
                run_adapter(tool, folder, left, arguments)
                continue
            from peers.ours import our_runs

            for settings in left:
                for row in our_runs(folder, settings):
                    append_row(rows_file(arguments.results, tool, problem.name), row)
    table(arguments)


def references(arguments: argparse.Namespace) -> None:
    """Give each problem without a known value that of a long run of ours at the first of the localisations."""
    from peers.ours import our_reference

    for folder in problem_folders(arguments):
        problem = read_problem(folder)
        if problem.reference is None:
            value, error = our_reference(problem, arguments.localizations[0], arguments.target_error)
            write_problem(folder, replace(problem, reference=value, reference_error=error))
            print(f"{problem.name}: {value:.4g} ± {error:.2g} at gamma {arguments.localizations[0]:g}", flush=True)


def step_costs(arguments: argparse.Namespace) -> None:
    """Every tool's marginal step beside the bare gradient, 4 chains; shorter runs where a gradient is dear."""
    for folder in problem_folders(arguments):
        problem = read_problem(folder)
        draws = 20 if problem.model["kind"] == "in_context" else 200
        settings = replace(
            our_settings(problem, 100.0, arguments.batch_size[0], (0,)), num_draws=draws, num_burnin=0, baseline="tool"
        )
        for tool in arguments.tools:
            path = rows_file(arguments.results, tool, problem.name)
            if any(isinstance(row, StepCost) and row.batch_size == settings.batch_size for row in read_rows(path)):
                continue
            print(f"{problem.name}: {tool}, cost of a step", flush=True)
            if tool in PEERS:
                run_adapter(tool, folder, [settings], arguments, step_cost=True)
                continue
            from peers.ours import our_step_cost

            append_row(path, our_step_cost(folder, settings))
    table(arguments)


def time_to_accuracy(rows: Sequence[Row], reference: float) -> ErrorToTime:
    """`rms_error_to_time` of rows of one tool, problem and label, in processor seconds."""
    return rms_error_to_time([(row.settings["num_draws"], row.cpu_seconds, row.estimate) for row in rows], reference)


def table(arguments: argparse.Namespace) -> None:
    """Print all that RESULTS holds and write summary.json."""
    rows = all_rows(arguments.results)
    references = {}
    for folder in sorted((arguments.results / "problems").glob("*/problem.json")):
        problem = json.loads(folder.read_text())
        references[problem["name"]] = problem["reference"]
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if isinstance(row, Row):
            groups.setdefault((row.problem, row.tool, row.label), []).append(row)
    summary = []
    head = ("problem", "tool", "settings", "draws", "runs", "estimate", "sd", "own error", "seconds", "ms/step", "MB")
    print("{:46s} {:11s} {:22s} {:>6s} {:>4s} {:>9s} {:>8s} {:>9s} {:>8s} {:>8s} {:>5s}".format(*head))
    for (name, tool, label), members in sorted(groups.items()):
        budgets = sorted({row.settings["num_draws"] for row in members})
        for draws in budgets:
            group = [row for row in members if row.settings["num_draws"] == draws]
            print(f"{name:46s} {tool:11s} {label:22s} {_budget_line(draws, group)}")
        entry: dict[str, Any] = {"problem": name, "tool": tool, "label": label, "reference": references.get(name)}
        if (reference := references.get(name)) is not None:
            reached = time_to_accuracy(members, reference)
            entry["error_to_time"] = asdict(reached)
            errors = ", ".join(f"{100 * rung.rms_error:.1f}%" for rung in reached.rungs)
            when = f"{reached.seconds:.1f} s" if math.isfinite(reached.seconds) else "not reached"
            print(f"{'':81s} rms error against {reference:g}: {errors}; 5% in: {when}")
        summary.append(entry)
    costs = [row for row in rows if isinstance(row, StepCost)]
    if costs:
        print(f"\n{'problem':46s} {'tool':11s} {'batch':>5s} {'bare ms':>8s} {'step ms':>8s} {'ratio':>6s} {'MB':>6s}")
    for row in costs:
        print(
            f"{row.problem:46s} {row.tool:11s} {row.batch_size:5d} {row.bare_ms:8.2f} {row.step_ms:8.2f} "
            f"{row.ratio:6.2f} {row.peak_mb:6.0f}"
        )
    text = json.dumps(_plain({"estimates": summary, "rows": [asdict(row) for row in rows]}), indent=1, allow_nan=False)
    (arguments.results / "summary.json").write_text(text)


def _plain(value: Any) -> Any:
    """The same with None for what JSON cannot hold: infinities and not-a-numbers."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _budget_line(draws: int, group: Sequence[Row]) -> str:
    """One line of the table: estimates, errors and costs of the repetitions at one budget."""
    values = [row.estimate for row in group if row.estimate is not None]
    mean = sum(values) / len(values) if values else math.nan
    sd = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else math.nan
    errors = sorted(row.standard_error for row in group if row.standard_error is not None)
    own = errors[len(errors) // 2] if errors else math.nan
    middle = sorted(group, key=lambda row: row.cpu_seconds)[len(group) // 2]
    failed = f"  failed: {len(group) - len(values)}" if len(values) < len(group) else ""
    return (
        f"{draws:6d} {len(group):4d} {mean:9.4g} {sd:8.3g} {own:9.3g} {middle.cpu_seconds:8.2f} "
        f"{1e3 * middle.seconds_per_step:8.2f} {max(row.peak_mb for row in group):5.0f}{failed}"
    )


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("command", choices=("environments", "reference", "run", "step-cost", "table"))
    parser.add_argument("results", type=Path, nargs="?", help="folder for all results")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where the environments are kept")
    parser.add_argument("--tools", nargs="+", choices=(*PEERS, "ours"), default=[*PEERS, "ours"])
    parser.add_argument("--problems", nargs="+", help="deep-linear, deep-linear-noiseless, mlp, in-context")
    parser.add_argument("--num-samples", type=int, default=100_000, help="data of the deep linear networks")
    parser.add_argument("--run", type=Path, help="a stored run, for the in-context problems")
    parser.add_argument("--steps", type=int, nargs="+", default=[], help="its checkpoints")
    parser.add_argument("--settings", nargs="+", choices=("documentation", "ours"), default=["documentation", "ours"])
    parser.add_argument("--localizations", type=float, nargs="+", default=[1.0, 100.0])
    parser.add_argument("--kernels", nargs="+", choices=("sgld", "rmsprop_sgld"), default=["sgld"])
    parser.add_argument(
        "--step-fraction", type=float, nargs="+", default=[STEP_FRACTION], help="eps (nbeta mu + gamma) at our settings"
    )
    parser.add_argument("--nbeta-share", type=float, default=1.0, help="of n / log n, at our settings")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[BATCH_SIZE])
    parser.add_argument("--chains", type=int, default=4, help="at our settings")
    parser.add_argument("--target-error", type=float, default=0.01, help="of a reference, as a share of it")
    parser.add_argument("--draws", type=int, nargs="+", default=[100, 300, 1000, 3000])
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--memory-gb", type=float, default=12.0, help="limit for one tool")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for one tool on one problem")
    arguments = parser.parse_args()
    if arguments.command == "environments":
        for tool in arguments.tools:
            if tool in PEERS:
                try:
                    print(f"{tool}: {environment(PEERS[tool], arguments.cache)}")
                except EnvironmentMakingError as failure:
                    print(f"{tool}: {failure}", file=sys.stderr)
        return
    if arguments.results is None:
        parser.error(f"{arguments.command} needs the folder RESULTS")
    if arguments.problems is None:
        arguments.problems = ["mlp", "in-context"] if arguments.command == "step-cost" else ["deep-linear"]
    arguments.results.mkdir(parents=True, exist_ok=True)
    commands = {"reference": references, "run": estimates, "step-cost": step_costs, "table": table}
    commands[arguments.command](arguments)
