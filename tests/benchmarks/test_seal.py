"""The benchmark of sealing, on a model small enough for every run of the tests."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks.seal import run
from tests.model.small_llama import small_settings


def test_sealing_is_measured_file_by_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    llama = replace(small_settings(), vocab_size=300, hidden_size=256, num_layers=1)
    run(replace(llama, max_position_embeddings=64), tmp_path, repeats=1)
    said = capsys.readouterr().out
    assert re.findall(r"^(\S+) +MB", said, re.MULTILINE) == [
        *("model.apr", "model.safetensors", "random-q8_0.gguf", "random-q4k.gguf")
    ]
    assert "write_safetensors" in said
    assert "load_file into Llama" in said
