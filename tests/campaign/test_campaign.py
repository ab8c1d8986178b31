"""The short form of the campaign: one fault of every kind that needs no server."""

from collections.abc import Iterator

import pytest

from tests.campaign.acknowledged import acknowledged, lost_bytes
from tests.campaign.bench import Bench, lane
from tests.campaign.campaign import try_out
from tests.campaign.catalogue import every_operation, short
from tests.campaign.damage import damageable
from tests.campaign.fault import Disk, Fault, Flip
from tests.campaign.places_lost import can_mount

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with lane() as own:
        root = tmp_path_factory.mktemp("campaign") / "bench"
        root.mkdir()
        bench = Bench(root, own)
        bench.prepare()
        yield bench


@pytest.mark.parametrize("fault", short(), ids=str)
def test_a_run_survives(bench: Bench, fault: Fault) -> None:
    if isinstance(fault, Disk) and not can_mount():
        pytest.skip("mounting a disk of its own takes root")
    finding = try_out(bench, fault, None)
    assert finding.complaints == ()
    assert finding.happened
    assert finding.lost_bytes == 0


@pytest.mark.parametrize("kind", ["tokens/", "training/", "evidence/campaign", "units/"])
def test_a_flipped_bit_is_named(bench: Bench, kind: str) -> None:
    path = next(name for name in damageable(bench.whole) if kind in name)
    finding = try_out(bench, Flip(number="R5", path=path, share=0.5, again="units" in kind), None)
    assert finding.complaints == ()


def test_what_was_acknowledged_and_is_gone_is_counted(bench: Bench) -> None:
    home = bench.copy()
    before = acknowledged(home)
    assert lost_bytes(before, home, None) == 0
    chain = home / "evidence" / "CHAIN.jsonl"
    (index,) = (home / "store" / "shards").glob("*/*/index.json")
    lost = len(chain.read_bytes().rstrip(b"\n")) + index.stat().st_size
    chain.write_bytes(b"")
    index.write_bytes(index.read_bytes()[:-1])
    assert lost_bytes(before, home, None) == lost


def test_every_operation_fails_once_and_is_the_last_once() -> None:
    faults = list(every_operation({("shard", False, "rename"): 3}))
    assert [(each.injection.at, each.injection.deed) for each in faults] == [
        (1, "ENOSPC"),
        (1, "kill"),
        (2, "EIO"),
        (2, "torn"),
        (3, "ENOSPC"),
        (3, "kill"),
    ]
