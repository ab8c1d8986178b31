"""Search the branches of a GGUF file inside llama.cpp, of which only the logits are looked at."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: make test-interop")

from model.bisection import FAULT, NO_FAULT
from model.branch_search import IN_WEIGHTS, BranchSearch, search_branches
from model.errors import WrongSettingError
from model.gguf_model import FileType
from model.llama import Llama
from model.llama_cpp_logits import LlamaCppLogits
from model.llama_cpp_side import LlamaCppSide
from model.logits_sides import LogitsSide
from model.teacher_forcing import free_logits
from model.transformers_side import transformers_side
from tasks.sides import open_candidate
from tests.benchmarks.bisect_faults import FAULTS, faulty
from tests.interop.test_bisection import IDS, model_of, pytestmark, write
from tests.model.oracle import theirs

__all__ = ["pytestmark"]
BY_NAME = {fault.name: fault for fault in FAULTS}


@pytest.fixture(scope="module")
def model() -> Llama:
    return model_of()


def searched(model: Llama, path: Path) -> BranchSearch:
    reference = transformers_side("transformers", theirs(model))
    return search_branches(reference, LlamaCppLogits("llama.cpp", path), IDS)


@pytest.mark.parametrize("kind", [FileType.F32, FileType.Q8_0])
def test_a_sound_file_has_no_fault_and_a_broken_one_its_branches(
    model: Llama, kind: FileType, tmp_path: Path
) -> None:
    sound = searched(model, write(tmp_path / "sound.gguf", model, kind))
    fault = BY_NAME["norms swapped, layer 3"]
    path = write(tmp_path / "broken.gguf", faulty(model, fault), kind)
    before = path.read_bytes()
    broken = searched(model, path)

    assert (sound.verdict, sound.num_runs) == (NO_FAULT, 1)
    assert broken.verdict == FAULT
    places = ["layer 3 attention", "layer 3 feed-forward"]
    assert [each.place for each in broken.faults] == places
    assert {each.cause for each in broken.faults} == {IN_WEIGHTS}
    assert path.read_bytes() == before


def test_a_qwen2_is_searched_as_well(tmp_path: Path) -> None:
    qwen2 = model_of(attention_bias=True, tie_embeddings=True, num_layers=4)
    wrong = faulty(qwen2, BY_NAME["down_proj row zero, layer 1"])

    found = searched(qwen2, write(tmp_path / "model.gguf", wrong))

    assert [each.place for each in found.faults] == ["layer 1 feed-forward"]


def test_logits_are_those_of_the_side_that_is_watched(model: Llama, tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", model)

    expected = free_logits(LlamaCppSide("", path).run, IDS)

    assert torch.equal(LlamaCppLogits("", path).logits(IDS, []), expected)


def test_llama_cpp_without_hooks_gives_logits(
    model: Llama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"llama.cpp:{write(tmp_path / 'model.gguf', model)}"
    assert isinstance(open_candidate(text, "cpu"), LlamaCppSide)
    assert isinstance(open_candidate(f"logits:{text}", "cpu"), LogitsSide)

    monkeypatch.setattr("model.llama_cpp_nodes.can_watch", lambda: False)
    assert isinstance(open_candidate(text, "cpu"), LlamaCppLogits)
    with pytest.raises(WrongSettingError, match="computes in float32"):
        open_candidate(text, "cpu", "bfloat16")
