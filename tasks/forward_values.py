"""Decide where the values of forward passes are kept: in memory if they fit, else in a file."""

from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from model.file_values import ValueFile
from model.sides import Side, num_channels
from model.teacher_forcing import Keep
from tasks.store import open_store

MEMORY_SHARE = 0.5
"""Of the memory that is available, what values may take; the rest is for weights and products."""


def value_bytes(side: Side, num_tokens: int) -> int:
    """Count the bytes of all sites that a side shows."""
    total = 0
    for site, declared in side.declarations.items():
        dtype: torch.dtype = getattr(torch, declared.dtype)
        total += num_tokens * num_channels(side.settings, site) * dtype.itemsize
    return total


@contextmanager
def keeping(reference: Side, num_tokens: int) -> Iterator[Keep]:
    """Yield what begins a mapping for values, the reference's and those of sites that depart.

    Raises: StorageError, and what a store raises.
    """
    if 2 * value_bytes(reference, num_tokens) <= MEMORY_SHARE * psutil.virtual_memory().available:
        yield dict
        return
    with open_store().building("values-") as directory, ValueFile(directory) as file:
        yield file.new_values
