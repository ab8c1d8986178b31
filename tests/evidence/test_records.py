import errno
import json
import math
from pathlib import Path
from typing import Any

import pytest

from evidence.canonical import digest
from evidence.errors import BrokenSealError, NotPlainError
from evidence.records import (
    EPOCH_FIELDS,
    STAGES,
    Difference,
    Recipe,
    differences,
    epoch_fields,
    epoch_file,
    flatten,
    read_record,
    seal,
    stage_file,
    write_record,
)


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "stage": "shard",
        "version": 1,
        "settings": {"shard": {"seed": 1, "context_length": 32}},
        "inputs": {"tokens": "tokens:" + "0" * 64},
    }
    return Recipe(**(values | changes))


def test_the_digest_of_a_recipe_is_this() -> None:
    assert recipe().digest == "fd186f6c920a5ff5ab5cb762d9cd179b732a4fcd55126fef98f4ea842a834112"


def test_a_record_that_the_disk_refuses_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        write_record(tmp_path / "plan.json", {"a": 1})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"stage": "train"},
        {"version": 2},
        {"settings": {"shard": {"seed": 2, "context_length": 32}}},
        {"inputs": {"tokens": "tokens:" + "1" * 64}},
    ],
)
def test_every_part_of_a_recipe_is_in_its_digest(changes: dict[str, Any]) -> None:
    assert recipe(**changes).digest != recipe().digest


def test_a_tuple_and_a_list_give_one_recipe() -> None:
    assert recipe(settings={"a": (1, 2)}).digest == recipe(settings={"a": [1, 2]}).digest


def test_a_seal_is_the_digest_of_the_rest_and_the_last_key() -> None:
    sealed = seal({"b": 1, "a": 2})
    assert list(sealed) == ["b", "a", "record_sha256"]
    assert sealed["record_sha256"] == digest({"a": 2, "b": 1})


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "stage.metadata.json"
    written = write_record(path, {"b": 1.5, "a": ["x", None]})
    assert read_record(path) == written == seal({"b": 1.5, "a": ["x", None]})
    assert [each.name for each in tmp_path.iterdir()] == ["stage.metadata.json"]


@pytest.mark.parametrize(
    "edit",
    [
        {"loss": 1.0},
        {"added": 1},
        {"record_sha256": "0" * 64},
        {"record_sha256": None},
    ],
)
def test_an_edit_of_a_record_is_detected(tmp_path: Path, edit: dict[str, object]) -> None:
    path = tmp_path / "record.json"
    record = write_record(path, {"loss": 2.0})
    path.write_text(json.dumps({**record, **edit}))
    with pytest.raises(BrokenSealError) as caught:
        read_record(path)
    assert caught.value.path == str(path)
    assert caught.value.recorded != caught.value.found


def test_a_record_without_a_seal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text('{"loss": 2.0}')
    with pytest.raises(BrokenSealError):
        read_record(path)


def test_a_record_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotPlainError) as caught:
        write_record(tmp_path / "record.json", {"loss": math.nan})
    assert caught.value.where == "loss"
    assert list(tmp_path.iterdir()) == []


def test_a_record_replaces_the_one_before_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_record(path, {"loss": 1.0, "text": "x" * 1000})
    write_record(path, {"loss": 2.0})
    assert read_record(path)["loss"] == 2.0


def test_the_nine_fields_of_an_epoch_are_computed_from_its_steps() -> None:
    found = epoch_fields(
        epoch=3,
        train_losses=[1.0, 2.0, 4.5],
        val_loss=2.0,
        optimizer_state_sha="ab",
        wall_seconds=0.5,
        tokens_seen=96,
        grad_norms=[0.25, 2.0, 1.0],
    )
    assert tuple(found) == EPOCH_FIELDS
    assert found == {
        "epoch": 3,
        "train_loss": 2.5,
        "val_loss": 2.0,
        "train_ppl": pytest.approx(12.182493960703473, rel=1e-15),
        "val_ppl": pytest.approx(7.38905609893065, rel=1e-15),
        "optimizer_state_sha": "ab",
        "wall_seconds": 0.5,
        "tokens_seen": 96,
        "grad_norm_max": 2.0,
    }


def test_the_mean_of_losses_is_the_exactly_rounded_sum() -> None:
    losses = [0.1] * 10
    found = epoch_fields(
        epoch=0,
        train_losses=losses,
        val_loss=0.0,
        optimizer_state_sha="",
        wall_seconds=0.0,
        tokens_seen=0,
        grad_norms=[0.0],
    )
    assert sum(losses) / 10 != 0.1
    assert found["train_loss"] == 0.1


def test_differences_name_what_changed_by_dotted_key() -> None:
    before = {"train": {"lr": 1, "steps": 5, "betas": (1, 2)}, "gone": None, "same": {"a": 1}}
    after = {"train": {"lr": 2, "steps": 5, "betas": [1, 2]}, "new": "x", "same": {"a": 1}}
    assert differences(before, after) == [
        Difference("new", None, "x"),
        Difference("train.lr", 1, 2),
    ]


def test_nested_mappings_flatten_to_dotted_keys() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": (1, 2)}, "e": [{"f": 1}]}) == {
        "a.b.c": 1,
        "a.d": [1, 2],
        "e": [{"f": 1}],
    }


def test_the_files_of_a_run_are_named_like_this() -> None:
    assert [stage_file(stage) for stage in STAGES] == [
        "pretokenize.metadata.json",
        "shard.metadata.json",
        "train.metadata.json",
        "evaluate.metadata.json",
        "checkpoint.metadata.json",
        "bisect.metadata.json",
    ]
    assert epoch_file(7) == "epoch-007.metadata.json"
