"""The same bits again on a GPU."""

import os

import torch


def repeat_every_bit() -> None:
    """Have torch replace, or else refuse, what does not give the same bits twice on a GPU.

    Call it before anything computes there. On the CPU nothing of ours needs it.

    Source: https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    # Read by cuBLAS when it is first used.
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(mode=True)
    # Memory is always written before it is read here; filling it first would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
