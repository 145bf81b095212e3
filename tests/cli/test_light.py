"""What looks at runs, and what refuses its arguments, answers without torch."""

import functools
import json
import re
import shlex
import subprocess
import sys

import pytest
import torch
from stored_llc import store_point

import llc_dynamics as ld
from llc_dynamics.cli.main import VERBS, main

PROGRAM = """
import json, sys
from llc_dynamics.cli import main
for arguments, wanted in json.loads(sys.argv[1]):
    status = main(arguments)
    heavy = {"torch", "scipy", "matplotlib", "sklearn", "pandas"} & set(sys.modules)
    assert status == wanted, (arguments, status)
    assert not heavy, (arguments, heavy)
"""


def without_torch(calls):
    command = [sys.executable, "-c", PROGRAM, json.dumps(calls)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs with a point of a curve each; the second one's point is damaged."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("good", "bad"):
        with ld.TrajectoryWriter(folder / name, torch.nn.Linear(2, 1)) as writer:
            for step in range(5):
                writer.record(step, metrics={"loss": 1.0 / (1 + step)})
            writer.finish()
        store_point(ld.Trajectory(folder / name), 4, 1.0, 0.1, dimension=3, settings={"num_chains": 2})
    point = folder / "bad" / "llc" / "llc" / "step-4.h5"
    point.write_bytes(point.read_bytes()[:-1] + b"x")
    return folder


def test_looking_at_runs(runs):
    looks = [[verb, str(runs / "good"), *more] for verb in ("info", "verify") for more in ([], ["--json"])]
    done = without_torch([*((each, 0) for each in looks), (["info", str(runs)], 0), (["verify", str(runs)], 1)])
    assert "LLC 'llc': 1 of 1 points in order" in done.stdout
    assert "step-4.h5" in done.stdout


def test_refusals(runs, tmp_path):
    nowhere, out = str(tmp_path / "nowhere"), ["--out", str(tmp_path / "out")]
    broken = tmp_path / "broken.toml"
    broken.write_text("[system")
    verbs = ("calibrate", "llc", "pca", "stages", "report", "info", "verify", "watch", "view")
    refused = [
        *([verb, nowhere] for verb in verbs),
        *([verb, nowhere, *out] for verb in ("export", "import", "merge", "thin")),
        ["train", nowhere],
        ["train", "smal", *out],
        ["train", "small"],
        ["train", "demo", *out],
        ["train", str(broken), *out],
        ["llc", str(runs), "--config", "a.toml", "--settings", "b.toml"],
        ["stages", str(runs), "--repetitions", "0"],
    ]
    done = without_torch([(arguments, 1) for arguments in refused])
    assert len(done.stderr.splitlines()) == len(refused)  # one line each
    assert "demo: several systems have a preset of this name; give linear_transformers/demo or " in done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_has_an_example_that_can_be_read(verb, monkeypatch, capsys):
    assert main([verb, "--help"]) == 0
    (example,) = re.findall(r"^Example: `(.+)`$", capsys.readouterr().out, re.MULTILINE)
    called = []

    @functools.wraps(VERBS[verb])
    def read(*given, **settings):
        called.append((given, settings))

    monkeypatch.setitem(VERBS, verb, read)
    program, *arguments = shlex.split(example)
    assert (program, arguments[0], main(arguments), len(called)) == ("llc-dynamics", verb, 0, 1)


def test_completion_of_the_shell_as_documented(tmp_path):
    """The script that the documentation has people source completes verbs and options."""
    script = tmp_path / "completion.bash"
    assert main(["--tyro-write-completion", "bash", str(script)]) == 0
    ask = (
        f"source {script}; complete_with=$(complete -p llc-dynamics | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n"
        "COMP_WORDS=(llc-dynamics cal); COMP_CWORD=1; $complete_with; echo ${COMPREPLY[@]}\n"
        "COMP_WORDS=(llc-dynamics llc --set); COMP_CWORD=2; $complete_with; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["calibrate", "--settings"]
