"""The proof in small: eighteen planted faults, a healthy spike, and what must be refused."""

from functools import cache

import pytest
import torch

from model.bisection import FAULT, NO_FAULT, UNSEEN, Bisection, bisect
from model.bisection_text import bisection_text
from model.errors import DifferentProgramsError
from model.k_quants import BlockKind, decode, encode
from model.llama import Llama
from model.torch_side import llama_side
from model.transformers_side import transformers_side
from tests.benchmarks.bisect_faults import (
    FAULTS,
    NUM_TOKENS,
    Planted,
    faulty,
    judge,
    program,
    random_model,
    right,
    trained_model,
    with_spike,
)
from tests.benchmarks.bisect_trained import has_expected_spike_alone, is_refused, traps
from tests.model.oracle import theirs

# A first token that does not come again, as at the beginning of a text.
IDS = torch.cat((torch.zeros(1, dtype=torch.long), program()[: NUM_TOKENS - 1]))[None]
HEALTHY = Planted("none", (), lambda _: None)
BY_NAME = {fault.name: fault for fault in FAULTS}


@cache
def healthy() -> Llama:
    return random_model(0)


def against_transformers(candidate: Llama, reference: Llama | None = None) -> Bisection:
    other = transformers_side("transformers", theirs(reference or healthy()))
    return bisect(other, llama_side("ours", candidate), IDS)


def named(found: Bisection) -> list[str]:
    return [fault.error.site for fault in found.faults]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_exactly_the_planted_sites_are_named_and_proved(fault: Planted) -> None:
    outcome = judge(healthy(), fault, IDS)

    found = right(fault, outcome)
    assert outcome.found.verdict == FAULT
    assert found["first site"]
    assert found["exact set"]
    assert found["recovered"]
    assert found["controlled"]


def test_two_implementations_of_one_model_have_no_fault() -> None:
    found = against_transformers(faulty(healthy(), HEALTHY))

    assert (found.verdict, found.faults, found.tensors) == (NO_FAULT, [], [])
    assert len(found.local) == 6 * 16 + 3


def test_a_fault_is_told_in_one_sentence_with_its_cause() -> None:
    fault = BY_NAME["gate and up swapped, layer 3"]
    lines = bisection_text(against_transformers(faulty(healthy(), fault))).splitlines()

    assert lines[0] == "fault: ours against transformers, 32 tokens, 99 sites"
    line = next(line for line in lines if line.startswith("layer 3 ffn_gate: local rel-L2 1."))
    assert " tokens 32/32; patching all named: KL " in line
    assert "; massive activation: no; " in line
    assert line.endswith(
        "model.layers.3.mlp.gate_proj.weight: equals model.layers.3.mlp.up_proj.weight"
    )


def test_a_site_hidden_by_what_reads_it_is_tried_alone() -> None:
    found = against_transformers(faulty(healthy(), BY_NAME["layers 2 and 3 swapped"]))

    assert found.proof is not None
    ends = ("attn_out", "ffn_out")
    assert set(found.proof.alone) == {site for site in named(found) if not site.endswith(ends)}
    assert len(found.proof.alone) == 14
    assert all(found.proof.is_necessary(site) for site in named(found))


def test_a_massive_activation_of_a_healthy_model_is_expected_and_no_fault() -> None:
    spiked = with_spike(healthy(), IDS)
    found = against_transformers(spiked, spiked)

    assert found.verdict == NO_FAULT
    (one, is_expected), *_ = found.massive
    assert (one.site, one.layer, one.row, one.position, one.channel) == (
        "layers.3.ffn_swigl", 3, 0, 0, 17,
    )  # fmt: skip
    assert is_expected
    assert one.energy_share > 0.9
    assert "expected massive activation at layer 3 ffn_swigl, token 0, channel 17" in (
        bisection_text(found)
    )


def test_a_fault_beside_a_massive_activation_is_found_all_the_same() -> None:
    spiked = with_spike(healthy(), IDS)
    candidate = faulty(spiked, HEALTHY)
    with torch.no_grad():
        candidate.get_parameter("model.layers.3.mlp.down_proj.weight")[:, 5] *= 1.5

    found = against_transformers(candidate, spiked)

    assert named(found) == ["layers.3.ffn_out"]


@torch.no_grad()
def stored_as_q8_0(model: Llama) -> Llama:
    copy = faulty(model, HEALTHY)
    for parameter in copy.parameters():
        if parameter.ndim == 2:
            blocks = encode(BlockKind.Q8_0, parameter)
            parameter.copy_(decode(BlockKind.Q8_0, blocks, tuple(parameter.shape)))
    return copy


def test_a_quantised_model_is_held_to_its_own_dequantised_weights() -> None:
    found = against_transformers(stored_as_q8_0(healthy()))

    assert found.verdict == NO_FAULT
    assert {each.rounded_to for each in found.tensors} == {"Q8_0"}
    assert len(found.lent) == 6 * 7 + 2


@pytest.mark.parametrize(
    "name", ["k rows interleaved, layer 2", "ffn_norm x 1.001, layer 2", "up in four bits, layer 3"]
)
def test_a_fault_below_the_quantisers_error_is_found_in_a_quantised_model(name: str) -> None:
    candidate = stored_as_q8_0(faulty(healthy(), BY_NAME[name]))

    assert named(against_transformers(candidate)) == list(BY_NAME[name].sites)


def test_the_reference_has_its_own_weights_back_afterwards() -> None:
    reference = llama_side("reference", faulty(healthy(), HEALTHY))
    before = {name: value.clone() for name, value in reference.weights().items()}

    bisect(reference, llama_side("candidate", stored_as_q8_0(healthy())), IDS)

    assert all(torch.equal(before[name], value) for name, value in reference.weights().items())


def test_half_precision_has_a_floor_of_its_own() -> None:
    sound = faulty(healthy(), HEALTHY).to(torch.bfloat16)
    broken = faulty(healthy(), BY_NAME["o_proj transposed, layer 2"]).to(torch.bfloat16)

    assert against_transformers(sound).verdict == NO_FAULT
    found = against_transformers(broken)
    assert named(found) == ["layers.2.attn_out"]
    assert found.floors["attn_out"] > 1e-3


def test_a_wrong_row_that_no_token_reads_is_reported_and_no_fault() -> None:
    candidate = faulty(healthy(), HEALTHY)
    unread = next(token for token in range(256) if token not in IDS)
    with torch.no_grad():
        candidate.get_parameter("model.embed_tokens.weight")[unread] = 0.0

    found = against_transformers(candidate)

    assert (found.verdict, found.faults) == (UNSEEN, [])
    assert found.tensors[0].explanation == "row " + str(unread) + " is zero"


CANDIDATES = dict(traps(random_model(0)))
WHAT = {
    "one row in the last layer": "layers.5.ffn_swigl (shape)",
    "captured before the bias": "layers.2.q (capture)",
    "captured after the rotation": "layers.2.k (capture)",
    "heads in another order": "layers.0.q_rope (layout)",
    "only the last token declared": "final_norm (tokens)",
}


@pytest.mark.parametrize("name", WHAT)
def test_sites_that_are_not_the_same_are_not_comparable(name: str) -> None:
    with pytest.raises(DifferentProgramsError) as caught:
        bisect(llama_side("reference", healthy()), CANDIDATES[name], IDS)

    assert caught.value.site == WHAT[name]


@cache
def trained() -> Llama:
    return trained_model(0, num_steps=40)


@pytest.mark.parametrize(
    "name",
    [
        "gate and up swapped, layer 3",
        "ffn_norm x 1.001, layer 2",
        "one exponent bit of v, layer 4",
        "two faults, layers 1 and 4",
    ],
)
def test_exactly_the_planted_sites_of_a_trained_model_are_named_and_proved(name: str) -> None:
    found = right(BY_NAME[name], judge(trained(), BY_NAME[name], IDS))

    ours = ("first site", "exact set", "recovered", "controlled")
    assert all(found[rule] for rule in ours)
    assert not found["neighbour std > 10x"]


def test_the_spike_and_the_traps_of_a_trained_model_are_no_faults() -> None:
    assert has_expected_spike_alone(trained(), IDS)
    assert all(is_refused(trained(), side, IDS) for _, side in traps(trained()))
