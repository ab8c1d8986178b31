"""Transfers to and from a device that the host does not wait for."""

from collections.abc import Callable

import torch
from torch import Tensor


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Begin to transfer to a device; whatever is queued there later finds it done."""
    if device.type != "cuda":
        return values.to(device)
    # From pinned memory: otherwise the host would wait for all that is queued.
    return values.pin_memory().to(device, non_blocking=True)


def coming(values: Tensor) -> Callable[[], Tensor]:
    """Begin to transfer to the host; what is returned waits for that, and for nothing later."""
    if values.device.type != "cuda":
        return lambda: values
    copied = torch.empty_like(values, device="cpu", pin_memory=True)
    copied.copy_(values, non_blocking=True)
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
    # Of its own device: that need not be the current one.
    done.record(torch.cuda.current_stream(values.device))

    def wait() -> Tensor:
        done.synchronize()
        return copied

    return wait
