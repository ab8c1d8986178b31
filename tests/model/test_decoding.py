import pytest
import torch

from model.decoding import CachedLlama
from model.llama import LlamaSettings
from tests.model import tiny
from tests.model.oracle import ARCHITECTURES, ours, relative

TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 4e-2}
"""Relative L2 distances; in bfloat16 the distance to float64 is as large, for either path."""
IDS_BT = torch.from_numpy(tiny.rows(1)[0])[:, : tiny.CONTEXT]
NUM_READ_B = torch.tensor([5, 0, 8])


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("settings", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_rows_at_different_positions_score_what_a_forward_pass_scores(
    settings: LlamaSettings, dtype: torch.dtype
) -> None:
    model, rows_B, positions_B = ours(settings, dtype), torch.arange(3), NUM_READ_B
    with torch.no_grad():
        expected_BTV = model(IDS_BT)
    cached = CachedLlama(model, num_rows=3, num_positions=tiny.CONTEXT)

    cached.read(torch.tensor([2, 0]), IDS_BT[[2, 0], :8])
    for _ in range(8):
        found_BV = cached.step(IDS_BT[rows_B, positions_B], positions_B, int(positions_B.max()) + 1)
        assert relative(found_BV, expected_BTV[rows_B, positions_B]) < TOLERANCES[dtype]
        positions_B = positions_B + 1


def test_a_row_that_is_read_anew_forgets_what_it_held() -> None:
    model = ours(tiny.LLAMA)
    cached = CachedLlama(model, num_rows=1, num_positions=tiny.CONTEXT)
    for ids_T in (IDS_BT[0], IDS_BT[1]):
        cached.read(torch.tensor([0]), ids_T[None, :4])

    found_BV = cached.step(IDS_BT[1, 4:5], torch.tensor([4]), 5)

    assert relative(found_BV[0], model(IDS_BT[1:2, :5])[0, -1]) < 2e-6


def test_positions_beyond_those_seen_change_nothing() -> None:
    model = ours(tiny.LLAMA)
    found = []
    for num_seen in (4, tiny.CONTEXT):
        cached = CachedLlama(model, num_rows=1, num_positions=tiny.CONTEXT)
        cached.read(torch.tensor([0]), IDS_BT[:1, :3])
        found.append(cached.step(IDS_BT[0, 3:4], torch.tensor([3]), num_seen))

    assert relative(found[0], found[1]) < 1e-6
