"""Check that the demo finds what the README files claim of it.

    llc-dynamics stages runs/demo --json | python experiments/transient_ridge/check_demo.py README.md FILE ...

Two things are checked:

- the verdicts: M = 12 is transient, M = 2 and M = infinity are not;
- every marked number of the files. A mark is a comment before the number, which names a figure of the run and how far
  another machine may come out from it (rounding alone, if nothing is said):

      t_crit is <!-- demo: M-12.t_crit +-150 -->1,100, and <!-- demo: llc.converged +-2 -->4 of 24 points converge

  A percent sign after the number stands for hundredths, in the tolerance as well.

The exit status is 1 where anything disagrees, with a line for each. `--figures` prints all figures that may be marked.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VERDICTS = {"M-2": False, "M-12": True, "M-inf": False}
_MARK = re.compile(
    r"<!-- demo: (?P<name>\S+)(?: \+-(?P<within>[\d.]+))? -->"
    r"\s*[*`(]*(?P<number>[-+]?[\d,]*\.?\d+)(?P<percent>%?)"
)
_AT_START = re.compile(r"^ *<!-- demo:.*?-->", re.MULTILINE)
_ANY_MARK = re.compile(r"<!-- demo:.*?-->")


def figures_of(findings: Mapping[str, Any]) -> dict[str, float]:
    """Every number that may be marked, by name: `M-12.t_crit`, `M-12.specialisation.ratio`, `M-12.llc.converged`."""
    figures: dict[str, float] = {"llc.points": 0, "llc.converged": 0}
    for run in findings["runs"]:
        name = run["name"]
        for transition in run["transitions"]:
            _add(figures, name, transition["transience"])
            _add(figures, f"{name}.specialisation", transition["specialisation"])
        if run["llc"] is not None:
            converged = run["llc"]["converged"]
            counts = {"points": len(converged), "converged": sum(converged)}
            _add(figures, f"{name}.llc", counts)
            for each, count in counts.items():
                figures[f"llc.{each}"] += count
    return figures


def _add(figures: dict[str, float], name: str, fields: Mapping[str, Any] | None) -> None:
    for field, value in (fields or {}).items():
        values = {field: value}
        if isinstance(value, list) and len(value) == 2:
            values = {f"{field}.low": value[0], f"{field}.high": value[1]}
        for each, number in values.items():
            if isinstance(number, int | float) and not isinstance(number, bool):
                figures[f"{name}.{each}"] = float(number)


def wrong_verdicts(findings: Mapping[str, Any]) -> list[str]:
    """A line for every run whose verdict is not the claimed one."""
    runs = {run["name"]: run for run in findings["runs"]}
    wrong = []
    for name, claimed in VERDICTS.items():
        transitions = runs[name]["transitions"] if name in runs else []
        verdicts = [each["transience"] for each in transitions if each["transience"] is not None]
        if not verdicts:
            wrong.append(f"{name}: no verdict on transience; it should be {_kind(claimed)}")
        elif verdicts[0]["transient"] is not claimed:
            reason = verdicts[0]["reasons"][0]["text"]
            wrong.append(f"{name}: {_kind(verdicts[0]['transient'])} ({reason}); it should be {_kind(claimed)}")
    return wrong


def _kind(transient: bool) -> str:
    return "transient" if transient else "not transient"


def wrong_numbers(text: str, where: str, figures: Mapping[str, float]) -> list[str]:
    """A line for every marked number of a document that the figures do not bear out, or if none is marked."""
    marks = list(_MARK.finditer(text))
    read = {mark.start() for mark in marks}
    wrong = [
        f"{where}: no number follows {mark.group()}, or it is not written as <!-- demo: FIGURE +-5 -->"
        for mark in _ANY_MARK.finditer(text)
        if mark.start() not in read
    ]
    wrong += [
        f"{where}: {mark.group().strip()} begins a line, where Markdown ends the paragraph; write a word before it"
        for mark in _AT_START.finditer(text)
    ]
    if not marks:
        wrong.append(f"{where}: no number of the demo is marked; write <!-- demo: FIGURE --> before one")
    for mark in marks:
        name, written = mark["name"], mark["number"]
        if name not in figures:
            near = difflib.get_close_matches(name, figures, 1)
            wrong.append(f"{where}: figure {name} is unknown" + (f"; did you mean {near[0]}?" if near else ""))
            continue
        number, percent = written.replace(",", ""), mark["percent"]
        found = figures[name] * (100 if percent else 1)
        rounding = 0.5 * 10.0 ** -len(number.partition(".")[2])
        within = max(float(mark["within"] or 0.0), rounding)
        if not abs(float(number) - found) <= within * (1 + 1e-9):
            said = f"{written}{percent} is written (+-{within:g} is allowed)"
            wrong.append(f"{where}: {name} is {found:.6g}{percent} in this run, but {said}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", nargs="*", type=Path)
    parser.add_argument("--figures", action="store_true", help="print what may be marked, and check nothing")
    arguments = parser.parse_args()
    findings = json.load(sys.stdin)
    figures = figures_of(findings)
    if arguments.figures:
        for name, value in figures.items():
            print(f"{name} {value:.6g}")
        return
    wrong = wrong_verdicts(findings)
    for document in arguments.documents:
        wrong += wrong_numbers(document.read_text(encoding="utf-8"), str(document), figures)
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        raise SystemExit(1)
    verdicts = ", ".join(f"{name} {_kind(claimed)}" for name, claimed in VERDICTS.items())
    print(f"the demo is as claimed: {verdicts}; numbers of {len(arguments.documents)} documents agree")


if __name__ == "__main__":
    main()
