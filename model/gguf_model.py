"""A Llama or a Qwen2 in one GGUF file, as llama.cpp runs it, and back.

Vectors stay float32 in every type of file. A matrix whose rows are no multiple of a type's block
takes the next type of `FALLBACKS`.
"""

from collections.abc import Iterator, Mapping
from enum import Enum
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.architecture import (
    expected_tensors,
    require_bounds,
    require_finite,
    require_tensors,
)
from model.errors import ModelFormatError, WrongSettingError
from model.gguf_file import GgufFile, open_gguf, write_gguf
from model.gguf_layout import VERSION, GgufTensor, TensorType
from model.gguf_names import (
    encode_settings,
    gguf_name,
    interleave,
    num_interleaved_heads,
    settings_of,
    split_halves,
)
from model.gguf_tokenizer import require_tokenizer, tokenizer_metadata
from model.gguf_values import Array, Scalar, Value, ValueKind
from model.k_quants import BlockKind, decode, encode
from model.llama import LlamaSettings

__all__ = ["FileType", "describe_gguf", "read_gguf_model", "write_gguf_model"]


class FileType(Enum):
    """What most matrices of a file are: its code in llama.cpp, their type, and that of the head."""

    F32 = (0, TensorType.F32, TensorType.F32)
    F16 = (1, TensorType.F16, TensorType.F16)
    BF16 = (32, TensorType.BF16, TensorType.BF16)
    Q8_0 = (7, TensorType.Q8_0, TensorType.Q8_0)
    # As llama.cpp: the head, or the embedding that serves as one, is worth more bits.
    Q4_K = (14, TensorType.Q4_K, TensorType.Q6_K)
    Q6_K = (18, TensorType.Q6_K, TensorType.Q6_K)

    def __init__(self, code: int, matrices: TensorType, head: TensorType) -> None:
        self.code = code
        self.matrices = matrices
        self.head = head


# llama.cpp takes Q5_0 for Q4_K, which is not among ours: Q8_0 is larger and errs less.
FALLBACKS = {
    TensorType.Q4_K: TensorType.Q8_0,
    TensorType.Q6_K: TensorType.Q8_0,
    TensorType.Q8_0: TensorType.F16,
}
TORCH_TYPES = {
    TensorType.F32: torch.float32,
    TensorType.F16: torch.float16,
    TensorType.BF16: torch.bfloat16,
}
BLOCK_KINDS = {
    TensorType.Q8_0: BlockKind.Q8_0,
    TensorType.Q4_K: BlockKind.Q4_K,
    TensorType.Q6_K: BlockKind.Q6_K,
}
READABLE = (*TORCH_TYPES, *BLOCK_KINDS)
QUANTIZATION_VERSION = 2

PROVENANCE_KEYS = {
    "name": "general.name",
    "description": "general.description",
    "author": "general.author",
    "version": "general.version",
    "license": "general.license",
    "source": "assay.source",
    "created_at": "assay.created_at",
    "data_source": "assay.data_source",
    "data_license": "assay.data_license",
}


def write_gguf_model(
    path: Path,
    settings: LlamaSettings,
    tensors: Mapping[str, Tensor],
    *,
    tokenizer_json: str,
    file_type: FileType,
    provenance: Mapping[str, str],
) -> None:
    """Write a model that llama.cpp runs, one tensor in memory at a time.

    Raises: WrongTensorsError, WrongSettingError, UnencodableError (a value is too large for its
        type), ModelFormatError (one is NaN or infinite, or llama.cpp would split text otherwise
        than the tokenizer).
    """
    require_bounds(settings)
    require_tensors(str(path), settings, {name: tensors[name].shape for name in tensors})
    metadata = {
        **encode_settings(settings),
        **_provenance(provenance),
        "general.file_type": Scalar(ValueKind.U32, file_type.code),
        "general.quantization_version": Scalar(ValueKind.U32, QUANTIZATION_VERSION),
        **tokenizer_metadata(path, settings, tokenizer_json),
    }
    plan = {
        name: _type_of(settings, file_type, name, shape)
        for name, shape in expected_tensors(settings).items()
    }

    def data() -> Iterator[NDArray[np.generic]]:
        for name, kind in plan.items():
            require_finite(path, name, tensors[name])
            heads = num_interleaved_heads(settings, name)
            rows = interleave(tensors[name], heads) if heads else tensors[name]
            yield _encoded(path, name, rows.detach().cpu(), kind)

    planned = [(gguf_name(name), kind, tuple(tensors[name].shape)) for name, kind in plan.items()]
    write_gguf(path, metadata, planned, data())


def read_gguf_model(path: Path) -> tuple[LlamaSettings, dict[str, Tensor]]:
    """Read a model as float32, after its structure has been checked.

    Raises: CorruptFileError, ModelFormatError (also for NaN and infinity), WrongTensorsError.
    """
    file = open_gguf(path)
    settings = settings_of(path, file.metadata, file.tensors)
    require_tokenizer(path, settings, file.metadata)
    expected = {gguf_name(name): name for name in expected_tensors(settings)}
    # Quoted, for a name of ours that stands in the file as such is not the tensor that it means.
    shapes = {expected.get(name, repr(name)): file.tensors[name].shape for name in file.tensors}
    require_tensors(str(path), settings, shapes)
    for tensor in file.tensors.values():
        if tensor.type not in READABLE:
            known = ", ".join(kind.name for kind in READABLE)
            found = f"tensor {tensor.name!r} of type {tensor.type.name}"
            raise ModelFormatError(path, found, f"one of {known}")
    return settings, {
        name: _decoded(file, stored, name, settings) for stored, name in expected.items()
    }


def describe_gguf(path: Path) -> dict[str, object]:
    """Summarise a GGUF file of any architecture as plain JSON values.

    Raises: CorruptFileError, ModelFormatError.
    """
    file = open_gguf(path)
    scalars = {key: v.value for key, v in file.metadata.items() if isinstance(v, Scalar)}
    lists = {key: len(v.values) for key, v in file.metadata.items() if isinstance(v, Array)}
    tensors = list(file.tensors.values())
    return {
        "format": "gguf",
        "version": str(VERSION),
        "size_bytes": file.size_bytes,
        "num_tensors": len(tensors),
        "num_parameters": sum(prod(tensor.shape) for tensor in tensors),
        "metadata": scalars,
        "num_items": lists,
        "tensors": [
            {
                "name": tensor.name,
                "dtype": tensor.type.name,
                "shape": list(tensor.shape),
                "size_bytes": tensor.size_bytes,
            }
            for tensor in tensors
        ],
    }


def _type_of(
    settings: LlamaSettings, file_type: FileType, name: str, shape: tuple[int, ...]
) -> TensorType:
    if len(shape) == 1:
        return TensorType.F32
    scores = "model.embed_tokens.weight" if settings.tie_embeddings else "lm_head.weight"
    kind = file_type.head if name == scores else file_type.matrices
    while shape[-1] % kind.block_values:
        kind = FALLBACKS[kind]
    return kind


def _encoded(path: Path, name: str, rows: Tensor, kind: TensorType) -> NDArray[np.generic]:
    if kind in BLOCK_KINDS:
        return encode(BLOCK_KINDS[kind], rows.float()).numpy()
    converted = rows.to(TORCH_TYPES[kind]).contiguous()
    require_finite(path, name, converted)
    return converted.view(torch.uint8).numpy()


def _decoded(file: GgufFile, stored: str, name: str, settings: LlamaSettings) -> Tensor:
    tensor: GgufTensor = file.tensors[stored]
    content = torch.from_numpy(file.content(stored))
    if tensor.type in BLOCK_KINDS:
        values = decode(BLOCK_KINDS[tensor.type], content, tensor.shape)
    else:
        values = content.view(TORCH_TYPES[tensor.type]).reshape(tensor.shape).float()
    require_finite(file.path, name, values)
    heads = num_interleaved_heads(settings, name)
    return split_halves(values, heads) if heads else values


def _provenance(provenance: Mapping[str, str]) -> dict[str, Value]:
    for key in provenance:
        if key not in PROVENANCE_KEYS:
            raise WrongSettingError("provenance", key, f"one of {', '.join(PROVENANCE_KEYS)}")
    return {
        stored: Scalar(ValueKind.STRING, provenance[key])
        for key, stored in PROVENANCE_KEYS.items()
        if key in provenance
    }
