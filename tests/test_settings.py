import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from llc_dynamics.errors import ConfigError
from llc_dynamics.settings import from_mapping, load_toml, to_mapping


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    count: int = 3


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    many: tuple[Inner, ...] = ()
    shape: Literal["linear", "cosine"] = "linear"
    limit: int | None = None
    on: bool = False


def test_round_trip_through_json() -> None:
    settings = Outer("a", Inner(math.inf, 4), (Inner(1.0), Inner(2.0)), "cosine", 7, True)
    assert from_mapping(Outer, json.loads(json.dumps(to_mapping(settings)))) == settings


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"name": "a", "inner": {"rat": 1.0}}, r"x.toml: inner\.rat|x.toml: inner: rat.*did you mean 'rate'"),
        ({"name": "a", "shap": "linear"}, "shap: unknown setting; did you mean 'shape'"),
        ({"name": "a", "zzz": 1}, "unknown setting; known: inner, limit"),
        ({}, "name: this setting is required"),
        ({"name": 3}, "name: expected str, got 3"),
        ({"name": "a", "inner": {"count": 2.5}}, "count: expected int, got 2.5"),
        ({"name": "a", "inner": {"count": True}}, "count: expected int, got True"),
        ({"name": "a", "inner": {"rate": "fast"}}, "rate: expected a number, got 'fast'"),
        ({"name": "a", "inner": {"rate": math.nan}}, "rate: expected a number"),
        ({"name": "a", "shape": "liner"}, "did you mean 'linear'"),
        ({"name": "a", "inner": 3}, "expected a table of settings, got 3"),
        ({"name": "a", "many": 3}, "expected a list, got 3"),
        ({"name": "a", "on": "yes"}, "on: expected bool"),
    ],
)
def test_bad_settings_are_named(mapping: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(Outer, mapping, where="x.toml")


def test_toml(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('name = "a"\n[inner]\nrate = inf\n')
    assert from_mapping(Outer, load_toml(path)).inner.rate == math.inf
    path.write_text("name = \n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_toml(path)
    with pytest.raises(ConfigError, match="no such config file"):
        load_toml(tmp_path / "b.toml")
