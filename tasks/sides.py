"""Open what a person names as a side of a bisection; without Prefect, so that it starts quickly.

`transformers:DIRECTORY` is run by transformers, `llama.cpp:FILE.gguf` by llama.cpp, everything else
by this project's own model: a checkpoint's ref or directory, a Hugging Face directory, an `.apr` or
a `.gguf` file. With `logits:` before any of these, nothing but the logits is looked at.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from evidence.canonical import file_sha256
from evidence.refs import CheckpointRef
from model.errors import DifferentProgramsError, WrongSettingError
from model.gguf_model import read_gguf_model
from model.hugging_face import TOKENIZER_FILE, WEIGHTS_FILE, read_directory
from model.hugging_face_config import CONFIG_FILE
from model.llama import Llama
from model.logits_sides import LogitsSide, TorchLogits
from model.sides import Side
from model.torch_side import TorchSide, llama_side
from tasks.device import available_device
from tasks.errors import FeatureError, NotFoundError
from tasks.models import APR, build_model, load_apr, load_directory
from tasks.store import open_store

TRANSFORMERS = "transformers:"
LLAMA_CPP = "llama.cpp:"
LOGITS_ALONE = "logits:"
PRECISIONS = ("float32", "bfloat16", "float16", "float64")
NUM_DRAWN = 64
DRAW_SEED = 0


def place_of(text: str) -> Path:
    """Return the file or directory that a side is read from.

    Raises: NotFoundError, AmbiguousError, WrongRefError, ArtefactDamagedError.
    """
    text = text.removeprefix(LOGITS_ALONE)
    if text.startswith(f"{CheckpointRef.kind}:"):
        store = open_store()
        return store.open(store.resolve(text)).directory
    path = Path(text.removeprefix(TRANSFORMERS).removeprefix(LLAMA_CPP))
    if not path.exists():
        raise NotFoundError("model", text)
    return path


def open_candidate(text: str, device: str, precision: str | None = None) -> Side | LogitsSide:
    """Read a model and make a side of it, in any engine; llama.cpp without hooks gives logits.

    Raises: FeatureError, WrongSettingError, and those of `open_side`.
    """
    plain = text.removeprefix(LOGITS_ALONE)
    if not plain.startswith(LLAMA_CPP):
        side = open_side(plain, device, precision)
        return side if plain == text else TorchLogits(side)
    if precision:
        expected = "left out: llama.cpp computes in float32"
        raise WrongSettingError("--precision", precision, expected)
    path = place_of(text)
    try:
        from model.llama_cpp_logits import LlamaCppLogits
        from model.llama_cpp_nodes import can_watch
        from model.llama_cpp_side import LlamaCppSide
    except ImportError as error:
        raise FeatureError("a side", text, "llama-cpp-python") from error
    return LlamaCppSide(text, path) if plain == text and can_watch() else LlamaCppLogits(text, path)


def open_side(text: str, device: str, precision: str | None = None) -> TorchSide:
    """Read a model and make a side of it, in an engine that can compute in float64 as well.

    Without a precision transformers keeps that of the directory, and this project's model float32.

    Raises: FeatureError, DeviceUnavailableError, ModelFormatError, WrongSettingError,
    WrongTensorsError, and those of `place_of`.
    """
    if text.startswith((LLAMA_CPP, LOGITS_ALONE)):
        expected = "a model in torch, which shows every site and computes in float64"
        raise WrongSettingError("--reference", text, expected)
    dtype, device = _dtype(precision), _device(device)
    path = place_of(text)
    if text.startswith(TRANSFORMERS):
        return _transformers_side(text, path, device, dtype)
    return llama_side(text, _load(path, device).to(dtype))


def digests(text: str) -> dict[str, str]:
    """Hash the files that hold a side's weights and configuration."""
    path = place_of(text)
    names = (APR, WEIGHTS_FILE, CONFIG_FILE, TOKENIZER_FILE)
    files = [path / name for name in names] if path.is_dir() else [path]
    return {file.name: file_sha256(file) for file in files if file.is_file()}


def choose_ids(
    sides: Sequence[str], vocab_size: int, prompt: str | None, tokens: str | None
) -> Tensor:
    """Return the ids of a prompt, those that were given, or some that are drawn.

    Shapes: (1, T).
    Raises: WrongSettingError, DifferentProgramsError if two tokenizers read the prompt differently.
    """
    if prompt is not None and tokens is not None:
        raise WrongSettingError("--tokens", "given beside --prompt", "one of the two")
    if prompt is not None:
        ids = _encode(sides, prompt)
    elif tokens is not None:
        ids = _parse(tokens)
    else:
        generator = torch.Generator().manual_seed(DRAW_SEED)
        return torch.randint(vocab_size, (1, NUM_DRAWN), generator=generator)
    if not ids or not all(0 <= token < vocab_size for token in ids):
        expected = f"one token or more, ids below {vocab_size}"
        raise WrongSettingError("--tokens" if tokens else "--prompt", ids or "empty", expected)
    return torch.tensor([ids])


def _load(path: Path, device: str) -> Llama:
    if path.suffix == ".gguf":
        return build_model(*read_gguf_model(path), device)
    if path.is_file():
        return load_apr(path, device)
    apr = path / APR
    return load_apr(apr, device) if apr.is_file() else load_directory(path, device)


def _dtype(precision: str | None) -> torch.dtype | None:
    if precision is None:
        return None
    if precision not in PRECISIONS:
        raise WrongSettingError("--precision", precision, f"one of {', '.join(PRECISIONS)}")
    found: torch.dtype = getattr(torch, precision)
    return found


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", name):
        raise WrongSettingError("--device", name, "auto, cpu, cuda or cuda:N")
    return available_device(name)


def _transformers_side(text: str, path: Path, device: str, dtype: torch.dtype | None) -> TorchSide:
    try:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        from model.transformers_side import transformers_side
    except ImportError as error:
        raise FeatureError("a side", text, "transformers") from error
    # Whatever transformers cannot open it tells in many ways, and it would open pickles.
    read_directory(path)
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=dtype or "auto",
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
    )
    return transformers_side(text, model.to(device))


def _encode(sides: Sequence[str], prompt: str) -> list[int]:
    """Encode with every tokenizer that lies beside a side; they must agree."""
    found: Mapping[str, list[int]] = {
        side: Tokenizer.from_file(str(path)).encode(prompt).ids
        for side in sides
        if (path := _tokenizer_of(place_of(side))).is_file()
    }
    if not found:
        raise WrongSettingError("--prompt", "given", f"--tokens: no side has a {TOKENIZER_FILE}")
    (first, ids), *others = found.items()
    for other, other_ids in others:
        if other_ids != ids:
            raise DifferentProgramsError("token ids", f"{first}: {ids}", f"{other}: {other_ids}")
    return ids


def _tokenizer_of(place: Path) -> Path:
    return (place if place.is_dir() else place.parent) / TOKENIZER_FILE


def _parse(tokens: str) -> list[int]:
    try:
        return [int(token) for token in tokens.replace(",", " ").split()]
    except ValueError:
        raise WrongSettingError("--tokens", tokens, "ids with commas between them") from None
