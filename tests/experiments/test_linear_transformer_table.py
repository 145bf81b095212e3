"""The script of the published table: what a choice is made on, diverged runs, going on, and the rows of the table."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scripts import load_together

from llc_dynamics.training import RunConfig

torch.set_num_threads(1)
cells, table = load_together("linear_transformers", "cells", "table")
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
    monkeypatch.setitem(table.SEEDS, "full", 2)
    monkeypatch.setattr(table, "_CHOICE", 500)
    monkeypatch.setattr(table, "_REPORT", 2000)


def test_a_diverged_run_is_stored_and_flagged_and_never_chosen(tiny: None, tmp_path: Path) -> None:  # noqa: ARG001
    table.train_models("full", 2, [LABEL], str(tmp_path))
    rows = cells.rows_of(tmp_path / "models.jsonl")
    assert [(row["seed"], row["diverged"]) for row in rows] == [(0, False), (1, True)]
    assert "training loss became" in rows[1]["message"]
    (chosen,) = cells.best(rows).values()
    assert chosen["seed"] == 0
    table.train_models("full", 2, [LABEL], str(tmp_path))
    assert cells.rows_of(tmp_path / "models.jsonl") == rows  # nothing is trained again
    table.write_table(tmp_path, [LABEL])
    found = {(row["name"], row["layers"]): row for row in cells.rows_of(tmp_path / "table.jsonl")}
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
    assert cells.Cell("gdpp", 1, LABEL).published == 1.175
    assert cells.Cell("full", 2, LABEL).published == 0.188
    assert cells.Cell("full", 5, LABEL).published is None


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "models.jsonl"
    path.write_text('{"a": 1}\n{"a": 2')
    assert cells.rows_of(path) == [{"a": 1}]
