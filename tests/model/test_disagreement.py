import math
from dataclasses import replace

import pytest
import torch

from model.disagreement import compare, first_departure
from model.errors import DifferentProgramsError
from model.llama import Llama
from model.taps import Trace, trace
from model.training_state import new_state
from tests.model import tiny

IDS = torch.from_numpy(tiny.rows(1)[0, :2, :8])
# Ten times what float32 against float64 costs at the worst site of this model.
MAX_RELATIVE_L2 = 1e-5


def model() -> Llama:
    return tiny.state().model


def traced(found: Llama, ids: torch.Tensor = IDS) -> Trace:
    return trace(found, ids, keep_tensors=True)


@torch.no_grad()
def scaled(found: Llama, name: str, factor: float) -> Llama:
    """Multiply one column of a matrix, or a whole vector."""
    value = found.get_parameter(name)
    (value[:, 3] if value.ndim == 2 else value).mul_(factor)
    return found


def in_float32(found: Trace) -> Trace:
    """A trace of a float64 model under the types of a float32 one."""
    taps = tuple(replace(tap, dtype="float32") for tap in found.taps)
    return replace(found, taps=taps)


def test_a_model_agrees_with_itself_to_the_bit() -> None:
    found = compare(traced(model()), traced(model()))

    assert len(found) == 2 * 16 + 3
    assert all(one.is_bitwise for one in found)
    assert all(one.relative_l2 == one.max_abs_diff == 0.0 for one in found)
    assert first_departure(found, max_relative_l2=0.0) is None


def test_rounding_stays_under_the_bar() -> None:
    exact = in_float32(traced(model().to(torch.float64)))

    found = compare(exact, traced(model()))

    assert not all(one.is_bitwise for one in found)
    assert max(one.relative_l2 for one in found) < MAX_RELATIVE_L2 / 10


@pytest.mark.parametrize(
    ("weight", "site"),
    [
        ("model.layers.1.mlp.down_proj.weight", "layers.1.ffn_out"),
        ("model.layers.0.mlp.down_proj.weight", "layers.0.ffn_out"),
        ("model.layers.0.self_attn.v_proj.weight", "layers.0.v"),
        ("model.layers.1.self_attn.o_proj.weight", "layers.1.attn_out"),
        ("model.layers.1.mlp.up_proj.weight", "layers.1.ffn_up"),
        ("model.layers.1.post_attention_layernorm.weight", "layers.1.ffn_norm"),
        ("model.norm.weight", "final_norm"),
        ("lm_head.weight", "logits"),
    ],
)
def test_a_planted_fault_is_the_first_departure(weight: str, site: str) -> None:
    faulty = scaled(model(), weight, 1.001)

    found = compare(traced(model()), traced(faulty))

    departure = first_departure(found, max_relative_l2=MAX_RELATIVE_L2)
    assert departure is not None
    assert departure.site == site
    assert not departure.is_bitwise


def test_a_fault_in_the_rotation_is_found_at_the_rotation() -> None:
    other = new_state(replace(tiny.LLAMA, rope_theta=500_000.0), tiny.TRAIN, "cpu").model

    departure = first_departure(
        compare(traced(model()), traced(other)), max_relative_l2=MAX_RELATIVE_L2
    )

    assert departure is not None
    assert departure.site == "layers.0.q_rope"
    assert departure.worst_position[1] > 0, "the first position is not rotated"


def test_a_massive_activation_on_both_sides_is_no_fault() -> None:
    name = "model.layers.0.mlp.down_proj.weight"
    exact = traced(scaled(model().to(torch.float64), name, 1e4))
    spike = next(tap for tap in exact.taps if tap.site == "layers.0.ffn_out")
    usual = next(tap for tap in traced(model()).taps if tap.site == "layers.0.ffn_out")

    found = compare(in_float32(exact), traced(scaled(model(), name, 1e4)))

    assert spike.statistics.std > 100 * usual.statistics.std
    assert first_departure(found, max_relative_l2=MAX_RELATIVE_L2) is None


def test_a_value_that_is_not_finite_departs() -> None:
    faulty = scaled(model(), "model.layers.1.mlp.up_proj.weight", math.nan)

    departure = first_departure(compare(traced(model()), traced(faulty)), max_relative_l2=1.0)

    assert departure is not None
    assert departure.site == "layers.1.ffn_up"
    assert math.isnan(departure.relative_l2)


def test_the_worst_position_is_measured_against_its_own_norm() -> None:
    left = traced(model())
    changed = {site: value.clone() for site, value in left.tensors.items()}
    value = changed["layers.0.q"]
    value[1, 6] *= 1.5
    right = replace(left, tensors=changed)

    found = {one.site: one for one in compare(left, right)}["layers.0.q"]

    assert found.relative_l2 == pytest.approx(0.5)
    assert found.worst_position == (1, 6)
    expected = left.tensors["layers.0.q"][1, 6].abs().max().item() / 2
    assert found.max_abs_diff == pytest.approx(expected)


def test_leaving_zero_departs_and_staying_there_does_not() -> None:
    left = traced(model())
    zeros = {site: torch.zeros_like(value) for site, value in left.tensors.items()}
    changed = {site: value.clone() for site, value in zeros.items()}
    changed["layers.0.q"][0, 0, 0] = 1e-30
    still, moved = replace(left, tensors=zeros), replace(left, tensors=changed)

    assert first_departure(compare(still, still), max_relative_l2=0.0) is None
    departure = first_departure(compare(still, moved), max_relative_l2=1e9)
    assert departure is not None
    assert departure.site == "layers.0.q"


def test_other_ids_are_refused() -> None:
    with pytest.raises(DifferentProgramsError) as caught:
        compare(traced(model()), traced(model(), (IDS + 1) % 61))

    assert caught.value.site == "ids"


def test_another_number_of_layers_is_refused() -> None:
    deeper = new_state(replace(tiny.LLAMA, num_layers=3), tiny.TRAIN, "cpu").model

    with pytest.raises(DifferentProgramsError) as caught:
        compare(traced(model()), traced(deeper))

    assert (caught.value.site, caught.value.left, caught.value.right) == (
        "number of taps",
        "35",
        "51",
    )


def test_another_shape_is_refused() -> None:
    wider = new_state(replace(tiny.LLAMA, intermediate_size=64), tiny.TRAIN, "cpu").model

    with pytest.raises(DifferentProgramsError) as caught:
        compare(traced(model()), traced(wider))

    assert (caught.value.site, caught.value.left) == ("layers.0.ffn_gate", "(2, 8, 48)")
    assert caught.value.right == "(2, 8, 64)"


def test_another_type_is_refused() -> None:
    with pytest.raises(DifferentProgramsError) as caught:
        compare(traced(model()), traced(model().to(torch.float64)))

    assert (caught.value.left, caught.value.right) == ("float32", "float64")


def test_another_sample_of_the_same_site_is_refused() -> None:
    left = traced(model())
    right = replace(left, taps=(*left.taps[:-1], replace(left.taps[-1], num_elements=61)))

    with pytest.raises(DifferentProgramsError) as caught:
        compare(left, right)

    assert (caught.value.site, caught.value.left, caught.value.right) == ("logits", "976", "61")


def test_a_trace_without_tensors_is_refused() -> None:
    bare = trace(model(), IDS, keep_tensors=False)

    with pytest.raises(DifferentProgramsError) as caught:
        compare(traced(model()), bare)

    assert caught.value.site == "sites with tensors"
    assert caught.value.right == "set()"
