"""A user's own system through every verb: trained here, or recorded by a loop of one's own."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import llc_dynamics as ld
from llc_dynamics.cli import main
from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.sweeps import find_runs, load_sweep
from llc_dynamics.systems.description import description_of

TOY = Path(__file__).with_name("toy_system.py")
PRESET = """
name = "toys"
[system]
name = "toy_system.py:Toy"
noise = 0.2
[training]
num_steps = 40
batch_size = 8
warmup_steps = 4
[checkpoints]
linear_interval = 4
num_log = 4
[llc]
num_points = 2
num_samples = 100
num_chains = 2
num_draws = 20
num_burnin = 5
batch_size = 8
[[runs]]
slope = 2.0
num_steps = 30
[[runs]]
slope = 0.5
learning_rate = 1e-3
"""
CALIBRATE = ["--gradients", "95", "--target-error", "5", "--num-samples", "50", "--workers", "1"]


def refuses(capsys: pytest.CaptureFixture[str], arguments: list[str], *messages: str) -> None:
    capsys.readouterr()
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1, error
    for message in messages:
        assert message in error


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two toys, trained from a preset that names the file beside it; the file is then moved away."""
    folder = tmp_path_factory.mktemp("toys")
    (folder / "toy_system.py").write_bytes(TOY.read_bytes())
    (folder / "toys.toml").write_text(PRESET)
    assert main(["train", str(folder / "toys.toml"), "--out", str(folder / "runs"), "--workers", "2"]) == 0
    (folder / "toy_system.py").unlink()
    return folder / "runs"


def test_a_preset_trains_a_system_of_a_file(toys: Path) -> None:
    assert [run.path.name for run in find_runs(toys)] == ["slope-0.5", "slope-2"]
    low, high = find_runs(toys)
    assert (low.steps[-1], high.steps[-1]) == (40, 30)
    assert low.config["system"] == {"name": "toy_system.py:Toy", "slope": 0.5, "noise": 0.2}
    assert low.config["training"]["learning_rate"] == 1e-3
    assert description_of(high).axis == ld.Axis("slope", 2.0, "slope 2")
    assert {"loss/seen", "distance/new/half", "weight_norm"} <= set(low.metric_names)
    assert str(toys) not in (toys / "sweep.json").read_text()


def test_nothing_is_loaded_unless_the_user_names_it(toys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("train", "llc", "calibrate"):
        refuses(capsys, [verb, str(toys)], "toy_system.py:Toy", "--system")
    refuses(capsys, ["llc", str(toys), "--system", f"{TOY}:Minimal"], "name the same one")
    refuses(capsys, ["llc", str(toys), "--system", f"{TOY}:Tow"], "did you mean 'Toy'")
    assert main(["train", str(toys), "--system", f"{TOY}:Toy", "--workers", "1"]) == 0
    assert main(["train", str(toys / "slope-2"), "--system", f"{TOY}:Toy", "--workers", "1"]) == 0


def test_every_verb(toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    system = ["--system", f"{TOY}:Toy"]
    assert main(["calibrate", str(toys), *system, *CALIBRATE]) == 0
    settings = ["--settings", str(toys / "calibration" / "settings.toml")]
    assert main(["llc", str(toys), *system, *settings, "--workers", "2"]) == 0
    assert main(["llc", str(toys), *system, "--name", "given", "--workers", "2"]) == 0
    for run in find_runs(toys):
        curve = ld.LLCCurve.load(run)
        assert {result.loss for result in curve.results} == {"behavioural"}
        assert np.isfinite(curve.values).all()
        assert {result.loss for result in ld.LLCCurve.load(run, "given").results} == {"given"}
    assert main(["pca", str(toys)]) == 0
    assert main(["stages", str(toys)]) == 0
    assert main(["verify", str(toys)]) == 0
    page = tmp_path / "page.html"
    assert main(["report", str(toys), "--out", str(page)]) == 0
    text = page.read_text()
    assert "slope 0.5" in text
    assert "the true slope" in text
    assert "name = &quot;toy_system.py:Toy&quot;" in text
    assert "ridge" not in text
    assert all(line.startswith(("after ", "calibration: about ")) for line in capsys.readouterr().err.splitlines())


class Digits(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Dropout(0.2))
        self.out = torch.nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.net(x))


SYSTEM = """
import torch, test_user_systems as t
class Mine:
    divergence = "kl"
    def build(self, seed): return t.Digits()
    def loss(self, model, batch): return torch.nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
    def data(self): return t.data()
"""


def data() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    return x, x[:, :3].argmax(1)


def cross_entropy(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def own_loop(path: Path, **settings: object) -> list[float]:
    """A plain loop with a recorder; the losses of its batches."""
    torch.manual_seed(0)
    model = Digits()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    x, y = data()
    found = []
    with ld.Recorder(path, model, range(0, 41, 4), **settings) as recorder:  # type: ignore[arg-type]
        recorder(0)
        for step in range(1, 41):
            loss = cross_entropy(model, (x, y)).mean()
            optimizer.zero_grad(), loss.backward(), optimizer.step()
            recorder(step, {"train_loss": loss})
            found.append(loss.item())
    return found


def test_an_own_loop_through_every_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    plain = own_loop(tmp_path / "plain")
    told = ld.Description(probes={"test": "held-out digits"}, function_vector="test", loss="cross-entropy")
    x, y = data()
    references = {"uniform": lambda batch: torch.zeros(len(batch[0]), 3)}
    settings = {"probes": {"test": (x[:30], y[:30])}, "references": references, "loss_fn": cross_entropy}
    assert own_loop(tmp_path / "digits", description=told, **settings) == plain  # the training does not notice

    run = ld.Trajectory(tmp_path / "digits")
    assert description_of(run).references == {"uniform": "uniform"}
    model = Digits().eval()
    run.load_into(model, 40)
    with torch.no_grad():
        logits = model(x[:30])
    assert run.metrics("loss/test")[-1] == pytest.approx(float(cross_entropy(model, (x[:30], y[:30])).mean()), rel=1e-5)
    assert run.metrics("distance/test/uniform")[-1] == pytest.approx(float(logits.square().mean()), rel=1e-5)
    np.testing.assert_allclose(np.asarray(run.outputs()[-1]), logits.numpy(), rtol=1e-5)
    assert run.samples("loss/test").shape == (11, 30)
    assert set(run.arrays("probes")) == {"test/batch/0", "test/batch/1", "test/reference/uniform"}

    file = tmp_path / "mine.py"
    file.write_text(SYSTEM)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    folder, system = str(tmp_path / "digits"), ["--system", f"{file}:Mine"]
    refuses(capsys, ["llc", folder], "--system my_file.py:MySystem", "ld.llc_curve")
    refuses(capsys, ["llc", folder, *system], "llc-dynamics calibrate", "--settings")
    assert main(["calibrate", folder, *system, *CALIBRATE]) == 0
    settings_file = str(tmp_path / "digits" / "calibration" / "settings.toml")
    assert main(["llc", folder, *system, "--settings", settings_file, "--workers", "1"]) == 0
    assert np.isfinite(ld.LLCCurve.load(run).values).all()
    for verb in ("pca", "stages", "verify"):
        assert main([verb, folder]) == 0
    page = tmp_path / "page.html"
    assert main(["report", folder, "--out", str(page)]) == 0
    text = page.read_text()
    assert not re.search("ridge|dMMSE|M = ", text)


def test_n_is_the_size_of_the_training_set(tmp_path: Path, monkeypatch) -> None:
    """Where the preset names none; a batch is then no larger than the set."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    file = tmp_path / "mine.py"
    file.write_text(SYSTEM)
    preset = tmp_path / "mine.toml"
    preset.write_text('name = "mine"\nsystem = "mine.py:Mine"\n[training]\nnum_steps = 5\nwarmup_steps = 0\n')
    sweep = load_sweep(preset)
    assert list(sweep.run_configs()) == ["run"]
    settings = sweep.llc.estimate_of(sweep.system)
    assert (settings.num_samples, settings.batch_size) == (60, 60)
    assert sweep.llc.loss_of(sweep.system) == sweep.system.loss
    preset.write_text(
        preset.read_text() + '[llc]\nloss = "behavioural"\nnum_samples = 7\n[[runs]]\n[[runs]]\nnum_steps = 4\n'
    )
    sweep = load_sweep(preset)
    assert list(sweep.run_configs()) == ["run-1", "run-2"]
    assert sweep.llc.estimate_of(sweep.system).num_samples == 7
    assert sweep.llc.loss_of(sweep.system).divergence == "kl"  # type: ignore[attr-defined]
    assert json.loads(json.dumps(sweep.to_mapping()))["system"] == {"name": "mine.py:Mine"}


def test_a_key_of_both_tables_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TOY.read_text().replace("noise: float", "num_steps: int = 3\n    noise: float"))
    preset = tmp_path / "mine.toml"
    preset.write_text('name = "mine"\nsystem = "mine.py:Toy"\n[[runs]]\nnum_steps = 4\n')
    with pytest.raises(ConfigError, match=r"run 1: num_steps: both \[system\] and \[training\] have it"):
        load_sweep(preset)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"probes": {"p": data()}}, "probes= needs loss_fn="),
        ({"loss_fn": cross_entropy}, "are for probes="),
        ({"probes": {"p": data()}, "loss_fn": lambda m, b: cross_entropy(m, b).mean()}, "one value a sample"),
        (
            {"probes": {"p": data()}, "loss_fn": cross_entropy, "references": {"r": lambda batch: batch[0]}},
            r"reference 'r' has shape \[60, 4\], and the outputs have \[60, 3\]",
        ),
        ({"description": {"word": "x"}}, "did you mean 'words'"),
        ({"probes": {"p": data()}, "loss_fn": cross_entropy, "arrays": {"probes": {}}}, "holds the probes"),
    ],
)
def test_bad_probes_of_a_loop(settings: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        ld.Recorder(tmp_path / "run", Digits(), [0], **settings)
    assert not (tmp_path / "run").exists()


def test_a_recorder_takes_a_system(tmp_path: Path) -> None:
    from llc_dynamics.systems.registry import make_system, system_class

    toy = make_system(system_class(f"{TOY}:Toy"), {"slope": 3.0}, "here")
    with ld.Recorder(tmp_path / "run", toy.build(0), [0], system=toy) as recorder:
        recorder(0)
    run = ld.Trajectory(tmp_path / "run")
    assert description_of(run) == toy.describe()
    assert {"loss/new", "distance/seen/slope", "weight_norm"} <= set(run.metric_names)
    assert re.fullmatch(r"slope-3", description_of(run).axis.folder)  # type: ignore[union-attr]
