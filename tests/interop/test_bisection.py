"""Bisect a GGUF file inside llama.cpp: every node of its graph against transformers."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: make test-interop")

from model.bisection import FAULT, NO_FAULT, Bisection, bisect
from model.errors import DifferentProgramsError
from model.gguf_model import FileType, write_gguf_model
from model.llama import Llama
from model.llama_cpp_side import LlamaCppSide
from model.taps import sites
from model.teacher_forcing import capture
from model.transformers_side import transformers_side
from tests.benchmarks import bisect_faults
from tests.benchmarks.bisect_faults import FAULTS, Planted, faulty, program, random_model
from tests.model.oracle import theirs
from tests.model.small_llama import small_settings, small_tensors, small_tokenizer

pytestmark = [
    pytest.mark.interop,
    # The package opens the null device when it is imported, and leaves it to the collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
IDS = program()[:32][None]
HEALTHY = Planted("none", (), lambda _: None)
# A GGUF file holds no NaN: its writer and its reader refuse it.
STORABLE = [fault for fault in FAULTS if "NaN" not in fault.name]


@pytest.fixture(scope="module")
def model() -> Llama:
    tokens = small_tokenizer().get_vocab_size(with_added_tokens=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bisect_faults, "SETTINGS", replace(bisect_faults.SETTINGS, vocab_size=tokens))
        return random_model(0)


def write(path: Path, model: Llama, file_type: FileType = FileType.F32) -> Path:
    write_gguf_model(
        path,
        model.settings,
        model.state_dict(),
        tokenizer_json=small_tokenizer().to_str(),
        file_type=file_type,
        provenance={},
    )
    return path


def against_transformers(model: Llama, path: Path) -> Bisection:
    reference = transformers_side("transformers", theirs(model))
    return bisect(reference, LlamaCppSide("llama.cpp", path), IDS)


def test_llama_cpp_shows_every_site_but_the_opened_gate(model: Llama, tmp_path: Path) -> None:
    side = LlamaCppSide("llama.cpp", write(tmp_path / "model.gguf", model))

    expected = {site for site in sites(6) if not site.endswith("ffn_silu")}
    assert set(side.declarations) == expected
    assert set(capture(side, IDS, expected)) == expected


def test_llama_cpp_computes_every_operation_as_transformers_does(
    model: Llama, tmp_path: Path
) -> None:
    found = against_transformers(model, write(tmp_path / "model.gguf", model))

    assert (found.verdict, found.tensors) == (NO_FAULT, [])
    assert max(error.max_relative_l2 for error in found.local.values()) > 0


@pytest.mark.parametrize("kind", [FileType.F16, FileType.BF16, FileType.Q8_0])
def test_what_llama_cpp_rounds_is_no_fault(model: Llama, kind: FileType, tmp_path: Path) -> None:
    sound = against_transformers(model, write(tmp_path / "sound.gguf", model, kind))
    fault = next(fault for fault in FAULTS if fault.name == "o_proj transposed, layer 2")
    broken = against_transformers(
        model, write(tmp_path / "broken.gguf", faulty(model, fault), kind)
    )

    assert sound.verdict == NO_FAULT
    assert sound.lent
    assert [each.error.site for each in broken.faults] == ["layers.2.attn_out"]


@pytest.mark.parametrize("fault", STORABLE, ids=lambda fault: fault.name)
def test_exactly_the_planted_sites_are_named_and_proved_in_llama_cpp(
    model: Llama, fault: Planted, tmp_path: Path
) -> None:
    found = against_transformers(model, write(tmp_path / "model.gguf", faulty(model, fault)))

    assert found.verdict == FAULT
    assert {each.error.site for each in found.faults} == set(fault.sites)
    assert found.proof is not None
    assert found.proof.is_sufficient
    assert found.proof.is_controlled


def test_qwen2_and_several_rows_are_not_comparable_in_llama_cpp(tmp_path: Path) -> None:
    settings = replace(small_settings(), attention_bias=True)
    qwen = Llama(settings)
    qwen.load_state_dict(small_tensors(settings))
    with pytest.raises(DifferentProgramsError):
        LlamaCppSide("llama.cpp", write(tmp_path / "qwen2.gguf", qwen))

    plain = Llama(small_settings())
    plain.load_state_dict(small_tensors())
    side = LlamaCppSide("llama.cpp", write(tmp_path / "plain.gguf", plain))
    with pytest.raises(DifferentProgramsError):
        side.run(torch.zeros(2, 4, dtype=torch.long), lambda _site, _value: None)
