import json
from pathlib import Path

from tasks.mirror_log import (
    EPOCH_METRICS,
    STEP_METRICS,
    Point,
    epoch_points,
    milliseconds,
    params,
    result_metrics,
    step_points,
    system_points,
)
from tasks.snapshots import complete_snapshots
from tasks.training_log import read_rows
from tests.tasks.tiny import EPOCH_STEPS, STEPS, Finished


def test_every_step_is_sent_as_it_was_logged(finished: Finished) -> None:
    directory = finished.training.directory
    points = list(step_points(directory, 0))
    assert len(points) == len(STEP_METRICS) * STEPS
    row = read_rows(directory / "train.jsonl")[16]
    time_ms = int(row["time"] * 1000)
    assert [point for point in points if point.step == 17] == [
        Point("train_loss", row["train_loss"], time_ms, 17),
        Point("grad_norm", row["grad_norm"], time_ms, 17),
        Point("update_norm", row["update_norm"], time_ms, 17),
        Point("learning_rate", row["learning_rate"], time_ms, 17),
        Point("tokens_per_second", row["tokens_per_second"], time_ms, 17),
        Point("tokens_seen", 17 * 256, time_ms, 17),
    ]


def test_only_steps_after_the_last_one_sent_are_sent(finished: Finished) -> None:
    points = list(step_points(finished.training.directory, STEPS - 2))
    assert [point.step for point in points] == [STEPS - 1] * 6 + [STEPS] * 6


def test_every_epoch_is_sent_at_its_last_step(finished: Finished) -> None:
    directory = finished.training.directory
    epochs = list(epoch_points(directory, -1))
    assert [snapshot.epoch for snapshot, _ in epochs] == [0, 1, 2]
    record = complete_snapshots(directory)[1].read()
    assert [(point.key, point.value, point.step) for point in epochs[1][1]] == [
        (key, record[key], 2 * EPOCH_STEPS) for key in EPOCH_METRICS
    ]
    assert [snapshot.epoch for snapshot, _ in epoch_points(directory, 1)] == [2]


def test_machine_samples_are_numbered_from_one(tmp_path: Path) -> None:
    samples = [{"time": 1.5, "cpu": 10.0, "memory": 2.0}, {"time": 6.5, "cpu": 11.0}]
    text = "".join(json.dumps(sample) + "\n" for sample in samples)
    (tmp_path / "telemetry.jsonl").write_text(text)
    assert system_points(tmp_path, 0) == [
        Point("system/cpu", 10.0, 1500, 1),
        Point("system/memory", 2.0, 1500, 1),
        Point("system/cpu", 11.0, 6500, 2),
    ]
    assert system_points(tmp_path, 1) == [Point("system/cpu", 11.0, 6500, 2)]


def test_a_training_that_has_not_begun_has_no_points(tmp_path: Path) -> None:
    assert list(step_points(tmp_path, 0)) == []
    assert list(epoch_points(tmp_path, -1)) == []
    assert system_points(tmp_path, 0) == []


def test_measurements_are_named_by_stage_and_texts_left_out() -> None:
    record = {
        "stage": "bisect",
        "measurements": {"sites": 30, "largest": 0.5, "first": "none", "absent": None},
        "wall_seconds": 2,
    }
    assert result_metrics(record) == {
        "bisect.sites": 30.0,
        "bisect.largest": 0.5,
        "bisect.wall_seconds": 2.0,
    }


def test_settings_become_texts_under_dotted_keys() -> None:
    settings = {"train": {"lr": 1e-3, "seed": 1, "rule": "muon"}, "include": ("a", "b")}
    assert params(settings) == {
        "train.lr": "0.001",
        "train.seed": "1",
        "train.rule": "muon",
        "include": '["a", "b"]',
    }


def test_times_become_milliseconds_since_1970() -> None:
    assert milliseconds("1970-01-01T00:00:01.250+00:00") == 1250
    assert milliseconds("2026-01-02T03:04:05.678+00:00") == 1767323045678
