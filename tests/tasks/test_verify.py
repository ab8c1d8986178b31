from tasks.verify import verify_run
from tests.tasks.tiny import Finished


def test_a_clean_run_has_no_failures(reading: Finished) -> None:
    report = verify_run(reading.run)
    assert report.failures == []
    assert report.num_checks > 100
