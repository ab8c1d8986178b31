"""The files of a checkpoint that hold weights: written, read back, and held to one forward pass."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.apr_blocks import decode_blocks, quantize
from model.apr_dtypes import AprDtype
from model.apr_model import quantized_tensors, read_model, write_model
from model.errors import ModelFormatError
from model.gguf_file import open_gguf
from model.gguf_layout import TensorType
from model.gguf_model import (
    BLOCK_KINDS,
    TORCH_TYPES,
    FileType,
    read_gguf_model,
    write_gguf_model,
)
from model.gguf_names import gguf_name
from model.hugging_face import WEIGHTS_FILE, read_directory, write_weights
from model.hugging_face_config import DTYPES
from model.k_quants import decode, encode
from model.llama import LlamaSettings
from tasks import first_forward
from tasks.checkpoint_settings import CheckpointSettings
from tasks.first_forward import forward_of, record_of, require_same
from tasks.models import APR

Tensors = Mapping[str, Tensor]
Model = tuple[LlamaSettings, Tensors]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealable:
    """A model and all that its files say of it."""

    llama: LlamaSettings
    tensors: Tensors
    tokenizer_json: str
    ends: Mapping[str, object]
    "Ids of the tokens that begin and end a text, under the keys of config.json."
    provenance: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A file that is about to be."""

    path: Path
    write: Callable[[Path], None]
    read: Callable[[], Model]
    holds: Callable[[], Tensors]
    "What it should give back, computed without it."
    is_lossless: bool


def weights_files(
    out: Path, model: Sealable, settings: CheckpointSettings
) -> Iterator[WeightsFile]:
    """Plan every file that holds weights."""
    yield _apr(out / APR, model, None)
    dtype = DTYPES[settings.safetensors_dtype]
    yield WeightsFile(
        out / WEIGHTS_FILE,
        lambda path: write_weights(
            path.parent, model.llama, model.tensors, ends=model.ends, dtype=dtype
        ),
        lambda: read_directory(out, scan=True),
        lambda: {name: tensor.to(dtype) for name, tensor in model.tensors.items()},
        is_lossless=all(tensor.dtype == dtype for tensor in model.tensors.values()),
    )
    for name in settings.apr_types:
        yield _apr(out / f"{settings.name}-{name.lower()}.apr", model, AprDtype[name])
    for file_type in settings.gguf_types:
        ending = file_type.lower().replace("_k", "k")
        yield _gguf(out / f"{settings.name}-{ending}.gguf", model, FileType[file_type])


def seal(files: Iterable[WeightsFile], model: Sealable, ids: list[list[int]]) -> dict[str, Any]:
    """Write every file, load it again, and return the record of what all of them compute.

    Raises: UnfaithfulFileError if a file does not compute what it was to hold.
    """
    reference = forward_of(model.llama, model.tensors, ids)
    found = {}
    for file in files:
        file.write(file.path)
        forward = forward_of(*file.read(), ids)
        expected = reference if file.is_lossless else forward_of(model.llama, file.holds(), ids)
        require_same(file.path, forward, expected)
        found[file.path.name] = forward
    return record_of(ids, reference, found)


def measure_files(directory: Path, lossless: list[str]) -> dict[str, int | float]:
    """Read every file with weights, and compare it with what was recorded of it.

    Raises: CorruptFileError, ModelFormatError, WrongTensorsError.
    """
    record = first_forward.read_record(directory)
    settings, reference = read_model(directory / APR, scan=True)
    first_forward.require_ids(directory, record, settings.vocab_size)
    model = first_forward.forward_of(settings, reference, record["ids"])
    unlike, other_settings, differing = 0, 0, set[str]()
    for name, kept in record["files"].items():
        found_settings, found = read_weights(directory / name)
        forward = first_forward.forward_of(found_settings, found, record["ids"])
        distance = forward.relative_l2(model)
        unlike += not first_forward.is_reproduced(forward, kept, distance)
        other_settings += found_settings != settings
        differing.update(differing_tensors(reference, found) if name in lossless else ())
    return {
        "tensors": len(reference),
        "parameters": sum(tensor.numel() for tensor in reference.values()),
        "weights_files": len(record["files"]),
        "weights_bytes": sum((directory / name).stat().st_size for name in record["files"]),
        "differing_tensors": len(differing),
        "settings_differ": other_settings,
        "files_unlike_forward": unlike,
        "forward_loss_nats": sum(record["losses_nats"]) / len(record["losses_nats"]),
        "largest_quantised_error": max(kept["relative_l2"] for kept in record["files"].values()),
    }


def differing_tensors(left: Tensors, right: Tensors) -> list[str]:
    """Name the tensors that do not hold the same values on both sides, bit for bit."""
    return sorted(
        name
        for name in left.keys() | right.keys()
        if name not in left
        or name not in right
        or not torch.equal(left[name].to(torch.float32), right[name].to(torch.float32))
    )


def read_weights(path: Path) -> Model:
    """Read one of the files with weights of a bundle, told by its name.

    Raises: CorruptFileError, ModelFormatError, WrongTensorsError.
    """
    if path.suffix == ".apr":
        return read_model(path, scan=True)
    if path.suffix == ".gguf":
        return read_gguf_model(path)
    return read_directory(path.parent, scan=True)


def _apr(path: Path, model: Sealable, quantization: AprDtype | None) -> WeightsFile:
    dtypes = quantized_tensors(model.tensors, quantization) if quantization else {}
    # The format keeps vectors in float32, where no value changes.
    tensors = {
        name: tensor if tensor.ndim > 1 else tensor.to(torch.float32)
        for name, tensor in model.tensors.items()
    }

    def write(path: Path) -> None:
        write_model(
            path,
            model.llama,
            tensors,
            tokenizer_json=model.tokenizer_json,
            provenance=model.provenance,
            quantization=quantization,
        )

    def holds() -> Tensors:
        return {
            name: decode_blocks(quantize(path, name, dtypes[name], tensor))
            if name in dtypes
            else tensor
            for name, tensor in tensors.items()
        }

    return WeightsFile(
        path, write, lambda: read_model(path, scan=True), holds, is_lossless=quantization is None
    )


def _gguf(path: Path, model: Sealable, file_type: FileType) -> WeightsFile:
    def write(path: Path) -> None:
        try:
            write_gguf_model(
                path,
                model.llama,
                model.tensors,
                tokenizer_json=model.tokenizer_json,
                file_type=file_type,
                provenance=model.provenance,
                ends=model.ends,
            )
        except ModelFormatError as error:
            error.add_note(
                "without GGUF: checkpoint.gguf_types = [], or `assay import --gguf none`"
            )
            raise

    def holds() -> Tensors:
        listed = open_gguf(path).tensors
        return {
            name: _rounded(tensor.to(torch.float32), listed[gguf_name(name)].type)
            for name, tensor in model.tensors.items()
        }

    return WeightsFile(
        path,
        write,
        lambda: read_gguf_model(path),
        holds,
        is_lossless=file_type is FileType.F32,
    )


def _rounded(tensor: Tensor, kind: TensorType) -> Tensor:
    """Give the values that a type keeps of a tensor."""
    if kind in BLOCK_KINDS:
        block = BLOCK_KINDS[kind]
        return decode(block, encode(block, tensor), tuple(tensor.shape))
    return tensor.to(TORCH_TYPES[kind])
