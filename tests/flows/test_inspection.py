"""`assay inspect`, `assay validate` and `assay import`: what they say, and with which exit code."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evidence.canonical import file_sha256
from evidence.refs import CheckpointRef, parse_ref
from flows.cli import run
from model.apr_file import open_apr, write_apr
from model.apr_model import write_model
from model.gguf_model import FileType, write_gguf_model
from model.hugging_face import write_directory
from model.llama import LlamaSettings
from model.safetensors_file import write_safetensors
from tasks.directories import entries
from tasks.store import open_store
from tests.model.small_llama import (
    END_OF_TEXT,
    small_settings,
    small_tensors,
    small_tokenizer,
)

pytestmark = pytest.mark.usefixtures("own_places")
TOKENIZER_JSON = small_tokenizer().to_str()
FORMATS = ("apr", "gguf", "safetensors", "directory")


def write(
    root: Path, form: str, tensors: dict[str, Tensor], settings: LlamaSettings | None = None
) -> Path:
    """Write a model in a format, and return what a person would name."""
    settings = settings or small_settings()
    provenance = {"name": "small", "license": "MIT"}
    if form == "apr":
        path = root / "small.apr"
        write_model(path, settings, tensors, tokenizer_json=TOKENIZER_JSON, provenance=provenance)
        return path
    if form == "gguf":
        path = root / "small.gguf"
        write_gguf_model(
            path,
            settings,
            tensors,
            tokenizer_json=TOKENIZER_JSON,
            file_type=FileType.Q8_0,
            provenance=provenance,
        )
        return path
    directory = root / "small"
    write_directory(
        directory,
        settings,
        tensors,
        tokenizer_json=TOKENIZER_JSON,
        end_of_text=END_OF_TEXT,
        dtype=torch.bfloat16,
    )
    return directory if form == "directory" else directory / "model.safetensors"


def said_as_json(capsys: pytest.CaptureFixture[str], *line: str) -> Any:
    assert run([*line, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("form", "name", "dtypes"),
    [
        ("apr", "apr", [("F32", 21, 5224, 20_896)]),
        ("gguf", "gguf", [("F16", 16, 5184, 10_368), ("F32", 5, 40, 160)]),
        ("safetensors", "safetensors", [("BF16", 21, 5224, 10_448)]),
        ("directory", "huggingface", [("BF16", 21, 5224, 10_448)]),
    ],
)
def test_every_format_is_described_by_what_is_in_it(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    form: str,
    name: str,
    dtypes: list[tuple[str, int, int, int]],
) -> None:
    path = write(tmp_path, form, small_tensors())
    found = said_as_json(capsys, "inspect", str(path))
    assert (found["format"], found["num_tensors"], found["num_parameters"]) == (name, 21, 5224)
    assert [tuple(each.values()) for each in found["dtypes"]] == dtypes
    weights = path / "model.safetensors" if path.is_dir() else path
    assert found["checksums"][f"sha256 {weights.name}"] == file_sha256(weights)
    assert found["size_bytes"] == weights.stat().st_size
    assert len(found["tensors"]) == 21
    if form == "safetensors":
        assert found["architecture"] is None
        return
    assert found["architecture"]["hidden_size"] == 8
    assert found["architecture"]["num_kv_heads"] == 2
    assert found["tokenizer"]


def test_an_apr_file_is_told_in_sections(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, "apr", small_tensors())
    assert run(["inspect", str(path)]) == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    sections = [after for before, after in zip(["", *lines], lines, strict=False) if not before]
    assert [line for line in sections if line][1:] == [
        *("architecture", "dtypes", "provenance", "tokenizer", "checksums", "tensors"),
    ]
    assert "format          apr" in lines
    assert 'flags           ["HAS_VOCABULARY", "ROW_MAJOR"]' in lines
    assert "license  MIT" in lines
    assert f"sha256 small.apr  {file_sha256(path)}" in lines
    checksum = path.read_bytes()[-4:][::-1].hex()
    assert f"crc32 footer      {checksum}" in lines
    rows = [line.split() for line in lines if line.startswith("model.layers.N.mlp.down_proj")]
    assert rows == [["model.layers.N.mlp.down_proj.weight", "2", "F32", "[8,", "12]", "768"]]


@pytest.mark.parametrize("form", FORMATS)
def test_a_model_that_could_have_been_trained_is_valid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    path = write(tmp_path, form, small_tensors())
    found = said_as_json(capsys, "validate", str(path))
    assert (found["subject"], found["failures"]) == (str(path), [])
    # Each tensor, that there are some, and the whole as a model; weights alone are none.
    assert found["checks"] == (22 if form == "safetensors" else 23)


@pytest.mark.parametrize("form", FORMATS)
def test_a_model_of_lost_weights_is_invalid_in_every_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    tensors = small_tensors()
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.full((12, 8), 0.5)
    tensors["model.embed_tokens.weight"][7] = 0
    path = write(tmp_path, form, tensors)
    assert run(["validate", str(path), "--json"]) == 5
    captured = capsys.readouterr()
    failures = json.loads(captured.out)["failures"]
    assert len(failures) == 2
    assert sum("F-DATA-QUALITY-003: " in each and "all values are 0.5" in each for each in failures)
    assert sum("F-DATA-QUALITY-007: " in each and "1 of 264 rows" in each for each in failures)
    assert f"2 of {22 if form == 'safetensors' else 23} checks failed" in captured.err


def test_a_file_without_tensors_is_no_valid_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "empty.safetensors"
    write_safetensors(path, {}, dtypes={}, metadata={})
    assert run(["validate", str(path)]) == 5
    assert "empty.safetensors: no tensors, should be some" in capsys.readouterr().err


def test_what_a_file_says_neither_steers_the_terminal_nor_forges_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "hostile.apr"
    metadata = {"name": "\x1b[2J", "license": "MIT\nsha256  0", "token\x9b": "\u202e"}
    write_apr(path, metadata, {"w[/red]\x1b[31m": torch.ones(3)})
    assert run(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert r"name     \x1b[2J" in shown
    assert r"license  MIT\nsha256  0" in shown
    assert r"token\x9b  \u202e" in shown
    assert r"w[/red]\x1b[31m  1 " in shown
    assert run(["validate", str(path)]) == 5
    refused = capsys.readouterr().err
    assert r"hostile.apr: F-DATA-QUALITY-003: w[/red]\x1b[31m: all values are 1" in refused
    assert all(line.isprintable() for line in (shown + refused).splitlines())


@pytest.mark.parametrize("index", ["{}", '{"files":[3]}', '{"files":[],"content":[]}'])
def test_an_index_that_is_none_of_ours_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], index: str
) -> None:
    path = write(tmp_path, "directory", small_tensors())
    document = {"kind": "checkpoint", **json.loads(index)}
    (path / "index.json").write_text(json.dumps(document))
    for command in ("inspect", "validate"):
        assert run([command, str(path)]) == 5
        assert "index.json: an index with 'kind'" in capsys.readouterr().err


def spoiled(tmp_path: Path, how: str) -> Path:
    path = write(tmp_path, "apr", small_tensors())
    if how == "a weight changed":
        content = bytearray(path.read_bytes())
        content[-200] ^= 1
        path.write_bytes(content)
    elif how == "not finite":
        file = open_apr(path)
        tensors = {name: file.tensor(name).clone() for name in file.tensors}
        tensors["model.norm.weight"][0] = torch.inf
        write_apr(path, file.metadata, tensors)
    elif how == "a tensor missing":
        file = open_apr(path)
        kept = {name: file.tensor(name) for name in file.tensors if name != "model.norm.weight"}
        write_apr(path, file.metadata, kept)
    elif how == "cut short":
        path.write_bytes(path.read_bytes()[:-70])
    elif how == "encrypted":
        content = bytearray(path.read_bytes())
        content[6] |= 4
        import struct
        import zlib

        content[40:44] = struct.pack("<I", zlib.crc32(content[:40] + content[44:64]))
        path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("how", "inspected", "validated", "said"),
    [
        ("a weight changed", 4, 5, "as the footer says"),
        ("not finite", 0, 5, "F-DATA-QUALITY-002: model.norm.weight: 1 of 8 values"),
        ("a tensor missing", 0, 5, "missing model.norm.weight"),
        ("cut short", 4, 4, "or more"),
        ("encrypted", 9, 9, "flags 0x0604 (ENCRYPTED)"),
    ],
)
def test_each_fault_has_its_exit_code(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    how: str,
    inspected: int,
    validated: int,
    said: str,
) -> None:
    path = spoiled(tmp_path, how)
    assert run(["inspect", str(path)]) == inspected
    capsys.readouterr()
    assert run(["validate", str(path)]) == validated
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["inspect", "validate"])
def test_what_is_no_model_is_said_to_be_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    path = tmp_path / "notes.apr"
    path.write_text("[notes]")
    for subject, said in ((path, "starts with b'[notes]'"), (tmp_path, "no config.json")):
        assert run([command, str(subject)]) == 4
        refused = capsys.readouterr().err
        assert said in refused
        assert "an .apr, a .gguf or a .safetensors file" in refused


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("validate nothing.gguf", 3, "no file nothing.gguf"),
        ("inspect nowhere/nothing", 3, "no run nowhere/nothing"),
        ("validate tokens:abcdef", 3, "no artefact tokens:abcdef"),
        ("import nothing --licence MIT", 3, "no file or directory nothing"),
        ("import nothing --licence unknown", 2, "should be an SPDX id"),
        ("import nothing --licence MIT --gguf Q5", 2, "of F32, F16, BF16, Q8_0, Q4_K, Q6_K"),
        ("import nothing", 2, "Missing option '--licence'"),
    ],
)
def test_a_mistake_is_a_sentence_and_an_exit_code(
    line: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(line.split()) == code
    assert said in capsys.readouterr().err


def test_an_imported_model_is_described_validated_and_found_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path, "directory", small_tensors())
    ref = said_as_json(capsys, "import", str(source), "--licence", "MIT")["output"]
    found = said_as_json(capsys, "inspect", ref)
    assert found["architecture"]["num_layers"] == 2
    assert [(each["file"], each["dtypes"]) for each in found["weights"]] == [
        ("model.apr", "16 BF16, 5 F32"),
        ("model.safetensors", "21 BF16"),
        ("small-q4k.gguf", "16 F16, 5 F32"),
        ("small-q8_0.gguf", "16 F16, 5 F32"),
    ]
    directory = Path(found["directory"])
    for subject in (ref, str(directory)):
        assert said_as_json(capsys, "validate", subject)["failures"] == []
    moved = tmp_path / "moved"
    shutil.copytree(directory, moved)
    (moved / "vocab.json").unlink()
    content = bytearray((moved / "small-q4k.gguf").read_bytes())
    content[-1] ^= 1
    (moved / "small-q4k.gguf").write_bytes(content)
    assert run(["validate", str(moved)]) == 5
    refused = capsys.readouterr().err
    assert "small-q4k.gguf: sha256 " in refused
    assert "vocab.json: no file, should be 2718 bytes" in refused


def test_a_record_that_lies_under_a_right_digest_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path, "directory", small_tensors())
    line = ("import", str(source), "--licence", "MIT", "--gguf", "none")
    directory = open_store().open(parse_ref(said_as_json(capsys, *line)["output"])).directory
    record = json.loads((directory / "forward.json").read_text())
    kept = record["files"]["model.apr"]
    lies: list[tuple[dict[str, Any], str]] = [
        ({"ids": None}, "ids is wrong"),
        ({"files": {"model.apr": {**kept, "relative_l2": "0"}}}, "files.model.apr.relative_l2 is"),
        ({"ids": []}, "ids are []"),
        ({"ids": [[1, 2], [3]]}, "ids are [[1, 2], [3]]"),
        ({"ids": [[1]]}, "ids are [[1]]"),
        ({"ids": [[1, 264]], "losses_nats": [1.0]}, "id 264, should be ids below 264"),
        ({"ids": [[1, -1]], "losses_nats": [1.0]}, "id -1, should be ids below 264"),
        ({"losses_nats": []}, "0 losses, should be "),
        ({"files": {}}, "files lists []"),
        ({"files": {"../model.apr": kept}}, "files lists ['../model.apr']"),
    ]
    for change, said in lies:
        (directory / "forward.json").write_text(json.dumps({**record, **change}))
        index = json.loads((directory / "index.json").read_text())
        (directory / "index.json").unlink()
        (directory / "index.json").write_text(
            json.dumps({**index, "files": entries(directory)}),
        )
        assert run(["validate", str(directory)]) == 4
        assert f"forward.json: {said}" in capsys.readouterr().err


def test_a_checkpoint_of_before_forward_passes_is_told_to_be_sealed_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = open_store()
    with store.building("old") as directory:
        (directory / "README.md").write_text("old\n")
        ref = store.commit(directory, CheckpointRef, {"name": "old", "training": "training:00"})
    assert run(["validate", str(ref)]) == 5
    assert "seal it again with `assay checkpoint`" in capsys.readouterr().err
    assert run(["inspect", str(ref)]) == 0


def test_a_bundle_without_a_file_that_hubs_want_is_incomplete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path, "directory", small_tensors())
    line = ("import", str(source), "--licence", "MIT", "--gguf", "none", "--name", "bare")
    ref = said_as_json(capsys, *line)["output"]
    assert run(["validate", ref]) == 5
    assert "bare-q4k.gguf: missing from the publish bundle" in capsys.readouterr().err
