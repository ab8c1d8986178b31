"""Good .apr, safetensors and config.json files for `fuzz` to spoil, and what reads them."""

import struct
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from model.apr_dtypes import AprDtype
from model.apr_model import read_model, write_model
from model.hugging_face import write_directory
from model.model_file import open_model_file
from tests.corrupt.test_hostile_apr import GOOD, build
from tests.model.small_llama import (
    END_OF_TEXT,
    small_qwen2,
    small_settings,
    small_tensors,
    small_tokenizer,
)

HEADER_BYTES, CHECKSUM_AT, CHECKSUM_BYTES = 64, 40, 4


def apr_seeds() -> Sequence[bytes]:
    """Make a file by hand, and models as they are and quantised."""
    seeds = [build(GOOD)]
    wide = replace(small_settings(), hidden_size=256, num_layers=1)
    with tempfile.TemporaryDirectory() as directory:
        for settings, dtype in (
            (small_settings(), None),
            (small_qwen2(), AprDtype.AprQ4),
            (small_settings(), AprDtype.AprQ8),
            (wide, AprDtype.Q4K),
        ):
            path = Path(directory) / "seed.apr"
            write_model(
                path,
                settings,
                small_tensors(settings),
                tokenizer_json=small_tokenizer().to_str(),
                provenance={"name": "seed"},
                quantization=dtype,
            )
            seeds.append(path.read_bytes())
    return seeds


def reseal_apr(spoilt: bytes) -> bytes:
    """Compute both checksums again."""
    content = bytearray(spoilt)
    if len(content) > HEADER_BYTES + CHECKSUM_BYTES:
        rest = content[CHECKSUM_AT + CHECKSUM_BYTES : HEADER_BYTES]
        checksum = zlib.crc32(content[:CHECKSUM_AT] + rest)
        content[CHECKSUM_AT : CHECKSUM_AT + CHECKSUM_BYTES] = struct.pack("<I", checksum)
        content[-CHECKSUM_BYTES:] = struct.pack("<I", zlib.crc32(content[:-CHECKSUM_BYTES]))
    return bytes(content)


def safetensors_seeds() -> Sequence[bytes]:
    """Make weights of two models, in two dtypes."""
    return [(_directory(dtype) / "model.safetensors").read_bytes() for dtype in DTYPES]


def config_seeds() -> Sequence[bytes]:
    """Make configurations of both families."""
    return [(_directory(dtype) / "config.json").read_bytes() for dtype in DTYPES]


DTYPES = {torch.float32: small_settings(), torch.bfloat16: small_qwen2()}


def _directory(dtype: torch.dtype) -> Path:
    settings, path = DTYPES[dtype], Path(tempfile.mkdtemp())
    write_directory(
        path,
        settings,
        small_tensors(settings),
        tokenizer_json=small_tokenizer().to_str(),
        end_of_text=END_OF_TEXT,
        dtype=dtype,
    )
    return path


def read_all(path: Path) -> None:
    """Open a file of any format, describe it and read every tensor."""
    opened = open_model_file(path)
    opened.describe()
    opened.checksums()
    for tensor in opened.tensors:
        values = opened.values(tensor.name)
        assert tuple(values.shape) == tensor.shape


def read_apr_model(path: Path) -> None:
    """Read a file as a model."""
    read_model(path, scan=True)
