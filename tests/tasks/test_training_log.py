from pathlib import Path
from typing import Any

import pytest

from tasks.training_log import LogTail, append_row, read_lines, read_rows, read_spikes, truncate


def write(path: Path, *rows: dict[str, Any]) -> None:
    with path.open("a") as file:
        for row in rows:
            append_row(file, row)


def test_rows_are_lines_of_json(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    write(path, {"step": 1, "train_loss": 2.5}, {"step": 2, "train_loss": 2.0})
    assert path.read_text() == '{"step": 1, "train_loss": 2.5}\n{"step": 2, "train_loss": 2.0}\n'
    assert read_rows(path) == [{"step": 1, "train_loss": 2.5}, {"step": 2, "train_loss": 2.0}]


def test_a_number_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(tmp_path / "train.jsonl", {"train_loss": float("nan")})


def test_a_missing_log_has_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "train.jsonl") == []


def test_a_tail_yields_each_row_once(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    tail = LogTail(path)
    assert list(tail.rows()) == []
    write(path, {"step": 1})
    assert list(tail.rows()) == [{"step": 1}]
    assert list(tail.rows()) == []
    write(path, {"step": 2}, {"step": 3})
    assert list(tail.rows()) == [{"step": 2}, {"step": 3}]


def test_a_line_still_being_written_waits(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    tail = LogTail(path)
    path.write_text('{"step": 1}\n{"st')
    assert list(tail.rows()) == [{"step": 1}]
    with path.open("a") as file:
        file.write('ep": 2}\n')
    assert list(tail.rows()) == [{"step": 2}]


def test_truncating_drops_later_rows_and_a_broken_last_line(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    write(path, *({"step": step, "cursor_rows": 8 * step} for step in (1, 2, 3)))
    with path.open("a") as file:
        file.write('{"step": 4, "tr')
    truncate(path, 16)
    assert [line["step"] for line in read_lines(path)] == [1, 2]
    assert path.read_text().endswith("}\n")
    assert [each.name for each in tmp_path.iterdir()] == ["train.jsonl"]


def test_truncating_a_missing_log_makes_none(tmp_path: Path) -> None:
    truncate(tmp_path / "train.jsonl", 2)
    assert list(tmp_path.iterdir()) == []


def test_a_tail_follows_a_log_that_was_truncated_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    write(path, *({"step": step, "cursor_rows": step} for step in range(1, 6)))
    tail = LogTail(path)
    assert len(list(tail.rows())) == 5
    truncate(path, 3)
    write(path, {"step": 4, "again": True}, {"step": 5, "again": True}, {"step": 6})
    assert list(tail.rows())[-1] == {"step": 6}


def spiking(path: Path) -> None:
    """Write three steps, of which a spike undoes two, and two steps more."""
    undoing = {"step": 4, "spike": "train_loss", "back_to_step": 1, "cursor_rows": 4}
    write(path, *({"step": step, "cursor_rows": step} for step in (1, 2, 3)))
    write(path, undoing, {"step": 2, "cursor_rows": 5}, {"step": 3, "cursor_rows": 6})


def test_steps_that_a_spike_undid_stay_in_the_log_and_are_no_steps(tmp_path: Path) -> None:
    spiking(tmp_path / "train.jsonl")
    rows = read_rows(tmp_path / "train.jsonl")
    assert [(row["step"], row["cursor_rows"]) for row in rows] == [(1, 1), (2, 5), (3, 6)]
    assert len(read_lines(tmp_path / "train.jsonl")) == 6
    assert [line["step"] for line in read_spikes(tmp_path / "train.jsonl")] == [4]


def test_truncating_keeps_the_spike_before_the_cursor_and_drops_the_one_after(
    tmp_path: Path,
) -> None:
    path = tmp_path / "train.jsonl"
    spiking(path)
    truncate(path, 5)
    assert [line["cursor_rows"] for line in read_lines(path)] == [1, 2, 3, 4, 5]
    truncate(path, 1)
    assert read_lines(path) == [{"step": 1, "cursor_rows": 1}]
