"""Rows of results that a stopped call leaves."""

from pathlib import Path

from llc_dynamics.rows import append_row, stored_rows


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert stored_rows(path) == stored_rows(None) == []
    path.write_text('{"a": 1}\n{"a": 2')
    assert stored_rows(path) == [{"a": 1}]
    append_row(path, {"a": 3})
    assert stored_rows(path) == [{"a": 1}, {"a": 3}]
