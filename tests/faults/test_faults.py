from pathlib import Path

import pytest

from tests.faults.catalogue import ABSENT, FAULTS, PAGE, page
from tests.faults.lab import Fault, Lab, Stopped, try_out
from tests.tasks.isolation import what_is_missing
from tests.tasks.tiny import Finished

RECORDED = set(range(1, 61))


pytestmark = pytest.mark.usefixtures("own_threads")


def found_of(fault: Fault, finished: Finished, directory: Path, *, planted: bool) -> Stopped:
    if fault.needs_isolation and what_is_missing():
        pytest.skip(what_is_missing())
    with pytest.MonkeyPatch.context() as patch:
        return try_out(fault, Lab(finished, patch, directory, planted=planted))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.number)
def test_a_failure_is_stopped_where_the_page_says(
    fault: Fault, finished: Finished, tmp_path: Path
) -> None:
    assert found_of(fault, finished, tmp_path, planted=True) == fault.stopped


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.number)
def test_the_same_without_the_failure_is_not_stopped(
    fault: Fault, finished: Finished, tmp_path: Path
) -> None:
    found = found_of(fault, finished, tmp_path, planted=False)
    assert found == Stopped("nothing", "never")


def test_every_failure_is_replayed_or_cannot_happen() -> None:
    numbers = {int(fault.number[1:3]) for fault in FAULTS}
    absent = {int(each.number[1:]) for each in ABSENT}
    assert numbers | absent == RECORDED
    assert numbers & absent == set()


def test_the_page_says_what_the_tests_hold() -> None:
    assert PAGE.read_text() == page()
