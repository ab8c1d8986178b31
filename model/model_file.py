"""Any file or directory that holds a model's tensors, seen in one way.

Opening checks the structure, so whatever is opened can be listed; only `read_model` and `values`
read data.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
from torch import Tensor

from model import apr_model, hugging_face, hugging_face_config
from model.apr_file import open_apr
from model.apr_layout import MAGIC as APR_MAGIC
from model.apr_layout import VERSION, AprFlag
from model.errors import ModelFormatError, WrongTensorsError
from model.gguf_file import open_gguf
from model.gguf_layout import MAGIC as GGUF_MAGIC
from model.gguf_layout import VERSION as GGUF_VERSION
from model.gguf_model import read_gguf_model, stored_values
from model.gguf_names import settings_of
from model.gguf_values import Scalar, Value
from model.llama import LlamaSettings
from model.safetensors_file import LENGTH, open_safetensors

MAX_TOLD_ITEMS = 16
"Of longer lists only the length is told."
SIZED = (list, dict, np.ndarray)
KINDS = "an .apr, a .gguf or a .safetensors file, or a Hugging Face directory"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor as its file lists it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """An opened model, of whatever format."""

    format: str
    paths: tuple[Path, ...]
    "The files that hold its tensors."
    identity: Mapping[str, object]
    settings: LlamaSettings | None
    "None where it is not said what computes with the tensors."
    tensors: tuple[StoredTensor, ...]
    metadata: Mapping[str, object]
    values: Callable[[str], Tensor]
    checksums: Callable[[], Mapping[str, str]]
    "Verifies those that the format has, and returns them."
    read: Callable[[], tuple[LlamaSettings, dict[str, Tensor]]] | None
    "Reads it as a model of ours: checksums hold, tensors are the architecture's, all finite."

    def read_model(self) -> tuple[LlamaSettings, dict[str, Tensor]]:
        """Read the model that these are the weights of.

        Raises: CorruptFileError, ModelFormatError, UnsupportedFeatureError, WrongTensorsError.
        """
        if self.read is None:
            found = f"a {self.format} file without a configuration"
            raise ModelFormatError(self.paths[0], found, "a model: name the directory it is in")
        return self.read()

    def describe(self) -> dict[str, object]:
        """Summarise it as plain JSON values."""
        texts = {key: value for key, value in self.metadata.items() if not _is_long(value)}
        return {
            "format": self.format,
            **self.identity,
            "size_bytes": sum(path.stat().st_size for path in self.paths),
            "architecture": asdict(self.settings) if self.settings else None,
            "num_tensors": len(self.tensors),
            "num_parameters": sum(prod(tensor.shape) for tensor in self.tensors),
            "dtypes": self._dtypes(),
            "metadata": texts,
            "num_items": {
                key: len(value)
                for key, value in self.metadata.items()
                if isinstance(value, SIZED) and _is_long(value)
            },
            "tensors": [
                {
                    "name": tensor.name,
                    "dtype": tensor.dtype,
                    "shape": list(tensor.shape),
                    "size_bytes": tensor.size_bytes,
                }
                for tensor in self.tensors
            ],
        }

    def _dtypes(self) -> list[dict[str, object]]:
        """Count tensors, parameters and bytes of each dtype, the largest first."""
        found: dict[str, list[int]] = {}
        for tensor in self.tensors:
            sums = found.setdefault(tensor.dtype, [0, 0, 0])
            for place, amount in enumerate((1, prod(tensor.shape), tensor.size_bytes)):
                sums[place] += amount
        ordered = sorted(found.items(), key=lambda item: -item[1][2])
        return [
            dict(zip(("dtype", "tensors", "parameters", "bytes"), (name, *sums), strict=True))
            for name, sums in ordered
        ]


def _is_long(value: object) -> bool:
    return isinstance(value, SIZED) and len(value) > MAX_TOLD_ITEMS


def open_model_file(path: Path) -> ModelFile:
    """Open whatever this is, told by its content and not by its name.

    Raises: ModelFormatError (also if it is none of them), CorruptFileError,
    UnsupportedFeatureError.
    """
    if path.is_dir():
        if not (path / hugging_face_config.CONFIG_FILE).is_file():
            raise ModelFormatError(path, f"no {hugging_face_config.CONFIG_FILE}", KINDS)
        return _open_directory(path)
    if not path.is_file():
        raise ModelFormatError(path, "no regular file", KINDS)
    with path.open("rb") as file:
        start = file.read(LENGTH.size + 1)
    if start.startswith(APR_MAGIC):
        return _open_apr(path)
    if start.startswith(GGUF_MAGIC):
        return _open_gguf(path)
    if start[LENGTH.size :] == b"{" or path.suffix == ".safetensors":
        return _open_safetensors(path)
    raise ModelFormatError(path, f"starts with {start[:8]!r}", KINDS)


def _open_apr(path: Path) -> ModelFile:
    file = open_apr(path)
    tensors = tuple(
        StoredTensor(entry.name, entry.dtype.name, entry.shape, entry.size_bytes)
        for entry in file.tensors.values()
    )
    return ModelFile(
        format="apr",
        paths=(path,),
        identity={
            "version": ".".join(map(str, VERSION)),
            "flags": [flag.name for flag in AprFlag if flag & file.header.flags],
        },
        settings=_settings(lambda: apr_model.read_settings(path, file.metadata)),
        tensors=tensors,
        metadata=file.metadata,
        values=file.tensor,
        checksums=file.checksums,
        read=lambda: apr_model.read_model(path, scan=True),
    )


def _open_gguf(path: Path) -> ModelFile:
    file = open_gguf(path)
    return ModelFile(
        format="gguf",
        paths=(path,),
        identity={"version": str(GGUF_VERSION)},
        settings=_settings(lambda: settings_of(path, file.metadata, file.tensors)),
        tensors=tuple(
            StoredTensor(entry.name, entry.type.name, entry.shape, entry.size_bytes)
            for entry in file.tensors.values()
        ),
        metadata={key: _plain(value) for key, value in file.metadata.items()},
        values=partial(stored_values, file),
        checksums=dict,
        read=lambda: read_gguf_model(path),
    )


def _plain(value: Value) -> object:
    if isinstance(value, Scalar):
        return value.value
    if isinstance(value.values, np.ndarray):
        # A hostile file can hold millions of numbers, each of which would become an object.
        return value.values.tolist() if len(value.values) <= MAX_TOLD_ITEMS else value.values
    return list(value.values)


def _open_safetensors(path: Path) -> ModelFile:
    file = open_safetensors(path)
    return ModelFile(
        format="safetensors",
        paths=(path,),
        identity={},
        settings=None,
        tensors=tuple(
            StoredTensor(entry.name, entry.dtype, entry.shape, entry.size_bytes)
            for entry in file.tensors.values()
        ),
        metadata=file.metadata,
        values=file.tensor,
        checksums=dict,
        read=None,
    )


def _open_directory(path: Path) -> ModelFile:
    files = hugging_face.open_weights(path)
    config = hugging_face_config.read_object(path / hugging_face_config.CONFIG_FILE)
    entries = [file.tensors[name] for name, file in files.items()]

    return ModelFile(
        format="huggingface",
        paths=tuple(sorted({file.path for file in files.values()})),
        identity={},
        settings=_settings(
            lambda: hugging_face_config.read_config(path / hugging_face_config.CONFIG_FILE)[0]
        ),
        tensors=tuple(
            StoredTensor(entry.name, entry.dtype, entry.shape, entry.size_bytes)
            for entry in entries
        ),
        metadata=config,
        values=lambda name: files[name].tensor(name),
        checksums=dict,
        read=lambda: hugging_face.read_directory(path, scan=True),
    )


def _settings(read: Callable[[], LlamaSettings]) -> LlamaSettings | None:
    """Return the settings, if it is a model of ours; what is not can still be described."""
    try:
        return read()
    except (ModelFormatError, WrongTensorsError):
        return None
