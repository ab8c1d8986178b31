from pathlib import Path

import pytest

from tests.faults.catalogue import FAULTS, PAGE, page
from tests.faults.lab import Fault, Lab, try_out
from tests.tasks.tiny import Finished

REPLAYED = {*range(1, 23), *range(35, 48)}


pytestmark = pytest.mark.usefixtures("own_threads")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.number)
def test_a_failure_is_stopped_where_the_page_says(
    fault: Fault, finished: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        found = try_out(fault, Lab(finished, patch, tmp_path))

    assert found == fault.stopped


def test_without_a_fault_nothing_stops(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lab = Lab(finished, monkeypatch, tmp_path)
    lab.train()
    lab.judge()


def test_every_failure_is_replayed() -> None:
    assert {int(fault.number[1:3]) for fault in FAULTS} == REPLAYED


def test_the_page_says_what_the_tests_hold() -> None:
    assert PAGE.read_text() == page()
