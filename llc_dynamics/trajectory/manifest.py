"""`manifest.json`: what a run is. Written once, when the run begins, and never changed."""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from llc_dynamics.errors import ConfigError, CorruptRunError, TrajectoryError
from llc_dynamics.trajectory.atomic import write_whole
from llc_dynamics.trajectory.names import MANIFEST, arrays_file
from llc_dynamics.trajectory.opening import read_at_most
from llc_dynamics.trajectory.sealed import SCHEMA_VERSION, newer_schema
from llc_dynamics.trajectory.state import StateLayout
from llc_dynamics.trajectory.storage import WeightStorage

FORMAT = "llc_dynamics trajectory"
#: Bytes of a file. What JSON of a few bytes becomes in memory takes up to twenty times as many.
_LARGEST = 1 << 24
_DEEPEST = 100


@dataclass(frozen=True)
class Manifest:
    """The parameter and buffer layout, configuration, provenance and fixed arrays of a run.

    `run_id` is drawn when the run begins and stands in every file of the run, so that files of different runs cannot be
    mixed. `description` says in names and words what the run is of; who shows runs checks it.
    `arrays` maps the name of each set of fixed arrays to the SHA-256 of its contents. `storage` says how weights
    are kept; in version 1 there was one way only.
    """

    run_id: str
    state: StateLayout
    config: dict[str, Any]
    provenance: dict[str, Any]
    arrays: dict[str, str]
    created: str
    storage: WeightStorage = field(default_factory=WeightStorage)
    description: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def new(
        cls,
        state: StateLayout,
        config: dict[str, Any],
        provenance: dict[str, Any],
        arrays: dict[str, str],
        run_id: str,
        storage: WeightStorage | None = None,
        description: dict[str, Any] | None = None,
    ) -> Manifest:
        created = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(run_id, state, config, provenance, arrays, created, WeightStorage.of(storage), description or {})

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "schema_version": self.schema_version,
            "run_id": self.run_id,
            "created": self.created,
            "config": self.config,
            "description": self.description,
            "provenance": self.provenance,
            "arrays": self.arrays,
            **({"storage": self.storage.to_json()} if self.schema_version > 1 else {}),
            "state": self.state.to_json(),
        }

    def write(self, run: Path) -> None:
        write_signed(run / MANIFEST, self.to_json())

    @classmethod
    def read(cls, run: Path) -> Manifest:
        """Read and check the manifest of the run folder `run`.

        Raises `TrajectoryError` if it is missing, of a newer version or not ours, `CorruptRunError` if it is damaged.
        """
        content = read_signed(run / MANIFEST, FORMAT)
        try:
            arrays = {str(name): str(digest) for name, digest in content["arrays"].items()}
            for name in arrays:
                arrays_file(run, name)
            return cls(
                run_id=str(content["run_id"]),
                state=StateLayout.from_json(content["state"]),
                config=dict(content["config"]),
                provenance=dict(content["provenance"]),
                arrays=arrays,
                created=str(content["created"]),
                storage=WeightStorage.of(content["storage"]) if content["schema_version"] > 1 else WeightStorage(),
                description=dict(content.get("description", {})),
                schema_version=int(content["schema_version"]),
            )
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise CorruptRunError(f"{run / MANIFEST}: not a valid manifest ({error}); restore it from a copy") from None


def new_run_id() -> str:
    return secrets.token_hex(16)


def write_signed(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object with a checksum of itself."""
    signed = content | {"checksum": _checksum(content)}
    text = (json.dumps(signed, indent=1, allow_nan=False) + "\n").encode()
    if len(text) > _LARGEST:
        raise ConfigError(
            f"{path}: {len(text) >> 20} MiB, and at most {_LARGEST >> 20} are read back; keep large tables out of the "
            "configuration, as arrays="
        )
    if _deeper_than(signed, _DEEPEST):
        raise ConfigError(f"{path}: the configuration is nested more than {_DEEPEST} deep, which is not read back")
    write_whole(path, text)


def read_signed(path: Path, expected_format: str) -> dict[str, Any]:
    """Read what `write_signed` wrote; the checksum is of the content, so a change of white space does not matter."""
    try:
        text = read_at_most(path, _LARGEST)
    except FileNotFoundError:
        raise TrajectoryError(f"{path.parent}: not a run folder (it has no {path.name})") from None
    except OSError as error:
        raise TrajectoryError(f"{path}: cannot read ({error.strerror})") from error
    if text is None:
        raise CorruptRunError(f"{path}: more than {_LARGEST >> 20} MiB, which no such file has; restore it from a copy")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise CorruptRunError(f"{path}: damaged (not valid JSON, {len(text)} bytes); restore it from a copy") from None
    if _deeper_than(content, _DEEPEST):
        raise CorruptRunError(f"{path}: nested more than {_DEEPEST} deep, as no such file is; restore it from a copy")
    if not isinstance(content, dict) or content.get("format") != expected_format:
        raise TrajectoryError(
            f"{path}: not written by llc-dynamics, or damaged (no format '{expected_format}' in it); "
            "give a run folder, or restore the file from a copy"
        )
    checksum = content.pop("checksum", None)
    version = content.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise newer_schema(path, version)
    if checksum != _checksum(content):
        raise CorruptRunError(
            f"{path}: does not match its checksum, so it was damaged or edited; restore it from a copy"
        )
    return content


def _checksum(content: dict[str, Any]) -> str:
    try:
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    except RecursionError:
        return "none"
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _deeper_than(value: Any, limit: int) -> bool:
    """Whether mappings and lists in `value` are nested more than `limit` deep."""
    level = [value]
    for _ in range(limit):
        level = [
            item
            for each in level
            if isinstance(each, dict | list)
            for item in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return any(isinstance(each, dict | list) for each in level)


def plain_config(value: Any, where: str = "config") -> Any:
    """`value` as JSON types: mappings with string keys, lists, strings, numbers, booleans, None.

    Infinities and NaN become the strings "inf", "-inf", "nan"; numpy numbers become Python's, paths strings.
    `ConfigError` names whatever else is in it.
    """
    if value is None or (isinstance(value, bool | str | int) and not isinstance(value, np.generic)):
        return value
    if isinstance(value, np.generic):
        value = value.item()
        return plain_config(value, where)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{where}: the key {key!r} is not a string")
        return {key: plain_config(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_config(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise ConfigError(
        f"{where}: a {type(value).__name__} cannot be stored; give strings, numbers, booleans, lists and mappings "
        "of them"
    )


def config_difference(stored: Any, given: Any, where: str = "config") -> str | None:
    """The first key in which two plain configurations differ, in words; None if they are the same."""
    if isinstance(stored, dict) and isinstance(given, dict):
        for key in [*stored, *(key for key in given if key not in stored)]:
            if key not in given:
                return f"{where}.{key} is {stored[key]!r} in the stored run and not given now"
            if key not in stored:
                return f"{where}.{key} is {given[key]!r} now and not in the stored run"
            if difference := config_difference(stored[key], given[key], f"{where}.{key}"):
                return difference
        return None
    if type(stored) is type(given) and stored == given:
        return None
    if isinstance(stored, int | float) and isinstance(given, int | float) and stored == given:
        return None if not isinstance(stored, bool) and not isinstance(given, bool) else f"{where} changed its type"
    return f"{where} is {stored!r} in the stored run and {given!r} now"
