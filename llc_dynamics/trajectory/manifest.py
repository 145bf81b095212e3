"""What a run is: `manifest.json`, written once when the run begins, and `complete.json`, the mark of a finished one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llc_dynamics.errors import ConfigError, CorruptRunError, ManifestMismatchError, TrajectoryError
from llc_dynamics.settings import plain_number
from llc_dynamics.trajectory.files import fsync_folder, read_at_most, storage_errors, write_whole
from llc_dynamics.trajectory.formats import WeightStorage
from llc_dynamics.trajectory.names import COMPLETE, MANIFEST, arrays_file
from llc_dynamics.trajectory.sealed import SCHEMA_VERSION, other_schema
from llc_dynamics.trajectory.state import StateLayout

FORMAT = "llc_dynamics trajectory"
_COMPLETE_FORMAT = "llc_dynamics complete"
#: Bytes of a file. What JSON of a few bytes becomes in memory takes up to twenty times as many.
LARGEST_JSON = 1 << 24
_DEEPEST = 100


@dataclass(frozen=True)
class Manifest:
    """The parameter and buffer layout, configuration, provenance and fixed arrays of a run.

    `run_id` is drawn when the run begins and stands in every file of the run, so that files of different runs cannot be
    mixed. `arrays` maps the name of each set of fixed arrays to the SHA-256 of its contents.
    """

    state: StateLayout
    config: dict[str, Any]
    provenance: dict[str, Any]
    arrays: dict[str, str]
    storage: WeightStorage
    description: dict[str, Any] = field(default_factory=dict)
    run_id: str = field(default_factory=lambda: secrets.token_hex(16))
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "run_id": self.run_id,
            "created": self.created,
            "config": self.config,
            "description": self.description,
            "provenance": self.provenance,
            "arrays": self.arrays,
            "storage": self.storage.to_json(),
            "state": self.state.to_json(),
        }

    @classmethod
    def read(cls, run: Path) -> Manifest:
        """Read and check the manifest of the run folder `run`.

        Raises `TrajectoryError` if it is missing, of a newer version or not ours, `CorruptRunError` if it is damaged.
        """
        return cls.from_json(read_signed(run / MANIFEST, FORMAT), run / MANIFEST)

    @classmethod
    def from_json(cls, content: Mapping[str, Any], path: Path) -> Manifest:
        """The inverse of `to_json`; `CorruptRunError`, naming `path`, for anything else."""
        try:
            arrays = {str(name): str(digest) for name, digest in content["arrays"].items()}
            for name in arrays:
                arrays_file(path.parent, name)
            return cls(
                run_id=str(content["run_id"]),
                state=StateLayout.from_json(content["state"]),
                config=dict(content["config"]),
                provenance=dict(content["provenance"]),
                arrays=arrays,
                created=str(content["created"]),
                storage=WeightStorage.of(content["storage"]),
                description=dict(content["description"]),
            )
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise CorruptRunError(f"{path}: not a valid manifest ({error}); restore it from a copy") from None

    def require_same(
        self,
        path: Path,
        state: StateLayout,
        config: dict[str, Any] | None,
        arrays: Mapping[str, str] | None,
        storage: WeightStorage | None,
        description: dict[str, Any] | None,
    ) -> None:
        """Raise `ManifestMismatchError` unless the run was recorded with these; None is not compared.

        arrays : digests by the name of the set.
        """
        differences = {"model": self.state.difference(state)}
        if config is not None:
            differences["configuration"] = config_difference(self.config, config)
        if description is not None:
            differences["description"] = config_difference(self.description, description, "description")
        if storage is not None:
            differences["storage"] = config_difference(self.storage.to_json(), storage.to_json(), "storage")
        given = self.arrays if arrays is None else arrays
        for name in sorted({*self.arrays, *given}):
            if name not in given or name not in self.arrays:
                where = "not given now" if name in self.arrays else "not in the stored run"
                differences["set of arrays"] = f"arrays '{name}' are {where}"
            elif given[name] != self.arrays[name]:
                differences["set of arrays"] = f"arrays '{name}' differ from those stored with the run"
        for what, difference in differences.items():
            if difference is not None:
                raise ManifestMismatchError(
                    f"{path}: another {what} than the run was recorded with: {difference}; resume with what the run "
                    "was recorded with, or record into another folder"
                )


@contextlib.contextmanager
def same_run(run: Path, run_id: str) -> Iterator[None]:
    """Of a `CorruptRunError` in the block say so if another run has taken the place of the one that was opened."""
    try:
        yield
    except CorruptRunError as error:
        try:
            now = Manifest.read(run).run_id
        except TrajectoryError:
            raise error from None
        if now == run_id:
            raise
        raise CorruptRunError(
            f"{run}: another run ({now[:40]}) was put in the place of the one that was opened ({run_id}); open it again"
        ) from error


def write_complete(run: Path, run_id: str, rows: int, final_step: int) -> None:
    """Mark a run as finished, with the number of rows that it has now."""
    mark = {"format": _COMPLETE_FORMAT, "schema_version": SCHEMA_VERSION, "run_id": run_id}
    write_signed(run / COMPLETE, mark | {"rows": rows, "final_step": final_step})


def remove_complete(run: Path) -> None:
    """Take the mark away before a run that had ended is continued."""
    path = run / COMPLETE
    with storage_errors(path, "remove"):
        if path.exists():
            path.unlink()
            fsync_folder(run)


def read_complete(run: Path, run_id: str) -> int | None:
    """The rows of a finished run, None if it has no mark; `CorruptRunError` if that is damaged or of another run."""
    path = run / COMPLETE
    if not path.exists():
        return None
    mark = read_signed(path, _COMPLETE_FORMAT)
    if type(mark.get("rows")) is not int:
        raise CorruptRunError(f"{path}: not the mark of a finished run; restore it from a copy")
    if mark.get("run_id") != run_id:
        raise CorruptRunError(
            f"{path}: this mark belongs to another run; remove it, or restore the run's own from a copy"
        )
    return int(mark["rows"])


def write_signed(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object with a checksum of itself."""
    signed = content | {"checksum": _checksum(content)}
    text = (json.dumps(signed, indent=1, allow_nan=False) + "\n").encode()
    if len(text) > LARGEST_JSON:
        raise ConfigError(
            f"{path}: {len(text) >> 20} MiB, and at most {LARGEST_JSON >> 20} are read back; keep large tables out of "
            "the configuration, as arrays="
        )
    if _deeper_than(signed, _DEEPEST):
        raise ConfigError(f"{path}: the configuration is nested more than {_DEEPEST} deep, which is not read back")
    write_whole(path, text)


def read_signed(path: Path, expected_format: str) -> dict[str, Any]:
    """Read what `write_signed` wrote; the checksum is of the content, so a change of white space does not matter."""
    try:
        text = read_at_most(path, LARGEST_JSON)
    except FileNotFoundError:
        raise TrajectoryError(f"{path.parent}: not a run folder (it has no {path.name})") from None
    except OSError as error:
        raise TrajectoryError(f"{path}: cannot read ({error.strerror})") from error
    content = parsed(text, path)
    if content.get("format") != expected_format:
        raise TrajectoryError(
            f"{path}: not written by llc-dynamics, or damaged (no format '{expected_format}' in it); "
            "give a run folder, or restore the file from a copy"
        )
    checksum = content.pop("checksum", None)
    version = content.get("schema_version")
    if type(version) is not int or version < 1:
        raise CorruptRunError(f"{path}: {str(version)[:40]!r} is no schema version; restore the file from a copy")
    if version != SCHEMA_VERSION:
        raise other_schema(path, version)
    if checksum != _checksum(content):
        raise CorruptRunError(
            f"{path}: does not match its checksum, so it was damaged or edited; restore it from a copy"
        )
    return content


def parsed(text: bytes | None, path: Path) -> dict[str, Any]:
    """A JSON object; `CorruptRunError`, naming `path`, for anything else, and for a larger one than any of ours.

    text : None for one of which only so much is known that it is too large.
    """
    if text is None or len(text) > LARGEST_JSON:
        raise CorruptRunError(
            f"{path}: more than {LARGEST_JSON >> 20} MiB, which no such file has; restore it from a copy"
        )
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise CorruptRunError(f"{path}: damaged (not valid JSON, {len(text)} bytes); restore it from a copy") from None
    if _deeper_than(content, _DEEPEST):
        raise CorruptRunError(f"{path}: nested more than {_DEEPEST} deep, as no such file is; restore it from a copy")
    return content if isinstance(content, dict) else {}


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
        nested = [each for each in level if isinstance(each, dict | list)]
        level = [item for each in nested for item in (each.values() if isinstance(each, dict) else each)]
    return any(isinstance(each, dict | list) for each in level)


def plain_config(value: Any, where: str = "config") -> Any:
    """`value` as JSON types: mappings with string keys, lists, strings, numbers, booleans, None.

    Infinities and NaN become the strings "inf", "-inf", "nan"; numpy numbers become Python's, paths strings.
    `ConfigError` names whatever else is in it.
    """
    value = plain_number(value)
    if value is None or isinstance(value, bool | str | int):
        return value
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
