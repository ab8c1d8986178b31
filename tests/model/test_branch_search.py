"""Branches that depart are found from logits alone, by halves."""

from collections.abc import Collection
from functools import cache

import pytest
import torch

from model.bisection import FAULT, NO_FAULT, UNSEEN
from model.branch_search import (
    ATTENTION,
    ENDS,
    FEED_FORWARD,
    IN_ENGINE,
    IN_WEIGHTS,
    PARTS,
    Branch,
    BranchSearch,
    by_halves,
    search_branches,
)
from model.branch_text import branch_text
from model.errors import DifferentProgramsError
from model.llama import Llama
from model.logits_sides import TorchLogits
from model.torch_side import llama_side
from model.transformers_side import transformers_side
from tests.benchmarks.bisect_faults import (
    FAULTS,
    NUM_TOKENS,
    Planted,
    faulty,
    program,
    random_model,
    stored_as,
)
from tests.model import tiny
from tests.model.oracle import ours, theirs

IDS = program()[:NUM_TOKENS][None]
HEALTHY = Planted("none", (), lambda _: None)
BY_NAME = {fault.name: fault for fault in FAULTS}
EVERY = [Branch(layer, part) for layer in range(24) for part in PARTS]


@cache
def healthy() -> Llama:
    return random_model(0)


def searched(candidate: Llama) -> BranchSearch:
    reference = transformers_side("transformers", theirs(healthy()))
    return search_branches(reference, TorchLogits(llama_side("ours", candidate)), IDS)


@pytest.mark.parametrize(
    ("name", "places", "cause"),
    [
        ("gate and up swapped, layer 3", ["layer 3 feed-forward"], IN_WEIGHTS),
        ("k rows interleaved, layer 2", ["layer 2 attention"], IN_WEIGHTS),
        ("one exponent bit of v, layer 4", ["layer 4 attention"], IN_WEIGHTS),
        ("a weight is NaN, layer 3", ["layer 3 feed-forward"], IN_WEIGHTS),
        ("two faults, layers 1 and 4", ["layer 1 feed-forward", "layer 4 attention"], IN_WEIGHTS),
        ("rope theta 1e4 -> 5e5", [f"layer {n} attention" for n in range(6)], IN_ENGINE),
        ("embedding off by one row", [ENDS], IN_WEIGHTS),
        ("head tied to the embedding", [ENDS], IN_WEIGHTS),
        ("rms eps 1e-5 -> 1e-3", [ENDS], IN_ENGINE),
    ],
)
def test_exactly_the_branches_of_a_fault_are_named(
    name: str, places: list[str], cause: str
) -> None:
    found = searched(faulty(healthy(), BY_NAME[name]))

    assert found.verdict == FAULT
    assert [fault.place for fault in found.faults] == places
    assert {fault.cause for fault in found.faults} == {cause}
    if places != [ENDS]:
        assert found.without is not None
        assert found.control is not None
        assert (found.without.departs, found.control.departs) == (False, True)


def test_a_fault_of_a_branch_is_found_behind_one_of_the_ends() -> None:
    candidate = faulty(faulty(healthy(), BY_NAME["o_proj transposed, layer 2"]), HEALTHY)
    with torch.no_grad():
        candidate.model.norm.weight.mul_(1.5)

    found = searched(candidate)

    assert [fault.place for fault in found.faults] == [ENDS, "layer 2 attention"]
    assert found.verdict == FAULT


def test_two_implementations_of_one_model_take_one_run() -> None:
    found = searched(faulty(healthy(), HEALTHY))

    assert (found.verdict, found.faults, found.num_runs) == (NO_FAULT, [], 1)


def test_what_no_token_reads_is_no_fault() -> None:
    candidate = faulty(healthy(), HEALTHY)
    unread = next(token for token in range(256) if token not in IDS)
    with torch.no_grad():
        candidate.model.embed_tokens.weight[unread] = 0.0

    assert searched(candidate).verdict == UNSEEN


def test_a_model_stored_in_fewer_bits_is_held_to_its_own_weights() -> None:
    sound = searched(stored_as(faulty(healthy(), HEALTHY), "Q8_0"))
    broken = searched(stored_as(faulty(healthy(), BY_NAME["norms swapped, layer 3"]), "Q8_0"))

    assert (sound.verdict, len(sound.lent)) == (NO_FAULT, 44)
    assert [fault.place for fault in broken.faults] == ["layer 3 attention", "layer 3 feed-forward"]


def test_both_sides_have_their_weights_back_afterwards() -> None:
    candidate = faulty(healthy(), BY_NAME["embedding off by one row"])
    sides = [llama_side("reference", faulty(healthy(), HEALTHY)), llama_side("ours", candidate)]
    before = [{key: value.clone() for key, value in side.weights().items()} for side in sides]

    search_branches(sides[0], TorchLogits(sides[1]), IDS)

    for kept, side in zip(before, sides, strict=True):
        assert all(torch.equal(kept[key], value) for key, value in side.weights().items())


def test_the_report_says_what_logits_cannot_tell() -> None:
    lines = branch_text(searched(faulty(healthy(), BY_NAME["gate and up swapped, layer 3"])))

    first, *_, third, second, last = lines.splitlines()
    assert first.startswith("fault: ours against transformers, logits alone, 32 tokens, ")
    assert "\nlayer 3 feed-forward: speaking alone, logits rel-L2 " in lines
    assert "; its weights explain it; model.layers.3.mlp.gate_proj.weight: equals " in lines
    assert third.startswith("with the named branches silent, the rest agrees (")
    assert second.startswith("with as many others silent, the model departs all the same (")
    assert last == "which operation within them is wrong, logits do not tell"


def test_another_shape_is_not_comparable() -> None:
    with pytest.raises(DifferentProgramsError):
        searched(ours(tiny.LLAMA))


@pytest.mark.parametrize(
    "faults",
    [
        [Branch(11, FEED_FORWARD)],
        [Branch(0, ATTENTION)],
        [Branch(23, FEED_FORWARD)],
        [Branch(3, ATTENTION), Branch(17, FEED_FORWARD)],
        EVERY,
    ],
    ids=["inside", "first", "last", "two", "all"],
)
def test_halves_find_all_in_few_trials(faults: list[Branch]) -> None:
    trials = []

    def departs(speaking: Collection[Branch]) -> bool:
        trials.append(speaking)
        return not set(faults).isdisjoint(speaking)

    assert by_halves(EVERY, departs) == faults
    assert len(trials) <= min(2 * 6 * len(faults), 2 * len(EVERY))
