"""The check of the demo's claims: it holds on a run as claimed, and says what is wrong on any other."""

import json
import math
import subprocess
import sys
from copy import deepcopy

import pytest
from scripts import EXPERIMENTS, load_script
from stored_llc import store_llc
from sweep_runs import record

from llc_dynamics.cli import main

check = load_script("transient_ridge/check_demo.py")


def run(name, transient, converged=()):
    verdict = {
        "transient": transient,
        "t_crit": 1100 if transient else None,
        "t_crit_interval": [1022, 1200] if transient else None,
        "rebound_relative": 0.288,
        "reasons": [{"code": "rebound", "text": "it rose"}],
    }
    transitions = [{"transience": verdict, "specialisation": {"ratio": 25.3, "specialised": True}}]
    return {"name": name, "transitions": transitions, "llc": {"converged": list(converged)} if converged else None}


FINDINGS = {"runs": [run("M-2", False, [True, False]), run("M-12", True, [True] * 3), run("M-inf", False)]}
RIGHT = """
t_crit is <!-- demo: M-12.t_crit +-150 -->1,050 (<!-- demo: M-12.t_crit_interval.low -->1,022), it rises
by <!-- demo: M-12.rebound_relative -->28.8%, and <!-- demo: llc.converged -->4 of <!-- demo: llc.points -->5 converge.
"""


def test_a_run_as_claimed():
    assert check.wrong_verdicts(FINDINGS) == []
    assert check.wrong_numbers(RIGHT, "README", check.figures_of(FINDINGS)) == []


@pytest.mark.parametrize(("name", "said"), [("M-12", "M-12: not transient"), ("M-2", "M-2: transient")])
def test_another_verdict_is_named(name, said):
    findings = deepcopy(FINDINGS)
    (verdict,) = (each["transitions"][0]["transience"] for each in findings["runs"] if each["name"] == name)
    verdict["transient"] = not verdict["transient"]
    (line,) = check.wrong_verdicts(findings)
    assert line.startswith(said)


def test_a_run_that_is_missing_is_named():
    (line,) = check.wrong_verdicts({"runs": FINDINGS["runs"][:2]})
    assert line.startswith("M-inf: no verdict")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!-- demo: M-12.t_crit +-150 -->1,300", "M-12.t_crit is 1100 in this run, but 1,300 is written"),
        ("<!-- demo: M-12.rebound_relative -->28.6%", "is 28.8% in this run, but 28.6% is written"),
        ("<!-- demo: llc.converged -->23 of 24", "llc.converged is 4 in this run, but 23 is written"),
        ("<!-- demo: M-12.t_krit -->1,100", "did you mean M-12.t_crit?"),
        ("<!-- demo: M-2.t_crit -->1,100", "M-2.t_crit is unknown"),
        ("<!-- demo: M-12.t_crit -->about 1,100", "no number follows"),
        ("t_crit is\n  <!-- demo: M-12.t_crit -->1,100", "begins a line"),
        ("t_crit is 1,100", "no number of the demo is marked"),
    ],
)
def test_a_number_that_disagrees_is_named(text, said):
    assert any(said in line for line in check.wrong_numbers(text, "README", check.figures_of(FINDINGS)))


def test_as_a_command(tmp_path):
    document = tmp_path / "README.md"
    command = [sys.executable, str(EXPERIMENTS / "transient_ridge" / "check_demo.py"), str(document)]
    for text, status in ((RIGHT, 0), (RIGHT.replace("-->4 of", "-->5 of"), 1)):
        document.write_text(text)
        done = subprocess.run(command, input=json.dumps(FINDINGS), capture_output=True, text=True)
        assert done.returncode == status
        assert ("as claimed" in done.stdout) == (status == 0)
        assert ("llc.converged is 4" in done.stderr) == (status == 1)


def test_it_reads_what_the_command_line_prints(tmp_path, capsys):
    """On made-up runs: one leaves the general solution, one goes straight to the specialised one, one stays."""
    for name, number in {"M-2": 2.0, "M-12": 8.0, "M-inf": math.inf}.items():
        run = record(tmp_path / name, number)
        store_llc(run, [5.0, 20.0, 33.0], [0.5, 1.0, 1.0], [(), (), ()])
    assert main(["stages", str(tmp_path), "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert check.wrong_verdicts(findings) == []
    figures = check.figures_of(findings)
    assert (figures["llc.points"], figures["M-12.llc.converged"]) == (9, 3)
    assert figures["M-12.t_crit_interval.low"] <= figures["M-12.t_crit"] <= figures["M-12.t_crit_interval.high"]
    assert figures["M-2.specialisation.ratio"] > 1.5


@pytest.mark.parametrize("document", ["README.md", "experiments/transient_ridge/README.md"])
def test_the_marks_of_the_documents_can_be_read(document):
    """Whether their numbers agree only a run of the demo can tell."""
    text = (EXPERIMENTS.parent / document).read_text(encoding="utf-8")
    wrong = check.wrong_numbers(text, document, {})
    assert wrong
    assert all("is unknown" in line for line in wrong)
