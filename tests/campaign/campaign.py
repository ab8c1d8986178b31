"""Try one fault, of whatever kind."""

from tests.campaign import damage, operations, places_lost, services, together
from tests.campaign.aftermath import Finding
from tests.campaign.bench import Bench
from tests.campaign.catalogue import KINDS, PLACES, Counts
from tests.campaign.fault import (
    Bucket,
    Disk,
    Fault,
    Flip,
    Helper,
    Moment,
    Operation,
    Rank,
    Service,
    Twin,
)
from tests.campaign.inject import Injection

NEVER = 10**9


def try_out(bench: Bench, fault: Fault, shared: services.Servers | None) -> Finding:
    """Do it, and say what came of it; a campaign goes on after whatever breaks in it."""
    try:
        return _tried(bench, fault, shared)
    except Exception as error:  # noqa: BLE001  # it is a finding
        return Finding(
            happened=True,
            went_on=False,
            code=0,
            lost_bytes=0,
            complaints=(f"{type(error).__name__}: {error}",),
        )
    finally:
        bench.clear()


def _tried(bench: Bench, fault: Fault, shared: services.Servers | None) -> Finding:
    match fault:
        case Operation():
            return operations.operation(bench, fault)
        case Moment():
            return operations.moment(bench, fault)
        case Flip():
            return damage.flip(bench, fault)
        case Disk():
            return places_lost.disk(bench, fault)
        case Bucket():
            return places_lost.bucket(bench, fault)
        case Twin():
            return together.twin(bench, fault)
        case Rank():
            return together.rank(bench, fault)
        case Service():
            assert shared is not None
            return services.service(bench, fault, shared)
        case Helper():
            assert shared is not None
            return services.helper(bench, fault, shared)


def count_operations(bench: Bench) -> Counts:
    """Count the operations of every stage, by kind, in an undisturbed run of it."""
    counts = {}
    for stage, in_worker in PLACES:
        counting = Injection(operation="write", at=NEVER, deed="count", in_worker=in_worker)
        ended = bench.run(bench.home(stage), until=stage, injection=counting)
        assert ended.code == 0, ended.said
        counts.update({(stage, in_worker, kind): ended.counts[kind] for kind in KINDS})
        bench.clear()
    return counts
