"""Streams, folders, names and settings that are no good: one line, not a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_cli import PRESET, refuses

import llc_dynamics as ld
from llc_dynamics.cli import main

HOSTILE = "a\x1b[31mred\x07\nx\u202e"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("runs") / "own")


def record(path: Path) -> Path:
    with ld.TrajectoryWriter(path, torch.nn.Linear(2, 1)) as writer:
        for step in range(10):
            writer.record(step, metrics={"loss": 1.0 / (1 + step)})
        writer.finish()
    return path


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In bash, with `llc` for the command line."""
    script = f'llc() {{ "{sys.executable}" -m llc_dynamics.cli "$@"; }}; {command}'
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)


def test_a_reader_that_goes_away(run: Path) -> None:
    """What is printed is more than the pipe holds, or less."""
    done = shell(f"llc info {run} | true; echo ${{PIPESTATUS[0]}}; llc --help | true; echo ${{PIPESTATUS[0]}}")
    assert done.stderr == ""
    assert set(done.stdout.split()) <= {"0", "141"}  # 0 where all of it was written before the reader went


@pytest.mark.parametrize("arguments", ["info {run}", "verify {run}", "--help", "--version"])
def test_full_and_closed_output(run: Path, arguments: str) -> None:
    arguments = arguments.format(run=run)
    full = shell(f"llc {arguments} >/dev/full")
    assert full.returncode == 1
    assert full.stderr.startswith("llc-dynamics: ")
    assert "No space left on device; free some space" in full.stderr
    assert len(full.stderr.splitlines()) == 1
    assert shell(f"llc {arguments} >&-").stderr == ""
    assert shell(f"llc info {run}/nowhere 2>/dev/full").returncode == 1


def test_output_in_ascii(run: Path) -> None:
    ascii_only = shell(f"llc info '{run}' && llc --help", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert (ascii_only.returncode, ascii_only.stderr) == (0, "")


def test_a_backend_that_does_not_exist(run: Path, tmp_path: Path) -> None:
    done = shell(f"llc report {run} --out {tmp_path}/page.html", MPLBACKEND="nonsense")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("verb", ["train", "report", "figures", "export", "thin"])
@pytest.mark.parametrize("where", ["afile/below", "/proc/nothing/below"])
def test_output_where_nothing_can_be_written(
    verb: str, where: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "afile").write_text("mine")
    (tmp_path / "preset.toml").write_text(PRESET)
    out = str(tmp_path / where)
    refuses(
        capsys,
        {
            "train": ["train", str(tmp_path / "preset.toml"), "--out", out],
            "report": ["report", str(run), "--out", f"{out}/page.html"],
            "figures": ["report", str(run), "--out", str(tmp_path / "page.html"), "--figures", out],
            "export": ["export", str(run), "--out", f"{out}/run.h5"],
            "thin": ["thin", str(run), "--every", "2", "--out", out],
        }[verb],
        where.split("/")[1] if where.startswith("/") else "afile",
        "; ",
    )
    assert (tmp_path / "afile").read_text() == "mine"


def test_a_device_is_not_replaced_by_a_file(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = tmp_path / "pipe.html"
    os.mkfifo(pipe)
    refuses(capsys, ["report", str(run), "--out", str(pipe)], "a device or a folder")
    assert pipe.is_fifo()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("num_steps = 60", "num_steps = 1000000000000000000000000000000"),
        ("num_steps = 60", "num_steps = 1e30"),
        ("num_steps = 60", "num_steps = 9000000000000000000"),
        ("batch_size = 8", "batch_size = 1000000000000000000000000000000"),
        ("num_samples = 100", "num_samples = 1000000000000000000000000000000"),
        ("num_points = 2", "num_points = 1000000000000000000000000000000"),
        ("num_steps = 60", "num_steps = " + "9" * 6000),
        ("num_steps = 60", "a = " + "[" * 3000 + "]" * 3000),
        ("num_steps = 60", "a = " + "{a=" * 3000 + "1" + "}" * 3000),
    ],
)
def test_settings_beyond_all_bounds(old: str, new: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert old in PRESET
    path = tmp_path / "bad.toml"
    path.write_text(PRESET.replace(old, new, 1))
    refuses(capsys, ["train", str(path), "--out", str(tmp_path / "out")], str(path))
    assert not (tmp_path / "out").exists()


def test_names_do_not_reach_the_terminal_raw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refuses(capsys, ["info", str(tmp_path / HOSTILE)], r"a\x1b[31mred\x07\nx\u202e: no such folder")
    record(tmp_path / HOSTILE)
    for verb in ("info", "verify", "stages", "watch"):
        assert main([verb, str(tmp_path / HOSTILE)]) == 0
        shown = capsys.readouterr()
        assert not {"\x1b", "\x07", "\u202e"} & {*(shown.out + shown.err)}, verb
        assert r"a\x1b[31mred" in shown.out


def test_a_folder_name_that_is_no_utf_8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / os.fsdecode(b"b\xff\xfe")
    record(folder)
    for verb in ("info", "verify", "stages", "report", "watch"):
        assert main([verb, str(folder)]) == 0
    assert r"b\udcff\udcfe" in capsys.readouterr().out
    refuses(capsys, ["info", str(folder / "nowhere")], r"b\udcff\udcfe/nowhere")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"llc-dynamics {ld.__version__}\n"


def test_arguments_that_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "training"]) == 2
    assert main(["train"]) == 2
    assert "Traceback" not in capsys.readouterr().err
