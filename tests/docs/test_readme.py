import re
from pathlib import Path

import numpy as np
import pytest
import torch

import llc_dynamics as ld

README = Path(__file__).parents[2] / "README.md"


def test_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The README's Python example, as it stands there: at most 15 lines that do something."""
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 15
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("[  0 150 300]")
    run = ld.Trajectory(tmp_path / "runs" / "mine")
    assert run.metrics("loss")[-1] < run.metrics("loss")[0]
    curve = ld.LLCCurve.load(run)
    assert curve.steps.tolist() == [0, 150, 300]
    assert np.isfinite(curve.values).all()


def test_every_verb_is_named() -> None:
    from llc_dynamics.cli.main import VERBS

    named = set(re.findall(r"`llc-dynamics (\w+)", README.read_text()))
    assert named == set(VERBS)
