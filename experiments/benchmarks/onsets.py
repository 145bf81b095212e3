"""How often the stage detector finds an onset or an end that is there, and how well it places it.

    python experiments/benchmarks/onsets.py [--repetitions 40] [--rows ROWS.jsonl] [--out FILE]

A curve that is flat until step 1,000 and then rises straight in log t by the strength, and one that rises until then
and stays there, with independent errors of 1 and with common noise of that size. False positives: `stages.py`, nulls
and common.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
from common import Row, command_line, fill, write_json
from stages import POWER_POINTS, ROUND, common_covariance, schedule, summed

import llc_dynamics as ld
from llc_dynamics.seeding import numpy_generator
from llc_dynamics.stages import detect_stages

_KINK = 1000.0


def power(repetitions: int, path: Path | None = None) -> list[Row]:
    cells = [
        {"kind": kind, "errors": errors, "points": points, "strength": strength, "first": first}
        | {"repetitions": min(ROUND, repetitions - first)}
        for first in range(0, repetitions, ROUND)
        for kind, errors in itertools.product(("onset", "end"), ("independent", "common"))
        for points, strength in itertools.product(POWER_POINTS, (4.0, 8.0, 16.0, 32.0))
    ]
    counts = ("repetitions", "found", "anywhere", "in the interval", "with another boundary")
    return summed(fill(cells, path, power_round), ("kind", "errors", "points", "strength"), counts)


def power_round(cell: Row) -> Row:
    steps = schedule(5e4, cell["points"])
    x, kink = np.log1p(steps), math.log1p(_KINK)
    covariance = common_covariance(steps, 1.0) if cell["errors"] == "common" else np.eye(len(steps))
    given = {"covariance": covariance} if cell["errors"] == "common" else {"standard_errors": np.ones(len(steps))}
    values = np.clip((x - kink) / (x[-1] - kink), 0, 1) if cell["kind"] == "onset" else np.clip(x / kink, 0, 1)
    near = anywhere = inside = others = 0
    for repetition in range(cell["first"], cell["first"] + cell["repetitions"]):
        noise = numpy_generator(0, "benchmark of onsets", cell["points"], repetition).standard_normal(len(steps))
        made = cell["strength"] * values + np.linalg.cholesky(covariance) @ noise
        resolved = detect_stages(ld.Curve(steps, made, name="LLC", **given)).resolved
        right = [each for each in resolved if each.kind == cell["kind"]]
        near += any(abs(math.log10(each.step / _KINK)) < 0.1 for each in right)
        anywhere += bool(right)
        inside += any(each.interval[0] <= _KINK <= each.interval[1] for each in right)
        others += len(resolved) > len(right[:1])
    return {"found": near, "anywhere": anywhere, "in the interval": inside, "with another boundary": others}


def main() -> None:
    parser = command_line(__doc__, out="a JSON file for what is found")
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--rows", type=Path, help="JSON lines as they are made; a second call goes on")
    arguments = parser.parse_args()
    write_json(arguments.out, power(arguments.repetitions, arguments.rows))


if __name__ == "__main__":
    main()
