"""The Python blocks of README.md and docs/*.md run in order, page by page, as a reader would run them.

The blocks of one page share a namespace and an empty folder. A block whose first line is `# file: NAME` is a file that
the reader saves (Python or TOML). `<!-- setup: ... -->` holds code that a page needs and does not show.
"""

import re
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import llc_dynamics as ld
from llc_dynamics.cli.main import VERBS, main

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(
    r"^<!-- setup:\n(?P<setup>.*?)-->$|^```(?P<kind>python|toml|bash)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
FILE = re.compile(r"# file: (\S+)\n")
VALUE = re.compile(r"^(ld\.\S.*?\)(?:\.\w+)?) +# (\(?-?\d[-\d., ]*\)?)$", re.MULTILINE)  # an expression, its value
ELSEWHERE = {"trajectory-format.md"}  # tests/runs runs its blocks where this package cannot be imported
COMMANDS = {"docs/your-own-system.md"}  # pages whose `llc-dynamics ...` lines are run as well
# Extras, whose blocks tests/adapters runs where they are installed; and the package that users come from.
NOT_HERE = ("pytorch_lightning", "transformers", "devinterp")

PAGES = {
    page.relative_to(ROOT).as_posix(): page.read_text()
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if "```python\n" in page.read_text() and page.name not in ELSEWHERE
}


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """(kind, code) of each block, with its line numbers kept by empty lines before it."""
    for match in BLOCK.finditer(text):
        kind, code = ("python", match["setup"]) if match["setup"] else (match["kind"], match["code"])
        if FILE.match(code):
            yield "file", code
        elif kind == "bash":
            yield "bash", code
        elif kind == "python" and not any(f"import {name}" in code or f"from {name}" in code for name in NOT_HERE):
            yield "python", "\n" * text[: match.start()].count("\n") + "\n" + code


def execute(code: str, page: str, module: types.ModuleType) -> None:
    exec(compile(code, str(ROOT / page), "exec"), module.__dict__)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """An empty folder to work in, and the module that a reader's script would be."""
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    reader = types.ModuleType("reader")
    monkeypatch.setitem(sys.modules, "reader", reader)
    yield reader
    plt.close("all")


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of(page, module, capsys):
    for kind, code in blocks(PAGES[page]):
        if kind == "file":
            Path(FILE.match(code)[1]).write_text(code)
            continue
        if kind == "bash":
            for line in re.findall(r"^llc-dynamics (.*)$", code, re.MULTILINE) if page in COMMANDS else ():
                assert main(shlex.split(line, comments=True)) == 0, line
            continue
        execute(code, page, module)
        for expression, value in VALUE.findall(code):
            np.testing.assert_allclose(eval(expression, module.__dict__), eval(value), rtol=1e-5, err_msg=expression)
    for name in re.findall(r'"(images/[^"]+)"', PAGES[page]):
        assert Path(name).stat().st_size > 1000, name
        assert f"]({name})" in PAGES[page]  # docs/figures.py makes the ones that are shown
    printed = capsys.readouterr().out
    if page in CHECKS:
        CHECKS[page](module, printed)


def check_readme(module, printed):
    curve = module.curve
    assert len(curve.steps) >= 8
    assert np.all(curve.converged)
    assert np.all(np.isfinite(curve.values))
    assert f"step {curve.steps[0]:>5}: LLC" in printed


def check_stages(_, printed):
    """What the page shows is what is printed, up to rounding."""
    assert len(VALUE.findall(PAGES["docs/stages.md"])) == 7
    for text in (printed, PAGES["docs/stages.md"]):
        assert "LLC: 1 boundaries resolved of " in text
        (place, low, high) = re.findall(r"turn at ([\d,]+) \(([\d,]+) to ([\d,]+)\), probability 1.00\n", text)[0]
        assert abs(np.log10(float(place.replace(",", "")) / 3670)) < 0.02
        assert float(low.replace(",", "")) < 3000 < float(high.replace(",", ""))
        assert re.findall(r": (rise|fall)\n", text) == ["rise", "fall"]
    assert "ridge yields to dMMSE at n* = 7,090" in printed


def check_recording(module, printed):
    run = ld.Trajectory("runs/plain")
    assert run.complete
    assert run.steps.tolist() == ld.checkpoint_schedule(400, linear_interval=100, num_log=20).tolist()
    assert run.outputs().shape == (len(run), 32, 1)
    assert "probes" in run.array_names  # what they were taken on
    assert float(printed.split()[0]) < 0.1
    # The same script again finds the run complete, and ends with the same loss.
    first = run.metrics("train_loss").tobytes()
    execute(next(code for kind, code in blocks(PAGES["docs/recording.md"])), "docs/recording.md", module)
    assert ld.Trajectory("runs/plain").metrics("train_loss").tobytes() == first


def check_moving_runs(_, printed):
    assert printed.startswith("[ 0 20]")
    assert np.isfinite(ld.LLCCurve.load(ld.Trajectory("runs/theirs")).values).all()


def check_your_own_system(_, printed):
    """What the page says of its runs."""
    for name in ("noise-0.5", "noise-1"):
        assert np.all(ld.LLCCurve.load(ld.Trajectory(f"runs/noisy/{name}")).converged)
    for step in (360, 160):
        assert f"ridge, by its loss on new samples, at step {step} " in printed
    assert "ridge" not in Path("runs/digits/report.html").read_text().lower()


CHECKS = {
    "README.md": check_readme,
    "docs/stages.md": check_stages,
    "docs/recording.md": check_recording,
    "docs/moving-runs.md": check_moving_runs,
    "docs/your-own-system.md": check_your_own_system,
}


def test_every_verb_is_in_the_table() -> None:
    table = re.findall(r"^\| `([a-z]+)[ `]", (ROOT / "docs" / "command-line.md").read_text(), re.MULTILINE)
    assert sorted(table) == sorted(VERBS)


def test_every_public_name_is_in_the_api_reference() -> None:
    named = re.findall(r"`(?:ld\.)?(\w+)`", (ROOT / "docs" / "api" / "index.md").read_text())
    assert {*ld.__all__} - {"__version__"} <= {*named}
