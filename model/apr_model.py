"""A Llama or a Qwen2 in one .apr file: exactly its tensors, its settings and its tokenizer.

Query and key rows are in split-half order (Hugging Face's), which the file states as its rope type.
"""

import hashlib
import json
from collections.abc import Mapping
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from model.apr_blocks import QUANTIZATION
from model.apr_dtypes import AprDtype
from model.apr_file import VOCABULARY_KEY, open_apr, write_apr
from model.architecture import (
    BOUNDS,
    HUGGING_FACE_CLASSES,
    QWEN2,
    decode_settings,
    expected_tensors,
    family,
    padded_vocabulary,
    parse_tokenizer,
    require_bounds,
    require_finite,
    require_tensors,
)
from model.errors import ModelFormatError, UnsupportedFeatureError, WrongSettingError
from model.llama import LlamaSettings

__all__ = ["expected_tensors", "read_model", "read_settings", "write_model"]

EMBEDDING = "model.embed_tokens.weight"
SPLIT_HALVES = 2
PROVENANCE_KEYS = (
    "name",
    "description",
    "author",
    "version",
    "source",
    "created_at",
    "license",
    "data_source",
    "data_license",
)
# Not a key of the format: kept under our own name, so that a reader gets back what was written.
INITIALIZER_KEY = "assay.initializer_std"
# Also not a key of the format, which takes a file without a head for a tied one.
TIED_KEY = "tied_embeddings"
TOKENIZER_DIGEST_KEY = "assay.tokenizer_sha256"


def write_model(
    path: Path,
    settings: LlamaSettings,
    tensors: Mapping[str, Tensor],
    *,
    tokenizer_json: str,
    provenance: Mapping[str, str],
    quantization: AprDtype | None = None,
) -> None:
    """Write a model that other readers of the format can run.

    Quantised are the matrices but for the embedding, as far as their rows are whole blocks.

    Raises: WrongTensorsError, WrongSettingError, ModelFormatError (a value is NaN or infinite).
    """
    require_bounds(settings)
    require_tensors(str(path), settings, {name: tensors[name].shape for name in tensors})
    for name in tensors:
        _require_float32_vector(path, name, tensors[name])
        require_finite(path, name, tensors[name])
    metadata = {
        "model_type": family(settings),
        **_provenance(provenance),
        "param_count": sum(map(prod, expected_tensors(settings).values())),
        **({"quantization": QUANTIZATION[quantization]} if quantization else {}),
        **_architecture(family(settings)),
        **({TIED_KEY: True} if settings.tie_embeddings else {}),
        **{key: getattr(settings, key) for key in BOUNDS if key != "initializer_std"},
        "head_dim": settings.head_size,
        **_tokenizer(path, settings, tokenizer_json),
        INITIALIZER_KEY: settings.initializer_std,
    }
    dtypes = quantized_tensors(tensors, quantization) if quantization else {}
    write_apr(path, metadata, tensors, dtypes)


def quantized_tensors(tensors: Mapping[str, Tensor], dtype: AprDtype) -> dict[str, AprDtype]:
    """Choose the tensors of a model that are quantised."""
    return {
        name: dtype
        for name, tensor in tensors.items()
        if tensor.ndim == 2 and name != EMBEDDING and dtype.fits(tuple(tensor.shape))
    }


def read_model(path: Path, *, scan: bool = False) -> tuple[LlamaSettings, dict[str, Tensor]]:
    """Map a model after its checksum has confirmed every byte.

    A `scan` also refuses NaN and infinity.

    Raises: CorruptFileError, ModelFormatError, WrongTensorsError.
    """
    file = open_apr(path)
    file.verify()
    settings = read_settings(path, file.metadata)
    require_tensors(
        str(path), settings, {entry.name: entry.shape for entry in file.tensors.values()}
    )
    tensors = {name: file.tensor(name) for name in expected_tensors(settings)}
    for name, tensor in tensors.items() if scan else ():
        require_finite(path, name, tensor)
    return settings, tensors


def read_settings(path: Path, metadata: Mapping[str, object]) -> LlamaSettings:
    """Build the settings that a file's metadata states.

    Raises: ModelFormatError, UnsupportedFeatureError for another architecture.
    """
    name = metadata.get("architecture")
    if name not in list(HUGGING_FACE_CLASSES):
        expected = f"one of {', '.join(HUGGING_FACE_CLASSES)}"
        raise UnsupportedFeatureError(path, f"architecture is {name!r:.60}", expected)
    for key, value in _architecture(str(name)).items():
        if metadata.get(key) != value:
            raise ModelFormatError(path, f"{key} is {metadata.get(key)!r:.60}", f"{value!r}")
    values = {key: metadata[key] for key in BOUNDS if key in metadata}
    values["attention_bias"] = name == QWEN2
    values["tie_embeddings"] = metadata.get(TIED_KEY, False)
    if INITIALIZER_KEY in metadata:
        values["initializer_std"] = metadata[INITIALIZER_KEY]
    settings = decode_settings(path, values)
    if metadata.get("head_dim", settings.head_size) != settings.head_size:
        found = f"head_dim is {metadata['head_dim']!r:.60}"
        raise ModelFormatError(path, found, f"{settings.head_size}")
    return settings


def _architecture(name: str) -> dict[str, object]:
    return {
        "architecture": name,
        "hf_architecture": HUGGING_FACE_CLASSES[name],
        "hf_model_type": name,
        "rope_type": SPLIT_HALVES,
    }


def _require_float32_vector(path: Path, name: str, tensor: Tensor) -> None:
    if tensor.ndim == 1 and tensor.dtype != torch.float32:
        found = f"vector {name!r} is {str(tensor.dtype).removeprefix('torch.')}"
        raise ModelFormatError(path, found, "float32, which other readers take it for unasked")


def _provenance(provenance: Mapping[str, str]) -> dict[str, str]:
    for key in provenance:
        if key not in PROVENANCE_KEYS:
            raise WrongSettingError("provenance", key, f"one of {', '.join(PROVENANCE_KEYS)}")
    return {key: provenance[key] for key in PROVENANCE_KEYS if key in provenance}


def _tokenizer(path: Path, settings: LlamaSettings, tokenizer_json: str) -> dict[str, object]:
    tokenizer = parse_tokenizer(path, settings, tokenizer_json)
    model = json.loads(tokenizer.to_str())["model"]
    if model["type"] != "BPE":
        raise ModelFormatError(path, f"tokenizer of type {model['type']}", "BPE")
    spaced = [pair for pair in model["merges"] if " " in "".join(pair)]
    if spaced:
        raise ModelFormatError(path, f"merge {spaced[0]!r}", "two tokens without a space in them")
    added = tokenizer.get_added_tokens_decoder()
    special = [number for number, token in added.items() if token.special]
    # A tokenizer with one special token separates documents by it, so it both ends and begins them.
    ends = {f"tokenizer.{end}_token_id": special[0] for end in ("bos", "eos") if len(special) == 1}
    return {
        VOCABULARY_KEY: padded_vocabulary(tokenizer, settings.vocab_size),
        "tokenizer.merges": [" ".join(pair) for pair in model["merges"]],
        **ends,
        "tokenizer.add_bos_token": False,
        "tokenizer.vocab_size": settings.vocab_size,
        "tokenizer.model_type": model["type"],
        TOKENIZER_DIGEST_KEY: hashlib.sha256(tokenizer_json.encode()).hexdigest(),
    }
