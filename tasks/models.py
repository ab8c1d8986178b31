"""Load models from their files; without Prefect, so that using a model starts quickly."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from model.apr_model import read_model
from model.hugging_face import read_directory
from model.llama import Llama, LlamaSettings

APR = "model.apr"
"The `.apr` file of a checkpoint."


def load_apr(path: Path, device: str) -> Llama:
    """Read an `.apr` file into a model.

    Raises: CorruptFileError, ModelFormatError, WrongTensorsError.
    """
    return _build(*read_model(path), device)


def load_directory(directory: Path, device: str) -> Llama:
    """Read a Hugging Face directory into a model.

    Raises: CorruptFileError, ModelFormatError, WrongTensorsError.
    """
    return _build(*read_directory(directory), device)


def _build(settings: LlamaSettings, tensors: Mapping[str, Tensor], device: str) -> Llama:
    model = Llama(settings)
    model.load_state_dict(dict(tensors))
    return model.to(device).eval()
