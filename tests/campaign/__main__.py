"""`python -m tests.campaign`: the whole campaign, or as much of it as the time allows."""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

from tasks.provenance import provenance
from tests.campaign.aftermath import Finding
from tests.campaign.bench import Bench, lane
from tests.campaign.campaign import count_operations, try_out
from tests.campaign.catalogue import (
    Counts,
    disks,
    every_operation,
    flips,
    moments,
    others,
    served,
)
from tests.campaign.fault import Fault, Helper, Service
from tests.campaign.places_lost import can_mount
from tests.campaign.services import Servers, servers


def main() -> int:
    """Try faults until all are tried or time is up; print and write the figures."""
    options = _options()
    begin = time.monotonic()
    deadline = begin + options.minutes * 60
    choose = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="assay-campaign-") as text, ExitStack() as stack:
        root = Path(text)
        places = [root / str(number) for number in range(options.lanes)]
        benches = [Bench(place, stack.enter_context(lane())) for place in places]
        for each in benches:
            each.root.mkdir()
        benches[0].prepare()
        counts: Counts = {}
        # What there is little of comes first, so that time cannot run out before it.
        planned, shared = list[Fault](), None
        if options.servers != "none":
            shared = stack.enter_context(servers(root / "servers"))
            planned += served()
        if options.servers != "only":
            counts = count_operations(benches[0])
            planned += [*others(), *_many(benches[0].whole, counts, choose)]
        if options.only:
            planned = [each for each in planned if type(each).__name__.lower() in options.only]
        tried = _in_lanes(benches, iter(planned), deadline, shared)
    figures = _figures(tried, len(planned), time.monotonic() - begin, options.seed)
    figures["operations"] = {
        f"{stage} {'worker' if in_worker else 'stage'} {kind}": number
        for (stage, in_worker, kind), number in sorted(counts.items())
    }
    options.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(_sentence(figures))
    return int(figures["survived"] != figures["tried"])


def _many(whole: Path, counts: Counts, choose: random.Random) -> list[Fault]:
    """List what there is much of, in an order of which every beginning is a sample."""
    many: list[Fault] = [*every_operation(counts), *flips(whole, choose), *moments(choose, 6)]
    many += disks() if can_mount() else ()
    choose.shuffle(many)
    return many


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="when to stop")
    parser.add_argument("--seed", type=int, default=1, help="which moments, and in which order")
    parser.add_argument("--lanes", type=int, default=2, help="runs at a time")
    parser.add_argument("--out", type=Path, default=Path("faults-long.json"))
    kinds = [kind.__name__.lower() for kind in get_args(Fault)]
    parser.add_argument("--only", nargs="+", choices=kinds, help="faults of these kinds alone")
    parser.add_argument(
        "--servers",
        choices=("all", "only", "none"),
        default="all",
        help="with the faults that need Prefect and MLflow, those alone, or without them",
    )
    return parser.parse_args()


Tried = list[tuple[Fault, Finding]]


def _in_lanes(
    benches: Sequence[Bench], queue: Iterator[Fault], deadline: float, shared: Servers | None
) -> Tried:
    """Try faults one after another in every lane; those that need servers one at a time."""
    tried, lock, alone = Tried(), threading.Lock(), threading.Lock()

    def work(bench: Bench) -> None:
        while time.monotonic() < deadline:
            with lock:
                fault = next(queue, None)
            if fault is None:
                return
            if isinstance(fault, Service | Helper):
                with alone:
                    finding = try_out(bench, fault, shared)
            else:
                finding = try_out(bench, fault, shared)
            with lock:
                tried.append((fault, finding))
                _say(fault, finding)

    threads = [threading.Thread(target=work, args=(bench,)) for bench in benches]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return tried


def _say(fault: Fault, finding: Finding) -> None:
    verdict = "survived" if finding.survived else f"FAILED {list(finding.complaints)}"
    how = "went on" if finding.went_on else f"stopped with {finding.code}, then went on"
    print(f"{fault.number:6} {fault}: {how}; {verdict}", flush=True)


def _figures(tried: Tried, planned: int, seconds: float, seed: int) -> dict[str, Any]:
    happened = [(fault, finding) for fault, finding in tried if finding.happened]
    return {
        "seed": seed,
        "planned": planned,
        "tried": len(happened),
        "survived": sum(finding.survived for _, finding in happened),
        "went_on_by_themselves": sum(finding.went_on for _, finding in happened),
        "lost_bytes": sum(finding.lost_bytes for _, finding in happened),
        "checks_of_verify": sum(finding.num_checks for _, finding in happened),
        "seconds": round(seconds, 1),
        "exit_codes": _sorted(str(finding.code) for _, finding in happened),
        "by_kind": _by_kind(happened),
        "failures": {
            str(fault): [*finding.complaints, f"lost bytes: {finding.lost_bytes}"]
            for fault, finding in happened
            if not finding.survived
        },
        "provenance": provenance(),
    }


def _by_kind(happened: Tried) -> dict[str, dict[str, int]]:
    kinds = sorted({_kind(fault) for fault, _ in happened})
    return {
        kind: {
            "tried": sum(_kind(fault) == kind for fault, _ in happened),
            "survived": sum(_kind(fault) == kind and found.survived for fault, found in happened),
        }
        for kind in kinds
    }


def _kind(fault: Fault) -> str:
    return f"{fault.number} {type(fault).__name__.lower()}"


def _sorted(words: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(words).items()))


def _sentence(figures: dict[str, Any]) -> str:
    return (
        f"{figures['tried']} faults tried of {figures['planned']}, {figures['survived']} survived, "
        f"{figures['lost_bytes']} bytes lost, {figures['seconds'] / 60:.1f} minutes"
    )


if __name__ == "__main__":
    sys.exit(main())
