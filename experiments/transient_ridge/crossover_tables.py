"""Rows of the tables of `crossover.py`, and their CSV, Markdown and JSON."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from crossover_predictions import Prediction
from crossover_runs import RunRecord
from rank_agreement import RankAgreement

from llc_dynamics.report.numbers import with_error
from llc_dynamics.report.reading import Level

Row = Mapping[str, Any]


def run_row(record: RunRecord) -> dict[str, Any]:
    """Everything measured of one run, under flat names. Losses are mean squared errors, times steps."""
    at, at_error = record.llc.at(record.t_crit)
    end, end_error = record.llc.at(record.last_step)
    change, change_error = record.llc.change(record.t_crit, record.last_step)
    row: dict[str, Any] = {
        "seed": record.seed,
        "M": record.num_tasks,
        "status": record.status,
        "t_crit": record.t_crit if record.status != "censored" else None,
        "t_low": record.t_crit_interval[0],
        "t_high": record.t_crit_interval[1],
        "last_step": record.last_step,
        "finished": record.complete,
        "share_of_draws_censored": float(np.isinf(record.t_draws).mean()),
    }
    for name in ("ridge", "dmmse", "gap", "paired_gap"):
        level: Level | None = getattr(record, name)
        row[f"{name}_loss" if name in ("ridge", "dmmse") else name] = None if level is None else level.value
        row[f"{name}_error"] = None if level is None else level.standard_error
    row |= {"loss_at_t_crit": record.loss_at, "loss_at_end": record.loss_end}
    row |= {"fall": record.fall, "fall_error": record.fall_error}
    row |= {"llc_at_t_crit": at, "llc_at_t_crit_error": at_error, "llc_at_end": end, "llc_at_end_error": end_error}
    row |= {"llc_change": change, "llc_change_error": change_error}
    for where, step in (("t_crit", record.t_crit), ("end", record.last_step)):
        row |= {f"nearest_to_{where}_{key}": value for key, value in record.llc.nearest(step).items()}
    assert record.llc.curve.converged is not None
    return row | {
        "llc_points": len(record.llc.curve),
        "llc_points_converged": int(record.llc.curve.converged.sum()),
        "verdict": record.verdict.summary(),
    }


def prediction_row(one: Prediction, factor: float | None) -> dict[str, Any]:
    """One prediction; nats per training sequence, times in steps."""
    crossing = one.crossing
    low, high = (None, None) if one.ratio_interval is None else one.ratio_interval
    return {
        "definition": one.definition,
        "seed": one.record.seed,
        "M": one.record.num_tasks,
        "status": one.record.status,
        "dl": one.gain,
        "dl_error": one.gain_error,
        "dlambda": None if crossing is None else one.price,
        "dlambda_error": None if crossing is None else one.price_error,
        "ratio": one.ratio,
        "ratio_low": low,
        "ratio_high": high,
        "t_predicted": None if factor is None else factor * one.ratio,
        "t_crit": one.record.t_crit if one.record.status != "censored" else None,
        "n_kind": None if crossing is None else crossing.kind,
        "n": None if crossing is None else crossing.n,
        "n_low": None if crossing is None or crossing.interval is None else crossing.interval[0],
        "n_high": None if crossing is None or crossing.interval is None else crossing.interval[1],
        "n_observed": one.record.t_crit * one.record.batch_size,
        "decades_late": one.decades_late,
        "decades_late_is_lower_bound": crossing is not None and crossing.kind == "always",
        "why": None if crossing is None else crossing.reason,
    }


def order_row(definition: str, selection: str, found: RankAgreement | None) -> dict[str, Any]:
    """One line of the table of orders."""
    if found is None:
        return {"definition": definition, "selection": selection, "runs": None}
    return {
        "definition": definition,
        "selection": selection,
        "runs": found.members,
        "seeds": found.groups,
        "of_them_censored": found.censored,
        "spearman": found.spearman,
        "spearman_low": found.spearman_interval[0],
        "spearman_high": found.spearman_interval[1],
        "kendall": found.kendall,
        "kendall_low": found.kendall_interval[0],
        "kendall_high": found.kendall_interval[1],
        "mean_within_seed": found.within_groups,
        "p": found.p_value,
        "p_within": found.p_value_within,
    }


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """All columns of all rows; empty where a row has none."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(row.get(name)) for name in names} for row in rows)


def plain(value: Any) -> Any:
    """JSON types: what is NaN becomes null, infinity "inf"."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        number = float(value)
        return None if math.isnan(number) else number if math.isfinite(number) else "inf" if number > 0 else "-inf"
    return value


def markdown(found: Mapping[str, Any]) -> str:
    """The tables of the README, from the content of `crossover.json`."""
    parts = ["### Runs", _table(_RUNS, found["runs"]), "### Does lambda_hat rise when ridge gives way?"]
    parts += [_table(_CHANGES, found["llc_changes"]), "Over seeds (mean over the runs of a seed first):"]
    parts += [_table(_POOLED, _pooled_rows(found["llc_changes_pooled"])), "### Is the order that of the theory?"]
    orders = _orders_that_differ(found["order"])
    parts += [_table(_ORDER, orders), "Predictions, run by run:", _table(_PREDICTIONS, found["predictions"])]
    parts += ["One factor for all runs, t_crit = c dlambda/dl:", _table(_SCALES, found["scales"])]
    if found["notes"]:
        parts.append("\n".join(f"- {note}" for note in found["notes"]))
    return "\n\n".join(parts) + "\n"


def _orders_that_differ(rows: Sequence[Row]) -> list[Row]:
    """Without the selections that leave nothing out that the one before had in any of its rows."""
    selections = list(dict.fromkeys(row["selection"] for row in rows))
    counts = {name: [row["runs"] for row in rows if row["selection"] == name] for name in selections}
    kept = [name for place, name in enumerate(selections) if not place or counts[name] != counts[selections[place - 1]]]
    return [row for row in rows if row["selection"] in kept]


def _pooled_rows(rows: Sequence[Row]) -> list[Row]:
    """Without those of the transient runs where these are all runs."""
    counts = {(row["window"], row["quantity"]): row["runs"] for row in rows if row["runs_of"] != "transient"}
    return [
        row for row in rows if row["runs_of"] != "transient" or row["runs"] < counts[row["window"], row["quantity"]]
    ]


def _table(columns: Mapping[str, Any], rows: Sequence[Row]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(make(row) for make in columns.values()) + " |" for row in rows]
    return "\n".join(lines)


def _number(value: Any, digits: int = 3) -> str:
    if value is None:
        return "-"
    if value == "inf":
        return "infinity"
    if isinstance(value, str):
        return value
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:g}"


def _with_error(value: str, error: str) -> Any:
    return lambda row: "-" if row.get(value) is None else with_error(row[value], row[error]).replace("±", "+-")


def _plain_column(name: str, digits: int = 3) -> Any:
    return lambda row: _number(row.get(name), digits)


def _span(value: str, low: str, high: str) -> Any:
    def text(row: Row) -> str:
        if row.get(value) is None or row.get(low) is None:
            return _number(row.get(value))
        return f"{_number(row[value])} ({_number(row[low])} to {_number(row[high])})"

    return text


def _time(row: Row) -> str:
    if row["status"] == "censored":
        return f"> {row['last_step']:,}"
    text = f"{row['t_crit']:,} ({row['t_low']:,}-{row['t_high']:,})"
    return text if row["status"] == "transient" else f"[{text}]"


def _converged(row: Row) -> str:
    flags = ["yes" if row[f"nearest_to_{where}_converged"] else "**no**" for where in ("t_crit", "end")]
    return f"{flags[0]} / {flags[1]} ({row['llc_points_converged']} of {row['llc_points']})"


def _decades(row: Row) -> str:
    if row["decades_late"] is None:
        return "-"
    return ("> " if row["decades_late_is_lower_bound"] else "") + f"{row['decades_late']:.1f}"


def _n_star(row: Row) -> str:
    words = {"always": "below e", "never": "never", None: "-"}
    return _number(row["n"]) if row["n_kind"] == "crosses" else words[row["n_kind"]]


def _pooled_interval(row: Row) -> str:
    if row["interval"] is None:
        return "-"
    return f"{_number(row['interval'][0])} to {_number(row['interval'][1])}"


_KEY = {"seed": _plain_column("seed"), "M": _plain_column("M", 6)}
_RUNS = {
    **_KEY,
    "verdict": lambda row: "control" if row["M"] == "inf" else row["status"],
    "t_crit (90%), [no verdict]": _time,
    "ridge / dMMSE_M on q_M": lambda row: f"{_number(row['ridge_loss'])} / {_number(row['dmmse_loss'])}",
    "dl": _with_error("gap", "gap_error"),
    "loss on q_M at t_crit, end": lambda row: f"{_number(row['loss_at_t_crit'])}, {_number(row['loss_at_end'])}",
    "LLC at t_crit": _with_error("llc_at_t_crit", "llc_at_t_crit_error"),
    "LLC at the end": _with_error("llc_at_end", "llc_at_end_error"),
    "change": _with_error("llc_change", "llc_change_error"),
    "nearest points converged (of all)": _converged,
}
_CHANGES = {
    **_KEY,
    "window": lambda row: f"{row['window']}: {row['start']:,}-{row['stop']:,}",
    "change": _with_error("change", "error"),
    "z": _plain_column("z", 2),
    "up to step": lambda row: f"{row['shared_stop']:,}",
    "run": _with_error("shared_change", "shared_error"),
    "M = infinity": _with_error("control", "control_error"),
    "difference": _with_error("difference", "difference_error"),
    "z of it": _plain_column("difference_z", 2),
}
_POOLED = {
    "window": lambda row: row["window"],
    "runs": lambda row: f"{row['runs_of']}: {row['runs']} of {row['seeds']} seeds",
    "quantity": lambda row: (
        row["quantity"]
        .replace("shared_change", "run, shared steps")
        .replace("control", "M = infinity")
        .replace("log_ratio", "log of the factor, less that at M = infinity")
    ),
    "above zero": lambda row: f"{row['rising']} of {row['runs']}",
    "mean": _with_error("mean", "standard_error"),
    "90%": _pooled_interval,
}
_ORDER = {
    "prediction": lambda row: row["definition"],
    "which runs": lambda row: row["selection"],
    "runs": _plain_column("runs"),
    "Spearman (90%)": _span("spearman", "spearman_low", "spearman_high"),
    "Kendall (90%)": _span("kendall", "kendall_low", "kendall_high"),
    "mean within seeds": _plain_column("mean_within_seed"),
    "p, p within seeds": lambda row: f"{_number(row.get('p'), 2)}, {_number(row.get('p_within'), 2)}",
}
_PREDICTIONS = {
    "prediction": lambda row: row["definition"],
    **_KEY,
    "dl (nats a sequence)": _with_error("dl", "dl_error"),
    "dlambda": _with_error("dlambda", "dlambda_error"),
    "dlambda/dl (90%)": _span("ratio", "ratio_low", "ratio_high"),
    "t_crit, with one factor": lambda row: _number(row["t_predicted"]),
    "observed": lambda row: "censored" if row["t_crit"] is None else f"{row['t_crit']:,}",
    "n* (sequences)": _n_star,
    "observed n": lambda row: _number(row["n_observed"]),
    "decades too early": _decades,
}
_SCALES = {
    "prediction": lambda row: row["definition"],
    "runs (left out)": lambda row: f"{row['runs']} ({row['left_out']})",
    "c (steps)": _plain_column("factor"),
    "c (sequences)": _plain_column("sequences_per_ratio"),
    "residual scatter (dex)": _plain_column("scatter_dex"),
    "scatter of t_crit itself (dex)": _plain_column("scatter_of_t_crit_dex"),
}


def _cell(value: Any) -> Any:
    value = plain(value)
    if isinstance(value, list):
        return "; ".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else value
