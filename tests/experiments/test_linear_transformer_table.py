"""The script of the published table: what a choice is made on, diverged runs, going on, and the rows of the table."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scripts import load_together

from llc_dynamics.rows import stored_rows
from llc_dynamics.seeding import torch_generator
from llc_dynamics.systems.linear_transformer import references as ref
from llc_dynamics.systems.linear_transformer.task import draw
from llc_dynamics.training import RunConfig, TrainingConfig
from llc_dynamics.training.loop import TrainingState

torch.set_num_threads(1)
cells, profiles, table, together = load_together("linear_transformers", "cells", "profiles", "table", "together")
LABEL = "sigma up to 3"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds of 40 steps in place of the recipe; seed 1 diverges."""
    recipe = cells.Cell.config

    def short(self: object, seed: int) -> RunConfig:
        config = recipe(self, seed)
        changes = {"num_steps": 40, "batch_size": 32, "final_batch_size": None, "compile": False, "warmup_steps": 0}
        if seed == 1:
            changes |= {"learning_rate": 1e30, "max_gradient_norm": None}
        return replace(config, training=replace(config.training, **changes))

    monkeypatch.setattr(cells.Cell, "config", short)
    monkeypatch.setattr(cells.Cell, "seeds", 2)
    monkeypatch.setattr(table, "_CHOICE", 500)
    monkeypatch.setattr(table, "_REPORT", 2000)


def test_a_diverged_run_is_stored_and_flagged_and_never_chosen(tiny: None, tmp_path: Path) -> None:  # noqa: ARG001
    table.train_models("full", 2, [LABEL], str(tmp_path))
    rows = stored_rows(tmp_path / "models.jsonl")
    assert [(row["seed"], row["diverged"]) for row in rows] == [(0, False), (1, True)]
    assert "training loss became" in rows[1]["message"]
    (chosen,) = cells.best(rows).values()
    assert chosen["seed"] == 0
    table.train_models("full", 2, [LABEL], str(tmp_path))
    assert stored_rows(tmp_path / "models.jsonl") == rows  # nothing is trained again
    table.write_table(tmp_path, [LABEL])
    found = {(row["name"], row["layers"]): row for row in stored_rows(tmp_path / "table.jsonl")}
    model = cells.load(cells.Cell("full", 2, LABEL), tmp_path, 0)
    on = cells.contexts("report", 2000, cells.NOISES[LABEL])
    expected = cells.adjusted(model, on, cells.oracle_loss(on))
    assert found["full", 2]["adjusted"] == pytest.approx(expected.mean().item())
    assert found["full", 2]["error"] == pytest.approx(expected.std().item() / 2000**0.5)
    assert found["full", 2]["ratio"] == pytest.approx(found["full", 2]["adjusted"] / 0.188)
    assert found["oracle", 0]["adjusted"] == 0
    text = (tmp_path / "table.md").read_text()
    assert "2 models, 1 of them diverged" in text
    assert "| FULL, 2 |" in text


def test_the_choice_is_by_the_contexts_for_it() -> None:
    row = {"algorithm": "diag", "layers": 3, "noise": LABEL, "diverged": False}
    rows = [row | {"seed": 0, "choice": 0.2}, row | {"seed": 1, "choice": 0.1}, row | {"seed": 2, "choice": 0.3}]
    assert cells.best(rows)[cells.Cell("diag", 3, LABEL)]["seed"] == 1
    choice, report = (cells.contexts(purpose, 50, cells.NOISES[LABEL]) for purpose in ("choice", "report"))
    assert not torch.isclose(choice.w, report.w).any()


def test_the_recipe() -> None:
    full, even, odd = (
        cells.Cell(name, 4, LABEL).config(seed) for name, seed in (("full", 0), ("diag", 0), ("diag", 1))
    )
    assert (full.training.learning_rate, even.training.learning_rate, odd.training.learning_rate) == (2e-2, 1e-2, 3e-2)
    clean = cells.Cell("full", 4, "sigma up to 0").config(0).training
    assert (clean.num_steps, clean.final_fraction) == (2 * full.training.num_steps, pytest.approx(1e-3))
    assert [cells.Cell(*each, LABEL).seeds for each in (("full", 4), ("diag", 3), ("diag", 2), ("gdpp", 7))] == [
        3,
        10,
        10,
        4,
    ]
    assert cells.Cell("gdpp", 1, LABEL).published == 1.175
    assert cells.Cell("full", 2, LABEL).published == 0.188
    assert cells.Cell("full", 5, LABEL).published is None


def test_models_that_train_together_move_as_they_would_alone() -> None:
    settings = TrainingConfig(num_steps=20, warmup_steps=2, learning_rate=2e-2, max_gradient_norm=0.5)
    systems = [cells.Cell("full", 2, label).system() for label in (LABEL, "sigma in 1, 3")]
    several = together.Together(systems, 2, settings, "cpu")
    drawn = [draw(torch_generator(0, "batch", step), 32, 10, 20) for step in range(5)]
    for batch in drawn:
        found = [batch.contexts(system.noise) for system in systems]
        several.update(torch.stack([each.moments for each in found]), found[0].w)
    several_models = several.unstacked()
    for place, system in enumerate(systems):
        for seed in range(2):
            state = TrainingState(RunConfig(system, settings, seed=seed), "cpu")
            batches = iter([batch.contexts(system.noise).batch for batch in drawn])
            state.draw = lambda _, __, batches=batches: next(batches)
            state.advance(5)
            for one, other in zip(several_models[2 * place + seed].parameters(), state.model.parameters(), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_deep_models_are_trained_and_stored_in_float64(tiny: None, tmp_path: Path) -> None:  # noqa: ARG001
    for layers, noise, dtype in (
        (4, 0, torch.float32),
        (5, 0, torch.float64),
        (5, 3, torch.float32),
        (6, 3, torch.float64),
    ):
        cell = cells.Cell("gdpp", layers, f"sigma up to {noise}")
        state = TrainingState(cell.config(0), "cpu")
        assert {each.dtype for each in state.model.parameters()} == {dtype}
        assert {each.dtype for each in state.draw(torch_generator(0), 3)} == {dtype}
        cells.save(state.model, cell.path(tmp_path, 0))
        loaded = cells.load(cell, tmp_path, 0)
        assert all(map(torch.equal, loaded.parameters(), (each.double() for each in state.model.parameters())))


def test_few_contexts_that_rule_a_mean_are_left_out_and_shown() -> None:
    calm = torch.linspace(0.5, 1.5, 20_000, dtype=torch.float64)
    row = table._row("full", 3, LABEL, calm, 1.0)
    assert row["adjusted"] == row["all"] == pytest.approx(1.0)
    assert table._shown(row) == "1 ± 0.002 (1.00)"
    ruled = torch.cat((calm, torch.tensor([1e6], dtype=torch.float64)))
    row = table._row("full", 3, LABEL, ruled, 1.0)
    assert (row["adjusted"], row["all"]) == (pytest.approx(1.0, rel=1e-3), pytest.approx(51.0, rel=1e-2))
    assert table._shown(row) == "1 ± 0.002 (1.00); all 51"


def test_profiles_tell_the_noise_that_a_predictor_goes_by(tiny: None, tmp_path: Path, monkeypatch) -> None:  # noqa: ARG001
    """A model that computes a ridge of constant noise has the same sigma at every level; the oracle has the level."""
    monkeypatch.setattr(profiles, "_COUNT", 200)
    monkeypatch.setattr(profiles, "weights_of", lambda _, on: ref.ridge(ref.Spectrum(on), 1.75**2))
    table.train_models("full", 2, [LABEL], str(tmp_path))
    rows = profiles.profiles(LABEL, cells.best(stored_rows(tmp_path / "models.jsonl")), tmp_path)
    levels = [row["sigma"] for row in rows if row["name"] == "FULL"]
    assert [row["implied_sigma"] for row in rows if row["name"] == "FULL"] == [1.75] * len(levels)
    assert [row["implied_sigma"] for row in rows if row["name"] == ref.LABELS["oracle"]] == levels
    assert all(row["adjusted"] == 0 for row in rows if row["name"] == ref.LABELS["oracle"])
    text = profiles.markdown(rows, lambda row: format(row["implied_sigma"], "g"))
    assert "| FULL, 2 | 1.75 |" in text
