"""Nodes of a graph that llama.cpp computes: what they are called, and their values.

Several nodes bear the same name: queries when they are projected, with their bias, as a view of
heads, and rotated. So a site is a name and an operation. What is written into its node is what
llama.cpp goes on with.

Shapes: T positions, C channels.
"""

import ctypes
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import torch
from torch import Tensor

from model.sides import require_equal

Node = tuple[str, str]
"""A name without its layer, and what ggml computes there."""
MATRIX, SUM, GAIN, ROTATION = "MUL_MAT", "ADD", "MUL", "ROPE"
SITES: Mapping[Node, str] = {
    ("embd", "GET_ROWS"): "embed",
    ("attn_norm", GAIN): "attn_norm",
    ("Qcur", ROTATION): "q_rope",
    ("Kcur", ROTATION): "k_rope",
    ("kqv_out", "CONT"): "attn_mix",
    ("attn_out", MATRIX): "attn_out",
    ("ffn_inp", SUM): "ffn_inp",
    ("ffn_norm", GAIN): "ffn_norm",
    ("ffn_gate", MATRIX): "ffn_gate",
    ("ffn_up", MATRIX): "ffn_up",
    ("ffn_swiglu", "SWIGLU"): "ffn_swigl",
    ("ffn_out", MATRIX): "ffn_out",
    ("l_out", SUM): "output",
    ("result_norm", GAIN): "final_norm",
    ("result_output", MATRIX): "logits",
}
PROJECTED = {"Qcur": "q", "Kcur": "k", "Vcur": "v"}
UNNAMED = "node_"
SIZES_AT = 16
"""Bytes before the sizes in `struct ggml_tensor`, after a type and a pointer."""


class Names:
    """Find the sites among the nodes of one graph, asked about in the order of execution."""

    def __init__(self, *, has_biases: bool) -> None:
        projected = SUM if has_biases else MATRIX
        self._sites = {
            **SITES,
            **{(name, projected): site for name, site in PROJECTED.items()},
        }
        self._mixed_in = ""

    def site(self, node: int) -> str | None:
        """Name the site whose value a node computes."""
        name, operation = name_of(node), operation_of(node)
        stem, _, layer = name.partition("-")
        kind = self._sites.get((stem, operation))
        if kind is None and name.startswith(UNNAMED) and operation == MATRIX and self._mixed_in:
            # For Qwen2 llama.cpp names what follows the mix, but not its projection.
            kind, layer = "attn_out", self._mixed_in
        if kind is None:
            return None
        self._mixed_in = layer if kind == "attn_mix" else ""
        return f"layers.{layer}.{kind}" if layer else kind


def name_of(node: int) -> str:
    """Return a node's name."""
    found: bytes = _base().ggml_get_name(node)
    return found.decode()


def operation_of(node: int) -> str:
    """Name what a node computes, as ggml does."""
    found: bytes = _base().ggml_op_desc(node)
    return found.decode()


def read(node: int) -> Tensor:
    """Copy a node's value.

    Shapes: (T, C).
    """
    sizes = (ctypes.c_int64 * 4).from_address(node + SIZES_AT)
    num_bytes = _base().ggml_nbytes(node)
    raw = bytearray(num_bytes)
    _base().ggml_backend_tensor_get(
        node, (ctypes.c_char * num_bytes).from_buffer(raw), 0, num_bytes
    )
    value = torch.frombuffer(raw, dtype=torch.float32)
    # Heads of what is rotated lie in a dimension of their own; positions come last of all.
    num_positions = sizes[2] if operation_of(node) == ROTATION else sizes[1]
    return value.reshape(num_positions, -1)


def write(node: int, value_TC: Tensor) -> None:
    """Replace a node's value.

    Raises: DifferentProgramsError if it is of another size.
    """
    raw = value_TC.to("cpu", torch.float32).contiguous().numpy().tobytes()
    require_equal(f"bytes of {name_of(node)}", _base().ggml_nbytes(node), len(raw))
    _base().ggml_backend_tensor_set(node, raw, 0, len(raw))


def can_watch() -> bool:
    """Say whether the installed llama.cpp shows its graph, and lets its nodes be read."""
    try:
        _base()
    except (OSError, StopIteration, AttributeError):
        return False
    return hasattr(lib, "ggml_backend_sched_eval_callback")


@cache
def _base() -> Any:
    directory = Path(lib.__file__).parent / "lib"
    base = ctypes.CDLL(str(next(directory.glob("libggml-base.*"))))
    for name in ("ggml_get_name", "ggml_op_desc"):
        getattr(base, name).restype = ctypes.c_char_p
        getattr(base, name).argtypes = [ctypes.c_void_p]
    base.ggml_nbytes.restype, base.ggml_nbytes.argtypes = ctypes.c_size_t, [ctypes.c_void_p]
    for name in ("ggml_backend_tensor_get", "ggml_backend_tensor_set"):
        getattr(base, name).argtypes = (
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_size_t,
        )
    return base
