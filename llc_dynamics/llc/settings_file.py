"""Settings of an estimate as a TOML file: what `calibrate` writes and `llc-dynamics llc --settings` takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from llc_dynamics.errors import ConfigError
from llc_dynamics.llc.settings import EstimateSettings, Loss, settings_from_mapping, settings_to_mapping
from llc_dynamics.settings import load_toml
from llc_dynamics.trajectory.files import storage_errors, write_whole


def write_settings(
    path: str | Path, settings: EstimateSettings, loss: str, calibration: Mapping[str, Any] | None = None
) -> Path:
    """Write the settings as the table [llc]; what is not set is left out.

    calibration : what is to be said about how they were found; a table of its own, for readers.
    """
    path = Path(path)
    content: dict[str, Any] = {"llc": {"loss": loss, **_without_none(settings_to_mapping(settings))}}
    if calibration is not None:
        content["calibration"] = dict(calibration)
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, tomli_w.dumps(content).encode())
    return path


def read_settings(path: str | Path) -> tuple[EstimateSettings, Loss]:
    """The settings, and the loss ("given" or "behavioural") they were chosen for.

    Raises `ConfigError` for a missing file, bad TOML, or an unknown or mistyped setting.
    """
    table = load_toml(path).get("llc")
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: no [llc] table; `llc-dynamics calibrate` writes such a file")
    values = dict(table)
    loss = values.pop("loss", "given")
    if loss not in ("given", "behavioural"):
        raise ConfigError(f"{path}: loss must be 'given' or 'behavioural', got {loss!r}")
    if not isinstance(values.get("sampler"), dict):
        raise ConfigError(f"{path}: no [llc.sampler] table that says which kernel to use")
    return settings_from_mapping(values, f"{path} [llc]"), loss


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
