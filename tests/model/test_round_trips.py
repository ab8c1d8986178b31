"""The same tensors through every format, in every direction: not a bit may change."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.apr_file import open_apr, write_apr
from model.apr_model import read_model, write_model
from model.gguf_model import FileType, read_gguf_model, write_gguf_model
from model.hugging_face import read_directory, write_directory
from model.llama import LlamaSettings
from tests.model.small_llama import (
    END_OF_TEXT,
    small_qwen2,
    small_settings,
    small_tensors,
    small_tokenizer,
)

TOKENIZER_JSON = small_tokenizer().to_str()
Model = tuple[LlamaSettings, Mapping[str, Tensor]]


def through_apr(path: Path, model: Model) -> Model:
    write_model(path, *model, tokenizer_json=TOKENIZER_JSON, provenance={})
    return read_model(path, scan=True)


def through_safetensors(path: Path, model: Model) -> Model:
    write_directory(
        path, *model, tokenizer_json=TOKENIZER_JSON, end_of_text=END_OF_TEXT, dtype=torch.float32
    )
    return read_directory(path, scan=True)


def through_gguf(path: Path, model: Model) -> Model:
    write_gguf_model(
        path, *model, tokenizer_json=TOKENIZER_JSON, file_type=FileType.F32, provenance={}
    )
    return read_gguf_model(path)


WAYS: dict[str, Callable[[Path, Model], Model]] = {
    "apr": through_apr,
    "safetensors": through_safetensors,
    "gguf": through_gguf,
}
SETTINGS = {
    "llama": small_settings(),
    "tied": replace(small_settings(), tie_embeddings=True),
    "qwen2": small_qwen2(),
}


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.int32)


@pytest.mark.parametrize("family", SETTINGS)
@pytest.mark.parametrize("order", list(itertools.permutations(WAYS)), ids=" ".join)
def test_no_bit_changes_on_any_way_through_all_formats(
    tmp_path: Path, order: tuple[str, ...], family: str
) -> None:
    settings = SETTINGS[family]
    tensors = small_tensors(settings)
    tensors["model.norm.weight"][:3] = torch.tensor([-0.0, 1e-45, 3.4e38])
    model: Model = settings, tensors
    for name in order:
        model = WAYS[name](tmp_path / name, model)
    assert model[0] == settings
    assert model[1].keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(bits(model[1][name]), bits(tensor)), name


@pytest.mark.parametrize("way", WAYS)
def test_what_was_read_is_written_again_byte_for_byte(tmp_path: Path, way: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    again = WAYS[way](one, (small_settings(), small_tensors()))
    WAYS[way](two, again)
    files = sorted(one.iterdir()) if one.is_dir() else [one]
    for path in files:
        copy = two / path.name if one.is_dir() else two
        assert copy.read_bytes() == path.read_bytes()


def test_a_container_is_written_again_byte_for_byte_without_its_meaning(tmp_path: Path) -> None:
    one, two = tmp_path / "one.apr", tmp_path / "two.apr"
    through_apr(one, (small_settings(), small_tensors()))
    file = open_apr(one)
    write_apr(two, file.metadata, {name: file.stored(name) for name in file.tensors})
    assert two.read_bytes() == one.read_bytes()
