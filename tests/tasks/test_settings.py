"""Settings of the tasks and the device: what they refuse, and what they give."""

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.errors import WrongSettingError
from tasks.checkpoint_settings import CheckpointSettings
from tasks.device import _do_without_compiler, _fall_back, choose_device, is_compiled, num_threads
from tasks.errors import CompilerMissingError, DeviceUnavailableError
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
    settings = CheckpointSettings(
        name="a",
        licence="MIT OR Apache-2.0",
        data_source="b",
        data_licence="c",
        safetensors_dtype="bfloat16",
        apr_types=("Q4K",),
        gguf_types=(),
    )
    assert settings.licence == "MIT OR Apache-2.0"


@pytest.mark.parametrize("text", ["unknown", "TBD", "none", "NOASSERTION", "see file", "MIT OR"])
def test_a_licence_that_grants_nothing_is_refused(text: str) -> None:
    found = refused(SETTINGS.checkpoint, licence=text)
    assert found == ("checkpoint.licence", repr(text), "an SPDX id such as Apache-2.0")


@pytest.mark.parametrize("name", ["a/b", "../a", ".hidden", "a b", "a" * 97])
def test_a_name_that_cannot_name_a_file_is_refused(name: str) -> None:
    found = refused(SETTINGS.checkpoint, name=name)
    expected = "letters, digits, '.', '_' and '-', at most 96"
    assert found == ("checkpoint.name", repr(name), expected)


@pytest.mark.parametrize(("field", "name"), [("apr_types", "Q6K"), ("gguf_types", "Q6_K")])
def test_a_type_twice_is_refused(field: str, name: str) -> None:
    found = refused(SETTINGS.checkpoint, **{field: (name, name)})
    assert found == (f"checkpoint.{field}", (name, name), "each type once")


@pytest.mark.parametrize(
    ("field", "known"),
    [
        ("apr_types", "of Q4K, Q6K, AprQ4, AprQ8"),
        ("gguf_types", "of F32, F16, BF16, Q8_0, Q4_K, Q6_K"),
    ],
)
def test_a_type_that_is_not_written_is_refused(field: str, known: str) -> None:
    assert refused(SETTINGS.checkpoint, **{field: ("Q5_1",)}) == (
        f"checkpoint.{field}",
        ("Q5_1",),
        known,
    )


def test_fewer_than_no_threads_are_refused() -> None:
    found = refused(SETTINGS.runtime, num_threads=-1)
    assert found == ("runtime.num_threads", -1, "at least 0")


def test_batches_of_no_rows_are_refused() -> None:
    found = refused(SETTINGS.runtime, fetch_requests=0)
    assert found == ("runtime.fetch_requests", 0, "at least 1")


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
    for device in ("cuda", "cuda:1"):
        with pytest.raises(DeviceUnavailableError) as caught:
            choose_device(runtime(device=device))
        assert (caught.value.device, caught.value.num_gpus) == (device, 0)


def test_a_gpu_beyond_the_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert choose_device(runtime(device="cuda:1")) == "cuda:1"
    with pytest.raises(DeviceUnavailableError) as caught:
        choose_device(runtime(device="cuda:2"))
    assert (caught.value.device, caught.value.num_gpus) == ("cuda:2", 2)


@pytest.mark.skipif(CUDA, reason="there is a CUDA device here")
def test_only_auto_falls_back_to_the_cpu_and_says_so_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _fall_back.cache_clear()
    assert [choose_device(runtime(device="auto")) for _ in range(2)] == ["cpu", "cpu"]
    assert capsys.readouterr().err == (
        "warning: runtime.device is auto and no GPU answers: the CPU is taken\n"
    )


def test_kernels_are_compiled_where_asked_and_by_default_on_a_gpu_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("shutil.which", lambda _program: "/usr/bin/compiler")
    for device, by_default in (("cpu", False), ("cuda", True)):
        assert is_compiled(runtime(device=device, compile="auto")) is by_default
        assert is_compiled(runtime(device=device, compile="on"))
        assert not is_compiled(runtime(device=device, compile="off"))
    assert not is_compiled(runtime(device="cuda", compile="auto", parallelism="fsdp"))


def test_without_a_compiler_only_an_explicit_wish_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("shutil.which", lambda _program: None)
    _do_without_compiler.cache_clear()
    assert not any(is_compiled(runtime(device="cuda", compile="auto")) for _ in range(2))
    assert capsys.readouterr().err == (
        "warning: no C++ compiler is found: training runs uncompiled, much slower\n"
    )
    with pytest.raises(CompilerMissingError) as caught:
        is_compiled(runtime(device="cpu", compile="on"))
    assert "g++" in str(caught.value)


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:0", "cuda:9", "cuda:15", "auto"])
def test_a_device_of_the_grammar_is_accepted(device: str) -> None:
    assert runtime(device=device).device == device


@pytest.mark.parametrize(
    "device",
    ["", "gpu", "tpu", "cuda:", "cuda:-1", "cuda:16", "cuda:99", "CUDA", "cuda:01", "cpu\n"],
)
def test_a_device_outside_the_grammar_is_refused(device: str) -> None:
    found = refused(SETTINGS.runtime, device=device)
    assert found == ("runtime.device", device, "cpu, cuda, cuda:N with N from 0 to 15, or auto")
