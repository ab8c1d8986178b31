"""Bisect a GGUF file inside llama.cpp: every node of its graph against transformers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: make test-interop")

from model import llama_cpp_side
from model.bisection import FAULT, NO_FAULT, Bisection, bisect
from model.errors import DifferentProgramsError, UnsupportedFeatureError
from model.gguf_model import FileType, write_gguf_model
from model.llama import Llama
from model.llama_cpp_side import LlamaCppSide
from model.taps import sites
from model.teacher_forcing import capture, run_patched
from model.transformers_side import transformers_side
from tests.benchmarks import bisect_faults
from tests.benchmarks.bisect_faults import FAULTS, Planted, faulty, program, random_model
from tests.model.oracle import relative, theirs
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


def model_of(**changes: Any) -> Llama:
    tokens = small_tokenizer().get_vocab_size(with_added_tokens=True)
    settings = replace(bisect_faults.SETTINGS, vocab_size=tokens, **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bisect_faults, "SETTINGS", settings)
        return random_model(0)


@pytest.fixture(scope="module")
def model() -> Llama:
    return model_of()


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def qwen2(request: pytest.FixtureRequest) -> Llama:
    return model_of(attention_bias=True, tie_embeddings=request.param, num_layers=2)


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


def test_llama_cpp_computes_every_operation_of_a_qwen2(qwen2: Llama, tmp_path: Path) -> None:
    found = against_transformers(qwen2, write(tmp_path / "model.gguf", qwen2))

    assert (found.verdict, found.tensors) == (NO_FAULT, [])
    assert len(found.local) == 2 * 15 + 3
    assert max(error.max_relative_l2 for error in found.local.values()) > 0


@pytest.mark.parametrize(("part", "site"), [("q", "q"), ("k", "k"), ("v", "v"), ("o", "attn_out")])
def test_a_wrong_projection_of_a_qwen2_is_named_in_llama_cpp(
    qwen2: Llama, part: str, site: str, tmp_path: Path
) -> None:
    wrong = faulty(qwen2, HEALTHY)
    kind = "weight" if part == "o" else "bias"
    with torch.no_grad():
        wrong.get_parameter(f"model.layers.1.self_attn.{part}_proj.{kind}")[3] = 0.0

    found = against_transformers(qwen2, write(tmp_path / "model.gguf", wrong))

    assert [each.error.site for each in found.faults] == [f"layers.1.{site}"]
    assert found.proof is not None
    assert found.proof.is_sufficient


def test_what_is_written_into_a_qwen2_is_what_llama_cpp_goes_on_with(
    qwen2: Llama, tmp_path: Path
) -> None:
    side = LlamaCppSide("llama.cpp", write(tmp_path / "model.gguf", qwen2))
    reference = transformers_side("transformers", theirs(qwen2))
    values = capture(reference, IDS, list(side.declarations))
    for site in side.declarations:
        patch = {site: values[site].flip(1) + 0.1}
        found, expected = (run_patched(each, IDS, patch) for each in (side, reference))
        assert relative(found, expected) < 1e-5, site
        assert relative(found, values["logits"]) > 1e-3, site


def test_one_token_is_enough_for_llama_cpp(model: Llama, tmp_path: Path) -> None:
    side = LlamaCppSide("llama.cpp", write(tmp_path / "model.gguf", model))

    found = bisect(transformers_side("transformers", theirs(model)), side, IDS[:, :1])

    assert found.verdict == NO_FAULT


def test_a_last_layer_of_one_row_is_not_comparable(
    model: Llama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = LlamaCppSide("llama.cpp", write(tmp_path / "model.gguf", model))
    fill = llama_cpp_side._fill

    def ask_for_the_last_alone(batch: Any, ids: list[int]) -> None:
        fill(batch, ids)
        for position in range(len(ids) - 1):
            batch.logits[position] = 0

    monkeypatch.setattr(llama_cpp_side, "_fill", ask_for_the_last_alone)
    with pytest.raises(DifferentProgramsError) as caught:
        bisect(transformers_side("transformers", theirs(model)), side, IDS)

    assert caught.value.site == "layers.5.ffn_inp (shape)"
    assert (caught.value.left, caught.value.right) == ("(1, 32, 128)", "(1, 1, 128)")


def test_a_file_that_llama_cpp_refuses_is_said_to_be(
    model: Llama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "model.gguf", model)
    side = LlamaCppSide("llama.cpp", path)
    path.write_bytes(path.read_bytes()[:1000])

    with pytest.raises(UnsupportedFeatureError, match=r"refused by llama\.cpp"):
        side.run(IDS, lambda _site, _value: None)


def test_several_rows_are_not_comparable_in_llama_cpp(tmp_path: Path) -> None:
    plain = Llama(small_settings())
    plain.load_state_dict(small_tensors())
    side = LlamaCppSide("llama.cpp", write(tmp_path / "plain.gguf", plain))
    with pytest.raises(DifferentProgramsError):
        side.run(torch.zeros(2, 4, dtype=torch.long), lambda _site, _value: None)
