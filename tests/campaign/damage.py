"""A bit that is another, in every kind of file: named by `assay verify`, and mended or refused."""

from pathlib import Path

from tests.campaign.aftermath import Finding
from tests.campaign.bench import Bench
from tests.campaign.fault import DAMAGED, MALFORMED, Flip
from tests.campaign.result import result

UNITS = "store/units/"
RECIPES = "store/recipes/"


def flip(bench: Bench, fault: Flip) -> Finding:
    """Flip a bit, verify, and run the pipeline on what is there."""
    home = bench.copy()
    path = home / fault.path
    before = path.read_bytes()
    raw = bytearray(before)
    where = min(int(len(raw) * fault.share), len(raw) - 1)
    raw[where] ^= 1
    # A linked name is the same file, and damaged as well.
    with path.open("r+b") as file:
        file.seek(where)
        file.write(raw[where : where + 1])
    complaints, code = list[str](), 0
    if not fault.path.startswith((UNITS, RECIPES)):
        _, failures = bench.verify(home)
        if not any(path.name in failure for failure in failures):
            complaints.append(f"verify does not name {path.name}: {failures[:2]}")
    if fault.again:
        code, found = _run_on(bench, home, path)
        complaints += found
    return Finding(
        happened=True,
        went_on=code == 0,
        code=code,
        lost_bytes=0,
        complaints=tuple(complaints),
    )


def _run_on(bench: Bench, home: Path, path: Path) -> tuple[int, list[str]]:
    """Run on damaged files: refused by name, or made again as they were."""
    ended = bench.run(home)
    if ended.code == 0:
        same = result(home) == bench.expected("bisect")
        return 0, [] if same else ["the result is another, and nothing was said"]
    complaints = []
    if ended.code not in (DAMAGED, MALFORMED):
        complaints.append(f"ended with {ended.code}: {ended.said[-300:]}")
    if path.parent.name not in ended.said and path.name not in ended.said:
        complaints.append(f"{path.name} is not named: {ended.said[-300:]}")
    if "Traceback" in ended.said:
        complaints.append(f"a traceback: {ended.said[-300:]}")
    return ended.code, complaints


def damageable(home: Path) -> list[str]:
    """List the files of a finished run that a flipped bit may be in."""
    roots = ("store", "evidence")
    files = sorted(path for root in roots for path in (home / root).rglob("*") if path.is_file())
    names = [str(path.relative_to(home)) for path in files if path.stat().st_size]
    return [name for name in names if "/tmp/" not in name and not name.endswith(".lock")]
