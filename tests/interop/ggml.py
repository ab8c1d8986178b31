"""The quantiser of llama.cpp, called in the library that llama-cpp-python brings along."""

import ctypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.gguf_layout import TensorType
from model.k_quants import BlockKind, row_bytes

FLOATS, BYTES = ctypes.POINTER(ctypes.c_float), ctypes.POINTER(ctypes.c_uint8)


def library_directory() -> Path:
    """Find the shared libraries of llama.cpp without importing its package."""
    spec = find_spec("llama_cpp")
    origin = spec.origin if spec else None
    assert origin is not None, "llama-cpp-python is not installed"
    return Path(origin).parent / "lib"


@cache
def _library() -> Any:
    path = next(library_directory().glob("libggml-base.*"))
    library = ctypes.CDLL(str(path))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    numbers = (ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, FLOATS, BYTES, *numbers, FLOATS]
    return library


def quantize(kind: BlockKind, matrix: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Quantise as llama.cpp does without an importance matrix, on one thread."""
    rows, columns = matrix.shape
    blocks = np.zeros((rows, row_bytes(kind, columns)), np.uint8)
    written = _library().ggml_quantize_chunk(
        TensorType[kind.name].code,
        np.ascontiguousarray(matrix).ctypes.data_as(FLOATS),
        blocks.ctypes.data_as(BYTES),
        0,
        rows,
        columns,
        None,
    )
    assert written == blocks.size
    return blocks


def judging_weights(kind: BlockKind, values: Tensor) -> Tensor:
    """Weigh every value as the quantiser does where it is not told what matters."""
    if kind is BlockKind.Q8_0:
        return torch.ones_like(values)
    if kind is BlockKind.Q6_K:
        return values.square()
    groups = values.reshape(-1, 32)
    means = groups.square().mean(1, keepdim=True).sqrt()
    return (means + groups.abs()).reshape(values.shape)
