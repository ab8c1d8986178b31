"""Every kind of side that a person may name, each beside every other."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.apr_model import write_model
from model.bisection import NO_FAULT, UNSEEN, bisect
from model.branch_search import search_branches
from model.errors import WrongSettingError
from model.gguf_model import FileType, write_gguf_model
from model.llama import LlamaSettings
from model.logits_sides import LogitsSide, TorchLogits
from model.torch_side import TorchSide
from tasks.errors import FeatureError, NotFoundError
from tasks.sides import open_candidate, open_side, place_of
from tests.model.small_llama import small_settings, small_tensors, small_tokenizer
from tests.model.test_hugging_face import write_small

IDS = torch.tensor([[1, 2, 3, 4]])
FAMILIES = {
    "llama": small_settings(),
    "tied llama": replace(small_settings(), tie_embeddings=True),
    "qwen2": replace(small_settings(), attention_bias=True, tie_embeddings=True),
    "untied qwen2": replace(small_settings(), attention_bias=True),
}
FORMS = ("directory", "transformers:directory", "model.apr", "model.gguf")


def write_all(root: Path, settings: LlamaSettings) -> None:
    """Write one model as a directory, an `.apr` and a GGUF file."""
    tokenizer, tensors = small_tokenizer().to_str(), small_tensors(settings)
    write_small(root / "directory", settings=settings)
    write_model(root / "model.apr", settings, tensors, tokenizer_json=tokenizer, provenance={})
    write_gguf_model(
        root / "model.gguf",
        settings,
        tensors,
        tokenizer_json=tokenizer,
        file_type=FileType.F32,
        provenance={},
    )


def named(root: Path, form: str) -> str:
    """Put a form's prefix before its path."""
    *engine, file = form.split(":")
    return ":".join((*engine, str(root / file)))


@pytest.fixture(scope="module", params=FAMILIES)
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("sides")
    write_all(root, FAMILIES[request.param])
    return root


def test_every_form_agrees_with_every_other(models: Path) -> None:
    sides = {form: open_side(named(models, form), "cpu") for form in FORMS}
    for reference in FORMS:
        for candidate in FORMS:
            found = bisect(sides[reference], sides[candidate], IDS)
            assert (found.verdict, found.tensors) == (NO_FAULT, []), (reference, candidate)


@pytest.mark.parametrize("form", FORMS)
def test_logits_alone_agree_too(models: Path, form: str) -> None:
    candidate = open_candidate(f"logits:{named(models, form)}", "cpu")

    assert isinstance(candidate, LogitsSide)
    found = search_branches(open_side(named(models, FORMS[1]), "cpu"), candidate, IDS)
    assert (found.verdict, found.num_runs) == (NO_FAULT, 1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", ["bfloat16", "float16", "float64"])
def test_a_candidate_computes_in_any_precision(models: Path, form: str, precision: str) -> None:
    candidate = open_candidate(named(models, form), "cpu", precision)

    assert isinstance(candidate, TorchSide)
    assert candidate.declarations["logits"].dtype == precision
    found = bisect(open_side(named(models, FORMS[1]), "cpu"), candidate, IDS)
    assert found.verdict in (NO_FAULT, UNSEEN)
    assert not found.faults


def test_a_reference_in_half_precision_has_its_own_rounding_for_a_floor(tmp_path: Path) -> None:
    directory = write_small(tmp_path / "half", torch.bfloat16)
    reference = open_side(f"transformers:{directory}", "cpu")

    assert reference.declarations["logits"].dtype == "bfloat16"
    found = bisect(reference, open_side(str(directory), "cpu"), IDS)
    assert found.verdict == NO_FAULT
    assert found.logits_floor is not None
    assert found.logits_floor.max_relative_l2 > 1e-3
    blind = open_candidate(f"logits:{directory}", "cpu")
    assert isinstance(blind, LogitsSide)
    assert search_branches(reference, blind, IDS).verdict == NO_FAULT


def test_a_side_is_not_taken_for_one_of_logits(models: Path) -> None:
    side = open_candidate(named(models, "model.apr"), "cpu")

    assert not isinstance(side, LogitsSide)
    assert isinstance(open_candidate(f"logits:{models / 'model.apr'}", "cpu"), TorchLogits)


@pytest.mark.parametrize(
    ("text", "module", "package"),
    [
        ("llama.cpp:model.gguf", "model.llama_cpp_logits", "llama-cpp-python"),
        ("transformers:directory", "transformers", "transformers"),
    ],
)
def test_an_engine_that_is_not_installed_is_named(
    models: Path, text: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(FeatureError, match=package):
        open_candidate(named(models, text), "cpu")


def test_what_cannot_be_a_side_is_said(tmp_path: Path) -> None:
    with pytest.raises(WrongSettingError, match="--precision is int8"):
        open_side(str(tmp_path), "cpu", "int8")
    for text in ("logits:a", "llama.cpp:a"):
        with pytest.raises(WrongSettingError, match="a model in torch, which shows every site"):
            open_side(text, "cpu")
    with pytest.raises(NotFoundError):
        place_of(f"logits:transformers:{tmp_path / 'none'}")
