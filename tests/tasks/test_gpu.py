"""The driver's answers; there is no driver here, so that its library is made to answer."""

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

from tasks.gpu import device_name, gpu_meter

CUDA = torch.device("cuda", 0)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Answer for one GPU, and keep by which name it was asked for."""
    asked: list[str] = []

    def handle(uuid: str) -> str:
        asked.append(uuid)
        return "handle"

    properties = SimpleNamespace(uuid="fe12f313-ebd2")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", handle)
    rates, memory = SimpleNamespace(gpu=97, memory=5), SimpleNamespace(used=5_000_000_000)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", lambda _: rates)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda _: memory)
    return asked


def refuse(*_: Any) -> None:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def test_a_gpu_is_asked_for_by_its_own_name(driver: list[str]) -> None:
    assert gpu_meter(CUDA)() == {
        "gpu_utilization_percentage": 97,
        "gpu_memory_megabytes": 5000.0,
    }
    assert driver == ["GPU-fe12f313-ebd2"]


@pytest.mark.parametrize(
    "silent", ["nvmlInit", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetUtilizationRates"]
)
@pytest.mark.usefixtures("driver")
def test_a_driver_that_does_not_tell_gives_no_field(
    silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pynvml, silent, refuse)
    assert gpu_meter(CUDA)() == {}


def test_a_cpu_has_no_field_and_its_own_name() -> None:
    assert gpu_meter(torch.device("cpu"))() == {}
    assert device_name(torch.device("cpu")) == "cpu"
