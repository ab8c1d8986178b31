"""Fetch: the contents that a source only lists, in units that are kept whoever asks for them.

It is part of pretokenizing, and a step of its own for a machine near the bucket: pretokenizing then
finds the units in the store.
"""

from collections import Counter
from typing import Any

import prefect
from prefect.cache_policies import NO_CACHE

from data.fetch import read_account
from data.source import SourceSettings, open_source
from tasks.progress import progress_bars
from tasks.runtime import RuntimeSettings
from tasks.units import make_units


@prefect.task(
    name="fetch", task_run_name="fetch {source.kind}", cache_policy=NO_CACHE, persist_result=False
)
def fetch_task(source: SourceSettings, runtime: RuntimeSettings) -> dict[str, Any]:
    """Fetch what is not there yet; return an account of all of it.

    Units: `bytes` are those of the contents.
    """
    opened = open_source(source, fetching=runtime.fetching)
    units = [fetched for unit in opened.units for fetched in opened.inputs(unit)]
    with progress_bars() as on_progress:
        accounts = [read_account(each) for each in make_units(runtime, on_progress)("fetch", units)]
    missing = sum((account.missing for account in accounts), Counter[str]())
    return {
        "units": len(units),
        "files": sum(account.num_rows for account in accounts),
        "bytes": sum(account.num_bytes for account in accounts),
        "missing": missing.total(),
        "missing_by_reason": dict(sorted(missing.items())),
    }
