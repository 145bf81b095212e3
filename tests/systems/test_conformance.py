"""Every system keeps the promises of the protocol: those of the package, and those of a user's file."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import llc_dynamics as ld
from llc_dynamics.errors import ConfigError, DataError, TrajectoryError
from llc_dynamics.systems.checks import check_system
from llc_dynamics.systems.description import description_of
from llc_dynamics.systems.measure import ProbeSet
from llc_dynamics.systems.registry import (
    built_in,
    make_system,
    name_of,
    spec_of,
    system_class,
    system_mapping,
    system_of,
    system_of_run,
)
from llc_dynamics.systems.system import System
from llc_dynamics.training import CheckpointConfig, RunConfig, TrainingConfig, load_config, train

torch.set_num_threads(1)
TOY = Path(__file__).with_name("toy_system.py")
SMALL = {
    "in_context_regression": {"num_layers": 1, "width": 8, "mlp_width": 8, "num_tasks": 2, "num_sequences": 600},
    "linear_transformer": {"dimension": 4, "num_examples": 8, "num_layers": 2, "num_contexts": 600},
    "sparse_heads": {
        "dimension": 4,
        "sparsity": 2,
        "num_examples": 8,
        "num_layers": 2,
        "num_heads": 2,
        "num_contexts": 600,
    },
}
SPECS = [*built_in(), f"{TOY}:Toy", f"{TOY}:Minimal"]


@pytest.fixture(params=SPECS, ids=[spec.rpartition(":")[2] for spec in SPECS])
def system(request: pytest.FixtureRequest) -> System:
    return make_system(system_class(request.param), SMALL.get(request.param, {}), "here")


def config_of(system: System, **training: object) -> RunConfig:
    settings = TrainingConfig(**{"num_steps": 20, "batch_size": 8, "warmup_steps": 2, **training})  # type: ignore[arg-type]
    return RunConfig(system, settings, CheckpointConfig(linear_interval=5, num_log=3), seed=3)


def test_it_passes_the_checks_and_has_a_name(system: System) -> None:
    probes, description = check_system(system, 1)
    assert set(description.probes) == set(probes)
    assert set(description.references) == {name for probe in probes.values() for name in probe.references}
    mapping = json.loads(json.dumps(system_mapping(system)))
    assert system_mapping(system_of(mapping, "here", type(system))) == mapping
    assert system_class(spec_of(system)).__qualname__ == type(system).__qualname__
    assert "/" not in name_of(system)


def test_the_metrics_are_those_of_the_rule(system: System) -> None:
    """The slow way: loss and outputs on whole probes, differences in plain numpy."""
    probes, description = check_system(system, 1)
    model = system.build(5)
    measured = ProbeSet(system, probes, description).measure(model)
    model.eval()
    expected = {}
    for name, probe in probes.items():
        with torch.no_grad():
            losses, outputs = system.loss(model, probe.batch), system.outputs(model, probe.batch).numpy()
        expected[f"loss/{name}"] = losses.mean().item()
        np.testing.assert_allclose(measured.samples[f"loss/{name}"], losses.numpy(), rtol=1e-5, atol=1e-7)
        for reference, target in probe.references.items():
            expected[f"distance/{name}/{reference}"] = float(((outputs - target.numpy()) ** 2).mean())
        if name == description.function_vector:
            np.testing.assert_allclose(measured.outputs, outputs, rtol=1e-5, atol=1e-6)
    assert expected.keys() <= measured.metrics.keys()
    for name, value in expected.items():
        assert measured.metrics[name] == pytest.approx(value, rel=1e-5)
    for transition in description.transitions:
        for probe, reference in transition.distances():
            assert len(measured.samples[f"distance/{probe}/{reference}"]) == len(probes[probe].references[reference])


def test_a_stopped_run_ends_as_the_unbroken_one(system: System, tmp_path: Path) -> None:
    config = config_of(system)
    whole = train(config, tmp_path / "whole")

    def stop(step: int, _: float) -> None:
        if step >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "broken", progress=stop)
    broken = train(config, tmp_path / "broken")
    assert whole.metric_names == broken.metric_names
    for name in whole.metric_names:
        np.testing.assert_array_equal(whole.metrics(name), broken.metrics(name))
    for step in whole.steps:
        one, other = whole.state_dict(int(step)), broken.state_dict(int(step))
        assert all(torch.equal(one[name], other[name]) for name in one)
    np.testing.assert_array_equal(np.asarray(whole.outputs()), np.asarray(broken.outputs()))
    assert load_config(whole, type(system)).to_mapping() == config.to_mapping()
    probes, description = check_system(system, config.seed)
    assert description_of(whole) == description
    assert {name.split("/")[0] for name in whole.arrays("probes")} == set(probes)


def test_training_does_not_touch_the_global_generators(system: System, tmp_path: Path) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    train(config_of(system), tmp_path / "run")
    assert torch.equal(torch.rand(3), expected)


def test_muon_asks_the_system(tmp_path: Path) -> None:
    toy = make_system(system_class(f"{TOY}:Toy"), {}, "here")
    with pytest.raises(ConfigError, match="Toy does not say which matrices"):
        train(config_of(toy, optimizer="muon"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_larger_than_the_training_set(tmp_path: Path) -> None:
    minimal = make_system(system_class(f"{TOY}:Minimal"), {}, "here")
    with pytest.raises(ConfigError, match=r"batch_size is 61, and data\(\) holds 60"):
        train(config_of(minimal, batch_size=61), tmp_path / "run")
    assert train(config_of(minimal, batch_size=60), tmp_path / "whole").complete


HEAD = "import torch\nfrom torch import nn\nimport llc_dynamics as ld\n"
GOOD = {
    "build": "torch.manual_seed(seed); return nn.Linear(2, 1)",
    "loss": "return model(batch[0]).square().mean(1)",
    "sample": "return (torch.randn(batch_size, 2, generator=generator),)",
}
ARGUMENTS = {
    "build": "seed",
    "loss": "model, batch",
    "sample": "generator, batch_size",
    "data": "",
    "probes": "seed",
    "describe": "",
    "outputs": "model, batch",
    "__init__": "",
}


def written(path: Path, **methods: str | None) -> str:
    """A file with a system `Mine`, of the good methods and those given; None leaves one out."""
    lines = [HEAD, "class Mine(ld.System):"]
    for name, body in {**GOOD, **methods}.items():
        if body is not None:
            lines.append(f"    def {name}(self, {ARGUMENTS[name]}): {body}")
    path.write_text("\n".join(lines) + "\n")
    return f"{path}:Mine"


BAD: list[tuple[dict[str, str | None], str]] = [
    (
        {"loss": "return model(batch[0]).square().mean()"},
        r"\[B\] = \[4\], got \[\]: it is one number .*reduction='none'",
    ),
    ({"loss": "return model(batch[0]).square()"}, r"got \[4, 1\]: take the mean over all but the first"),
    ({"loss": "return float(model(batch[0]).sum())"}, "must be a tensor .*got float"),
    ({"loss": "return model(batch[0]).detach()[:, 0]"}, "no gradient"),
    ({"loss": "return model(batch[7])"}, r"Mine: loss\(model, batch\) fails: IndexError.*mine\.py, line 7"),
    ({"build": "return nn.Linear(2, 1)"}, "called twice gives two models .*from the seed"),
    ({"build": "return 3"}, "must return a torch.nn.Module, got int"),
    ({"sample": None}, "neither sample nor data"),
    ({"data": "return (torch.zeros(9, 2),)"}, "both sample and data"),
    ({"sample": None, "data": "return torch.zeros(9, 2)"}, r"wrap a single tensor as \(tensor,\)"),
    ({"sample": None, "data": "return (torch.zeros(9, 2), torch.zeros(8))"}, "same number of samples"),
    ({"sample": "return (torch.randn(3, 2),)"}, "gave 3 samples"),
    ({"probes": "return {'p': ld.Probe((torch.randn(5, 2),))}"}, "probe 'p' changes between two calls"),
    ({"probes": "return {'p': (torch.zeros(5, 2),)}"}, r"must return \{name: ld.Probe"),
    ({"probes": "return {'a/b': ld.Probe((torch.zeros(5, 2),))}"}, "is no name"),
    ({"probes": "return {'p': ld.Probe((torch.zeros(5, 2),), torch.zeros(5))}"}, r"the target has shape \[5\]"),
    (
        {"probes": "return {'p': ld.Probe((torch.zeros(5, 2),), None, {'r': torch.zeros(4, 1)})}"},
        r"reference 'r' has shape \[4, 1\], and the outputs have \[5, 1\]",
    ),
    ({"outputs": "return model(batch[0]).sum()"}, r"outputs\(model, batch\) must be a tensor \[B, ...\]"),
    ({"describe": "return {}"}, "must return an ld.Description, got dict"),
    ({"describe": "return ld.Description(words=torch.zeros(1))"}, "words: expected at most"),
    ({"describe": "return ld.Description(axis=ld.Axis('M', torch.ones(2), 'M'))"}, "not of JSON types"),
    ({"describe": "return ld.Description(axis=ld.Axis('M', 1, '\\x1b[2J'))"}, "printable"),
    ({"describe": "return ld.Description(references={'r': 'R'})"}, r"references: 'r' is not in probes\(seed\)"),
    ({"describe": "raise RuntimeError('no words')"}, r"describe\(\) fails: RuntimeError: no words"),
]


@pytest.mark.parametrize(("methods", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_a_broken_promise_is_named_before_anything_is_written(
    methods: dict[str, str | None], message: str, tmp_path: Path
) -> None:
    mine = make_system(system_class(written(tmp_path / "mine.py", **methods)), {}, "here")
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        train(config_of(mine), tmp_path / "run")
    assert str(caught.value).isprintable()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("batch", "reference", "passes"), [(0, 3e-6, True), (0, 0.01, False), (3e-6, 0, False)])
def test_only_references_may_differ_by_rounding(batch: float, reference: float, passes: bool, tmp_path: Path) -> None:
    """Linear algebra need not repeat its last digits; what is measured on has to be the same to the last bit."""
    noisy = "torch.zeros(5, {}) + {} * torch.rand(())"
    probe = f"ld.Probe(({noisy.format(2, batch)},), None, {{'r': {noisy.format(1, reference)}}})"
    mine = make_system(system_class(written(tmp_path / "mine.py", probes=f"return {{'p': {probe}}}")), {}, "here")
    if passes:
        check_system(mine)
    else:
        with pytest.raises(ConfigError, match="probe 'p' changes between two calls"):
            check_system(mine)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("import nowhere_at_all\n", "Mine", "line 1: the file cannot be imported: ModuleNotFoundError"),
        ("x = 1\ny = 1 / 0\n", "Mine", "line 2: .*ZeroDivisionError"),
        ("x = 1\ndef f(:\n", "Mine", "line 2: .*SyntaxError"),
        ("raise SystemExit(3)\n", "Mine", "line 1: .*SystemExit"),
        ("class Mine:\n    def build(self, seed): ...\n", "Mine", "it has no loss"),
        (HEAD + "class Mine(ld.System): ...\n", "Mien", "no class 'Mien'; did you mean 'Mine'"),
        ("x = 1\n", "Mine", "no class with build and loss"),
        (HEAD + "class Mine(ld.System): ...\n", "", "say which class, 'mine.py:NAME'; .*Mine"),
    ],
)
def test_a_file_that_is_no_system(text: str, name: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        system_class(f"{path}:{name}" if name else str(path))
    assert str(path) in str(caught.value)


def test_settings_of_a_class_without_any(tmp_path: Path) -> None:
    cls = system_class(written(tmp_path / "mine.py"))
    with pytest.raises(ConfigError, match="width: Mine has no settings; make it a dataclass"):
        make_system(cls, {"width": 3}, "here")
    with pytest.raises(ConfigError, match="did you mean 'slope'"):
        make_system(system_class(f"{TOY}:Toy"), {"slpe": 1.0}, "here")


def test_no_folder_loads_a_file(tmp_path: Path) -> None:
    """Not with a colon, not without one, and not for a run that says that it was trained with a file."""
    witness = tmp_path / "loaded"
    path = tmp_path / "mine.py"
    path.write_text(f"open({str(witness)!r}, 'w').close()\n")
    os.chdir(tmp_path)
    for name in (f"{path}:Mine", "mine.py:Mine", "mine.py", str(path)):
        for read in (
            lambda config: system_of(config["system"], "run"),
            lambda config: system_of_run(config, "run", None),
            lambda config: RunConfig.from_mapping(config, "run"),
        ):
            with pytest.raises(TrajectoryError, match="--system PATH/TO/FILE"):
                read({"system": {"name": name}, "training": {}})
    assert not witness.exists()
    with pytest.raises(TrajectoryError, match=r"training loop of its own.*ld\.llc_curve"):
        system_of_run({"width": 3}, "run", None)


def test_the_system_of_a_run_has_the_settings_it_was_trained_with(tmp_path: Path) -> None:
    cls = system_class(f"{TOY}:Toy")
    run = train(config_of(make_system(cls, {"slope": 3.0}, "here")), tmp_path / "run")
    assert run.config["system"] == {"name": "toy_system.py:Toy", "slope": 3.0, "noise": 0.1}
    found = system_of_run(run.config, "run", cls)
    assert system_mapping(found) == run.config["system"]
    with pytest.raises(ConfigError, match=r"toy_system\.py:Toy.* there, and Minimal was given"):
        system_of_run(run.config, "run", system_class(f"{TOY}:Minimal"))
    assert isinstance(system_of_run({"system": "linux"}, "run", cls), ld.System)
