"""What is said where memory runs out: how many rows at a time would have fitted."""

import gc
import resource

import psutil
import torch

from model.memory import (
    learnt_row_bytes,
    promised_bytes,
    scored_row_bytes,
    step_bytes,
)
from model.ranks import is_sharded
from tasks.session import Session
from tasks.train_errors import MemoryFullError


def memory_error(session: Session) -> MemoryFullError:
    """Estimate what would fit, after what the failed step held has been given back."""
    gc.collect()
    job, state = session.job, session.state
    learning = session.doing != "validating"
    device = next(state.model.parameters()).device
    state.optimizer.zero_grad()
    free = _free_bytes(device)
    if learning:
        free -= step_bytes(state.model, job.train.precision)
        # Gradients and moments are not there yet before the first step, and will be.
        free -= 0 if state.step else promised_bytes(state.model)
        free = max(0, free)
    of_a_row = fits = None
    if not is_sharded(state.model):
        rows = (state.model, session.train_rows.row_tokens - 1, session.validation.document_end)
        of_a_row = (
            learnt_row_bytes(*rows, job.train.precision) if learning else scored_row_bytes(*rows)
        )
        # Rows are validated one by one: where one did not fit, none does.
        fits = free // of_a_row if learning else 0
    return MemoryFullError(
        device=str(device),
        step=state.step,
        setting="train.micro_batch_rows" if learning else "rows validated at a time",
        found=job.train.micro_batch_rows if learning else 1,
        fits=fits,
        row_bytes=of_a_row or 0,
        free_bytes=free,
    )


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    own = limit - psutil.Process().memory_info().vms
    available = int(psutil.virtual_memory().available)
    return available if limit == resource.RLIM_INFINITY else max(0, min(available, own))
