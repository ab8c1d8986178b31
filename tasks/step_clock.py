"""How long steps take on a device that the host may be ahead of."""

import time
from collections import deque

import torch


class StepClock:
    """Measures steps by when the device was done with them.

    Where the host begins the next step before it looks at this one, its own clock tells when it
    looked.

    Units: seconds.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._ended: deque[_Mark] = deque()
        self.restart()

    def restart(self) -> None:
        """Count what the next step takes from now."""
        self._last = _Mark(self._device)

    def end_step(self) -> None:
        """Take note that all work of a step is queued."""
        self._ended.append(_Mark(self._device))

    def next_seconds(self) -> float:
        """Return what the next of the ended steps took since the one before; once a step."""
        ended = self._ended.popleft()
        seconds = ended.seconds_since(self._last)
        self._last = ended
        return seconds


class _Mark:
    """The time at which a device has done all that was queued until now."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = time.perf_counter()
        self.event: torch.cuda.Event | None = None
        if device.type == "cuda":
            self.event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            self.event.record(torch.cuda.current_stream(device))

    def seconds_since(self, earlier: "_Mark") -> float:
        if self.event is None or earlier.event is None:
            return self.seconds - earlier.seconds
        self.event.synchronize()
        return float(earlier.event.elapsed_time(self.event)) / 1000
