"""Settings of the tasks and the device: what they refuse, and what they give."""

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.errors import WrongSettingError
from tasks.checkpoint_settings import CheckpointSettings
from tasks.device import choose_device, num_threads
from tasks.runtime import RuntimeSettings
from tasks.thresholds import Thresholds
from tasks.units import num_workers
from tests.tasks.tiny import tiny_settings

SETTINGS = tiny_settings(Path("/nowhere"))
CUDA = torch.cuda.is_available()


def refused(settings: Any, **changes: Any) -> tuple[str, object, str]:
    with pytest.raises(WrongSettingError) as caught:
        replace(settings, **changes)
    return caught.value.setting, caught.value.found, caught.value.expected


@pytest.mark.parametrize("name", [field.name for field in fields(Thresholds)])
def test_a_threshold_below_zero_is_refused(name: str) -> None:
    found = refused(SETTINGS.thresholds, **{name: -1e-9})
    assert found == (f"thresholds.{name}", -1e-9, "finite and at least 0")


def test_a_loss_that_must_shrink_every_epoch_is_refused() -> None:
    found = refused(SETTINGS.thresholds, max_val_loss_growth=0.99)
    assert found == ("thresholds.max_val_loss_growth", 0.99, "at least 1")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_threshold_that_every_run_or_no_run_would_pass_is_refused(value: float) -> None:
    found = refused(SETTINGS.thresholds, max_unk_ratio=value)
    assert found[::2] == ("thresholds.max_unk_ratio", "finite and at least 0")


@pytest.mark.parametrize("name", ["name", "licence", "data_source", "data_licence"])
@pytest.mark.parametrize("text", ["", " \t"])
def test_a_bundle_that_does_not_say_what_it_is_is_refused(name: str, text: str) -> None:
    found = refused(SETTINGS.checkpoint, **{name: text})
    assert found == (f"checkpoint.{name}", "empty", "a text")


def test_a_bundle_that_says_all_is_accepted() -> None:
    settings = CheckpointSettings(name="a", licence="MIT", data_source="b", data_licence="c")
    assert settings.licence == "MIT"


def test_fewer_than_no_threads_are_refused() -> None:
    found = refused(SETTINGS.runtime, num_threads=-1)
    assert found == ("runtime.num_threads", -1, "at least 0")


def test_batches_of_no_rows_are_refused() -> None:
    found = refused(SETTINGS.runtime, evaluate_batch_rows=0)
    assert found == ("runtime.evaluate_batch_rows", 0, "at least 1")


def test_fewer_than_no_workers_are_refused() -> None:
    found = refused(SETTINGS.runtime, num_workers=-1)
    assert found == ("runtime.num_workers", -1, "at least 0")


@pytest.mark.parametrize("task_runner", ["processes", "inline"])
def test_a_scheduler_that_nobody_would_ask_is_refused(task_runner: str) -> None:
    found = refused(SETTINGS.runtime, task_runner=task_runner, scheduler="tcp://x:1")
    expected = "empty unless runtime.task_runner is dask or ray"
    assert found == ("runtime.scheduler", "tcp://x:1", expected)


def test_every_core_of_this_process_has_a_worker_unless_told() -> None:
    assert num_workers(runtime(num_workers=0)) == len(os.sched_getaffinity(0))
    assert num_workers(runtime(num_workers=3)) == 3


def runtime(**changes: Any) -> RuntimeSettings:
    return replace(SETTINGS.runtime, **changes)


def test_no_threads_means_every_core() -> None:
    assert num_threads(runtime(num_threads=0)) == os.cpu_count()
    assert num_threads(runtime(num_threads=3)) == 3


def test_an_explicit_cpu_is_the_cpu() -> None:
    assert choose_device(runtime(device="cpu")) == "cpu"


def test_the_first_gpu_is_taken_where_there_is_one() -> None:
    assert choose_device(runtime(device="auto")) == ("cuda" if CUDA else "cpu")


@pytest.mark.skipif(CUDA, reason="there is a CUDA device here")
def test_an_explicit_gpu_is_never_replaced() -> None:
    with pytest.raises(WrongSettingError) as caught:
        choose_device(runtime(device="cuda"))
    assert vars(caught.value) == {
        "setting": "runtime.device",
        "found": "cuda",
        "expected": "cpu: no CUDA device answers here",
    }
