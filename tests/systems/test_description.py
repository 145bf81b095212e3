"""What a run says about itself is data: stored, compared at resume, and checked before anyone shows it."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import llc_dynamics as ld
from llc_dynamics.errors import ConfigError, ManifestMismatchError
from llc_dynamics.systems.description import description_of

WHOLE = ld.Description(
    axis=ld.Axis("M", math.inf, "M = ∞"),
    probes={"id": "training tasks", "ood": "new tasks"},
    function_vector="id",
    references={"plain": "the plain one", "cos+sin.2": "waves"},
    transitions=(ld.Transition("plain", "cos+sin.2", "ood", "id"), ld.Transition("plain", None, "ood")),
    loss="mean squared error",
    words="A system.\nTwo lines.",
)


def _stored(folder: Path, description: Any, **settings: Any) -> ld.Trajectory:
    with ld.TrajectoryWriter(folder, torch.nn.Linear(1, 1), description=description, **settings) as writer:
        writer.finish()
    return ld.Trajectory(folder)


def test_a_description_comes_back_from_the_run(tmp_path: Path) -> None:
    run = _stored(tmp_path / "run", WHOLE.to_dict())
    assert description_of(run) == WHOLE
    json.dumps(run.description, allow_nan=False)


def test_a_run_without_one_has_the_default(tmp_path: Path) -> None:
    run = _stored(tmp_path / "run", None)
    assert run.description == {}
    assert description_of(run) == ld.Description()


def test_resuming_compares_the_description(tmp_path: Path) -> None:
    _stored(tmp_path / "run", WHOLE.to_dict())
    _stored(tmp_path / "run", None, resume=True)
    with pytest.raises(ManifestMismatchError, match=r"description\.loss"):
        _stored(tmp_path / "run", WHOLE.to_dict() | {"loss": "cross-entropy"}, resume=True)


@pytest.mark.parametrize(
    ("value", "folder"),
    [
        (12, "M-12"),
        (12.0, "M-12"),
        (math.inf, "M-inf"),
        (0.125, "M-0.125"),
        ("../../etc/passwd", "M-.._.._etc_passwd"),
        ("C:\\Windows", "M-C_Windows"),
    ],
)
def test_the_folder_of_a_run_is_one_safe_component(value: float | str, folder: str) -> None:
    assert ld.Axis("M", value, "label").folder == folder
    assert ld.Axis("..", value, "/etc/passwd").folder[0] == "_"


def test_runs_are_ordered_by_the_axis() -> None:
    values: list[float | str] = [math.inf, "b", 2, 12.0, "a", -1]
    found = sorted((ld.Axis("M", value, "x") for value in values), key=ld.Axis.order)
    assert [axis.value for axis in found] == [-1, 2, 12.0, math.inf, "a", "b"]


HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"words": "a" * 10_000_000}, "at most 65,536"),
    ({"words": "a" * 3000}, "at most 2000"),
    ({"probes": {"../x": "label"}}, "is no name"),
    ({"probes": {"a/b": "label"}}, "is no name"),
    ({"references": {"": "label"}}, "is no name"),
    ({"references": {"a": "\x1b[2Jgone"}}, "printable"),
    ({"references": {"a": "turned \u202e around"}}, "printable"),
    ({"probes": {"a": "b" * 201}}, "printable"),
    ({"probes": {"a": 3}}, "expected str"),
    ({"axis": {"name": "M", "value": 1, "label": "a\nb"}}, "axis.label"),
    ({"axis": {"name": "M", "value": [1], "label": "a"}}, "value"),
    ({"function_vector": "id"}, "function_vector"),
    ({"probes": {"p": ""}, "transitions": [{"general": "b", "specialised": None, "probe": "p"}]}, "printable"),
    ({"probes": {"p": "P"}, "transitions": [{"general": "b", "specialised": None, "probe": "p"}]}, "general"),
    ({"probes": "x" * 60_000}, "expected a table"),
    ({"\x1b[2J" + "x" * 100: 1}, "unknown setting"),
    ({"word": "x"}, "did you mean 'words'"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "message"), HOSTILE, ids=[message for _, message in HOSTILE])
def test_a_hostile_description_is_refused_in_short(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    run = _stored(tmp_path / "run", given)
    with pytest.raises(ConfigError, match=message) as caught:
        description_of(run)
    text = str(caught.value)
    assert text.startswith(str(run.path))
    assert len(text) < len(str(run.path)) + 450
    assert text.isprintable()


def test_markup_is_kept_as_text(tmp_path: Path) -> None:
    label = "<script>alert(1)</script> [bold]x[/bold]"
    run = _stored(tmp_path / "run", {"references": {"a": label}})
    assert description_of(run).references == {"a": label}
