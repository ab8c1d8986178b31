"""What the driver says of the GPU that a process trains on; nothing where it says nothing."""

from collections.abc import Callable

import torch

from tasks.step_watch import GPU_FIELDS


def gpu_meter(device: torch.device) -> Callable[[], dict[str, float]]:
    """Return what samples a device; it returns no field where there is no NVML to ask."""
    if device.type != "cuda":
        return dict
    import pynvml

    def sample() -> dict[str, float]:
        return {
            "gpu_utilization_percentage": pynvml.nvmlDeviceGetUtilizationRates(handle).gpu,
            "gpu_memory_megabytes": pynvml.nvmlDeviceGetMemoryInfo(handle).used / 1e6,
        }

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(
            f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        )
        assert sample().keys() == GPU_FIELDS
    except pynvml.NVMLError:
        return dict
    return sample


def device_name(device: torch.device) -> str:
    """Name the hardware as its driver does."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
