"""Runs pretokenize and shard as stages do, inside of Prefect and outside of it."""

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evidence.refs import ShardsRef, TokensRef
from flows.settings import PipelineSettings
from tasks.pretokenize import pretokenize_task
from tasks.runtime import RuntimeSettings
from tasks.shard import shard_task
from tasks.unit_cache import UNIT
from tests.tasks.stack_corpus import stack_settings
from tests.tasks.tiny import begin, pretokenized, sharded


@dataclass(frozen=True)
class Refs:
    tokens: TokensRef
    shards: ShardsRef


def inline(settings: PipelineSettings) -> Refs:
    """Make both in this process."""
    run = begin(settings, "inline")
    tokens = pretokenized(run, settings)
    return Refs(tokens, sharded(run, tokens, settings))


def in_prefect(settings: PipelineSettings, runtime: RuntimeSettings) -> Refs:
    """Make both as tasks of a Prefect run, units where the runtime says."""
    import prefect

    ours = replace(settings, runtime=runtime)

    @prefect.flow(name="both stages", persist_result=False)
    def both() -> Refs:
        run = begin(ours, "in-prefect")
        first = (run, ours.source, ours.filters, ours.tokenizer, ours.pretokenize)
        tokens = pretokenize_task(*first, ours.thresholds, runtime)
        bounds = ours.pretokenize.bounds
        shards = shard_task(run, tokens, ours.shard, bounds, ours.thresholds, runtime)
        return Refs(tokens, shards)

    return both()


def units_of(home: Path) -> dict[str, bytes]:
    """Return the record of every unit in a store, which names the digests of all its files."""
    found = (home / "store" / "units").glob(f"*/*/{UNIT}")
    return {path.parent.name: path.read_bytes() for path in found}


def kinds_of(home: Path) -> Counter[str]:
    """Count the units in a store by what they are."""
    return Counter(_kind(record) for record in units_of(home).values())


def made_at(home: Path) -> dict[str, int]:
    """Return when every unit was made: it says whether one was made again."""
    found = (home / "store" / "units").glob(f"*/*/{UNIT}")
    return {path.parent.name: path.stat().st_mtime_ns for path in found}


def copy_units(source: Path, home: Path, kinds: Sequence[str]) -> None:
    """Give a store units of another one."""
    for key, record in units_of(source).items():
        if _kind(record) in kinds:
            name = Path("store", "units", key[:2], key)
            shutil.copytree(source / name, home / name, copy_function=os.link)


def _kind(record: bytes) -> str:
    return str(json.loads(record)["recipe"]["kind"])


def main(index: str, changes: Sequence[str]) -> None:
    """Do it in a process of its own, where the environment says."""
    inline(stack_settings(index, changes))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
