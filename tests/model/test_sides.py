from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from model.errors import DifferentProgramsError
from model.sides import common_sites, kind_of, layer_of, say_site
from model.taps import LAYER_SITES, sites, trace
from model.teacher_forcing import capture, compare_forced, compare_free, run_patched
from model.torch_side import TorchSide, llama_side
from model.transformers_side import transformers_side
from tests.model import tiny
from tests.model.oracle import ARCHITECTURES, ours, relative, theirs

IDS = torch.from_numpy(tiny.rows(1)[0, :2, :8])


def both(name: str, dtype: torch.dtype = torch.float32) -> tuple[TorchSide, TorchSide]:
    model = ours(ARCHITECTURES[name], dtype)
    return llama_side("ours", model), transformers_side("theirs", theirs(model))


def values(side: TorchSide) -> Mapping[str, Tensor]:
    return capture(side, IDS, list(sites(2)))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_transformers_shows_every_site_as_we_do(name: str) -> None:
    mine, other = both(name)

    left, right = values(mine), values(other)

    assert left.keys() == right.keys()
    assert all(left[site].shape == right[site].shape for site in left)
    assert max(relative(right[site], left[site]) for site in left) < 1e-5


def test_what_a_side_shows_is_what_a_trace_records() -> None:
    mine, _ = both("grouped")

    expected = trace(ours(tiny.LLAMA), IDS, keep_tensors=True).tensors

    found = values(mine)
    assert all(torch.equal(found[site], expected[site]) for site in expected)


@pytest.mark.parametrize("which", [0, 1], ids=["ours", "transformers"])
@pytest.mark.parametrize("kind", LAYER_SITES)
def test_a_value_that_is_written_is_what_the_rest_computes_with(which: int, kind: str) -> None:
    site = f"layers.0.{kind}"
    side = both("biases")[which]
    plain = values(side)
    patch = torch.flip(plain[site], (1,)) + 1.0

    logits = run_patched(side, IDS, {site: patch})

    assert relative(logits, plain["logits"]) > 1e-3
    expected = run_patched(both("biases")[1 - which], IDS, {site: patch})
    assert relative(logits, expected) < 1e-5


@pytest.mark.parametrize("which", [0, 1], ids=["ours", "transformers"])
def test_to_write_what_is_there_already_changes_nothing(which: int) -> None:
    side = both("grouped")[which]
    plain = values(side)

    assert torch.equal(run_patched(side, IDS, plain), plain["logits"])
    forced = compare_forced(side, IDS, plain, {})
    assert all(error.max_relative_l2 == 0 for error in forced.errors.values())


@pytest.mark.parametrize("name", ["grouped", "tied", "qwen2"])
@pytest.mark.parametrize("which", [0, 1], ids=["ours", "transformers"])
def test_another_precision_is_computed_and_leaves_the_weights_as_they_were(
    name: str, which: int
) -> None:
    side = both(name)[which]
    before = {key: value.clone() for key, value in side.weights().items()}
    seen: dict[str, Tensor] = {}

    side.run_in(torch.float64, IDS, lambda site, value: seen.update({site: value.clone()}))

    assert {value.dtype for value in seen.values()} == {torch.float64}
    exact = capture(both(name, torch.float64)[0], IDS, ["logits"])["logits"]
    assert relative(seen["logits"], exact) < 1e-12
    assert all(
        value.dtype == torch.float32 and torch.equal(before[key], value)
        for key, value in side.weights().items()
    )


def test_an_error_is_at_one_site_when_forced_and_at_all_later_ones_when_free() -> None:
    mine, _ = both("grouped")
    reference = values(mine)
    with torch.no_grad():
        mine.weights()["model.layers.0.mlp.up_proj.weight"].mul_(1.5)

    bars = dict.fromkeys(reference, 1e-6)
    free = compare_free(mine, IDS, reference, bars).errors
    forced = compare_forced(mine, IDS, reference, bars)

    wrong = [site for site, error in free.items() if error.num_positions_beyond]
    assert wrong[:3] == ["layers.0.ffn_up", "layers.0.ffn_swigl", "layers.0.ffn_out"]
    assert wrong[-1] == "logits"
    assert list(forced.beyond) == ["layers.0.ffn_up"]
    assert forced.errors["layers.0.ffn_up"].max_relative_l2 == pytest.approx(0.5, rel=1e-5)
    assert forced.errors["layers.0.ffn_up"].scale == pytest.approx(1.5, rel=1e-5)


def test_models_of_two_shapes_are_not_comparable() -> None:
    with pytest.raises(DifferentProgramsError) as caught:
        common_sites(both("grouped")[0], both("one key/value head")[0])

    assert (caught.value.site, caught.value.left, caught.value.right) == ("num_kv_heads", "2", "1")


def test_a_site_knows_its_layer_and_its_kind() -> None:
    assert (layer_of("layers.12.q"), kind_of("layers.12.q")) == (12, "q")
    assert (layer_of("embed"), kind_of("embed")) == (None, "embed")
    assert say_site("layers.12.q") == "layer 12 q"
