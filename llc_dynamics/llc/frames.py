"""Results and curves as pandas frames, xarray data sets and ArviZ data trees, for one's own plots and diagnostics.

The packages are optional, `pip install "llc-dynamics[frames]"`, and imported when they are first asked for. In every
form chains that died are NaN from the draw at which they died; draws and chains count from 0.

The two names of a trace: beside the estimates it is `trace`, `distance_trace`, `virial_trace`, as in `LLCResult` (and
`corrected_trace`); in a table of draws, where there is nothing else, it is `llc`, `distance`, `virial`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import DataError
from llc_dynamics.optional import optional_import

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

_DRAWS = {"llc": "trace", "distance": "distance_trace", "virial": "virial_trace"}
# Told once for all: they are the same at every point of a curve, but for the seed.
_ATTRIBUTES = ("settings", "provenance", "thresholds")


Steps = NDArray[np.int64]


class Result(Protocol):
    """What is read of an `LLCResult`, besides its other traces."""

    @property
    def trace(self) -> NDArray[np.float64]: ...

    @property
    def alive(self) -> list[int]: ...

    def to_dict(self) -> dict[str, Any]: ...


def scalars(result: Result) -> dict[str, float | int | str | bool]:
    """What a result says in single values: numbers, `converged`, and texts.

    `interval_low` and `interval_high` are those of 95%; observed losses are `observed.<name>` and
    `observed.<name>.standard_error`; `failed_chains` is their number; `reasons` and `notes` are texts joined by "; ".
    """
    plain = result.to_dict()
    found: dict[str, Any] = {
        name: value for name, value in plain.items() if isinstance(value, bool | int | float | str)
    }
    found["interval_low"], found["interval_high"] = plain["interval_95"]
    found["failed_chains"] = len(plain["failed_chains"])
    for name in ("reasons", "notes"):
        found[name] = "; ".join(finding["text"] for finding in plain[name])
    for name, (value, error) in plain["observed"].items():
        found |= {f"observed.{name}": value, f"observed.{name}.standard_error": error}
    first = ("llc", "standard_error", "total_error", "interval_low", "interval_high", "converged", "reasons")
    return {name: found[name] for name in (*first, *found)}


def result_to_pandas(result: Result, draws: bool = False) -> pd.DataFrame:
    """See `LLCResult.to_pandas`."""
    pandas = optional_import("pandas", "frames", "to_pandas")
    return _draw_table(pandas, result) if draws else pandas.DataFrame([scalars(result)])


def curve_to_pandas(steps: Steps, results: Sequence[Result], draws: bool = False) -> pd.DataFrame:
    """See `LLCCurve.to_pandas`."""
    pandas = optional_import("pandas", "frames", "to_pandas")
    if draws:
        tables = [_draw_table(pandas, result) for result in results]
        return pandas.concat(tables, keys=steps.tolist(), names=["step"])
    return pandas.DataFrame(map(scalars, results), index=pandas.Index(steps, name="step"))


def result_to_xarray(result: Result) -> xr.Dataset:
    """See `LLCResult.to_xarray`."""
    xarray = optional_import("xarray", "frames", "to_xarray")
    return xarray.Dataset(_variables(result), coords=_coordinates(result), attrs=_attributes([result]))


def curve_to_xarray(name: str, steps: Steps, results: Sequence[Result]) -> xr.Dataset:
    """See `LLCCurve.to_xarray`."""
    xarray = optional_import("xarray", "frames", "to_xarray")
    points = [xarray.Dataset(_variables(result), coords=_coordinates(result)) for result in results]
    # outer: points with fewer chains or draws (runs to a target error) are filled up with NaN
    stacked = xarray.concat(points, dim=xarray.Variable("step", steps), join="outer", data_vars="all", coords="minimal")
    return stacked.assign_attrs(name=name, **_attributes(results))


def result_to_datatree(result: Result) -> xr.DataTree:
    """See `LLCResult.to_datatree`."""
    alive = result.alive
    if not alive:
        raise DataError("all chains failed, so there are no draws for a data tree; to_xarray() has what they left")
    draws = {name: getattr(result, trace)[alive] for name, trace in _DRAWS.items()}
    return _tree(draws, {"chain": alive}, {}, _attributes([result]))


def curve_to_datatree(name: str, steps: Steps, results: Sequence[Result]) -> xr.DataTree:
    """See `LLCCurve.to_datatree`."""
    shape = tuple(max(sizes) for sizes in zip(*(result.trace.shape for result in results), strict=True))
    draws = {name: np.full((*shape, len(steps)), np.nan) for name in _DRAWS}
    for place, result in enumerate(results):
        for variable, trace in _DRAWS.items():
            values: NDArray[np.float64] = getattr(result, trace)
            draws[variable][result.alive, : values.shape[1], place] = values[result.alive]
    attributes = {"name": name, **_attributes(results)}
    return _tree(draws, {"step": steps}, {name: ["step"] for name in _DRAWS}, attributes)


def _tree(draws: dict[str, Any], coords: dict[str, Any], dims: dict[str, Any], attributes: dict[str, str]) -> Any:
    arviz = optional_import("arviz_base", "frames", "to_datatree")
    # the conventions that it would check ask for more draws than chains, which is not for a conversion to judge
    return arviz.from_dict(
        {"posterior": draws}, coords=coords, dims=dims, attrs={"/": attributes}, check_conventions=False
    )


def _draw_table(pandas: Any, result: Result) -> Any:
    index = pandas.MultiIndex.from_product([range(size) for size in result.trace.shape], names=["chain", "draw"])
    return pandas.DataFrame({name: getattr(result, trace).ravel() for name, trace in _DRAWS.items()}, index=index)


def _variables(result: Result) -> dict[str, Any]:
    """Name to (dimensions, values)."""
    plain = result.to_dict()
    single = {name: value for name, value in scalars(result).items() if "." not in name}
    found: dict[str, Any] = {name: ((), value) for name, value in single.items()}
    traces = (*_DRAWS.values(), "corrected_trace")
    found |= {trace: (("chain", "draw"), getattr(result, trace)) for trace in traces}
    for name in ("virial_by_block", "virial_by_block_error"):
        found[name] = (("block",), np.array([*plain[name].values()], dtype=np.float64))
    if plain["observed"]:
        values = np.array([*plain["observed"].values()], dtype=np.float64)
        found |= {"observed": (("observed_loss",), values[:, 0]), "observed_error": (("observed_loss",), values[:, 1])}
    return found


def _coordinates(result: Result) -> dict[str, Any]:
    plain, (chains, draws) = result.to_dict(), result.trace.shape
    names = {"observed_loss": [*plain["observed"]]} if plain["observed"] else {}
    return {"chain": range(chains), "draw": range(draws), "block": [*plain["virial_by_block"]], **names}


def _attributes(results: Sequence[Result]) -> dict[str, str]:
    """What all the results have in common, each as one JSON text: netCDF files can hold no deeper attributes."""
    tables = [result.to_dict() for result in results]
    found = {}
    for name in _ATTRIBUTES:
        first, *others = (table[name] for table in tables)
        common = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
        found[name] = json.dumps({key: _finite(value) for key, value in common.items()})
    return found


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
