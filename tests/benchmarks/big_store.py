"""A store with very many artefacts: what listing, collecting, verifying and looking cost.

Half of the artefacts are those of recorded runs, five a run; half are old and belong to no run that
needs them. One run is a real one, so that there is something to verify.

    python -m tests.benchmarks.big_store --artefacts 100000
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from evidence.canonical import digest, dumps, pretty
from evidence.chain import CHAIN, HEAD, Head, Line, read_chain
from evidence.records import RUN_SCHEMA, STAGE_SCHEMA, Recipe, seal, stage_file
from evidence.refs import REF_TYPES
from tasks.run_record import PLAN_SCHEMA
from tests.benchmarks.harness import ROOT, print_header
from tests.benchmarks.servers import working_in
from tests.tasks.tiny import make_finished

STAGES = {"pretokenize": "tokens", "shard": "shards", "train": "training", "evaluate": "evaluation",
          "checkpoint": "checkpoint"}  # fmt: skip
DATA = b"x" * 1000
DATA_SHA256 = hashlib.sha256(DATA).hexdigest()
LONG_AGO_SECONDS = 30 * 86_400
TIME = "2026-01-01T00:00:00.000+00:00"


def artefact(store: Path, kind: str, number: int) -> str:
    """Write an artefact as the store does, but for the syncing; return its ref."""
    document = {
        "kind": kind,
        "content": {"number": number},
        "files": [{"path": "data.bin", "bytes": len(DATA), "sha256": DATA_SHA256}],
    }
    name = digest(document)
    directory = store / kind / name[:2] / name
    directory.mkdir(parents=True)
    (directory / "data.bin").write_bytes(DATA)
    (directory / "index.json").write_bytes(pretty(document))
    then = time.time() - LONG_AGO_SECONDS
    os.utime(directory, (then, then))
    return f"{kind}:{name}"


def enter(store: Path, recipe: Recipe, ref: str, run: str) -> None:
    """Enter a recipe in the table, an old one."""
    path = store / "recipes" / recipe.digest[:2] / f"{recipe.digest}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dumps({"recipe": recipe.as_record(), "ref": ref, "run": run}))
    then = time.time() - LONG_AGO_SECONDS
    os.utime(path, (then, then))


def one_run(store: Path, evidence: Path, number: int, *, is_recorded: bool) -> str:
    """Make the artefacts of a run; record it with its stages, or as one that left nothing."""
    name, inputs = f"run-{number:06d}", {"source": "sha256:00"}
    directory = evidence / name
    directory.mkdir(parents=True)
    refs: dict[str, str] = {}
    for position, (stage, kind) in enumerate(STAGES.items()):
        settings = {"number": number}
        recipe = Recipe(stage=stage, version=1, settings=settings, inputs=inputs)
        refs[stage] = artefact(store, kind, number * 10 + position)
        enter(store, recipe, refs[stage], name)
        inputs = {kind: refs[stage]}
        if is_recorded:
            record = {"schema": STAGE_SCHEMA, "stage": stage, "recipe": recipe.as_record(),
                      "recipe_sha256": recipe.digest, "thresholds": {}, "provenance": {},
                      "started": TIME, "outcome": "produced", "output": refs[stage],
                      "measurements": {}, "gates": [], "wall_seconds": 1.0}  # fmt: skip
            (directory / stage_file(stage)).write_bytes(pretty(seal(record)))
    plan = {"schema": PLAN_SCHEMA, "run": name, "request": {"flow": "pipeline"}, "settings": {},
            "settings_sha256": digest({}), "started": TIME, "process": 1, "chain_head": None,
            "provenance": {}}  # fmt: skip
    (directory / "plan.json").write_bytes(pretty(seal(plan)))
    return json.dumps(refs) if is_recorded else ""


def record_runs(evidence: Path, runs: dict[str, str]) -> None:
    """Write the runs' records, and the lines of the chain that name them, after those there are."""
    chain = read_chain(evidence)
    head, seq = chain.head, len(chain.lines)
    parent = chain.recorded[-1].record_sha256
    with (evidence / CHAIN).open("ab") as file:
        for name, refs in runs.items():
            record = seal({"schema": RUN_SCHEMA, "run": name, "outcome": "completed", "error": None,
                           "started": TIME, "finished": TIME, "settings_sha256": digest({}),
                           "recipes": {}, "refs": json.loads(refs), "gates": [], "provenance": {},
                           "files": {}, "parent": parent})  # fmt: skip
            (evidence / name / "metadata.json").write_bytes(pretty(record))
            seq, parent = seq + 1, str(record["record_sha256"])
            line = Line(seq=seq, event="recorded", run=name, record_sha256=parent, time=TIME,
                        prev=head.sha256 if head else None)  # fmt: skip
            file.write(line.encoded() + b"\n")
            head = line.head
    assert isinstance(head, Head)
    (evidence / HEAD).write_text(f"{head}\n")


def fill(home: Path, num_artefacts: int) -> None:
    """Make the store, its records and their chain."""
    store, evidence = home / "store", home / "evidence"
    num_runs = num_artefacts // len(STAGES)
    recorded = {}
    for number in range(num_runs):
        if refs := one_run(store, evidence, number, is_recorded=number % 2 == 0):
            recorded[f"run-{number:06d}"] = refs
    record_runs(evidence, recorded)


def measure(home: Path, *arguments: str) -> dict[str, Any]:
    """Run a command; return what it took and the end of what it said."""
    code = (
        # Not ru_maxrss, which begins with the parent's.
        "import re, sys, time\nfrom flows.cli import run\nbegin = time.perf_counter()\n"
        "code = run(sys.argv[1:])\nsys.stdout.flush()\n"
        "most = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())\n"
        "seconds = time.perf_counter() - begin\n"
        "sys.stderr.write(f'\\n{code} {seconds} {int(most[1]) / 1000}\\n')"
    )
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "ASSAY_HOME": str(home), "ASSAY_STORE": str(home / "store"),
             "ASSAY_EVIDENCE": str(home / "evidence")},
        check=False,
    )  # fmt: skip
    wall = time.perf_counter() - begin
    exit_code, seconds, megabytes = done.stderr.strip().splitlines()[-1].split()
    facts = {"command": " ".join(arguments), "exit_code": int(exit_code), "wall_seconds": wall,
             "command_seconds": float(seconds), "most_mb": float(megabytes),
             "stdout_mb": len(done.stdout) / 1e6}  # fmt: skip
    if arguments[0] == "gc":
        found = json.loads(done.stdout)
        facts |= {key: found[key] for key in ("num_artefacts", "num_reachable", "num_here",
                                             "num_bytes_here")}  # fmt: skip
    elif exit_code != "0":
        facts["said"] = done.stderr[-500:]
    print(json.dumps(facts), flush=True)
    return facts


def main() -> None:
    """Fill a store, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artefacts", type=int, default=100_000)
    given = parser.parse_args()
    print_header(f"a store of {given.artefacts:,} artefacts", ("pydantic",))
    assert set(STAGES.values()) < set(REF_TYPES)
    with working_in(None) as home:
        real = make_finished(home)
        begin = time.perf_counter()
        fill(home, given.artefacts)
        print(f"filled in {time.perf_counter() - begin:.0f} s, load {os.getloadavg()[0]:.1f}\n")
        measure(home, "runs", "--json")
        measure(home, "verify", real.run.name)
        measure(home, "verify", str(real.refs.checkpoint))
        measure(home, "chain")
        measure(home, "status", real.run.name)
        measure(home, "inspect", str(real.refs.shards))
        measure(home, "gc", "--dry-run", "--json")
        collected = measure(home, "gc", "--json")
        again = measure(home, "gc", "--json")
        measure(home, "verify", real.run.name)
        print(f"load {os.getloadavg()[0]:.1f}")
    is_right = collected["num_reachable"] == again["num_artefacts"] and again["num_here"] == 0
    sys.exit(0 if is_right else 1)


if __name__ == "__main__":
    main()
