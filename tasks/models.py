"""Load models from their files; without Prefect, so that using a model starts quickly."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from model.apr_model import read_model
from model.hugging_face import read_directory
from model.llama import Llama, LlamaSettings
from model.undrawn import undrawn

APR = "model.apr"
"The `.apr` file of a checkpoint."


def load_apr(path: Path, device: str) -> Llama:
    """Read an `.apr` file into a model.

    Raises: CorruptFileError, ModelFormatError, WrongTensorsError.
    """
    return build_model(*read_model(path), device)


def load_directory(directory: Path, device: str) -> Llama:
    """Read a Hugging Face directory into a model.

    Raises: CorruptFileError, ModelFormatError, WrongTensorsError.
    """
    return build_model(*read_directory(directory), device)


def build_model(settings: LlamaSettings, tensors: Mapping[str, Tensor], device: str) -> Llama:
    """Make a model of tensors; those in float32 are taken as they are, mapped ones too.

    Precision: tensors are widened to float32.
    """
    model = undrawn(settings)
    wide = {name: tensor.to(torch.float32) for name, tensor in tensors.items()}
    model.load_state_dict(wide, assign=True)
    return model.to(device).eval()
