"""The program for a GPU does all it does on a CPU, at the size of a toy."""

import json

import pytest
from scripts import load_together

(gpu,) = load_together("benchmarks", "gpu")


def test_training_and_chains_at_the_size_of_a_toy(tmp_path, capsys) -> None:
    gpu.main(["train", "chains", "--toy", "--seconds", "2", "--out", str(tmp_path / "rows.jsonl")])
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    trained = {row["what"]: row for row in rows if row["section"] == "train"}
    assert [row["steps"] > 0 for row in trained.values()] == [True, True]
    ways = {(row["way"], row["chains"]) for row in rows if row["section"] == "chains" and row["updates a second"] > 0}
    assert ways == {(way, count) for way in ("loop", "vmap", "compiled") for count in (2,)}
    assert "| paper, M-64 |" in capsys.readouterr().out


def test_without_a_gpu_it_says_so(capsys, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--toy" in capsys.readouterr().err
