"""How much memory rows take while they are scored or learnt from.

Shapes: T positions.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from model.llama import Llama
from model.loss import row_losses


def row_bytes(
    model: Llama, context_length: int, *, learning: bool, document_end: int | None
) -> int:
    """Measure by how much two rows take more than one.

    On a GPU it is the peak of what is allocated. On the CPU nothing says what that was: there it is
    what the backward pass keeps, and once more the logits, whose gradient is the largest.
    """
    device = next(model.parameters()).device
    measure = _on_gpu if device.type == "cuda" else _on_cpu
    run = partial(_run, model, context_length, document_end, learning=learning)
    one, two = (measure(partial(run, rows)) for rows in (1, 2))
    logits_bytes = context_length * model.settings.vocab_size * torch.float32.itemsize
    return two - one + (0 if device.type == "cuda" else logits_bytes)


def _run(
    model: Llama, context_length: int, document_end: int | None, num_rows: int, *, learning: bool
) -> None:
    device = next(model.parameters()).device
    ids_BS = torch.zeros((num_rows, context_length + 1), dtype=torch.int64, device=device)
    with torch.set_grad_enabled(learning):
        loss = row_losses(model, ids_BS, document_end).sum()
        if learning:
            # Not `backward`: whoever exchanges gradients between ranks would take part.
            torch.autograd.grad(loss, list(model.parameters()))


def _on_gpu(work: Callable[[], None]) -> int:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return torch.cuda.max_memory_allocated() - before


def _on_cpu(work: Callable[[], None]) -> int:
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        work()
    return sum(kept.values())


def is_out_of_memory(error: Exception) -> bool:
    """Recognise that memory ran out, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def promised_bytes(model: Llama) -> int:
    """Return what gradients and an optimizer's state will take that are not there yet."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return weights * (2 + 1)
