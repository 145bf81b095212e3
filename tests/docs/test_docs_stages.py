"""docs/stages.md: its blocks run as they stand, and give what stands beside them."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

DOCUMENT = Path(__file__).parents[2] / "docs" / "stages.md"


def test_the_examples(capsys):
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    known: dict[str, object] = {}
    values = 0
    for block in blocks:
        exec(compile(block, DOCUMENT.name, "exec"), known)
        for expression, value in re.findall(r"^(ld\.theory\.\S.*?\)(?:\.\w+)?) +# ([-\d.(), ]+)$", block, re.MULTILINE):
            np.testing.assert_allclose(eval(expression, known), eval(value), rtol=1e-5)
            values += 1
    plt.close("all")
    assert values == 8
    printed = capsys.readouterr().out
    for text in (printed, DOCUMENT.read_text()):  # what the page shows is what is printed, up to rounding
        assert "LLC: 1 boundaries resolved of " in text
        (place, low, high) = re.findall(r"turn at ([\d,]+) \(([\d,]+) to ([\d,]+)\), probability 1.00\n", text)[0]
        assert abs(np.log10(float(place.replace(",", "")) / 3670)) < 0.02
        assert float(low.replace(",", "")) < 3000 < float(high.replace(",", ""))
        assert re.findall(r"type ([AB])\n", text)[:2] == ["A", "B"]
    assert "ridge yields to dMMSE at n* = 7,090" in printed
