"""A training state copied to CPU memory, so that it can be written while training goes on."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from model.errors import CorruptFileError
from model.ranks import Ranks, whole
from model.training_state import (
    OPTIMIZER_FILE,
    STATE_FILE,
    TrainingState,
    read_tensors,
    state_text,
    weights,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateCopy:
    """What a training state was at one step."""

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    text: str
    """The content of the state file."""

    def save(self, directory: Path) -> None:
        """Write all but the weights; equal states give equal bytes."""
        save_file(self.optimizer, directory / OPTIMIZER_FILE)
        (directory / STATE_FILE).write_text(self.text)

    def require_saved(self, directory: Path) -> None:
        """Read again what was saved.

        Raises: CorruptFileError if a bit of it is not as in memory.
        """
        path = directory / OPTIMIZER_FILE
        require_same(path, read_tensors(path), self.optimizer)
        if (directory / STATE_FILE).read_text() != self.text:
            raise CorruptFileError(directory / STATE_FILE, "read back otherwise", "as in memory")


class Staging:
    """Memory that holds one copy at a time; taking another overwrites it."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def copy(self, state: TrainingState, ranks: Ranks) -> StateCopy | None:
        """Copy the state on the first rank, where it is put together if it is in parts.

        All ranks must ask; the others are given nothing.
        """
        own = {
            kind: self._copies(kind, tensors.items(), keep=ranks.rank == 0)
            for kind, tensors in (
                ("weights", weights(state)),
                ("optimizer", state.optimizer.tensors()),
            )
        }
        if ranks.rank:
            return None
        if torch.cuda.is_available():
            # Copies to pinned memory are under way until the device says otherwise.
            torch.cuda.synchronize()
        return StateCopy(step=state.step, text=state_text(state), **own)

    def _copies(
        self, kind: str, tensors: Iterable[tuple[str, Tensor]], *, keep: bool
    ) -> dict[str, Tensor]:
        found = {}
        for name, part in tensors:
            tensor = whole(part)
            if not keep:
                continue
            key = f"{kind}.{name}"
            if key not in self._buffers:
                self._buffers[key] = torch.empty(
                    tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda
                )
            found[name] = self._buffers[key].copy_(tensor, non_blocking=True)
        return found


def require_same(path: Path, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Hold tensors read from a file to those in memory, bit for bit.

    Raises: CorruptFileError.
    """
    if found.keys() != expected.keys():
        raise CorruptFileError(path, f"{len(found)} tensors", f"{len(expected)}, as in memory")
    for name, tensor in expected.items():
        if not torch.equal(_bits(found[name]), _bits(tensor)):
            raise CorruptFileError(path, f"{name} is read back otherwise", "as in memory")


def _bits(tensor: Tensor) -> Tensor:
    """View as bytes: a NaN equals itself then."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)
