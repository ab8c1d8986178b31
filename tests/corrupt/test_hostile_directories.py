"""Hostile Hugging Face directories: an index, or a configuration, that lies."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.errors import ModelError, ModelFormatError, UnsupportedFeatureError
from model.hugging_face import read_directory, write_directory
from model.safetensors_file import open_safetensors, write_safetensors
from tests.model.small_llama import END_OF_TEXT, small_settings, small_tensors, small_tokenizer

INDEX = "model.safetensors.index.json"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A directory of two weights files and an index."""
    directory = tmp_path / "model"
    write_directory(
        directory,
        small_settings(),
        small_tensors(),
        tokenizer_json=small_tokenizer().to_str(),
        end_of_text=END_OF_TEXT,
        dtype=torch.float32,
    )
    (directory / "model.safetensors").unlink()
    names = sorted(small_tensors())
    place(directory, "one.safetensors", names[:9])
    place(directory, "two.safetensors", names[9:])
    placed = dict.fromkeys(names[:9], "one.safetensors")
    placed |= dict.fromkeys(names[9:], "two.safetensors")
    index = {"metadata": {"total_size": 20_896}, "weight_map": placed}
    (directory / INDEX).write_text(json.dumps(index))
    return directory


def place(directory: Path, file: str, names: list[str]) -> None:
    tensors = {name: small_tensors()[name] for name in names}
    dtypes = dict.fromkeys(tensors, torch.float32)
    write_safetensors(directory / file, tensors, dtypes=dtypes, metadata={"format": "pt"})


def edit(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    index = json.loads((directory / INDEX).read_text())
    change(index)
    (directory / INDEX).write_text(json.dumps(index))


def refusal(directory: Path) -> ModelFormatError:
    with pytest.raises(ModelFormatError) as caught:
        read_directory(directory)
    return caught.value


def test_two_files_are_read_as_one(sharded: Path) -> None:
    settings, tensors = read_directory(sharded, scan=True)
    assert settings == small_settings()
    assert all(torch.equal(tensors[name], each) for name, each in small_tensors().items())


@pytest.mark.parametrize(
    "name", ["../one.safetensors", "/etc/passwd", "one.bin", "", "a/b.safetensors"]
)
def test_an_index_leads_out_of_its_directory_nowhere(sharded: Path, name: str) -> None:
    edit(sharded, lambda index: index["weight_map"].update({"lm_head.weight": name}))
    error = refusal(sharded)
    assert (error.path.name, error.found) == (INDEX, f"weights in {name!r}")


@pytest.mark.parametrize("placed", [None, [], {}, "one.safetensors"])
def test_an_index_without_a_map_is_refused(sharded: Path, placed: object) -> None:
    edit(sharded, lambda index: index.update({"weight_map": placed}))
    assert refusal(sharded).found == f"weight_map is {placed!r}"


def test_a_file_that_is_not_there_is_named(sharded: Path) -> None:
    (sharded / "two.safetensors").unlink()
    error = refusal(sharded)
    assert (error.path.name, error.found) == ("two.safetensors", "missing")


def test_a_tensor_that_is_not_where_the_index_says_is_named(sharded: Path) -> None:
    edit(sharded, lambda index: index["weight_map"].update({"extra": "one.safetensors"}))
    error = refusal(sharded)
    assert (error.path.name, error.found) == ("one.safetensors", "no tensor 'extra'")


def test_a_tensor_in_two_files_is_refused(sharded: Path) -> None:
    names = [*open_safetensors(sharded / "two.safetensors").tensors, "lm_head.weight"]
    place(sharded, "two.safetensors", names)
    error = refusal(sharded)
    assert (error.path.name, error.found) == ("two.safetensors", "tensor 'lm_head.weight'")
    assert error.expected == f"in one.safetensors, as {INDEX} says"


def test_a_tensor_that_the_index_leaves_out_is_refused(sharded: Path) -> None:
    edit(sharded, lambda index: index["weight_map"].pop("lm_head.weight"))
    assert refusal(sharded).found == "tensor 'lm_head.weight'"


@pytest.mark.parametrize("file", [INDEX, "config.json"])
@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"\xff{}",
        b'{"a":1,"a":2}',
        b'{"a":NaN}',
        b'{"a":' + b"[" * 100_000,
        b'{"a":[' + b"{}," * 5_000_000 + b"0]}",
        b" " * ((16 << 20) + 1),
    ],
    ids=["empty", "list", "latin", "twice", "nan", "deep", "dicts", "long"],
)
def test_json_that_is_not_one_frugal_object_is_refused(
    sharded: Path, file: str, text: bytes
) -> None:
    (sharded / file).write_bytes(text)
    error = refusal(sharded)
    assert error.path == sharded / file
    assert error.found.startswith("JSON ")


def test_a_pickle_is_never_opened(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    (sharded / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    error = refusal(sharded)
    assert type(error) is UnsupportedFeatureError
    assert (error.path.name, error.found) == ("pytorch_model.bin", "pickled weights")


def test_no_module_that_reads_models_can_unpickle() -> None:
    forbidden = ("pickle", "torch.load", "marshal", "shelve", "joblib", "eval(", "exec(")
    project = Path(__file__).resolve().parents[2]
    modules = [*(project / "model").glob("*.py"), *(project / "tasks").glob("*model*.py"),
               *(project / "tasks").glob("*bundle*.py"), project / "flows" / "inspection.py",
               project / "flows" / "validation.py"]  # fmt: skip
    assert len(modules) > 30
    found = {
        (path.name, word)
        for path in modules
        for word in forbidden
        if word in path.read_text().replace("model.eval()", "").replace(".eval()", "")
    }
    # What pickles here are errors on their way between processes, and what refuses pickled weights.
    assert {name for name, _ in found} <= {"errors.py", "hugging_face.py"}


def test_every_refusal_is_an_error_of_this_package(sharded: Path) -> None:
    path = sharded / "one.safetensors"
    content = path.read_bytes()
    for position in range(0, 400, 3):
        changed = bytearray(content)
        changed[position] ^= 0xFF
        path.write_bytes(changed)
        with pytest.raises(ModelError):
            read_directory(sharded)
