"""How much memory rows take while they are scored or learnt from.

Shapes: T positions.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from model.fast_llama import FastLlama
from model.head_loss import COMPARED_AT_ONCE, positions_at_a_time
from model.llama import Llama
from model.loss import row_losses
from model.precision import Precision, product_dtype


def scored_row_bytes(model: Llama, context_length: int, document_end: int | None) -> int:
    """Measure by how much two rows take more than one while they are scored.

    On the CPU nothing says what the peak was: there it is taken for the scores of all tokens.
    """
    device = next(model.parameters()).device
    if device.type == "cpu":
        return context_length * model.settings.vocab_size * torch.float32.itemsize

    def run(num_rows: int) -> None:
        with torch.inference_mode():
            row_losses(model, _rows(num_rows, context_length, device), document_end)

    return _on_gpu(partial(run, 2)) - _on_gpu(partial(run, 1))


def learnt_row_bytes(
    model: Llama, context_length: int, document_end: int | None, precision: Precision
) -> int:
    """Measure by how much two rows take more than one while they are learnt from.

    On the CPU nothing says what the peak was: there it is taken for what the backward pass keeps.
    Compiled code keeps less than what is measured here.
    """
    dtype = product_dtype(precision, model.model.norm.weight.dtype)
    passes = FastLlama(model, dtype, compiled=False)
    passes.refresh()
    device = next(model.parameters()).device
    measure = _on_gpu if device.type == "cuda" else _on_cpu
    weights = [weight for weight in passes.parameters() if weight is not passes.head]

    def run(num_rows: int) -> None:
        inputs_BT = _rows(num_rows, context_length, device)[:, :-1]
        states_BTD = passes.states(inputs_BT, document_end)
        # Not `backward`: it would hand gradients over to the model.
        torch.autograd.grad(states_BTD.sum(), weights)

    return measure(partial(run, 2)) - measure(partial(run, 1))


def step_bytes(model: Llama, precision: Precision) -> int:
    """Say what a step takes however few rows it runs at a time: weights copied, scores compared."""
    dtype = product_dtype(precision, model.model.norm.weight.dtype)
    copied = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
    device = next(model.parameters()).device
    num_scores = positions_at_a_time(model.settings.vocab_size, device) * model.settings.vocab_size
    return copied + num_scores * (dtype.itemsize + COMPARED_AT_ONCE * torch.float32.itemsize)


def _rows(num_rows: int, context_length: int, device: torch.device) -> Tensor:
    return torch.zeros((num_rows, context_length + 1), dtype=torch.int64, device=device)


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
