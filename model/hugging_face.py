"""A Llama or a Qwen2 as a Hugging Face directory that transformers opens as it stands."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from model.architecture import parse_tokenizer, require_bounds, require_finite, require_tensors
from model.errors import ModelFormatError, UnsupportedFeatureError, WrongSettingError
from model.hugging_face_config import (
    CONFIG_FILE,
    DTYPES,
    encode_config,
    read_config,
    read_object,
)
from model.llama import LlamaSettings
from model.safetensors_file import (
    DTYPES as STORED_DTYPES,
)
from model.safetensors_file import (
    SafetensorsFile,
    open_safetensors,
    write_safetensors,
)

WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
TOKENIZER_FILE = "tokenizer.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def write_directory(
    directory: Path,
    settings: LlamaSettings,
    tensors: Mapping[str, Tensor],
    *,
    tokenizer_json: str,
    end_of_text: str,
    dtype: torch.dtype,
) -> None:
    """Write weights, configuration and tokenizer into a directory.

    Precision: every tensor is rounded to `dtype`.
    Raises: WrongTensorsError, WrongSettingError, ModelFormatError.
    """
    if dtype not in DTYPES.values():
        raise WrongSettingError("dtype", dtype, f"one of {', '.join(DTYPES)}")
    ends = write_tokenizer(
        directory, settings, tokenizer_json=tokenizer_json, end_of_text=end_of_text
    )
    write_weights(directory, settings, tensors, ends=ends, dtype=dtype)


def write_tokenizer(
    directory: Path, settings: LlamaSettings, *, tokenizer_json: str, end_of_text: str
) -> dict[str, int | str]:
    """Write the tokenizer's files, and return the ids of what begins and ends a text.

    Raises: WrongSettingError, ModelFormatError.
    """
    tokenizer = parse_tokenizer(directory / TOKENIZER_FILE, settings, tokenizer_json)
    ends = _boundaries("token_id", _special_id(tokenizer, end_of_text))
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / "generation_config.json", ends)
    (directory / TOKENIZER_FILE).write_text(tokenizer_json, encoding="utf-8", newline="")
    _write_json(directory / "special_tokens_map.json", _boundaries("token", end_of_text))
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **_boundaries("token", end_of_text),
        "model_max_length": settings.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
    }
    _write_json(directory / "tokenizer_config.json", tokenizer_config)
    return ends


def write_weights(
    directory: Path,
    settings: LlamaSettings,
    tensors: Mapping[str, Tensor],
    *,
    ends: Mapping[str, object],
    dtype: torch.dtype,
) -> None:
    """Write weights and configuration; `ends` are the ids of the tokens that begin and end a text.

    Precision: every tensor is rounded to `dtype`.
    Raises: WrongTensorsError, WrongSettingError, ModelFormatError.
    """
    if dtype not in DTYPES.values():
        raise WrongSettingError("dtype", dtype, f"one of {', '.join(DTYPES)}")
    require_bounds(settings)
    require_tensors(str(directory), settings, {name: tensors[name].shape for name in tensors})
    path = directory / WEIGHTS_FILE
    for name, tensor in tensors.items():
        require_finite(path, name, tensor.to(dtype))
    directory.mkdir(parents=True, exist_ok=True)
    dtypes = dict.fromkeys(tensors, dtype)
    write_safetensors(path, tensors, dtypes=dtypes, metadata={"format": "pt"})
    _write_json(directory / CONFIG_FILE, encode_config(settings, ends, dtype))


def read_directory(
    directory: Path, *, scan: bool = False
) -> tuple[LlamaSettings, dict[str, Tensor]]:
    """Map a directory that holds exactly this architecture, in one weights file or in several.

    A `scan` also refuses NaN and infinity.

    Raises: CorruptFileError, ModelFormatError, UnsupportedFeatureError, WrongTensorsError.
    """
    settings, dtype = read_config(directory / CONFIG_FILE)
    places = open_weights(directory)
    where = str(directory / WEIGHTS_FILE)
    require_tensors(where, settings, {n: file.tensors[n].shape for n, file in places.items()})
    for name, file in places.items():
        stored = STORED_DTYPES[file.tensors[name].dtype]
        # Norms and biases are often kept wide where matrices are not.
        if stored != dtype and not (stored == torch.float32 and len(file.tensors[name].shape) == 1):
            found = f"tensor {name!r} is {stored}"
            raise ModelFormatError(file.path, found, f"{dtype} as {CONFIG_FILE} says")
    tensors = {name: file.tensor(name) for name, file in places.items()}
    for name, tensor in tensors.items() if scan else ():
        require_finite(places[name].path, name, tensor)
    return settings, tensors


def open_weights(directory: Path) -> dict[str, SafetensorsFile]:
    """Say which open file holds each tensor of a directory.

    Raises: CorruptFileError, ModelFormatError, UnsupportedFeatureError for pickled weights.
    """
    path = directory / WEIGHTS_FILE
    if path.is_file():
        file = open_safetensors(path)
        return dict.fromkeys(file.tensors, file)
    if (directory / WEIGHTS_INDEX).is_file():
        return _open_shards(directory / WEIGHTS_INDEX)
    for name in PICKLES:
        if (directory / name).is_file():
            expected = f"{WEIGHTS_FILE}: a pickle runs whatever it says when it is opened"
            raise UnsupportedFeatureError(directory / name, "pickled weights", expected)
    raise ModelFormatError(path, "missing", f"all weights beside {CONFIG_FILE}")


def _open_shards(index: Path) -> dict[str, SafetensorsFile]:
    """Open every file that an index names, and hold each to what the index says is in it."""
    placed = read_object(index).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise ModelFormatError(index, f"weight_map is {placed!r:.60}", "a file for every tensor")
    files = {name: _open_shard(index, name) for name in sorted(set(map(str, placed.values())))}
    for name, held in placed.items():
        if name not in files[str(held)].tensors:
            raise ModelFormatError(files[str(held)].path, f"no tensor {name!r}", f"as {index.name}")
    for held, file in files.items():
        for name in file.tensors:
            if placed.get(name) != held:
                found, expected = f"tensor {name!r}", f"in {placed.get(name)}, as {index.name} says"
                raise ModelFormatError(file.path, found, expected)
    return {name: files[held] for name, held in placed.items()}


def _open_shard(index: Path, name: str) -> SafetensorsFile:
    if Path(name).name != name or not name.endswith(".safetensors"):
        raise ModelFormatError(index, f"weights in {name!r:.60}", "in .safetensors files beside it")
    path = index.parent / name
    if not path.is_file():
        raise ModelFormatError(path, "missing", f"there, as {index.name} says")
    return open_safetensors(path)


def _special_id(tokenizer: Tokenizer, end_of_text: str) -> int:
    for number, token in tokenizer.get_added_tokens_decoder().items():
        if token.special and token.content == end_of_text:
            return int(number)
    raise WrongSettingError("end_of_text", end_of_text, "a special token of the tokenizer")


def _boundaries(suffix: str, value: int | str) -> dict[str, int | str]:
    """Name one token for both ends: a document begins where the one before it ended."""
    return {f"bos_{suffix}": value, f"eos_{suffix}": value}


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
