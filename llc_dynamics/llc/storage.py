"""Estimates stored beside a run: `<run>/llc/<name>/step-<s>.h5`, one sealed HDF5 file for each point of a curve.

A file appears whole or not at all, carries a digest of all its bytes, and holds no pickle. Beside the result it
holds its *identity*: what must be the same for the stored point to be the one that is asked for.
"""

from __future__ import annotations

import dataclasses
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import ConfigError, CorruptRunError, LLCDynamicsError, TrajectoryError
from llc_dynamics.finding import FailedChain, Finding
from llc_dynamics.llc.result import LLCResult
from llc_dynamics.llc.thresholds import Thresholds
from llc_dynamics.settings import from_mapping, to_mapping
from llc_dynamics.trajectory.files import fsync_folder, storage_errors
from llc_dynamics.trajectory.names import stored_points as stored_points
from llc_dynamics.trajectory.sealed import SealedFile
from llc_dynamics.trajectory.sealing import write_sealed

KIND = "llc point"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_TRACES = ("trace", "corrected_trace", "distance_trace", "virial_trace")
_FINDINGS = ("reasons", "notes")
_APART = {*_TRACES, *_FINDINGS, "failed_chains", "thresholds"}


@dataclass(frozen=True)
class Identity:
    """What must be the same for a stored point to be the one that is asked for.

    Attributes
    ----------
    curve : what is the same along a curve: sampler, counts, seed, data, sampled parameters. JSON types.
    weights : digest of the checkpoint.
    probe : float64 [position, sample], losses of some samples at w* and at a fixed perturbation of it: another loss,
        other data or another model show here, although functions cannot be compared.
    """

    curve: dict[str, Any]
    weights: str
    probe: NDArray[np.float64]


def curve_folder(run: Path, name: str) -> Path:
    """Where the curve `name` of a run lives.

    Raises `ConfigError` for a name that is no plain file name, `TrajectoryError` if the folder, or `llc` itself, is a
    link: what is stored with a run stays inside it.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"curve name {name!r}: use letters, digits, '_', '-' and '.', starting with a letter or a digit"
        )
    folder = run / "llc" / name
    for part in (folder.parent, folder):
        if part.is_symlink():
            raise TrajectoryError(
                f"{part}: it is a link, which is not followed, so that what is stored with a run stays inside it; put "
                "a folder there"
            )
    return folder


def point_file(folder: Path, step: int) -> Path:
    """The file of the point at `step`."""
    return folder / f"step-{step}.h5"


def write_point(path: Path, step: int, result: LLCResult, identity: Identity, replace: bool = True) -> bool:
    """Store a result; without `replace` only if no file is there yet, which the answer says.

    Raises `TrajectoryError` if the disk is full or the folder cannot be written to.
    """
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    scalars = {
        field.name: getattr(result, field.name) for field in dataclasses.fields(result) if field.name not in _APART
    }
    details = {
        "step": step,
        "identity": {"curve": dict(identity.curve), "weights": identity.weights},
        "result": scalars | {name: [each.to_dict() for each in getattr(result, name)] for name in _FINDINGS},
        "failed_chains": [dataclasses.asdict(failed) for failed in result.failed_chains],
        "thresholds": to_mapping(result.thresholds),
    }
    tables = {name: getattr(result, name) for name in _TRACES} | {"probe": identity.probe}
    if replace:
        write_sealed(path, KIND, path.parent.name, details, tables)
        return True
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    with storage_errors(path):
        try:
            write_sealed(temporary, KIND, path.parent.name, details, tables)
            return _moved_if_new(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _moved_if_new(temporary: Path, path: Path) -> bool:
    """Give a whole file its name unless there is one already, in a single step: of two processes one is first."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links: here two steps, between which another could be
        if path.exists():
            return False
        os.replace(temporary, path)
    fsync_folder(path.parent)
    return True


def read_point(path: Path) -> tuple[LLCResult, Identity]:
    """Read and verify a stored point.

    Raises `CorruptRunError` for a file that is damaged, cut short or not one of these; deleting it lets the curve
    compute the point again.
    """
    try:
        file = SealedFile(path, KIND)
        tables = {name: np.asarray(table, dtype=np.float64) for name, table in file.tables().items()}
        details = file.details
        fields: dict[str, Any] = {
            **details["result"],
            **{name: tables[name] for name in _TRACES},
            **{name: tuple(map(Finding.from_dict, details["result"][name])) for name in _FINDINGS},
            "without_gradient": tuple(details["result"]["without_gradient"]),
            "downhill": tuple(map(float, details["result"]["downhill"])),
            "failed_chains": tuple(
                FailedChain(failed["chain"], failed["step"], Finding.from_dict(failed["reason"]))
                for failed in details["failed_chains"]
            ),
            "thresholds": from_mapping(Thresholds, details["thresholds"]),
            "observed": {name: tuple(values) for name, values in details["result"]["observed"].items()},
        }
        result = LLCResult(**fields)
        _require_types(result)
        curve, weights = details["identity"]["curve"], details["identity"]["weights"]
        if not isinstance(curve, dict) or not isinstance(weights, str):
            raise TypeError("its identity is none")
        identity = Identity(curve, weights, tables["probe"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptRunError(
            f"{path}: not a stored LLC estimate ({error}); delete it to have it computed again"
        ) from None
    except CorruptRunError as error:
        raise CorruptRunError(f"{error}. Or delete it: the curve then computes this point again") from None
    return result, identity


def _require_types(result: LLCResult) -> None:
    """TypeError unless numbers are numbers and texts texts: who makes a file can write anything into its header."""
    for field in dataclasses.fields(result):
        value, kind = getattr(result, field.name), str(field.type)
        if kind in ("float", "int"):
            sound = _is_number(value)
        elif kind == "str":
            sound = isinstance(value, str)
        elif kind == "tuple[str, ...]":
            sound = all(isinstance(item, str) for item in value)
        elif kind.startswith("dict"):
            sound = isinstance(value, dict) and (kind != "dict[str, float]" or all(map(_is_number, value.values())))
        else:
            continue
        if not sound:
            raise TypeError(f"{field.name} is {str(value)[:40]!r}")
    if result.standard_error < 0:
        raise TypeError(f"standard_error is {result.standard_error}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def damaged_points(paths: Iterable[Path]) -> list[str]:
    """A message for each of the point files that cannot be read back as it was written."""
    messages = []
    for path in paths:
        try:
            read_point(path)
        except LLCDynamicsError as error:
            messages.append(str(error))
    return messages
