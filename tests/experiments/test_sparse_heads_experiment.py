"""The scripts of the experiment on sparse regression at a tiny size, and what they read off a model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scripts import load_together

from llc_dynamics.errors import DataError
from llc_dynamics.rows import stored_rows
from llc_dynamics.seeding import torch_generator
from llc_dynamics.sweeps import load_sweep, run_sweep
from llc_dynamics.systems.linear_transformer.model import LinearTransformer
from llc_dynamics.systems.sparse_heads.reading import query_features, weights_by_descent_after
from llc_dynamics.systems.sparse_heads.system import SparseRegression
from llc_dynamics.systems.sparse_heads.task import SparseTask, excess_risk

torch.set_num_threads(1)
FOLDER = Path(__file__).parents[2] / "experiments" / "sparse_heads"
measured, models, tables, grid = load_together("sparse_heads", "measured", "models", "tables", "grid")
F64 = torch.float64


def tiny_sweeps(attention: str) -> dict:
    preset = load_sweep(FOLDER / "full.toml")
    system = SparseRegression(4, 2, 10, num_layers=2, num_contexts=50, num_queries=4)
    training = replace(preset.training, num_steps=20, batch_size=32, warmup_steps=0, compile=False)
    checkpoints = replace(preset.checkpoints, linear_interval=10, num_log=0)
    small = replace(preset, system=system, training=training, checkpoints=checkpoints)
    return models.cells(small, [1, 2], [0.5], [2], [attention], [0])


@pytest.mark.parametrize("attention", ["linear", "softmax"])
def test_models_are_measured_once_and_tables_made_of_them(attention: str, tmp_path: Path) -> None:
    ((folder, sweep),) = tiny_sweeps(attention).items()
    assert folder == f"{attention}-L2-sigma0.5-seed0"
    rows = tmp_path / "heads.jsonl"
    for _ in range(2):  # the second time everything is there
        for run in run_sweep(sweep, tmp_path / folder, workers=1):
            models.measure_run(str(run), str(rows), f"{folder}/{run.name}", 120)
    found = stored_rows(rows)
    assert [row["run"] for row in found] == [f"{folder}/H-1", f"{folder}/H-2"]
    one, two = found
    assert len(one["probes"]) == len(two["pruned_probes"]) == 2
    assert ("by_examples" in two) == (attention == "linear")
    assert set(two["log_ratios"]) == {"1.1", "1.2", "2.1", "2.2"}
    for text, part in (
        ("H = 2, pruned", tables.by_layer(found)),
        ("| 2 | 1 |", tables.by_head(found)),
        ("more heads, less risk", tables.claims(found)),
        ("trained at n = 10" if attention == "linear" else "", tables.by_examples(found)),
    ):
        assert text in part


def test_which_cells_are_trained() -> None:
    preset = load_sweep(FOLDER / "full.toml")
    found = models.cells(preset, None, [0.5, 1.0], [3, 2], ["linear"], [0, 1])
    assert set(found) == {
        f"linear-L{cell}-seed{seed}" for cell in ("3-sigma0.5", "3-sigma1", "2-sigma1") for seed in range(2)
    }
    sweep = found["linear-L2-sigma1-seed1"]
    assert sweep.seed == 1
    assert [config.system.num_heads for config in sweep.run_configs().values()] == [1, 2, 4, 8, 16]


def trained_row(heads: int, risk: float, keep_one: list[float], effective: list[float], pruned: float) -> dict:
    return {
        "heads": heads,
        "risk": {"median": [risk, 0.01]},
        "keep_one": {str(k + 1): [[0.1, 0.1], [ratio, 0.1]] for k, ratio in enumerate(keep_one)},
        "effective_heads": {str(k + 1): [value, 0.1] for k, value in enumerate(effective)},
        "pruned": {"median": [pruned, 0.01]},
        "descent_after": [{"median": [0.4, 0.01]}, {"median": [0.3, 0.01]}],
    }


def test_claims_by_made_up_rows() -> None:
    good = {1: trained_row(1, 0.4, [1, 1, 1], [1, 1, 1], 0.4), 8: trained_row(8, 0.3, [50, 3, 2], [6, 2, 1], 0.35)}
    assert all(tables.checked(good, 0.4).values())
    bad = {1: trained_row(1, 0.3, [1, 1, 1], [1, 1, 1], 0.3), 8: trained_row(8, 0.38, [2, 3, 2], [1, 2, 1], 0.35)}
    bad[8]["descent_after"][1]["median"][0] = 0.5
    assert not any(tables.checked(bad, 0.4).values())
    with_one = {1: trained_row(1, 0.3, [1], [1], 0.3)}
    assert "pruned is below the single-head model" not in tables.checked(with_one, 0.4)


def test_tables_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["tables.py", "--out", str(tmp_path)])
    with pytest.raises(DataError, match="no model is measured yet"):
        tables.main()


def test_the_grid_goes_on_and_its_bold_cells_are_those_that_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [SparseTask(6, 1, 12, 1.0), SparseTask(6, 6, 12, 0.1)]
    monkeypatch.setattr(grid, "tasks", lambda _: cells)
    monkeypatch.setattr("sys.argv", ["grid.py", "--out", str(tmp_path), "--contexts", "800"])
    grid.main()
    first = (tmp_path / "grid.jsonl").read_text()
    grid.main()
    assert (tmp_path / "grid.jsonl").read_text() == first
    sparse, dense = capsys.readouterr().out.splitlines()[2:4]
    assert sparse.startswith("| 6, 1, 12, 1 |")
    assert "**" in sparse
    assert "**" not in dense


def test_features_of_linear_attention_stand_for_all_queries() -> None:
    system = SparseRegression(4, 2, 10, num_layers=2, num_heads=2)
    model = system.build(0).double()
    assert isinstance(model, LinearTransformer)
    batch = tuple(each.double() for each in system.sample(torch_generator(0, "x"), 20))
    features, targets = query_features(model, batch)
    weights = torch.randn(5, generator=torch_generator(1, "w"), dtype=F64)
    found = (features[0] @ weights - targets).square().mean(1)
    queries = torch.randn(20, 20_000, 4, generator=torch_generator(2, "q"), dtype=F64)
    tokens = queries @ model.maps(batch[0])[0][:, :, :4].mT
    errors = (tokens @ weights - (queries @ batch[1][..., None])[..., 0]).square()
    assert ((errors.mean(1) - found).abs() < 5 * errors.std(1) / np.sqrt(20_000)).all()
    # The last feature alone, read out as the model does, is the model's own risk.
    own = (-features[-1][..., -1] - targets).square().mean(1)
    torch.testing.assert_close(own, system.loss(model, batch))


def test_descent_after_a_layer_against_its_steps() -> None:
    """The slow way: small steps on the residual loss of the transformed tokens."""
    system = SparseRegression(3, 2, 8, num_layers=2, num_heads=2)
    model = system.build(0).double()
    assert isinstance(model, LinearTransformer)
    contexts = system.task.contexts(torch_generator(0, "x"), 5, dtype=F64)
    t = model.maps(contexts.moments)[0]
    moments = t @ contexts.moments @ t.mT / 8
    v, time, steps = torch.zeros(5, 3, dtype=F64), 0.5, 20_000
    curvature = moments.diagonal(dim1=1, dim2=2)[:, :-1].mean(1).median()
    for _ in range(steps):
        v = v + time / curvature / steps * (moments[:, :-1, -1] - (moments[:, :-1, :-1] @ v[..., None])[..., 0])
    slow = -t[:, -1, :-1] + (t[:, :-1, :-1].mT @ v[..., None])[..., 0]
    torch.testing.assert_close(weights_by_descent_after(model, contexts, 1)(time), slow, rtol=1e-3, atol=1e-4)
    raw = weights_by_descent_after(model, contexts, 0)
    assert excess_risk(raw(1e-6), torch.zeros_like(contexts.w)).max() < 1e-6
    ols = torch.linalg.solve(contexts.moments[:, :-1, :-1], contexts.moments[:, :-1, -1:])[..., 0]
    torch.testing.assert_close(raw(1e6), ols, rtol=1e-4, atol=1e-4)


def test_a_run_of_another_number_of_examples_is_scaled() -> None:
    system = SparseRegression(4, 2, 10, num_layers=2, num_heads=2)
    moments, w = measured.batch_of(system, 4000, 20)
    expected = 10 * (torch.eye(4, dtype=F64))
    assert ((moments[:, :4, :4].mean(0) - expected).abs() < 0.5).all()
    assert w.shape == (4000, 4)
