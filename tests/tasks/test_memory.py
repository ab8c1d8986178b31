"""Memory that runs out: a sentence with what would fit, not a traceback."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flows.exit_codes import exit_code
from model.fast_llama import FastLlama
from tasks.train_errors import MemoryFullError
from tasks.train_worker import work
from tests.tasks.test_train_worker import job_of
from tests.tasks.tiny import Finished


@pytest.mark.parametrize("first_step", [1, 3])
def test_a_step_that_needs_too_much_memory_says_what_would_fit(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_step: int
) -> None:
    steps: list[int] = []

    def allocate_more_than_there_is(passes: FastLlama, ids_BS: Tensor, *given: Any) -> Tensor:
        # The check before the first step takes rows one by one.
        steps.extend([1] if len(ids_BS) == 8 else [])
        if len(steps) >= first_step and len(ids_BS) == 8:
            torch.empty(2**60, dtype=torch.uint8)
        return forward(passes, ids_BS, *given)

    forward = FastLlama.forward
    monkeypatch.setattr(FastLlama, "forward", allocate_more_than_there_is)
    with pytest.raises(MemoryFullError) as caught:
        work(job_of(finished, tmp_path))
    error: Any = caught.value
    assert (error.device, error.step) == ("cpu", first_step - 1)
    assert (error.setting, error.found) == ("train.micro_batch_rows", 8)
    # Each row keeps its hidden states, 32 positions, several times in each layer.
    llama = finished.settings.model
    assert 8 * 32 * llama.hidden_size * llama.num_layers * 4 < error.row_bytes < 2_000_000
    assert error.fits == error.free_bytes // error.row_bytes > 8
    assert error.hint.startswith("lower train.micro_batch_rows")
    assert exit_code(error) == 9


def test_where_not_one_row_fits_the_hint_says_so() -> None:
    error = MemoryFullError(
        device="cuda:0",
        step=0,
        setting="train.micro_batch_rows",
        found=1,
        fits=0,
        row_bytes=10,
        free_bytes=5,
    )
    assert error.hint.startswith("not one row fits: use a smaller model")
